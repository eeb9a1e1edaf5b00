"""One request to the JSON API of a service that is not ours, and its answer, within bounds.

Asked again is only what cannot have happened twice, and only as long as the deadline allows. The token is in no
message, log or repr.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping
from typing import Final, Self
from urllib.parse import urlsplit

import stamina

from tenantry.errors import (
    Conflict,
    Defect,
    Forbidden,
    InvalidInput,
    LimitReached,
    NotFound,
    TenantryError,
    Unauthorized,
    Unavailable,
)
from tenantry.runtime.http import httpx

DEADLINE_SECONDS: Final = 60.0
ATTEMPT_SECONDS_MAX: Final = 20.0
CONNECT_SECONDS_MAX: Final = 10.0
ANSWER_BYTES_MAX: Final = 16 * 2**20
ATTEMPTS_MAX: Final = 5
WORDS_MAX: Final = 500
"""Of what the service says, so much is passed on."""
_RETRY_SECONDS_FIRST: Final = 0.2
_RETRY_SECONDS_MAX: Final = 8.0
_REPEATABLE: Final = frozenset({"GET", "PUT", "DELETE", "PATCH"})
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Answer:
    """What came back: a status below 300, the headers, and the document (None where there is none)."""

    def __init__(self, status: int, headers: httpx.Headers, document: object) -> None:
        self.status = status
        self.headers = headers
        self.document = document


class Rest:
    """One account at one service. Close it, or use ``with``; closing is safe twice."""

    def __init__(
        self,
        service: str,
        base_url: str,
        token: str,
        *,
        headers: Mapping[str, str] | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        """``service`` is its name for sentences. Raises InvalidInput for a URL or a token that cannot be one."""
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise InvalidInput(f"{service}'s API is not like https://host: {base_url!r}")
        self.service = service
        self._base_url = base_url.rstrip("/")
        self._deadline_seconds = deadline_seconds
        self._http = httpx.Client(
            auth=_Bearer(service, token),
            headers={"User-Agent": "tenantry", "Accept": "application/json", **(headers or {})},
            timeout=httpx.Timeout(ATTEMPT_SECONDS_MAX, connect=CONNECT_SECONDS_MAX),
            trust_env=parts.scheme == "https",
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: object = None,
        repeatable: bool = False,
    ) -> Answer:
        """Raises Unauthorized, Forbidden, NotFound, Conflict, InvalidInput, LimitReached or Unavailable.

        A ``POST`` is asked again only where it cannot have arrived, or was refused for coming too fast, unless it is
        said to be ``repeatable``.
        """
        deadline = time.monotonic() + self._deadline_seconds
        asking = stamina.retry_context(
            on=lambda error: self._patience(error, deadline, repeatable=repeatable or method in _REPEATABLE),
            attempts=ATTEMPTS_MAX,
            timeout=self._deadline_seconds,
            wait_initial=_RETRY_SECONDS_FIRST,
            wait_max=_RETRY_SECONDS_MAX,
        )
        for attempt in asking.with_name(f"{self.service}: {method} {path}", (), {}):
            with attempt:
                return self._once(method, path, query=query, body=body)
        raise Defect(f"asking {method} {path} ended without an answer and without an error")

    def _once(self, method: str, path: str, *, query: Mapping[str, str | int] | None, body: object) -> Answer:
        asked = f"{method} {path}"
        try:
            with self._http.stream(method, self._base_url + path, params=query, json=body) as response:
                content = b""
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > ANSWER_BYTES_MAX:
                        raise Unavailable(f"{self.service} answered {asked} with more than {ANSWER_BYTES_MAX} bytes")
        except httpx.HTTPError as error:
            never_sent = isinstance(error, _NEVER_SENT)
            raise Unavailable(
                f"{self.service} did not answer {asked}: {error or type(error).__name__}",
                next_step="try again; nothing is done twice",
                never_sent=never_sent,
                transport=True,
            ) from error
        if response.status_code >= 300:
            raise self._refused(response, content, asked)
        return Answer(response.status_code, response.headers, _document(content))

    def _refused(self, response: httpx.Response, content: bytes, asked: str) -> TenantryError:
        words = _words(content) or response.reason_phrase
        message = f"{self.service} answered {response.status_code} to {asked}: {words}"
        status, retry_after = response.status_code, _seconds(response.headers.get("retry-after"))
        match status:
            case 401:
                return Unauthorized(message, next_step=f"give a token that {self.service} knows", status=status)
            case 403 | 429 if retry_after is not None or _used_up(response.headers):
                return LimitReached(message, next_step="try again later", status=status, retry_after=retry_after)
            case 403:
                wanted = response.headers.get("x-accepted-github-permissions")
                needs = f"the token needs {wanted}" if wanted else "give the token the right for this"
                return Forbidden(message, next_step=needs, status=status)
            case 404:
                return NotFound(message, next_step="is its name right, and may the token see it?", status=status)
            case 409:
                return Conflict(message, status=status)
            case 429:
                return LimitReached(message, next_step="try again later", status=status, retry_after=retry_after)
            case _ if status >= 500:
                return Unavailable(
                    message, next_step=f"try again, or see whether {self.service} is well", status=status
                )
            case _:
                return InvalidInput(message, status=status)

    @staticmethod
    def _patience(error: Exception, deadline: float, *, repeatable: bool) -> bool | float:
        match error:
            case LimitReached():
                wait = error.fields.get("retry_after")
                wait = wait if isinstance(wait, float) else _RETRY_SECONDS_MAX
                return wait if time.monotonic() + wait < deadline else False
            case Unavailable():
                return repeatable or error.fields.get("never_sent") is True
            case _:
                return False


class _Bearer(httpx.Auth):
    """The token, out of sight of every repr."""

    def __init__(self, service: str, token: str) -> None:
        if not token.isascii() or not token.isprintable() or not token.strip():
            raise InvalidInput(f"the token for {service} is empty or not printable ASCII")
        self._header = f"Bearer {token.strip()}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = self._header
        yield request


def _document(content: bytes) -> object:
    if not content:
        return None
    try:
        return json.loads(content)
    except ValueError as error:
        raise Unavailable("the answer is no JSON", next_step="is the address of the API right?") from error


def _words(content: bytes) -> str:
    """What the service says went wrong: GitHub has ``message``, Vercel ``error.message``."""
    try:
        said: object = json.loads(content)
    except ValueError:
        return ""
    for key in ("error", "message"):
        if isinstance(said, dict) and key in said:
            said = said[key]  # pyright: ignore[reportUnknownVariableType] - as deep as it goes
    return said[:WORDS_MAX] if isinstance(said, str) else ""


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None


def _used_up(headers: httpx.Headers) -> bool:
    return headers.get("x-ratelimit-remaining") == "0"
