"""Files that are there whole or not at all, whenever the process ends and whatever the disk refuses."""

import errno
import os
import threading
from pathlib import Path

import pytest

from dra_driver.disk import Disk, DiskError, Locked
from tests.node.endings import Ended, Ends, Refuses

OLD, NEW, NEWER = b"old " * 3000, b"new " * 5000, b"newer " * 2000


def test_a_file_is_read_as_it_was_written_and_its_folders_are_made(tmp_path: Path) -> None:
    disk, path = Disk(), tmp_path / "a" / "b" / "file"
    assert disk.read(path) is None
    disk.write(path, NEW, mode=0o600)
    assert disk.read(path) == NEW
    assert path.stat().st_mode & 0o777 == 0o600
    assert disk.names(path.parent) == ("file",)


def test_a_write_in_a_folder_that_is_there_takes_five_steps_and_is_durable_before_it_is_seen(tmp_path: Path) -> None:
    disk = Ends()
    disk.write(tmp_path / "file", NEW)
    assert disk.steps == ["create", "write", "sync", "rename", "sync folder"]


def test_whenever_a_write_ends_the_file_is_old_or_new_and_the_generation_before_is_kept(tmp_path: Path) -> None:
    count = Ends()
    (tmp_path / "dry").mkdir()
    Disk().write(tmp_path / "dry" / "file", OLD)
    count.write(tmp_path / "dry" / "file", NEW, previous=tmp_path / "dry" / "file.previous")
    assert count.steps == ["create", "write", "sync", "link", "rename", "rename", "sync folder"]
    for before in range(1, len(count.steps) + 1):
        path = tmp_path / str(before) / "file"
        previous = path.with_name("file.previous")
        Disk().write(path, OLD)
        with pytest.raises(Ended):
            Ends(before).write(path, NEW, previous=previous)
        assert Disk().read(path) == (NEW if before == 7 else OLD), before
        assert Disk().read(previous) == (OLD if before >= 6 else None), before
        Disk().write(path, NEWER, previous=previous)
        assert Disk().read(path) == NEWER
        assert Disk().read(previous) == (NEW if before == 7 else OLD), before
        Disk().sweep(path.parent)
        assert sorted(os.listdir(path.parent)) == ["file", "file.previous"], before


def test_what_an_end_left_is_not_listed_and_is_swept_away(tmp_path: Path) -> None:
    with pytest.raises(Ended):
        Ends(3).write(tmp_path / "file", NEW)
    assert Disk().names(tmp_path) == ()
    assert len(os.listdir(tmp_path)) == 1
    assert Disk().sweep(tmp_path) == (".file.part",)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("step", "error", "cure"),
    [
        ("create", errno.EROFS, "mount it writable"),
        ("create", errno.EACCES, "let the plugin's user write there"),
        ("write", errno.ENOSPC, "free space"),
        ("sync", errno.EIO, "the disk itself fails"),
        ("rename", errno.EDQUOT, "quota"),
    ],
)
def test_a_refusal_leaves_the_old_file_and_names_the_file_the_cause_and_the_cure(
    tmp_path: Path, step: str, error: int, cure: str
) -> None:
    path = tmp_path / "file"
    Disk().write(path, OLD)
    with pytest.raises(DiskError) as refused:
        Refuses(step, error).write(path, NEW)
    assert refused.value.errno == error
    for part in (str(path), os.strerror(error), cure):
        assert part in str(refused.value)
    assert Disk().read(path) == OLD
    assert os.listdir(tmp_path) == ["file"]


def test_a_disk_that_is_really_full_is_said_to_be_full() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError) as refused:
            os.write(descriptor, b"x")
    finally:
        os.close(descriptor)
    assert "No space left on device; free space on that file system" in str(
        DiskError(Path("/x"), "written", refused.value)
    )


def test_a_file_where_a_folder_belongs_is_said(tmp_path: Path) -> None:
    Disk().write(tmp_path / "cdi", OLD)
    with pytest.raises(DiskError, match="remove the file that stands where a folder belongs"):
        Disk().write(tmp_path / "cdi" / "claim.json", NEW)
    assert Disk().read(tmp_path / "cdi") == OLD


def test_a_folder_where_a_file_belongs_is_said(tmp_path: Path) -> None:
    (tmp_path / "claim.json").mkdir()
    with pytest.raises(DiskError, match="remove the folder that stands where a file belongs"):
        Disk().read(tmp_path / "claim.json")
    with pytest.raises(DiskError, match="remove the folder that stands where a file belongs"):
        Disk().write(tmp_path / "claim.json", NEW)
    assert os.listdir(tmp_path) == ["claim.json"]


def test_what_is_removed_twice_was_there_once(tmp_path: Path) -> None:
    disk = Disk()
    disk.write(tmp_path / "file", OLD)
    assert [disk.remove(tmp_path / "file"), disk.remove(tmp_path / "file")] == [True, False]
    assert disk.remove(tmp_path / "no" / "such" / "folder") is False


def test_a_file_is_moved_aside_whole(tmp_path: Path) -> None:
    disk = Disk()
    disk.write(tmp_path / "file", OLD)
    assert [disk.move(tmp_path / "file", tmp_path / "aside") for _ in range(2)] == [True, False]
    assert disk.names(tmp_path) == ("aside",)
    assert disk.read(tmp_path / "aside") == OLD


def test_a_folder_is_removed_whatever_is_in_it_and_a_link_takes_nothing_else_along(tmp_path: Path) -> None:
    disk = Disk()
    disk.write(tmp_path / "outside" / "file", OLD)
    disk.write(tmp_path / "folder" / "in" / "file", OLD)
    os.mkfifo(tmp_path / "folder" / "pipe")
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "outside")
    assert [disk.remove_folder(tmp_path / "folder") for _ in range(2)] == [True, False]
    assert disk.names(tmp_path) == ("outside",)
    assert disk.read(tmp_path / "outside" / "file") == OLD


def test_whenever_the_removal_of_a_folder_ends_it_can_be_done_again(tmp_path: Path) -> None:
    def made(name: str) -> Path:
        Disk().write(tmp_path / name / "in" / "file", OLD)
        Disk().write(tmp_path / name / "file", OLD)
        return tmp_path / name

    count = Ends()
    count.remove_folder(made("dry"))
    for before in range(1, len(count.steps) + 1):
        folder = made(str(before))
        with pytest.raises(Ended):
            Ends(before).remove_folder(folder)
        Disk().remove_folder(folder)
        assert not folder.exists()


def test_two_are_never_behind_one_lock_and_who_waits_too_long_is_told(tmp_path: Path) -> None:
    lock = tmp_path / "plugin" / "node.lock"
    inside: list[str] = []
    with Disk().lock(lock, 0):
        with pytest.raises(Locked, match="held by another process of the plugin"), Disk().lock(lock, 0):
            inside.append("while it was held")

        def second() -> None:
            with Disk().lock(lock, 30):
                inside.append("second")

        waiting = threading.Thread(target=second)
        waiting.start()
        inside.append("first")
    waiting.join(30)
    assert inside == ["first", "second"]


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "node.lock"
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        with Disk().lock(lock, 0):
            os.write(writes, b"1")
            os.kill(os.getpid(), 9)
    os.read(reads, 1)
    os.waitpid(child, 0)
    with Disk().lock(lock, 5):
        pass
    os.close(reads)
    os.close(writes)
