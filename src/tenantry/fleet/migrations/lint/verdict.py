"""What a folder's migrations are warned of, and what of it stops a rollout: our rules, squawk's, and overrides.

``lint_verdict`` is the one door: it takes a loaded folder, which of its versions to judge, the levels by rule, and
what the operator allows on the command line. Wakes nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Literal, Protocol, runtime_checkable

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations.formats.base import AppliedByTool, Format, Migration
from tenantry.fleet.migrations.lint import squawk
from tenantry.fleet.migrations.lint.rules import Level, rules
from tenantry.fleet.migrations.lint.script import REASON_LENGTH_MAX, Script, Sentence, read_script

EXCERPT_LENGTH_MAX: Final = 120
FINDINGS_MAX: Final = 2_000
"""Findings that a verdict keeps; a folder with more is told so."""


@runtime_checkable
class MakesSql(Protocol):
    """A format whose migrations are no SQL files, and that can say what SQL they come to."""

    def sql_of(self, migration: Migration) -> str | None:
        """The SQL of one migration; None where it can only be known by running it."""
        ...


@dataclass(frozen=True, slots=True)
class Allowed:
    """Why a finding does not count, and who said so: a ``comment`` in the file, or the ``flag`` --allow."""

    by: Literal["comment", "flag"]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One place of one migration that a rule objects to."""

    rule: str
    level: Literal["warn", "block"]
    version: str
    file: str
    line: int
    column: int
    statement: int | None
    """From 1, as failures count them."""
    excerpt: str
    """The statement's beginning."""
    message: str
    instead: str
    """What to write instead; empty where the rule does not say."""
    source: Literal["tenantry", "squawk"]
    allowed: Allowed | None = None

    @property
    def blocks(self) -> bool:
        return self.level == "block" and self.allowed is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found in the judged migrations, in the order of the folder."""

    findings: tuple[Finding, ...]
    judged: tuple[str, ...]
    """Versions that were looked at."""
    unread: tuple[str, ...]
    """Versions whose SQL only shows when they run."""
    squawk: str | None
    """Its version; None where it is not installed."""
    notes: tuple[str, ...]

    @property
    def blocking(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.blocks)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.level == "warn" and each.allowed is None)

    @property
    def allowed(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.allowed is not None)

    @property
    def allowed_by_flag(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """By rule: the reason given with --allow and the files it covered; for the log of events."""
        said: dict[str, tuple[str, tuple[str, ...]]] = {}
        for each in self.findings:
            if each.allowed is not None and each.allowed.by == "flag":
                reason, files = said.get(each.rule, (each.allowed.reason, ()))
                said[each.rule] = reason, (*files, each.file) if each.file not in files else files
        return said

    def as_dict(self) -> dict[str, object]:
        return {
            "blocked": bool(self.blocking),
            "findings": [asdict(each) for each in self.findings],
            "judged": list(self.judged),
            "unread": list(self.unread),
            "squawk": self.squawk,
            "notes": list(self.notes),
        }


def lint_verdict(
    folder: Format,
    levels: Mapping[str, Level],
    *,
    versions: Collection[str] | None = None,
    allowed: Mapping[str, str] | None = None,
    program: Path | None = None,
    without_squawk: bool = False,
) -> Verdict:
    """Judges the folder's migrations of these ``versions``, or all of them.

    ``levels`` are those of the settings, ``allowed`` maps rules to the reasons of --allow. ``program`` is the squawk to
    ask, by default the installed one. Raises InvalidInput for a rule that nobody has, and for an empty reason.
    """
    permitted = dict(allowed or {})
    _check_reasons(permitted)
    program = None if without_squawk else program or squawk.find_squawk()
    _check_names([*levels, *permitted], program)
    read: list[tuple[Migration, Script]] = []
    unread: list[str] = []
    for migration in folder.migrations:
        if versions is not None and migration.version not in versions:
            continue
        text = _sql_of(folder, migration)
        if text is None:
            unread.append(migration.version)
        else:
            read.append((migration, read_script(text)))
    found = [*_ours(read, levels, alone=program is None)]
    if program is not None and read:
        found += _squawks(program, read, folder.directory, levels)
    # By their places: folders of customers may have several migrations of one version.
    found.sort(key=lambda each: (each[0], each[1].line, each[1].column, each[1].rule))
    notes = [] if program is not None else [squawk.HOW_TO_INSTALL]
    if len(found) > FINDINGS_MAX:
        notes.append(f"{len(found)} findings, of which {FINDINGS_MAX} are kept")
    judged = [_judged(each, read[place][1], permitted) for place, each in found]
    # What blocks is never among those that are left out.
    kept = sorted(judged, key=lambda each: not each.blocks)[:FINDINGS_MAX]
    return Verdict(
        findings=tuple(each for each in judged if each in kept) if len(judged) > FINDINGS_MAX else tuple(judged),
        judged=tuple(migration.version for migration, _ in read),
        unread=tuple(unread),
        squawk=None if program is None else squawk.version_of(program),
        notes=tuple(notes),
    )


def level_of(rule: str, levels: Mapping[str, Level]) -> Level:
    """What the settings say of a rule, or else its default."""
    if rule in levels:
        return levels[rule]
    ours = next((each for each in rules() if each.name == rule), None)
    if ours is not None:
        return ours.level
    if rule == "syntax-error":
        # Squawk's grammar is not the server's; the server has the last word.
        return "warn"
    default: Level = "off" if rule in squawk.LEFT_OUT else "warn"
    return default


def known_rules(levels: Mapping[str, Level]) -> list[tuple[str, Level]]:
    """Ours, those of squawk that are off by default, and what the settings name; each with its level."""
    names = [*(each.name for each in rules()), *sorted(squawk.LEFT_OUT)]
    names += [name for name in levels if name not in names]
    return [(name, level_of(name, levels)) for name in names]


def versions_after(folder: Format, version: str | None) -> set[str]:
    """The folder's versions behind ``version``, or all. Raises InvalidInput for one that it lacks."""
    versions = [migration.version for migration in folder.migrations]
    if version is None:
        return set(versions)
    if version not in versions:
        newest = versions[-1] if versions else "none"
        raise InvalidInput(f"the folder has no version {version!r}", next_step=f"its newest is {newest}")
    return set(versions[versions.index(version) + 1 :])


