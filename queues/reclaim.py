"""Who may take back from whom: a queue under its fair share, from queues above theirs, and none below it.

Shares bind where a resource is contested: somebody could use more of it than it gets. Of what is there for all, nobody
takes anything back. Source: KAI docs (reclaim) and its reclaimable plugin. Where we differ: only resources count that
the gang asks for and that are contested, at every level of the tree; and what a queue loses never takes it below its
share, the last victim included.

Who asks for several resources may be kept from the one that matters by the others, which anybody makes contested by
asking for much of them. So where nothing is found by all of them, one decides (`deciding`), and of the others queues
keep their quotas. Source: Ghodsi et al., Dominant Resource Fairness (NSDI 2011).
"""

from collections.abc import Container, Iterator, Mapping
from fractions import Fraction

from queues.fair_share import FairShares, usable
from queues.limits import is_device, under_quota
from queues.resources import NOTHING, Resources
from queues.tree import WHOLE, Queue, QueueTree


def contested(pool: Resources, tree: QueueTree, asks: Mapping[str, Resources], shares: FairShares) -> frozenset[str]:
    """The resources of the pool of which some queue could use more than its share. `asks`: by leaf, what it has and
    what waits."""
    useful = usable(tree, asks)
    return frozenset(
        name for queue, ask in useful.items() for name in ask if pool[name] and ask[name] > shares[queue][name]
    )


def deciding(pool: Resources, asked: Resources) -> frozenset[str]:
    """Of contested resources that are asked for, those that decide by themselves who is over and who under his share:
    devices; without any the one that the largest part of the pool is asked of, of equals the first by name. The others
    go along with them."""
    devices = frozenset(name for name in asked if is_device(name))
    parts = ((-Fraction(asked[name], pool[name]), name) for name in asked if pool[name] > 0)
    return devices or frozenset(name for _, name in sorted(parts)[:1])


def under_served(queue: str, asked: Resources, shares: FairShares, allocated: Mapping[str, Resources]) -> bool:
    """Whether the leaf has what it has and `asked` within its fair share. `asked`: of contested resources alone; who
    asks for none has nothing to take back. `allocated` by queue, rolled up."""
    has, share = allocated.get(queue, NOTHING), shares[queue]
    return bool(asked) and all(has[name] + asked[name] <= share[name] for name in asked)


def surplus(
    tree: QueueTree, queue: str, asked: Resources, shares: FairShares, allocated: Mapping[str, Resources]
) -> dict[str, Resources]:
    """By queue above leaf `queue`, how far `asked` takes it beyond its fair share. So much it has to lose itself, below
    it, where anything is taken from outside: only who is under-served takes from others."""
    found = {}
    for above in tree.ancestors(queue):
        if above.name != queue:
            has, share = allocated.get(above.name, NOTHING), shares[above.name]
            found[above.name] = Resources({name: max(has[name] + asked[name] - share[name], 0) for name in asked})
    return found


def spare(
    tree: QueueTree,
    queue: str,
    asked: Resources,
    shares: FairShares,
    allocated: Mapping[str, Resources],
    decisive: Container[str] | None = None,
) -> dict[str, dict[str, int]]:
    """What every queue may lose to leaf `queue` of what that asks, by queue: what it has above its fair share and above
    its quota; of what is not `decisive` all above its quota, if it may lose what is. Those that get what they lose, the
    queues above `queue`, are not in it."""
    gaining = {above.name for above in tree.ancestors(queue)}
    decides = frozenset(asked) if decisive is None else decisive
    return {
        name: _spare(own, asked, shares[name], allocated.get(name, NOTHING), decides)
        for name, own in tree.queues.items()
        if name not in gaining
    }


def _spare(
    queue: Queue, asked: Resources, share: Resources, has: Resources, decisive: Container[str]
) -> dict[str, int]:
    """A quota of all there is guarantees nothing, for everybody may have one: where it is over its share of something
    else, that stops nobody."""
    over = {name: has[name] - max(queue[name].quota % WHOLE, share[name] if name in decisive else 0) for name in asked}
    if all(amount <= 0 for name, amount in over.items() if name in decisive):
        return dict.fromkeys(over, 0)
    return {name: max(amount, 0) for name, amount in over.items() if amount > 0 or queue[name].quota < WHOLE}


def losing(tree: QueueTree, victim: str, queue: str) -> Iterator[Queue]:
    """The queues that lose when leaf `victim` loses something to leaf `queue`: itself and those above it, below the
    first that both stand under."""
    gaining = {above.name for above in tree.ancestors(queue)}
    for above in tree.ancestors(victim):
        if above.name in gaining:
            return
        yield above


def within_quota_everywhere(
    tree: QueueTree, queue: str, asked: Resources, nonpreemptible: Mapping[str, Resources]
) -> bool:
    """Whether what cannot be preempted stays within the quota, at the leaf and at every queue above."""
    return all(
        nonpreemptible.get(above.name, NOTHING)[name] + asked[name] <= above[name].quota
        for above in tree.ancestors(queue)
        for name in under_quota(above, asked)
    )
