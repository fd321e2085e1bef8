"""What the shares of queues allow to be lost to a gang: nobody falls below his, and only who is under-served takes.

Source: `queues.reclaim`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from queues.reclaim import losing, spare, surplus
from queues.resources import Resources
from queues.tree import QueueTree
from scheduler.model.workloads import Gang
from scheduler.plan.caps import Caps
from scheduler.plan.desk import Desk
from scheduler.plan.losses import Loss

Row = tuple[str, str]
"""A queue, and one of the resources that it has a share of."""


class Laws:
    """For one gang that asks so much of what queues compete for. `budgets`: what those may lose that do not gain;
    `least`: what those that gain have to lose themselves if anything is taken from outside of them."""

    def __init__(self, desk: Desk, gang: Gang, asked: Resources) -> None:
        self._tree: QueueTree = desk.tree
        self._queue = desk.queue_of[gang.key]
        standing = desk.ledger.allocated
        lost = spare(desk.tree, self._queue, asked, desk.fair_shares, standing)
        beyond = surplus(desk.tree, self._queue, asked, desk.fair_shares, standing)
        self.budgets: Mapping[Row, int] = {(q, name): most for q, each in lost.items() for name, most in each.items()}
        self.least: Mapping[Row, int] = {(q, name): each[name] for q, each in beyond.items() for name in each}

    def loses(self, loss: Loss) -> Iterator[tuple[Row, int]]:
        """What of the budgets the loss takes."""
        for queue in losing(self._tree, loss.queue, self._queue):
            for name in loss.relief:
                if (queue.name, name) in self.budgets:
                    yield (queue.name, name), loss.relief[name]

    def within(self, loss: Loss) -> Iterator[tuple[Row, int]]:
        """What of it is lost inside queues that gain."""
        for queue in self._tree.ancestors(loss.queue):
            for name in loss.relief:
                if (queue.name, name) in self.least:
                    yield (queue.name, name), loss.relief[name]

    def allow(self, losses: Iterable[Loss]) -> bool:
        """Whether all of these may be lost together."""
        losses = list(losses)
        lost = _sums(row for loss in losses for row in self.loses(loss))
        if any(amount > self.budgets[row] for row, amount in lost.items()):
            return False
        inside = _sums(row for loss in losses for row in self.within(loss))
        for (queue, name), least in self.least.items():
            outside = any(queue not in {above.name for above in self._tree.ancestors(loss.queue)} for loss in losses)
            if outside and inside.get((queue, name), 0) < least:
                return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """All that stands against too many victims: the shares of queues, where they bind, and the caps on evictions."""

    laws: Laws | None
    caps: Caps

    def allow(self, losses: Iterable[Loss]) -> bool:
        """Whether all of these may go together."""
        losses = list(losses)
        return self.caps.allow(losses) and (self.laws is None or self.laws.allow(losses))


def _sums(rows: Iterable[tuple[Row, int]]) -> dict[Row, int]:
    sums: dict[Row, int] = {}
    for row, amount in rows:
        sums[row] = sums.get(row, 0) + amount
    return sums
