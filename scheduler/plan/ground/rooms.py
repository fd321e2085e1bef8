"""How much of what has room where: exact answers per node, remembered for nodes in equal state.

A load is what an attempt has put on a node so far, as counts of shapes; it is judged as a whole, devices included, so
that no order of pods can spoil it: two pods that each take "one whole GPU or half" find room together on one GPU.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappop, heappush

from queues.resources import Resources, total
from scheduler.dra.allocate import Allocated, Answer, Ask, NoRoom, Refused, allocate
from scheduler.model.nodes import Node
from scheduler.model.reasons import ClaimRefused, Reason
from scheduler.model.snapshot import Policy
from scheduler.plan.ground.fit import LASTING, PASSING, Need, Seat, aversion, misfit
from scheduler.plan.ground.ledger import Ledger
from scheduler.plan.ground.neighbours import Guests
from scheduler.plan.ground.shapes import Bundle, Demand, Shapes
from scheduler.plan.ground.topology import Domains
from scheduler.solver.problem import Level

Load = tuple[tuple[int, int], ...]
"""(shape, count) pairs, sorted."""

Rank = tuple[int | str, ...]

_MANY = 1 << 30

QUESTION = 5e-5
"""Deterministic seconds that a question about one node is counted as (measured: 20 to 80 us)."""

STEP = 2e-5
"""Deterministic seconds that a step of the search for devices is counted as (measured: 10 to 40 us)."""

LOOK = 3e-6
"""Deterministic seconds that a look at one device for one claim is counted as (measured: 2 to 4 us)."""

EASY = 1_000
"""Steps that a question about one node may always take: nearly all need fewer (measured: 10 for each board)."""

HARD_QUESTIONS = 5
"""A plan may take so many times the steps of the longest question for what its questions need beyond that."""


class Exhausted(Exception):
    """A search has used the effort it was given."""


@dataclass(slots=True, kw_only=True)
class Effort:
    """How much longer a search may look at rooms: `left`, in deterministic seconds, the same on every machine."""

    left: float

    def spend(self, seconds: float) -> None:
        """Raises Exhausted when nothing is left."""
        self.left -= seconds
        if self.left <= 0:
            raise Exhausted


@dataclass(slots=True, kw_only=True)
class Patience:
    """How many steps beyond EASY the questions of a plan may still take together: nodes that are all hard to judge, and
    all unlike, must not hold up everybody else."""

    left: int

    @classmethod
    def of(cls, policy: Policy) -> "Patience":
        return cls(left=HARD_QUESTIONS * policy.allocator_steps)

    def steps(self, most: int) -> int:
        """How many the next question may take."""
        return min(most, EASY + self.left)

    def spend(self, steps: int) -> None:
        """A question has taken so many."""
        self.left -= max(steps - EASY, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`cause` completes "the node ..."; "" where the load fits. `alternatives`: how far down the users' lists of
    alternatives the devices were found. `proved`: False if the search budget ended first."""

    cause: str = ""
    alternatives: int = 0
    proved: bool = True


