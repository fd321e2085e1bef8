"""Plan: all that was decided, and why. `to_json()` is the contract of `tutti plan -o json`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from queues.resources import Resources
from scheduler.api.dra import AllocationResult, ResourceClaimSpec
from scheduler.model.reasons import Reason
from scheduler.model.snapshot import SetAside


class Verdict(StrEnum):
    """What the plan decides for a gang."""

    PLACED = "Placed"
    """All that was missing is placed by this plan."""
    RUNNING = "Running"
    """Nothing is missing."""
    PENDING = "Pending"
    """It may start later; `reason` says what is missing."""
    REFUSED = "Refused"
    """It cannot start until somebody changes something; `reason` says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedMapping:
    """Which request of the made claim serves which extended resource of which container (KEP 5004)."""

    container: str
    resource: str
    request: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimAllocation:
    """Devices for one claim of a pod. `name`: the pod's name for it. `allocation` None: the claim is allocated already
    and the pod only joins it. `make`: the claim does not exist and is created for the pod's extended resources."""

    name: str
    claim: str
    claim_uid: str = ""
    allocation: AllocationResult | None = None
    make: ResourceClaimSpec | None = None
    mappings: tuple[ExtendedMapping, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeChoice:
    """What a PersistentVolumeClaim (key) gets that waits for its first consumer: this PersistentVolume, or with "" one
    that is provisioned for the pod's node."""

    claim: str
    claim_uid: str
    volume: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Pod `pod` (key) of gang `gang` (key) goes to `node`. Placements of one gang are committed together. `volumes`:
    for those of its claims that are not bound yet; pods that share one have it both."""

    pod: str
    pod_uid: str
    gang: str
    node: str
    claims: tuple[ClaimAllocation, ...] = ()
    volumes: tuple[VolumeChoice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """Pod `pod` must leave so that gang `beneficiary` starts; "": for its own gang's sake (stages "stale" and
    "max-runtime"). `cost`: lost GPU-seconds, in thousandths."""

    pod: str
    pod_uid: str
    stage: str
    beneficiary: str
    cost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """Pod `pod` (key) of gang `gang` (key) goes to `node` when those that end there have left: the room is kept for it.
    Promises to one gang are kept together."""

    pod: str
    pod_uid: str
    gang: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """Pod `pod` (key) of gang `gang` (key) has this room on `node` when the gang starts (by
    `GangDecision.starts_at_ms`, or when enough others have ended): until then those use it who have left by then.
    `devices`: (driver, pool, name)."""

    pod: str
    gang: str
    node: str
    devices: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GangDecision:
    """`placed`, `bound`, `needed` count pods: placed by this plan, on nodes already, and the gang's minimum."""

    gang: str
    uid: str
    owner: str
    queue: str
    verdict: Verdict
    reason: Reason | None = None
    starts_at_ms: int | None = None
    """When it starts at the latest, by what is known of those who run; None: nobody knows."""
    below_since_ms: int | None = None
    """Since when it runs with fewer pods than its minimum, also after this plan; None if it does not."""
    ends_at_ms: int | None = None
    """When its pods will be stopped for its own sake, if nothing changes; None: not that we know."""
    placed: int = 0
    bound: int = 0
    needed: int = 0
    total: int = 0
    solver: "SolverReport | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReport:
    """House units by queue resource name. `limit` holds only what is limited. `problem`: why it takes no work.

    `past`: the part of the cluster that it used until `past_until_ms`, decayed, as the decision took it into account;
    None if the past counts for nothing. `standing`: the part that it has in use from now on. Both of
    `queues.usage.CLUSTER`."""

    name: str
    parent: str | None
    quota: Resources
    limit: Mapping[str, int]
    fair_share: Resources
    allocated: Resources
    requested: Resources
    running: int = 0
    pending: int = 0
    past: Mapping[str, int] | None = None
    past_until_ms: int = 0
    standing: Mapping[str, int] = field(default_factory=dict)
    problem: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverReport:
    """`status`: greedy (no search was needed), optimal, feasible (gap > 0), impossible, budget (nothing better was
    found in it), or rejected (its answer failed the independent check and was not used). `gap`: how far the answer may
    be from the best, as a fraction. `seconds`: deterministic time."""

    status: str = "greedy"
    gap: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sorted by key throughout, so that equal plans are equal texts."""

    now_ms: int
    placements: tuple[Placement, ...] = ()
    evictions: tuple[Eviction, ...] = ()
    promises: tuple[Promise, ...] = ()
    reserved: tuple[Reserved, ...] = ()
    gangs: tuple[GangDecision, ...] = ()
    queues: tuple[QueueReport, ...] = ()
    solver: SolverReport = field(default_factory=SolverReport)
    set_aside: tuple[SetAside, ...] = ()
    again_ms: int | None = None
    """When time alone may change the answer; None if that is not known of any time."""

    def why(self, gang: str) -> Reason | None:
        """The reason why the gang (its name, or namespace/name) does not start; None if it does."""
        for decision in self.gangs:
            if gang in (decision.gang, decision.gang.partition("/")[2]):
                return decision.reason
        raise KeyError(f"the plan decides nothing about gang {gang!r}")
