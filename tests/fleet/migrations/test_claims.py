"""Claims ahead: nobody waits while some are left, and nobody leaves while there may be more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from tenantry.errors import Unavailable
from tenantry.fleet.catalog.records import Claimed, TenantId
from tenantry.fleet.migrations.claims import Claims


def handful(*slugs: str) -> list[Claimed]:
    return [
        Claimed(
            tenant_id=TenantId(uuid4()),
            slug=slug,
            fence=1,
            attempts=1,
            pending=(),
            ready=True,
            schema_format=None,
            schema_version=None,
            schema_fingerprint=None,
            as_of=datetime.now(UTC),
        )
        for slug in slugs
    ]


def one_after_the_other(*handfuls: Iterable[str]) -> Callable[[], list[Claimed]]:
    left: Iterator[Iterable[str]] = iter(handfuls)
    return lambda: handful(*next(left))


def slugs(claims: Claims) -> list[str]:
    found: list[str] = []
    while (claimed := claims.take()) is not None:
        found.append(claimed.slug)
    return found


def test_each_is_given_once_and_in_order() -> None:
    with Claims(one_after_the_other("ab", "cd", "e", ""), handful=2, low=1) as claims:
        assert slugs(claims) == list("abcde")


def test_the_next_are_claimed_while_some_are_left() -> None:
    asked = threading.Semaphore(0)
    answer = threading.Event()
    given = iter(["abc", "def", "", ""])

    def claim() -> list[Claimed]:
        asked.release()
        if not (names := next(given)).startswith("a"):
            assert answer.wait(30)
        return handful(*names)

    with Claims(claim, handful=3, low=1) as claims:
        assert claims.take() is not None
        assert asked.acquire(timeout=30)
        assert not asked.acquire(blocking=False), "three are enough for now"
        assert claims.take() is not None
        assert asked.acquire(timeout=30), "one is left"
        third = claims.take()
        assert third is not None
        assert third.slug == "c", "who takes one that is left waits for no claim"
        answer.set()
        assert slugs(claims) == list("def")


def test_a_handful_that_is_not_full_is_the_last_for_now() -> None:
    asked: list[int] = []
    given = iter(["ab", "c", ""])

    def claim() -> list[Claimed]:
        asked.append(1)
        return handful(*next(given))

    with Claims(claim, handful=8, low=8) as claims:
        assert [claims.take() is not None for _ in "ab"] == [True, True]
        assert len(asked) == 1
        # Others may have been given back meanwhile.
        assert slugs(claims) == ["c"]
        assert len(asked) == 3


def test_a_claim_that_fails_ahead_fails_for_who_needs_it() -> None:
    given = iter([handful("a", "b"), None])

    def claim() -> list[Claimed]:
        if (found := next(given)) is None:
            raise Unavailable("the catalog is away")
        return found

    with Claims(claim, handful=2, low=2) as claims:
        assert claims.take() is not None
        with pytest.raises(Unavailable):
            claims.take()
            claims.take()
        with pytest.raises(Unavailable):  # and the next one, who asks nobody
            claims.take()


def test_the_end_waits_for_a_claim_under_way() -> None:
    ended = threading.Event()
    begun = threading.Event()
    given = iter([handful("a")])

    def claim() -> list[Claimed]:
        if (found := next(given, None)) is not None:
            return found
        begun.set()
        ended.wait(0.05)
        ended.set()
        return handful("b")

    with Claims(claim, handful=1, low=1) as claims:
        assert claims.take() is not None
        assert begun.wait(30)
    assert ended.is_set(), "what it claims can be given back now"
