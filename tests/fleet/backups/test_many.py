"""Work on many tenants side by side: who is begun, and who is not any more."""

from __future__ import annotations

import signal
import threading

import pytest

from tenantry.errors import InvalidInput, VaultError
from tenantry.fleet.backups.many import VAULT_FAILURES_MIN, Done, VaultWatch, work_on

SLUGS = [f"t-{number}" for number in range(40)]


def test_nobody_is_begun_once_the_vault_is_away_however_late_the_caller_hears_of_it() -> None:
    watch = VaultWatch(2)
    begun: list[str] = []
    heard = threading.Event()

    def fail(slug: str) -> None:
        begun.append(slug)
        raise VaultError("could not write to it", next_step="ask the storage")

    # The caller hears of the first when nobody works any more.
    threading.Timer(0.5, heard.set).start()
    left = work_on(
        SLUGS, fail, jobs=2, tell=lambda _: heard.wait(10) or None, goes_on=lambda done: watch.still_answers(done.error)
    )
    assert VAULT_FAILURES_MIN <= len(begun) <= VAULT_FAILURES_MIN + 1, "one more may be in hand"
    assert [*begun, *left] == SLUGS
    assert watch.away is not None


def test_ctrl_c_loses_nobody_who_is_being_told_of_and_begins_nobody_else() -> None:
    """It comes when somebody was heard of, and before that is told."""
    heard: list[str] = []
    said: list[str] = []
    told = threading.Event()

    def tell(done: Done[None]) -> None:
        if not heard:
            signal.raise_signal(signal.SIGINT)
        heard.append(done.slug)
        told.set()

    def work(slug: str) -> None:
        assert slug == SLUGS[0] or told.wait(60)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work_on(SLUGS, work, jobs=1, tell=tell, on_interrupt=lambda: said.append("stopping"))
    assert heard == SLUGS[:2], "the second was under way"
    assert said == ["stopping"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_waits_for_nobody() -> None:
    begun, end = threading.Event(), threading.Event()

    def work(_: str) -> None:
        begun.set()
        assert end.wait(60)

    threading.Thread(target=lambda: begun.wait(60) and signal.raise_signal(signal.SIGINT), daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        work_on(SLUGS, work, jobs=2, tell=lambda _: None, on_interrupt=lambda: signal.raise_signal(signal.SIGINT))
    assert not end.is_set(), "those under way are left at it"
    end.set()


def test_what_fails_by_itself_says_nothing_about_the_vault() -> None:
    watch = VaultWatch(1)
    away = VaultError("could not write to it")
    assert watch.still_answers(away) and watch.still_answers(away)
    assert watch.still_answers(InvalidInput("no such database")), "not the vault's"
    assert not watch.still_answers(away) and watch.away is away

    watch = VaultWatch(1)
    assert watch.still_answers(away) and watch.still_answers(away)
    assert watch.still_answers(None), "it answered: counted anew"
    assert watch.still_answers(away) and watch.still_answers(away) and watch.away is None
