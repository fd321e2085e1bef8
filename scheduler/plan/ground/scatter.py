"""Room in pieces: what one pod asks for is free, but on no node by itself.

Told besides the causes, which are counted node by node and so hide that there is enough in all.
"""

from collections.abc import Iterable

from queues.resources import Resources
from scheduler.api import attributes
from scheduler.dra.causes import free_devices
from scheduler.model.reasons import Scattered
from scheduler.plan.ground.rooms import Rooms

_GPU = "gpu"


def scattered(rooms: Rooms, shape: int, nodes: Iterable[str]) -> Scattered | None:
    """The first resource or class of devices of which these nodes have enough free for one pod of this shape, and none
    of them has enough; None if there is none, and for pods that have to be placed together."""
    if rooms.shapes[shape].size > 1:
        return None
    alike: dict[int, list[str]] = {}
    for node in nodes:
        if not rooms.suits(node, shape):
            alike.setdefault(rooms.ledger.state(node), []).append(node)
    asked: dict[str, int] = {}
    free: dict[str, list[tuple[int, int]]] = {}
    for names in alike.values():
        for wanted, left in (_plugins(rooms, shape, names[0]), _devices(rooms, shape, names[0])):
            for name in wanted:
                asked[name] = max(asked.get(name, 0), wanted[name])
                if left[name] > 0:
                    free.setdefault(name, []).append((left[name], len(names)))
    for name, parts in sorted(free.items()):
        there, most = sum(each * times for each, times in parts), max(each for each, _ in parts)
        if most < asked[name] <= there:
            return Scattered(
                resource=name, asked=asked[name], free=there, nodes=sum(times for _, times in parts), most=most
            )
    return None


def _plugins(rooms: Rooms, shape: int, node: str) -> tuple[Resources, Resources]:
    """What a pod of this shape asks of device plugins there, and what is free of it, as counts."""
    requests = rooms.shapes.demand(shape, rooms.ledger.nodes[node]).requests
    names = {name: _GPU if name == attributes.GPU_RESOURCE else name for name in requests if "/" in name}
    free = rooms.ledger.free(node)
    return Resources({names[n]: requests[n] for n in names}), Resources({names[n]: free[n] for n in names})


def _devices(rooms: Rooms, shape: int, node: str) -> tuple[Resources, Resources]:
    """The same of published devices, for a pod with one claim that asks for a number of them; else nothing."""
    of = rooms.ledger.nodes[node]
    asks = rooms.shapes.demand(shape, of).asks
    found = free_devices(asks[0].claim, of, rooms.ledger.inventory, rooms.ledger.in_use) if len(asks) == 1 else None
    if found is None:
        return Resources(), Resources()
    name = f"deviceclass/{found.device_class}"
    return Resources({name: found.asked}), Resources({name: found.free})
