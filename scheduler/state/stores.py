"""The storage that is known, kept up to date object by object."""

from collections.abc import Callable, Mapping

from scheduler.api import storage
from scheduler.api.kinds import (
    CSI_DRIVER,
    CSI_NODE,
    STORAGE_CAPACITY,
    STORAGE_CLASS,
    VOLUME,
    VOLUME_CLAIM,
    Kind,
)
from scheduler.api.meta import Wire
from scheduler.model.volumes import Capacity, Storage, StorageClass, Volume, VolumeClaim
from scheduler.state import volumes
from scheduler.state.tables import SortedTable

STORAGE_KINDS: tuple[Kind, ...] = (VOLUME_CLAIM, VOLUME, STORAGE_CLASS, CSI_NODE, CSI_DRIVER, STORAGE_CAPACITY)


class Stores:
    """The model's storage, of which only what changed is translated anew."""

    def __init__(self) -> None:
        self._claims: SortedTable[VolumeClaim] = SortedTable()
        self._volumes: SortedTable[Volume] = SortedTable()
        self._classes: SortedTable[StorageClass] = SortedTable()
        self._capacities: SortedTable[Capacity] = SortedTable()
        self._tracking: SortedTable[str] = SortedTable()
        self._limits: SortedTable[Mapping[str, int]] = SortedTable()
        self._storage: Storage | None = None

    def put(self, kind: Kind, key: str, found: Wire | None) -> None:
        """The object is like this now; None: it is gone, or cannot be decoded. Raises Bad if an amount cannot be read:
        then it counts as gone."""
        self._storage = None
        match found:
            case storage.PersistentVolumeClaim():
                self._claims.put(key, None)
                self._claims.put(key, volumes.claim(found))
            case storage.PersistentVolume():
                self._volumes.put(key, None)
                self._volumes.put(key, volumes.volume(found))
            case storage.StorageClass():
                self._classes.put(key, volumes.storage_class(found))
            case storage.CSIStorageCapacity():
                self._capacities.put(key, None)
                self._capacities.put(key, volumes.capacity(found))
            case storage.CSINode():
                self._limits.put(key, volumes.limits(found) or None)
            case storage.CSIDriver():
                self._tracking.put(key, key if found.spec.storage_capacity else None)
            case _:
                self._drop(kind, key)

    def storage(self) -> Storage:
        """All of it; the same value until something changes."""
        if self._storage is None:
            self._storage = Storage(
                claims=self._claims.mapping(),
                volumes=self._volumes.mapping(),
                classes=self._classes.mapping(),
                capacities=self._capacities.values(),
                tracking=frozenset(self._tracking.values()),
                limits=self._limits.mapping(),
            )
        return self._storage

    def _drop(self, kind: Kind, key: str) -> None:
        drop: Mapping[Kind, Callable[[str, None], None]] = {
            VOLUME_CLAIM: self._claims.put,
            VOLUME: self._volumes.put,
            STORAGE_CLASS: self._classes.put,
            STORAGE_CAPACITY: self._capacities.put,
            CSI_NODE: self._limits.put,
            CSI_DRIVER: self._tracking.put,
        }
        drop[kind](key, None)
