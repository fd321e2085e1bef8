"""What a claim asks for, and which devices of a node may serve it: class, selectors, taints, capacity.

A claim becomes a Question: per request its alternatives, each a Want, and the constraints among them. What cannot be
decided (unknown class, CEL error, a form newer than us) is a Problem, the same on every node.
Source: KEP 4381, KEP 4816 (firstAvailable), KEP 5018 (adminAccess); DESIGN 2.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from scheduler.api import dra
from scheduler.api.quantity import QuantityError
from scheduler.dra.caches import PerObject
from scheduler.dra.capacity import taken_by
from scheduler.dra.cel.selectors import CelCompileError
from scheduler.dra.devices import Amount, Features, amount
from scheduler.dra.pools import Inventory
from scheduler.dra.shapes import EVERY_ATTRIBUTE
from scheduler.dra.taints import tolerated
from scheduler.dra.verdicts import Expressions, Failure, attributes_read, selected, selector, shortened
from scheduler.dra.views import NodeDevices
from scheduler.model.workloads import Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """One alternative of one request. `request`: its name in the result, "main" or "main/sub"; `main`: the request's.

    `every`: mode All, then `count` means nothing. `capacity`: what is asked of consumable capacity, by published name.
    `avoids`: devices that are not to be given, as in Claim; mode All asks for them all the same.
    """

    main: str
    request: str
    device_class: str
    expressions: Expressions
    every: bool = False
    count: int = 1
    admin: bool = False
    tolerations: tuple[dra.DeviceToleration, ...] = ()
    capacity: tuple[tuple[str, Amount], ...] = ()
    avoids: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """`requests`: names it covers, empty for all. `distinct`: values must differ, otherwise they must match."""

    attribute: str
    distinct: bool
    requests: frozenset[str]

    def covers(self, want: Want) -> bool:
        return not self.requests or want.main in self.requests or want.request in self.requests


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """What a claim asks: one Want of each request, under the constraints. One object per inventory and ask shape."""

    requests: tuple[tuple[Want, ...], ...]
    constraints: tuple[Constraint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a claim cannot be decided: the request ("" for the claim itself), what is wrong, what to do."""

    request: str
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Numbers of a node's devices for one Want, by what stands in the way.

    `selected`: by class and selectors, and with the capacity asked for; `usable`: of these, those whose taints are
    tolerated and that need not be avoided. `failures`: where a selector failed. `short`: how many lack capacity.
    """

    selected: tuple[int, ...]
    usable: tuple[int, ...]
    failures: tuple[tuple[int, Failure], ...] = ()
    short: int = 0


class _Refused(Exception):
    def __init__(self, request: str, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = Problem(request=request, problem=problem, remedy=remedy)


_shape_of = PerObject(msgspec.json.encode)


def ask_shape(claim: Claim) -> bytes:
    """Equal for claims that ask for the same; names and uids do not matter."""
    shape = _shape_of(claim.spec) + (b"+" if claim.admin_access_allowed else b"-")
    return shape + msgspec.json.encode((claim.newer, claim.avoids)) if claim.newer or claim.avoids else shape


def question(claim: Claim, inventory: Inventory) -> Question | Problem:
    """What the claim asks, with its classes as they are now; kept for claims that ask for the same."""
    key = ("question", ask_shape(claim))
    known = inventory.memo.get(key)
    if known is None:
        known = inventory.memo[key] = _read(claim, inventory)
    assert isinstance(known, Question | Problem)
    return known


def candidates(want: Want, view: NodeDevices, features: Features) -> Candidates:
    """Which devices of the node may serve this want, whoever holds them now; kept with the node's view."""
    key = ("candidates", want.expressions, want.tolerations, want.capacity, want.avoids, features)
    known = view.memo.get(key)
    if known is None:
        known = view.remember(key, _candidates(want, view, features))
    assert isinstance(known, Candidates)
    return known


