"""The verbs over proofs of backups: verify those that are named or due, clear up, report. Threads may share it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from tenantry.errors import InvalidInput, TenantryError
from tenantry.fleet.backups.backups import Backups
from tenantry.fleet.backups.many import JOBS_MAX, SILENT_SECONDS, Done, VaultWatch, kept_alive, work_on
from tenantry.fleet.backups.report import Report, report_of
from tenantry.fleet.backups.rotation import due_now
from tenantry.fleet.backups.verify import Verified, delete_project, verify_backup
from tenantry.fleet.catalog import verifications as rows
from tenantry.fleet.catalog.backups import BackupId, BackupRecord, good_backups
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import ProviderId
from tenantry.fleet.catalog.verifications import Proven, VerificationId, VerificationRecord
from tenantry.fleet.providers.ports import Provider
from tenantry.runtime.failpoints import failpoint

PAGE: Final = 1_000
SWEPT_MAX: Final = 200
"""Dead verifications that one call clears up; the next finds the rest."""
PASS_SECONDS_MAX: Final = 1500.0
"""A pass begins no other verification after this; the next one goes on."""
PASS_JOBS: Final = 2
SAID_MAX: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifySummary:
    passed: int
    failed: int
    """The backups' fault."""
    broken: int
    """Could not be tried to the end."""
    left: Sequence[str]
    """Not begun, since the time was over, or the vault away."""
    seconds: float
    swept: Sequence[str]
    vault_away: TenantryError | None = None
    """Why it ended early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantVerified:
    """What came of one tenant in a run. ``error`` also where it could not even be begun."""

    tenant: str
    backup: str | None
    verified: Verified | None
    seconds: float
    error: TenantryError | None


class Proofs:
    def __init__(
        self,
        backups: Backups,
        *,
        within: timedelta,
        checks: Mapping[str, str],
        provider_by_id: Callable[[ProviderId], Provider],
    ) -> None:
        self._backups: Final = backups
        self._around: Final = backups.around
        self._within: Final = within
        self._checks: Final = dict(checks)
        self._provider_by_id: Final = provider_by_id

    def due(self, slugs: Sequence[str] | None = None) -> list[str]:
        """Whose newest backup is to be verified now, in that order."""
        now = datetime.now(UTC)
        return [due.slug for due in due_now(proven(self._around.catalog, slugs), now, self._within)]

    def everybody(self) -> list[str]:
        """Whoever has a backup."""
        return [each.slug for each in proven(self._around.catalog) if each.newest is not None]

    def verify(
        self,
        slugs: Sequence[str],
        *,
        backup: str | None = None,
        jobs: int,
        minutes: float | None = None,
        tell: Callable[[TenantVerified], None] = lambda _: None,
        on_interrupt: Callable[[], None] = lambda: None,
    ) -> VerifySummary:
        """The newest backup of each, or the one that ``backup`` is the beginning of."""
        if not 1 <= jobs <= JOBS_MAX:
            raise InvalidInput(f"{jobs} verifications at a time: between 1 and {JOBS_MAX} are possible")
        if backup is not None and len(slugs) != 1:
            raise InvalidInput("a backup belongs to one tenant", next_step="name that tenant and no other")
        began = time.monotonic()
        swept = self.sweep()
        counts = {"passed": 0, "failed": 0, "broken": 0}
        at_a_time = min(jobs, max(1, len(slugs)))
        watch = VaultWatch(at_a_time)

        def finished(done: Done[Verified]) -> None:
            state = "broken" if done.result is None else done.result.state
            counts[state] += 1
            result = done.result
            tell(
                TenantVerified(
                    tenant=done.slug,
                    backup=None if result is None else result.backup.id,
                    verified=result,
                    seconds=done.seconds,
                    error=done.error if result is None else result.error,
                )
            )

        living: set[VerificationId] = set()
        with kept_alive(self._around.catalog, "verifications", lambda: list(living.copy()), rows.beat_verifications):
            left = work_on(
                slugs,
                lambda slug: self._one(slug, backup, living),
                jobs=at_a_time,
                tell=finished,
                until=None if minutes is None else began + minutes * 60,
                goes_on=lambda done: watch.still_answers(done.error if done.result is None else done.result.error),
                on_interrupt=on_interrupt,
            )
        return VerifySummary(
            passed=counts["passed"],
            failed=counts["failed"],
            broken=counts["broken"],
            left=left,
            seconds=time.monotonic() - began,
            swept=swept,
            vault_away=watch.away,
        )

    def _one(self, slug: str, backup: str | None, living: set[VerificationId]) -> Verified:
        record = self._newest(slug) if backup is None else self._backups.find(slug, backup)
        return verify_backup(self._around, slug, record, self._checks, living)

    def _newest(self, slug: str) -> BackupRecord:
        """Also one that was found damaged: its vault may have been mended."""
        tenant, _, _ = self._around.tenants.ready(slug)
        with self._around.catalog.transaction() as connection:
            good = good_backups(connection, [tenant.id])
        return good[0] if good else self._backups.find(slug, None)

    def verify_one(self, slug: str) -> Verified:
        """A tenant's newest, for a worker. Raises what kept it from being good."""
        results: list[TenantVerified] = []
        self.verify([slug], jobs=1, tell=results.append)
        (result,) = results
        if result.error is not None:
            raise result.error
        assert result.verified is not None
        return result.verified

    def pass_(self) -> list[str]:
        """What is due, for as long as a pass may take; a sentence for each that is worth one."""
        said: list[str] = []

        def tell(done: TenantVerified) -> None:
            if done.error is not None and len(said) < SAID_MAX:
                said.append(f"{done.tenant}: {done.error.message}")

        done = self.verify(self.due(), jobs=PASS_JOBS, minutes=PASS_SECONDS_MAX / 60, tell=tell)
        if done.passed:
            said.insert(0, f"{done.passed} backups were restored and are what they should be")
        if done.left:
            why = "" if done.vault_away is None else ", since the vault cannot be used"
            said.append(f"{len(done.left)} are left for the next pass{why}")
        return [*done.swept, *said]

    def sweep(self, *, silent_seconds: float = SILENT_SECONDS) -> list[str]:
        """Deletes the projects of verifications that died; a sentence for each. Safe at any time and by anybody."""
        with self._around.catalog.transaction() as connection:
            dead = rows.uncleared_verifications(connection, silent_seconds=silent_seconds, limit=SWEPT_MAX)
        said = (self._clear(each, silent_seconds) for each in dead)
        return [each for each in said if each is not None]

    def _clear(self, left: VerificationRecord, silent_seconds: float) -> str | None:
        """None where it was heard of since the sweep looked: it lives, and its project is its own."""
        try:
            # The catalog first: whoever still compares, unheard, would else find a good backup's project gone, and
            # doubt the backup.
            with self._around.catalog.transaction() as connection:
                if not rows.give_up_verification(connection, left.id, silent_seconds=silent_seconds):
                    return None
            failpoint("verify.given_up")
            delete_project(self._provider_by_id(left.provider_id), left.id)
            with self._around.catalog.transaction() as connection:
                rows.clear_verification(connection, left.id)
        except TenantryError as error:
            return f"the project of a verification of {left.backup_id} is not deleted yet: {error.message}"
        return f"the verification of {left.backup_id} had died; its project is deleted"


def proven(catalog: Catalog, slugs: Sequence[str] | None = None) -> Iterator[Proven]:
    """How ready tenants stand, in the order of their slugs."""
    after = ""
    while True:
        with catalog.transaction() as connection:
            page = rows.proven_page(connection, slugs=slugs, after=after, limit=PAGE)
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].slug


def make_report(
    catalog: Catalog, *, within: timedelta, vault: str | None, slugs: Sequence[str] | None = None
) -> Report:
    """Asks the catalog alone."""
    tenants = list(proven(catalog, slugs))
    verified = [each.verified for each in tenants if each.verified is not None]
    found: dict[BackupId, VerificationRecord] = {}
    for start in range(0, len(verified), PAGE):
        with catalog.transaction() as connection:
            page = rows.passed_verifications(connection, verified[start : start + PAGE])
        found |= {each.backup_id: each for each in page}
    return report_of(tenants, found, now=datetime.now(UTC), within=within, vault=vault)
