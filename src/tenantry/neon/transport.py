"""One request of the API and its answer: asked again as long as that is harmless and the deadline allows.

Thread-safe. Only what cannot have happened is asked again: 423 (another change holds the project) and 429 for every
method, refused connections for every method, 503 and broken connections for methods that may be repeated.
Must never send twice what may have happened, and never show the key.
"""

from __future__ import annotations

import math
import random
import ssl
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, Self, TypeVar
from urllib.parse import urlsplit

import stamina
from pydantic import BaseModel, ValidationError

from tenantry.errors import Defect, InvalidInput, LimitReached, Locked, QuotaExceeded, TenantryError, Unavailable
from tenantry.neon.errors import error_from_answer
from tenantry.neon.pace import Pace, is_neons_cloud, route_of
from tenantry.runtime.http import httpx

DEADLINE_SECONDS: Final = 60.0
"""How long one call may take with all its repetitions, unless the caller says otherwise."""
ANSWER_SECONDS_MAX: Final = 30.0
CONNECT_SECONDS_MAX: Final = 5.0
CONNECTIONS_MAX: Final = 32
ANSWER_BYTES_MAX: Final = 64 * 2**20
CONNECTION_FAILURES_MAX: Final = 5
"""Broken or refused connections in one call before it gives up: a server that is gone is soon said to be."""
_RETRY_SECONDS_FIRST: Final = 0.05
_RETRY_SECONDS_MAX: Final = 2.0
_LAST_ATTEMPT_SECONDS: Final = 1.0
"""No attempt begins so late that it could only time out and hide why the earlier ones were refused."""
_REPEATABLE: Final = frozenset({"GET", "PUT", "DELETE"})
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

S = TypeVar("S", bound=BaseModel)
Query = Mapping[str, str | int | bool | None]
JsonBody = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Seen:
    """What an answer tells beside its body."""

    server: str | None
    clock_seconds: float | None
    """How far the server's clock is ahead of ours; its date is exact to a second. None where it sent none."""


