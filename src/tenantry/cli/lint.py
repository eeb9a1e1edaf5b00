"""``tenantry migrate lint``: what in the migrations will hurt, before anybody is migrated."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from tenantry.cli.failures import FAILED
from tenantry.cli.options import Allow, Data, Directory, Json
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tenantry.fleet.main import Fleet
    from tenantry.fleet.migrations.formats.base import Format
    from tenantry.fleet.migrations.lint.rules import Level
    from tenantry.fleet.migrations.lint.verdict import Finding, Verdict

FINDINGS_SHOWN_MAX: Final = 100


def lint_command(
    directory: Directory = None,
    pending: Annotated[bool, typer.Option("--pending", help="Only what some tenant lacks, by the catalog.")] = False,
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="VERSION", help="Only migrations behind this one.", show_default=False),
    ] = None,
    allow: Allow = None,
    rules: Annotated[bool, typer.Option("--rules", help="List our rules and their levels.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Say what in the migrations locks, breaks or loses something, and what to write instead. Wakes nobody.

    Levels by rule are [migrations.lint] of tenantry.toml. A comment `-- tenantry:allow RULE reason` before a statement
    lets it pass. Exit status 1 when something blocks.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.migrations.formats.folders import open_folder
    from tenantry.fleet.migrations.lint.verdict import known_rules, lint_verdict, parse_allowed, versions_after
    from tenantry.fleet.migrations.plan import make_plan
    from tenantry.fleet.settings import load_settings

    output = Output(json_wanted=json)
    said = load_settings().migrations
    if rules:
        listed = known_rules(said.lint)
        output.document({"rules": [{"rule": rule, "level": level} for rule, level in listed]})
        output.table(["RULE", "LEVEL"], listed)
        return
    folder = open_folder(directory or said.dir)
    versions = versions_after(folder, after)
    if pending:
        with the_fleet(data) as fleet:
            plan = make_plan(folder, fleet.migrating.select(None))
        versions &= {version for each in plan.tenants for version in each.pending}
    verdict = lint_verdict(folder, said.lint, versions=versions, allowed=parse_allowed(allow or []))
    output.document(verdict.as_dict())
    show_verdict(output, verdict)
    if verdict.blocking:
        raise typer.Exit(FAILED)


def checked(
    output: Output,
    fleet: Fleet,
    folder: Format,
    levels: Mapping[str, Level],
    pending: Collection[str],
    allow: list[str] | None,
) -> Verdict:
    """The verdict before a run; what --allow lets pass is kept. Raises Conflict when something blocks."""
    from tenantry.errors import Conflict
    from tenantry.fleet.migrations.lint.verdict import lint_verdict, parse_allowed

    verdict = lint_verdict(folder, levels, versions=pending, allowed=parse_allowed(allow or []))
    if verdict.blocking:
        first = verdict.blocking[0]
        more = f" (and {len(verdict.blocking) - 1} more)" if len(verdict.blocking) > 1 else ""
        raise Conflict(
            f"{first.file}:{first.line}: {first.rule}: {first.message}{more}",
            next_step=f"{first.instead or 'mend it'}; or let it pass with --allow {first.rule}=REASON",
            rule=first.rule,
        )
    if output.json_wanted:
        output.event({"event": "lint", **verdict.as_dict()})
    elif verdict.warnings:
        output.remark(f"{len(verdict.warnings)} warnings of the lint: tenantry migrate lint --pending")
    fleet.note_allowed(verdict)
    return verdict


def show_verdict(output: Output, verdict: Verdict) -> None:
    """The findings, those that block first to be seen last."""
    if output.json_wanted:
        return
    told = [*verdict.allowed, *verdict.warnings, *verdict.blocking]
    for each in told[-FINDINGS_SHOWN_MAX:]:
        _show_finding(output, each)
    if len(told) > FINDINGS_SHOWN_MAX:
        output.say(f"and {len(told) - FINDINGS_SHOWN_MAX} more: --json has all of them")
    for note in verdict.notes:
        output.remark(note)
    if verdict.unread:
        output.remark(f"not judged, since their SQL shows only when they run: {', '.join(verdict.unread)}")
    by = f"our rules and {verdict.squawk}" if verdict.squawk else "our rules"
    parts = [
        f"{len(verdict.blocking)} blocking",
        f"{len(verdict.warnings)} warnings",
        *([f"{len(verdict.allowed)} allowed"] if verdict.allowed else []),
    ]
    output.say(f"{', '.join(parts)}: {len(verdict.judged)} migrations judged by {by}")


def _show_finding(output: Output, finding: Finding) -> None:
    word = f"allowed ({finding.allowed.reason})" if finding.allowed else finding.level
    output.say(f"{finding.file}:{finding.line}: {word}: {finding.rule}: {finding.message}")
    if finding.excerpt:
        output.say(f"    {finding.excerpt}")
    if finding.instead and finding.allowed is None:
        output.say(f"  -> {finding.instead}")


def register(migrate: typer.Typer) -> None:
    migrate.command("lint")(lint_command)
