"""What the client asks again, what it never does, and what it keeps to itself."""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from tenantry.errors import InvalidInput, LimitReached, Locked, QuotaExceeded, Unavailable
from tenantry.neon import transport as module
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId

LOCKED = (423, b'{"code": "LOCKED", "message": "busy", "request_id": "r-1"}')
FULL = (429, b'{"code": "", "message": "slow down"}')
DOWN = (503, b"<html>no gateway</html>")
P = ProjectId("some-project-1")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS_FIRST", 0.001)


@pytest.mark.parametrize("status", [423, 429])
def test_nothing_happened_so_a_post_is_asked_again(script: Any, connect: Any, new_reply: Any, status: int) -> None:
    body = LOCKED[1] if status == 423 else FULL[1]
    script.replies += [new_reply(status, body), new_reply(status, body), new_reply(200, b'{"regions": []}')]
    with pytest.raises(Unavailable, match="something else than ProjectCreated"):
        connect(script.base_url).create_project()
    assert script.asked == ["POST /api/v2/projects"] * 3


def test_a_quota_that_is_used_up_is_told_at_once(script: Any, connect: Any, new_reply: Any) -> None:
    script.replies += [new_reply(402, b'{"code": "QUOTA_EXCEEDED", "message": "used up"}')]
    with pytest.raises(QuotaExceeded, match="used up"):
        connect(script.base_url).start_endpoint(P, "ep-x")
    assert len(script.asked) == 1


def test_retry_after_is_waited_for(script: Any, connect: Any, new_reply: Any) -> None:
    script.replies += [new_reply(429, FULL[1], {"Retry-After": "1"}), new_reply()]
    began = time.monotonic()
    assert connect(script.base_url).list_regions() == []
    assert time.monotonic() - began >= 1


def test_a_wait_beyond_the_deadline_is_not_begun(script: Any, connect: Any, new_reply: Any) -> None:
    script.replies += [new_reply(429, FULL[1], {"Retry-After": "30"})]
    began = time.monotonic()
    with pytest.raises(LimitReached, match="slow down") as caught:
        connect(script.base_url).create_project()
    assert time.monotonic() - began < 20
    assert caught.value.fields["retry_after"] == 30


@pytest.mark.parametrize("broken", [DOWN, (None, b"")])
def test_what_may_be_repeated_is(script: Any, connect: Any, new_reply: Any, broken: tuple[int | None, bytes]) -> None:
    script.replies += [new_reply(*broken), new_reply(*broken), new_reply()]
    assert connect(script.base_url).list_regions() == []
    assert len(script.asked) == 3


@pytest.mark.usefixtures("even_pace")
def test_a_server_that_is_away_is_asked_again_for_a_while_and_then_once_until_it_is_back(
    script: Any, new_reply: Any
) -> None:
    with NeonClient(script.base_url, "key", deadline_seconds=60, away_seconds_max=20) as client:
        script.replies += [new_reply(*DOWN) for _ in range(1_000)]
        began = time.monotonic()
        with pytest.raises(Unavailable, match="503"):
            client.list_regions()
        assert time.monotonic() - began < 20
        first = len(script.asked)
        assert first > 1
        with pytest.raises(Unavailable, match="503"):
            client.list_regions()
        assert len(script.asked) == first + 1
        script.replies[:] = [new_reply(), new_reply(*DOWN), new_reply()]
        assert client.list_regions() == []
        assert client.list_regions() == []
        assert script.replies == []


@pytest.mark.parametrize("broken", [DOWN, (None, b""), (500, b'{"code": "DEFECT", "message": "internal error"}')])
@pytest.mark.parametrize("call", ["create_project", "update_project", "suspend"])
def test_what_may_have_happened_is_never_repeated(
    script: Any, connect: Any, new_reply: Any, broken: tuple[int | None, bytes], call: str
) -> None:
    script.replies += [new_reply(*broken), new_reply()]
    client = connect(script.base_url)
    calls = {
        "create_project": lambda: client.create_project(name="x"),
        "update_project": lambda: client.update_project(P, name="x"),
        "suspend": lambda: client.suspend_endpoint(P, "ep-x"),
    }
    with pytest.raises(Exception, match=r"failed|answered"):
        calls[call]()
    assert len(script.asked) == 1


