"""What there is for pods to store on: claims, volumes and classes, and what nodes and drivers say of them.

"Claim" is a PersistentVolumeClaim here, "volume" a PersistentVolume. Sizes are in bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.api.core import NodeSelector, NodeSelectorRequirement


@dataclass(frozen=True, slots=True, kw_only=True)
class PodVolume:
    """A volume of a pod that comes by a claim (key). `own`: the claim is made for this very pod."""

    claim: str
    own: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Nodes that something can be used on. `cause` completes "the node ..." for all others."""

    selector: NodeSelector
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeClaim:
    """A claim of key `namespace/name`. `volume`: the name of the volume that it names, `bound` whether that binding has
    gone through. `storage_class` None: it has none and waits for the default. `selected_node`: where a volume is being
    provisioned for it, "" if nowhere."""

    key: str
    uid: str = ""
    volume: str = ""
    bound: bool = False
    lost: bool = False
    storage_class: str | None = None
    size: int = 0
    modes: tuple[str, ...] = ()
    block: bool = False
    selector: tuple[NodeSelectorRequirement, ...] = ()
    attributes_class: str = ""
    selected_node: str = ""
    owner_uid: str = ""
    terminating: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume. `where`: all of these must hold of a node that uses it. `claim`: key and uid of the claim it is for, ""
    if for none (the uid also if the claim did not exist when it was named). `driver`, `handle`: what a CSI driver
    attaches. `available`: it is free, or promised to `claim` and not bound yet."""

    name: str
    uid: str = ""
    size: int = 0
    modes: tuple[str, ...] = ()
    block: bool = False
    storage_class: str = ""
    attributes_class: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    where: tuple[Where, ...] = ()
    claim: str = ""
    claim_uid: str = ""
    available: bool = True
    driver: str = ""
    handle: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageClass:
    """`provisioner` "": its volumes are made by hand. `waits`: claims are bound once a pod that uses them has a node.
    `allowed`: the topologies that volumes may be provisioned in, None for all."""

    name: str
    provisioner: str = ""
    waits: bool = False
    allowed: NodeSelector | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """A driver has room for a volume of up to `largest` bytes of this class on these nodes."""

    name: str
    storage_class: str
    where: NodeSelector
    largest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """All of that, by key or name. `tracking`: drivers that publish how much room they have. `limits`: by node and
    driver, how many volumes may be attached."""

    claims: Mapping[str, VolumeClaim] = field(default_factory=dict)
    volumes: Mapping[str, Volume] = field(default_factory=dict)
    classes: Mapping[str, StorageClass] = field(default_factory=dict)
    capacities: tuple[Capacity, ...] = ()
    tracking: frozenset[str] = frozenset()
    limits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
