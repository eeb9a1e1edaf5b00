"""Reads secrets from where they are said to be: a variable of the environment, or a file.

A provider's place is known to the catalog, its secret to nobody but the process that uses it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tenantry.errors import InvalidInput, OperatorError

SECRET_BYTES_MAX: Final = 64 * 1024
_ENV: Final = "env:"
_FILE: Final = "file:"
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def secret_place(*, env: str | None, file: Path | None) -> str:
    """``env:NAME`` or ``file:/PATH``, from what was typed. Raises InvalidInput unless it is exactly one of them."""
    if (env is None) == (file is None):
        raise InvalidInput(
            "where is the provider's key?",
            next_step="give --key-file FILE, or --key-env NAME of a variable; the key itself is never typed",
        )
    if file is not None:
        return f"{_FILE}{file.absolute()}"
    assert env is not None
    if not _VARIABLE.fullmatch(env):
        raise InvalidInput("--key-env takes the name of a variable", next_step="for instance --key-env NEON_API_KEY")
    return f"{_ENV}{env}"


def read_secret(place: str, whose: str, environment: Mapping[str, str] = os.environ) -> str:
    """The secret, without the white space around it. ``whose`` is said in errors: "of provider eu-2".

    Raises OperatorError when it is not there on this machine, is empty, or lies where everybody may read it.
    """
    if place.startswith(_ENV):
        name = place.removeprefix(_ENV)
        secret = environment.get(name, "").strip()
        if not secret:
            raise OperatorError(
                f"the key {whose} is in the variable {name}, which is not set here",
                next_step=f"set {name} for every process that works with the provider",
            )
        return secret
    return read_secret_file(Path(place.removeprefix(_FILE)), f"the key {whose}")


def read_secret_file(path: Path, what: str, *, kept_from: int = stat.S_IRWXO) -> str:
    """The secret in a file, without the white space around it. ``what`` is said in errors: "the API key".

    ``kept_from``: the bits of the file's mode that make it known to others. Raises OperatorError.
    """
    try:
        with path.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            content = opened.read(SECRET_BYTES_MAX + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise OperatorError(
            f"{what} is in {path}, which cannot be read: {error.strerror}",
            next_step="put the file there, readable by the user who runs this",
        ) from error
    if mode & kept_from:
        raise OperatorError(
            f"{what} is in {path}, which {'every user' if mode & stat.S_IRWXO else 'a group'} of this machine may read",
            next_step=f"chmod 600 {path}, and make a new key",
        )
    if not content.strip() or len(content) > SECRET_BYTES_MAX:
        raise OperatorError(f"{what} is not in {path}: it is empty, too long or no file")
    try:
        return content.decode().strip()
    except UnicodeDecodeError:
        raise OperatorError(f"{what} in {path} is not text") from None