class Rooms:
    """Answers about one ledger as it stands; `solver.greedy.Room`."""

    def __init__(
        self, ledger: Ledger, shapes: Shapes, domains: Domains, policy: Policy, patience: Patience | None = None
    ) -> None:
        """`patience`: that of the plan, which all its rooms share; its own without."""
        self.patience = patience if patience is not None else Patience.of(policy)
        self.ledger = ledger
        self.shapes = shapes
        self.domains = domains
        self.nodes = tuple(ledger.nodes)
        self.proved = True
        """Whether every answer so far was searched to its end."""
        # Kinds of demand whose claims could not be decided: the first node where that was so, and whether on any.
        self._undecided: dict[int, tuple[str, bool]] = {}
        self._policy = policy
        self._effort: Effort | None = None
        self._kinds: dict[str, int] = {}
        kinds: dict[object, int] = {}
        for name, node in ledger.nodes.items():
            self._kinds[name] = kinds.setdefault((node.taints, node.unschedulable), len(kinds))
        self._free_around: dict[str, tuple[int, int]] = {}
        self._lasting: dict[tuple[object, ...], str] = {}
        self._verdicts: dict[tuple[int, Load], Verdict] = {}
        self._devices: dict[tuple[int, Load], Verdict] = {}
        self._capacities: dict[tuple[int, Load, int], tuple[int, bool]] = {}
        self._ranks: dict[tuple[int, int], tuple[int, ...]] = {}
        self._hardness: dict[int, tuple[int, ...]] = {}
        self._heaps: dict[int, _Heap] = {}

    @contextmanager
    def within(self, effort: Effort) -> Iterator[None]:
        """Answer questions only as long as the effort lasts; then they raise Exhausted. What is known already costs
        nothing but the question."""
        self._effort = effort
        try:
            yield
        finally:
            self._effort = None

    def devices(self, node: Node, asks: Sequence[Ask]) -> Answer:
        """Devices of the node for all of these, as long as the patience of the plan lasts. Raises Exhausted if the
        effort given ends first."""
        most, effort = self.patience.steps(self._policy.allocator_steps), self._effort
        if effort is not None:
            effort.spend(len(asks) * len(self.ledger.inventory.on(node).devices) * LOOK)
        steps = most if effort is None else min(most, int(effort.left / STEP))
        answer = allocate(node, asks, self.ledger.inventory, self.ledger.in_use, steps=steps)
        if not isinstance(answer, Refused):
            self.patience.spend(answer.steps)
        if effort is not None and not isinstance(answer, Refused):
            effort.spend(answer.steps * STEP)
            if isinstance(answer, NoRoom) and not answer.searched_all and steps < most:
                raise Exhausted
        return answer

    def suits(self, node: str, shape: int) -> str:
        """Why no bundle of this shape can ever run there, "" if it could: what the node is, not who is on it."""
        of, wanted = self.ledger.nodes[node], self.shapes[shape]
        key = (
            shape,
            self._kinds[node],
            node if wanted.named else "",
            tuple(of.labels.get(label) for label in wanted.labels),
        )
        known = self._lasting.get(key)
        if known is None:
            causes = (misfit(need, Seat(node=of), LASTING) for need in wanted.needs)
            known = self._lasting[key] = next((cause for cause in causes if cause is not None), "")
        return known

    def verdict(self, node: str, load: Load) -> Verdict:
        """Whether the node takes this load besides all that is on it. Every shape of it must suit the node."""
        key = (self.ledger.state(node), load)
        known = self._verdicts.get(key)
        if known is None:
            known = self._verdicts[key] = self._judge(node, load)
        return known

    def crowding(self, node: str, load: Load) -> str:
        """Why the node does not take this load whatever devices it has, "" if it would: amounts, ports, volumes, NUMA
        zones."""
        of = self.ledger.nodes[node]
        demands = [(self.shapes.demand(shape, of), count) for shape, count in load]
        need = Need(
            pod=self.shapes[load[0][0]].sample.pods[0],
            requests=total(demand.requests * count for demand, count in demands),
            ports=tuple(port for demand, count in demands for _ in range(count) for port in demand.ports),
        )
        cause = misfit(need, Seat(node=of, free=self.ledger.free(node), ports=self.ledger.ports(node)), PASSING)
        cause = cause or self.ledger.volumes.refusal(node, [(demand.wish, count) for demand, count in demands])
        if not cause and self.ledger.zones.concern(node):
            pods = [(pod, count) for shape, count in load for pod in self.shapes[shape].sample.pods]
            cause = self.ledger.zones.refusal(node, pods)
        return cause or ""

    def left(self, node: str, load: Load) -> Resources:
        """What is free on the node besides this load."""
        of = self.ledger.nodes[node]
        return self.ledger.free(node) - total(self.shapes.demand(shape, of).requests * count for shape, count in load)

    def capacity(self, node: str, load: Load, shape: int, at_most: int) -> int:
        """How many more bundles of this shape the node takes on top of `load`, up to `at_most`."""
        if self._effort is not None:
            self._effort.spend(QUESTION)
        if at_most <= 0 or self.suits(node, shape):
            return 0
        key = (self.ledger.state(node), load, shape)
        count, complete = self._capacities.get(key, (0, False))
        if count >= at_most or complete:
            return min(count, at_most)
        demand = self.shapes.demand(shape, self.ledger.nodes[node])
        bound = self._bound(node, load, demand)
        simple = not (demand.asks or demand.ports or demand.wish.passing or self.ledger.zones.concern(node))
        if simple and not self._asks_devices(node, load):
            count, complete = bound, True
        while not complete and count < at_most:
            complete = count >= bound or bool(self.verdict(node, with_more(load, shape, count + 1)).cause)
            count += 0 if complete else 1
        self._capacities[key] = count, complete
        return min(count, at_most)

    def favoured(self, node: str, load: Load, shape: int, at_most: int) -> int:
        """Of `at_most` bundles that the node has room for on top of `load`, so many as find devices no further down
        their lists of alternatives than one by itself, and push nobody of the load further down."""
        if not self.choosy(load) and not self.shapes[shape].choosy:
            return at_most
        before = self.verdict(node, load).alternatives if load else 0
        alone = self.verdict(node, ((shape, 1),)).alternatives

        def likes(count: int) -> bool:
            return self.verdict(node, with_more(load, shape, count)).alternatives <= before + alone * count

        return next((count for count in range(at_most) if not likes(count + 1)), at_most)

    def dislike(self, node: str, load: Load) -> int:
        """How far down their lists of alternatives those of the load find devices there, all together."""
        return self.verdict(node, load).alternatives if self.choosy(load) else 0

    def choosy(self, load: Load) -> bool:
        """Whether anybody of the load has a list of alternatives, so that less of it may be served better."""
        return any(self.shapes[shape].choosy for shape, _ in load)

    def rank(self, node: str, shape: int) -> Rank:
        """Smaller is better for one bundle of this shape: what its pods prefer, then best fit, then the name."""
        key = (self.ledger.state(node), shape)
        known = self._ranks.get(key)
        if known is None:
            known = self._ranks[key] = self._rank(node, shape)
        before, after = known[:2], known[2:]
        return (self._aversion(node, shape), *before, self._around(node), *after, node)

    def best(self, shape: int) -> str | None:
        """The node that is best for one bundle of this shape among those that take it; None if none does."""
        if self.sociable(shape):
            return self._best_company(shape)
        heap = self._heaps.get(shape)
        if heap is None:
            heap = self._heaps[shape] = _Heap(len(self.ledger.changes))
            changed: Iterable[str] = self.ledger.nodes
        else:
            changed = dict.fromkeys(self.ledger.changes[heap.seen :])
            heap.seen = len(self.ledger.changes)
        for node in self._with_neighbours(changed):
            takes = not self.suits(node, shape) and not self.verdict(node, ((shape, 1),)).cause
            heap.put(node, self.rank(node, shape) if takes else None)
        return heap.first()

    def searched(self, shape: int) -> bool:
        """Whether no node's answer about one bundle of this shape was cut short by the search budget."""
        return all(self.suits(node, shape) or self.verdict(node, ((shape, 1),)).proved for node in self.nodes)

    def sociable(self, shape: int) -> bool:
        """Whether its pods have rules about others, or others about them."""
        return self.shapes.sociable((shape,))

    def guests(self) -> Guests:
        """Whom an attempt adds to those who are there: nobody yet."""
        return self.ledger.neighbours.guests()

    def surroundings(self, node: str, shape: int) -> Hashable:
        """Equal for nodes on which one bundle of this shape is as welcome, whoever the guests are."""
        return tuple(self.ledger.neighbours.around(manner, node) for manner in self.shapes[shape].manners)

    def welcome(self, node: str, shape: int, guests: Guests) -> int | str:
        """How ill at ease one bundle of this shape would be among those on the node and around it, 0 for not at all; or
        why it may not be there."""
        manners, unease = self.shapes[shape].manners, 0
        if len(manners) > 1:
            guests = guests.copy()
        for manner in manners:
            refusal = guests.refusal(manner, node)
            if refusal is not None:
                return refusal
            unease += guests.discomfort(manner, node)
            if len(manners) > 1:
                guests.join(manner, node)
        return unease

    def seat(self, node: str, shape: int, guests: Guests) -> None:
        """One bundle of this shape is on the node, as far as `guests` go."""
        for manner in self.shapes[shape].manners:
            guests.join(manner, node)

    def split(self, level: Level, nodes: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
        """The domains of a level with those of `nodes` that stand in them."""
        return self.domains.split(level, nodes)

    def hardness(self, shape: int) -> tuple[int, ...]:
        """Larger is harder to place: few nodes suit it, many devices, much CPU, much memory."""
        known = self._hardness.get(shape)
        if known is None:
            suiting = sum(1 for node in self.nodes if not self.suits(node, shape))
            wanted = self.shapes[shape]
            pods = wanted.sample.pods
            amounts = (sum(pod.requests["cpu"] for pod in pods), sum(pod.requests["memory"] for pod in pods))
            known = self._hardness[shape] = (-suiting, wanted.devices, *amounts)
        return known

    def weight(self, node: str) -> int:
        """How much is free on the node, as a measure for tight packing: GPUs first, then CPU."""
        return self.ledger.gpus(node) * _MANY + self.ledger.free(node)["cpu"]

    def refusal(self, bundle: Bundle, *, anywhere: bool) -> Reason | None:
        """Why the bundle's claims cannot be decided: on any node whatever (an unknown class), or with `anywhere` on the
        first node where that is so (a selector that fails on what this node publishes). None if they can be."""
        for demand in self.shapes[bundle.shape].demands.values():
            node, fatal = self._undecided.get(demand.kind, ("", False))
            if node and (fatal or anywhere):
                of = self.ledger.nodes[node]
                asks = [Ask(claim=ask.claim) for ask in self.shapes.demand_of(bundle, of).asks]
                answer = self.devices(of, asks)
                if isinstance(answer, Refused):
                    return answer.reason
        return None

    def _best_company(self, shape: int) -> str | None:
        guests = self.guests()
        able = []
        for node in self.nodes:
            if not self.suits(node, shape) and not self.verdict(node, ((shape, 1),)).cause:
                unease = self.welcome(node, shape, guests)
                if isinstance(unease, int):
                    able.append((unease, self.rank(node, shape), node))
        return min(able)[-1] if able else None

    def _judge(self, node: str, load: Load) -> Verdict:
        of = self.ledger.nodes[node]
        cause = self.crowding(node, load)
        if cause:
            return Verdict(cause=cause)
        demands = [(self.shapes.demand(shape, of), count) for shape, count in load]
        asking = sorted((demand.kind, count, shape) for (shape, count), (demand, _) in zip(load, demands, strict=True))
        key = self.ledger.devices(node), tuple((kind, count) for kind, count, _ in asking if kind)
        if not key[1]:
            return Verdict()
        known = self._devices.get(key)
        if known is None:
            known = self._devices[key] = self._allot(of, [(shape, count) for kind, count, shape in asking if kind])
        return known

    def _allot(self, node: Node, load: Sequence[tuple[int, int]]) -> Verdict:
        """Whether there are devices for all of these together."""
        demands = [(self.shapes.demand(shape, node), count) for shape, count in load]
        asks = [Ask(claim=ask.claim) for demand, count in demands for _ in range(count) for ask in demand.asks]
        answer = self.devices(node, asks)
        if isinstance(answer, Allocated):
            return Verdict(alternatives=_alternatives(answer, asks))
        if isinstance(answer, NoRoom):
            self.proved = self.proved and answer.searched_all
            return Verdict(cause=answer.cause, proved=answer.searched_all)
        if len(load) == 1:
            self._undecided.setdefault(demands[0][0].kind, (node.name, answer.fatal))
        return Verdict(cause=_undecided(answer))

    def _bound(self, node: str, load: Load, demand: Demand) -> int:
        """How often the amounts alone would go into what `load` leaves free."""
        free = self.left(node, load) if load else self.ledger.free(node)
        times = [free[name] // amount for name, amount in demand.requests.amounts.items() if amount > 0]
        return max(min(times, default=_MANY), 0)

    def _asks_devices(self, node: str, load: Load) -> bool:
        """Whether the load itself is in doubt; without claims and ports it has been counted already."""
        return bool(load) and bool(self.verdict(node, load).cause)

    def _rank(self, node: str, shape: int) -> tuple[int, ...]:
        of, wanted = self.ledger.nodes[node], self.shapes[shape]
        demand = self.shapes.demand(shape, of)
        left = self.ledger.free(node) - demand.requests
        gpus = self.ledger.gpus(node)
        wants_devices = wanted.devices > 0
        sign = -1 if self._policy.spread else 1
        return (
            0 if wants_devices or not gpus else 1,
            self.verdict(node, ((shape, 1),)).alternatives,
            sign * gpus,
            sign * left["cpu"],
            sign * left["memory"],
        )

    def _around(self, node: str) -> int:
        """Free GPUs of the whole NVLink domain, where it spans nodes: a domain that is broken into goes before others,
        so that large ones stay whole."""
        domain = self.domains.neighbourhoods().get(node)
        if domain is None:
            return 0
        now = len(self.ledger.changes)
        known = self._free_around.get(domain[0])
        if known is None or known[0] != now:
            known = self._free_around[domain[0]] = now, sum(map(self.ledger.gpus, domain))
        return -known[1] if self._policy.spread else known[1]

    def _with_neighbours(self, nodes: Iterable[str]) -> Iterable[str]:
        """The nodes, and those whose rank changes with them."""
        around = self.domains.neighbourhoods()
        if not around:
            return nodes
        return dict.fromkeys(other for node in nodes for other in around.get(node, (node,)))

    def _aversion(self, node: str, shape: int) -> int:
        wanted, of = self.shapes[shape], self.ledger.nodes[node]
        if not wanted.tastes and not of.taints:
            return 0
        return sum(aversion(pod, of) for pod in wanted.sample.pods)


class _Heap:
    """Nodes by rank; an entry is void once its node has a newer one."""

    def __init__(self, seen: int) -> None:
        self.seen = seen
        self._entries: list[tuple[Rank, int, str]] = []
        self._versions: dict[str, int] = {}

    def put(self, node: str, rank: Rank | None) -> None:
        version = self._versions[node] = self._versions.get(node, 0) + 1
        if rank is not None:
            heappush(self._entries, (rank, version, node))

    def first(self) -> str | None:
        while self._entries and self._versions[self._entries[0][2]] != self._entries[0][1]:
            heappop(self._entries)
        return self._entries[0][2] if self._entries else None


def load_of(counts: Mapping[int, int]) -> Load:
    return tuple(sorted((shape, count) for shape, count in counts.items() if count))


def with_more(load: Load, shape: int, count: int) -> Load:
    """The load with `count` more of the shape."""
    counts = dict(load)
    counts[shape] = counts.get(shape, 0) + count
    return load_of(counts)


def _alternatives(answer: Allocated, asks: Sequence[Ask]) -> int:
    """Sum over requests of the position of the alternative that was chosen; 0 where it is the first."""
    places = 0
    for allocation, ask in zip(answer.allocations, asks, strict=True):
        chosen = {result.request for result in allocation.devices.results or ()}
        for request in ask.claim.spec.devices.requests or ():
            names = [f"{request.name}/{alternative.name}" for alternative in request.first_available or ()]
            places += next((place for place, name in enumerate(names) if name in chosen), 0)
    return places


def _undecided(refused: Refused) -> str:
    """In words that hold for every claim that asks the same."""
    reason = refused.reason
    where = f"request {reason.request}: " if isinstance(reason, ClaimRefused) and reason.request else ""
    what = reason.problem if isinstance(reason, ClaimRefused) else reason.message.removesuffix(".")
    return f"cannot be judged: {where}{what}"
