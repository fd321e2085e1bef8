"""What one node can use of all that is published, and what has been derived from it."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from scheduler.api import dra
from scheduler.dra.devices import Amount, Device, DeviceId

PoolKey: TypeAlias = tuple[str, str]
"""(driver, pool name)"""

CounterKey: TypeAlias = tuple[str, str, str, str]
"""(driver, pool name, counter set, counter)"""

T = TypeVar("T")

_MOST_ANSWERS = 128


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NodeDevices:
    """What one node can use, in the order in which kube-scheduler would try it. Devices are numbered from 0.

    `taints`: per device, those that stop a claim unless tolerated. `counters`: what the pools have in total.
    `local`: pools that no other node can use. `invalid`, `incomplete`: pools left out, in pool order. `beyond`: fields
    newer than us, for which devices or whole pools are left out. `avoided`: devices that some claim avoids; none is
    like them. `memo`: answers derived from the rest, by question.
    """

    devices: tuple[Device, ...] = ()
    numbers: Mapping[DeviceId, int] = field(default_factory=dict)
    taints: tuple[tuple[dra.DeviceTaint, ...], ...] = ()
    counters: Mapping[CounterKey, Amount] = field(default_factory=dict)
    pools: tuple[PoolKey, ...] = ()
    local: frozenset[PoolKey] = frozenset()
    invalid: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()
    avoided: frozenset[tuple[str, str, str]] = frozenset()
    memo: dict[Hashable, object] = field(default_factory=dict)

    def remember(self, question: Hashable, answer: T) -> T:
        """Keep an answer. A view lives as long as its slices, so the memo is emptied now and then."""
        if len(self.memo) >= _MOST_ANSWERS:
            self.memo.clear()
        self.memo[question] = answer
        return answer
