"""Why not, as values, made where the decision is made. Queue refusals live in `queues.reasons`, of the same face.

Every reason has `code` (a stable token), `message` (one sentence: object, cause, amounts) and `cure` (the smallest
change).
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from queues.words import amount, counted, span
from scheduler.model.no_room import NoRoom, cures, told
from scheduler.model.times import rfc3339

# A cause is written for one node; several have, are and do.
_PLURAL = {"has": "have", "is": "are", "was": "were", "does": "do", "publishes": "publish", "lacks": "lack"}

_WAYS = (
    ("is incomplete", "wait until the driver has published its devices in full"),
    ("did not become ready", "look at what the driver reports of the device"),
    ("has the taint", "tolerate the taint that is in the way"),
    ("unschedulable", "uncordon a node"),
    ("node selector", "loosen the pod's node selector"),
    ("node affinity", "loosen the pod's node affinity"),
    ("has too", "ask for less"),
    ("of class", "change what the pod's claims ask for"),
    ("request", "change what the pod's claims ask for"),
    ("ResourceClaim", "change what the pod's claims ask for"),
    ("volume", "change the pod's volumes"),
    ("StorageClass", "change the pod's volumes"),
    ("has no room for another pod", "raise the number of pods that a node takes"),
)
"""What a cause says, and what helps against it."""


@runtime_checkable
class Reason(Protocol):
    """What every reason offers; its dataclass fields are the `details` of the Plan's JSON."""

    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def cure(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCount:
    """So many nodes were ruled out by one cause, for instance "has too little free memory"."""

    nodes: int
    cause: str

    def __str__(self) -> str:
        verb, space, rest = self.cause.partition(" ")
        return f"{counted(self.nodes, f'node {verb}', f'nodes {_PLURAL.get(verb, verb)}')}{space}{rest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """An object of the user's that cannot be understood. It is set aside; everything else goes on."""

    code: ClassVar[str] = "Unreadable"
    object: str
    field: str
    problem: str
    remedy: str

    @property
    def message(self) -> str:
        return f"{self.object}: {self.field}: {self.problem}."

    @property
    def cure(self) -> str:
        return self.remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingForPods:
    """Fewer pods exist than the gang needs before it may start."""

    code: ClassVar[str] = "WaitingForPods"
    gang: str
    needed: int
    present: int
    gated: int = 0
    sub_group: str = ""

    @property
    def message(self) -> str:
        where = f"Sub-group {self.sub_group} of {self.gang}" if self.sub_group else self.gang
        gated = f", {self.gated} of them behind a scheduling gate" if self.gated else ""
        return f"{where} needs {counted(self.needed, 'pod')} to start and has {self.present or 'none'}{gated}."

    @property
    def cure(self) -> str:
        missing = max(self.needed - self.present, 0)
        create = f"create {counted(missing, 'more pod')}" if missing else ""
        remove = "remove the scheduling gates" if self.gated else ""
        what = " and ".join(part for part in (create, remove) if part) or "create the missing pods"
        return f"{what[0].upper()}{what[1:]}, or lower the minimum (minMember)."


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingForClaims:
    """A pod's ResourceClaim is not there yet, is being deleted, or belongs to another pod. `claim`: its key, or how
    the pod calls it while its template's claim has no name."""

    code: ClassVar[str] = "WaitingForClaims"
    pod: str
    claim: str
    problem: str
    remedy: str

    @property
    def message(self) -> str:
        return f"Pod {self.pod}: ResourceClaim {self.claim} {self.problem}."

    @property
    def cure(self) -> str:
        return self.remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomIsBeingMade:
    """The gang has its place as soon as others have left theirs. `pods`: of the gang; `leaving`: pods that leave for
    it, 0 if they leave anyhow."""

    code: ClassVar[str] = "RoomIsBeingMade"
    gang: str
    pods: int
    leaving: int = 0
    stage: str = ""

    @property
    def message(self) -> str:
        ends = counted(self.leaving, "pod leaves", "pods leave") if self.leaving else "others are leaving"
        return f"Room for {counted(self.pods, 'pod')} of {self.gang} is being made: {ends}."

    @property
    def cure(self) -> str:
        return "Nothing to do: it starts when they have ended."


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxRuntimeReached:
    """The gang ran for as long as its user lets it; its pods are being stopped."""

    code: ClassVar[str] = "MaxRuntimeReached"
    gang: str
    allowed_ms: int
    ran_ms: int

    @property
    def message(self) -> str:
        return f"{self.gang} has run for {span(self.ran_ms)} of the {span(self.allowed_ms)} it may, and is stopped."

    @property
    def cure(self) -> str:
        return "Raise or remove its maxRuntime (annotation tutti.scheduler/max-runtime), and start it again."


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingForVolumes:
    """A pod's PersistentVolumeClaim (key) cannot be used yet: it is not there, not bound, or another pod's alone."""

    code: ClassVar[str] = "WaitingForVolumes"
    pod: str
    claim: str
    problem: str
    remedy: str

    @property
    def message(self) -> str:
        return f"Pod {self.pod} waits for PersistentVolumeClaim {self.claim}, which {self.problem}."

    @property
    def cure(self) -> str:
        return self.remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRefused:
    """A claim asks for something that cannot be decided: unknown class, CEL error, a form newer than us."""

    code: ClassVar[str] = "ClaimRefused"
    claim: str
    request: str
    problem: str
    remedy: str

    @property
    def message(self) -> str:
        where = (
            f"Request {self.request} of ResourceClaim {self.claim}" if self.request else f"ResourceClaim {self.claim}"
        )
        return f"{where}: {self.problem}."

    @property
    def cure(self) -> str:
        return self.remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class NoNodeFits:
    """A pod that could not run on any node even if all of them were empty."""

    code: ClassVar[str] = "NoNodeFits"
    pod: str
    causes: tuple[NodeCount, ...]

    @property
    def message(self) -> str:
        causes = "; ".join(map(str, self.causes)) or "there are no nodes"
        # The causes are those of nodes on which all is free.
        return f"Pod {self.pod} fits no node even when empty: {causes.replace(' free ', ' ')}."

    @property
    def cure(self) -> str:
        ways = dict.fromkeys(way for each in self.causes for way in _ways(each.cause))
        text = ", ".join((*ways, "or add a node that can take it")) if ways else "add a node that can take it"
        return f"{text[0].upper()}{text[1:]}."


def _ways(cause: str) -> tuple[str, ...]:
    """What somebody can do about a node that is ruled out by this cause even when it is empty."""
    return tuple(way for sign, way in _WAYS if sign in cause) or ("change what the pod asks for",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scattered:
    """What one pod asks for is free, but on no node by itself. `free` of the resource ("gpu", "deviceclass/...", or as
    Kubernetes calls it) are on `nodes`, at `most` so many on one. Counts, not thousandths."""

    resource: str
    asked: int
    free: int
    nodes: int
    most: int

    def __str__(self) -> str:
        measured = self.resource == "gpu" or self.resource.startswith("deviceclass/")
        free = amount(self.resource, self.free * 1000 if measured else self.free)
        where = f"are free on {self.nodes} nodes, at most {self.most} on one node"
        return f"{free} {where}, and one pod asks for {self.asked}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GangDoesNotFit:
    """The gang was tried whole; nothing was placed. `proved`: no placement exists; else none was found in time.
    `scattered`: there would be room for one of its pods if what is free were on one node. `each`: what one more pod
    asks for, where no node is ruled out for it by itself. `no_room`: why running work does not make way for it, stage
    by stage.

    `reserved_nodes`: on how many nodes room is reserved for it; `starts_at_ms`: by when it starts there; None: nobody
    knows, and `keeps_until_ms` is when others get what is free there if it has not started; `waits_for`: the gang (key)
    that ends last before it. `kept_for`: the gang (key) that room is reserved for where this one would fit,
    `kept_until_ms`: by when that one starts; None: nobody knows, and `kept_turn_ms` is when it keeps it no longer; who
    is certain to run no longer than `kept_most_ms` may use it before."""

    code: ClassVar[str] = "GangDoesNotFit"
    gang: str
    needed: int
    placeable: int
    causes: tuple[NodeCount, ...] = ()
    domain: str = ""
    proved: bool = True
    scattered: Scattered | None = None
    each: str = ""
    no_room: tuple[NoRoom, ...] = ()
    reserved_nodes: int = 0
    starts_at_ms: int | None = None
    keeps_until_ms: int | None = None
    waits_for: str = ""
    kept_for: str = ""
    kept_until_ms: int | None = None
    kept_turn_ms: int | None = None
    kept_most_ms: int | None = None

    @property
    def message(self) -> str:
        where = f", with {self.domain} as the best topology domain" if self.domain else ""
        there = "there" if self.domain else ""
        one_more = f"for one more{there and ' there'}, " if self.placeable else there and "there "
        causes = f": {one_more}{'; '.join(map(str, self.causes))}" if self.causes else ""
        proof = "" if self.proved else " (not proved within the budget)"
        needed = f"{counted(self.needed, 'pod')}{' at once' if self.needed > 1 else ''}"
        found = f"there is room for {self.placeable or 'none'}{where}"
        pieces = f" {self.scattered}." if self.scattered is not None else ""
        each = f" One more pod asks for {self.each}." if self.each else ""
        hindered = told(self.no_room)
        room = f" {hindered}" if hindered else ""
        text = f"{self.gang} needs room for {needed} and {found}{causes}{proof}.{pieces}{each}{room}"
        return text + self._reserved() + self._kept()

    def _reserved(self) -> str:
        """What it may count on."""
        if not self.reserved_nodes:
            return ""
        nodes = counted(self.reserved_nodes, "node")
        if self.starts_at_ms is None:
            turn = f", or until {rfc3339(self.keeps_until_ms)}" if self.keeps_until_ms is not None else ""
            return f" What is free on {nodes} is kept for it until that is enough{turn}."
        ends = f", when {self.waits_for} has ended at the latest" if self.waits_for else ""
        return f" It starts by {rfc3339(self.starts_at_ms)}{ends}: room on {nodes} is reserved for it."

    def _kept(self) -> str:
        if not self.kept_for:
            return ""
        when = f", which starts by {rfc3339(self.kept_until_ms)}" if self.kept_until_ms is not None else ""
        turn = f" until {rfc3339(self.kept_turn_ms)} at the latest" if self.kept_turn_ms is not None else ""
        return f" What would be enough is reserved for {self.kept_for}{when}{turn}."

    @property
    def cure(self) -> str:
        if self.starts_at_ms is not None:
            return f"Nothing to do: it starts by {rfc3339(self.starts_at_ms)}. To start it sooner, {self._ways()}."
        if self.kept_most_ms is not None:
            most = f"{self.kept_most_ms // 1000}s"
            return f"Give it a maxRuntime of {most} or less, and it may start now; or {self._ways()}."
        ways = self._ways()
        return f"{ways[0].upper()}{ways[1:]}."

    def _ways(self) -> str:
        if self.causes and all(each.cause.startswith("lacks the label ") for each in self.causes):
            return "put the label on the nodes, or change the rule of the pods that names it"
        more = counted(max(self.needed - self.placeable, 1), "more pod")
        others = ["add nodes"]
        if self.scattered is not None:
            others.append("ask for less per pod")
        if self.domain:
            others.append("relax the topology constraint")
        others += cures(self.no_room)
        return f"free room for {more}{' there' if self.domain else ''}, {', '.join([*others[:-1], f'or {others[-1]}'])}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyUnusable:
    """The gang names a topology or a level that does not exist, or no node carries its labels; or the topology cannot
    be read, and `remedy` is what mends it."""

    code: ClassVar[str] = "TopologyUnusable"
    gang: str
    topology: str
    problem: str
    remedy: str = ""

    @property
    def message(self) -> str:
        return f"{self.gang}: Topology {self.topology} {self.problem}."

    @property
    def cure(self) -> str:
        return self.remedy or f"Create or correct Topology {self.topology}, or change the gang's topologyConstraint."


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidGang:
    """The PodGroup contradicts itself: unknown sub-group, two minima, a cycle, a minimum larger than its members."""

    code: ClassVar[str] = "InvalidGang"
    gang: str
    problem: str
    remedy: str

    @property
    def message(self) -> str:
        return f"{self.gang}: {self.problem}."

    @property
    def cure(self) -> str:
        return self.remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A ResourceClaim (key) that holds a device, and the pods (key, uid) that it is reserved for."""

    claim: str
    uid: str
    pods: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGivenTwice:
    """Two claims hold one device ("driver/pool/device"). `second` came to it with resource version `version`."""

    code: ClassVar[str] = "DeviceGivenTwice"
    device: str
    first: Holding
    second: Holding
    version: str

    @property
    def message(self) -> str:
        return (
            f"Device {self.device} is held by ResourceClaim {self.first.claim} and, since resource version "
            f"{self.version}, by ResourceClaim {self.second.claim} as well."
        )

    @property
    def cure(self) -> str:
        return "Delete the pods of one of them, and keep schedulers apart: set device_fence."
