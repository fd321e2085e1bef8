"""A device as a selector sees it: `device.driver`, `.attributes`, `.capacity`, `.allowMultipleAllocations`.

Source: resource.k8s.io/v1 Device; KEPs 4381 (selectors), 5075 (multiple allocations), 5491
(list attributes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from scheduler.dra.cel.quantity import Quantity, Semver
from scheduler.dra.cel.values import INT_MAX, INT_MIN, CelRuntimeError, Opaque, Value

_NOTHING: dict[str, Value] = {}


class Domains(dict[str, dict[str, Value]]):
    """Attributes or capacity by domain. An unknown domain reads as an empty map, yet is not `in` this one."""

    __slots__ = ()

    def __missing__(self, domain: str) -> dict[str, Value]:
        return _NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class CelDevice(Opaque):
    """One device of a ResourceSlice; names are split into domain and identifier, the driver being the default domain.

    Attribute values are int, bool, str, Semver, or tuples of these; capacities are Quantity. Not to be changed.
    """

    driver: str
    attributes: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    capacity: Mapping[str, Mapping[str, Quantity]] = field(default_factory=dict)
    allow_multiple_allocations: bool = False
    type_name: ClassVar[str] = "kubernetes.DRADevice"

    def __post_init__(self) -> None:
        for name in ("attributes", "capacity"):
            given = getattr(self, name)
            if type(given) is not Domains:
                object.__setattr__(self, name, Domains((domain, dict(ids)) for domain, ids in given.items()))


# CEL field -> how to read it.
DEVICE_FIELDS: dict[str, Callable[[CelDevice], Value]] = {
    "driver": lambda device: device.driver,
    "attributes": lambda device: device.attributes,
    "capacity": lambda device: device.capacity,
    "allowMultipleAllocations": lambda device: device.allow_multiple_allocations,
}


def cel_device(
    driver: str,
    attributes_raw: Mapping[str, Mapping[str, Any]] | None,
    capacity_raw: Mapping[str, Mapping[str, Any]] | None,
    allow_multiple_allocations: bool | None = False,
) -> CelDevice:
    """A device from the JSON of a ResourceSlice: `{"model": {"string": "H100"}}`, `{"memory": {"value": "80Gi"}}`.

    An attribute whose kind of value is unknown comes from a newer API server and is left out. CelError for a value that
    is not of its kind: a version or quantity that cannot be read.
    """
    return CelDevice(
        driver=driver,
        attributes=_by_domain(driver, attributes_raw or {}, _attribute),
        capacity=_by_domain(driver, capacity_raw or {}, _capacity),
        allow_multiple_allocations=bool(allow_multiple_allocations),
    )


def _by_domain(
    driver: str, raw: Mapping[str, Mapping[str, Any]], read: Callable[[Mapping[str, Any]], Value]
) -> Domains:
    """A bare name belongs to the driver's domain; a name written out in full goes before a bare one."""
    found = Domains()
    for name, content in raw.items():
        domain, slash, rest = name.partition("/")
        identifier = rest if slash else name
        try:
            value = read(content)
        except CelRuntimeError as error:
            raise CelRuntimeError(f"attribute or capacity {name}: {error.message}") from error
        if value is not None:
            ids = found.setdefault(domain if slash else driver, {})
            if slash or identifier not in ids:
                ids[identifier] = value
    return found


def _integer(value: object) -> int:
    if type(value) is not int or not INT_MIN <= value <= INT_MAX:
        raise CelRuntimeError(f"{value!r} is not a 64-bit integer")
    return value


def _typed(kind: type) -> Callable[[Any], Value]:
    def check(value: object) -> Value:
        if type(value) is not kind:
            raise CelRuntimeError(f"{value!r} is not a {kind.__name__}")
        return value

    return check


def _version(value: object) -> Semver:
    return Semver.parse(_typed(str)(value))


_KINDS: dict[str, Callable[[Any], Value]] = {
    "int": _integer,
    "bool": _typed(bool),
    "string": _typed(str),
    "version": _version,
}


def _attribute(content: Mapping[str, Any]) -> Value | None:
    """The value of the one union member that is set; None when it is none that we know."""
    for kind, read in _KINDS.items():
        if content.get(kind) is not None:
            return read(content[kind])
        values = content.get(f"{kind}s")
        if values is not None:
            return tuple(map(read, values))
    return None


def _capacity(content: Mapping[str, Any]) -> Quantity | None:
    """Quantities are strings, but JSON numbers are accepted as the API server does."""
    value = content.get("value")
    return None if value is None else Quantity.parse(str(value))
