"""Room node by node: the least harmful victims of each node, and the nodes where they do the least.

Most gangs are one pod, or equal pods, and many of them are alike: what is known of a node stays known until it changes.
For several pods it is exact where nobody who may go has pods on two nodes, and each further seat of a node costs no
less than the one before; otherwise the question is not for us.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush

from scheduler.plan.accounts import GPU
from scheduler.plan.desk import Desk
from scheduler.plan.laws import Bounds
from scheduler.plan.least import Sets, TooManyLooks
from scheduler.plan.losses import Loss, ranks_of
from scheduler.plan.scenario import caps_of
from scheduler.solver.harm import Part

MOST_SEATS = 16
"""So many bundles of several on one node."""

MOST_LOOKS = 1_000
"""Sets of victims that are looked at for one node; where that is too few the question is not for us."""

Harm = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """Pods that go together: a whole gang, or one pod that its gang can spare. `gives`: on the node in question."""

    losses: tuple[Loss, ...]
    harm: Harm
    gives: Mapping[str, int]
    gang: str
    whole: bool
    spare: int = 0


def is_vague(desk: Desk, node: str) -> bool:
    """Whether devices of the node are shared: how many are free says nothing then."""
    return any(device.shareable for device in desk.inventory.on(desk.ledger.nodes[node]).devices)


def freed_gpus(loss: Loss) -> int:
    """What becomes free of GPUs when the pod leaves, in thousandths. Parts of a GPU were rounded down one by one, and
    together they are more."""
    gpus = loss.relief[GPU]
    return gpus + (gpus % 1000 > 0)


class Spots:
    """For bundles of one shape. `vague`: nodes do not tell what is free of their devices, or gangs may lose parts of
    parts; then the question is not for us."""

    def __init__(
        self, desk: Desk, shape: int, needs: Mapping[str, int], found: Sequence[Loss], parts: Sequence[Part]
    ) -> None:
        self._desk = desk
        self._shape = shape
        self._needs = needs
        self._ranks, self._ages = ranks_of(found)
        self._options: dict[str, list[tuple[tuple[Loss, ...], bool, int]]] = {}
        for part in parts:
            self._enlist(part, found)
        self.vague = any(part.below for part in parts) or any(is_vague(desk, node) for node in self._options)
        self._seen = len(desk.ledger.changes)
        self._heap: list[tuple[Harm, str, int]] = []
        self._ways: dict[str, tuple[int, tuple[Loss, ...]]] = {}
        self._versions: dict[str, int] = {}
        self._refused: set[tuple[str, ...]] = set()
        self._last: tuple[str, tuple[Loss, ...]] | None = None
        self._local = all(
            len({loss.pod.node for loss in every}) == 1 for each in self._options.values() for every, _, _ in each
        )
        self._steps: dict[str, list[tuple[Harm, tuple[Loss, ...]]]] = {}
        self._stepped: int | None = None
        if not self.vague:
            for node in sorted(self._options):
                self._judge(node)

    def best(self, laws: Bounds | None) -> tuple[Loss, ...] | None:
        """Whose going does the least harm; None if nobody's makes room."""
        changes = self._desk.ledger.changes
        for node in dict.fromkeys(changes[self._seen :]):
            if node in self._options:
                self._judge(node, laws)
        self._seen = len(changes)
        while self._heap:
            _, node, version = self._heap[0]
            known = self._ways.get(node)
            if known is None or known[0] != version:
                heappop(self._heap)
                continue
            if laws is not None and not laws.allow(known[1]):
                heappop(self._heap)
                self._judge(node, laws)
                continue
            self._last = node, known[1]
            return known[1]
        return None

    def several(self, count: int, laws: Bounds | None) -> tuple[Loss, ...] | None:
        """Whose going makes room for so many bundles at the least harm; None if there is no way, or, with `vague`, if
        it cannot be said."""
        if self.vague or not self._local:
            self.vague = True
            return None
        self._renew_steps()
        heap: list[tuple[Harm, str, int]] = []
        for node, steps in self._steps.items():
            if steps:
                heappush(heap, (steps[0][0], node, 1))
        taken: dict[str, int] = {}
        for _ in range(count):
            if not heap:
                return None
            harm, node, number = heappop(heap)
            taken[node] = number
            steps = self._steps[node]
            if number < len(steps):
                more = tuple(a - b for a, b in zip(steps[number][0], steps[number - 1][0], strict=True))
                if more < harm:
                    self.vague = True
                    return None
                heappush(heap, (more, node, number + 1))
        losses = tuple(loss for node in sorted(taken) for loss in self._steps[node][taken[node] - 1][1])
        if laws is not None and not laws.allow(losses):
            self.vague = True
            return None
        return losses

    def _renew_steps(self) -> None:
        """What one seat, two seats and so on cost on every node that changed."""
        changes = self._desk.ledger.changes
        changed = self._desk.rooms.nodes if self._stepped is None else dict.fromkeys(changes[self._stepped :])
        for node in changed:
            self._steps[node] = self._steps_of(node)
        self._stepped = len(changes)

    def _steps_of(self, node: str) -> list[tuple[Harm, tuple[Loss, ...]]]:
        steps: list[tuple[Harm, tuple[Loss, ...]]] = []
        if self._desk.rooms.suits(node, self._shape):
            return steps
        while len(steps) < MOST_SEATS:
            way = self._way(node, None, times=len(steps) + 1)
            if way is None:
                break
            steps.append(way)
        return steps

    def refuse(self) -> None:
        """The last answer did not hold."""
        if self._last is not None:
            node, losses = self._last
            self._refused.add(tuple(sorted(loss.pod.key for loss in losses)))
            self._judge(node)

    def _enlist(self, part: Part, found: Sequence[Loss]) -> None:
        """The options of a gang, by node: each of its pods that it can spare, or all of them."""
        numbers = list(_all(part))
        every = tuple(found[number] for number in numbers)
        if not part.firm:
            for node in {loss.pod.node for loss in every}:
                self._options.setdefault(node, []).append((every, True, 0))
        if part.candidates and part.spare:
            for loss in every:
                self._options.setdefault(loss.pod.node, []).append(((loss,), False, part.spare))

    def _judge(self, node: str, laws: Bounds | None = None) -> None:
        """Find the node's best way anew."""
        version = self._versions[node] = self._versions.get(node, 0) + 1
        self._ways.pop(node, None)
        way = self._way(node, laws)
        if way is not None:
            harm, losses = way
            self._ways[node] = version, losses
            heappush(self._heap, (harm, node, version))

    def _way(self, node: str, laws: Bounds | None, times: int = 1) -> tuple[Harm, tuple[Loss, ...]] | None:
        """The least harmful set of options that makes room there for so many bundles, of those that were not refused
        and that the laws allow."""
        desk = self._desk
        if desk.rooms.suits(node, self._shape):
            return None
        free = {**desk.ledger.free(node).amounts, GPU: desk.ledger.gpus(node)}
        needs = {name: need * times for name, need in self._needs.items()}
        lacking = {name: need - free.get(name, 0) for name, need in needs.items() if need > free.get(name, 0)}
        zones, sample = desk.ledger.zones, [(pod, times) for pod in desk.shapes[self._shape].sample.pods]
        split = bool(zones.refusal(node, sample))
        if not lacking and not split:
            if () in self._refused:  # something is in the way that amounts do not tell
                self.vague = True
                return None
            return (0,) * (len(self._ranks) + 3), ()
        options = sorted(self._of(node, lacking, all_here=split), key=lambda option: (option.harm, option.gang))
        try:
            for harm, chosen in Sets(options, lacking, partial(self._fits, options), looks=MOST_LOOKS):
                losses = tuple(loss for number in chosen for loss in options[number].losses)
                refused = tuple(sorted(loss.pod.key for loss in losses)) in self._refused
                leavers = [loss.pod for loss in losses if loss.pod.node == node] if split else ()
                refused = refused or (split and bool(zones.refusal(node, sample, without=leavers)))
                if not refused and (laws is None or laws.allow(losses)):
                    return harm, losses
        except TooManyLooks:
            self.vague = True
        return None

    def _fits(self, options: Sequence[_Option], chosen: Sequence[int], number: int) -> bool:
        """Whether the option may go with those, and no more go then than may."""
        picked = [options[each] for each in chosen]
        together = (loss for option in (*picked, options[number]) for loss in option.losses)
        return _goes_with(options[number], picked) and caps_of(self._desk).allow(together)

    def _of(self, node: str, lacking: Mapping[str, int], *, all_here: bool = False) -> list[_Option]:
        """What may go from the node, and gives something of what is lacking; with `all_here` also what does not."""
        found = []
        for every, whole, spare_at_first in self._options.get(node, ()):
            leaving = self._desk.leaving
            losses = tuple(loss for loss in every if loss.pod.key not in leaving)
            gone = sum(1 for pod in every[0].gang.pods if pod.key in leaving)
            spare = max(spare_at_first - gone, 0)
            if not losses or (not whole and spare <= 0) or not caps_of(self._desk).allow(losses):
                continue
            gives: dict[str, int] = {}
            for loss in losses:
                if loss.pod.node == node:
                    for name in lacking:
                        amount = freed_gpus(loss) if name == GPU else loss.pod.requests[name]
                        gives[name] = gives.get(name, 0) + amount
            if all_here or any(gives.values()):
                gang = losses[0].gang
                found.append(
                    _Option(
                        losses=losses,
                        harm=self._harm(losses, whole=whole),
                        gives=gives,
                        gang=gang.key,
                        whole=whole,
                        spare=spare,
                    )
                )
        return found

    def _harm(self, losses: Sequence[Loss], *, whole: bool) -> Harm:
        tiers = [0] * len(self._ranks)
        for loss in losses:
            tiers[self._ranks[loss.gang.priority]] += loss.weight
        return (*tiers, int(whole), len(losses), sum(self._ages[loss.gang.key] for loss in losses))


def _goes_with(option: _Option, picked: Sequence[_Option]) -> bool:
    """Whether it may go with those: a gang goes once, and spares no more than it can."""
    same = [each for each in picked if each.gang == option.gang]
    if not same:
        return True
    return not option.whole and all(not each.whole for each in same) and len(same) < option.spare


def _all(part: Part) -> list[int]:
    return [*part.candidates, *(number for below in part.below for number in _all(below))]
