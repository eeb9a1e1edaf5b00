"""Who clears up behind the dead, while some of those are not dead: what the living work on is left to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import pytest

from tenantry.errors import NotFound
from tenantry.fleet.backups.keys import read_fleet_keys, write_fleet_key
from tenantry.fleet.backups.open import open_vault
from tenantry.fleet.backups.proofs import Proofs
from tenantry.fleet.backups.sweep import sweep
from tenantry.fleet.backups.take import Surroundings
from tenantry.fleet.backups.tenant_keys import TenantKeys
from tenantry.fleet.backups.vault import Vault
from tenantry.fleet.catalog import backups as rows
from tenantry.fleet.catalog import queries, verifications
from tenantry.fleet.catalog.backups import BackupId, BackupRecord, KeyId
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.records import ProviderId, TenantId
from tenantry.fleet.catalog.upgrade import upgrade_catalog
from tenantry.fleet.catalog.verifications import VerificationId
from tenantry.neon.ids import ProjectId

if TYPE_CHECKING:
    from ..conftest import Server

LONG_AGO = "now() - '1h'::interval"
JUST_NOW = "now() + '1h'::interval"
"""As any machine's clock has it, also one that stands still. Sweeps here take everybody else for dead at once: the
server is younger than anybody may be silent by default."""


class Vaulted:
    """A catalog and a vault, and backups in them whose workers were silent for an hour."""

    def __init__(self, catalog: Catalog, directory: Path) -> None:
        self.catalog = catalog
        self.vault = open_vault(f"file://{directory}/vault")
        with catalog.transaction() as connection:
            tenant, _ = queries.intend_tenant(
                connection, slug="acme", name="acme", email=None, plan="launch", region=None, pg_version=None
            )
            queries.mark_ready(
                connection, tenant.id, project_id=ProjectId("p"), region="here", pg_version=18, database_name="d",
                role_name="r",
            )  # fmt: skip
        self.tenant: TenantId = tenant.id

    def around(self, vault: Vault | None = None) -> Surroundings:
        nobody = cast("Any", None)
        return Surroundings(
            catalog=self.catalog, tenants=nobody, vault=vault or self.vault, keys=nobody, fingerprints=nobody
        )

    def begun(self, *names: str) -> list[BackupId]:
        """With an object of each, and no manifest."""
        ids = [BackupId(name) for name in names]
        with self.catalog.transaction() as connection:
            rows.add_key(connection, self.tenant, KeyId("key"), b"sealed")
            for each in ids:
                rows.begin_backup(
                    connection, each, self.tenant, slug="acme", vault=self.vault.url, place=f"acme/{each}",
                    key_id=KeyId("key"), by="test", started_at=datetime.now(UTC),
                )  # fmt: skip
            connection.exec_driver_sql(f"UPDATE backup SET seen_at = {LONG_AGO}")
        for each in ids:
            self.vault.write(f"acme/{each}/database-0.dump", [b"half of it"])
        return ids

    def beat(self, backup_id: BackupId) -> None:
        with self.catalog.transaction() as connection:
            connection.exec_driver_sql(f"UPDATE backup SET seen_at = {JUST_NOW} WHERE id = '{backup_id}'")

    def row(self, backup_id: BackupId) -> BackupRecord:
        with self.catalog.transaction() as connection:
            found = rows.backup_by_id(connection, backup_id)
        assert found is not None
        return found

    def there(self) -> set[str]:
        return {each.key.split("/")[1] for each in self.vault.list("acme")}


class Slow:
    """A vault that takes its time to delete, in which something else happens."""

    def __init__(self, vault: Vault, meanwhile: Callable[[], None]) -> None:
        self._vault = vault
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vault, name)

    def delete(self, keys: Sequence[str]) -> None:
        self._meanwhile()
        self._vault.delete(keys)


@pytest.fixture
def vaulted(catalog: Catalog, workdir: Path) -> Vaulted:
    return Vaulted(catalog, workdir)


def test_who_is_heard_of_while_another_is_cleared_up_goes_on(vaulted: Vaulted) -> None:
    """A long list is worked through for minutes: all of it was silent when it was made."""
    dead, living = vaulted.begun("1-dead", "2-living")
    vault = cast("Vault", Slow(vaulted.vault, lambda: vaulted.beat(living)))
    said = sweep(vaulted.around(vault), silent_seconds=0.0)
    assert said == ["1-dead of acme: its process died before it was whole, and it is removed"]
    assert (vaulted.row(dead).state, vaulted.row(living).state) == ("failed", "running")
    assert vaulted.there() == {"2-living"}


def test_nobody_is_taken_for_dead_whom_a_catalog_that_was_away_could_not_hear(
    mortal_server: Server, workdir: Path
) -> None:
    catalog = Catalog(f"{mortal_server.dsn} dbname=postgres")
    upgrade_catalog(catalog)
    vaulted = Vaulted(catalog, workdir)
    (living,) = vaulted.begun("living")
    assert sweep(vaulted.around(), silent_seconds=3_000.0) == []  # the server has just come back
    assert vaulted.row(living).state == "running"
    assert len(sweep(vaulted.around(), silent_seconds=0.0)) == 1
    catalog.close()


# -- verifications -------------------------------------------------------------------------------------------


class Verified(Vaulted):
    """Two good backups that are verified by somebody who was silent for an hour. It is their projects' provider too."""

    def __init__(self, catalog: Catalog, directory: Path) -> None:
        super().__init__(catalog, directory)
        self.backups = self.begun("1-verified", "2-verified")
        self.ids = [VerificationId(uuid4()) for _ in self.backups]
        self.projects = [*self.ids]
        self.meanwhile: Callable[[VerificationId], None] = lambda _: None
        with catalog.transaction() as connection:
            for backup, verification in zip(self.backups, self.ids, strict=True):
                assert rows.finish_backup(
                    connection, backup, manifest_sha256="x", size_bytes=1, rows=1, fingerprint=None, activity=None
                )
                assert verifications.begin_verification(
                    connection, verification, backup, ProviderId(HOME_PROVIDER), by="test"
                )
            connection.exec_driver_sql(
                f"UPDATE backup_verification SET seen_at = {LONG_AGO}, started_at = started_at"
                f" + CASE id WHEN '{self.ids[1]}' THEN '1s'::interval ELSE '0s'::interval END"
            )

    def find_projects(self, mark: str) -> Iterator[Any]:
        (found,) = [each for each in self.ids if f"[{each}]" == mark]
        self.meanwhile(found)
        self.projects.remove(found)
        return iter(())

    def sweep(self) -> list[str]:
        backups: Any = type("Backups", (), {"around": self.around()})()
        never: Any = None
        return Proofs(backups, within=never, checks={}, provider_by_id=lambda _: cast("Any", self)).sweep(
            silent_seconds=0.0
        )