def parse_allowed(said: Sequence[str]) -> dict[str, str]:
    """``RULE=REASON`` of the command line. Raises InvalidInput."""
    allowed: dict[str, str] = {}
    for each in said:
        rule, equals, reason = each.partition("=")
        if not equals:
            raise InvalidInput(f"--allow {each}: no reason is given", next_step="write --allow RULE=REASON")
        allowed[rule.strip()] = reason.strip()
    return allowed


def _check_reasons(allowed: Mapping[str, str]) -> None:
    for rule, reason in allowed.items():
        if not reason:
            raise InvalidInput(f"--allow {rule}: the reason is empty", next_step="it is kept in the log of events")
        if len(reason) > REASON_LENGTH_MAX:
            raise InvalidInput(f"--allow {rule}: the reason has more than {REASON_LENGTH_MAX} characters")


def _check_names(names: Collection[str], program: Path | None) -> None:
    ours = {each.name for each in rules()} | squawk.LEFT_OUT | {"syntax-error"}
    strange = sorted(set(names) - ours)
    # Without squawk its names cannot be told from mistakes.
    if not strange or program is None or squawk.knows(program, strange):
        return
    unknown = next((name for name in strange if not squawk.knows(program, [name])), strange[0])
    near = get_close_matches(unknown, ours, n=1)
    raise InvalidInput(
        f"neither we nor squawk have a rule {unknown!r}",
        next_step=f"did you mean {near[0]}?" if near else "`tenantry migrate lint` names the rule of each finding",
    )


def _sql_of(folder: Format, migration: Migration) -> str | None:
    if isinstance(folder, MakesSql):
        return folder.sql_of(migration)
    return None if isinstance(folder, AppliedByTool) else migration.text


def _ours(
    read: Sequence[tuple[Migration, Script]], levels: Mapping[str, Level], *, alone: bool
) -> Iterator[tuple[int, Finding]]:
    """Each with the place of its migration."""
    for place, (migration, script) in enumerate(read):
        for rule in rules():
            level = level_of(rule.name, levels)
            if level == "off" or (rule.shared and not alone):
                continue
            for hit in rule.check(script):
                before = script.text[: hit.statement.start]
                yield (
                    place,
                    Finding(
                        rule=rule.name,
                        level=level,
                        version=migration.version,
                        file=migration.file,
                        line=before.count("\n") + 1,
                        column=hit.statement.start - (before.rfind("\n") + 1) + 1,
                        statement=hit.statement.number,
                        excerpt=_excerpt(script, hit.statement),
                        message=hit.message,
                        instead=hit.instead,
                        source="tenantry",
                    ),
                )


def _squawks(
    program: Path, read: Sequence[tuple[Migration, Script]], directory: Path, levels: Mapping[str, Level]
) -> Iterator[tuple[int, Finding]]:
    """Each with the place of its migration."""
    texts = [
        squawk.Asked(script.text, in_transaction=not any(each.outside for each in script.sentences))
        for _, script in read
    ]
    ours = {each.name for each in rules() if not each.shared} | {"syntax-error"}
    wanted = [rule for rule, level in levels.items() if level != "off" and rule not in ours]
    for complaint in squawk.ask(program, texts, directory if directory.is_dir() else Path.cwd(), also=wanted):
        level = level_of(complaint.rule, levels)
        if level == "off":
            continue
        migration, script = read[complaint.text]
        statement = script.sentence_at(complaint.line, complaint.column)
        advice = complaint.help or _our_advice(complaint.rule, script, statement)
        yield (
            complaint.text,
            Finding(
                rule=complaint.rule,
                level=level,
                version=migration.version,
                file=migration.file,
                line=complaint.line,
                column=complaint.column,
                statement=None if statement is None else statement.number,
                excerpt="" if statement is None else _excerpt(script, statement),
                message=complaint.message.rstrip("."),
                instead=advice.rstrip("."),
                source="squawk",
            ),
        )


def _our_advice(rule: str, script: Script, statement: Sentence | None) -> str:
    """What our rule of the same name says to write instead, for where squawk does not."""
    hits = (hit for each in rules() if each.name == rule for hit in each.check(script))
    return next((hit.instead for hit in hits if hit.statement is statement), "")


def _excerpt(script: Script, statement: Sentence) -> str:
    return " ".join(script.text[statement.start : statement.end].split())[:EXCERPT_LENGTH_MAX]


def _judged(finding: Finding, script: Script, permitted: Mapping[str, str]) -> Finding:
    """The finding with who allowed it. A comment without a reason allows nothing, and the finding says so."""
    for each in script.allowances:
        if finding.rule not in each.rules or each.statement not in {None, finding.statement}:
            continue
        if each.reason:
            return replace(finding, allowed=Allowed("comment", each.reason))
        finding = replace(finding, message=f"{finding.message} (line {each.line} allows it and gives no reason)")
    if finding.rule in permitted:
        return replace(finding, allowed=Allowed("flag", permitted[finding.rule]))
    return finding
