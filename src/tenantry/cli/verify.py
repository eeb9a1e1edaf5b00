"""``tenantry backup verify|report``: backups restored for proof, and what an auditor asks for."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tenantry.cli.backup import failure_document, tell_stopping, tell_vault_away
from tenantry.cli.failures import FAILED, SOME_FAILED
from tenantry.cli.options import Data, Json
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.backups.proofs import TenantVerified
    from tenantry.fleet.backups.report import Report, TenantLine

ROWS_MAX: Final = 50
"""Tenants that a table names; --json and --markdown have all of them."""


def verify_command(
    tenants: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TENANT...]",
            help="The newest backup of these tenants.",
            show_default="those whose last proof is too old soon, by verify_within of [backups]",
        ),
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Of all tenants that have one.")] = False,
    backup: Annotated[
        str | None,
        typer.Option("--backup", metavar="ID", help="This one of the tenant's, not the newest.", show_default=False),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", help="Tenants at a time.")] = 4,
    minutes: Annotated[
        float | None,
        typer.Option(metavar="M", min=0.01, help="Begin no other one after so long.", show_default=False),
    ] = None,
    vault: Annotated[
        str | None,
        typer.Option("--vault", metavar="URL", help="Another vault than the one in tenantry.toml.", show_default=False),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Restore backups into projects made for that, compare, and delete those projects. Tenants are not woken.

    Compared are the rows of every table, the fingerprint of each schema, indexes, and your own queries of
    [backups.verify_checks]. Only then a backup counts as verified. Exit status 3 when some are not.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput

    output = Output(json_wanted=json)
    if tenants and everybody:
        raise InvalidInput("name tenants, or say --all")
    results: list[TenantVerified] = []

    def tell(done: TenantVerified) -> None:
        results.append(done)
        if json:
            return
        if done.error is None and done.verified is not None and done.verified.proof is not None:
            proof = done.verified.proof
            output.say(
                f"{done.tenant}: verified: {proof.rows} rows in {proof.tables} tables,"
                f" restored in {done.verified.seconds or 0.0:.2f} s"
            )
        elif done.error is not None:
            word = "NOT GOOD" if _is_failed(done) else "not tried to the end"
            output.say(f"{done.tenant}: {word}: {done.error.message}")
            if done.error.next_step:
                output.say(f"  -> {done.error.next_step}")

    with the_fleet(data, at_a_time=8) as fleet:
        proofs = fleet.proofs(vault)
        chosen = tenants or (proofs.everybody() if everybody else proofs.due())
        summary = proofs.verify(
            chosen,
            backup=backup,
            jobs=jobs,
            minutes=minutes,
            tell=tell,
            on_interrupt=lambda: tell_stopping(output, "verifications"),
        )
    output.document(
        {
            "passed": summary.passed,
            "failed": summary.failed,
            "broken": summary.broken,
            "left": len(summary.left),
            "not_begun": summary.left,
            "vault_away": None if summary.vault_away is None else failure_document(summary.vault_away),
            "seconds": round(summary.seconds, 3),
            "swept": summary.swept,
            "tenants": [_document(each) for each in results],
        }
    )
    for sentence in summary.swept:
        output.remark(sentence)
    said = f"{summary.passed} verified, {summary.failed} not good, {summary.broken} not tried to the end"
    if summary.left:
        said += f", {len(summary.left)} not begun"
    output.say(f"{said}, in {summary.seconds:.1f} s" if chosen else "nobody is due")
    if summary.vault_away is not None:
        tell_vault_away(output, summary.vault_away, summary.left, "to verify the others: the same command again")
    if summary.failed or summary.broken:
        raise typer.Exit(SOME_FAILED if summary.passed else FAILED)


def _is_failed(done: TenantVerified) -> bool:
    return done.verified is not None and done.verified.state == "failed"


def _document(done: TenantVerified) -> dict[str, object]:
    verified = done.verified
    return {
        "tenant": done.tenant,
        "backup": done.backup,
        "state": "broken" if verified is None else verified.state,
        "seconds": round(done.seconds, 3),
        "restore_seconds": None if verified is None or verified.seconds is None else round(verified.seconds, 3),
        "proof": None if verified is None else verified.proof,
        "error": None
        if done.error is None
        else {"code": done.error.code, "message": done.error.message, "next_step": done.error.next_step},
    }


def report_command(
    tenants: Annotated[
        list[str] | None, typer.Argument(metavar="[TENANT...]", help="Only these.", show_default="all")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a document, to be kept.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit status 1 unless everybody has a backup that was verified in time.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the document there.", show_default=False)
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Tell of each tenant the newest backup, the proof that one restores, and how long that took. Asks nobody."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput
    from tenantry.fleet.backups.report import as_markdown
    from tenantry.runtime.files import write_atomic

    if markdown and json:
        raise InvalidInput("--json or --markdown, not both")
    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        report = fleet.backup_report(tenants or None)
    if out is not None:
        write_atomic(out, as_markdown(report).encode(), mode=0o644)
        output.remark(f"{out} is written")
    output.document({"ok": report.ok, **_fields(report)})
    if markdown and out is None:
        output.say(as_markdown(report).rstrip())
    elif not markdown:
        _tell(report, output)
    if check and not report.ok:
        raise typer.Exit(FAILED)


def _fields(report: Report) -> dict[str, object]:
    return {name: getattr(report, name) for name in report.__dataclass_fields__}


def _tell(report: Report, output: Output) -> None:
    now = datetime.now(UTC)
    output.table(
        ["TENANT", "STANDING", "NEWEST BACKUP", "CONTENT", "VERIFIED", "RESTORE TOOK", "ROWS"],
        [
            (
                line.tenant,
                line.standing,
                line.newest,
                _age(line.content_age_seconds),
                None if line.verified_at is None else _age((now - line.verified_at).total_seconds()),
                None if line.restore_seconds is None else f"{line.restore_seconds:.2f} s",
                line.rows,
            )
            for line in _worst_first(report)[:ROWS_MAX]
        ],
    )
    if len(report.tenants) > ROWS_MAX:
        output.remark(f"{len(report.tenants) - ROWS_MAX} more: see --json or --markdown")
    for line in report.tenants:
        if line.failure is not None:
            output.remark(f"{line.tenant}: {line.newest}: {line.failure}")
    output.say(", ".join(f"{count} {standing}" for standing, count in report.counts.items()) or "there are no tenants")


def _worst_first(report: Report) -> list[TenantLine]:
    order = ("damaged", "no backup", "unproven", "late", "due", "verified")
    return sorted(report.tenants, key=lambda line: (order.index(line.standing), line.tenant))


def _age(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def register(backup: typer.Typer) -> None:
    backup.command("verify")(verify_command)
    backup.command("report")(report_command)
