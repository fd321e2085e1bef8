"""Who may take back from whom: a queue under its fair share, from queues above theirs, and none below it.

Shares bind where a resource is contested: somebody could use more of it than it gets. Of what is there for all, nobody
takes anything back. Source: KAI docs (reclaim) and its reclaimable plugin. Where we differ: only resources count that
the gang asks for and that are contested, at every level of the tree; and what a queue loses never takes it below its
share, the last victim included.
"""

from collections.abc import Iterator, Mapping

from queues.fair_share import FairShares, usable
from queues.limits import under_quota
from queues.resources import NOTHING, Resources
from queues.tree import Queue, QueueTree


def contested(pool: Resources, tree: QueueTree, asks: Mapping[str, Resources], shares: FairShares) -> frozenset[str]:
    """The resources of the pool of which some queue could use more than its share. `asks`: by leaf, what it has and
    what waits."""
    useful = usable(tree, asks)
    return frozenset(
        name for queue, ask in useful.items() for name in ask if pool[name] and ask[name] > shares[queue][name]
    )


def under_served(queue: str, asked: Resources, shares: FairShares, allocated: Mapping[str, Resources]) -> bool:
    """Whether `queue` has what it has and `asked` within its fair share. `asked`: of contested resources alone; nothing
    is nobody's share. `allocated` by queue, rolled up."""
    has = allocated.get(queue, NOTHING)
    return bool(asked) and all(has[name] + asked[name] <= shares[queue][name] for name in asked)


def surplus(
    tree: QueueTree, queue: str, asked: Resources, shares: FairShares, allocated: Mapping[str, Resources]
) -> dict[str, Resources]:
    """By queue above leaf `queue`, how far `asked` takes it beyond its fair share. So much it has to lose itself, below
    it, where anything is taken from outside: only who is under-served takes from others."""
    found = {}
    for above in tree.ancestors(queue):
        if above.name != queue:
            has, share = allocated.get(above.name, NOTHING), shares[above.name]
            found[above.name] = Resources({n: max(has[n] + asked[n] - share[n], 0) for n in asked})
    return found


def spare(
    tree: QueueTree,
    queue: str,
    resources: frozenset[str],
    shares: FairShares,
    allocated: Mapping[str, Resources],
) -> dict[str, Resources]:
    """What every queue may lose to leaf `queue`, by queue, of these resources: what it has above its fair share and
    above its quota. Those that get what they lose, the queues above `queue`, are not in it."""
    gaining = {above.name for above in tree.ancestors(queue)}
    return {
        name: Resources(
            {each: max(allocated.get(name, NOTHING)[each] - _floor(own, shares[name], each), 0) for each in resources}
        )
        for name, own in tree.queues.items()
        if name not in gaining
    }


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


def _floor(queue: Queue, share: Resources, resource: str) -> int:
    return max(queue[resource].quota, share[resource])
