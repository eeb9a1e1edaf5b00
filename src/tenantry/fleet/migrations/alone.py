"""Statements that no transaction may hold (``CREATE INDEX CONCURRENTLY`` and its kin), read so far that a resume can
tell whether one took place, and what a broken attempt may have left. Pure.

Only names are read. What cannot be read for certain is refused before anybody is woken, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from tenantry.fleet.migrations.statements import Statement, Token, next_token

NAME_BYTES_MAX: Final = 63
"""Postgres cuts longer names at this length, so the catalogs hold the cut ones."""


@dataclass(frozen=True, slots=True)
class CreateIndex:
    """CREATE INDEX CONCURRENTLY. A broken one leaves an invalid index of its name."""

    name: str
    """As the catalogs have it."""
    table: str
    """As the statement writes it; resolved by the session's search_path, as the statement is."""
    definition: tuple[str, ...]
    """What defines the index, behind the table's name, as tokens to be compared."""
    unique: bool
    if_not_exists: bool


@dataclass(frozen=True, slots=True)
class DropIndex:
    """DROP INDEX CONCURRENTLY. A broken one leaves an index that can only be dropped."""

    name: str
    """As the statement writes it."""


@dataclass(frozen=True, slots=True)
class Reindex:
    """REINDEX outside a transaction. A broken one leaves invalid indexes called ``..._ccnew`` or ``..._ccold``."""

    kind: Literal["index", "table", "schema", "database", "system"]
    name: str | None


@dataclass(frozen=True, slots=True)
class DetachPartition:
    """ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY. A broken one leaves the partition half detached."""

    table: str
    partition: str


@dataclass(frozen=True, slots=True)
class Database:
    """CREATE or DROP DATABASE. A broken one leaves nothing that is not cleared by another attempt."""

    verb: Literal["create", "drop"]
    name: str
    """As the catalogs have it."""


@dataclass(frozen=True, slots=True)
class Repeatable:
    """VACUUM or CLUSTER: done again, it does no harm."""


Alone = CreateIndex | DropIndex | Reindex | DetachPartition | Database | Repeatable
Unreadable = Literal["unnamed_index", "unreadable"]


def read(text: str, statement: Statement) -> Alone | Unreadable:
    """What ``statement`` of ``text``, whose obstacle is ``outside_transaction``, does to what."""
    reader = _Reader(text, statement)
    words = statement.words
    try:
        if words[0] == "create" and words[1] == "database":
            return _database(reader, "create")
        if words[0] == "drop" and words[1] == "database":
            return _database(reader, "drop")
        if words[0] == "create":
            return _create_index(reader)
        if words[0] == "drop":
            return _drop_index(reader)
        if words[0] == "reindex":
            return _reindex(reader)
        if words[0] == "alter":
            return _detach(reader)
    except _Unread:
        return "unreadable"
    return Repeatable()


class _Unread(Exception):
    """The statement is written in a way that this module does not know."""


class _Reader:
    """Takes tokens of one statement from the left."""

    def __init__(self, text: str, statement: Statement) -> None:
        self._tokens: list[Token] = list(_tokens(text, statement))
        self._next = 0

    def _peek(self) -> Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def take(self, *words: str) -> bool:
        """Takes these words if they come next."""
        ahead = self._tokens[self._next : self._next + len(words)]
        if [each.value.lower() for each in ahead if each.kind == "word"] != list(words):
            return False
        self._next += len(words)
        return True

    def need(self, *words: str) -> None:
        if not self.take(*words):
            raise _Unread

    def symbol(self, value: str) -> bool:
        token = self._peek()
        if token is None or token.kind != "other" or token.value != value:
            return False
        self._next += 1
        return True

    def name(self) -> str:
        """One name, as it is written."""
        token = self._peek()
        if token is None or token.kind not in {"word", "quoted_name"}:
            raise _Unread
        self._next += 1
        return token.value

    def qualified(self) -> str:
        """A name with the names before its dots, as it is written."""
        parts = [self.name()]
        while self.symbol("."):
            parts.append(self.name())
        return ".".join(parts)

    def options(self) -> None:
        """Passes a list in parentheses."""
        if self.symbol("("):
            while not self.symbol(")"):
                if self._peek() is None:
                    raise _Unread
                self._next += 1

    def next_is(self, *expected: str) -> None:
        """What must come next: a word, a symbol, or the end, written as ``""``."""
        token = self._peek()
        if (token.value.lower() if token else "") not in expected:
            raise _Unread

    def rest(self) -> tuple[str, ...]:
        """The remaining tokens in one spelling each."""
        return tuple(folded(each.value) if each.kind in {"word", "quoted_name"} else each.value
                     for each in self._tokens[self._next :])  # fmt: skip


