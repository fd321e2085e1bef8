"""Problem: the question in small integers, and the way back to names."""

from dataclasses import dataclass

Level = tuple[str, str]
"""(topology, key) of a level in which a group may have to stay together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What is placed in one piece: a bundle of `pods` pods of one shape."""

    shape: int
    pods: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What is placed whole or not at all. A leaf takes units until it has `minimum` pods, an inner group that many of
    its children; both prefer those listed first.

    `steps`: levels to stay together in, to be tried in this order; the last is `required` if that is set, otherwise
    after them anywhere will do. `pinned`: the only domain of the required level allowed, "" for any. `near`: nodes
    where pods of the group are already: their domains are tried first."""

    name: str
    minimum: int
    units: tuple[Unit, ...] = ()
    children: tuple["Group", ...] = ()
    steps: tuple[Level, ...] = ()
    required: Level | None = None
    pinned: str = ""
    near: frozenset[str] = frozenset()
