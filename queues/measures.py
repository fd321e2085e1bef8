"""How much of devices a queue may use, in a unit that is not the device: told by the name of the resource.

`<capacity>.deviceclass/<class>` counts what devices of the class have of a capacity, memory for instance in bytes;
`<counter>.counters.deviceclass/<class>` what they draw of shared counters. In whole units, like everything that is
neither CPU nor devices.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

_NAME = re.compile(r"(?P<amount>[a-zA-Z0-9_-]+)(?P<counters>\.counters)?\.deviceclass/(?P<of>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """`amount`: a capacity without its domain, or with `counters` a counter, of devices of this class."""

    resource: str
    amount: str
    counters: bool
    device_class: str


@lru_cache(maxsize=4_096)
def measure(resource: str) -> Measure | None:
    """What a resource of a queue measures; None for what is counted in another way."""
    found = _NAME.fullmatch(resource)
    if found is None:
        return None
    return Measure(
        resource=resource, amount=found["amount"], counters=bool(found["counters"]), device_class=found["of"]
    )
