"""Take one backup of one tenant: every database streamed to the vault, what lies outside of them, the manifest last.

Nothing touches this machine's disk, and nothing is held whole in memory. The catalog's row comes before the first
object, so that what a killed process leaves is found; the manifest comes after the last, and makes a backup of them.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeVar

import psycopg

from tenantry.errors import OperatorError, TenantryError, Unavailable
from tenantry.fleet.backups import questions
from tenantry.fleet.backups.activity import activity_after, quiet_since
from tenantry.fleet.backups.container import seal
from tenantry.fleet.backups.contents import (
    Contents,
    count_large_objects,
    count_tables,
    read_globals,
    refuse_closed_large_objects,
)
from tenantry.fleet.backups.keys import DataKey
from tenantry.fleet.backups.manifest import CONTENTS, FORMAT, NAME, Manifest, Object
from tenantry.fleet.backups.ports import Fingerprints, Tenants
from tenantry.fleet.backups.programs import Client, clients, fitting, running
from tenantry.fleet.backups.reach import Belongings, belongings, connect, in_our_words, way_to
from tenantry.fleet.backups.tenant_keys import TenantKeys
from tenantry.fleet.backups.vault import Vault
from tenantry.fleet.catalog import backups as rows
from tenantry.fleet.catalog import events
from tenantry.fleet.catalog.backups import BackupId, BackupRecord, KeyId
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import Home, Provider
from tenantry.neon.ids import ProjectId
from tenantry.postgres.dsn import Dsn
from tenantry.runtime.failpoints import failpoint
from tenantry.runtime.telemetry import late_log

T = TypeVar("T")

LOCK_WAIT_SECONDS_MAX: Final = 60
"""How long a dump waits for tables that somebody holds, before it gives up and says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is the same for all backups of a run. Threads share it."""

    catalog: Catalog
    tenants: Tenants
    vault: Vault
    keys: TenantKeys
    fingerprints: Fingerprints
    tls_ca: Path | None = None


class Living:
    """The backups that this process has in hand, for its heartbeat."""

    def __init__(self) -> None:
        self._ids: set[BackupId] = set()

    def add(self, backup_id: BackupId) -> None:
        self._ids.add(backup_id)

    def remove(self, backup_id: BackupId) -> None:
        self._ids.discard(backup_id)

    def ids(self) -> list[BackupId]:
        return list(self._ids.copy())


def take_backup(around: Surroundings, slug: str, living: Living) -> BackupRecord:
    """Raises TenantryError; then there is no backup, and nothing of it in the vault that a sweep would not find."""
    tenant, project_id, home = around.tenants.ready(slug)
    provider = around.tenants.provider_of(tenant)
    key = around.keys.of(tenant.id)
    backup_id, place, now = _name(tenant)
    with around.catalog.transaction() as connection:
        rows.begin_backup(
            connection,
            backup_id,
            tenant.id,
            slug=tenant.slug,
            vault=around.vault.url,
            place=place,
            key_id=KeyId(key.id),
            by=events.actor(),
            started_at=now,
        )
    living.add(backup_id)
    failpoint("backup.begun")
    try:
        taking = _Taking(around, tenant, project_id, home, provider, key, backup_id, place)
        manifest, activity = taking.take()
        failpoint("backup.written")
        with around.catalog.transaction() as connection:
            kept = rows.finish_backup(
                connection,
                backup_id,
                manifest_sha256=manifest.sha256,
                size_bytes=manifest.size_bytes,
                rows=manifest.rows,
                fingerprint=manifest.fingerprint,
                activity=activity,
            )
            if kept:
                events.record(connection, "back up", tenant, backup=backup_id, size_bytes=manifest.size_bytes)
            record = rows.backup_by_id(connection, backup_id)
        failpoint("backup.recorded")
        if not kept or record is None:
            raise Unavailable(
                f"this backup was given up by another process, which heard nothing of this one ({backup_id})",
                next_step="see that the catalog can be reached, then try again",
            )
        return record
    except BaseException as error:
        _give_up(around, backup_id, place, error)
        raise
    finally:
        living.remove(backup_id)


def _name(tenant: Tenant) -> tuple[BackupId, str, datetime]:
    """A new backup's id and place, and the moment that both are named after."""
    now = datetime.now(UTC).replace(microsecond=0)
    backup_id = BackupId(f"{now:%Y-%m-%dT%H-%M-%SZ}-{secrets.token_hex(4)}")
    return backup_id, f"{tenant.slug}/{backup_id}", now


