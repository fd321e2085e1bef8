"""What selectors say about devices, evaluated once per kind of device.

A verdict depends on the expression and on what it reads of the device, never on claim, node or time. So ten thousand
GPUs of one model cost one evaluation of a selector that looks at the model.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from scheduler.dra.cel.selectors import CelDevice, CelError, Selector, cel_device, compile_selector
from scheduler.dra.cel.values import NO_SUCH_KEY
from scheduler.dra.devices import Device, Features
from scheduler.dra.views import NodeDevices

Expressions: TypeAlias = tuple[str, ...]
"""Selectors in the order in which they are asked: the class's, then the request's; the first "no" ends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A selector that has no answer for a device. `missing`: it looked for an attribute that is not published."""

    expression: str
    problem: str
    missing: bool = False


Verdict: TypeAlias = bool | Failure

_MOST_VERDICTS = 100_000
_MOST_SHOWN = 200


class _Known:
    """The verdicts of one selector, by what it sees of a device."""

    __slots__ = ("names", "selector", "verdicts")

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self.verdicts: dict[Hashable, Verdict] = {}
        read = selector.attributes_read
        self.names = (
            None if read is None else tuple((domain, f"{domain}/{name}", name) for domain, name in sorted(read))
        )

    def verdict(self, device: Device) -> Verdict:
        key = _seen(device, self.names) if self.names is not None else None
        known = self.verdicts.get(key) if key is not None else None
        if known is not None:
            return known
        try:
            seen = _cel_device(device)
            if key is None:
                key = self.selector.fingerprint(seen)
            known = self.verdicts.get(key)
            if known is None:
                known = self.selector.matches(seen)
        except CelError as error:
            known = Failure(
                expression=self.selector.expression, problem=str(error), missing=error.message.startswith(NO_SUCH_KEY)
            )
        if key is not None:
            if len(self.verdicts) >= _MOST_VERDICTS:
                self.verdicts.clear()
            self.verdicts[key] = known
        return known


_known: dict[tuple[str, bool], _Known] = {}


def selector(expression: str, features: Features) -> Selector:
    """The compiled selector. Raises CelCompileError."""
    return _of(expression, features).selector


def shortened(text: str) -> str:
    """As much as a message can show of an expression, or of an error that quotes one: an Event has room for 1 KiB."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def verdict(expressions: Expressions, device: Device, features: Features) -> Verdict:
    """Whether all expressions select the device; the first that does not, or that fails, ends the question."""
    for expression in expressions:
        answer = _of(expression, features).verdict(device)
        if answer is not True:
            return answer
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """Numbers of a node's devices: those that all expressions select, and those on which one fails."""

    numbers: tuple[int, ...]
    failures: tuple[tuple[int, Failure], ...] = ()


def selected(expressions: Expressions, view: NodeDevices, features: Features) -> Selected:
    """Which of a node's devices these expressions select; kept with the node's view."""
    key = ("selected", expressions, features.list_attributes)
    known = view.memo.get(key)
    if known is None:
        numbers, failures = [], []
        for number, device in enumerate(view.devices):
            answer = verdict(expressions, device, features)
            if answer is True:
                numbers.append(number)
            elif isinstance(answer, Failure):
                failures.append((number, answer))
        known = view.remember(key, Selected(numbers=tuple(numbers), failures=tuple(failures)))
    assert isinstance(known, Selected)
    return known


def attributes_read(expressions: Iterable[str], features: Features) -> frozenset[str] | None:
    """Full names of all attributes that these expressions read; None: it may be any. Raises CelCompileError."""
    names: set[str] = set()
    for expression in expressions:
        read = selector(expression, features).attributes_read
        if read is None:
            return None
        names.update(f"{domain}/{name}" for domain, name in read)
    return frozenset(names)


def _of(expression: str, features: Features) -> _Known:
    known = _known.get((expression, features.list_attributes))
    if known is None:
        if len(_known) >= 4096:
            _known.clear()
        compiled = compile_selector(expression, list_attributes=features.list_attributes)
        known = _known[expression, features.list_attributes] = _Known(compiled)
    return known


def _seen(device: Device, names: tuple[tuple[str, str, str], ...]) -> Hashable:
    """What a selector that reads only these attributes and capacities can see of the device."""
    driver, published = device.id.driver, device.published.capacity or {}
    return (
        driver,
        device.shareable,
        tuple(
            (device.attributes.get(full), published.get(full) or (published.get(name) if domain == driver else None))
            for domain, full, name in names
        ),
    )


def _cel_device(device: Device) -> CelDevice:
    published = device.published
    return cel_device(
        device.id.driver,
        {name: msgspec.to_builtins(value) for name, value in (published.attributes or {}).items()},
        {name: msgspec.to_builtins(value) for name, value in (published.capacity or {}).items()},
        published.allow_multiple_allocations,
    )
