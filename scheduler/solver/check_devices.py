"""Do the claims of a plan hold the devices they ask for, each given once? A part of `check`, as apart from the
allocator as that is from the ledger: it reads slices, classes and claims as they were published.

Here is what pods have to do with claims; then come those made for extended resources (`check_extended`), the answer to
each claim (`check_answers`), all devices together (`check_shares`), and what is published at all (`check_published`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from scheduler.api import dra
from scheduler.model.nodes import Node
from scheduler.model.plan import Placement
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Pod
from scheduler.solver.check_answers import answers
from scheduler.solver.check_extended import served_by_claim
from scheduler.solver.check_published import Pools
from scheduler.solver.check_selectors import selects
from scheduler.solver.check_shares import Given, Use, given_once

Placed: TypeAlias = Sequence[tuple[Placement, Pod, Node]]


def check(snapshot: Snapshot, placed: Placed, pools: Pools) -> Iterator[str]:
    """Violations, a sentence each."""
    given: dict[str, Given] = {}
    for placement, pod, node in placed:
        yield from _decided(snapshot, placement, pod)
        for part in placement.claims:
            if part.allocation is None:
                continue
            known = snapshot.claims.get(part.claim)
            spec = part.make or (known.spec if known else None)
            if part.claim in given or (known is not None and known.allocation is not None):
                yield f"claim {part.claim} is allocated twice"
            elif spec is not None:
                admin = known is not None and known.admin_access_allowed
                given[part.claim] = Given(
                    claim=part.claim, spec=spec, allocation=part.allocation, node=node, admin=admin
                )
    for placement, pod, node in placed:
        yield from _reachable(snapshot, placement, pod, node, given)
        if pod.extended:
            yield from served_by_claim(snapshot, placement, pod, node)
    yield from _consumers(snapshot, placed)
    use = Use.of(snapshot, given)
    for _, its in sorted(given.items()):
        yield from answers(snapshot, its, pools)
    yield from given_once(use, pools)


def _decided(snapshot: Snapshot, placement: Placement, pod: Pod) -> Iterator[str]:
    """The claims of a placement are those that the pod names, each as it is now, and perhaps one made for it."""
    wanted = {entry.name: entry for entry in pod.claims if entry.needed}
    parts = [part for part in placement.claims if part.make is None]
    decided = {part.name: part for part in parts}
    for name, entry in wanted.items():
        if entry.claim is None or name not in decided or decided[name].claim != entry.claim:
            yield f"pod {pod.key} is placed and its claim {name} is not decided"
            continue
        known = snapshot.claims.get(entry.claim)
        if known is not None and entry.from_template and known.owner_uid != pod.uid:
            yield f"pod {pod.key} gets claim {entry.claim}, which belongs to another pod"
    if len(decided) < len(parts) or set(decided) - set(wanted):
        yield f"pod {pod.key} gets claims that it does not name"
    for part in parts:
        known = snapshot.claims.get(part.claim)
        if known is None:
            yield f"pod {pod.key} gets devices for claim {part.claim}, which does not exist"
        elif known.uid != part.claim_uid:
            yield f"pod {pod.key} gets claim {part.claim} of uid {part.claim_uid!r}, which is {known.uid!r}"
        elif known.terminating:
            yield f"pod {pod.key} gets claim {part.claim}, which is being deleted"
        elif known.newer and part.allocation is not None:
            yield f"claim {part.claim} is given devices, and it says {known.newer[0]}, which is not known here"
        if _namespace(part.claim) != pod.namespace:
            yield f"pod {pod.key} gets claim {part.claim} of another namespace"


def _namespace(key: str) -> str:
    return key.partition("/")[0]


def _reachable(
    snapshot: Snapshot, placement: Placement, pod: Pod, node: Node, given: Mapping[str, Given]
) -> Iterator[str]:
    """What the pod's claims hold can be used where it is placed."""
    keys = {part.claim for part in placement.claims}
    extended = snapshot.claims.get(pod.extended_claim)
    if extended is not None and extended.allocation is not None:
        keys.add(extended.key)
    for key in sorted(keys):
        known = snapshot.claims.get(key)
        held = given[key].allocation if key in given else known.allocation if known else None
        if held is None:
            yield f"pod {pod.key} is placed and its claim {key} holds no devices"
        elif held.node_selector is not None and not selects(held.node_selector, node):
            yield f"pod {pod.key} on node {node.name} cannot use what claim {key} holds"


def _consumers(snapshot: Snapshot, placed: Placed) -> Iterator[str]:
    consumers: dict[str, set[str]] = {}
    for placement, pod, _ in placed:
        for part in placement.claims:
            consumers.setdefault(part.claim, set()).add(pod.uid)
    for key, uids in sorted(consumers.items()):
        before = set(snapshot.claims[key].reserved_for) if key in snapshot.claims else set()
        if len(uids | before) > max(dra.MOST_CONSUMERS, len(before)):
            yield f"claim {key} is reserved for {len(uids | before)} pods"
