"""Why not, as values, made where the decision is made. Queue refusals live in `queues.reasons`, of the same face.

Every reason has `code` (a stable token), `message` (one sentence: object, cause, amounts) and `cure` (the smallest
change).
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

# A cause is written for one node; several have, are and do.
_PLURAL = {"has": "have", "is": "are", "was": "were", "does": "do", "publishes": "publish", "lacks": "lack"}


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
        if self.nodes == 1:
            return f"1 node {self.cause}"
        verb, space, rest = self.cause.partition(" ")
        return f"{self.nodes} nodes {_PLURAL.get(verb, verb)}{space}{rest}"


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
        where = f"sub-group {self.sub_group} of {self.gang}" if self.sub_group else self.gang
        gated = f", {self.gated} of them behind a scheduling gate" if self.gated else ""
        return f"{where} needs {self.needed} pods to start and has {self.present}{gated}."

    @property
    def cure(self) -> str:
        if self.gated:
            return "Remove the scheduling gates, or lower the minimum."
        return "Create the missing pods, or lower minMember of the PodGroup."


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
            f"request {self.request} of ResourceClaim {self.claim}" if self.request else f"ResourceClaim {self.claim}"
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
        causes = ", ".join(map(str, self.causes)) or "there are no nodes"
        return f"Pod {self.pod} fits no node even when empty: {causes}."

    @property
    def cure(self) -> str:
        return "Ask for less, relax the pod's node selector, tolerations or claims, or add a node that can take it."


@dataclass(frozen=True, slots=True, kw_only=True)
class GangDoesNotFit:
    """The gang was tried whole; nothing was placed. `proved`: no placement exists; else none was found in time."""

    code: ClassVar[str] = "GangDoesNotFit"
    gang: str
    needed: int
    placeable: int
    causes: tuple[NodeCount, ...] = ()
    domain: str = ""
    proved: bool = True

    @property
    def message(self) -> str:
        where = f", with {self.domain} as the best topology domain" if self.domain else ""
        there = "there " if self.domain else ""
        causes = f": {there}{', '.join(map(str, self.causes))}" if self.causes else ""
        proof = "" if self.proved else " (not proved within the budget)"
        room = f"needs room for {self.needed} pods at once and there is room for {self.placeable}{where}"
        return f"{self.gang} {room}{causes}{proof}."

    @property
    def cure(self) -> str:
        missing = self.needed - self.placeable
        if missing <= 0:
            return "Wait until running work ends, or relax the topology constraint."
        return f"Free room for {missing} more pod{'' if missing == 1 else 's'}, or add nodes."


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyUnusable:
    """The gang names a topology or a level that does not exist, or no node carries its labels."""

    code: ClassVar[str] = "TopologyUnusable"
    gang: str
    topology: str
    problem: str

    @property
    def message(self) -> str:
        return f"{self.gang}: Topology {self.topology} {self.problem}."

    @property
    def cure(self) -> str:
        return f"Create or correct Topology {self.topology}, or change the gang's topologyConstraint."


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
class OutOfTime:
    """The search ended at its limit without an answer."""

    code: ClassVar[str] = "OutOfTime"
    gang: str
    steps: int

    @property
    def message(self) -> str:
        return f"{self.gang}: no placement was found within {self.steps} search steps; it may still exist."

    @property
    def cure(self) -> str:
        return "Raise the search budget, or simplify the claims' constraints and alternatives."
