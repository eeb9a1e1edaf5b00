"""Asks squawk, the linter of PostgreSQL migrations, where it is installed (the extra ``lint``).

One process for all migrations of a kind, on copies of their texts: a format may make its SQL, and paths may hold
characters that squawk takes for patterns. It runs in the folder, so that a ``.squawk.toml`` there or above counts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tenantry.errors import OperatorError

SECONDS_MAX: Final = 60
FILES_AT_A_TIME: Final = 500
OUTPUT_BYTES_MAX: Final = 32 * 1024 * 1024
HOW_TO_INSTALL: Final = 'squawk is not installed, so only our own rules were asked: pip install "tenantry[lint]"'

LEFT_OUT: Final = frozenset(
    {
        # We set both for every migration, and the rule cannot see that.
        "require-timeout-settings",
        "require-lock-timeout",
        "require-statement-timeout",
        # The plan decides what runs in a transaction, and refuses what would end one.
        "transaction-nesting",
        "ban-uncommitted-transaction",
        "ban-concurrent-index-creation-in-transaction",
        # A migration is applied whole or not at all, and its ledger row says which.
        "prefer-robust-stmts",
        # About the style of columns, not about the rollout.
        "prefer-big-int",
        "prefer-bigint-over-int",
        "prefer-bigint-over-smallint",
        "prefer-identity",
        "prefer-text-field",
        "prefer-timestamp-tz",
        "ban-char-field",
    }
)
"""Rules of squawk that are off unless the settings turn them on."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One migration's text, and whether it runs in a transaction of the runner."""

    text: str
    in_transaction: bool


@dataclass(frozen=True, slots=True)
class Complaint:
    """What squawk says about one of the texts: its index, and a line and column from 1."""

    text: int
    rule: str
    line: int
    column: int
    message: str
    help: str | None


class _Violation(BaseModel):
    model_config = ConfigDict(extra="ignore")

    file: str
    line: int
    column: int
    message: str
    help: str | None = None
    rule_name: str


_REPORT: Final = TypeAdapter(list[_Violation])


def find_squawk() -> Path | None:
    """The program of this Python's environment, or else the one of the PATH."""
    beside = Path(sys.executable).parent / "squawk"
    if beside.is_file() and os.access(beside, os.X_OK):
        return beside
    found = shutil.which("squawk")
    return Path(found) if found else None


def version_of(program: Path) -> str:
    """Such as ``squawk 2.70.0``. Raises OperatorError when it does not run."""
    return _run(program, ["--version"], Path.cwd()).stdout.decode("utf-8", "replace").strip()


def knows(program: Path, rules: Collection[str]) -> bool:
    """Whether squawk has all of these rules. Raises OperatorError."""
    return _run(program, [f"--exclude={','.join(sorted(rules))}", "--version"], Path.cwd()).returncode == 0


def ask(program: Path, texts: Sequence[Asked], directory: Path, *, also: Sequence[str] = ()) -> Iterator[Complaint]:
    """What squawk says about the texts, ``also`` by these rules that are off by default. Raises OperatorError."""
    for wrapped in (True, False):
        indexes = [index for index, each in enumerate(texts) if each.in_transaction is wrapped]
        for first in range(0, len(indexes), FILES_AT_A_TIME):
            batch = indexes[first : first + FILES_AT_A_TIME]
            yield from _ask(program, {index: texts[index].text for index in batch}, directory, wrapped, also)


def _ask(
    program: Path, texts: dict[int, str], directory: Path, wrapped: bool, also: Sequence[str]
) -> Iterator[Complaint]:
    with tempfile.TemporaryDirectory(prefix="tenantry-lint-") as home:
        paths = {str(Path(home) / f"{index}.sql"): index for index in texts}
        for path, index in paths.items():
            Path(path).write_text(texts[index], encoding="utf-8", newline="")
        options = ["--reporter", "json", "--assume-in-transaction" if wrapped else "--no-assume-in-transaction"]
        options += [f"--include={rule}" for rule in also]
        done = _run(program, [*options, *paths], directory)
        if len(done.stdout) > OUTPUT_BYTES_MAX:
            raise OperatorError(f"squawk wrote more than {OUTPUT_BYTES_MAX} bytes about {len(texts)} migrations")
        try:
            report = _REPORT.validate_json(done.stdout)
        except ValidationError as error:
            raise _not_understood(done) from error
        for each in report:
            index = paths[each.file]
            column = _characters(texts[index], each.line, each.column) + 1
            yield Complaint(index, each.rule_name, each.line + 1, column, each.message, each.help)


def _characters(text: str, line: int, column: int) -> int:
    """Squawk counts a column in bytes."""
    lines = text.split("\n", line + 1)
    return len(lines[line].encode()[:column].decode("utf-8", "ignore")) if line < len(lines) else 0


def _run(program: Path, arguments: Sequence[str], directory: Path) -> subprocess.CompletedProcess[bytes]:
    # In GitHub's runners it would write annotations about our copies into its report.
    environment = {**os.environ, "SQUAWK_DISABLE_GITHUB_ANNOTATIONS": "1"}
    try:
        return subprocess.run(
            [str(program), *arguments],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        what = f"took more than {SECONDS_MAX} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)
        raise OperatorError(
            f"squawk did not answer: {what}", next_step='install it anew: pip install --force-reinstall "squawk-cli"'
        ) from error


def _not_understood(done: subprocess.CompletedProcess[bytes]) -> OperatorError:
    said = " ".join(done.stderr.decode("utf-8", "replace").split())[:500]
    return OperatorError(
        f"squawk ended with {done.returncode} and no report: {said or 'it said nothing'}",
        next_step="see that `squawk --version` runs, and that .squawk.toml is right",
    )
