"""NUMA zones of nodes whose kubelets refuse pods that do not fit them, and what of a pod they look at."""

from dataclasses import dataclass

from queues.resources import NOTHING, Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One zone: what it has for pods, and what of that nobody had when it was last told. House units."""

    name: str
    allocatable: Resources
    available: Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Zones:
    """The zones of a node, in its own order. `single`: a pod must have all it asks for in one zone; otherwise in as few
    as would do if they were empty. `per_pod`: a pod is judged as a whole, otherwise each container by itself."""

    single: bool
    per_pod: bool
    zones: tuple[Zone, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """What a kubelet aligns to zones of a pod: `whole`, or by `containers` that run together, and `inits` before them,
    one at a time."""

    whole: Resources = NOTHING
    containers: tuple[Resources, ...] = ()
    inits: tuple[Resources, ...] = ()
