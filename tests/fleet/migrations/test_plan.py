"""Plans are pure: decided from the folder and the catalog, the same for the same input, each tenant in one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.fleet.migrations.formats.base import Format, Migration, segments_of, state_of
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.plan import make_plan, states_of
from tenantry.fleet.migrations.status import read_status
from tenantry.fleet.migrations.tenant import SchemaState, TenantRef, TenantSlug


class Folder:
    """A folder of so many migrations, without files."""

    name = "drizzle"
    directory = Path("drizzle")

    def __init__(self, checksums: list[str]) -> None:
        self.migrations = tuple(
            Migration(version=f"v{index}", name="", file="", checksum=checksum, text="", segments=segments_of([""]))
            for index, checksum in enumerate(checksums)
        )


CHECKSUMS = st.lists(st.sampled_from("abc"), max_size=6)
FOLDERS = CHECKSUMS.map(lambda checksums: cast(Format, Folder(checksums)))


@st.composite
def knowns(draw: st.DrawFn) -> SchemaState | None:
    applied = [(f"v{index}", checksum) for index, checksum in enumerate(draw(CHECKSUMS))]
    return draw(st.sampled_from([None, state_of("drizzle", applied), state_of("sql", applied)]))


@given(FOLDERS, st.lists(knowns(), max_size=20), st.booleans())
def test_every_tenant_stands_in_one_place(folder: Format, known: list[SchemaState | None], accept: bool) -> None:
    tenants = [TenantRef(TenantSlug(f"t{index}"), state) for index, state in enumerate(known)]
    plan = make_plan(folder, tenants, accept_edited=accept)
    assert plan == make_plan(folder, iter(tenants), accept_edited=accept)
    assert [each.tenant for each in plan.tenants] == tenants
    versions = [migration.version for migration in folder.migrations]
    states = states_of(folder)
    for each in plan.tenants:
        state = each.tenant.known
        exact = state in states
        assert (each.standing == "unknown") == (state is None or state.format != folder.name)
        if not accept:
            assert (each.standing == "current") == (state == states[-1])
            assert (each.standing == "behind") == (exact and state != states[-1])
        assert (each.standing == "ahead") == (
            each.standing != "unknown" and state is not None and state.version not in [None, *versions]
        )
        # What is pending is the end of the folder, and nothing where the run would object or has nothing to do.
        assert list(each.pending) == versions[len(versions) - len(each.pending) :]
        assert bool(each.pending) <= (each.standing in {"behind", "unknown"})
        if each.standing == "behind":
            assert each.pending
    assert len(plan.to_visit) + len(plan.of("current")) == len(tenants)
    status = read_status(folder, tenants)
    assert sum(row.tenants for row in status.versions) == sum(status.standings.values()) == len(tenants)


@given(FOLDERS, FOLDERS)
def test_an_edit_anywhere_in_the_past_is_seen(before: Format, after: Format) -> None:
    tenant = TenantRef(TenantSlug("t"), states_of(before)[-1])
    (planned,) = make_plan(after, [tenant]).tenants
    theirs = [migration.checksum for migration in before.migrations]
    ours = [migration.checksum for migration in after.migrations]
    if len(theirs) > len(ours):
        assert planned.standing == "ahead"
    elif theirs != ours[: len(theirs)]:
        assert planned.standing == "edited"
    else:
        assert planned.standing == ("current" if theirs == ours else "behind")


def test_a_plan_says_what_cannot_be_run(sql_folder: Callable[..., Path]) -> None:
    folder = open_folder(
        sql_folder(_0001_a="select 1;", _0002_b="select 1;\n\nalter system reset all;", _0003_c="select 1;")
    )
    states = states_of(folder)
    plan = make_plan(folder, [TenantRef(TenantSlug("t"), states[1])])
    (refused,) = plan.refused
    assert (refused.file, refused.statement, refused.line, refused.excerpt) == (
        "0002_b.sql",
        2,
        3,
        "alter system reset all",
    )
    assert plan.stepwise == ()
    # Where everybody has it already, by whatever means, it stops nothing.
    assert make_plan(folder, [TenantRef(TenantSlug("t"), states[2])]).refused == ()


def test_a_plan_says_what_no_transaction_holds(sql_folder: Callable[..., Path]) -> None:
    folder = open_folder(sql_folder(_0001_a="vacuum;", _0002_b="select 1;", _0003_c="select 1; vacuum;"))
    plan = make_plan(folder, [TenantRef(TenantSlug("t"), states_of(folder)[1])])
    assert plan.stepwise == ("0003_c.sql",)
    assert plan.as_dict()["stepwise"] == ["0003_c.sql"]


def test_a_thousand_tenants_with_nothing_to_apply_are_planned_at_once(sql_folder: Callable[..., Path]) -> None:
    folder = open_folder(sql_folder(**{f"_{number:04}_x": "select 1;" for number in range(1, 40)}))
    known = states_of(folder)[-1]
    plan = make_plan(folder, [TenantRef(TenantSlug(f"t{number}"), known) for number in range(1000)])
    assert plan.to_visit == ()


@pytest.mark.parametrize("wrong", ["nothing", "file"])
def test_no_folder(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="is not a directory"):
        open_folder(tmp_path / wrong)
