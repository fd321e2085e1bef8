"""divide(): quota first, then the rest by priority and weight -> fair shares.

Source: KAI docs (fairness) and its resource division. Where we differ: a priority is served to the last unit before the
next one is looked at; the last unit never exceeds what a queue can use; and a queue above others can use no more than
they can. Everything is an integer or a ratio of integers, so the same input gives the same shares on every machine.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

from queues.limits import is_device
from queues.resources import NOTHING, Resources
from queues.tree import WHOLE, Queue, QueueTree
from queues.usage import NO_USAGE, Usage

FairShares = Mapping[str, Resources]
"""By queue, house units, an entry for every usable queue."""

DEVICE = 1000
"""What cannot be split among queues: a whole device, in thousandths."""


def divide(pool: Resources, tree: QueueTree, asks: Mapping[str, Resources], usage: Usage = NO_USAGE) -> FairShares:
    """Split `pool` among queues: each its quota, the rest by weight within a priority, none beyond its ask or limit.

    `asks`: by leaf, what it has plus what waits. House units; whole devices only, the remainder to the largest
    fraction, then the oldest queue, then by name. Each resource is divided by itself, and each queue's share among its
    children.
    Quotas are promises: where they exceed the pool they are given all the same, and nothing is left to divide.
    """
    useful = usable(tree, asks)
    shares: dict[str, dict[str, int]] = {name: {} for name in tree.queues}
    for resource in sorted({*pool.amounts, *(name for ask in useful.values() for name in ask.amounts)}):
        totals: dict[str | None, int] = {None: pool[resource]}
        for parent in (None, *tree.top_down()):
            siblings = [
                _Sibling.of(tree.queues[name], resource, useful[name][resource], usage.part(name, resource))
                for name in tree.children.get(parent, ())
            ]
            for name, share in _among(siblings, totals[parent], DEVICE if is_device(resource) else 1, usage).items():
                totals[name] = shares[name][resource] = share
    return {name: Resources(amounts) for name, amounts in shares.items()}


def usable(tree: QueueTree, asks: Mapping[str, Resources]) -> dict[str, Resources]:
    """What each queue could put to use: a leaf its ask, others what those below can use, nobody more than its limit."""
    below: dict[str, dict[str, int]] = {name: {} for name in tree.queues}
    useful: dict[str, Resources] = {}
    for name in tree.bottom_up():
        queue = tree.queues[name]
        wanted = below[name] if name in tree.children else asks.get(name, NOTHING).amounts
        useful[name] = Resources({resource: _capped(amount, queue, resource) for resource, amount in wanted.items()})
        if queue.parent is not None:
            above = below[queue.parent]
            for resource, amount in useful[name].amounts.items():
                above[resource] = above.get(resource, 0) + amount
    return useful


@dataclass(slots=True, kw_only=True)
class _Sibling:
    """One of the queues that divide an amount; `share` grows as the division goes on."""

    queue: Queue
    quota: int
    weight: int
    wanted: int
    past: Fraction
    share: int = 0

    @classmethod
    def of(cls, queue: Queue, resource: str, wanted: int, past: Fraction) -> "_Sibling":
        rule = queue[resource]
        return cls(queue=queue, quota=rule.quota, weight=rule.weight, wanted=max(wanted, 0), past=past)

    @property
    def missing(self) -> int:
        return self.wanted - self.share


def _among(siblings: list[_Sibling], amount: int, unit: int, usage: Usage) -> dict[str, int]:
    """Divide `amount` among siblings; name -> share."""
    for sibling in siblings:
        sibling.share = min(amount if sibling.quota >= WHOLE else sibling.quota, sibling.wanted)
    left = amount - sum(sibling.share for sibling in siblings)
    for priority in sorted({sibling.queue.priority for sibling in siblings}, reverse=True):
        if left <= 0:
            break
        left = _over_quota([s for s in siblings if s.queue.priority == priority], left, unit, usage)
    return {sibling.queue.name: sibling.share for sibling in siblings}


def _over_quota(siblings: list[_Sibling], left: int, unit: int, usage: Usage) -> int:
    """Give queues of one priority what is left, by weight, until it or their wants are used up; what remains."""
    while left > 0:
        hungry = [sibling for sibling in siblings if sibling.missing > 0 and sibling.weight > 0]
        parts = _parts(hungry, usage)
        whole = sum(parts)
        if whole == 0:
            break
        offered, again = left, False
        rests: list[tuple[int, _Sibling]] = []
        for sibling, part in zip(hungry, parts, strict=True):
            offer = offered * part
            if sibling.missing * whole <= offer:
                again = again or sibling.missing * whole < offer
                given = sibling.missing
            else:
                given = offer // (whole * unit) * unit
                rests.append((offer - given * whole, sibling))
            sibling.share += given
            left -= given
        if not again:
            left = _last_units(rests, left, unit)
    return left


def _last_units(rests: Iterable[tuple[int, _Sibling]], left: int, unit: int) -> int:
    """One unit each to those whose offer was rounded down most; what remains."""
    for rest, sibling in sorted(rests, key=lambda each: (-each[0], each[1].queue.created_ms, each[1].queue.name)):
        if rest == 0 or left <= 0:
            break
        given = min(unit, left, sibling.missing)
        sibling.share += given
        left -= given
    return left


def _parts(siblings: list[_Sibling], usage: Usage) -> list[int]:
    """In what proportion what is left is offered: by weight, less to those who used more in the past. Nothing is kept
    back because all have used much: then the weights alone count."""
    whole = sum(sibling.weight for sibling in siblings)
    if usage.strength == 0 or not any(sibling.past for sibling in siblings):
        return [sibling.weight for sibling in siblings]
    parts = [Fraction(sibling.weight, whole) for sibling in siblings]
    turned = [max(Fraction(0), p + usage.strength * (p - s.past)) for p, s in zip(parts, siblings, strict=True)]
    if not any(turned):
        return [sibling.weight for sibling in siblings]
    scale = lcm(*(part.denominator for part in turned))
    return [int(part * scale) for part in turned]


def _capped(amount: int, queue: Queue, resource: str) -> int:
    limit = queue[resource].limit
    return amount if limit is None else min(amount, limit)
