"""The act of the backups: all tenants in a vault, proved by restoring them, and a customer brought back from one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tenantry.demo.teller import Teller, connect, expect, shown
from tenantry.fleet.backups.backups import Backups
from tenantry.fleet.backups.keys import write_fleet_key
from tenantry.fleet.backups.proofs import Proofs, TenantVerified

VICTIM: Final = "acme-corp"
VERIFIED: Final = (VICTIM, "payroll-inc", "finance-co", "talent-biz")
BROUGHT_BACK: Final = "ACME Corp as it was"
JOBS: Final = 4
_COUNT: Final = "select count(*) from tasks"


class BackupsAct:
    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._fleet = teller.fleet

    @property
    def scenes(self) -> Sequence[Callable[[], None]]:
        return (self.all_of_it,)

    def all_of_it(self) -> None:
        with tempfile.TemporaryDirectory(prefix="tenantry-demo-vault-") as folder:
            key = Path(folder) / "key"
            write_fleet_key(key)
            vault, key_from = f"file://{folder}/vault", f"file:{key}"
            backups = self._fleet.backups(vault, key_from=key_from)
            self._take(backups)
            self._verify(self._fleet.proofs(vault, key_from=key_from))
            self._restore(backups)

    def _take(self, backups: Backups) -> None:
        self._teller.scene(
            "Every tenant is backed up into a vault, sealed with a key of its own; nothing touches the disk here"
        )
        done = backups.run(None, jobs=JOBS)
        self._teller.note(f"back up {done.taken} tenants", done.seconds)
        self._teller.say(f"{done.taken} backed up, {done.failed} failed  {shown(done.seconds)}")
        expect(done.taken > 0 and not done.failed, "every backup is taken")
        self._teller.wait_until_asleep()
        again = backups.run(None, jobs=JOBS)
        self._teller.note("the next night, when nobody has changed", again.seconds)
        self._teller.say(f"the next night: {again.unchanged} unchanged and left asleep  {shown(again.seconds)}")
        expect(again.unchanged == done.taken, "nobody is backed up again who has not changed")

    def _verify(self, proofs: Proofs) -> None:
        self._teller.scene("A backup counts when it was restored: into throwaway projects, everything compared")

        def tell(done: TenantVerified) -> None:
            proof = done.verified and done.verified.proof
            expect(proof is not None, f"the backup of {done.tenant} is good: {done.error}")
            if proof is not None:
                self._teller.say(f"{done.tenant:<12} verified: {proof.rows} rows in {proof.tables} tables")

        with self._teller.timed(f"verify {len(VERIFIED)} backups"):
            summary = proofs.verify(VERIFIED, jobs=JOBS, tell=tell)
        expect(summary.passed == len(VERIFIED), "every backup restores")

    def _restore(self, backups: Backups) -> None:
        self._teller.scene(f"{VICTIM} is lost; its backup becomes a new tenant, counted before it is called restored")
        with connect(self._fleet.url(VICTIM)) as connection:
            before = connection.execute(_COUNT).fetchone()
        with self._teller.timed("restore a backup into a new tenant"):
            tenant, restored = backups.restore_to_tenant(backups.find(VICTIM, None), BROUGHT_BACK, None)
        self._teller.say(f"{tenant.slug}: {restored.tables} tables, {restored.rows} rows  {self._teller.last}")
        with connect(self._fleet.url(tenant.slug)) as connection:
            expect(connection.execute(_COUNT).fetchone() == before, "every row is back")
