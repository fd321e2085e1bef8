"""What is left of a gang when some of its pods fall out of a plan: those above its minimum never stop the others."""

from collections.abc import Callable, Collection
from dataclasses import replace

from scheduler.commit.writes import ClaimWrite, Consumer, GangWrites
from scheduler.model.workloads import Gang, Pod


def split(gang: GangWrites, out: Collection[str]) -> tuple[GangWrites, GangWrites]:
    """The writes for the pods that go on, and for those that fall out (keys). A claim that both use is in both."""
    return _of(gang, lambda pod: pod not in out), _of(gang, lambda pod: pod in out)


def stands(gang: Gang, placed: Collection[str]) -> bool:
    """Whether the gang has its minimum, at every level, with its pods on nodes and these (keys) besides."""
    there = {pod.key for pod in gang.pods if pod.node and not pod.terminating}
    return _satisfied(gang, there.union(placed), "")


def _of(gang: GangWrites, wanted: Callable[[str], bool]) -> GangWrites:
    def mine(consumers: tuple[Consumer, ...]) -> tuple[Consumer, ...]:
        return tuple(consumer for consumer in consumers if wanted(consumer.pod))

    claims: list[ClaimWrite] = []
    for write in gang.claims:
        consumers = mine(write.consumers)
        if consumers:
            claims.append(replace(write, consumers=consumers))
    return replace(
        gang,
        making=tuple(making for making in gang.making if wanted(making.consumer.pod)),
        claims=tuple(claims),
        volumes=tuple(
            replace(write, consumers=consumers) for write in gang.volumes if (consumers := mine(write.consumers))
        ),
        binds=tuple(bind for bind in gang.binds if wanted(bind.pod)),
    )


def _satisfied(gang: Gang, there: Collection[str], name: str) -> bool:
    own = next((sub for sub in gang.sub_groups if sub.name == name), None)
    below = [sub for sub in gang.sub_groups if (sub.parent or "") == name]
    if below:
        least = own.min_sub_group if own is not None else gang.min_sub_group
        whole = sum(_satisfied(gang, there, sub.name) for sub in below)
        return whole >= (len(below) if least is None else least)
    members = [pod for pod in gang.pods if own is None or pod.sub_group == name]
    return sum(pod.key in there for pod in members) >= _least(gang, members, own.min_member if own else None)


def _least(gang: Gang, members: Collection[Pod], minimum: int | None) -> int:
    """Without sub-groups pods that ended well count, for the run that has pods on nodes or can only be a rest."""
    alive = [pod for pod in members if not (pod.terminating or pod.done)]
    if gang.sub_groups:
        return len(alive) if minimum is None else minimum
    anew = len(alive) >= gang.min_member and not any(pod.node for pod in alive)
    return gang.min_member if anew else gang.min_member - gang.succeeded
