"""An empty database that is made and deleted while something else is done: never left, and made once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import psycopg
import pytest

from tenantry.errors import Unavailable
from tenantry.fleet.migrations.throwaway import EmptyDatabase


class Made:
    """What was done, in order."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.done: list[str] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.failing: list[Exception] = []
        """Of the deletions to come."""

    @contextmanager
    def __call__(self) -> Generator[str]:
        self.done.append("created")
        try:
            yield self.dsn
        finally:
            assert self.may_go.wait(30)
            self.done.append("deleted")
            if self.failing:
                raise self.failing.pop()


@pytest.fixture
def made(new_database: Callable[[], str]) -> Made:
    return Made(new_database())


def test_it_is_made_before_it_is_wanted_and_deleted_after_it_was_used(made: Made) -> None:
    with EmptyDatabase(made) as empty:
        empty.begin()
        empty.begin()
        made.may_go.clear()
        with empty.use() as dsn, psycopg.connect(dsn) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        assert made.done == ["created"], "its end is waited for by nobody"
        made.may_go.set()
        with empty.use():  # another one, for the first is gone
            assert made.done == ["created", "deleted", "created"]
    assert made.done == ["created", "deleted"] * 2


def test_one_that_is_not_wanted_is_not_left(made: Made) -> None:
    with EmptyDatabase(made) as empty:
        empty.begin()
    assert made.done == ["created", "deleted"]
    with EmptyDatabase(made):
        pass
    assert made.done == ["created", "deleted"], "and nobody makes one for nothing"


def test_whoever_uses_it_hears_why_there_is_none() -> None:
    def none() -> AbstractContextManager[str]:
        raise Unavailable("the provider is away")

    with EmptyDatabase(none) as empty:
        empty.begin()
        with pytest.raises(Unavailable, match="is away"), empty.use():
            pass


def test_one_that_cannot_be_deleted_stops_nobody_and_a_defect_is_heard(made: Made) -> None:
    made.failing = [Unavailable("the provider is away")]
    with EmptyDatabase(made) as empty, empty.use():
        pass
    made.failing = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError), EmptyDatabase(made) as empty, empty.use():
        pass
