"""Errors to the wire and back."""

from __future__ import annotations

import httpx
import pytest

from tenantry import errors
from tenantry.neon.errors import error_body, error_from_answer, is_request_id
from tenantry.neon.ids import RequestId

KINDS = [
    errors.InvalidInput, errors.NotSupported, errors.Unauthorized, errors.Forbidden, errors.NotFound, errors.Conflict,
    errors.Locked, errors.LimitReached, errors.Unavailable, errors.OperatorError, errors.DiskFull,
    errors.Defect,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_back_as_what_it_was(kind: type[errors.TenantryError]) -> None:
    sent = kind("the text for the log", client_text="what you may read", next_step="do this", secret="x")
    body = error_body(sent, RequestId("r-1"))
    got = error_from_answer(sent.http_status, body.to_json(), {}, asked="GET /x")
    assert type(got) is kind
    assert "what you may read" in str(got)
    assert got.fields["request_id"] == "r-1"
    assert "the text for the log" not in body.to_json().decode()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, errors.InvalidInput), (402, errors.QuotaExceeded), (406, errors.InvalidInput), (412, errors.Conflict),
     (413, errors.InvalidInput), (422, errors.InvalidInput), (500, errors.Unavailable), (502, errors.Unavailable),
     (504, errors.Unavailable), (599, errors.Unavailable), (302, errors.Unavailable)],
)  # fmt: skip
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"code": null}', b'{"code": "", "message": "m"}'])
def test_a_status_says_what_it_is_whatever_the_body(status: int, kind: type[Exception], body: bytes) -> None:
    headers = httpx.Headers({"X-Neon-Ret-Request-Id": "r-2", "Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
    got = error_from_answer(status, body, headers, asked="POST /x")
    assert type(got) is kind
    assert (got.fields["request_id"], got.fields["retry_after"]) == ("r-2", None)
    assert "POST /x answered" in str(got)


def test_a_long_message_is_cut() -> None:
    body = b'{"code": "", "message": "%s"}' % (b"x" * 100_000)
    assert len(str(error_from_answer(400, body, {}, asked="GET /x"))) < 3_000


def test_waits_are_bounded() -> None:
    for text, seconds in (("5", 5.0), ("0", 0.0), ("99999999", 60.0), ("-1", None), ("1.5", None), ("", None)):
        assert error_from_answer(429, b"", {"retry-after": text}, asked="x").fields["retry_after"] == seconds


def test_request_ids_are_short_and_plain() -> None:
    assert all(map(is_request_id, ["a", "d8ac46eb-a757-42b1", "A.b_c"]))
    assert not any(map(is_request_id, ["", "a b", "a\n", "x" * 129, "ä"]))
