"""List the branches of a place. Wakes nobody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from tenantry.fleet.environments.records import Branch, Place
from tenantry.neon.ids import BranchId, EndpointId

if TYPE_CHECKING:
    from tenantry.neon import shapes


def list_branches(place: Place) -> list[Branch]:
    """Oldest first."""
    branches = list(place.client.branches(place.project_id))
    endpoints = place.client.list_endpoints(place.project_id)
    return sorted(_records(branches, endpoints), key=lambda branch: (branch.created_at, branch.id))


def _records(branches: Sequence[shapes.Branch], endpoints: Iterable[shapes.Endpoint]) -> Iterator[Branch]:
    names = {branch.id: branch.name for branch in branches}
    writing = {endpoint.branch_id: endpoint for endpoint in endpoints if endpoint.type == "read_write"}
    for branch in branches:
        endpoint = writing.get(branch.id)
        yield Branch(
            id=BranchId(branch.id),
            name=branch.name,
            parent=None if branch.parent_id is None else names.get(branch.parent_id, branch.parent_id),
            default=branch.default,
            protected=branch.protected,
            state=branch.current_state,
            created_at=branch.created_at,
            expires_at=branch.expires_at,
            parent_lsn=branch.parent_lsn,
            parent_timestamp=branch.parent_timestamp,
            size_bytes=branch.logical_size,
            endpoint_id=None if endpoint is None else EndpointId(endpoint.id),
            host=None if endpoint is None else endpoint.host,
            awake=endpoint is not None and endpoint.current_state == "active",
        )