def reads(claims: Iterable[Claim], inventory: Inventory) -> frozenset[str]:
    """Attributes that these claims' selectors and classes compare: what `Inventory.shape` must tell apart by value."""
    expressions: set[str] = set()
    seen: set[int] = set()
    for claim in claims:
        asked = question(claim, inventory)
        if isinstance(asked, Question) and id(asked) not in seen:
            seen.add(id(asked))
            expressions.update(e for wants in asked.requests for want in wants for e in want.expressions)
    names = attributes_read(expressions, inventory.features)
    return frozenset({EVERY_ATTRIBUTE}) if names is None else names


def _candidates(want: Want, view: NodeDevices, features: Features) -> Candidates:
    found = selected(want.expressions, view, features)
    asked: Mapping[str, Amount] = dict(want.capacity)
    able = tuple(n for n in found.numbers if not asked or taken_by(asked, view.devices[n]) is not None)
    avoids = frozenset(want.avoids)
    usable = tuple(n for n in able if tolerated(view.taints[n], want.tolerations) and view.devices[n].id not in avoids)
    return Candidates(selected=able, usable=usable, failures=found.failures, short=len(found.numbers) - len(able))


def _read(claim: Claim, inventory: Inventory) -> Question | Problem:
    try:
        if claim.newer:
            fields = shortened(", ".join(claim.newer))
            raise _Refused(
                "",
                f"has {fields}, which this scheduler does not know",
                "Upgrade the scheduler, or ask without what it does not know.",
            )
        devices = claim.spec.devices
        _check_names(devices.requests or ())
        requests = tuple(_alternatives(request, claim, inventory) for request in devices.requests or ())
        least = sum(min(1 if want.every else want.count for want in wants) for wants in requests)
        if least > dra.MOST_RESULTS:
            raise _Refused(
                "",
                f"asks for {least} devices, and one claim can hold {dra.MOST_RESULTS}",
                "Ask for fewer devices, or divide them among several claims.",
            )
        constraints = tuple(_constraint(c, devices, inventory.features) for c in devices.constraints or ())
        return Question(requests=requests, constraints=constraints)
    except _Refused as refused:
        return refused.problem


def _check_names(requests: Iterable[dra.DeviceRequest]) -> None:
    """Results name the request: no two may have one name. The API server sees to that; a file may say anything."""
    seen: set[str] = set()
    for request in requests:
        if request.name in seen:
            raise _Refused("", f"has two requests of the name {request.name}", "Give every request a name of its own.")
        seen.add(request.name)


def _alternatives(request: dra.DeviceRequest, claim: Claim, inventory: Inventory) -> tuple[Want, ...]:
    if (request.exactly is None) == (not request.first_available):
        raise _Refused(
            request.name,
            "has neither exactly nor firstAvailable, or both: a form this scheduler does not know",
            "Use exactly or firstAvailable.",
        )
    if request.exactly is not None:
        return (_want(request.name, request.name, request.exactly, claim, inventory),)
    if not inventory.features.prioritized_list:
        raise _Refused(request.name, "has alternatives, and DRAPrioritizedList is off", "Use exactly.")
    return tuple(
        _want(request.name, f"{request.name}/{alternative.name}", alternative, claim, inventory)
        for alternative in request.first_available or ()
    )


def _want(
    main: str, name: str, asked: dra.ExactDeviceRequest | dra.DeviceSubRequest, claim: Claim, inventory: Inventory
) -> Want:
    admin = isinstance(asked, dra.ExactDeviceRequest) and bool(asked.admin_access)
    if admin:
        _check_admin_access(name, claim, inventory.features)
    if asked.derived_attributes is not None:
        raise _Refused(
            name, "has derivedAttributes, a form this scheduler does not know", "Ask without derivedAttributes."
        )
    if asked.capacity is not None and not inventory.features.consumable:
        raise _Refused(name, "asks for capacity, and DRAConsumableCapacity is off", "Ask without capacity.")
    if asked.allocation_mode not in ("ExactCount", "All"):
        mode = asked.allocation_mode
        raise _Refused(name, f"has the allocation mode {mode}, which is not known", "Use ExactCount or All.")
    count = 1 if asked.count is None else asked.count
    if asked.allocation_mode == "ExactCount" and count <= 0:
        raise _Refused(name, f"asks for {count} devices", "Ask for at least one device.")
    return Want(
        main=main,
        request=name,
        device_class=asked.device_class_name,
        expressions=_expressions(name, asked, inventory),
        every=asked.allocation_mode == "All",
        count=count,
        admin=admin,
        tolerations=asked.tolerations or (),
        capacity=_capacity(name, asked.capacity),
        avoids=claim.avoids if asked.allocation_mode == "ExactCount" else (),
    )


