"""Files of ours in a folder that is not."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.automations.files import Wanted, heading, plan_files, write_files

HEAD = heading("github", comment="#")


def wanted(path: str, text: str = "x\n") -> Wanted:
    return Wanted(PurePosixPath(path), f"{HEAD}\n{text}")


@pytest.mark.parametrize("path", ["../out.yml", "/etc/out.yml", "linked/out.yml"])
def test_nothing_is_written_outside_of_the_repository(tmp_path: Path, path: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "linked").symlink_to(outside)
    with pytest.raises(InvalidInput, match="leads out of"):
        plan_files(root, [wanted(path)])
    assert not any(outside.iterdir())


def test_a_text_that_speaks_of_us_is_not_ours(tmp_path: Path) -> None:
    mine = tmp_path / "a.yml"
    mine.write_text("name: mine\n" * 9 + HEAD + "\n")
    (change,) = plan_files(tmp_path, [wanted("a.yml")])
    assert (change.state, change.needed, change.diff()) == ("theirs", False, "")


def test_what_is_left_of_ours_goes_with_its_folder_and_nothing_else(tmp_path: Path) -> None:
    first = [wanted("configs/acme/x.ts"), wanted("configs/beta/x.ts")]
    write_files(tmp_path, plan_files(tmp_path, first))
    (tmp_path / "configs/beta/mine.txt").write_text("")
    (tmp_path / "configs/gamma").mkdir()
    (tmp_path / "configs/gamma/x.ts").write_text("theirs")
    changes = plan_files(tmp_path, [], ours=["configs/*/x.ts"])
    assert [(str(change.path), change.state) for change in changes] == [
        ("configs/acme/x.ts", "gone"),
        ("configs/beta/x.ts", "gone"),
    ]
    assert "-x\n" in changes[0].diff() and "+++ /dev/null" in changes[0].diff()
    write_files(tmp_path, changes)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"configs/beta/mine.txt", "configs/gamma/x.ts"}
    assert not (tmp_path / "configs/acme").exists()
    write_files(tmp_path, changes)
