"""Logs: one line for each event on one stream, with the ids of the request and the operation that it belongs to.

Secrets are kept out where they arise; what is written here once more leaves out everything that looks like one, so
that a mistake elsewhere does not end in a file.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO, get_args

if TYPE_CHECKING:
    import structlog

LogFormat = Literal["logfmt", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
NOTICED_SECONDS: Final = 1.0
"""A wait before something is asked again that whoever typed a command notices."""

_ours: object = None
"""What makes the process's loggers, once ``configure_logs`` has said so."""
_is_command = False
"""Whether this process is one of our commands, once ``tell_of_retries`` has said so."""

_REDACTED: Final = "[redacted]"
_SECRET_KEYS: Final = re.compile(
    r"passw|secret|token|authorization|cookie|api_key|scram_|verifier|dsn|uri$", re.IGNORECASE
)
_SECRETS: Final = (
    (re.compile(r"(postgres(?:ql)?://[^\s:/@]+):[^\s@]+@"), rf"\1:{_REDACTED}@"),
    (re.compile(r"SCRAM-SHA-256\$[^\s\"']+"), f"SCRAM-SHA-256${_REDACTED}"),
    (re.compile(r"(scram_(?:client|server)_key\s*=\s*)[^\s&'\"]+"), rf"\1{_REDACTED}"),
    (re.compile(r"\btenantry_[A-Za-z0-9_-]{20,}"), f"tenantry_{_REDACTED}"),
    (re.compile(r"(?i)(bearer\s+)\S+"), rf"\1{_REDACTED}"),
    (re.compile(r"(?i)(password\s*[=:]?\s*)'(?:[^']|'')*'"), rf"\1'{_REDACTED}'"),
)


def configure_logs(stream: TextIO | None = None, *, level: LogLevel = "info", form: LogFormat = "logfmt") -> None:
    """Decides once for the process where events go (stderr by default, so that stdout stays free) and how they look."""
    import structlog  # noqa: PLC0415 - the command line names the levels before it needs anything heavy

    renderer = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)
    )
    global _ours  # noqa: PLW0603 - logs are configured for the process, and this says by whom
    _ours = structlog.PrintLoggerFactory(stream or sys.stderr)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=_ours,
    )


def _level(said: str | None) -> LogLevel:
    return next((level for level in get_args(LogLevel) if level == said), "warning")


def log_to_stderr() -> None:
    """For commands whose work is logged: stdout stays free, also where nobody has configured any logs.

    Warnings and worse, unless TENANTRY_LOG_LEVEL says otherwise.
    """
    import structlog  # noqa: PLC0415 - as above

    # Asked of our own: structlog also counts as configured where somebody else has only looked into it, and its lines
    # would then go to stdout, among a document of JSON.
    if structlog.get_config()["logger_factory"] is not _ours:
        configure_logs(level=_level(os.environ.get("TENANTRY_LOG_LEVEL")))


def tell_of_retries() -> None:
    """For commands: what is asked again is told on stderr, also where nobody has configured any logs; a wait that
    nobody notices only with TENANTRY_LOG_LEVEL=info.

    Nothing is loaded for that until something is asked again.
    """
    import stamina.instrumentation as stamina  # noqa: PLC0415 - as above

    global _is_command  # noqa: PLW0603 - as above
    _is_command = True

    def hook() -> stamina.RetryHook:
        import structlog  # noqa: PLC0415 - as above

        log_to_stderr()
        log = structlog.get_logger("retries")

        def tell(details: stamina.RetryDetails) -> None:
            tell_it = log.warning if details.wait_for >= NOTICED_SECONDS else log.info
            tell_it("asked again", asked=details.name, wait_s=round(details.wait_for, 2), why=str(details.caused_by))

        return tell

    stamina.set_on_retry_hooks([stamina.RetryHookFactory(hook)])


def late_log(name: str) -> structlog.typing.FilteringBoundLogger:
    """The logger of what hardly ever has anything to tell: it is loaded, and configured in a command, where it has."""
    import structlog  # noqa: PLC0415 - as above

    if _is_command:
        log_to_stderr()
    return structlog.get_logger(name)


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor: replaces values under the names of secrets, and what looks like a secret inside of texts."""
    for key, value in event.items():
        if _SECRET_KEYS.search(key):
            event[key] = _REDACTED
        else:
            event[key] = _clean(value)
    return event


def _clean(value: object) -> object:
    if isinstance(value, str):
        for pattern, replacement in _SECRETS:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, dict):
        return {k: _REDACTED if _SECRET_KEYS.search(str(k)) else _clean(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - whatever a caller logs
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - whatever a caller logs
    return value
