"""What was given away, on disk: whole or as it was before, never half, and never guessed.

    {"version": 1, "sha256": "...", "content": {"entries": [...]}}

`sha256` is of the version in decimal, a colon, and the bytes of `content` as they stand in the file: nothing is decoded
before it is known to be what was written. That rule is the same for all versions to come; what `content` is, is not.
A field that an older plugin may overlook does not raise the version (it is ignored); one that it must not, does.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from dra_driver.devices import Entry
from dra_driver.disk import OURS_ALONE, Disk

VERSION = 1
NAME = "checkpoint.json"
PREVIOUS = f"{NAME}.previous"


class CheckpointTooNew(Exception):
    """A plugin newer than this one has written the checkpoint. It is left as it is."""

    def __init__(self, path: Path, version: int) -> None:
        super().__init__(
            f"Checkpoint {path}: version {version} is newer than {VERSION}, the newest that this plugin knows; "
            "run the version of the plugin that wrote it, and drain the node before going back to this one."
        )
        self.version = version


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The entries by uid, and what is wrong, in words for an event.

    `lost`: the newest generation is not there: what is here is older, or nothing; so it is on a node that never had
    one, too. Then nothing may be given away before `rebuild`."""

    entries: tuple[Entry, ...] = ()
    problems: tuple[str, ...] = ()
    lost: bool = False


class _Damaged(Exception):
    """`why`: a word for a file's name; the text says more."""

    def __init__(self, why: str, text: str) -> None:
        super().__init__(text)
        self.why = why


class _File(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    sha256: str
    content: msgspec.Raw


class _Content(msgspec.Struct, frozen=True, kw_only=True):
    entries: tuple[Entry, ...]


_file = msgspec.json.Decoder(_File)
_content = msgspec.json.Decoder(_Content)
_entry = msgspec.json.Decoder(Entry)
_encoder = msgspec.json.Encoder(order="deterministic")


class Checkpoint:
    """The checkpoint in a folder. All calls under the node's lock; all raise DiskError."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.path = folder / NAME
        self._previous = folder / PREVIOUS
        self._disk = disk

    def load(self) -> Loaded:
        """The newest generation that is whole. What is damaged stays where it is until `rebuild`: an end before that
        must not make it look as if nothing had been lost.

        Raises CheckpointTooNew."""
        problems: list[str] = []
        for path in (self.path, self._previous):
            written = self._disk.read(path)
            if written is None:
                continue
            try:
                entries = _decoded(path, written)
            except _Damaged as damage:
                problems.append(f"Checkpoint {path}: {damage}; it is set aside, and rebuilt from what can be seen.")
                continue
            if path == self.path:
                return Loaded(entries=entries)
            if not problems:
                problems.append(f"Checkpoint {self.path}: somebody has removed it; the generation before it is used.")
            return Loaded(entries=entries, problems=tuple(problems), lost=True)
        return Loaded(problems=tuple(problems), lost=True)

    def save(self, entries: Iterable[Entry]) -> None:
        """There for good when this returns; what was there before is the previous generation."""
        self._disk.write(self.path, encoded(entries), mode=OURS_ALONE, previous=self._previous)

    def rebuild(self, entries: Iterable[Entry]) -> tuple[Path, ...]:
        """As `save`, after a loss: what is damaged is kept beside, under names that say of when it is and why it was
        set aside. Those names."""
        aside = []
        previous_is_damaged = False
        for path in (self.path, self._previous):
            written = self._disk.read(path)
            if written is None:
                continue
            try:
                _decoded(path, written)
            except _Damaged as damage:
                aside.append(self._set_aside(path, written, damage.why))
                previous_is_damaged = path == self._previous
        self._disk.write(self.path, encoded(entries), mode=OURS_ALONE)
        if previous_is_damaged:
            self._disk.remove(self._previous)
        return tuple(aside)

    def sweep(self) -> tuple[str, ...]:
        """What an end in the middle of a write had left goes."""
        return self._disk.sweep(self.path.parent, lambda name: name.startswith(NAME))

    def _set_aside(self, path: Path, written: bytes, why: str) -> Path:
        """A copy: done twice it is one, and two that differ do not overwrite each other."""
        of = datetime.fromtimestamp(path.stat().st_mtime, tz=UTC)
        copy, number = path.with_name(f"{path.name}.damaged-{of:%Y%m%dT%H%M%SZ}-{why}"), 1
        first = copy
        while self._disk.read(copy) not in (None, written):
            number += 1
            copy = first.with_name(f"{first.name}-{number}")
        self._disk.write(copy, written, mode=OURS_ALONE)
        return copy


def encoded(entries: Iterable[Entry]) -> bytes:
    """A checkpoint's bytes. The same for the same entries, whatever their order."""
    content = _encoder.encode(_Content(entries=tuple(sorted(entries, key=lambda entry: entry.claim.uid))))
    whole = _File(version=VERSION, sha256=_hash(VERSION, content), content=msgspec.Raw(content))
    return _encoder.encode(whole) + b"\n"


def entry_text(entry: Entry) -> str:
    """One entry, for a place beside the checkpoint from which it can be rebuilt."""
    return _encoder.encode(entry).decode()


def entry_from(text: str) -> Entry | None:
    """The entry of such a text; None if it is none."""
    try:
        return _entry.decode(text)
    except (msgspec.DecodeError, ValueError):
        return None


def _decoded(path: Path, written: bytes) -> tuple[Entry, ...]:
    """Raises _Damaged and CheckpointTooNew."""
    try:
        file = _file.decode(written)
    except (msgspec.DecodeError, ValueError) as error:
        raise _Damaged("unreadable", f"is no checkpoint, or one cut short ({len(written)} bytes: {error})") from error
    content = bytes(file.content)
    if _hash(file.version, content) != file.sha256:
        raise _Damaged("hash", "is not what was written: its sha256 differs")
    if file.version > VERSION:
        raise CheckpointTooNew(path, file.version)
    try:
        entries = _content.decode(content).entries
    except (msgspec.DecodeError, ValueError) as error:
        raise _Damaged("content", f"says what no version {file.version} says ({error})") from error
    if len({entry.claim.uid for entry in entries}) != len(entries):
        raise _Damaged("content", "tells of one claim twice")
    return entries


def _hash(version: int, content: bytes) -> str:
    return hashlib.sha256(f"{version}:".encode() + content).hexdigest()
