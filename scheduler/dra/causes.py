"""Why a node cannot serve claims, in words that complete "the node ...": the first thing that is lacking."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from queues.words import counted
from scheduler.api.attributes import OUTSIDE_FENCE
from scheduler.dra import requests
from scheduler.dra.counters import InUse
from scheduler.dra.items import Token
from scheduler.dra.options import Choice, Options
from scheduler.dra.pools import Inventory
from scheduler.dra.requests import Candidates, Constraint, Problem, Want
from scheduler.dra.room import Room
from scheduler.model.nodes import Node
from scheduler.model.workloads import Claim


def cause(options: Options) -> str:
    """What is lacking: for one request by itself, then under one constraint, then for all requests together."""
    for claim, question in enumerate(options.questions):
        for wants in question.requests:
            lacking = [_alone(options, claim, want) for want in wants]
            if all(lacking):
                return f"{lacking[0]}{_left_out(options)}"
    return _under_constraint(options) or _together(options)


def others(options: Options, claim: int, request: str) -> str:
    """What the other alternatives of a request lack by themselves, to be said after what is wrong with this one; "" if
    nothing. They may only be busy."""
    for wants in options.questions[claim].requests:
        if any(want.request == request for want in wants):
            lacking = {want.request: _alone(options, claim, want) for want in wants if want.request != request}
            return "".join(f"; for {name} the node {lacks}" for name, lacks in lacking.items() if lacks)
    return ""


def _left_out(options: Options) -> str:
    """What is published and does not count, where something is lacking. No pool is named: nodes that are alike are told
    the same."""
    view = options.room.view
    drivers = ", ".join(dict.fromkeys(pool.partition("/")[0] for pool in view.incomplete))
    unfinished = f" (what driver {drivers} publishes there is incomplete, and does not count)" if drivers else ""
    fields = ", ".join(view.beyond)
    newer = f" (devices with {fields} do not count: this scheduler does not know that form)" if fields else ""
    return unfinished + newer


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeDevices:
    """How many devices of the class one claim asks for, and how many of those it could take are free on a node."""

    device_class: str
    asked: int
    free: int


def free_devices(claim: Claim, node: Node, inventory: Inventory, in_use: InUse) -> FreeDevices | None:
    """For a claim with one request for a number of devices that can be counted: nodes have their own, and one of them
    takes nothing from another. None for all others."""
    asked = requests.question(claim, inventory)
    if isinstance(asked, Problem) or len(asked.requests) != 1 or len(asked.requests[0]) != 1:
        return None
    want, view = asked.requests[0][0], inventory.on(node)
    if want.every:
        return None
    _, free = Options(Room(view, in_use, 0), [asked], inventory.features).available(0, want)
    devices = [view.devices[number] for number in free]
    boards = [counters for device in devices for counters, _ in device.consumes]
    apart = len(boards) == len(set(boards)) and not any(device.shareable for device in devices)
    if not apart or any((device.id.driver, device.id.pool) not in view.local for device in devices):
        return None
    return FreeDevices(device_class=want.device_class, asked=want.count, free=len(devices))


def _alone(options: Options, claim: int, want: Want) -> str:
    """What one alternative lacks by itself, "" if nothing."""
    found, free = options.available(claim, want)
    what = _devices(want)
    if not found.selected:
        if found.short:
            return f"has no {what} with the capacity that request {want.main} asks for"
        return f"has no {what} that request {want.main} selects"
    if want.every:
        return _every(options, want, found, free)
    if len(free) >= want.count:
        return ""
    if len(found.selected) < want.count:
        only = _count(len(found.selected), want)
        return f"has only {only} that request {want.main} selects, and it asks for {want.count}"
    if len(found.usable) < want.count:
        return _tainted(options, want, found)
    comparable = sum(1 for n in found.usable if _has_attributes(options, claim, want, n))
    if comparable < want.count:
        names = ", ".join(dict.fromkeys(c.attribute for c in options.questions[claim].constraints if c.covers(want)))
        some = _count(comparable, want)
        return f"has {some} with the attribute {names}, and request {want.main} asks for {want.count}"
    return f"has {_count(len(free), want, 'free device')}, and request {want.main} asks for {want.count}"


def _every(options: Options, want: Want, found: Candidates, free: tuple[int, ...]) -> str:
    if len(found.usable) < len(found.selected):
        return _tainted(options, want, found)
    if len(free) < len(found.selected):
        some = _count(len(free), want, "free device")
        return f"has {some}, and request {want.main} asks for all {len(found.selected)}"
    return ""


def _under_constraint(options: Options) -> str:
    """The first constraint that no value, or too few values, can meet; looked at for the first alternatives."""
    if any(not request.choices for request in options.requests):
        return ""
    chosen = [request.choices[0] for request in options.requests]
    for claim, question in enumerate(options.questions):
        for constraint in question.constraints:
            covered = [c for c in chosen if c.item.claim == claim and constraint.covers(c.want)]
            wanted = sum(c.item.need for c in covered)
            best = _best(options, constraint, covered, chosen)
            if wanted > 1 and best < wanted:
                how = "that differ in" if constraint.distinct else "in one"
                classes = " or ".join(dict.fromkeys(c.want.device_class for c in covered))
                some = f"{counted(best, 'free device')} of class {classes} {how} {constraint.attribute}"
                return f"has {some}, and {wanted} are asked for"
    return ""


def _best(options: Options, constraint: Constraint, covered: Sequence[Choice], chosen: Sequence[Choice]) -> int:
    """How many of the devices that are wanted one value can give, or how many different values there are."""
    for group in options.groups(chosen):
        tokens = group.tokens
        if group.distinct != constraint.distinct or {id(chosen[p]) for p in group.items} != set(map(id, covered)):
            continue
        if group.distinct:
            return len({token for c in covered for n in c.item.candidates for token in tokens[n]})
        counts: Counter[Token] = Counter()
        for c in covered:
            here = Counter(token for n in c.item.candidates for token in tokens[n])
            counts.update({token: min(count, c.item.need) for token, count in here.items()})
        there = Counter(token for n in {n for c in covered for n in c.item.candidates} for token in tokens[n])
        return max((min(count, there[token]) for token, count in counts.items()), default=0)
    return sum(c.item.need for c in covered)


def _together(options: Options) -> str:
    names = [request.name for request in options.requests]
    if len(names) == 1:
        want = options.questions[options.requests[0].claim].requests[0][0]
        return f"has too little left for {_count(want.count, want)} at once"
    if len(options.questions) == 1:
        return f"cannot serve requests {', '.join(names)} at once"
    return f"cannot serve all {len(options.questions)} claims at once"


def _has_attributes(options: Options, claim: int, want: Want, number: int) -> bool:
    attributes = options.room.view.devices[number].attributes
    return all(c.attribute in attributes for c in options.questions[claim].constraints if c.covers(want))


def _devices(want: Want) -> str:
    return f"device of class {want.device_class}"


def _tainted(options: Options, want: Want, found: Candidates) -> str:
    taints, devices = options.room.view.taints, options.room.view.devices
    if any(devices[n].id in want.avoids for n in found.selected):
        return f"has devices of class {want.device_class} that did not become ready for the claim before"
    if all(any(taint.key == OUTSIDE_FENCE for taint in taints[n]) for n in found.selected if n not in found.usable):
        return f"has devices of class {want.device_class} outside the fence, which are for other schedulers"
    return f"has taints on devices of class {want.device_class} that request {want.main} does not tolerate"


def _count(count: int, want: Want, noun: str = "device") -> str:
    return f"{counted(count, noun)} of class {want.device_class}"
