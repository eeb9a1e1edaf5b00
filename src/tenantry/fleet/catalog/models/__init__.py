"""The catalog's tables. What a row means stands here; how it changes stands in ``queries.py``.

A project row goes ``creating -> ready -> deleting -> deleted`` (or ``creating -> deleting``), never back; only a
grace period (``ready -> leaving -> ready``) can be undone. Its uuid is known before the provider is asked for
anything and is part of the provider's project name, so that a project whose row was never finished is found again
(docs/decisions/0002).
"""

from tenantry.fleet.catalog.models.backups import Backup, BackupSchedule, BackupVerification, TenantKey
from tenantry.fleet.catalog.models.base import Base
from tenantry.fleet.catalog.models.fleet import (
    HOME_PROVIDER,
    Contact,
    Customer,
    Deletion,
    Event,
    Job,
    JobBatch,
    JobItem,
    Payment,
    Plan,
    Project,
    Provider,
    ProviderRegion,
    ReadyProject,
    Region,
    Residency,
    Subscription,
    UsageDay,
)
from tenantry.fleet.catalog.models.migrations import (
    MigrationFailure,
    MigrationFolder,
    MigrationRehearsal,
    MigrationRun,
    MigrationTenant,
    MigrationUndo,
    MigrationWave,
    SchemaReference,
    SchemaSeen,
)

__all__ = [
    "HOME_PROVIDER",
    "Backup",
    "BackupSchedule",
    "BackupVerification",
    "Base",
    "Contact",
    "Customer",
    "Deletion",
    "Event",
    "Job",
    "JobBatch",
    "JobItem",
    "MigrationFailure",
    "MigrationFolder",
    "MigrationRehearsal",
    "MigrationRun",
    "MigrationTenant",
    "MigrationUndo",
    "MigrationWave",
    "Payment",
    "Plan",
    "Project",
    "Provider",
    "ProviderRegion",
    "ReadyProject",
    "Region",
    "Residency",
    "SchemaReference",
    "SchemaSeen",
    "Subscription",
    "TenantKey",
    "UsageDay",
]
