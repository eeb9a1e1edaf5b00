"""The conversation with the process that started us: a line of JSON asks, a line of JSON answers, one at a time.

Ends, with everything that it has started, the moment the other side is gone: a migration whose runner was killed must
not go on unwatched.
"""

# Errors and frames of any library pass through here.
# pyright: basic
from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

Request = dict[str, Any]
Reply = dict[str, Any]
Handler = Callable[[Request], Reply]

TEXT_LENGTH_MAX = 2000
"""Characters of one text of an error that are kept."""
_OF_PACKAGES = ("site-packages", "dist-packages")
CHAIN_MAX = 32
"""Links of a chain of exceptions that are looked at."""


class Refused(Exception):
    """We do not do what is asked; the text says why, ``next_step`` what to do about it."""

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step


def converse(opened: Callable[[Request], tuple[Reply, Handler]]) -> None:
    """Answers until the other side is gone. The first request opens the project, the others are of that."""
    requests, replies = _take_over()
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, inbox), daemon=True).start()
    handler: Handler | None = None
    while True:
        request = json.loads(inbox.get())
        try:
            if handler is None:
                reply, handler = opened(request)
            else:
                reply = handler(request)
        except BaseException as error:  # noqa: BLE001 - also what ends a program is the failure of one tenant only
            reply = {"error": described(error)}
        sys.stdout.flush()
        sys.stderr.flush()
        _write(replies, json.dumps(reply).encode() + b"\n")


def _take_over() -> tuple[int, int]:
    """Descriptors for the conversation; whatever the tool prints goes to stderr, and nobody can type an answer."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, replies


def _listen(requests: int, inbox: queue.SimpleQueue[bytes]) -> None:
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            inbox.put(line)
    # Our own group, which its starter has made for us: what the tool has started goes too.
    os.kill(0, signal.SIGKILL)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def described(error: BaseException) -> dict[str, Any]:
    """What went wrong, as the other side wants it: in plain words, and the server's own where it was the server."""
    said: dict[str, Any] = {"type": type(error).__name__, "message": _text(str(error) or type(error).__name__)}
    if isinstance(error, Refused):
        return {**said, "refused": True, "next_step": error.next_step}
    said.update(_place(error))
    migration = getattr(error, "migration", None)
    if isinstance(migration, str):
        said["migration"] = migration
    of_server = next((link for link in _chain(error) if _sqlstate(link) is not None), None)
    if of_server is None:
        traceback.print_exception(type(error), error, error.__traceback__)
        return said
    diagnosis = getattr(of_server, "diag", None)
    said["sqlstate"] = _sqlstate(of_server)
    said["message"] = _text(getattr(diagnosis, "message_primary", None) or str(of_server))
    for name in ("detail", "hint"):
        found = getattr(diagnosis, "message_" + name, None) or getattr(of_server, name, None)
        if isinstance(found, str):
            said[name] = _text(found)
    statement = next(
        (link.statement for link in _chain(error) if isinstance(getattr(link, "statement", None), str)), None
    )
    if statement is not None:
        said["sql"] = _text(" ".join(statement.split()))
    return said


def _chain(error: BaseException) -> Iterator[Any]:
    """The error and what it stands on: causes, contexts, and what SQLAlchemy calls the original."""
    waiting: list[Any] = [error]
    seen: list[Any] = []
    while waiting and len(seen) < CHAIN_MAX:
        link = waiting.pop(0)
        if link is None or any(link is each for each in seen):
            continue
        seen.append(link)
        yield link
        waiting += [getattr(link, "orig", None), link.__cause__, link.__context__]


def _sqlstate(error: Any) -> str | None:
    """psycopg and asyncpg say ``sqlstate``, psycopg2 ``pgcode``."""
    found = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return found if isinstance(found, str) else None


def _place(error: BaseException) -> dict[str, Any]:
    """The innermost line of the user's own files that the error came through."""
    home = os.getcwd() + os.sep  # noqa: PTH109 - compared with the names of files as the interpreter has them
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        name = os.path.abspath(frame.f_code.co_filename)  # noqa: PTH100
        made_on_the_way = frame.f_code.co_filename.startswith("<")
        if name.startswith(home) and not made_on_the_way and not any(part in name for part in _OF_PACKAGES):
            return {"file": name, "line": line}
    return {}


def _text(text: str) -> str:
    return text[:TEXT_LENGTH_MAX]


SEE_LOCK = (
    "SELECT count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = {pid} AND granted"
    " AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
)
"""The runner holds a lock in the tenant's database: who sees it is connected to the right one."""


def check_lock(seen: int) -> None:
    """Refuses to go on in a database that is not the tenant's, whatever the project's settings made of the URL."""
    if not seen:
        raise Refused(
            "the project connected to another database than this tenant's, and nothing was changed there",
            "let it take its URL from where [migrations] dsn_env puts it, or from sqlalchemy.url",
        )


def check_ledger(seen: set[str], expected: set[str], where: str) -> None:
    """Refuses to go on with a ledger that is not the one that the runner has read."""
    if seen != expected:
        odd = ", ".join(sorted(seen ^ expected)[:3])
        raise Refused(
            f"the tool finds other versions in {where} than we do ({odd})",
            "see whether the project sets a search_path: the role's own is the one that counts here",
        )
