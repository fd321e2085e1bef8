"""Inventory -> ResourceSlice documents, and what is to be written so that they stand: pure.

Slices are told apart by their names, which follow from node, driver and position: two plugins side by side write the
same ones. Counter sets have slices of their own, before those of the devices; what can be cut has a slice for each GPU,
so that what happens to one GPU changes one slice. Source: resource.k8s.io/v1 ResourceSlice; KEP 4381, 4815.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import groupby
from typing import Any, Literal, TypeAlias

from dra_driver.devices import Attribute, Capacity, CounterSet, Device, Inventory, Taint, Version
from scheduler.api import quantity
from scheduler.api.attributes import GPU_DRIVER

Document: TypeAlias = dict[str, Any]

MARK = "tutti.scheduler/node-plugin"
"""Label of every slice that this plugin writes, whatever its value: a slice without it is somebody else's."""
MARK_VALUE = "tutti-dra-driver"
FIRST_GENERATION = 1
# With 64 the layout does not change when a device gets its first taint; without taints and counters 128 would do.
MOST_DEVICES, MOST_SETS, MOST_NAME = 64, 8, 253


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whose slices they are. The pool is the node's only one, and bears its name; `node_uid`: of the Node object, which
    owns them. `domain`: of attributes that have none in their names, whatever the driver is called."""

    node: str
    node_uid: str
    driver: str = GPU_DRIVER
    domain: str = GPU_DRIVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One request to the API server. Of a create and an update, `document` is the whole object; of a delete, what is to
    go."""

    verb: Literal["delete", "update", "create"]
    document: Document

    @property
    def name(self) -> str:
        """The slice that is meant."""
        return str(self.document["metadata"]["name"])


def documents(inventory: Inventory, target: Target) -> tuple[Document, ...]:
    """The slices of an inventory, in the order in which they are written, of the first generation.

    At least one: a pool without devices is told apart from one that nobody publishes."""
    sets, devices = inventory.counter_sets, inventory.devices
    specs: list[Document] = [{"sharedCounters": [_set(each) for each in part]} for part in _chunks(sets, MOST_SETS)]
    specs += [{"devices": [_device(each, target) for each in part]} for part in _grouped(devices)]
    specs = specs or [{"devices": []}]
    pool = {"name": target.node, "generation": FIRST_GENERATION, "resourceSliceCount": len(specs)}
    return tuple(
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": _metadata(target, position),
            "spec": {"driver": target.driver, "nodeName": target.node, "pool": dict(pool), **spec},
        }
        for position, spec in enumerate(specs)
    )


def slice_name(target: Target, position: int) -> str:
    """The name of the slice at this position; in the order of their names they are read."""
    name = f"{target.node}-{target.driver}-{position:02d}"
    if len(name) <= MOST_NAME:
        return name
    digest = sha256(f"{target.node}/{target.driver}".encode()).hexdigest()[:16]
    return f"{target.node[:150].rstrip('.-')}-{digest}-{position:02d}"


def content(document: Document) -> Document:
    """What two slices must share to say the same, apart from their pool's generation: equal is equal in meaning.

    Amounts are compared as numbers and what is empty as absent, as servers write them in forms of their own."""
    spec = {name: value for name, value in document.get("spec", {}).items() if name != "pool"}
    pool = document.get("spec", {}).get("pool", {})
    metadata = document.get("metadata", {})
    return {
        "spec": _plain(spec),
        "pool": pool.get("name"),
        "labels": (metadata.get("labels") or {}).get(MARK),
        "owners": [(owner.get("kind"), owner.get("uid")) for owner in metadata.get("ownerReferences") or ()],
    }


def changes(
    published: Iterable[Document], wanted: Sequence[Document], kept: Callable[[Document], Document] = content
) -> tuple[Write, ...]:
    """What to write, in this order, so that `wanted` stands in place of `published`; nothing if it does.

    One slice to change, and nothing else: it is updated, and the pool keeps its generation. Slices that are missing, or
    of an older generation, beside newest ones that are all right, join these: nobody reads the pool without them, and
    two who write the same finish each other's work. In any other case all move to the next generation: obsolete ones
    are deleted, then the others updated, then new ones made. `kept`: how the server keeps a slice, if it is known to
    leave something out."""
    there = {document["metadata"]["name"]: document for document in published}
    names = {document["metadata"]["name"] for document in wanted}
    obsolete = [document for name, document in sorted(there.items()) if name not in names]
    named = [(document, there.get(document["metadata"]["name"])) for document in wanted]
    missing = [new for new, old in named if old is None]
    present = [(new, old) for new, old in named if old is not None]
    newest = max((_pool(document)["generation"] for document in there.values()), default=FIRST_GENERATION - 1)
    late = [(new, old) for new, old in present if _pool(old)["generation"] < newest]
    wrong = [(new, old) for new, old in present if _pool(old)["generation"] == newest and content(old) != kept(new)]
    counted = all(
        _pool(document)["generation"] < newest
        or (document["metadata"]["name"] in names and _pool(document)["resourceSliceCount"] == len(wanted))
        for document in there.values()
    )
    standing = len(present) - len(late)
    if standing and counted and (not wrong or (len(wrong) == 1 and not late and not missing)):
        generation, rewritten = newest, [*wrong, *late]
    else:
        generation, rewritten = newest + 1, present
    return (
        *(Write(verb="delete", document=document) for document in obsolete),
        *(Write(verb="update", document=_over(old, _of(new, generation))) for new, old in rewritten),
        *(Write(verb="create", document=_of(new, generation)) for new in missing),
    )


