"""Durable writes, seen as a power cut would see them; locks; and trees whose owner is hostile."""

from __future__ import annotations

import errno
import os
import queue
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tenantry.errors import Defect, DiskFull, OperatorError, Unavailable
from tenantry.runtime import files

ROOT = os.geteuid() == 0
NOBODY = (65534, 65534)


def every_state(recorder: files.Recorder, into: Path, loss: files.Loss) -> list[Path]:
    """One directory for each prefix of what was recorded."""
    places: list[Path] = []
    for length in range(len(recorder.operations) + 1):
        place = into / f"{loss}{length}"
        recorder.replay(length, place, loss=loss)
        places.append(place)
    return places


class TestWriteAtomic:
    def test_holds_the_bytes_with_mode_and_owner(self, workdir: Path) -> None:
        path = workdir / "file"
        files.write_atomic(path, b"one", mode=0o640, owner=NOBODY if ROOT else None)
        assert path.read_bytes() == b"one"
        status = path.stat()
        assert stat.S_IMODE(status.st_mode) == 0o640
        if ROOT:
            assert (status.st_uid, status.st_gid) == NOBODY
        files.write_atomic(path, b"two")
        assert path.read_bytes() == b"two"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [entry.name for entry in workdir.iterdir()] == ["file"]

    @pytest.mark.parametrize("loss", ["unsynced", "data", "nothing"])
    def test_a_power_cut_leaves_the_old_or_the_new_file(self, workdir: Path, loss: files.Loss) -> None:
        root = workdir / "root"
        root.mkdir()
        (root / "file").write_bytes(b"old")
        with files.Recorder(root) as recorder:
            files.write_atomic(root / "file", b"new")
        states = [(place / "file").read_bytes() for place in every_state(recorder, workdir, loss)]
        assert set(states) == {b"old", b"new"}
        assert states[-1] == b"new", "when it returns, it is durable"

    def test_the_recorder_sees_a_missing_fsync(self, workdir: Path) -> None:
        root = workdir / "root"
        root.mkdir()
        (root / "file").write_bytes(b"old")
        with files.Recorder(root) as recorder:
            files.write_atomic(root / "file", b"new", durable=False)
        assert b"" in [(place / "file").read_bytes() for place in every_state(recorder, workdir, "data")]
        assert (every_state(recorder, workdir, "unsynced")[-1] / "file").read_bytes() == b"old"

    def test_refuses_a_link_as_parent_where_it_must(self, workdir: Path) -> None:
        (workdir / "elsewhere").mkdir()
        (workdir / "link").symlink_to("elsewhere")
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            files.write_atomic(workdir / "link" / "file", b"x", follow_parent=False)
        files.write_atomic(workdir / "link" / "file", b"x")
        assert (workdir / "elsewhere" / "file").read_bytes() == b"x"

    def test_a_link_in_its_place_is_replaced_not_followed(self, workdir: Path) -> None:
        (workdir / "victim").write_bytes(b"precious")
        (workdir / "file").symlink_to("victim")
        files.write_atomic(workdir / "file", b"x")
        assert (workdir / "victim").read_bytes() == b"precious"
        assert not (workdir / "file").is_symlink()

    def test_nothing_is_left_when_the_rename_fails(self, workdir: Path) -> None:
        (workdir / "file").mkdir()
        with pytest.raises(IsADirectoryError):
            files.write_atomic(workdir / "file", b"x")
        assert [entry.name for entry in workdir.iterdir()] == ["file"]

    @pytest.mark.parametrize(
        ("number", "word"),
        [(errno.ENOSPC, "full"), (errno.EDQUOT, "quota"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")],
    )
    def test_what_only_an_operator_can_cure_says_so(self, number: int, word: str) -> None:
        with pytest.raises(OperatorError, match=word) as caught, files.explained("cannot write", Path("/x")):
            raise OSError(number, os.strerror(number))
        assert caught.value.next_step
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(FileNotFoundError), files.explained("cannot write", Path("/x")):
            raise FileNotFoundError


class TestRenameAndRemove:
    @pytest.mark.parametrize("loss", ["unsynced", "data", "nothing"])
    def test_a_tree_renamed_durably_is_never_nowhere(self, workdir: Path, loss: files.Loss) -> None:
        root = workdir / "root"
        (root / "a" / "tree").mkdir(parents=True)
        (root / "b").mkdir()
        (root / "a" / "tree" / "file").write_bytes(b"x")
        with files.Recorder(root) as recorder:
            files.rename_durably(root / "a" / "tree", root / "b" / "tree")
        states = every_state(recorder, workdir, loss)
        for place in states:
            assert any((place / name / "tree" / "file").exists() for name in "ab")
        assert (states[-1] / "b" / "tree" / "file").read_bytes() == b"x"
        assert not (states[-1] / "a" / "tree").exists()

    def test_what_was_not_synced_is_gone_and_syncfs_keeps_it(self, workdir: Path) -> None:
        root = workdir / "root"
        root.mkdir()
        with files.Recorder(root) as recorder:
            files.make_directory(root / "d")
            files.write_new(str(root / "d" / "file"), b"x", mode=0o600, owner=None)
            files.make_symlink("file", root / "d" / "link")
            files.make_hard_link(root / "d" / "file", root / "d" / "twin")
            before = len(recorder.operations)
            files.syncfs(root)
            files.unlink(root / "d" / "twin")
        recorder.replay(before, workdir / "cut")
        assert list((workdir / "cut").iterdir()) == []
        recorder.replay(len(recorder.operations), workdir / "synced")
        assert sorted(path.name for path in (workdir / "synced" / "d").iterdir()) == ["file", "link", "twin"]
        assert (workdir / "synced" / "d" / "link").read_bytes() == b"x"
        recorder.replay(len(recorder.operations), workdir / "killed", loss="nothing")
        assert sorted(path.name for path in (workdir / "killed" / "d").iterdir()) == ["file", "link"]

    def test_only_one_recorder_and_only_its_root(self, workdir: Path) -> None:
        (workdir / "in").mkdir()
        with files.Recorder(workdir / "in") as recorder:
            files.write_atomic(workdir / "out", b"x")
            with pytest.raises(Defect), files.Recorder(workdir):
                pass
            assert recorder.operations == []
        files.write_atomic(workdir / "in" / "later", b"x")
        assert recorder.operations == []

    def test_removes_a_tree_and_follows_no_link_out_of_it(self, workdir: Path) -> None:
        outside = workdir / "outside"
        outside.mkdir()
        (outside / "precious").write_bytes(b"x")
        tree = workdir / "tree"
        (tree / "a" / "b").mkdir(parents=True)
        (tree / "a" / "b" / "file").write_bytes(b"x")
        (tree / "to_directory").symlink_to(outside)
        (tree / "a" / "to_file").symlink_to(outside / "precious")
        os.mkfifo(tree / "pipe")
        files.remove_tree(tree)
        assert not tree.exists()
        assert (outside / "precious").read_bytes() == b"x"
        (workdir / "link").symlink_to(outside)
        files.remove_tree(workdir / "link")
        assert (outside / "precious").exists()
        files.remove_tree(tree)
        files.remove_tree(tree / "never" / "was")

    def test_two_that_remove_the_same_tree_both_succeed(self, workdir: Path) -> None:
        tree = workdir / "tree"
        for number in range(300):
            (tree / str(number % 10) / str(number)).mkdir(parents=True)
            (tree / str(number % 10) / str(number) / "file").write_bytes(b"")
        errors: list[BaseException] = []

        def remove() -> None:
            try:
                files.remove_tree(tree)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=remove) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert not tree.exists()

    def test_a_tree_that_is_refilled_for_ever_is_an_error(self, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tree = workdir / "tree"
        tree.mkdir()
        remove_directory = os.rmdir

        def refilled(name: str, **options: int) -> None:
            (tree / "again").write_bytes(b"")
            remove_directory(name, **options)

        monkeypatch.setattr(os, "rmdir", refilled)
        with pytest.raises(Unavailable, match="refilled"):
            files.remove_tree(tree)


HOLD_LOCK = """
import sys, time
from pathlib import Path
from tenantry.runtime import files
with files.lock_file(Path(sys.argv[1]), timeout_seconds=5):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not ROOT, reason="only root makes files for others")
def test_many_files_are_made_as_their_owners_and_the_thread_is_root_again(workdir: Path) -> None:
    place = workdir / "theirs"
    files.make_directory(place, owner=NOBODY)
    files.write_many(str(place), [("a", b"1"), ("b", b"")], mode=0o600, owner=NOBODY)
    for name, content in (("a", b"1"), ("b", b"")):
        facts = (place / name).stat()
        assert (facts.st_uid, facts.st_gid) == NOBODY
        assert stat.S_IMODE(facts.st_mode) == 0o600
        assert (place / name).read_bytes() == content
    with pytest.raises(FileExistsError):
        files.write_many(str(place), [("c", b"3"), ("a", b"2")], mode=0o600, owner=NOBODY)
    # What is root's stays shut while files are made for another, and nothing of that is left behind.
    roots = workdir / "roots"
    files.make_directory(roots)
    with pytest.raises(PermissionError):
        files.write_many(str(roots), [("a", b"1")], mode=0o600, owner=NOBODY)
    files.write_many(str(roots), [("a", b"1")], mode=0o600, owner=None)
    assert (roots / "a").stat().st_uid == 0
    (workdir / "after").touch()
    assert (workdir / "after").stat().st_uid == 0


def test_a_lock_is_kept_from_others_and_freed_by_death(workdir: Path) -> None:
    path = workdir / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD_LOCK, str(path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Unavailable, match="locked"), files.lock_file(path, timeout_seconds=0.05):
            pytest.fail("two hold it")
        holder.send_signal(signal.SIGKILL)
        with files.lock_file(path, timeout_seconds=10):
            pass
    finally:
        holder.kill()
        holder.communicate()


class TestTraversable:
    def test_by_owner_group_and_others(self, workdir: Path) -> None:
        inner = workdir / "a" / "b"
        inner.mkdir(parents=True)
        (workdir / "a").chmod(0o700)
        me, group = os.geteuid(), os.getegid()
        stranger, strange_group = me + 12345, group + 12345
        assert files.traversable_for(inner, None, None)
        assert not files.traversable_for(inner, stranger, strange_group)
        (workdir / "a").chmod(0o710)
        assert files.traversable_for(inner, stranger, group)
        assert not files.traversable_for(inner, stranger, strange_group)
        (workdir / "a").chmod(0o711)
        inner.chmod(0o755)
        assert files.traversable_for(inner, stranger, strange_group)
        assert not files.traversable_for(inner / "missing", stranger, strange_group)

    @pytest.mark.skipif(not ROOT, reason="asks the kernel as another user")
    def test_agrees_with_the_kernel(self, workdir: Path) -> None:
        for mode in (0o700, 0o710, 0o701, 0o755):
            place = workdir / f"{mode:o}"
            (place / "in").mkdir(parents=True)
            place.chmod(mode)
            asked = subprocess.run(
                ["/bin/sh", "-c", f"cd {place}/in"], user=50123, group=50123, extra_groups=[], check=False,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            assert files.traversable_for(place / "in", 50123, 50123) == (asked.returncode == 0), f"{mode:o}"


class Disk:
    """Stands where the kernel syncs: each sync ends when it is let, in the way that is said."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.endings: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()
        self.syncs = 0

    def sync(self, path: Path) -> None:
        del path
        self.syncs += 1
        self.begun.release()
        if (failure := self.endings.get(timeout=30)) is not None:
            raise failure


class TestSharedSync:
    @pytest.fixture
    def disk(self, monkeypatch: pytest.MonkeyPatch) -> Disk:
        disk = Disk()
        monkeypatch.setattr(files, "_sync_file_system", disk.sync)
        return disk

    @staticmethod
    def _come(pool: ThreadPoolExecutor, workdir: Path, number: int) -> list[Future[None]]:
        """So many who wait for a sync that has not begun."""
        shared = files._syncs.of(workdir.stat().st_dev)
        before = len(shared._waiting)
        came = [pool.submit(files.syncfs, workdir) for _ in range(number)]
        deadline = time.monotonic() + 30
        while len(shared._waiting) < before + number:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return came

    def test_whoever_comes_during_a_sync_shares_the_next(self, disk: Disk, workdir: Path) -> None:
        with ThreadPoolExecutor(6) as pool:
            first = pool.submit(files.syncfs, workdir)
            assert disk.begun.acquire(timeout=30)
            others = self._come(pool, workdir, 5)
            disk.endings.put(None)
            first.result(30)
            assert disk.begun.acquire(timeout=30)
            assert not any(each.done() for each in others), "what ran before they came is not theirs"
            disk.endings.put(None)
            for each in others:
                each.result(30)
        assert disk.syncs == 2
        disk.endings.put(None)
        files.syncfs(workdir)
        assert disk.syncs == 3, "nobody relies on a sync that has ended"

    @pytest.mark.parametrize("failing", [1, 2])
    def test_a_failure_is_told_to_all_whose_pages_it_may_have_met(
        self, disk: Disk, workdir: Path, failing: int
    ) -> None:
        full = OSError(errno.ENOSPC, "full")
        with ThreadPoolExecutor(4) as pool:
            first = pool.submit(files.syncfs, workdir)
            assert disk.begun.acquire(timeout=30)
            others = self._come(pool, workdir, 3)
            for number in (1, 2):
                disk.endings.put(full if number == failing else None)
            assert (first.exception(30) is not None) == (failing == 1)
            for each in others:
                assert isinstance(each.exception(30), DiskFull)
        disk.endings.put(None)
        files.syncfs(workdir)
