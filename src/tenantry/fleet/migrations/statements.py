"""Reads SQL text as far as a migration runner must: where statements begin and end, and what may not run in a
transaction.

The rules are those of psql's lexer: quotes, E-strings, dollar quotes, nested comments, parentheses and the bodies
of ``BEGIN ATOMIC`` functions hide semicolons. Nothing is rewritten: the text that a file holds is the text sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

Obstacle = Literal[
    "outside_transaction", "transaction_control", "copy_stream", "psql_command", "server_wide", "discard"
]
"""``outside_transaction`` is run, alone and outside a transaction; the others are refused."""

_WORDS_KEPT_MAX: Final = 24
"""Words of a statement that are looked at: enough for the longest form that matters, bounded for long INSERTs."""

_TOKEN: Final = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<line_comment>--[^\n]*)
    | (?P<block_comment>/\*)
    | (?P<escape_string>[eE]'[^'\\]*(?:(?:\\.|'')[^'\\]*)*(?:'|\Z))
    | (?P<string>'[^']*(?:''[^']*)*(?:'|\Z))
    | (?P<quoted_name>"[^"]*(?:""[^"]*)*(?:"|\Z))
    | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a text: ``text[start:end]`` without its semicolon; ``start`` is its first token.

    ``words`` are its leading bare words, lower-cased; quoted names and literals are not among them.
    """

    start: int
    end: int
    words: tuple[str, ...]

    @property
    def obstacle(self) -> Obstacle | None:
        """Why this statement cannot be part of a migration's transaction, or None."""
        return _obstacle(self.words)

    @property
    def makes_temporary_table(self) -> bool:
        """Whether what it makes ends with the session, so that a resume would not have it."""
        head = self.words[3:] if self.words[1:3] == ("or", "replace") else self.words[1:]
        kind = head[1:2] if head[:1] in {("local",), ("global",)} else head[:1]
        return self.words[:1] == ("create",) and kind in {("temp",), ("temporary",)}

    @property
    def sets_session(self) -> bool:
        """Whether it sets something for the session that later statements may rely on: sent again on a resume."""
        if self.words[:1] == ("set",):
            return self.words[1:2] not in {("local",), ("transaction",), ("constraints",)}
        return self.words[:1] == ("reset",) or (self.words[:1] == ("select",) and "set_config" in self.words[1:3])


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text; a dollar-quoted string is one. ``kind`` is that of the lexer."""

    kind: str
    value: str
    start: int
    end: int


def next_token(text: str, position: int) -> Token | None:
    """The first token at or after ``position``, behind space and comments; None at the end of the text."""
    while position < len(text):
        found = _TOKEN.match(text, position)
        assert found is not None, "the last alternative takes any character"
        kind, value, start = str(found.lastgroup), found.group(), position
        position = found.end()
        if kind in {"space", "line_comment"}:
            continue
        if kind == "block_comment":
            position = _after_comment(text, start)
            continue
        if kind == "dollar":
            closing = text.find(value, position)
            position = len(text) if closing < 0 else closing + len(value)
        return Token(kind, value, start, position)
    return None


def split(text: str) -> tuple[Statement, ...]:
    """The statements of ``text`` in order; empty ones (``;;``, comments alone) are none, as for the server."""
    found: list[Statement] = []
    words: list[str] = []
    start: int | None = None
    end = position = parentheses = begin_depth = 0

    def close() -> None:
        nonlocal words, start, parentheses, begin_depth
        if start is not None:
            found.append(Statement(start, end, tuple(words)))
        words, start, parentheses, begin_depth = [], None, 0, 0

    while (token := next_token(text, position)) is not None:
        position = token.end
        if token.kind == "other" and token.value == ";" and parentheses == 0 and begin_depth == 0:
            close()
            continue
        if token.kind == "word":
            word = token.value.lower()
            if parentheses == 0:
                begin_depth = _begin_depth(begin_depth, words, word)
            if len(words) < _WORDS_KEPT_MAX:
                words.append(word)
        elif token.value == "(":
            parentheses += 1
        elif token.value == ")":
            parentheses = max(0, parentheses - 1)
        elif token.value == "\\" and start is None:
            # A psql command has the line to itself; it is kept so that it can be named and refused.
            newline = text.find("\n", token.start)
            position = len(text) if newline < 0 else newline
            found.append(Statement(token.start, position, ("\\",)))
            continue
        start = token.start if start is None else start
        end = position
    close()
    return tuple(found)


def _after_comment(text: str, start: int) -> int:
    """The offset behind the comment that opens at ``start``; comments nest, and an open one ends with the text."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)


def _begin_depth(depth: int, words: list[str], word: str) -> int:
    """psql's count of open BEGIN and CASE inside CREATE FUNCTION or PROCEDURE, whose semicolons separate nothing."""
    head = words[1:2] if words[1:3] != ["or", "replace"] else words[3:4]
    if words[:1] != ["create"] or head not in (["function"], ["procedure"]):
        return 0
    if word == "begin" or (word == "case" and depth > 0):
        return depth + 1
    if word == "end" and depth > 0:
        return depth - 1
    return depth


_ENDS_TRANSACTION: Final = frozenset({"begin", "commit", "rollback", "abort", "end"})
_NEVER_INSIDE: Final[tuple[tuple[str, ...], ...]] = (
    ("vacuum",),
    ("create", "database"),
    ("drop", "database"),
    ("reindex", "schema"),
    ("reindex", "database"),
    ("reindex", "system"),
)
_SERVER_WIDE: Final[tuple[tuple[str, ...], ...]] = (
    ("alter", "system"),
    ("create", "tablespace"),
    ("drop", "tablespace"),
)
_CLUSTER_ALL: Final = frozenset({("cluster",), ("cluster", "verbose")})
_CONCURRENT: Final[tuple[tuple[str, ...], ...]] = (
    ("create", "index"),
    ("create", "unique", "index"),
    ("drop", "index"),
    ("reindex",),
    ("alter", "table"),
)
_COPY_STREAMS: Final = frozenset({("from", "stdin"), ("to", "stdout")})


def _obstacle(words: tuple[str, ...]) -> Obstacle | None:
    if words[:1] == ("\\",):
        return "psql_command"
    # ROLLBACK [WORK|TRANSACTION] TO a savepoint stays inside the transaction; the other forms end it.
    if words and words[0] in _ENDS_TRANSACTION and "to" not in words[1:3]:
        return "transaction_control"
    if words[:2] in {("start", "transaction"), ("prepare", "transaction")}:
        return "transaction_control"
    if words[:1] == ("copy",) and not _COPY_STREAMS.isdisjoint(pairwise(words)):
        return "copy_stream"
    if _begins(words, _SERVER_WIDE):
        return "server_wide"
    if words[:2] == ("discard", "all"):
        return "discard"
    if _begins(words, _NEVER_INSIDE) or words in _CLUSTER_ALL:
        return "outside_transaction"
    # REFRESH MATERIALIZED VIEW CONCURRENTLY is not here: it may run inside a transaction.
    if "concurrently" in words and _begins(words, _CONCURRENT):
        return "outside_transaction"
    return None


def _begins(words: tuple[str, ...], heads: tuple[tuple[str, ...], ...]) -> bool:
    return any(words[: len(head)] == head for head in heads)
