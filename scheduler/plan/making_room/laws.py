"""What the shares of queues allow to be lost to a gang: nobody falls below his, and only who is under-served takes.

Where some resources go along with those that decide, they are lost by those gangs alone that have of what decides. Work
that has none of it would come back for what it lost, for its queue may be left with less than its share of that; and
so on for ever. Source: `queues.reclaim`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from queues.reclaim import losing, spare, surplus
from queues.resources import NOTHING, Resources
from queues.tree import QueueTree
from scheduler.model.workloads import Gang
from scheduler.plan.desk import Desk
from scheduler.plan.making_room.stages import Stage, contested_of, deciding_of, must_have_share_of

Row = tuple[str, str]
"""A queue, and one of the resources that it has a share of; or `_NOT_ALONG`."""

_NOT_ALONG = ""
"""Pods of gangs that have nothing of what decides: none of them is lost."""


class Lost(Protocol):
    """What is lost together: a pod, or more, with what the queue no longer pays then."""

    @property
    def gang(self) -> Gang: ...

    @property
    def queue(self) -> str: ...

    @property
    def relief(self) -> Resources: ...


def laws_of(desk: Desk, stage: Stage, gang: Gang, asked: Resources) -> "Laws | None":
    """What binds the stage for a gang that asks for so much; None: nothing."""
    return Laws(desk, stage, gang, asked) if stage.shares else None


class Laws:
    """For one gang that asks for so much. `budgets`: what those may lose that do not gain; `least`: what those that
    gain have to lose themselves if anything is taken from outside of them."""

    def __init__(self, desk: Desk, stage: Stage, gang: Gang, asked: Resources) -> None:
        self._tree: QueueTree = desk.tree
        self._queue = desk.queue_of[gang.key]
        self._accounts = desk.accounts
        self.along = stage.along
        self._gangs: dict[str, bool] = {}
        """By gang (key), whether it has some of what decides and goes as a whole."""
        wanted, standing, shares = contested_of(desk, asked), desk.ledger.allocated, desk.fair_shares
        self._decisive = frozenset(deciding_of(desk, wanted) if stage.along else wanted)
        lost = spare(desk.tree, self._queue, wanted, shares, standing, self._decisive)
        beyond = surplus(desk.tree, self._queue, must_have_share_of(desk, stage, asked), shares, standing)
        budgets = {(q, name): most for q, each in lost.items() for name, most in each.items()}
        if stage.along:
            budgets |= {(q, _NOT_ALONG): 0 for q in lost}
        self.budgets: Mapping[Row, int] = budgets
        self.least: Mapping[Row, int] = {(q, name): each[name] for q, each in beyond.items() for name in each}

    def loses(self, loss: Lost) -> Iterator[tuple[Row, int]]:
        """What of the budgets the loss takes."""
        if (loss.queue, _NOT_ALONG) in self.budgets and not self._has_what_decides(loss):
            yield (loss.queue, _NOT_ALONG), 1
        for queue in losing(self._tree, loss.queue, self._queue):
            for name in loss.relief:
                if (queue.name, name) in self.budgets:
                    yield (queue.name, name), loss.relief[name]

    def within(self, loss: Lost) -> Iterator[tuple[Row, int]]:
        """What of it is lost inside queues that gain."""
        for queue in self._tree.ancestors(loss.queue):
            for name in loss.relief:
                if (queue.name, name) in self.least:
                    yield (queue.name, name), loss.relief[name]

    def _has_what_decides(self, loss: Lost) -> bool:
        """The pod, or its gang if that has no pods to spare: then it goes as a whole or not at all."""
        if any(loss.relief[name] for name in self._decisive):
            return True
        gang = loss.gang
        if gang.key not in self._gangs:
            there = [pod for pod in gang.bound if not pod.terminating]
            relief = self._accounts.relief(there) if len(there) <= gang.min_member else NOTHING
            self._gangs[gang.key] = any(relief[name] for name in self._decisive)
        return self._gangs[gang.key]

    def allow(self, losses: Iterable[Lost]) -> bool:
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


def _sums(rows: Iterable[tuple[Row, int]]) -> dict[Row, int]:
    sums: dict[Row, int] = {}
    for row, amount in rows:
        sums[row] = sums.get(row, 0) + amount
    return sums
