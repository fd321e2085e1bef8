"""How long a workload may run before it may be stopped for another: min-runtimes of queues.

Source: KAI docs (minimum runtime). For preemption the value of the victim's queue, or of the first above it that sets
one. For reclaim that of the queue on the victim's side below the first that both stand under, or of the first above
that sets one.
"""

from queues.reclaim import losing
from queues.tree import QueueTree


def min_runtime_ms(tree: QueueTree, victim: str, queue: str, *, reclaim: bool) -> int:
    """Milliseconds for which work of leaf `victim` is safe from work of leaf `queue`; 0 if nobody sets any."""
    start = victim
    if reclaim:
        for above in losing(tree, victim, queue):
            start = above.name
    for above in tree.ancestors(start):
        own = above.reclaim_min_runtime_ms if reclaim else above.preempt_min_runtime_ms
        if own is not None:
            return own
    return 0
