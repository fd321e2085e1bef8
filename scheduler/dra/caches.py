"""What was computed for an immutable object, kept while the object is in use.

Slices and claims stay the same objects from cycle to cycle until they change; nothing here changes an answer.
"""

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar
from weakref import ref

K = TypeVar("K")
V = TypeVar("V")


class _Entry(ref[Any]):
    """The value for an object that is not kept alive by it. `key`: the object's id()."""

    __slots__ = ("key", "value")
    key: int
    value: Any


class _Keeping:
    """The value for an object of a type that has no weak references: it is kept as well."""

    __slots__ = ("argument", "value")

    def __init__(self, argument: object) -> None:
        self.argument = argument
        self.value: Any = None


class PerObject(Generic[K, V]):
    """A function's value per argument object, until the object is gone. Types of which there are always new objects
    (gangs, pods, what claims ask for and hold) have weak references for it.

    Bounded: past `most` entries the older half is dropped. An entry goes before its object's memory does, so an id()
    cannot become another object's.
    """

    __slots__ = ("_compute", "_entries", "_most")

    def __init__(self, compute: Callable[[K], V], most: int = 200_000) -> None:
        self._compute = compute
        self._entries: dict[int, _Entry | _Keeping] = {}
        self._most = most

    def __call__(self, argument: K) -> V:
        entry = self._entries.get(id(argument))
        if entry is None:
            entry = self._entry(argument)
            entry.value = self._compute(argument)
            if len(self._entries) >= self._most:
                for key in list(self._entries)[: self._most // 2]:
                    self._entries.pop(key, None)
            self._entries[id(argument)] = entry
        value: V = entry.value
        return value

    def retain(self, arguments: Iterable[K]) -> None:
        """Forget all but these: for values that hold their own argument, which weak references never let go."""
        kept = {id(argument) for argument in arguments}
        for key in list(self._entries):
            if key not in kept:
                self._entries.pop(key, None)

    def __len__(self) -> int:
        return len(self._entries)

    def _entry(self, argument: K) -> _Entry | _Keeping:
        try:
            entry = _Entry(argument, self._forget)
        except TypeError:
            return _Keeping(argument)
        entry.key = id(argument)
        return entry

    def _forget(self, entry: _Entry) -> None:
        self._entries.pop(entry.key, None)
