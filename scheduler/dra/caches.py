"""What was computed for an immutable object, kept while the object is in use.

Slices and claims stay the same objects from cycle to cycle until they change; nothing here changes an answer.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class PerObject(Generic[K, V]):
    """A function's value per argument object. Bounded: past `most` entries the older half is dropped.

    The argument is held together with its value, so its id() cannot become another object's.
    """

    __slots__ = ("_compute", "_entries", "_most")

    def __init__(self, compute: Callable[[K], V], most: int = 200_000) -> None:
        self._compute = compute
        self._entries: dict[int, tuple[K, V]] = {}
        self._most = most

    def __call__(self, argument: K) -> V:
        entry = self._entries.get(id(argument))
        if entry is None:
            if len(self._entries) >= self._most:
                self._entries = dict(list(self._entries.items())[self._most // 2 :])
            entry = self._entries[id(argument)] = argument, self._compute(argument)
        return entry[1]