def _give_up(around: Surroundings, backup_id: BackupId, place: str, error: BaseException) -> None:
    """Says in the catalog why, and takes away what was written. What cannot be done now a sweep or a prune does."""
    failure = {
        "message": error.message if isinstance(error, TenantryError) else f"unexpected {type(error).__name__}",
        "next_step": error.next_step if isinstance(error, TenantryError) else "see the log",
    }
    try:
        # The catalog first: where its answer was lost the backup may be done, and nothing of that may go.
        with around.catalog.transaction() as connection:
            rows.fail_backup(connection, backup_id, failure)
            record = rows.backup_by_id(connection, backup_id)
        if record is not None and record.state == "failed":
            remove_objects(around.vault, place)
    except TenantryError as again:
        late_log("backups").warning(
            "what is left of a backup that failed is not cleared up yet", backup=backup_id, reason=str(again)
        )


def remove_objects(vault: Vault, place: str) -> None:
    """Everything of one backup, the manifest first: without it the rest is none. Safe twice."""
    vault.delete([f"{place}/{NAME}"])
    vault.delete([each.key for each in vault.list(place)])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """What one database holds, as its dump has it."""

    tables: dict[str, int]
    large_objects: int
    left_out: list[str]
    fingerprint: str | None


class _Taking:
    """One backup while it is taken. One thread."""

    def __init__(
        self, around: Surroundings, tenant: Tenant, project_id: ProjectId, home: Home, provider: Provider,
        key: DataKey, backup_id: BackupId, place: str,
    ) -> None:  # fmt: skip
        self._around = around
        self._tenant = tenant
        self._project_id = project_id
        self._home = home
        self._provider = provider
        self._key = key
        self._id = backup_id
        self._place = place
        self._objects: list[Object] = []

    def take(self) -> tuple[Manifest, dict[str, object] | None]:
        owned = belongings(self._provider, self._project_id, self._home)
        uri = self._provider.operator_uri(self._project_id, self._home)
        with way_to(uri, self._around.tls_ca) as dsn, connect(dsn) as session:
            try:
                return self._with_session(dsn, session, owned)
            except psycopg.Error as error:
                raise in_our_words(error, f"reading {self._home.database_name} failed") from error

    def _with_session(
        self, dsn: Dsn, session: psycopg.Connection, owned: Belongings
    ) -> tuple[Manifest, dict[str, object] | None]:
        started = datetime.now(UTC)
        server = session.info.server_version // 10_000
        client = fitting(clients(), server)
        transaction = _one(session, questions.NEXT_TRANSACTION)
        session.execute(questions.BEGIN)
        snapshot, server_version = _row(session, questions.EXPORT)
        contents = read_globals(session, self._home.database_name, owned.databases, owned.roles)
        contents = replace(
            contents, roles=[replace(each, verifier=owned.verifiers.get(each.name)) for each in contents.roles]
        )
        # The tenant's own database first: it is in here as of the beginning.
        order = sorted(contents.databases, key=lambda each: each.name != self._home.database_name)
        withheld = list(owned.withheld)
        counted = contents
        for number, database in enumerate(order):
            name = f"database-{number}.dump"
            if number == 0:
                looked = self._dump(name, dsn, session, str(snapshot), client)
                session.execute("COMMIT")
            else:
                looked = self._dump_other(name, database.name, client)
            withheld += [f"{what} of database {database.name}" for what in looked.left_out]
            done = replace(
                database,
                tables=looked.tables,
                fingerprint=looked.fingerprint,
                large_objects=looked.large_objects,
            )
            counted = replace(
                counted, databases=[done if each.name == done.name else each for each in counted.databases]
            )
        counted = replace(counted, withheld=withheld)
        self._write(CONTENTS, CONTENTS, None, [counted.to_json()])
        quiet = quiet_since(session, str(transaction))
        session.close()
        manifest = self._manifest(counted, client, str(server_version), server, started)
        failpoint("backup.objects")
        self._around.vault.write(f"{self._place}/{NAME}", [manifest.to_json()])
        return manifest, activity_after(self._provider, self._project_id) if quiet else None

    def _dump_other(self, name: str, database: str, client: Client) -> _Looked:
        home = Home(database_name=database, role_name=self._home.role_name)
        uri = self._provider.operator_uri(self._project_id, home)
        with way_to(uri, self._around.tls_ca) as dsn, connect(dsn) as session:
            session.execute(questions.BEGIN)
            snapshot = _one(session, questions.EXPORT)
            return self._dump(name, dsn, session, str(snapshot), client)

    def _dump(self, name: str, dsn: Dsn, session: psycopg.Connection, snapshot: str, client: Client) -> _Looked:
        """Streams one database while its rows are counted, both as of one snapshot."""
        refuse_closed_large_objects(session)
        arguments = [
            "--format=custom",
            "--compress=none" if client.major >= 16 else "--compress=0",
            "--no-password",
            f"--snapshot={snapshot}",
            f"--lock-wait-timeout={LOCK_WAIT_SECONDS_MAX}s",
        ]
        with ExitStack() as closing:
            counting: Future[_Looked] = Future()
            thread = threading.Thread(
                target=_into, args=(counting, lambda: self._look(session)), name="count", daemon=True
            )
            thread.start()
            closing.callback(thread.join)
            # A session that is waited for is ended when the dump fails.
            closing.callback(lambda: counting.done() or session.cancel_safe(timeout=5.0))
            dump = closing.enter_context(running(client, "pg_dump", arguments, dsn))
            self._write(name, "dump", dsn.database, _marked(dump.chunks(), "backup.dumping"))
            return counting.result()

    def _look(self, session: psycopg.Connection) -> _Looked:
        return _Looked(
            tables=count_tables(session),
            large_objects=count_large_objects(session),
            left_out=[f"subscription {name}" for (name,) in session.execute(questions.SUBSCRIPTIONS).fetchall()],
            # The last: it changes settings of the transaction.
            fingerprint=self._around.fingerprints.of(session),
        )

    def _write(self, name: str, kind: str, database: str | None, chunks: Iterable[bytes]) -> None:
        digest = hashlib.sha256()

        def sealed() -> Iterator[bytes]:
            for chunk in seal(chunks, self._key, compress=True):
                digest.update(chunk)
                yield chunk

        stored = self._around.vault.write(f"{self._place}/{name}", sealed())
        self._objects.append(
            Object(name=name, kind=kind, database=database, size_bytes=stored.size, sha256=digest.hexdigest())
        )

    def _manifest(
        self, contents: Contents, client: Client, server_version: str, server: int, started: datetime
    ) -> Manifest:
        home = next(each for each in contents.databases if each.name == contents.home)
        return Manifest(
            format=FORMAT,
            id=self._id,
            tenant=self._tenant.slug,
            tenant_id=str(self._tenant.id),
            customer=self._tenant.name,
            place=self._place,
            key_id=self._key.id,
            started_at=started,
            finished_at=datetime.now(UTC),
            server_version=server_version,
            server_major=server,
            client_version=client.version,
            client_major=client.major,
            tenantry=version("tenantry"),
            databases=len(contents.databases),
            tables=sum(len(each.tables) for each in contents.databases),
            rows=sum(sum(each.tables.values()) for each in contents.databases),
            fingerprint=home.fingerprint,
            fingerprint_algorithm=self._around.fingerprints.algorithm,
            schema_version=self._tenant.schema_version,
            withheld=contents.withheld,
            objects=self._objects,
        )


def _into(future: Future[T], work: Callable[[], T]) -> None:
    """For a thread that an interpreter which ends does not wait for, as it would for a pool's."""
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - the boundary of the thread: what it raises is the caller's
        future.set_exception(error)


def _marked(chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        failpoint(name)


def _row(session: psycopg.Connection, question: str) -> tuple[object, ...]:
    row = session.execute(question.encode()).fetchone()
    if row is None:
        raise OperatorError("the server answered nothing", next_step="try again")
    return row


def _one(session: psycopg.Connection, question: str) -> object:
    return _row(session, question)[0]
