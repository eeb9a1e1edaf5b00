"""``docs/api.md``: every operation of Neon's API and what it does here. ``python -m tenantry.cell.api.page FILE``.

Made from the contract, the routes that there are, the rights and the words of :mod:`tenantry.cell.api.coverage`; a
test compares it with the committed page, so that no gap is silent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from tenantry.cell.api.app import routes, served
from tenantry.cell.api.coverage import BEYOND, LIMITS, is_always_refused, why_not
from tenantry.cell.api.desk import API_PREFIX
from tenantry.cell.api.rights import Need, need_of
from tenantry.neon.contract import ContractOperation, contract_operations

_KEYS: Final[Mapping[Need, str]] = {
    Need.ANY_KEY: "any",
    Need.PROJECT: "project",
    Need.ORGANIZATION: "organization",
    Need.ACCOUNT: "personal",
}

_HEAD: Final = """\
# The API

<!-- Made by `make docs` from the routes and from the words in src/tenantry/cell/api/coverage.py. -->

A cell answers Neon's API, version 2, below `/api/v2`, so that programs written for Neon run against it by changing a
host. This page lists all {total} operations of that API: {served} are served here, {refused} answer
501 with a JSON error that says why. Nothing is accepted and then not done.

## Keys

| key | made by | does |
|---|---|---|
| personal | `POST /api_keys`; the operator's own lies in the cell's data directory | everything |
| organization | `POST /organizations/ORG/api_keys` | everything but the account's: `/users/me`, `/api_keys`, new keys |
| project | the same, with `project_id` | that one project: neither deletes it, nor makes keys or projects |

The column "key" below names the least that an operation needs. A refusal is a 404 (403 where the project is the key's
own) with Neon's words, which published clients read. A key is shown once and stored hashed; a revoked one opens nothing
from the next request on. A project's key opens nothing once its project is gone.

A cell has one organization, `GET /users/me/organizations` names it, and all projects belong to it. Programs that say
another `org_id` or `region_id` when they list or create projects are served all the same, because they were written for
Neon's names; a path below `/organizations/` must say the cell's own.

## Operations
"""
_TAIL: Final = """\

## Beyond the contract

The contract lacks these requests, and `hard_delete=true` of `DELETE /projects/{project_id}`. Beside the API are
`/healthz`, `/readyz` and `/metrics` ([operating a cell](operating.md)).

| request | key | here |
|---|---|---|
"""


def page() -> str:
    """The text of the page."""
    ours = served()
    operations = sorted(contract_operations(), key=lambda operation: operation.group)
    done = [operation for operation in operations if operation.id in ours and not is_always_refused(operation)]
    head = _HEAD.format(total=len(operations), served=len(done), refused=len(operations) - len(done))
    groups = [_group(name, list(members), ours) for name, members in groupby(operations, key=lambda one: one.group)]
    return head + "".join(groups) + _TAIL + "".join(_beyond())


def _beyond() -> Iterator[str]:
    for method, path, operation in sorted(routes(), key=lambda route: route[1]):
        if operation is None:
            request = f"{method} {path}"
            yield f"| `{request}` | {_KEYS[need_of(method, API_PREFIX + path)]} | {BEYOND[request]} |\n"


def _group(name: str, operations: Sequence[ContractOperation], ours: Mapping[str, ContractOperation]) -> str:
    reasons = {None if one.id in ours else why_not(one) for one in operations}
    alike = len(reasons) == 1 and None not in reasons
    lead = f"None is served: {why_not(operations[0])}.\n\n" if alike else ""
    rows = "".join(
        f"| `{one.id}` | `{one.method} {one.path}` | {'| 501' if alike else _here(one, ours)} |\n" for one in operations
    )
    return f"\n### {name}\n\n{lead}| operation | request | key | here |\n|---|---|---|---|\n{rows}"


def _here(operation: ContractOperation, ours: Mapping[str, ContractOperation]) -> str:
    """The last two columns."""
    if operation.id not in ours or is_always_refused(operation):
        return f"| 501: {why_not(operation)}"
    limits = LIMITS.get(operation.id)
    key = _KEYS[need_of(operation.method, API_PREFIX + operation.path)]
    return f"{key} | served: {limits}" if limits else f"{key} | served"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
