"""What rules out how many nodes for one more pod, counted: what is lacking, and how much of it there is at best.

Those of its gang that found room are counted as placed: what they take is not free for the next.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from queues.words import amount, portion
from scheduler.dra.causes import free_devices
from scheduler.model.reasons import NodeCount
from scheduler.plan.ground.fit import lack
from scheduler.plan.ground.neighbours import Guests
from scheduler.plan.ground.rooms import Load, Rooms, with_more
from scheduler.plan.ground.shapes import Demand

_NOBODY: Load = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cause:
    """`text` completes "the node ...". Where an amount is lacking: `there` of `resource`, and so much `asked`."""

    text: str = ""
    resource: str = ""
    asked: int = 0
    there: int = 0


def causes(
    rooms: Rooms,
    shape: int,
    nodes: Iterable[str],
    guests: Guests,
    seats: Iterable[tuple[str, Load]] = (),
) -> tuple[NodeCount, ...]:
    """What rules out how many of these nodes for one bundle of the shape, besides what `seats` puts on them; most
    first. Nodes that take it are not counted. Equal causes are told with the most that one of their nodes has."""
    taken = dict(seats)
    found: dict[str, list[_Cause]] = {}
    known: dict[tuple[int, Load], _Cause] = {}
    for node in nodes:
        cause = _Cause(text=rooms.suits(node, shape))
        if not cause.text:
            key = rooms.ledger.state(node), taken.get(node, _NOBODY)
            if key not in known:
                known[key] = _on(rooms, shape, node, key[1])
            cause = known[key]
        if not cause.text and isinstance(refusal := rooms.welcome(node, shape, guests), str):
            cause = _Cause(text=refusal)
        if cause.text:
            found.setdefault(cause.text, []).append(cause)
    ordered = sorted((-len(each), _told(each)) for each in found.values())
    return tuple(NodeCount(nodes=-count, cause=told) for count, told in ordered)


def asks(rooms: Rooms, shape: int, node: str) -> str:
    """What one bundle of the shape asks of such a node: "2 CPUs, 4Gi of memory, devices of class gpu.nvidia.com"."""
    demand = rooms.shapes.demand(shape, rooms.ledger.nodes[node])
    amounts = [amount(name, demand.requests[name]) for name in demand.requests if name != "pods"]
    if demand.asks:
        amounts.append(f"devices of class {_classes(demand)}")
    return ", ".join(amounts)


def _classes(demand: Demand) -> str:
    requests = [request for ask in demand.asks for request in ask.claim.spec.devices.requests or ()]
    names = {each.device_class_name for r in requests for each in (r.exactly, *(r.first_available or ())) if each}
    return " or ".join(sorted(names))


def _told(alike: list[_Cause]) -> str:
    best = max(alike, key=lambda cause: (cause.there, -cause.asked))
    if not best.resource:
        return best.text
    return f"{best.text}: {portion(best.resource, best.there, best.asked)}"


def _on(rooms: Rooms, shape: int, node: str, load: Load) -> _Cause:
    demand, left = rooms.shapes.demand(shape, rooms.ledger.nodes[node]), rooms.left(node, load)
    for name in demand.requests.lacking_in(left):
        if name == "pods":
            return _Cause(text=lack(name))
        return _Cause(text=lack(name), resource=name, asked=demand.requests[name], there=max(left[name], 0))
    alone = rooms.verdict(node, ((shape, 1),)).cause
    if alone or not load:
        return _Cause(text=alone)
    with_it = with_more(load, shape, 1)
    cause = rooms.crowding(node, with_it) or rooms.verdict(node, with_it).cause
    if not cause or rooms.crowding(node, with_it):
        return _Cause(text=cause)
    return _devices(rooms, shape, node, load)


def _devices(rooms: Rooms, shape: int, node: str, load: Load) -> _Cause:
    """The node would have the devices for one, were it not for the load."""
    of = rooms.ledger.nodes[node]
    demand = rooms.shapes.demand(shape, of)
    text = f"has too few free devices of class {_classes(demand)}"
    only = demand.asks[0].claim if len(demand.asks) == 1 else None
    free = None if only is None else free_devices(only, of, rooms.ledger.inventory, rooms.ledger.in_use)
    if free is None or [number for number, _ in load] != [shape]:
        return _Cause(text=f"{text} left")
    there = max(free.free - load[0][1] * free.asked, 0)
    return _Cause(text=text, resource=f"deviceclass/{free.device_class}", asked=free.asked, there=there)