@pytest.fixture
def verified(catalog: Catalog, workdir: Path) -> Verified:
    return Verified(catalog, workdir)


def test_a_backup_is_not_doubted_because_a_sweep_took_its_verifications_project_away(verified: Verified) -> None:
    """Whoever compares, and cannot say so, finds all gone of a sudden: nothing counts that he says of it then."""
    counted: list[bool] = []

    def say(verification: VerificationId) -> None:
        with verified.catalog.transaction() as connection:
            counted.append(
                verifications.finish_verification(
                    connection, verification, "failed", seconds=None, proof=None, failure={"message": "missing"},
                    doubt=True,
                )
            )  # fmt: skip

    verified.meanwhile = say
    assert len(verified.sweep()) == 2
    assert counted == [False, False]
    assert [verified.row(each).doubted_at for each in verified.backups] == [None, None]
    with verified.catalog.transaction() as connection:
        assert verifications.projects_there(connection) == set()


def test_a_verification_that_is_heard_of_keeps_its_project(verified: Verified) -> None:
    def beat(_: VerificationId) -> None:
        with verified.catalog.transaction() as connection:
            connection.exec_driver_sql(
                f"UPDATE backup_verification SET seen_at = {JUST_NOW} WHERE id = '{verified.ids[1]}'"
            )

    verified.meanwhile = beat
    assert len(verified.sweep()) == 1
    assert verified.projects == [verified.ids[1]]
    with verified.catalog.transaction() as connection:
        assert verifications.finish_verification(
            connection, verified.ids[1], "passed", seconds=1.0, proof={}, failure=None, doubt=False
        )


# -- keys ----------------------------------------------------------------------------------------------------


def test_a_tenant_whose_keys_are_destroyed_gets_no_other(vaulted: Vaulted, tmp_path: Path) -> None:
    """By a backup that had found it alive, and comes to its key a moment later."""
    write_fleet_key(tmp_path / "fleet.key")
    keys = TenantKeys(vaulted.catalog, vaulted.vault, read_fleet_keys(f"file:{tmp_path / 'fleet.key'}"))
    with vaulted.catalog.transaction() as connection:
        queries.mark_deleting(connection, vaulted.tenant)
        rows.shred_keys(connection, vaulted.tenant)
        queries.mark_deleted(connection, vaulted.tenant)
    with pytest.raises(NotFound, match="is deleted"):
        keys.of(vaulted.tenant)
    with vaulted.catalog.transaction() as connection:
        assert rows.key_of_tenant(connection, vaulted.tenant) is None