def _check_admin_access(name: str, claim: Claim, features: Features) -> None:
    if not features.admin_access:
        raise _Refused(name, "asks for admin access, and DRAAdminAccess is off", "Ask without adminAccess.")
    if not claim.admin_access_allowed:
        namespace = claim.key.partition("/")[0]
        raise _Refused(
            name,
            f"asks for admin access, which namespace {namespace} does not allow",
            f'Label namespace {namespace} resource.kubernetes.io/admin-access: "true", or ask without adminAccess.',
        )


def _capacity(name: str, asked: dra.CapacityRequirements | None) -> tuple[tuple[str, Amount], ...]:
    try:
        wanted = (asked.requests if asked else None) or {}
        amounts = tuple(sorted((capacity, amount(text)) for capacity, text in wanted.items()))
    except QuantityError as error:
        raise _Refused(name, f"capacity: {error}", "Correct capacity.requests.") from None
    for capacity, value in amounts:
        if value < 0:  # what is below zero would give other claims more than the device has
            raise _Refused(
                name, f"asks for {wanted[capacity]} of {capacity}", "Ask for an amount that is not below zero."
            )
    return amounts


def _expressions(name: str, asked: dra.ExactDeviceRequest | dra.DeviceSubRequest, inventory: Inventory) -> Expressions:
    class_name = asked.device_class_name
    if not class_name:
        raise _Refused(name, "names no device class: a form this scheduler does not know", "Set deviceClassName.")
    device_class = inventory.classes.get(class_name)
    if device_class is None:
        raise _Refused(
            name,
            f"DeviceClass {class_name} does not exist",
            f"Create DeviceClass {class_name}, or name one that exists.",
        )
    features = inventory.features
    of_class = _compiled(name, f"DeviceClass {class_name}", device_class.spec.selectors or (), features)
    return (*of_class, *_compiled(name, "the request", asked.selectors or (), features))


def _compiled(name: str, whose: str, selectors: tuple[dra.DeviceSelector, ...], features: Features) -> Expressions:
    expressions = []
    for number, wanted in enumerate(selectors, start=1):
        if wanted.cel is None:
            problem = f"selector {number} of {whose} is no CEL selector: a form this scheduler does not know"
            raise _Refused(name, problem, "Use a CEL selector.")
        try:
            selector(wanted.cel.expression, features)
        except CelCompileError as error:
            told, shown = shortened(str(error)), shortened(wanted.cel.expression)
            problem = f"selector {number} of {whose} does not compile: {told}: {shown}"
            raise _Refused(name, problem, f"Correct selector {number} of {whose}.") from None
        expressions.append(wanted.cel.expression)
    return tuple(expressions)


def _constraint(published: dra.DeviceConstraint, devices: dra.DeviceClaim, features: Features) -> Constraint:
    attribute = published.match_attribute or published.distinct_attribute
    if not attribute or (published.match_attribute and published.distinct_attribute):
        raise _Refused(
            "",
            "a constraint has not exactly one of matchAttribute and distinctAttribute: a form that is not known",
            "Use matchAttribute or distinctAttribute.",
        )
    distinct = published.distinct_attribute is not None
    if distinct and not features.consumable:
        raise _Refused("", "distinctAttribute needs DRAConsumableCapacity, which is off", "Use matchAttribute.")
    known = {r.name for r in devices.requests or ()} | {
        f"{r.name}/{alternative.name}" for r in devices.requests or () for alternative in r.first_available or ()
    }
    unknown = sorted(set(published.requests or ()) - known)
    if unknown:
        raise _Refused("", f"a constraint names request {unknown[0]}, which does not exist", "Correct the constraint.")
    return Constraint(attribute=attribute, distinct=distinct, requests=frozenset(published.requests or ()))
