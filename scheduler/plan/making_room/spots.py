"""Room node by node: the least harmful victims of each node, and the nodes where they do the least.

Most gangs are one pod, or equal pods, and many of them are alike: what is known of a node stays known until it changes.
A node is looked at only when no other can be better. For several pods it is exact where nobody who may go has pods on
two nodes, and each further seat of a node costs no less than the one before; otherwise the question is not for us.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import takewhile

from queues.resources import Resources
from scheduler.plan.desk import Desk
from scheduler.plan.ground.accounts import GPU, counts_all, shares_gpus
from scheduler.plan.ground.shapes import claims_of
from scheduler.plan.making_room.least import Sets, TooManyLooks
from scheduler.plan.making_room.leavers import Harm, Leavers, Option
from scheduler.plan.making_room.losses import Loss
from scheduler.plan.making_room.rulings import Ruling

MOST_LOOKS = 1_000
"""Sets of victims that are looked at for one node; where that is too few the question is not for us."""

MOST_SUMS = 20_000
"""So many sums of harm are made for one gang of several pods."""

TRIAL = 5
"""Looks that trying out a set on the ledger is counted as."""

Way = tuple[Option, ...]


def is_vague(desk: Desk, node: str) -> bool:
    """Whether GPUs of the node are shared: how many are free says nothing then."""
    return shares_gpus(desk.inventory.on(desk.ledger.nodes[node]), desk.inventory)


def losses_of(way: Sequence[Option]) -> list[Loss]:
    """All who go."""
    return [loss for option in way for loss in option.losses]


class Spots:
    """For bundles of one shape."""

    def __init__(self, desk: Desk, shape: int, gpus: int, leavers: Leavers) -> None:
        """`gpus`: what a bundle takes of them, in thousandths."""
        self._desk = desk
        self._shape = shape
        self._gpus = gpus
        self._leavers = leavers
        self._ruling: Ruling | None = None
        self._sample = desk.shapes[shape].sample.pods
        self._sociable = desk.rooms.sociable(shape)
        self._nodes = [node for node in desk.rooms.nodes if not desk.rooms.suits(node, shape)]
        self._able = frozenset(self._nodes)
        self._seen = self._read = 0
        self._states: dict[str, int] = {}
        self._heap: list[tuple[Harm, str, int]] = []
        self._ways: dict[str, Way | None] = {}
        """By node; None: not looked at yet."""
        self._versions: dict[str, int] = {}
        self._vague: set[str] = set()
        self._refused: set[tuple[str, int, tuple[str, ...]]] = set()
        self._last: tuple[str, Way] | None = None
        self._steps: dict[str, dict[int, tuple[Harm, Way] | None]] = {}
        self._bent = False
        self._begun = False

    @property
    def vague(self) -> bool:
        """Whether the last answer, that there is no way, is not certain."""
        return self._bent or self._leavers.parted or bool(self._vague)

    def best(self, ruling: Ruling) -> tuple[str, Way] | None:
        """Where whose going does the least harm; None if nobody's makes room."""
        self._bent = False
        self._renew(ruling)
        while self._heap:
            _, node, version = self._heap[0]
            if self._versions[node] != version:
                heappop(self._heap)
                continue
            way = self._ways[node]
            if way is None or not ruling.allow(way):
                heappop(self._heap)
                self._judge(node)
                continue
            self._last = node, way
            return node, way
        return None

    def several(self, count: int, ruling: Ruling) -> Way | None:
        """Whose going makes room for so many bundles at the least harm; None if there is no way, or, with `vague`, if
        it cannot be said."""
        self._renew(ruling)
        self._bent = self._sociable
        free: dict[str, int] = {}
        for node in self._nodes:
            if count <= 0:
                break
            found = self._desk.rooms.capacity(node, (), self._shape, count)
            if found:
                free[node] = found
                count -= found
        if count <= 0:
            return ()
        if self.vague or self._leavers.spread:
            self._bent = True
            return None
        first = {node: free.get(node, 0) + 1 for node in self._nodes}
        first = {node: number for node, number in first.items() if self._bound(node, number) is not None}
        way = self._one_by_one(first, count) or self._all_sums(first, count)
        if way is not None and not ruling.allow(way):
            self._bent = True
            return None
        return way

    def _one_by_one(self, first: Mapping[str, int], count: int) -> Way | None:
        """The cheapest seats, one after the other; None if that says nothing: some further seat of a node costs less
        than the one before. `first`: the number of the first seat of each node that is not free."""
        heap = [(bound, node, number, False) for node, number in first.items() if (bound := self._bound(node, number))]
        heapify(heap)
        taken: dict[str, tuple[Harm, Way]] = {}
        most, left = self._leavers.nothing, count
        while left and heap:
            harm, node, number, known = heappop(heap)
            step = self._step(node, number)
            if step is None:
                continue
            more = _minus(step[0], taken[node][0]) if node in taken else step[0]
            if not known and more > harm:  # that was the bound
                heappush(heap, (more, node, number, True))
                continue
            taken[node], left, most = step, left - 1, max(most, more)
            after = self._step(node, number + 1) if left else None
            if after is not None:
                then = _minus(after[0], step[0])
                if then < more:
                    return None
                heappush(heap, (then, node, number + 1, True))
        if left or self._is_bent(first, count, most):
            return None
        return tuple(option for node in sorted(taken) for option in taken[node][1])

    def _all_sums(self, first: Mapping[str, int], count: int) -> Way | None:
        """The cheapest of all ways to share the seats out among the nodes."""
        best: list[tuple[Harm, tuple[tuple[str, int], ...]] | None] = [(self._leavers.nothing, ())]
        best += [None] * count
        sums = 0
        for node, number in first.items():
            steps = list(takewhile(bool, (self._step(node, each) for each in range(number, number + count))))
            sums += len(steps) * count
            if sums > MOST_SUMS:
                self._bent = True
                return None
            for seats in range(count, 0, -1):
                for more, step in enumerate(steps[:seats], 1):
                    before, known = best[seats - more], best[seats]
                    if step is not None and before is not None:
                        harm = tuple(a + b for a, b in zip(before[0], step[0], strict=True))
                        if known is None or harm < known[0]:
                            best[seats] = harm, (*before[1], (node, number + more - 1))
        found = best[count]
        if found is None:
            return None
        steps_taken = (self._step(node, number) for node, number in found[1])
        return tuple(option for step in steps_taken if step is not None for option in step[1])

    def _is_bent(self, first: Mapping[str, int], count: int, most: Harm) -> bool:
        """Whether several seats of a node together may cost less than those taken, `count` of them each for `most` or
        less, although its first costs more: where a further seat costs less than the one before."""
        worth = tuple(each * count for each in most)
        for node, start in first.items():
            bound = self._bound(node, start)
            before = last = self._leavers.nothing
            for number in range(start, start + count) if bound is not None and bound < worth else ():
                step = self._step(node, number)
                if step is None or step[0] >= worth:
                    break
                more = _minus(step[0], before)
                if more < last:
                    return True
                before, last = step[0], more
        return False

    def refuse(self) -> None:
        """The last answer did not hold."""
        if self._last is not None:
            node, way = self._last
            self._refused.add(self._name(node, way))
            self._judge(node)

    def _name(self, node: str, way: Way) -> tuple[str, int, tuple[str, ...]]:
        return node, self._desk.ledger.state(node), tuple(sorted(loss.pod.key for loss in losses_of(way)))

    def _renew(self, ruling: Ruling) -> None:
        """Learn what has changed since the last question. Where nobody could go, somebody may under other laws."""
        self._leavers.renew()
        ledger = self._desk.ledger
        loosened = ruling.looser_than(self._ruling)
        self._ruling = ruling
        if not self._begun or loosened:
            self._begun = True
            nodes = list(self._nodes)
        else:
            moved = dict.fromkeys(self._leavers.changes[self._read :])
            touched = dict.fromkeys(ledger.changes[self._seen :])
            nodes = [node for node in (*moved, *(each for each in touched if each not in moved)) if node in self._able]
            nodes = [node for node in nodes if node in moved or ledger.state(node) != self._states.get(node)]
        self._seen, self._read = len(ledger.changes), len(self._leavers.changes)
        for node in nodes:
            self._states[node] = ledger.state(node)
            self._steps.pop(node, None)
            self._vague.discard(node)
            self._put(node, self._bound(node, 1), None)

    def _put(self, node: str, harm: Harm | None, way: Way | None) -> None:
        version = self._versions[node] = self._versions.get(node, 0) + 1
        self._ways[node] = way
        if harm is not None:
            heappush(self._heap, (harm, node, version))

    def _judge(self, node: str) -> None:
        """Find the node's best way."""
        found = self._way(node, 1)
        self._put(node, *(found if found is not None else (None, None)))

    def _step(self, node: str, times: int) -> tuple[Harm, Way] | None:
        known = self._steps.setdefault(node, {})
        if times not in known:
            known[times] = self._way(node, times)
        return known[times]

    def _lacking(self, node: str, times: int) -> dict[str, int]:
        """What amounts tell. Of GPUs they tell nothing where these are shared."""
        demand, free = self._demand(node), self._desk.ledger.free(node).amounts
        lacking = {
            name: amount * times - free.get(name, 0)
            for name, amount in demand[0].amounts.items()
            if amount * times > free.get(name, 0)
        }
        if demand[1] and self._gpus and not is_vague(self._desk, node):
            gpus = self._gpus * times - self._desk.ledger.gpus(node)
            if gpus > 0:
                lacking[GPU] = gpus
        return lacking

    def _demand(self, node: str) -> tuple[Resources, bool]:
        """What a bundle takes there, and whether it takes devices besides."""
        demand = self._desk.shapes.demand(self._shape, self._desk.ledger.nodes[node])
        return demand.requests, bool(demand.asks)

    def _bound(self, node: str, times: int) -> Harm | None:
        """No way of the node does less harm; None if there is no way."""
        lacking = self._lacking(node, times)
        options = self._leavers.at(node)
        if lacking:
            for name, amount in lacking.items():
                if amount > sum(option.gives.get(name, 0) for option in options):
                    return None
            if self._ruling is not None and self._ruling.forbidden(options):
                return None
            return options[0].harm
        return self._leavers.nothing

    def _way(self, node: str, times: int) -> tuple[Harm, Way] | None:
        """The least harmful set of options that makes room there for so many bundles, of those that were not refused
        and that the laws allow."""
        desk, ruling = self._desk, self._ruling
        assert ruling is not None, "nothing was asked"
        lacking = self._lacking(node, times)
        if not lacking and not desk.rooms.verdict(node, ((self._shape, times),)).cause:
            if self._name(node, ()) in self._refused:  # something is in the way that nodes do not tell
                self._vague.add(node)
                return None
            return self._leavers.nothing, ()
        concerned = desk.ledger.zones.concern(node)
        tried = not lacking or concerned or self._demand(node)[1]
        options = [option for option in self._leavers.at(node) if ruling.alone(option)]
        if (
            lacking
            and not concerned
            and (not tried or counts_all(desk.inventory.on(desk.ledger.nodes[node]), desk.inventory))
        ):
            options = [option for option in options if any(option.gives.get(name, 0) for name in lacking)]
        if not options or (tried and not self._makes_room(node, options, times)):
            return None
        most = min(MOST_LOOKS, desk.looks)
        sets = Sets(options, lacking, partial(self._fits, options), looks=most)
        trials = 0
        try:
            for harm, chosen in sets:
                way = tuple(options[number] for number in chosen)
                if self._name(node, way) in self._refused or not ruling.allow(way):
                    continue
                if tried:
                    trials += 1
                    if not self._makes_room(node, way, times):
                        if trials * TRIAL > most:
                            raise TooManyLooks
                        continue
                return harm, way
        except TooManyLooks:
            self._vague.add(node)
        finally:
            desk.looks -= sets.looked + trials * TRIAL
        return None

    def _makes_room(self, node: str, way: Sequence[Option], times: int) -> bool:
        """Whether the node has room then, devices and zones included; tried out on the ledger."""
        desk = self._desk
        pods = {loss.pod.key: loss.pod for loss in losses_of(way)}
        leave = [pod for _, pod in sorted(pods.items()) if pod.node == node or claims_of(pod)]
        for pod in leave:
            desk.ledger.vacate(pod, desk.snapshot.claims)
        room = not desk.rooms.verdict(node, ((self._shape, times),)).cause
        for pod in reversed(leave):
            desk.ledger.reoccupy(pod, desk.snapshot.claims)
        return room

    def _fits(self, options: Sequence[Option], chosen: Sequence[int], number: int) -> bool:
        """Whether the option may go with those, and no more go then than may."""
        picked = [options[each] for each in chosen]
        assert self._ruling is not None
        return _goes_with(options[number], picked) and self._ruling.together((*picked, options[number]))


def _goes_with(option: Option, picked: Sequence[Option]) -> bool:
    """Whether it may go with those: a gang goes once, and spares no more than it can."""
    same = [each for each in picked if each.gang.key == option.gang.key]
    if not same:
        return True
    return not option.whole and all(not each.whole for each in same) and len(same) < option.spare


def _minus(one: Harm, other: Harm) -> Harm:
    return tuple(a - b for a, b in zip(one, other, strict=True))
