"""Files that are there whole or not at all: the only place of this package that changes the disk.

A file is written beside its place, made durable, and moved there; a reader, a crash or a full disk never shows half of
one. Whatever changes the disk goes through `Disk.change`, one primitive step at a time, so that a test can end the
process before any of them.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

READABLE_BY_ALL = 0o644
OURS_ALONE = 0o600

_POLL_SECONDS = 0.01
_CURES = {
    errno.ENOSPC: "free space on that file system",
    errno.EDQUOT: "raise the quota of that file system, or free some of it",
    errno.EROFS: "mount it writable, or give the plugin another folder",
    errno.EACCES: "let the plugin's user write there",
    errno.EPERM: "let the plugin's user write there",
    errno.ENAMETOOLONG: "give the plugin a folder with a shorter path",
    errno.EIO: "see the kernel's log: the disk itself fails",
    errno.ENOTDIR: "remove the file that stands where a folder belongs",
    errno.EISDIR: "remove the folder that stands where a file belongs",
}


class DiskError(Exception):
    """A file could not be read or changed: which, why, and what helps. What was there before is there still."""

    def __init__(self, path: Path, doing: str, error: OSError) -> None:
        cure = _CURES.get(error.errno or 0, "see that the folder exists and that the plugin may use it")
        super().__init__(f"File {path}: cannot be {doing}: {error.strerror or error}; {cure}.")
        self.path = path
        self.errno = error.errno


class Locked(DiskError):
    """Somebody else holds a lock for longer than the caller wants to wait."""

    def __init__(self, path: Path, seconds: float) -> None:
        Exception.__init__(
            self,
            f"Lock {path}: held by another process of the plugin for more than {seconds:g} s; it is tried again, and "
            f"if it stays so, find its holder (`fuser {path}`) and end it.",
        )
        self.path = path
        self.errno = errno.EWOULDBLOCK


class Disk:
    """The node's disk. One writer of a path at a time: who writes holds the node's lock (`lock`).

    Every method raises DiskError."""

    def change(self, step: str, path: Path, act: Callable[[], T]) -> T:
        """One primitive step that changes the disk: `step` ("create", "write", "sync", "link", "rename", "remove",
        "folder", "sync folder") at `path`. All of them come through here."""
        del step, path
        return act()

    def write(self, path: Path, content: bytes, *, mode: int = READABLE_BY_ALL, previous: Path | None = None) -> None:
        """The file's new content, there for good when this returns. Its folder is made if it is missing.

        `previous`: where in the same folder the content that it replaces is kept."""
        self.make_folder(path.parent)
        new = _beside(path)
        with _told(path, "written"):
            try:
                self._fill(new, content, mode)
                if previous is not None and path.exists():
                    self._keep(path, previous)
                self.change("rename", path, lambda: os.replace(new, path))
            except OSError:
                with suppress(OSError):
                    self.change("remove", new, lambda: os.unlink(new))
                raise
            self._sync_folder(path.parent)

    def read(self, path: Path) -> bytes | None:
        """The file's content; None where there is no such file."""
        with _told(path, "read"):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def remove(self, path: Path) -> bool:
        """Whether the file was there; it is gone for good when this returns."""
        with _told(path, "removed"):
            if not os.path.lexists(path):  # Asked first: a file system that is read-only refuses even that.
                return False
            self.change("remove", path, lambda: os.unlink(path))
            self._sync_folder(path.parent)
            return True

    def move(self, path: Path, to: Path) -> bool:
        """Whether the file was there; it is under another name of the same folder when this returns."""
        with _told(path, "moved"):
            try:
                self.change("rename", to, lambda: os.replace(path, to))
            except FileNotFoundError:
                return False
            self._sync_folder(to.parent)
            return True

    def names(self, folder: Path) -> tuple[str, ...]:
        """What is in a folder, in order, without what is being written there; nothing where there is no such folder."""
        return tuple(name for name in self._listed(folder) if not _unfinished(name))

    def make_folder(self, folder: Path) -> None:
        """The folder is there when this returns, and those above it."""
        with _told(folder, "made"):
            missing = []
            while not folder.is_dir():
                missing.append(folder)
                folder = folder.parent
            for each in reversed(missing):
                with suppress(FileExistsError):
                    self.change("folder", each, partial(os.mkdir, each, 0o755))
                if not each.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, "something that is no folder stands there")
                self._sync_folder(each.parent)

    def remove_folder(self, folder: Path) -> bool:
        """Whether the folder was there; it is gone with all that was in it. A link in it goes, not what it leads to."""
        with _told(folder, "removed"):
            if not folder.is_dir() or folder.is_symlink():
                return False
            for name in self._listed(folder):
                inside = folder / name
                if stat.S_ISDIR(inside.lstat().st_mode):
                    self.remove_folder(inside)
                else:
                    with suppress(FileNotFoundError):
                        self.change("remove", inside, partial(os.unlink, inside))
            self.change("remove", folder, lambda: os.rmdir(folder))
            self._sync_folder(folder.parent)
            return True

    def sweep(self, folder: Path, ours: Callable[[str], bool] = bool) -> tuple[str, ...]:
        """Names of what an end in the middle of `write` had left in a folder, now gone. Under the node's lock only.

        `ours`: of which files, by name, in a folder where others write, too."""
        left = tuple(name for name in self._listed(folder) if _unfinished(name) and ours(_finished(name)))
        for name in left:
            self.remove(folder / name)
        return left

    @contextmanager
    def lock(self, path: Path, seconds: float) -> Iterator[None]:
        """Nobody else, of this process or another, is in here meanwhile. Locked after `seconds` of waiting.

        The kernel lets go when its holder dies. The file stays: to remove it would let two in."""
        self.make_folder(path.parent)
        with _told(path, "opened"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OURS_ALONE)
        try:
            _wait_for(descriptor, path, seconds)
            yield
        finally:
            os.close(descriptor)

    def _fill(self, new: Path, content: bytes, mode: int) -> None:
        """A file with this content, durable. What an earlier end left under its name is overwritten."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = self.change("create", new, lambda: os.open(new, flags, mode))
        try:
            os.fchmod(descriptor, mode)
            self.change("write", new, lambda: _write_all(descriptor, content))
            self.change("sync", new, lambda: os.fsync(descriptor))
        finally:
            os.close(descriptor)

    def _keep(self, path: Path, previous: Path) -> None:
        """`previous` is what `path` is now; at no moment is there neither of them."""
        if previous.exists() and path.samefile(previous):
            return  # An end between this and the last rename had left it so.
        linked = _beside(previous)
        if linked.exists():
            self.change("remove", linked, lambda: os.unlink(linked))
        self.change("link", linked, lambda: os.link(path, linked))
        self.change("rename", previous, lambda: os.replace(linked, previous))

    def _listed(self, folder: Path) -> list[str]:
        with _told(folder, "listed"):
            try:
                return sorted(os.listdir(folder))
            except FileNotFoundError:
                return []

    def _sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.change("sync folder", folder, lambda: os.fsync(descriptor))
        finally:
            os.close(descriptor)


@contextmanager
def _told(path: Path, doing: str) -> Iterator[None]:
    """What the kernel says becomes what the operator reads."""
    try:
        yield
    except OSError as error:
        raise DiskError(path, doing, error) from error


def _wait_for(descriptor: int, path: Path, seconds: float) -> None:
    """flock cannot wait for a limited time: it is asked again and again."""
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise Locked(path, seconds) from None
        time.sleep(_POLL_SECONDS)


def _write_all(descriptor: int, content: bytes) -> None:
    """All of it: a disk that becomes full takes a part first, and says so only at the next call."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _beside(path: Path) -> Path:
    """Where a file is written before it is moved to `path`: one name per path, so that leftovers do not pile up."""
    return path.with_name(f".{path.name}.part")


def _finished(name: str) -> str:
    """The name that it was to have."""
    return name.removeprefix(".").removesuffix(".part")


def _unfinished(name: str) -> bool:
    return name.startswith(".") and name.endswith(".part")
