"""Plan -> ordered writes: what is to be sent for each gang, as values, before anything is sent.

Order per gang (KEP 4381, KEP 5004): claims made for extended resources; per claim the finalizer, then one
status write with allocation and reservation; the pods' extendedResourceClaimStatus; the devices' binding conditions
and the volumes' bindings; then the binds. Every claim stands before the first bind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter

from queues.words import counted
from scheduler.api.dra import MOST_CONSUMERS, AllocationResult, ResourceClaimSpec
from scheduler.model.endings import OVERTIME, STALE
from scheduler.model.errors import InvariantError
from scheduler.model.plan import ClaimAllocation, Eviction, ExtendedMapping, Placement, Plan
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Claim, Pod


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A pod (key) that a claim is reserved for."""

    pod: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimWrite:
    """Claim `claim` (key) shall hold `allocation` and be reserved for `consumers` besides those it has.

    `first`: this gang allocates it. Otherwise it is allocated already, or by another gang of the same plan, and these
    consumers only join: the write waits for that one and never allocates."""

    claim: str
    uid: str
    allocation: AllocationResult
    consumers: tuple[Consumer, ...]
    first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimMaking:
    """A claim to create for the extended resources of one pod, allocated to `allocation` and reserved for it."""

    consumer: Consumer
    spec: ResourceClaimSpec
    allocation: AllocationResult
    mappings: tuple[ExtendedMapping, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeWrite:
    """PersistentVolumeClaim `claim` (key) shall be bound for these pods: to `volume`, or with "" to one that is
    provisioned for `node`."""

    claim: str
    uid: str
    volume: str
    node: str
    consumers: tuple[Consumer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """Pod `pod` (key) of that uid goes to `node`. `queue`: which queue pays for it, after those above it from the top
    ("org/team"); what runs is charged by that, whatever labels say later. "": that is not known."""

    pod: str
    uid: str
    node: str
    queue: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GangWrites:
    """All writes of one gang: claims and volumes in parallel, all of them before the binds, the binds in parallel."""

    gang: str
    making: tuple[ClaimMaking, ...]
    claims: tuple[ClaimWrite, ...]
    volumes: tuple[VolumeWrite, ...] = ()
    binds: tuple[Bind, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    """Pod `pod` (key) of that uid leaves through the Eviction API. `why`: a sentence for its user."""

    pod: str
    uid: str
    stage: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nominate:
    """The status of pod `pod` (key) of that uid names the node that is promised to it, "" for none any more."""

    pod: str
    uid: str
    node: str


def evictions(plan: Plan) -> dict[str, tuple[Evict, ...]]:
    """The pods that leave, in the plan's order, by the gang that they make way for; "" if for none."""
    found: dict[str, list[Evict]] = {}
    for eviction in plan.evictions:
        leaves = Evict(pod=eviction.pod, uid=eviction.pod_uid, stage=eviction.stage, why=_why(eviction))
        found.setdefault(eviction.beneficiary, []).append(leaves)
    return {gang: tuple(each) for gang, each in found.items()}


def _why(eviction: Eviction) -> str:
    """Which stage, for whom, and what it costs whoever did not wish for it."""
    if eviction.stage == OVERTIME:
        return "Its gang ran for as long as it may (maxRuntime)."
    lost = counted(eviction.cost // 1000, "GPU-second")
    if eviction.stage == STALE:
        return f"Its gang ran with fewer pods than must run together for longer than its grace; {lost} of work lost."
    done = {"consolidate": "moved", "reclaim": "called back by a queue under its fair share", "preempt": "outranked"}
    return f"It was {done[eviction.stage]}, to make room for gang {eviction.beneficiary}; {lost} of work lost."


Nominations = Mapping[str, tuple[Nominate, ...]]
"""By gang, in the order of its pods."""


def nominations(plan: Plan, snapshot: Snapshot) -> Nominations:
    """What pods that wait have to be told about the nodes promised to them, by gang; what they know already is not
    told again. Those that are placed know by being bound."""
    promised = {promise.pod: promise.node for promise in plan.promises}
    placed = {placement.pod for placement in plan.placements}
    found: dict[str, tuple[Nominate, ...]] = {}
    for gang in snapshot.gangs:
        told = tuple(
            Nominate(pod=pod.key, uid=pod.uid, node=promised.get(pod.key, ""))
            for pod in gang.pods
            if not pod.node and pod.key not in placed and pod.nominated != promised.get(pod.key, "")
        )
        if told:
            found[gang.key] = told
    return found


def writes(plan: Plan, snapshot: Snapshot) -> tuple[GangWrites, ...]:
    """The writes of every gang that `plan` places. `snapshot` is the one the plan was made from. A gang that joins a
    claim comes after the gang that allocates it, else they are sorted by name.

    Raises InvariantError for a plan that cannot be carried out: a claim without devices or with two sets of them, a pod
    whose claim is not decided, more consumers than a claim may have, gangs that wait for one another's claims."""
    pods = {pod.key: pod for gang in snapshot.gangs for pod in gang.pods}
    gangs: dict[str, list[Placement]] = {}
    for placement in plan.placements:
        pod = pods.get(placement.pod)
        if pod is None:
            raise InvariantError(f"the plan places pod {placement.pod}, which is in no gang of its snapshot")
        _check_claims(placement, pod)
        gangs.setdefault(placement.gang, []).append(_with_made_earlier(placement, pod, snapshot.claims))
    wanted = _allocations([placement for placements in gangs.values() for placement in placements], snapshot.claims)
    paths = _queue_paths(snapshot)
    return _allocators_first(
        [_gang_writes(gang, gangs[gang], wanted, snapshot.claims, paths.get(gang, "")) for gang in sorted(gangs)]
    )


def _allocations(placements: Sequence[Placement], claims: Mapping[str, Claim]) -> dict[str, AllocationResult]:
    """What every claim of these placements holds in the end, by claim key."""
    wanted: dict[str, AllocationResult] = {}
    for placement in placements:
        for part in placement.claims:
            if part.allocation is None or part.make is not None:
                continue
            if wanted.setdefault(part.claim, part.allocation) != part.allocation:
                raise InvariantError(f"the plan gives ResourceClaim {part.claim} two different allocations")
    for key in wanted:
        held = claims[key].allocation if key in claims else None
        if held is not None:
            raise InvariantError(f"the plan allocates ResourceClaim {key}, which is allocated already")
    for placement in placements:
        for part in placement.claims:
            if part.make is None and part.claim not in wanted:
                held = claims[part.claim].allocation if part.claim in claims else None
                if held is None:
                    raise InvariantError(f"the plan places {placement.pod} without devices for {part.claim}")
                wanted[part.claim] = held
    return wanted


def _with_made_earlier(placement: Placement, pod: Pod, claims: Mapping[str, Claim]) -> Placement:
    """The pod also joins the claim that another commit, perhaps another scheduler's, made for its extended resources:
    that has to be there, reserved and ready before the bind as any other."""
    held = claims.get(pod.extended_claim)
    if held is None or held.allocation is None or any(part.make is not None for part in placement.claims):
        return placement
    joined = ClaimAllocation(name="", claim=held.key, claim_uid=held.uid)
    return replace(placement, claims=(*placement.claims, joined))


def _check_claims(placement: Placement, pod: Pod) -> None:
    decided = {part.claim for part in placement.claims if part.make is None}
    missing = [claim.name for claim in pod.claims if claim.needed and claim.claim not in decided]
    if missing:
        raise InvariantError(f"the plan places pod {placement.pod} and leaves its claim {missing[0]} undecided")


def _gang_writes(
    gang: str,
    placements: list[Placement],
    wanted: Mapping[str, AllocationResult],
    claims: Mapping[str, Claim],
    queue: str,
) -> GangWrites:
    consumers: dict[str, list[Consumer]] = {}
    first: set[str] = set()
    uids: dict[str, str] = {}
    making = []
    for placement in placements:
        consumer = Consumer(pod=placement.pod, uid=placement.pod_uid)
        for part in placement.claims:
            if part.make is not None:
                if part.allocation is None:
                    raise InvariantError(f"the plan makes a claim for pod {placement.pod} and gives it no devices")
                making.append(
                    ClaimMaking(consumer=consumer, spec=part.make, allocation=part.allocation, mappings=part.mappings)
                )
                continue
            joined = consumers.setdefault(part.claim, [])
            if consumer not in joined:
                joined.append(consumer)
            uids[part.claim] = part.claim_uid or (claims[part.claim].uid if part.claim in claims else "")
            if part.allocation is not None:
                first.add(part.claim)
    for key, joined in consumers.items():
        held = claims[key].reserved_for if key in claims else ()
        if len({*held, *(consumer.uid for consumer in joined)}) > MOST_CONSUMERS:
            raise InvariantError(f"the plan reserves ResourceClaim {key} for more than {MOST_CONSUMERS} pods")
    return GangWrites(
        gang=gang,
        making=tuple(making),
        claims=tuple(
            ClaimWrite(
                claim=key,
                uid=uids[key],
                allocation=wanted[key],
                consumers=tuple(consumers[key]),
                first=key in first,
            )
            for key in sorted(consumers)
        ),
        volumes=_volume_writes(placements),
        binds=tuple(
            Bind(pod=placement.pod, uid=placement.pod_uid, node=placement.node, queue=queue) for placement in placements
        ),
    )


def _volume_writes(placements: list[Placement]) -> tuple[VolumeWrite, ...]:
    """One for each claim, with the node of the first of its pods."""
    found: dict[str, VolumeWrite] = {}
    for placement in placements:
        consumer = Consumer(pod=placement.pod, uid=placement.pod_uid)
        for part in placement.volumes:
            known = found.get(part.claim)
            if known is None:
                found[part.claim] = VolumeWrite(
                    claim=part.claim,
                    uid=part.claim_uid,
                    volume=part.volume,
                    node=placement.node,
                    consumers=(consumer,),
                )
            elif known.volume != part.volume:
                raise InvariantError(f"the plan gives PersistentVolumeClaim {part.claim} two volumes")
            else:
                found[part.claim] = replace(known, consumers=(*known.consumers, consumer))
    return tuple(found[claim] for claim in sorted(found))


def _queue_paths(snapshot: Snapshot) -> dict[str, str]:
    """By gang, the queue that pays, after those above it."""
    parents = {queue.name: queue.parent for queue in snapshot.queues}
    known: dict[str, str] = {}
    paths = {}
    for gang in snapshot.gangs:
        queue = gang.queue or snapshot.policy.default_queue
        if queue not in known:
            path: list[str] = []
            step: str | None = queue
            while step and step not in path:
                path.append(step)
                step = parents.get(step)
            known[queue] = "/".join(reversed(path))
        paths[gang.key] = known[queue]
    return paths


def _allocators_first(gangs: list[GangWrites]) -> tuple[GangWrites, ...]:
    allocators = {write.claim: gang.gang for gang in gangs for write in gang.claims if write.first}
    order: TopologicalSorter[str] = TopologicalSorter()
    for gang in gangs:
        joined = (allocators.get(write.claim, gang.gang) for write in gang.claims if not write.first)
        order.add(gang.gang, *(allocator for allocator in joined if allocator != gang.gang))
    by_name = {gang.gang: gang for gang in gangs}
    try:
        return tuple(by_name[name] for name in order.static_order())
    except CycleError as error:
        raise InvariantError(f"gangs of the plan wait for one another's claims: {', '.join(error.args[1])}") from None
