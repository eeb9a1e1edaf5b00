"""Prove one backup: restore it into a project made for that, compare what is there with what it says, delete that.

A backup counts as verified only in the transaction that follows the comparison. The project holds a customer's data: it
is written down before it is made, is made where the tenant's own may be, and is found by whoever comes after a crash.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final
from uuid import uuid4

import psycopg

from tenantry.errors import (
    DamagedBackup,
    DiskFull,
    InvalidInput,
    LimitReached,
    Locked,
    NotFound,
    OperatorError,
    TenantryError,
    Unavailable,
    VaultError,
    WrongKey,
)
from tenantry.fleet.backups import proof_sql
from tenantry.fleet.backups.opened import OpenedBackup, open_backup
from tenantry.fleet.backups.reach import connect, in_our_words, way_to
from tenantry.fleet.backups.restore import Restored, Target, restore_into, target_of_project
from tenantry.fleet.backups.take import Surroundings
from tenantry.fleet.catalog import events, providers
from tenantry.fleet.catalog import verifications as rows
from tenantry.fleet.catalog.backups import BackupRecord
from tenantry.fleet.catalog.verifications import VerificationId, VerificationState
from tenantry.fleet.providers.ports import Provider
from tenantry.runtime.failpoints import failpoint
from tenantry.runtime.telemetry import late_log

NAME: Final = "tenantry-verify"
"""Before the id in brackets with which the name of a verification's project ends."""
CHECK_SECONDS_MAX: Final = 60
"""Each of the operator's own queries may take so long."""
REMARKS_MAX: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was compared."""

    databases: int
    tables: int
    rows: int
    fingerprints: int
    """Databases whose schema's fingerprint is the one that was backed up."""
    constraints: int
    indexes: int
    checks: Sequence[str]
    """The operator's own queries that were true."""
    remarks: Sequence[str]
    """What is restored otherwise than it was, each with its reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What came of one. ``error`` is set where it did not pass."""

    backup: BackupRecord
    state: VerificationState
    seconds: float | None
    """How long the restore took."""
    proof: Proof | None
    error: TenantryError | None


class NotAsSaid(OperatorError):
    """What was restored is well, and is not what the operator's queries demand."""

    code = "BACKUP_CHECK"


def verify_backup(
    around: Surroundings, slug: str, record: BackupRecord, checks: Mapping[str, str], living: set[VerificationId]
) -> Verified:
    """``slug``: as the tenant is called now. Raises Locked while somebody else is at it, and NotFound.

    All else that goes wrong is the result, and stands in the catalog.
    """
    tenant, _, _ = around.tenants.ready(slug)
    assert tenant.id == record.tenant_id
    where = tenant.region
    if where is not None:
        with around.catalog.transaction() as connection:
            where = providers.serving_of(connection, tenant.provider_id, where) or where
    provider = around.tenants.provider_of(tenant)
    verification = VerificationId(uuid4())
    with around.catalog.transaction() as connection:
        if not rows.begin_verification(connection, verification, record.id, tenant.provider_id, by=events.actor()):
            raise Locked(f"backup {record.id} is being verified by somebody else", next_step="wait until that is over")
    living.add(verification)
    failpoint("verify.written")
    try:
        done = _Verification(around, record, provider, where, checks, verification).run()
        failpoint("verify.compared")
        with around.catalog.transaction() as connection:
            counts = rows.finish_verification(
                connection,
                verification,
                done.state,
                seconds=done.seconds,
                proof=None if done.proof is None else asdict(done.proof),
                failure=None if done.error is None else _document(done.error),
                doubt=done.error is not None and is_doubt(done.error),
            )
            if counts:
                events.record(
                    connection, "verify backup", tenant, backup=record.id, outcome=done.state, seconds=done.seconds
                )
        failpoint("verify.recorded")
        if not counts:
            raise NotFound(f"backup {record.id} was deleted, or this was given up, while it was verified")
        return done
    finally:
        living.discard(verification)
        clear(around, provider, verification)


def clear(around: Surroundings, provider: Provider, verification: VerificationId) -> None:
    """Deletes the verification's project, if there is one. What cannot be done now a sweep does."""
    try:
        delete_project(provider, verification)
        with around.catalog.transaction() as connection:
            rows.clear_verification(connection, verification)
    except TenantryError as error:
        late_log("backups").warning(
            "the project of a verification is not deleted yet", verification=str(verification), reason=str(error)
        )


def delete_project(provider: Provider, verification: VerificationId) -> None:
    """By its name, which is known before it is made. Safe twice."""
    mark = f"[{verification}]"
    for project in provider.find_projects(mark):
        if project.name.endswith(mark):
            provider.delete_project(project.id, for_good=True)


def state_of(error: TenantryError) -> VerificationState:
    """Whether the backup has failed, or whatever was needed to find out. Pure."""
    if isinstance(error, DamagedBackup | NotAsSaid | NotFound):
        return "failed"
    if isinstance(error, Unavailable | VaultError | LimitReached | Locked | DiskFull | WrongKey | InvalidInput):
        return "broken"
    return "failed"


def is_doubt(error: TenantryError) -> bool:
    """Whether the backup is not what was written, so that it counts as a good one no more. Pure."""
    return isinstance(error, DamagedBackup)