# --- the documents ---


def _metadata(target: Target, position: int) -> Document:
    owner = {"apiVersion": "v1", "kind": "Node", "name": target.node, "uid": target.node_uid, "controller": True}
    return {"name": slice_name(target, position), "labels": {MARK: MARK_VALUE}, "ownerReferences": [owner]}


def _grouped(devices: Sequence[Device]) -> Iterator[Sequence[Device]]:
    """Devices of a slice each. What is in one piece shares slices; each GPU that has counters has its own."""
    cut = {device.gpu for device in devices if device.counters}
    for _, group in groupby(devices, key=lambda device: device.gpu if device.gpu in cut else ""):
        yield from _chunks(tuple(group), MOST_DEVICES)


def _set(counters: CounterSet) -> Document:
    return {"name": counters.name, "counters": _counters(counters.counters)}


def _counters(amounts: Mapping[str, int]) -> Document:
    return {name: {"value": quantity.format_units(amount)} for name, amount in sorted(amounts.items())}


def _device(device: Device, target: Target) -> Document:
    document: Document = {
        "name": device.name,
        "attributes": {_qualified(name, target): _value(value) for name, value in sorted(device.attributes.items())},
        "capacity": {name: _capacity(value, device) for name, value in sorted(device.capacity.items())},
    }
    if device.counters:
        consumed = {"counterSet": device.counter_set, "counters": _counters(device.counters)}
        document["consumesCounters"] = [consumed]
    if device.shareable:
        document["allowMultipleAllocations"] = True
    if device.taints:
        document["taints"] = [_taint(taint) for taint in device.taints]
    return document


def _qualified(name: str, target: Target) -> str:
    """A slice's own driver is the domain of names without one; whoever reads our attributes looks for NVIDIA's.

    Capacities are asked for by the very name they are published under, so they never have a domain."""
    return name if "/" in name or target.driver == target.domain else f"{target.domain}/{name}"


def _value(value: Attribute) -> Document:
    match value:
        case bool():
            return {"bool": value}
        case int():
            return {"int": value}
        case str():
            return {"string": value}
        case Version():
            return {"version": value.text}
        case tuple():
            return {"strings": list(value)}


def _capacity(capacity: Capacity, device: Device) -> Document:
    document: Document = {"value": quantity.format_units(capacity.amount)}
    if device.shareable and capacity.step is not None and capacity.least is not None and capacity.default is not None:
        steps = {"min": quantity.format_units(capacity.least), "step": quantity.format_units(capacity.step)}
        document["requestPolicy"] = {"default": quantity.format_units(capacity.default), "validRange": steps}
    return document


def _taint(taint: Taint) -> Document:
    added = datetime.fromtimestamp(taint.since_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {"key": taint.key, "effect": taint.effect, "timeAdded": added}
    return document | ({"value": taint.value} if taint.value else {})


def _chunks(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + most] for start in range(0, len(items), most))


# --- comparing ---

_AMOUNTS = frozenset({"capacity", "counters"})


def _plain(value: Any, amounts: bool = False) -> Any:
    """Without what is empty; amounts as numbers."""
    if isinstance(value, dict):
        plain = {name: _plain(each, amounts or name in _AMOUNTS) for name, each in value.items()}
        return {name: each for name, each in plain.items() if each is not None and each != {} and each != []}
    if isinstance(value, list):
        return [_plain(each, amounts) for each in value]
    if amounts and isinstance(value, str | int) and not isinstance(value, bool):
        try:
            return quantity.parse(value)
        except quantity.QuantityError:
            return value  # the name of a counter set, or what only a foreign hand can have written
    return value


def _pool(document: Document) -> Document:
    pool: Document = document["spec"]["pool"]
    return {"generation": 0, **pool}


def _of(document: Document, generation: int) -> Document:
    spec = document["spec"]
    return {**document, "spec": {**spec, "pool": {**spec["pool"], "generation": generation}}}


def _over(old: Document, new: Document) -> Document:
    """The new document in place of the one that was read: refused if that has changed since. Labels and annotations
    that others have added stay."""
    before, own = old["metadata"], new["metadata"]
    labels = {**(before.get("labels") or {}), **own["labels"]}
    return {**new, "metadata": {**before, "labels": labels, "ownerReferences": own["ownerReferences"]}}
