"""Which queue is served next, and which workload in it: ORDER and GANG_ORDER, tuples of key functions.

Queues are compared among siblings, level by level from the top; a queue is judged together with the gang that is next
in it. Source: KAI's queue order (its proportion plugin) and job order. Where we differ: "over its fair share" and
"within its quota" look only at what the next gang asks for, so that use of CPU never decides about GPUs that are free.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from queues.limits import within_quota
from queues.resources import NOTHING, Resources
from queues.tree import Queue, QueueTree


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What ordering sees of a gang that waits in leaf `queue`. `asked`: what it takes next, in house units of queue
    resources. `reach`: 0 if it
    lacks its minimum, 1 if it has just that and asks for more pods, 2 if it has more already. `lift`: what its waiting
    adds to its priority until it has its minimum (`queues.aging`)."""

    key: str
    queue: str
    asked: Resources
    priority: int = 0
    created_ms: int = 0
    reach: int = 0
    lift: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A queue with what it has, and with the gang that is next in it or below it. `divided`: the resources that queues
    have shares of; what nobody has a share of (a class of devices without quotas, say) compares nothing."""

    queue: Queue
    fair_share: Resources
    allocated: Resources
    asked: Resources
    divided: frozenset[str]

    @property
    def asked_of_shares(self) -> tuple[str, ...]:
        return tuple(name for name in self.asked if name in self.divided)


def over_fair_share(contender: Contender) -> bool:
    """Whether it already has more than its fair share of everything asked for; those who have not come first."""
    asked = contender.asked_of_shares
    return bool(asked) and all(contender.allocated[name] > contender.fair_share[name] for name in asked)


def beyond_quota(contender: Contender) -> bool:
    """Whether the next gang would take it past its quota; those who only claim what is guaranteed come first."""
    return not within_quota(contender.queue, contender.asked, contender.allocated)


def lower_priority(contender: Contender) -> int:
    return -contender.queue.priority


def takes_what_it_has_no_share_of(contender: Contender) -> bool:
    return any(_allocatable(contender, name) == 0 for name in contender.asked_of_shares)


def dominant_share_with_gang(contender: Contender) -> int:
    """The largest part of its shares in use once the gang has started, as an integer of `_PART` to the whole."""
    return _dominant(contender, contender.allocated + contender.asked)


def dominant_share(contender: Contender) -> int:
    return _dominant(contender, contender.allocated)


def smaller_share(contender: Contender) -> tuple[int, ...]:
    return tuple(_allocatable(contender, name) for name in ("gpu", "cpu", "memory"))


def younger(contender: Contender) -> int:
    return contender.queue.created_ms


def queue_name(contender: Contender) -> str:
    return contender.queue.name


ORDER: tuple[Callable[[Contender], int | str | tuple[int, ...]], ...] = (
    over_fair_share,
    beyond_quota,
    lower_priority,
    takes_what_it_has_no_share_of,
    dominant_share_with_gang,
    dominant_share,
    smaller_share,
    younger,
    queue_name,
)
"""Smallest first; each decides only where all before it are equal."""

GANG_ORDER: tuple[Callable[[Waiting], int | str], ...] = (
    lambda gang: -(gang.priority + (0 if gang.reach else gang.lift)),
    lambda gang: gang.reach,
    lambda gang: gang.created_ms,
    lambda gang: gang.key,
)
"""Within one leaf: higher priority with what waiting adds, gangs below their minimum, then those with just that, older,
by name."""

_PART = 1 << 40
_Key = tuple[int | str | tuple[int, ...], ...]


class Picker:
    """Serves waiting gangs one by one, and is told what each was charged.

        while (gang := picker.next()) is not None:
            if placed(gang):
                picker.charge(gang.queue, gang.asked)

    A gang served leaves; `put` brings one back with what it asks next. After a charge only the queues on one path are
    judged anew, so serving a gang costs the depth of the tree times a logarithm. Tell two pickers the same and they
    answer the same, whatever the order of what they were made from."""

    def __init__(
        self,
        tree: QueueTree,
        waiting: Iterable[Waiting],
        fair_shares: Mapping[str, Resources],
        allocated: Mapping[str, Resources],
    ) -> None:
        """`fair_shares` (`fair_share.divide`) and `allocated` (rolled up) by queue. Every gang's queue must be a usable
        leaf (`QueueTree.leaf`); ValueError otherwise."""
        self._tree = tree
        self._fair_shares = fair_shares
        self._divided = frozenset(
            [
                *(name for share in fair_shares.values() for name in share.amounts),
                *(name for queue in tree.queues.values() for name, rule in queue.resources.items() if rule.quota > 0),
            ]
        )
        self._allocated = {name: allocated.get(name, NOTHING) for name in tree.queues}
        self._gangs: dict[str, list[tuple[_Key, Waiting]]] = {}
        for gang in waiting:
            self._heap_of(gang).append((_gang_key(gang), gang))
        for heap in self._gangs.values():
            heapify(heap)
        self._children: dict[str | None, list[tuple[_Key, int, str]]] = {}
        self._judged: dict[str, int] = {}
        self._changed: dict[str, None] = dict.fromkeys(self._gangs)

    def __len__(self) -> int:
        """How many gangs still wait."""
        return sum(map(len, self._gangs.values()))

    def next(self) -> Waiting | None:
        """The gang to be served now, removed; None when nobody waits."""
        self._judge_changed()
        leaf = self._first_leaf(None)
        if leaf is None:
            return None
        _, gang = heappop(self._gangs[leaf])
        self._changed[leaf] = None
        return gang

    def charge(self, queue: str, amount: Resources) -> None:
        """Leaf `queue` and all above it have `amount` more (negative amounts: less)."""
        for above in self._tree.ancestors(queue):
            self._allocated[above.name] += amount
        self._changed[queue] = None

    def put(self, gang: Waiting) -> None:
        """A gang joins, for instance one already served that may grow further."""
        heappush(self._heap_of(gang), (_gang_key(gang), gang))
        self._changed[gang.queue] = None

    def _heap_of(self, gang: Waiting) -> list[tuple[_Key, Waiting]]:
        heap = self._gangs.get(gang.queue)
        if heap is None:
            leaf = self._tree.leaf(gang.queue)
            if not isinstance(leaf, Queue):
                raise ValueError(f"{gang.key} cannot wait in queue {gang.queue!r}: {leaf.message}")
            heap = self._gangs[gang.queue] = []
        return heap

    def _judge_changed(self) -> None:
        for leaf in self._changed:
            for queue in self._tree.ancestors(leaf):
                self._judge(queue)
        self._changed.clear()

    def _judge(self, queue: Queue) -> None:
        """Give the queue a new place among its siblings; the entry of its old place is void."""
        version = self._judged[queue.name] = self._judged.get(queue.name, 0) + 1
        leaf = queue.name if queue.name in self._gangs else self._first_leaf(queue.name)
        if leaf is None or not self._gangs[leaf]:
            return
        contender = Contender(
            queue=queue,
            fair_share=self._fair_shares.get(queue.name, NOTHING),
            allocated=self._allocated[queue.name],
            asked=self._gangs[leaf][0][1].asked,
            divided=self._divided,
        )
        key = tuple(part(contender) for part in ORDER)
        heappush(self._children.setdefault(queue.parent, []), (key, version, queue.name))

    def _first_leaf(self, above: str | None) -> str | None:
        """The leaf that is next among those below `above`."""
        name = above
        while True:
            heap = self._children.get(name)
            while heap and self._judged[heap[0][2]] != heap[0][1]:
                heappop(heap)
            if not heap:
                return None
            name = heap[0][2]
            if name in self._gangs:
                return name


def _gang_key(gang: Waiting) -> _Key:
    return tuple(part(gang) for part in GANG_ORDER)


def _allocatable(contender: Contender, name: str) -> int:
    """What the queue may count on: its quota or fair share, whichever is larger, up to its limit."""
    rule = contender.queue[name]
    share = max(rule.quota, contender.fair_share[name])
    return share if rule.limit is None else min(share, rule.limit)


def _dominant(contender: Contender, used: Resources) -> int:
    parts = (
        amount * _PART // max(_allocatable(contender, name), 1)
        for name, amount in used.amounts.items()
        if name in contender.divided
    )
    return max(parts, default=0)