def _tokens(text: str, statement: Statement) -> Iterator[Token]:
    position = statement.start
    while (token := next_token(text, position)) is not None and token.end <= statement.end:
        yield token
        position = token.end


def folded(name: str) -> str:
    """The name that the catalogs have for a name in SQL: quotes taken off, or ASCII letters made small."""
    if name.startswith('"'):
        plain = name[1:-1].replace('""', '"')
    else:
        plain = "".join(letter.lower() if letter.isascii() else letter for letter in name)
    return plain.encode()[:NAME_BYTES_MAX].decode(errors="ignore")


def _create_index(reader: _Reader) -> CreateIndex | Unreadable:
    reader.need("create")
    unique = reader.take("unique")
    reader.need("index", "concurrently")
    if_not_exists = reader.take("if", "not", "exists")
    if reader.take("on"):
        return "unnamed_index"
    name = folded(reader.name())
    reader.need("on")
    reader.take("only")
    table = reader.qualified()
    reader.next_is("using", "(")
    rest = reader.rest()
    definition = rest if rest[:1] == ("using",) else ("using", "btree", *rest)
    return CreateIndex(name, table, definition, unique, if_not_exists)


def _drop_index(reader: _Reader) -> DropIndex:
    reader.need("drop", "index", "concurrently")
    reader.take("if", "exists")
    name = reader.qualified()
    reader.next_is("", "cascade", "restrict")
    return DropIndex(name)


def _reindex(reader: _Reader) -> Reindex:
    reader.need("reindex")
    reader.options()
    for kind in ("index", "table", "schema", "database", "system"):
        if reader.take(kind):
            reader.take("concurrently")
            name = None if kind in {"database", "system"} else reader.qualified()
            if name is not None:
                reader.next_is("")
            return Reindex(kind, name)
    raise _Unread


def _detach(reader: _Reader) -> DetachPartition:
    reader.need("alter", "table")
    reader.take("if", "exists")
    reader.take("only")
    table = reader.qualified()
    reader.symbol("*")
    reader.need("detach", "partition")
    partition = reader.qualified()
    reader.need("concurrently")
    reader.next_is("")
    return DetachPartition(table, partition)


def _database(reader: _Reader, verb: Literal["create", "drop"]) -> Database:
    reader.need(verb, "database")
    if verb == "drop":
        reader.take("if", "exists")
    name = folded(reader.name())
    if reader.symbol("&"):
        raise _Unread
    return Database(verb, name)


def same_definition(wanted: CreateIndex, indexdef: str) -> bool:
    """Whether ``pg_get_indexdef`` says what the statement says, in the spelling that Postgres gives it.

    Errs on the side of no: an expression that Postgres writes otherwise counts as another one.
    """
    statement = Statement(0, len(indexdef), ())
    reader = _Reader(indexdef, statement)
    try:
        reader.need("create")
        unique = reader.take("unique")
        reader.need("index")
        reader.name()
        reader.need("on")
        reader.take("only")
        reader.qualified()
    except _Unread:
        return False
    return (unique, reader.rest()) == (wanted.unique, wanted.definition)
