"""What running gangs may lose to others, and what harm it does: pods by themselves down to a minimum, or whole gangs.

Harm is told in tiers, the gravest first: work of a higher priority lost is worse than any amount of a lower; then gangs
stopped; then pods. Lost work is GPU-seconds since the pod started, or since its last checkpoint, and what a restart
takes. Source: DESIGN 3; KAI docs (elastic workloads, min-runtime).
"""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace

from queues.resources import Resources
from scheduler.model.workloads import Gang, Pod
from scheduler.plan.caps import Cap, Caps
from scheduler.plan.ground.accounts import GPU
from scheduler.plan.wants import least_pods
from scheduler.solver.harm import Part

RESTART_SECONDS = 60
"""What a pod loses besides its work when it has to start again."""

_CPU_OF_A_GPU = 64
"""Lost CPU time counts as well, one GPU for so many CPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One pod that may have to go. `cost`: what is lost, in thousandths of GPU-seconds; `weight`: the same, but more
    than that of every pod of its gang with a lower task priority, so that those go first; `relief`: what its queue no
    longer pays then; `caps`: what counts pods that leave, and counts this one."""

    pod: Pod
    gang: Gang
    queue: str
    cost: int
    weight: int
    relief: Resources
    caps: tuple[Cap, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A running gang that may lose pods. `firm`: it may lose what it has beyond its minimum, and no more.

    `staying`: its pods (key) that may not go yet, nor the gang as a whole with them."""

    gang: Gang
    queue: str
    firm: bool = False
    staying: frozenset[str] = frozenset()


def losses(
    holdings: Iterable[Holding],
    now_ms: int,
    relief: Callable[[Sequence[Pod]], Resources],
    *,
    caps: Caps,
    spared: Container[str] = (),
    leaving: Container[str] = (),
) -> tuple[tuple[Loss, ...], tuple[Part, ...]]:
    """What may go, numbered, and the gangs that it belongs to. `spared`: pods (key) that cannot go now, nor can their
    gangs as a whole, any more than those that `caps` forbid by themselves; `leaving`: those that go anyhow. `relief`:
    of pods that go together."""
    found: list[Loss] = []
    parts: list[Part] = []
    for holding in holdings:
        kept = {
            pod.key
            for pod in holding.gang.pods
            if pod.key in spared or (_stays(pod, leaving) and caps.forbid(pod, holding.queue))
        }
        numbers: dict[str, list[int]] = {}
        weights = _weights(holding.gang, now_ms, relief)
        for pod in holding.gang.pods:
            if _stays(pod, leaving) and pod.key not in kept:
                numbers.setdefault(pod.sub_group if holding.gang.sub_groups else "", []).append(len(found))
                less = relief([pod])
                cost = lost(pod, holding.gang, now_ms, less[GPU])
                counts = caps.of(pod, holding.queue)
                weight = weights.get(pod.key, cost)
                what = Loss(
                    pod=pod,
                    gang=holding.gang,
                    queue=holding.queue,
                    cost=cost,
                    weight=weight,
                    relief=less,
                    caps=counts,
                )
                found.append(what)
        part = _part(replace(holding, firm=holding.firm or bool(kept)), "", numbers, leaving)
        mine = [found[number] for each in numbers.values() for number in each]
        parts.append(replace(part, frees=_together(mine, relief)))
    return tuple(found), tuple(parts)


def ranks_of(found: Iterable[Loss]) -> tuple[dict[int, int], dict[str, int]]:
    """The tiers of harm by priority, the highest first; and by gang (key) its age among them, the youngest 0."""
    found = list(found)
    priorities = sorted({loss.gang.priority for loss in found}, reverse=True)
    ages = sorted({(-loss.gang.created_ms, loss.gang.key) for loss in found})
    return {each: rank for rank, each in enumerate(priorities)}, {key: place for place, (_, key) in enumerate(ages)}


def lost(pod: Pod, gang: Gang, now_ms: int, gpus: int) -> int:
    """What ends with the pod, in thousandths of GPU-seconds."""
    ran = max(now_ms - (pod.started_ms if pod.started_ms is not None else now_ms), 0)
    if gang.checkpoint_interval_ms:
        ran %= gang.checkpoint_interval_ms
    worth = gpus if gpus else max(pod.requests["cpu"] // _CPU_OF_A_GPU, 1)
    return worth * (ran // 1000 + RESTART_SECONDS)


def _together(found: Iterable[Loss], relief: Callable[[Sequence[Pod]], Resources]) -> dict[str, dict[str, int]]:
    """By node, the GPUs that become free only when all of these go: their claims are shared among them."""
    here: dict[str, list[Loss]] = {}
    for loss in found:
        if len(loss.pod.claims) > 0:
            here.setdefault(loss.pod.node, []).append(loss)
    more: dict[str, dict[str, int]] = {}
    for node, those in here.items():
        extra = relief([loss.pod for loss in those])[GPU] - sum(loss.relief[GPU] for loss in those)
        if len(those) > 1 and extra > 0:
            more[node] = {GPU: extra}
    return more


def _weights(gang: Gang, now_ms: int, relief: Callable[[Sequence[Pod]], Resources]) -> dict[str, int]:
    """By pod, if their task priorities differ: a pod weighs more than every one of a lower task priority."""
    if len({pod.task_priority for pod in gang.pods}) < 2:
        return {}
    weights: dict[str, int] = {}
    floor, above = 0, 0
    last: int | None = None
    for pod in sorted((pod for pod in gang.pods if pod.node), key=lambda pod: (pod.task_priority, pod.key)):
        if pod.task_priority != last:
            last, floor = pod.task_priority, above + 1
        weights[pod.key] = max(lost(pod, gang, now_ms, relief([pod])[GPU]), floor)
        above = max(above, weights[pod.key])
    return weights


def _stays(pod: Pod, leaving: Container[str]) -> bool:
    return bool(pod.node) and not (pod.terminating or pod.done) and pod.key not in leaving


def _part(holding: Holding, name: str, numbers: dict[str, list[int]], leaving: Container[str]) -> Part:
    gang = holding.gang
    own = next((sub for sub in gang.sub_groups if sub.name == name), None)
    children = [sub for sub in gang.sub_groups if (sub.parent or "") == name]
    root = not name
    if not children:
        mine = tuple(numbers.get(name, ()))
        there = sum(1 for pod in gang.pods if _stays(pod, leaving) and (own is None or pod.sub_group == name))
        least = least_pods(gang) if own is None else own.min_member
        spare = 0 if least is None else min(max(there - least, 0), len(mine))
        return Part(candidates=mine, spare=spare, whole=root, firm=root and holding.firm)
    below = tuple(_part(holding, sub.name, numbers, leaving) for sub in children)
    least = gang.min_sub_group if own is None else own.min_sub_group
    running = sum(1 for part in below if part.runs)
    spare = 0 if least is None else max(running - least, 0)
    return Part(below=tuple(part for part in below if part.runs), spare=spare, whole=root, firm=root and holding.firm)
