"""Asks before something is destroyed or replaced; a program that cannot be asked has to say so beforehand."""

from __future__ import annotations

import sys

import typer

from tenantry.errors import InvalidInput


def confirm(question: str, *, refusal: str, json_wanted: bool) -> None:
    """Returns when the answer is yes, ends the program when it is no.

    Raises InvalidInput with ``refusal`` where nobody can be asked: no terminal, or a program that reads JSON.
    """
    if json_wanted or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidInput(refusal, next_step="say so with --yes")
    typer.confirm(question, abort=True, err=True)
