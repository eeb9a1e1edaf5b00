"""Connection strings: building, reading, and hiding what is secret in them.

A connection string holds a password, so a :class:`Dsn` shows itself without it; only :meth:`Dsn.uri` and
:meth:`Dsn.keywords` give it away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from tenantry.errors import InvalidInput

DEFAULT_PORT: Final = 5432
_SCHEMES: Final = ("postgresql", "postgres")
_URI_SECRET: Final = re.compile(r"(postgres(?:ql)?://[^\s:/@]*:)[^\s@]*@", re.IGNORECASE)
_KEYWORD_SECRET: Final = re.compile(
    r"(\b(?:(?:ssl)?password|scram_(?:client|server)_key)\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&'\"]+)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dsn:
    """Where a database is and who goes there. Names are as Postgres has them, not encoded."""

    host: str
    """A name, an address, or (starting with ``/``) the directory of a Unix socket."""
    port: int = DEFAULT_PORT
    database: str
    role: str
    password: str | None = field(default=None, repr=False)
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    """What stands behind the ``?``: ``sslmode``, ``options`` and others, in order."""

    def uri(self) -> str:
        """``postgresql://role:password@host:port/database?...``; the port is left out when it is Postgres's own."""
        return self._uri(self.password)

    def keywords(self) -> str:
        """The same as libpq's ``keyword='value'`` text."""
        pairs: dict[str, str] = {"host": self.host, "port": str(self.port), "dbname": self.database, "user": self.role}
        if self.password is not None:
            pairs["password"] = self.password
        return " ".join(f"{name}={quote_keyword(value)}" for name, value in (pairs | dict(self.parameters)).items())

    def with_database(self, database: str) -> Dsn:
        return replace(self, database=database)

    def with_option(self, word: str) -> Dsn:
        """The same with one more word in its startup ``options``."""
        options = f"{self.parameters.get('options', '')} {word}".strip()
        return replace(self, parameters={**self.parameters, "options": options})

    def __str__(self) -> str:
        return redact(self._uri(None if self.password is None else "***"))

    def _uri(self, password: str | None) -> str:
        secret = "" if password is None else f":{_encoded(password)}"
        port = "" if self.port == DEFAULT_PORT else f":{self.port}"
        query = "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in self.parameters.items())
        return f"postgresql://{_encoded(self.role)}{secret}@{_host(self.host)}{port}/{_encoded(self.database)}" + (
            f"?{query}" if query else ""
        )


def parse_uri(uri: str) -> Dsn:
    """Reads a ``postgresql://`` URI with one host, a role and a database.

    Raises InvalidInput, which never repeats the URI.
    """
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        # The cause repeats a part of the text, which may be a part of the password.
        raise InvalidInput("the connection string is not a URI", next_step=_EXPECTED) from None
    host = _host_in(parts.netloc)
    if parts.scheme not in _SCHEMES or not host or "," in host:
        raise InvalidInput("the connection string is not a postgresql:// URI with one host", next_step=_EXPECTED)
    role, database = unquote(parts.username or ""), unquote(parts.path.removeprefix("/"))
    if not role or not database:
        raise InvalidInput("the connection string names no role or no database", next_step=_EXPECTED)
    return Dsn(
        host=unquote(host),
        port=DEFAULT_PORT if port is None else port,
        database=database,
        role=role,
        password=None if parts.password is None else unquote(parts.password),
        parameters={
            unquote(name): unquote(value)
            for name, _, value in (pair.partition("=") for pair in parts.query.split("&") if pair)
        },
    )


def _host_in(netloc: str) -> str:
    """The host with its case kept, which matters where it is a directory."""
    host = netloc.rpartition("@")[2]
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


_EXPECTED: Final = "write postgresql://role:password@host:port/database"


def redact(text: str) -> str:
    """``text`` with passwords, and keys that stand for them, of every connection string replaced by ``***``."""
    return _KEYWORD_SECRET.sub(r"\1***", _URI_SECRET.sub(r"\1***@", text))


def quote_keyword(value: str) -> str:
    """A value of libpq's ``keyword=value`` text, always quoted."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _encoded(text: str) -> str:
    return quote(text, safe="")


def _host(host: str) -> str:
    if host.startswith("/"):
        return _encoded(host)
    return f"[{host}]" if ":" in host else host
