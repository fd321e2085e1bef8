"""A mapping that is read sorted, and whose sorted form is kept while nothing changes."""

from bisect import bisect_left, insort
from collections.abc import ItemsView
from typing import Generic, TypeVar

V = TypeVar("V")


class SortedTable(Generic[V]):
    """Values by text key. `values()` and `mapping()` are in key order, and the same objects until something changes."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._values: dict[str, V] = {}
        self._tuple: tuple[V, ...] | None = ()
        self._mapping: dict[str, V] | None = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> V | None:
        return self._values.get(key)

    def put(self, key: str, value: V | None) -> None:
        """Set the value; None removes it."""
        if value is None:
            if self._values.pop(key, None) is None:
                return
            del self._keys[bisect_left(self._keys, key)]
        else:
            if key not in self._values:
                if not self._keys or key > self._keys[-1]:
                    self._keys.append(key)  # a first list comes sorted
                else:
                    insort(self._keys, key)
            elif self._values[key] is value:
                return
            self._values[key] = value
        self._tuple = self._mapping = None

    def items(self) -> ItemsView[str, V]:
        return self.mapping().items()

    def values(self) -> tuple[V, ...]:
        if self._tuple is None:
            self._tuple = tuple(self.mapping().values())
        return self._tuple

    def mapping(self) -> dict[str, V]:
        """In key order. Not to be changed by whoever gets it: it is made anew after every change."""
        if self._mapping is None:
            values = self._values
            self._mapping = {key: values[key] for key in self._keys}
        return self._mapping