class Transport:
    """One account of one API. Close it (or use ``with``) to give its connections back; closing is safe twice."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        connections_max: int = CONNECTIONS_MAX,
        tls_verify: bool | str = True,
        pace: Pace | None = None,
        away_seconds_max: float = math.inf,
    ) -> None:
        """``base_url`` includes ``/api/v2``. ``tls_verify`` may name a file with the certificates to trust.

        ``pace`` is kept by every request, repetitions included; Neon's cloud has one of its own by default.
        ``away_seconds_max`` bounds how long in one call a server is asked again that is away (refuses or breaks
        connections, answers 503); until it was seen again, the calls after that ask it once.

        Raises InvalidInput for a base URL that is not one or that holds a password.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise InvalidInput("the API's base URL is not like https://host/api/v2")
        self._base_url = base_url.rstrip("/")
        self._deadline_seconds = deadline_seconds
        self._away_seconds_max = away_seconds_max
        self._away = False
        """Whether the call before ended with the server away. A guess that threads share; nothing depends on it."""
        self._pace = pace or (Pace() if is_neons_cloud(base_url) else None)
        self._http = httpx.Client(
            auth=_Bearer(api_key),
            headers={"Accept": "application/json", "User-Agent": "tenantry"},
            timeout=httpx.Timeout(ANSWER_SECONDS_MAX, connect=CONNECT_SECONDS_MAX),
            limits=httpx.Limits(max_connections=connections_max, max_keepalive_connections=connections_max),
            verify=_tls_context(tls_verify, scheme=parts.scheme),
            trust_env=parts.scheme == "https",  # a cell next to us is not reached through anybody's proxy
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # -- projects --------------------------------------------------------------------------------------------

    def delete(self, shape: type[S], path: str, *, query: Query | None = None) -> S | None:
        status, body = self.exchange("DELETE", path, query=query)
        return None if status == 204 else _read(shape, body, f"DELETE {path}")

    def ask(
        self,
        shape: type[S],
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: JsonBody | None = None,
        deadline_seconds: float | None = None,
    ) -> S:
        _, answer = self.exchange(method, path, query=query, body=body, deadline_seconds=deadline_seconds)
        return _read(shape, answer, f"{method} {path}")

    def exchange(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: JsonBody | None = None,
        deadline_seconds: float | None = None,
    ) -> tuple[int, bytes]:
        """One request, asked again while that is harmless and the deadline allows it."""
        status, _, answer = self._asked(method, path, query=query, body=body, deadline_seconds=deadline_seconds)
        return status, answer

    def look(self, path: str) -> Seen:
        """Asks for ``path`` once (or again, as always) and tells what the answer says beside its body."""
        began = datetime.now(UTC)
        _, headers, _ = self._asked("GET", path)
        # Half of what the answer took is as near as one question comes to the moment that its date means.
        here = began + (datetime.now(UTC) - began) / 2
        return Seen(server=headers.get("server"), clock_seconds=_ahead(headers.get("date"), here))

    def _asked(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: JsonBody | None = None,
        deadline_seconds: float | None = None,
    ) -> tuple[int, httpx.Headers, bytes]:
        seconds = self._deadline_seconds if deadline_seconds is None else deadline_seconds
        deadline = time.monotonic() + seconds
        last_start = deadline - min(_LAST_ATTEMPT_SECONDS, seconds / 4)
        away_until = 0.0 if self._away else time.monotonic() + self._away_seconds_max
        patience = _Patience(repeatable=method in _REPEATABLE, last_start=last_start, away_until=away_until)
        asking = stamina.retry_context(on=patience, attempts=None, timeout=max(seconds, _RETRY_SECONDS_FIRST))
        for attempt in asking.with_name(f"{method} {path}", (), {}):
            with attempt:
                if self._pace is not None:
                    self._pace.wait(route_of(method, path), latest=last_start)
                try:
                    answer = self._once(method, path, query=query, body=body, deadline=deadline)
                except TenantryError as error:
                    self._away = _is_away(error) and self._away_seconds_max < math.inf
                    raise
                self._away = False
                return answer
        raise Defect(f"asking {method} {path} ended without an answer and without an error")

    def _once(
        self, method: str, path: str, *, query: Query | None, body: JsonBody | None, deadline: float
    ) -> tuple[int, httpx.Headers, bytes]:
        asked = f"{method} {path}"
        left = max(deadline - time.monotonic(), 0.001)
        timeout = httpx.Timeout(min(left, ANSWER_SECONDS_MAX), connect=min(left, CONNECT_SECONDS_MAX))
        parameters = {name: _parameter(value) for name, value in (query or {}).items() if value is not None}
        try:
            with self._http.stream(
                method, self._base_url + path, params=parameters or None, json=body, timeout=timeout
            ) as response:
                answer = _read_bounded(response, asked, deadline)
        except httpx.HTTPError as error:
            never_sent = isinstance(error, _NEVER_SENT)
            raise Unavailable(
                f"{asked} at {self._base_url} failed: {error or type(error).__name__}",
                next_step="check that the API runs and that its address is right"
                if never_sent
                else "look whether it happened before asking again",
                asked=asked,
                never_sent=never_sent,
                maybe_done=not never_sent and method not in _REPEATABLE,
                transport=True,
            ) from error
        if response.status_code >= 300:
            raise error_from_answer(response.status_code, answer, response.headers, asked=asked)
        return response.status_code, response.headers, answer


class _Bearer(httpx.Auth):
    """The key, out of sight of every repr."""

    def __init__(self, api_key: str) -> None:
        if not api_key.isascii() or not api_key.isprintable() or not api_key.strip():
            raise InvalidInput("the API key is empty or not printable ASCII")
        self._header = f"Bearer {api_key.strip()}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = self._header
        yield request


class _Patience:
    """Decides after each failure of one call whether, and after how long, it is asked again."""

    def __init__(self, *, repeatable: bool, last_start: float, away_until: float) -> None:
        self._repeatable = repeatable
        self._last_start = last_start
        self._away_until = away_until
        self._failures = 0
        self._connection_failures = 0

    def __call__(self, error: Exception) -> bool | float:
        if not isinstance(error, TenantryError) or not self._harmless(error):
            return False
        wait = error.fields.get("retry_after")
        if not isinstance(wait, float):
            wait = min(_RETRY_SECONDS_FIRST * 2**self._failures, _RETRY_SECONDS_MAX) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, hides nothing
        self._failures += 1
        latest = min(self._last_start, self._away_until) if _is_away(error) else self._last_start
        return wait if time.monotonic() + wait < latest else False

    def _harmless(self, error: TenantryError) -> bool:
        match error:
            case QuotaExceeded():
                return False  # until the next period
            case Locked() | LimitReached():
                return error.fields.get("paced") is not True
            case Unavailable() if error.fields.get("transport"):
                self._connection_failures += 1
                may_repeat = self._repeatable or error.fields.get("never_sent") is True
                return may_repeat and self._connection_failures <= CONNECTION_FAILURES_MAX
            case Unavailable():
                return self._repeatable and error.fields.get("status") == 503
            case _:
                return False


def _is_away(error: TenantryError) -> bool:
    return isinstance(error, Unavailable) and (
        error.fields.get("transport") is True or error.fields.get("status") == 503
    )


def _tls_context(verify: bool | str, *, scheme: str) -> ssl.SSLContext | bool:
    if scheme == "http":
        return False  # loading a trust store takes longer than most calls, and nothing would use it
    return ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify


def _read_bounded(response: httpx.Response, asked: str, deadline: float) -> bytes:
    """The whole body, unless it is larger or slower than any honest answer."""
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > ANSWER_BYTES_MAX:
            raise Unavailable(f"{asked} answered more than {ANSWER_BYTES_MAX} bytes", asked=asked)
        if time.monotonic() > deadline:
            raise Unavailable(f"{asked} was still answering at the deadline", asked=asked, maybe_done=True)
    return bytes(body)


def _read(shape: type[S], body: bytes, asked: str) -> S:
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors(include_input=False)[:5])
        raise Unavailable(
            f"{asked} answered something else than {shape.__name__}: {places}",
            next_step="check that the base URL is that of a Neon API v2",
            asked=asked,
            maybe_done=True,
        ) from error


def _ahead(date: str | None, here: datetime) -> float | None:
    try:
        there = None if date is None else parsedate_to_datetime(date)
    except ValueError:
        return None
    # The date is cut to its second: on average it means half a second later.
    return None if there is None else (there + timedelta(seconds=0.5) - here).total_seconds()


def _parameter(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