def test_a_broken_post_says_that_it_may_be_done(script: Any, connect: Any, new_reply: Any) -> None:
    script.replies += [new_reply(None)]
    with pytest.raises(Unavailable) as caught:
        connect(script.base_url).create_project()
    assert caught.value.fields["maybe_done"] is True
    assert "look whether it happened" in str(caught.value)


def test_a_server_that_is_gone_is_soon_said_to_be(connect: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unavailable) as caught:
        connect(f"http://127.0.0.1:{port}/api/v2").create_project()
    assert caught.value.fields["maybe_done"] is False
    assert "check that the API runs" in str(caught.value)


def test_a_post_that_was_never_sent_is_sent_when_the_server_comes(
    script: Any, connect: Any, new_reply: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(script.base_url)
    script.replies += [new_reply(201, b"{}")]
    real, refusals = client._http.stream, iter([True, True])

    def refusing(*arguments: Any, **options: Any) -> Any:
        if next(refusals, False):
            raise module.httpx.ConnectError("refused")
        return real(*arguments, **options)

    monkeypatch.setattr(client._http, "stream", refusing)
    with pytest.raises(Unavailable, match="something else"):
        client.create_project()
    assert len(script.asked) == 1


@pytest.mark.usefixtures("even_pace")
def test_a_lock_is_waited_for_until_the_deadline_only(script: Any, new_reply: Any) -> None:
    script.replies += [new_reply(*LOCKED) for _ in range(5_000)]
    began = time.monotonic()
    with NeonClient(script.base_url, "k", deadline_seconds=30) as client, pytest.raises(Locked, match="busy"):
        client.delete_project(P)
    assert time.monotonic() - began < 20  # all those replies would last for minutes
    assert len(script.asked) > 2


def test_an_answer_that_does_not_come_ends_at_the_deadline(script: Any, new_reply: Any) -> None:
    stall = threading.Event()
    script.replies += [new_reply(200, stall=stall)] * 8
    began = time.monotonic()
    try:
        with NeonClient(script.base_url, "k", deadline_seconds=0.3) as client, pytest.raises(Unavailable):
            client.list_regions()
    finally:
        stall.set()
    assert time.monotonic() - began < 20


def test_an_endless_answer_is_cut_off(script: Any, connect: Any, new_reply: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "ANSWER_BYTES_MAX", 1_000)
    script.replies += [new_reply(200, b" " * 2_000)]
    with pytest.raises(Unavailable, match="more than 1000 bytes"):
        connect(script.base_url).list_regions()


def test_an_answer_from_somebody_else_is_said_to_be(script: Any, connect: Any, new_reply: Any) -> None:
    script.replies += [new_reply(200, b"<html>welcome to the hotel network</html>")]
    with pytest.raises(Unavailable, match="base URL"):
        connect(script.base_url).list_regions()


def test_redirects_are_not_followed_with_the_key(script: Any, connect: Any, new_reply: Any) -> None:
    script.replies += [new_reply(302, b"", {"Location": "http://127.0.0.1:1/steal"})]
    with pytest.raises(Unavailable, match="answered 302"):
        connect(script.base_url).list_regions()


@pytest.mark.parametrize("base_url", ["", "localhost:7700", "ftp://h/api", "http:///x", "https://user:pw@h/api/v2"])
def test_a_base_url_that_is_none_is_refused(base_url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        NeonClient(base_url, "k")
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "  ", "a\nb", "schlüssel"])
def test_a_key_that_is_none_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        NeonClient("http://h/api/v2", key)
    assert not key.strip() or key not in str(caught.value)


def test_the_key_shows_nowhere(script: Any, connect: Any, new_reply: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    script.replies += [new_reply(*LOCKED), new_reply(401, b'{"code": "", "message": "no"}'), new_reply(None)]
    client = connect(script.base_url)
    shown = [repr(client), repr(client._http.auth), repr(client._http), str(vars(client))]
    with capture_logs() as logs:
        for call in (client.list_regions, client.create_project):
            with pytest.raises(Exception, match=r"answered|failed") as caught:
                call()
            error: BaseException | None = caught.value
            while error is not None:
                shown.append(f"{error!r} {getattr(error, 'fields', '')}")
                error = error.__cause__
    assert "hunter2" not in "".join([*shown, caplog.text, str(logs)])
