"""Does an allocation answer what its claim asks? A part of the check of plans: one claim at a time.

Source: resource.k8s.io/v1 AllocationResult; KEP 4816 (firstAvailable), 5018 (adminAccess), 5055 (taints), 5075
(shares).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import msgspec

from scheduler.api import dra
from scheduler.api.attributes import OUTSIDE_FENCE
from scheduler.api.core import NodeSelectorRequirement, NodeSelectorTerm
from scheduler.dra.cel.selectors import CelError
from scheduler.model.snapshot import Snapshot
from scheduler.solver.check_published import Pools, Published, amount
from scheduler.solver.check_selectors import NAME_FIELD, STOPPING, tolerates
from scheduler.solver.check_shares import Given

Asked: TypeAlias = dra.ExactDeviceRequest | dra.DeviceSubRequest
Result: TypeAlias = dra.DeviceRequestAllocationResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The form of a request that the allocation serves, by its name in results, with its devices. One that is not
    published has no device."""

    name: str
    asked: Asked
    devices: Sequence[tuple[Result, Published | None]]


def answers(snapshot: Snapshot, given: Given, pools: Pools) -> Iterator[str]:
    """Violations of one claim, a sentence each."""
    results = given.allocation.devices.results or ()
    found = [(result, pools.device((result.driver, result.pool, result.device), given.node)) for result in results]
    for result, published in found:
        name = f"device {result.pool}/{result.device}"
        if published is None:
            yield f"claim {given.claim} holds {name}, which is not published for node {given.node.name}"
        elif not published.reaches(given.node):
            yield f"claim {given.claim} holds {name}, which node {given.node.name} cannot use"
    if len(results) > dra.MOST_RESULTS:
        yield f"claim {given.claim} holds {len(results)} devices"
    whole = [published.key for _, published in found if published is not None and not published.shared]
    if len(set(whole)) < len(whole):
        yield f"claim {given.claim} holds a device twice"
    requests = given.spec.devices.requests or ()
    known = {name for request in requests for name, _ in _forms(request)}
    for result in results:
        if result.request not in known:
            yield f"claim {given.claim}: a device is given to request {result.request}, which is not there"
    served: list[Served] = []
    for request in requests:
        chosen = [(name, asked) for name, asked in _forms(request) if any(name == r.request for r in results)]
        names = {name for name, _ in chosen}
        if len(names) != 1:
            yield f"claim {given.claim}: request {request.name} is served by {len(names)} alternatives"
            continue
        mine = [(result, published) for result, published in found if result.request in names]
        options = [Served(name=name, asked=asked, devices=mine) for name, asked in chosen]
        told = [list(_request(snapshot, given, option, pools)) for option in options]
        best = min(range(len(options)), key=lambda i: len(told[i]))  # several, where alternatives have one name
        yield from told[best]
        served.append(options[best])
    for constraint in given.spec.devices.constraints or ():
        yield from _constraint(given.claim, constraint, found)
    yield from _where(given, [published for _, published in found if published is not None])
    yield from _configured(snapshot, given, served)


def _forms(request: dra.DeviceRequest) -> list[tuple[str, Asked]]:
    """What may serve a request, by the name it has in results."""
    if request.exactly is not None:
        return [(request.name, request.exactly)]
    return [(f"{request.name}/{sub.name}", sub) for sub in request.first_available or ()]


def _request(snapshot: Snapshot, given: Given, served: Served, pools: Pools) -> Iterator[str]:
    """As many devices as asked, each of which is what was asked for."""
    asked, what = served.asked, f"claim {given.claim}: request {served.name}"
    device_class = snapshot.classes.get(asked.device_class_name)
    if device_class is None:
        yield f"{what} asks for class {asked.device_class_name}, which does not exist"
        return
    admin = isinstance(asked, dra.ExactDeviceRequest) and bool(asked.admin_access)
    if admin and not given.admin:
        yield f"{what} asks for admin access, which its namespace does not allow"
    if asked.derived_attributes is not None:
        yield f"{what} has derivedAttributes, which are not known here"
    if asked.allocation_mode not in ("ExactCount", "All"):
        yield f"{what} has the allocation mode {asked.allocation_mode}, which is not known here"
    selectors = (*(device_class.spec.selectors or ()), *(asked.selectors or ()))
    expressions = [selector.cel.expression if selector.cel else "false" for selector in selectors]
    if asked.allocation_mode == "All":
        yield from _all_of(given, served, expressions, pools)
    elif len(served.devices) != (1 if asked.count is None else asked.count):
        yield f"{what} has {len(served.devices)} devices"
    for result, published in served.devices:
        where = f"claim {given.claim}: device {result.pool}/{result.device}"
        if bool(result.admin_access) != admin:
            yield f"{where} is given {'without' if admin else 'with'} admin access, which is not what was asked"
        if (result.tolerations or ()) != (asked.tolerations or ()):
            yield f"{where} is given with other tolerations than those asked for"
        if published is not None:
            yield from _selected(where, expressions, published, pools)
            yield from _untainted(snapshot, where, asked, published)
            yield from _as_published(where, asked, result, published)


