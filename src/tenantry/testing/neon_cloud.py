"""A stand-in of Neon's cloud: a real HTTP server before a real cell, with what the cloud has and a cell has not.

It counts requests as Neon does (700 a minute, 40 a second a route) and answers 429 to those beyond; its operations take
a while, and a project whose operations run answers 423 to every other change; and it offers nothing that only cells do.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self, cast

import httpx

from tenantry.fleet.config import Target
from tenantry.neon.pace import BURST_A_SECOND, REQUESTS_A_MINUTE, route_of

API_PREFIX: Final = "/api/v2"
OPERATION_SECONDS: Final = 0.15
"""How long an operation runs, as far as clients are told."""
ANSWER_SECONDS_MAX: Final = 60.0
_CHANGES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_PROJECT: Final = re.compile(r"/projects/([a-z0-9-]+)")
_NOT_THERE: Final = re.compile(r"/operator_access$")
"""A cell's own."""
_QUIET: Final = re.compile(r"/(recover|connection_uri|reveal_password)$")
"""Changes nothing, or makes no operation."""
_OURS: Final = ("roles_of_the_past",)


class StandIn:
    """Use ``with``. ``url`` ends in ``/api/v2`` and is opened by the cell's own keys."""

    def __init__(
        self,
        cell: Target,
        *,
        requests_a_minute: int = REQUESTS_A_MINUTE,
        burst_a_second: int = BURST_A_SECOND,
        operation_seconds: float = OPERATION_SECONDS,
    ) -> None:
        self.refused: Counter[int] = Counter()
        """How often it has answered 429, and 423."""
        self.asked: Counter[str] = Counter()
        """How often each route was asked."""
        self.lock_next = 0
        """So many of the next changes of projects are answered 423, whatever runs there."""
        self._minute = requests_a_minute
        self._second = burst_a_second
        self._operation_seconds = operation_seconds
        self._lock = threading.Lock()
        self._all: deque[float] = deque()
        self._routes: dict[str, deque[float]] = {}
        self._locked_until: dict[str, float] = {}
        """Projects, and until when (as clocks on the wall say it) their operations run."""
        self._cell = httpx.Client(base_url=cell.api_url, timeout=ANSWER_SECONDS_MAX, verify=False, trust_env=False)  # noqa: S501 - a cell on loopback
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, headers, answer = stand_in.answer(
                    self.command, self.path, body, self.headers.get("Authorization")
                )
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - the names that http.server calls

            def log_message(self, format: str, *args: Any) -> None:
                del format, args

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that has given up is no news."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}{API_PREFIX}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._cell.close()

    def answer(
        self, method: str, target: str, body: bytes, authorization: str | None
    ) -> tuple[int, dict[str, str], bytes]:
        path = target.removeprefix(API_PREFIX)
        plain = path.partition("?")[0]
        route = route_of(method, path)
        project = _PROJECT.match(plain)
        with self._lock:
            now = time.monotonic()
            self.asked[route] += 1
            if (wait := self._too_soon(route, now)) is not None:
                self.refused[429] += 1
                return _refusal(429, "rate limit exceeded", {"Retry-After": str(math.ceil(wait))})
            changing = method in _CHANGES and project is not None and not _QUIET.search(plain)
            if changing and project is not None and self._locked(project[1]):
                self.refused[423] += 1
                return _refusal(423, "project already has running operations, scheduling of new ones is prohibited")
        if _NOT_THERE.search(plain):
            return _refusal(404, "this route does not exist")
        headers = {"Content-Type": "application/json"}
        if authorization:
            headers["Authorization"] = authorization
        reply = self._cell.request(method, path, content=body, headers=headers)
        return reply.status_code, _passed_on(reply), self._retold(reply.content, time.time())

    def _locked(self, project: str) -> bool:
        if self.lock_next > 0:
            self.lock_next -= 1
            return True
        return time.time() < self._locked_until.get(project, 0.0)

    def _too_soon(self, route: str, now: float) -> float | None:
        """Seconds to wait, when this request is one too many; otherwise it is counted."""
        of_route = self._routes.setdefault(route, deque())
        for window, seconds in ((self._all, 60.0), (of_route, 1.0)):
            while window and window[0] <= now - seconds:
                window.popleft()
        if len(self._all) >= self._minute:
            return self._all[0] + 60.0 - now
        if len(of_route) >= self._second:
            return of_route[0] + 1.0 - now
        self._all.append(now)
        of_route.append(now)
        return None

    def _retold(self, content: bytes, now: float) -> bytes:
        """The cell's answer, its operations still running for a while."""
        try:
            answer: object = json.loads(content)
        except ValueError:
            return content
        with self._lock:
            for operation in _operations(answer):
                until = datetime.fromisoformat(operation["created_at"]).timestamp() + self._operation_seconds
                project = str(operation["project_id"])
                self._locked_until[project] = max(until, self._locked_until.get(project, 0.0))
                if operation["status"] == "finished" and now < until:
                    operation["status"] = "running"
        if isinstance(answer, dict):
            for name in _OURS:
                cast("dict[str, object]", answer).pop(name, None)
        return json.dumps(answer).encode()


def _operations(value: object) -> Iterator[dict[str, Any]]:
    """Every operation inside of an answer."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if {"id", "project_id", "action", "status", "created_at"} <= fields.keys():
            yield fields
        for each in fields.values():
            yield from _operations(each)
    elif isinstance(value, list):
        for each in cast("list[object]", value):
            yield from _operations(each)


def _passed_on(reply: httpx.Response) -> dict[str, str]:
    kept = ("content-type", "x-request-id", "retry-after")
    return {name: reply.headers[name] for name in kept if name in reply.headers}


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    body = json.dumps({"code": "", "message": message, "request_id": "stand-in"}).encode()
    return status, {"Content-Type": "application/json", **(headers or {})}, body
