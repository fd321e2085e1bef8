"""The CDI files of claims: written, found and removed.

Each bears, as an annotation, the entry of the checkpoint that it belongs to: if the checkpoint is lost, the files tell
what was given away, and which MIG instances are ours to destroy.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from dra_driver import cdi
from dra_driver.checkpoint import entry_from, entry_text
from dra_driver.devices import Entry, Grant, Prepared
from dra_driver.disk import Disk

ANNOTATION = "tutti.scheduler/prepared"

Specification = Callable[[str, tuple[Prepared, ...]], Mapping[str, Any]]
"""Claim uid and devices -> a CDI specification."""


class SpecError(Exception):
    """A claim's devices cannot be described to the container runtime. Object, cause, cure."""


class Specs:
    """The claims' files in the CDI folder. All calls under the node's lock. All raise DiskError."""

    def __init__(self, folder: Path, disk: Disk, specification: Specification, driver: str = cdi.DRIVER) -> None:
        self.folder = folder
        self._disk = disk
        self._specification = specification
        self._driver = driver

    def name(self, uid: str, grant: Grant) -> str:
        """The fully qualified name of a claim's device."""
        return cdi.name(uid, grant, self._driver)

    def write(self, entry: Entry) -> None:
        """The file of a claim whose devices stand; then that of NVIDIA's driver goes, if the claim has one from the
        time before us. Raises SpecError, and what `specification` raises but ValueError."""
        try:
            document = dict(self._specification(entry.claim.uid, entry.devices))
        except ValueError as error:
            raise SpecError(str(error)) from error
        document["annotations"] = {**document.get("annotations", {}), ANNOTATION: entry_text(entry)}
        self._disk.write(self._path(entry.claim.uid), cdi.content(document))
        self.replaces(entry.claim.uid)

    def replaces(self, uid: str) -> bool:
        """Whether NVIDIA's driver had left a file for the claim, which ours stands for by now; it is gone."""
        return self._disk.remove(self.folder / cdi.predecessor(uid, self._driver))

    def stands(self, entry: Entry) -> bool:
        """Whether the claim's file is there, and is of this entry."""
        return self.read(entry.claim.uid) == entry

    def read(self, uid: str) -> Entry | None:
        """The entry that the claim's file bears; None without a file, or where it bears none that can be read."""
        written = self._disk.read(self._path(uid))
        try:
            document = msgspec.json.decode(written or b"null")
        except (msgspec.DecodeError, ValueError):
            return None
        annotations = document.get("annotations") if isinstance(document, dict) else None
        text = annotations.get(ANNOTATION) if isinstance(annotations, dict) else None
        entry = entry_from(text) if isinstance(text, str) else None
        return entry if entry is not None and entry.claim.uid == uid else None

    def remove(self, uid: str) -> bool:
        """Whether there was one."""
        return self._disk.remove(self._path(uid))

    def uids(self) -> tuple[str, ...]:
        """Of all claims that have a file, in order."""
        claims = (cdi.claim_of(name, self._driver) for name in self._disk.names(self.folder))
        return tuple(uid for uid in claims if uid is not None)

    def sweep(self) -> tuple[str, ...]:
        """What an end in the middle of a write had left goes."""
        return self._disk.sweep(self.folder, lambda name: cdi.claim_of(name, self._driver) is not None)

    def _path(self, uid: str) -> Path:
        return self.folder / cdi.file_name(uid, self._driver)
