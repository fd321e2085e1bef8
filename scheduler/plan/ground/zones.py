"""NUMA zones of nodes as the plan grows: may these pods come, or will the kubelet refuse them (TopologyAffinityError)?

What a node tells of its zones counts those pods that its exporter has seen. The others (placed by this plan, bound and
not yet running, or running beyond what is said to be in use) are put into zones as the kubelet would: into the lowest
that take them. In which order they come to it is not known, so every order must do. That is also why nobody fits for
the sole reason that somebody else came: what is refused beside few is refused beside more.

Which zone a pod has that was seen is not told either: one that leaves may leave any zone that could have held it, and
whoever comes must fit in each case. What nobody known has was somebody's who has ended since, and is not free before
the exporter has looked again.
Source: the kubelet's Topology Manager (KEP 693); noderesourcetopology-api v1alpha2.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from math import prod

from queues import words
from queues.resources import Resources, total
from scheduler.model.nodes import Node
from scheduler.model.workloads import Pod
from scheduler.model.zones import Aligned, Zones

MOST_CASES = 512
"""Ways in which those who leave may have been spread over zones; beyond that they leave nothing behind."""

MOST_STEPS = 512
"""Stages on the way, over all orders, that are looked at; beyond them the largest and the smallest first must do."""

Parts = tuple[Resources, ...]
"""What is put into zones, each part by itself: a pod, or each of its containers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asks:
    """What a kubelet of one node puts into zones for a pod. `first`: what must find room before, and is left again."""

    parts: Parts = ()
    first: Parts = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tally:
    """A node's zones. `seen`: pods (key) that what is available counts already; `gone`: those of them that left;
    `fresh`: pods that it does not count. `ahead`: what nobody known has is free."""

    zones: Zones
    listed: frozenset[str]
    seen: Mapping[str, _Asks]
    gone: frozenset[str] = frozenset()
    ahead: bool = False
    fresh: Mapping[str, _Asks] = field(default_factory=dict)

    def asks(self, aligned: Aligned | None) -> _Asks:
        if aligned is None:
            return _Asks()
        if self.zones.per_pod:
            parts: Iterable[Resources] = (aligned.whole,)
            first: Iterable[Resources] = ()
        else:
            parts, first = aligned.containers, aligned.inits
        return _Asks(parts=self._listed(parts), first=self._listed(first))

    def _listed(self, parts: Iterable[Resources]) -> Parts:
        """Without what no zone has: that is not aligned."""
        kept = (Resources({n: a for n, a in part.amounts.items() if n in self.listed}) for part in parts)
        return tuple(part for part in kept if part)


class Zoned:
    """The zones of all nodes that have any. `take` and `give_back`: pods that this plan places; `leave` and `stay`:
    pods that were there before it."""

    def __init__(self, tallies: dict[str, _Tally]) -> None:
        self._tallies = tallies

    @classmethod
    def of(cls, nodes: Mapping[str, Node], pods: Iterable[Pod]) -> "Zoned":
        """As it is with these pods on the nodes."""
        tallies = {name: _empty(node.zones, node) for name, node in nodes.items() if node.zones is not None}
        there: dict[str, list[Pod]] = {}
        for pod in pods if tallies else ():
            if pod.node in tallies and not pod.done:
                there.setdefault(pod.node, []).append(pod)
        for name, here in there.items():
            tallies[name] = _with(tallies[name], here)
        return cls(tallies)

    def fork(self) -> "Zoned":
        return Zoned(dict(self._tallies)) if self._tallies else self

    def concern(self, node: str) -> bool:
        """Whether the node has zones."""
        return node in self._tallies

    def state(self, node: str) -> Hashable:
        """Equal for nodes whose zones take the same."""
        tally = self._tallies.get(node)
        if tally is None:
            return None
        gone = sorted(map(repr, (tally.seen[key].parts for key in tally.gone)))
        fresh = sorted(map(repr, (asks.parts for asks in tally.fresh.values())))
        stay = sorted(map(repr, (tally.seen[key].parts for key in tally.seen.keys() - tally.gone)))
        left = tuple(stay) if tally.ahead else not stay
        return tally.zones, tally.listed, left, tuple(gone), tuple(fresh)

    def foresee(self) -> list[str]:
        """From now on zones are as they will be when the exporters have looked again; the nodes where that is
        different."""
        changed = [name for name, tally in self._tallies.items() if not tally.ahead and _of_nobody(tally)]
        self._tallies.update((name, replace(self._tallies[name], ahead=True)) for name in changed)
        return changed

    def recall(self, changed: Iterable[str]) -> None:
        """The opposite of `foresee`."""
        self._tallies.update((name, replace(self._tallies[name], ahead=False)) for name in changed)

    def take(self, pod: Pod, node: str) -> None:
        """The plan puts the pod there."""
        tally = self._tallies.get(node)
        if tally is not None and (asks := tally.asks(pod.aligned)).parts:
            self._tallies[node] = replace(tally, fresh={**tally.fresh, _new(pod): asks})

    def give_back(self, pod: Pod, node: str) -> None:
        """The opposite of `take`."""
        tally = self._tallies.get(node)
        if tally is not None:
            self._tallies[node] = _without(tally, _new(pod))

    def leave(self, pod: Pod) -> None:
        """The pod, on a node before this plan, has left it."""
        tally = self._tallies.get(pod.node)
        if tally is not None:
            if pod.key in tally.seen:
                self._tallies[pod.node] = replace(tally, gone=tally.gone | {pod.key})
            else:
                self._tallies[pod.node] = _without(tally, pod.key)

    def stay(self, pod: Pod) -> None:
        """The opposite of `leave`."""
        tally = self._tallies.get(pod.node)
        if tally is None:
            return
        if pod.key in tally.seen:
            self._tallies[pod.node] = replace(tally, gone=tally.gone - {pod.key})
        elif (asks := tally.asks(pod.aligned)).parts:
            self._tallies[pod.node] = replace(tally, fresh={**tally.fresh, pod.key: asks})

    def refusal(self, node: str, more: Iterable[tuple[Pod, int]], without: Iterable[Pod] = ()) -> str:
        """Why the node's zones do not take these pods besides (pods that ask the same counted), "" if they do; if
        those of `without` had left before."""
        tally = self._tallies.get(node)
        if tally is None:
            return ""
        wanted = [asks for pod, count in more for asks in [tally.asks(pod.aligned)] * count if asks.parts or asks.first]
        if not wanted:
            return ""
        left = Zoned({node: tally})
        for pod in without:
            left.leave(pod)
        tally = left._tallies[node]
        most = 1 if tally.zones.single else len(tally.zones.zones)
        for part in (part for asks in wanted for part in (*asks.parts, *asks.first)):
            if _width(tally.zones, part) > most:
                return _never(tally.zones, part)
        # Who is there although no zone could have held him came under another policy, and is in none.
        fresh = [part for asks in tally.fresh.values() for part in asks.parts if _width(tally.zones, part) <= most]
        parts = [*fresh, *(part for asks in wanted for part in asks.parts)]
        for free in _cases(tally):
            alone = all(_put(tally.zones, free, [part]) is not None for asks in wanted for part in asks.first)
            if not alone or not _put_in_any_order(tally.zones, free, parts):
                return _full(tally.zones, wanted)
        return ""


