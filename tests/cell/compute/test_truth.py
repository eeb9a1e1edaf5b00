"""What must change in cell.db when an instance says something else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tenantry.cell.compute.truth import Truth, changes
from tenantry.cell.model import Database, Role
from tenantry.neon.ids import BranchId

THEN = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
NOW = THEN + timedelta(minutes=41)
BRANCH = BranchId("br-a-b-c")

names = st.text("abc", min_size=1, max_size=2)
verifiers = st.one_of(st.none(), st.sampled_from(["SCRAM-SHA-256$1", "SCRAM-SHA-256$2", "md5x"]))


def role(name: str, verifier: str | None) -> Role:
    return Role(branch_id=BRANCH, name=name, verifier=verifier, password_sealed=b"s", created_at=THEN, updated_at=THEN)


def database(number: int, name: str, owner: str) -> Database:
    return Database(id=number, branch_id=BRANCH, name=name, owner_name=owner, created_at=THEN, updated_at=THEN)


@given(
    st.dictionaries(names, verifiers),
    st.dictionaries(names, names),
    st.dictionaries(names, verifiers),
    st.dictionaries(names, names),
)
def test_after_the_changes_the_copy_is_the_truth(
    roles: dict[str, str | None],
    databases: dict[str, str],
    old_roles: dict[str, str | None],
    old_databases: dict[str, str],
) -> None:
    known_roles = [role(name, verifier) for name, verifier in old_roles.items()]
    known_databases = [database(n, name, owner) for n, (name, owner) in enumerate(old_databases.items(), 1)]
    found = changes(BRANCH, Truth(roles, databases), known_roles, known_databases, NOW)
    copy = {r.name: r for r in known_roles if r.name not in found.roles_gone}
    copy |= {r.name: r for r in (*found.roles_new, *found.roles_changed)}
    assert {name: r.verifier for name, r in copy.items()} == roles
    there = {d.name: d for d in known_databases if d.name not in found.databases_gone}
    there |= {d.name: d for d in (*found.databases_new, *found.databases_changed)}
    assert {name: d.owner_name for name, d in there.items()} == databases
    for name, verifier in old_roles.items():
        # A password that is still the same stays readable; one that SQL changed does not come back.
        if name in roles:
            assert copy[name].password_sealed == (b"s" if roles[name] == verifier else None)
    assert bool(found) == ((old_roles, old_databases) != (roles, databases))