class _Verification:
    """One of them, while it runs. One thread."""

    def __init__(
        self, around: Surroundings, record: BackupRecord, provider: Provider, region: str | None,
        checks: Mapping[str, str], verification: VerificationId,
    ) -> None:  # fmt: skip
        self._around = around
        self._record = record
        self._provider = provider
        self._region = region
        self._checks = checks
        self._id = verification
        self._seconds: float | None = None

    def run(self) -> Verified:
        try:
            proof = self._prove()
        except TenantryError as error:
            return Verified(backup=self._record, state=state_of(error), seconds=self._seconds, proof=None, error=error)
        return Verified(backup=self._record, state="passed", seconds=self._seconds, proof=proof, error=None)

    def _prove(self) -> Proof:
        opened = self._open()
        project, home = self._provider.create_project(
            name=f"{NAME} [{self._id}]", region=self._region, pg_version=opened.manifest.server_major
        )
        failpoint("verify.created")
        target = target_of_project(self._provider, project.id, home, tls_ca=self._around.tls_ca)
        began = time.monotonic()
        try:
            restored = restore_into(opened, target)
        except NotFound as error:  # an object of it; all else was made here
            raise _missing(self._record, error) from error
        self._seconds = time.monotonic() - began
        failpoint("verify.restored")
        return self._compare(opened, target, restored)

    def _open(self) -> OpenedBackup:
        if self._record.vault != self._around.vault.url:
            raise InvalidInput(
                f"backup {self._record.id} is in {self._record.vault}, and the vault here is {self._around.vault.url}",
                next_step="say which with --vault",
            )
        try:
            return open_backup(
                self._around.vault,
                self._around.keys,
                self._record.place,
                manifest_sha256=self._record.manifest_sha256,
            )
        except NotFound as error:
            raise _missing(self._record, error) from error

    def _compare(self, opened: OpenedBackup, target: Target, restored: Restored) -> Proof:
        """``restore_into`` has counted the rows of every table, and raised where they are others."""
        fingerprints = constraints = indexes = 0
        passed: list[str] = []
        for database in opened.contents.databases:
            is_home = database.name == opened.contents.home
            name = target.home.database_name if is_home else database.name
            if name not in restored.databases:
                if target.whole:
                    raise DamagedBackup(f"database {database.name} of backup {self._record.id} was not restored")
                continue
            with way_to(target.uri_of(name), self._around.tls_ca) as dsn, connect(dsn) as session:
                try:
                    session.execute(proof_sql.BEGIN)
                    constraints += self._constraints(session)
                    indexes += self._indexes(session)
                    fingerprints += self._fingerprint(session, opened, database.name, database.fingerprint)
                    session.execute("COMMIT")
                    if is_home:
                        passed = self._own_checks(session)
                except psycopg.Error as error:
                    raise in_our_words(error, f"looking at what was restored into {name} failed") from error
        return Proof(
            databases=len(restored.databases),
            tables=restored.tables,
            rows=restored.rows,
            fingerprints=fingerprints,
            constraints=constraints,
            indexes=indexes,
            checks=passed,
            remarks=restored.notes[:REMARKS_MAX],
        )

    def _constraints(self, session: psycopg.Connection) -> int:
        row = session.execute(proof_sql.CONSTRAINTS).fetchone()
        assert row is not None
        return int(row[0])

    def _indexes(self, session: psycopg.Connection) -> int:
        row = session.execute(proof_sql.INDEXES).fetchone()
        assert row is not None
        if row[1]:
            raise DamagedBackup(f"index {row[1]} of backup {self._record.id} cannot be used where it was restored")
        return int(row[0])

    def _fingerprint(self, session: psycopg.Connection, opened: OpenedBackup, database: str, wanted: str | None) -> int:
        algorithm = self._around.fingerprints.algorithm
        if wanted is None or opened.manifest.fingerprint_algorithm != algorithm:
            return 0  # an older Tenantry has written it, whose fingerprints say nothing here
        found = self._around.fingerprints.of(session)
        if found != wanted:
            raise DamagedBackup(
                f"the schema of database {database} in backup {self._record.id} is not the one that was backed up:"
                f" its fingerprint is {found[:12]}, not {wanted[:12]}",
                next_step="take another backup, and report this",
            )
        return 1

    def _own_checks(self, session: psycopg.Connection) -> list[str]:
        passed: list[str] = []
        for name, query in self._checks.items():
            try:
                session.execute(proof_sql.BEGIN)
                session.execute(proof_sql.TIMEOUT, [f"{CHECK_SECONDS_MAX}s"])
                found = session.execute(query.encode()).fetchall()
            except psycopg.Error as error:
                raise NotAsSaid(
                    f"the check {name} cannot be made: {error.diag.message_primary or type(error).__name__}",
                    next_step="mend its SQL under [backups.verify_checks]",
                ) from error
            finally:
                with contextlib.suppress(psycopg.Error):
                    session.execute("ROLLBACK")
            if len(found) != 1 or len(found[0]) != 1 or not isinstance(found[0][0], bool | None):
                raise NotAsSaid(
                    f"the check {name} gives no single boolean", next_step="mend its SQL under [backups.verify_checks]"
                )
            if found[0][0] is False:
                raise NotAsSaid(f"the check {name} is not true", next_step="look at the tenant's data")
            passed.append(name)
        return passed


def _missing(record: BackupRecord, error: NotFound) -> DamagedBackup:
    return DamagedBackup(
        f"a part of backup {record.id} is missing: {error.message}", next_step="take another backup; see who deleted it"
    )


def _document(error: TenantryError) -> dict[str, object]:
    return {"code": error.code, "message": error.message, "next_step": error.next_step}
