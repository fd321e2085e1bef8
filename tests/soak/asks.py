"""What gangs of a soak ask for: whole devices, partitions, shares, devices to be made ready, extended resources."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.api.dra import IMPLICIT_EXTENDED_RESOURCE_PREFIX

Document = dict[str, Any]
DRIVER = "parts.example.com"
"""A driver of the soak's own: on every node it has cards to share and links to be made ready."""
READY, BROKEN = ("Attached", "Configured"), "Broken"
"""What a link has to be before its pod may be bound, one after the other; and what it becomes instead."""

SHARES, LINKS, EXTENDED = "DRAConsumableCapacity", "DRADeviceBindingConditions", "DRAExtendedResource"

_GPU, _MIG = {"deviceClassName": "gpu.nvidia.com"}, {"deviceClassName": "mig.nvidia.com"}
_CARD, _LINK = {"deviceClassName": "card"}, {"deviceClassName": "link"}
_GPU_CLASS, _MIG_CLASS, _CARD_CLASS, _LINK_CLASS = (
    IMPLICIT_EXTENDED_RESOURCE_PREFIX + kind["deviceClassName"] for kind in (_GPU, _MIG, _CARD, _LINK)
)
_GPU_NAME = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What each pod of a gang asks for. `requests`: those of its claim. `containers`: the extended resources of each.

    `gates`: the feature gates without which nobody can ask for it. `weight`: how often it is drawn. `together`: all
    pods of the gang share one claim."""

    name: str
    requests: tuple[Document, ...] = ()
    containers: tuple[Mapping[str, str], ...] = ({},)
    gates: tuple[str, ...] = ()
    weight: int = 2
    together: bool = False

    @property
    def claim(self) -> Document:
        """The specification of its claim."""
        named = [{"name": f"part-{number}", **request} for number, request in enumerate(self.requests)]
        return {"devices": {"requests": named}}


def _exactly(device_class: Mapping[str, str], count: int = 1, **more: Document) -> tuple[Document, ...]:
    return ({"exactly": {**device_class, "count": count, **more}},)


def _share(count: int = 1, **amounts: str) -> tuple[Document, ...]:
    return _exactly(_CARD, count, capacity={"requests": amounts})


ASKS: tuple[Ask, ...] = (
    Ask(name="none", weight=1),
    Ask(name="together", requests=_exactly(_GPU), weight=1, together=True),
    Ask(name="one", requests=_exactly(_GPU), weight=4),
    Ask(name="two", requests=_exactly(_GPU, 2)),
    Ask(name="four", requests=_exactly(_GPU, 4)),
    Ask(name="node", requests=_exactly(_GPU, 8)),
    Ask(name="slice", requests=_exactly(_MIG)),
    Ask(name="slices", requests=_exactly(_MIG, 3)),
    Ask(
        name="either",
        requests=({"firstAvailable": [{"name": "gpus", **_GPU, "count": 2}, {"name": "slice", **_MIG, "count": 1}]},),
    ),
    Ask(name="share", requests=_share(memory="12Gi", slots="3", engines="1"), gates=(SHARES,)),
    Ask(name="least-share", requests=_share(engines="1"), gates=(SHARES,), weight=1),
    Ask(name="all-engines", requests=_share(memory="30Gi"), gates=(SHARES,), weight=1),
    Ask(name="two-shares", requests=_share(2, memory="5Gi", slots="2", engines="1"), gates=(SHARES,)),
    Ask(name="joint-share", requests=_share(memory="21Gi", engines="2"), gates=(SHARES,), weight=1, together=True),
    Ask(name="class-of-gpus", containers=({_GPU_CLASS: "1"},), gates=(EXTENDED,)),
    Ask(name="class-of-slices", containers=({_MIG_CLASS: "1"},), gates=(EXTENDED,), weight=1),
    Ask(name="resource", containers=({_GPU_NAME: "2"},), gates=(EXTENDED,)),
    Ask(name="two-resources", containers=({_GPU_NAME: "1"}, {_MIG_CLASS: "1"}), gates=(EXTENDED,), weight=1),
    Ask(
        name="resource-and-share",
        requests=_share(engines="1"),
        containers=({_GPU_NAME: "1"},),
        gates=(EXTENDED, SHARES),
    ),
    Ask(name="class-of-cards", containers=({_CARD_CLASS: "1"},), gates=(EXTENDED, SHARES), weight=1),
    Ask(name="class-of-links", containers=({_LINK_CLASS: "1"},), gates=(EXTENDED, LINKS), weight=2),
    Ask(name="link", requests=_exactly(_LINK), gates=(LINKS,)),
    Ask(name="links", requests=_exactly(_LINK, 2), gates=(LINKS,), weight=1),
    Ask(name="link-and-gpu", requests=_exactly(_LINK) + _exactly(_GPU), gates=(LINKS,), weight=1),
)
"""All that a gang of a soak may ask for."""


def known(gates: frozenset[str] | None) -> tuple[Ask, ...]:
    """Those that can be asked for where these gates are on; None: all gates are."""
    return tuple(ask for ask in ASKS if gates is None or gates >= set(ask.gates))


def is_served(resource: str) -> bool:
    """Whether an extended resource is served by devices, in the clusters of a soak."""
    return resource == _GPU_NAME or resource.startswith(IMPLICIT_EXTENDED_RESOURCE_PREFIX)


# --- what the driver has --------------------------------------------------------------------------------------------


def _device(name: str, sort: str, **more: Any) -> Document:
    return {"name": name, "attributes": {"sort": {"string": sort}}, **more}


_CAPACITY = {
    "memory": {
        "value": "40Gi",
        "requestPolicy": {"default": "10Gi", "validRange": {"min": "10Gi", "step": "5Gi", "max": "30Gi"}},
    },
    "slots": {"value": "8", "requestPolicy": {"default": "1", "validValues": ["1", "2", "5"]}},
    # Without a policy: who does not say how much of it takes all.
    "engines": {"value": "4"},
}
CARDS = tuple(_device(f"card-{n}", "card", allowMultipleAllocations=True, capacity=_CAPACITY) for n in range(2))
"""Devices whose capacity is shared."""
_LINKS = tuple(
    _device(f"link-{n}", "link", bindsToNode=True, bindingConditions=list(READY), bindingFailureConditions=[BROKEN])
    for n in range(4)
)
CLASSES = tuple(
    {
        "metadata": {"name": name},
        "spec": {
            "selectors": [
                {
                    "cel": {
                        "expression": f'device.driver == "{DRIVER}" && device.attributes["{DRIVER}"].sort == "{name}"'
                    }
                }
            ]
        },
    }
    for name in ("card", "link")
)
"""The DeviceClasses of its devices."""


def devices(gates: frozenset[str] | None) -> list[Document]:
    """What the driver has on every node of a server with these gates; None: all."""
    cards = CARDS if gates is None or SHARES in gates else ()
    links = _LINKS if gates is None or LINKS in gates else ()
    return [*cards, *links]