def _all_of(given: Given, served: Served, expressions: Sequence[str], pools: Pools) -> Iterator[str]:
    """Mode All: every device that the node can use and that would do; a shared one that is full does not excuse."""
    what = f"claim {given.claim}: request {served.name}"
    mine = {published.key for _, published in served.devices if published is not None}
    usable, known = pools.on(given.node)
    if not known:
        yield f"{what} asks for all devices, and not all of them are known on node {given.node.name}"
    for published in usable:
        if published.key in mine or any(_selected(what, expressions, published, pools)):
            continue
        if _takes(served.asked, published) is not None:
            yield f"{what} asks for all devices and is not given {published.key[1]}/{published.key[2]}"


def _selected(what: str, expressions: Iterable[str], published: Published, pools: Pools) -> Iterator[str]:
    for expression in expressions:
        try:
            if not pools.selected(expression, published):
                yield f"{what} is not selected by {expression}"
        except CelError as error:
            yield f"{what}: {expression}: {error}"


def _untainted(snapshot: Snapshot, what: str, asked: Asked, published: Published) -> Iterator[str]:
    taints = list(published.device.taints or ())
    for rule in snapshot.taint_rules:
        selector = rule.spec.device_selector
        wanted = (selector.driver, selector.pool, selector.device) if selector else None
        if wanted and all(w in (None, part) for w, part in zip(wanted, published.key, strict=True)):
            taints.append(rule.spec.taint)
    fence = snapshot.policy.device_fence_taint
    inside = [taint for taint in taints if fence and taint.key == fence and taint.effect == "NoSchedule"]
    if fence and not inside:
        taints.append(dra.DeviceTaint(key=OUTSIDE_FENCE, effect="NoSchedule"))
    for taint in taints:
        if taint.effect in STOPPING and taint not in inside and not tolerates(asked.tolerations, taint):
            yield f"{what} has the taint {taint.key}:{taint.effect}, which is not tolerated"


def _as_published(what: str, asked: Asked, result: Result, published: Published) -> Iterator[str]:
    """What the result says of the device and of the share of it."""
    device = published.device
    if (result.binding_conditions or ()) != (device.binding_conditions or ()) or (
        result.binding_failure_conditions or ()
    ) != (device.binding_failure_conditions or ()):
        yield f"{what} is given with other binding conditions than those it is published with"
    takes = _takes(asked, published)
    if takes is None:
        yield f"{what} has not the capacity that is asked for"
    if (result.share_id is not None) != published.shared:
        yield f"{what} is given {'whole and is shared' if published.shared else 'as a share and is not shared'}"
    consumed = {name: amount(text) for name, text in (result.consumed_capacity or {}).items()}
    if takes is not None and consumed != (takes if published.shared else {}):
        yield f"{what} is given with a share of its capacity that is not what was asked"


def _takes(asked: Asked, published: Published) -> dict[str, Fraction] | None:
    """What a request takes of every capacity of the device; None if the device has not what is asked."""
    wanted = (asked.capacity.requests if asked.capacity else None) or {}
    there_is = published.device.capacity or {}
    if not set(wanted) <= set(there_is):
        return None
    takes = {}
    for name, capacity in there_is.items():
        most = amount(capacity.value)
        value = _rounded(amount(wanted[name]) if name in wanted else None, capacity)
        if value is None or most is None or (name in wanted and value > most):
            return None
        takes[name] = value
    return takes