def _new(pod: Pod) -> str:
    """A pod that is moved counts where it was and where it goes."""
    return f"{pod.key} by this plan"


def _empty(zones: Zones, node: Node) -> _Tally:
    listed = {name for zone in zones.zones for name in zone.allocatable if node.allocatable[name]}
    return _Tally(zones=zones, listed=frozenset(listed), seen={})


def _with(tally: _Tally, pods: Sequence[Pod]) -> _Tally:
    """With these pods on the node: the oldest of those that run are seen, as far as so much is said to be in use.

    One of a pod's amounts is enough for that: all are told together, but memory is not where no manager aligns it."""
    used = _used(tally.zones)
    seen: dict[str, _Asks] = {}
    fresh: dict[str, _Asks] = {}
    for pod in sorted(pods, key=lambda pod: (pod.started_ms is None, pod.started_ms or 0, pod.key)):
        asks = tally.asks(pod.aligned)
        if not asks.parts:
            continue
        amount = total(asks.parts)
        if pod.started_ms is not None and any(asked <= used[name] for name, asked in amount.amounts.items()):
            used = Resources({name: max(there - amount[name], 0) for name, there in used.amounts.items()})
            seen[pod.key] = asks
        else:
            fresh[pod.key] = asks
    return replace(tally, seen=seen, fresh=fresh)


def _without(tally: _Tally, key: str) -> _Tally:
    if key not in tally.fresh:
        return tally
    return replace(tally, fresh={other: asks for other, asks in tally.fresh.items() if other != key})


def _used(zones: Zones) -> Resources:
    """What is said to be in use, in all zones."""
    return total(zone.allocatable - zone.available for zone in zones.zones)


def _told(tally: _Tally, keys: Iterable[str]) -> list[Resources]:
    """What these pods, which were seen, have of the amounts that are told: where nobody uses anything of a resource,
    it is not aligned, and has no zone."""
    told = _used(tally.zones).amounts
    parts = [part for key in sorted(keys) for part in tally.seen[key].parts]
    kept = [Resources({name: amount for name, amount in part.amounts.items() if name in told}) for part in parts]
    return [part for part in kept if part]


