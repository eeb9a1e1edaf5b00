"""Every operation of Neon's API v2 (``contract.tsv``): method, path, operation id and group."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple


class ContractOperation(NamedTuple):
    method: str
    path: str
    """Below ``/api/v2``, with ``{names}`` for what varies."""
    id: str
    group: str


@cache
def contract_operations() -> tuple[ContractOperation, ...]:
    """All of them, by path and method. Reads a file: called once, at start."""
    text = Path(__file__).with_name("contract.tsv").read_text()
    return tuple(ContractOperation(*line.split("\t")) for line in text.splitlines())


@cache
def _by_path() -> Mapping[tuple[str, ...], Mapping[str, ContractOperation]]:
    found: dict[tuple[str, ...], dict[str, ContractOperation]] = {}
    for operation in contract_operations():
        found.setdefault(_segments(operation.path), {})[operation.method] = operation
    return found


def operations_at(path: str) -> Mapping[str, ContractOperation]:
    """What the contract has at a path such as ``/projects/x``, by method; nothing where it has no such path."""
    wanted = _segments(path)
    fitting = [
        (sum(part.startswith("{") for part in template), methods)
        for template, methods in _by_path().items()
        if len(template) == len(wanted) and all(map(_fits, template, wanted))
    ]
    return min(fitting, key=lambda found: found[0])[1] if fitting else {}


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.removeprefix("/").split("/"))


def _fits(part: str, text: str) -> bool:
    return text != "" if part.startswith("{") else part == text