def _rounded(wanted: Fraction | None, capacity: dra.DeviceCapacity) -> Fraction | None:
    """What the policy of a capacity makes of a request; None if it does not allow it."""
    policy = capacity.request_policy
    default = amount(policy.default) if policy is not None and policy.default is not None else None
    if wanted is None:
        return amount(capacity.value) if default is None else default
    if policy is None or wanted == default:
        return wanted
    if policy.valid_range is not None:
        least, most, step = map(_bound, (policy.valid_range.min, policy.valid_range.max, policy.valid_range.step))
        value = max(wanted, least or Fraction(0))
        if step and least is not None:
            value = least - (least - value) // step * step
        return value if most is None or value <= most or value == default else None
    allowed = [value for value in map(amount, policy.valid_values or ()) if value is not None and value >= wanted]
    return min(allowed) if allowed else None if policy.valid_values else wanted


def _bound(text: str | int | float | None) -> Fraction | None:
    return None if text is None else amount(text)


def _constraint(
    claim: str, constraint: dra.DeviceConstraint, found: Sequence[tuple[Result, Published | None]]
) -> Iterator[str]:
    name = constraint.match_attribute or constraint.distinct_attribute or ""
    values: list[frozenset[tuple[str, object]]] = []
    for result, published in found:
        main = result.request.partition("/")[0]
        if constraint.requests and not {result.request, main} & set(constraint.requests):
            continue
        attribute = published.attribute(name) if published is not None else None
        if attribute is None:
            yield f"claim {claim}: device {result.pool}/{result.device} has no {name}"
            return
        values.append(_values(attribute))
    if len(values) < 2:
        return
    if constraint.match_attribute and not frozenset.intersection(*values):
        yield f"claim {claim}: its devices do not agree in {name}"
    if constraint.distinct_attribute and sum(map(len, values)) != len(frozenset().union(*values)):
        yield f"claim {claim}: its devices are not all different in {name}"


def _values(attribute: dra.DeviceAttribute) -> frozenset[tuple[str, object]]:
    """The values with their type: the text "1" is not the number."""
    for name, value in msgspec.structs.asdict(attribute).items():
        if value is not None:
            kind = name.rstrip("s_")
            return frozenset((kind, each) for each in (value if isinstance(value, tuple) else (value,)))
    return frozenset()


def _where(given: Given, devices: Iterable[Published]) -> Iterator[str]:
    """The allocation can be used only where all of its devices can: every term of its node selector names the one node,
    or says all that a term of theirs says."""
    only = "field", NodeSelectorRequirement(key=NAME_FIELD, operator="In", values=(given.node.name,))
    selector = given.allocation.node_selector
    terms = [_said(term) for term in selector.node_selector_terms] if selector is not None else [frozenset()]
    anywhere_else = [term for term in terms if only not in term]
    for published in devices if anywhere_else else ():
        place = published.place
        options = [frozenset({only})]
        if place.node_name is None and not published.device.binds_to_node:
            options = [_said(term) for term in place.node_selector.node_selector_terms] if place.node_selector else []
        if options and not all(any(option <= term for option in options) for term in anywhere_else):
            yield f"claim {given.claim} may be used where its device {'/'.join(published.key)} cannot"


def _said(term: NodeSelectorTerm) -> frozenset[tuple[str, NodeSelectorRequirement]]:
    labels = {("label", requirement) for requirement in term.match_expressions or ()}
    return frozenset(labels | {("field", requirement) for requirement in term.match_fields or ()})


def _configured(snapshot: Snapshot, given: Given, served: Iterable[Served]) -> Iterator[str]:
    """Every request gets the configuration of its class, then that of the claim which concerns it."""
    for part in served:
        names = {part.name, part.name.partition("/")[0]}
        device_class = snapshot.classes.get(part.asked.device_class_name)
        of_class = (device_class.spec.config if device_class else None) or ()
        wanted = [("FromClass", config.opaque) for config in of_class]
        wanted += [
            ("FromClaim", config.opaque)
            for config in given.spec.devices.config or ()
            if not config.requests or names & set(config.requests)
        ]
        got = [
            (config.source, config.opaque)
            for config in given.allocation.devices.config or ()
            if not config.requests or names & set(config.requests)
        ]
        if got != wanted:
            yield f"claim {given.claim}: request {part.name} gets another configuration than it asks for"