def _cases(tally: _Tally) -> Iterable[tuple[Resources, ...]]:
    """What may be free in the zones, in every case that can be."""
    zones = tally.zones.zones
    if not tally.seen.keys() - tally.gone:
        return [tuple(zone.allocatable for zone in zones)]
    if tally.ahead:
        return _cases_of_those_who_stay(tally)
    available = tuple(zone.available for zone in zones)
    used = [zone.allocatable - zone.available for zone in zones]
    gone = _told(tally, tally.gone)
    where = [[number for number, has in enumerate(used) if not part.lacking_in(has)] for part in gone]
    gone, where = [part for part, able in zip(gone, where, strict=True) if able], [able for able in where if able]
    if not gone or prod(map(len, where)) > MOST_CASES:
        return [available]
    cases: dict[tuple[Resources, ...], None] = {}
    for choice in product(*where):
        freed = [total(part for part, at in zip(gone, choice, strict=True) if at == n) for n in range(len(zones))]
        if not any(amount.lacking_in(has) for amount, has in zip(freed, used, strict=True)):
            cases[tuple(has + amount for has, amount in zip(available, freed, strict=True))] = None
    return cases or [available]


def _cases_of_those_who_stay(tally: _Tally) -> Iterable[tuple[Resources, ...]]:
    zones = tally.zones.zones
    used = [zone.allocatable - zone.available for zone in zones]
    stay = _told(tally, tally.seen.keys() - tally.gone)
    where = [[number for number, has in enumerate(used) if not part.lacking_in(has)] for part in stay]
    if not all(where) or prod(map(len, where)) > MOST_CASES:
        return [tuple(zone.available for zone in zones)]
    cases: dict[tuple[Resources, ...], None] = {}
    for choice in product(*where):
        held = [total(part for part, at in zip(stay, choice, strict=True) if at == n) for n in range(len(zones))]
        if not any(amount.lacking_in(has) for amount, has in zip(held, used, strict=True)):
            cases[tuple(zone.allocatable - amount for zone, amount in zip(zones, held, strict=True))] = None
    return cases or [tuple(zone.available for zone in zones)]


def _of_nobody(tally: _Tally) -> Resources:
    """What is said to be in use and nobody known has."""
    known = total(part for asks in tally.seen.values() for part in asks.parts)
    left = (_used(tally.zones) - known).amounts
    return Resources({name: amount for name, amount in left.items() if name in tally.listed and amount > 0})


def _put_in_any_order(zones: Zones, free: Parts, parts: Iterable[Resources]) -> bool:
    """Whether all of these find zones, in whatever order they come."""
    count = Counter(parts)
    kinds = sorted(count, key=_size)
    smallest_first = sorted(count.elements(), key=_size)
    if any(_put(zones, free, order) is None for order in (smallest_first, smallest_first[::-1])):
        return False
    begin = tuple(count[kind] for kind in kinds), free
    known, todo = {begin}, [begin] if len(kinds) > 1 else []
    while todo:
        left, free = todo.pop()
        for number, kind in enumerate(kinds):
            if not left[number]:
                continue
            after = _put(zones, free, [kind])
            if after is None:
                return False
            step = (*left[:number], left[number] - 1, *left[number + 1 :]), after
            if step not in known and len(known) < MOST_STEPS:
                known.add(step)
                todo.append(step)
    return True


def _put(zones: Zones, free: Parts, parts: Iterable[Resources]) -> Parts | None:
    """What is left when these have found zones, one after the other, as the kubelet looks for them; None if one of
    them finds none."""
    left = list(free)
    for part in parts:
        masks = combinations(range(len(left)), _width(zones, part))
        found = next((mask for mask in masks if not part.lacking_in(total(left[n] for n in mask))), None)
        if found is None:
            return None
        for number in found:
            # Of several zones each may be the one that gives the most.
            taken = {name: min(amount, left[number][name]) for name, amount in part.amounts.items()}
            left[number] -= Resources(taken)
    return tuple(left)


def _width(zones: Zones, part: Resources) -> int:
    """In how many zones a kubelet wants the part: as few as could have each of its amounts. More than there are if
    that is not the same for all amounts: then it refuses."""
    never = len(zones.zones) + 1
    widths = set()
    for name in part:
        largest = sorted((zone.allocatable[name] for zone in zones.zones), reverse=True)
        widths.add(next((n for n in range(1, never) if sum(largest[:n]) >= part[name]), never))
    return widths.pop() if len(widths) == 1 else never if widths else 1


def _size(part: Resources) -> tuple[tuple[str, int], ...]:
    """Larger in what is asked for most rarely first: devices before cpu and memory, whose names come after theirs."""
    devices = sorted((name, amount) for name, amount in part.amounts.items() if "/" in name)
    return (*devices, *sorted((name, amount) for name, amount in part.amounts.items() if "/" not in name))


def _names(zones: Zones) -> str:
    return ", ".join(zone.name for zone in zones.zones)


def _never(zones: Zones, part: Resources) -> str:
    what = " and ".join(words.amount(name, part[name]) for name in part)
    where = "one of its NUMA zones" if zones.single else "as few of its NUMA zones as hold each of them"
    return f"could not have {what} in {where} ({_names(zones)})"


def _full(zones: Zones, wanted: Iterable[_Asks]) -> str:
    what = ", ".join(sorted({name for asks in wanted for part in asks.parts for name in part}))
    return f"has too little free {what} together in {'one' if zones.single else 'some'} of {_names(zones)} (NUMA zones)"
