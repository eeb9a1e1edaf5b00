"""A migration's SQL as rules look at it: statements of tokens, with what the file's own comments allow. Pure.

It is no parser: it knows quotes, comments and parentheses, and leaves grammar to the rules, which look for words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tenantry.fleet.migrations.statements import Statement, split

TOKENS_MAX: Final = 5_000
"""Tokens of one statement that are looked at; an INSERT of a thousand rows says nothing new after that."""
REASON_LENGTH_MAX: Final = 500

_TOKEN: Final = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>--[^\n]*)
    | (?P<block>/\*)
    | (?P<escape>[eE]'[^'\\]*(?:(?:\\.|'')[^'\\]*)*(?:'|\Z))
    | (?P<string>'[^']*(?:''[^']*)*(?:'|\Z))
    | (?P<name>"[^"]*(?:""[^"]*)*(?:"|\Z))
    | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*)
    | (?P<symbol>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_EDGE: Final = re.compile(r"/\*|\*/")
_ALLOW: Final = re.compile(
    r"--\s*tenantry:allow(?P<file>-file)?\s+(?P<rules>[a-z0-9-]+(?:\s*,\s*[a-z0-9-]+)*)(?P<reason>.*)"
)

Kind = Literal["word", "name", "string", "number", "symbol"]


@dataclass(frozen=True, slots=True)
class Token:
    """A ``word`` is in lower case, a ``name`` without its quotes, a ``string`` is its content as it is written."""

    kind: Kind
    value: str

    @property
    def identifies(self) -> bool:
        return self.kind in {"word", "name"}


@dataclass(frozen=True, slots=True)
class Clause:
    """A statement, or a part of one that stands between commas."""

    tokens: tuple[Token, ...]

    def starts(self, *words: str) -> bool:
        return self.at(0, *words)

    def at(self, index: int, *words: str) -> bool:
        """Whether exactly these words stand at ``index``; quoted names are no words."""
        found = self.tokens[index : index + len(words)]
        return len(found) == len(words) and all(
            token.kind == "word" and token.value == word for token, word in zip(found, words, strict=True)
        )

    def find(self, *words: str) -> int | None:
        """Where these words stand next to each other, outside of parentheses."""
        depth = 0
        for index, token in enumerate(self.tokens):
            if token.kind == "symbol" and token.value in "()":
                depth += 1 if token.value == "(" else -1
            elif depth == 0 and self.at(index, *words):
                return index
        return None

    def has(self, *words: str) -> bool:
        return self.find(*words) is not None

    def after(self, index: int, *optional: str) -> int:
        """The index behind the words of ``optional`` (each a word that may be missing), in their order."""
        for word in optional:
            index += self.at(index, word)
        return index

    def name_at(self, index: int) -> tuple[str, int]:
        """The name, with its schema if it has one, that begins at ``index``, and the index behind it."""
        parts: list[str] = []
        while index < len(self.tokens) and self.tokens[index].identifies:
            parts.append(self.tokens[index].value)
            index += 1
            if not (index < len(self.tokens) and self.tokens[index] == _DOT):
                break
            index += 1
        return ".".join(parts), index

    def parts(self, start: int) -> Iterator[Clause]:
        """What stands between commas from ``start`` on, outside of parentheses."""
        depth = 0
        part: list[Token] = []
        for token in self.tokens[start:]:
            if token.kind == "symbol" and token.value in "([":
                depth += 1
            elif token.kind == "symbol" and token.value in ")]":
                depth -= 1
            if depth == 0 and token == _COMMA:
                yield Clause(tuple(part))
                part = []
            else:
                part.append(token)
        if part:
            yield Clause(tuple(part))


_DOT: Final = Token("symbol", ".")
_COMMA: Final = Token("symbol", ",")


@dataclass(frozen=True, slots=True)
class Sentence(Clause):
    """One statement of a file. ``number`` counts from 1; ``start`` and ``end`` are characters of the file."""

    number: int
    start: int
    end: int
    outside: bool
    """It cannot run inside a transaction."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """A comment that allows rules: for a statement, or for the whole file (``statement`` is None)."""

    rules: frozenset[str]
    reason: str
    line: int
    statement: int | None


@dataclass(frozen=True, slots=True)
class Script:
    """One migration."""

    text: str
    sentences: tuple[Sentence, ...]
    allowances: tuple[Allowance, ...]

    def sentence_at(self, line: int, column: int) -> Sentence | None:
        """The statement that a place belongs to; both count from 1."""
        offset = sum(len(each) + 1 for each in self.text.split("\n", line - 1)[: line - 1]) + column - 1
        return next((each for each in self.sentences if each.start <= offset <= each.end), None)


def read_script(text: str) -> Script:
    """Reads a migration's text."""
    sentences = tuple(_sentence(text, number, each) for number, each in enumerate(split(text), 1))
    return Script(text, sentences, tuple(_allowances(text, sentences)))


def _sentence(text: str, number: int, statement: Statement) -> Sentence:
    tokens: list[Token] = []
    for kind, value, _ in _tokens(text, statement.start, statement.end):
        if kind != "comment" and len(tokens) < TOKENS_MAX:
            tokens.append(Token(kind, value))
    outside = statement.obstacle == "outside_transaction"
    return Sentence(tuple(tokens), number, statement.start, statement.end, outside)


def _tokens(text: str, start: int, end: int) -> Iterator[tuple[Kind | Literal["comment"], str, int]]:
    """The tokens and line comments of ``text[start:end]``, each with its offset."""
    position = start
    while position < end:
        found = _TOKEN.match(text, position, end)
        assert found is not None, "the last alternative takes any character"
        kind, value, begin = found.lastgroup, found.group(), position
        position = found.end()
        match kind:
            case "space":
                continue
            case "comment":
                yield "comment", value, begin
            case "block":
                position = _behind_comment(text, begin, end)
            case "escape":
                yield "string", value[2:-1], begin
            case "string":
                yield "string", value[1:-1], begin
            case "name":
                yield "name", value[1:-1].replace('""', '"'), begin
            case "dollar":
                closing = text.find(value, position, end)
                body_end = end if closing < 0 else closing
                yield "string", text[position:body_end], begin
                position = min(end, body_end + len(value))
            case "word":
                yield "word", value.lower(), begin
            case "number":
                yield "number", value, begin
            case _:
                yield "symbol", value, begin


def _behind_comment(text: str, start: int, end: int) -> int:
    depth = 0
    for edge in _EDGE.finditer(text, start, end):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return end


def _allowances(text: str, sentences: Sequence[Sentence]) -> Iterator[Allowance]:
    if "tenantry:allow" not in text:
        return
    for kind, value, begin in _tokens(text, 0, len(text)):
        said = _ALLOW.match(value) if kind == "comment" else None
        if said is None:
            continue
        rules = frozenset(rule.strip() for rule in said["rules"].split(","))
        # Between the name of a rule and its reason people write a colon or a dash.
        reason = said["reason"].strip().lstrip(":-").strip()[:REASON_LENGTH_MAX]
        whom = None if said["file"] else _meant(text, sentences, begin)
        if said["file"] or whom is not None:
            yield Allowance(rules, reason, text.count("\n", 0, begin) + 1, whom)


def _meant(text: str, sentences: Sequence[Sentence], comment: int) -> int | None:
    """The statement that a comment is about: the one that ends on its line before it, else the one that ends next."""
    before = next((each for each in reversed(sentences) if each.end <= comment), None)
    if before is not None and "\n" not in text[before.end : comment]:
        return before.number
    return next((each.number for each in sentences if each.end > comment), None)
