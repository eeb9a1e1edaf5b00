"""Repositories of several kinds, whose workflows are held to the same judges."""

from __future__ import annotations

from tenantry.fleet.automations.customers import Customer, variable_of
from tenantry.fleet.automations.workflows import Choices, Jobs, PullRequests

CUSTOMERS = [Customer(slug, variable_of(slug)) for slug in ("acme-corp", "finance-co", "1st-choice")]
_JOBS = {"cell_url": "https://db.example.com/api/v2", "install": "tenantry==0.1.0"}
VARIANTS = {
    "default": Choices(jobs=Jobs(**_JOBS)),
    "shards": Choices(
        jobs=Jobs(
            **_JOBS, aws_role="arn:aws:iam::123456789012:role/tenantry-backups", more_secrets=["NEON_API_KEY"],
            backup_minutes=120,
        ),
        backup_shards=4,
        pull_requests=PullRequests(
            tenant="acme-corp", anonymized=True, command="npm ci\nnpx drizzle-kit migrate", vercel=True
        ),
    ),
    "guide": Choices(
        jobs=Jobs(**_JOBS, environment="production", runs_on_labels=["self-hosted", "linux"]),
        migrate_with="drizzle-kit",
        backup="customer",
    ),
}  # fmt: skip
