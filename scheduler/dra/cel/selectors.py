"""Device selectors: compile and evaluate CEL expressions as Kubernetes does.

    selector = compile_selector('device.attributes["gpu.nvidia.com"].productName.startsWith("NVIDIA H100")')
    selector.matches(device)

The verdict depends on nothing but the expression and the device. Three meanings are easy to miss: an unknown domain
reads as an empty map, yet is not `in` the map of domains; an unknown attribute is a run-time error; `||` and `&&` take
no notice of an error on one side when the other decides. A run-time error fails the allocation, it is not "no match".

Where we differ: costs are counted more coarsely (cost); nesting ends at 100 levels instead of 250; named time zones
are refused (their rules are files, and nothing here reads any), and timestamps print in UTC; a quantity's exponent ends
at about ten thousand; what fails only through its literal's text (too many format arguments) may show at run time
instead of at compile time.

Chapters, in reading order: values, cost, syntax, parser, types, overloads; the function
library operators, strings, formatting, times, lists, quantity, net, url, formats
(joined in library); device, access, calls, folds, check, macros,
compile, reads.

Source: the DRA environment of k8s.io/dynamic-resource-allocation/cel as of Kubernetes 1.37.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache

from scheduler.dra.cel.check import Environment, environment
from scheduler.dra.cel.compile import Program, compile_node
from scheduler.dra.cel.cost import COST_LIMIT, FIRST_LOCAL, MAX_LENGTH
from scheduler.dra.cel.device import DEVICE_FIELDS, CelDevice, cel_device
from scheduler.dra.cel.library import BASE, WITH_LISTS
from scheduler.dra.cel.parser import parse
from scheduler.dra.cel.quantity import Quantity, Semver
from scheduler.dra.cel.reads import Path, reads
from scheduler.dra.cel.types import ANY, BOOL, DYN
from scheduler.dra.cel.values import MISSING, CelCompileError, CelError, CelRuntimeError, Value, type_name

__all__ = [
    "CelCompileError",
    "CelDevice",
    "CelError",
    "CelRuntimeError",
    "Quantity",
    "Selector",
    "Semver",
    "cel_device",
    "compile_selector",
]

# (list attributes, consumable capacity) -> what an expression may use and what it may result in besides bool.
_ENVIRONMENTS: dict[tuple[bool, bool], Environment] = {
    (lists, capacity): environment(WITH_LISTS if lists else BASE, DYN if lists else ANY, multiple_allocations=capacity)
    for lists in (False, True)
    for capacity in (False, True)
}


class Selector:
    """A compiled selector; immutable, safe to share."""

    __slots__ = ("_locals", "_program", "_reads", "expression")

    def __init__(self, expression: str, program: Program, read: frozenset[Path]) -> None:
        self.expression = expression
        self._program = program.run
        self._locals: tuple[None, ...] = (None,) * (program.slots - FIRST_LOCAL)
        self._reads = tuple(sorted(read))

    def __repr__(self) -> str:
        return f"Selector({self.expression!r})"

    @property
    def attributes_read(self) -> frozenset[tuple[str, str]] | None:
        """(domain, identifier) of each attribute and capacity the verdict may depend on.

        None when it may depend on more: whole domains, computed names. The driver and allowMultipleAllocations are not
        in the set; `fingerprint` covers them too.
        """
        entries = [path for path in self._reads if path not in (("driver",), ("allowMultipleAllocations",))]
        if any(len(path) != 3 or not path[2] for path in entries):
            return None
        return frozenset((path[1], path[2]) for path in entries)

    def fingerprint(self, device: CelDevice) -> Hashable:
        """What this selector sees of the device: devices with equal fingerprints get the same verdict."""
        return tuple([_seen(device, path) for path in self._reads])

    def matches(self, device: CelDevice) -> bool:
        """Whether the device is selected; CelRuntimeError when the expression has no answer for it."""
        try:
            verdict = self._program([COST_LIMIT, device, *self._locals])
        except RecursionError:
            raise CelRuntimeError("operation cancelled: the expression builds values nested too deeply") from None
        if verdict is True or verdict is False:
            return bool(verdict)
        raise CelRuntimeError(f"CEL result of type {type_name(verdict)} could not be converted to bool")


@lru_cache(maxsize=4096)
def compile_selector(expression: str, *, list_attributes: bool = False, consumable_capacity: bool = True) -> Selector:
    """The selector of an expression; cached. CelCompileError names the column of what is wrong.

    The flags are the feature gates that the API server applies to *new* expressions. What is stored already was
    accepted once: Kubernetes compiles it with both on, whatever the gates say now, and so should callers.
    """
    if not expression.isascii():
        try:
            size = len(expression.encode())
        except UnicodeEncodeError as error:
            raise CelCompileError("the expression is not valid Unicode text", error.start + 1) from None
    else:
        size = len(expression)
    if size > MAX_LENGTH:
        raise CelCompileError(f"the expression has {size} bytes, more than the {MAX_LENGTH} that are allowed")
    try:
        node = parse(expression)
        program = compile_node(node, _ENVIRONMENTS[list_attributes, consumable_capacity])
    except (
        RecursionError
    ):  # the bounds on nesting leave room for a caller hundreds of frames deep; this is the last net
        raise CelCompileError("the expression is nested too deeply") from None
    if program.type not in (BOOL, DYN if list_attributes else ANY):
        raise CelCompileError(f"must evaluate to bool or the unknown type, not {program.type}", node.position)
    return Selector(expression, program, reads(node))


def _seen(device: CelDevice, path: Path) -> Hashable:
    value: Value = device
    for depth, step in enumerate(path):
        if depth == 0:
            value = DEVICE_FIELDS[step](device)
        elif step:
            value = value.get(step, MISSING)
        if value is MISSING:
            return None
    return True if path[2:] == ("",) else _frozen(value)


def _frozen(value: Value) -> Hashable:
    """A value as a key; the class is part of it, since True == 1 in Python."""
    if isinstance(value, CelDevice):
        return tuple([_frozen(read(value)) for read in DEVICE_FIELDS.values()])
    if isinstance(value, dict):
        return tuple(sorted((key, _frozen(item)) for key, item in value.items()))
    if isinstance(value, tuple):
        return ("list", *map(_frozen, value))
    if isinstance(value, Quantity):
        return ("Quantity", value, value.scale)
    return (type(value).__name__, value)
