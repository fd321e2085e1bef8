"""What an example's header says should happen, read and checked against a cluster.

A header is the run of comment lines at the top of an example. After a line `# Expect:` its comment lines are YAML:

    running: 8                                            pods running in the namespace
    devices: 16                                           different devices allocated to claims of the namespace
    attribute: {gpu.nvidia.com/productName: NVIDIA ...}   every device has this value
    attributeValues: {gpu.nvidia.com/profile: [...]}      the devices' values, sorted
    same: {attribute: ..., within: claim|namespace}       one value among the devices of each claim, or of all
    queue: {name: ..., allocated: {gpu: 16}}              the Queue's status.allocated
    waiting: {namespace/gang: Code}                       the gang's PodGroup names this reason
    restart: pod                                          deleted once running, the pod runs again with its claim
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scheduler.api import kinds
from scheduler.api.kinds import Kind
from scheduler.kube.client import Client
from scheduler.kube.errors import ApiError

_KEYS = {
    "namespace",
    "running",
    "devices",
    "attribute",
    "attributeValues",
    "same",
    "queue",
    "waiting",
    "restart",
}
Documents = Sequence[Mapping[str, Any]]
Devices = Mapping[tuple[str, str, str], Mapping[str, Any]]


class ExampleError(Exception):
    """An example whose header cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One file of deploy/examples. `title`: its first comment line."""

    name: str
    title: str
    documents: tuple[dict[str, Any], ...]
    expect: Mapping[str, Any]

    @property
    def namespace(self) -> str:
        return str(self.expect.get("namespace", ""))


def read(path: Path) -> Example:
    """Read an example and its header. Raises ExampleError naming the file and the key."""
    text = path.read_text()
    comments: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comments.append(line.removeprefix("#").removeprefix(" "))
    if "Expect:" not in comments:
        raise ExampleError(f"{path.name}: no line '# Expect:' in the header; say what should happen")
    expect = yaml.safe_load("\n".join(comments[comments.index("Expect:") + 1 :]))
    unknown = sorted(set(expect) - _KEYS)
    if unknown:
        raise ExampleError(f"{path.name}: unknown expectation {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    documents = tuple(document for document in yaml.safe_load_all(text) if document)
    return Example(name=path.stem, title=comments[0], documents=documents, expect=expect)


def read_all(folder: Path) -> tuple[Example, ...]:
    """All examples of a folder, by file name."""
    return tuple(read(path) for path in sorted(folder.glob("*.yaml")))


async def unmet(example: Example, client: Client) -> tuple[str, ...]:
    """What of the example's header does not hold yet, a sentence each; empty when all of it does."""
    expect, namespace = example.expect, example.namespace
    if not namespace:
        return ()
    pods, _ = await client.list(kinds.POD, namespace)
    claims, _ = await client.list(kinds.RESOURCE_CLAIM, namespace)
    slices, _ = await client.list(kinds.RESOURCE_SLICE)
    devices = _published(slices)
    problems = [*_running(expect, pods), *_devices(expect, claims, devices)]
    if "queue" in expect:
        problems += _queue(expect["queue"], await found(client, kinds.QUEUE, None, expect["queue"]["name"]))
    for gang, code in sorted(expect.get("waiting", {}).items()):
        gang_namespace, _, name = gang.partition("/")
        problems += _waiting(gang, code, await found(client, kinds.POD_GROUP, gang_namespace, name))
    return tuple(problems)


async def found(client: Client, kind: Kind, namespace: str | None, name: str) -> Mapping[str, Any] | None:
    """The object; None if it is not there, not yet or no more. Raises ApiError for every other refusal."""
    try:
        return await client.get(kind, namespace, name)
    except ApiError as problem:
        if problem.not_found:
            return None
        raise


def _running(expect: Mapping[str, Any], pods: Documents) -> list[str]:
    running = sum(1 for pod in pods if pod.get("status", {}).get("phase") == "Running")
    wanted = expect.get("running", 0)
    return [] if running == wanted else [f"{running} pods run, {wanted} should"]


def _devices(expect: Mapping[str, Any], claims: Documents, devices: Devices) -> list[str]:
    held = {claim["metadata"]["name"]: _allocated(claim) for claim in claims}
    every = sorted({device for given in held.values() for device in given})
    problems = []
    if "devices" in expect and len(every) != expect["devices"]:
        problems.append(f"{len(every)} devices are allocated, {expect['devices']} should be")
    lost = [device for device in every if device not in devices]
    if lost:
        return [*problems, f"device {'/'.join(lost[0])} is allocated but in no slice"]
    for name, value in sorted(expect.get("attribute", {}).items()):
        problems += [
            f"device {'/'.join(device)} has {name} {_value(devices[device], name)!r}, not {value!r}"
            for device in every
            if _value(devices[device], name) != value
        ]
    for name, values in sorted(expect.get("attributeValues", {}).items()):
        found = sorted(str(_value(devices[device], name)) for device in every)
        if found != sorted(values):
            problems.append(f"the devices' {name} are {found}, not {sorted(values)}")
    if "same" in expect:
        problems += _same(expect["same"], held, devices)
    return problems


def _same(same: Mapping[str, str], held: Mapping[str, list[tuple[str, str, str]]], devices: Devices) -> list[str]:
    name = same["attribute"]
    groups = dict(held)
    if same["within"] == "namespace":
        groups = {"all claims": [device for given in held.values() for device in given]}
    problems = []
    for group, given in sorted(groups.items()):
        values = sorted({str(_value(devices[device], name)) for device in given})
        if len(values) != 1 or values == ["None"]:
            problems.append(f"the devices of {group} have {name} {values}, not one value")
    return problems


def _queue(expect: Mapping[str, Any], queue: Mapping[str, Any] | None) -> list[str]:
    if queue is None:
        return [f"Queue {expect['name']} is not there"]
    allocated = queue.get("status", {}).get("allocated", {})
    return [
        f"Queue {expect['name']} has {allocated.get(resource, 0)} {resource} allocated, {amount} should be"
        for resource, amount in sorted(expect["allocated"].items())
        if str(allocated.get(resource, 0)) != str(amount)
    ]


def _waiting(gang: str, code: str, group: Mapping[str, Any] | None) -> list[str]:
    if group is None:
        return [f"PodGroup {gang} is not there"]
    conditions = group.get("status", {}).get("conditions", [])
    reasons = sorted(condition.get("reason", "") for condition in conditions if condition.get("status") == "False")
    return [] if code in reasons else [f"PodGroup {gang} gives the reasons {reasons}, {code} should be among them"]


def _published(slices: Documents) -> Devices:
    return {
        (spec["driver"], spec["pool"]["name"], device["name"]): device
        for spec in (document["spec"] for document in slices)
        for device in spec.get("devices", ())
    }


def _allocated(claim: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    allocation = claim.get("status", {}).get("allocation") or {}
    results = allocation.get("devices", {}).get("results", ())
    return [(result["driver"], result["pool"], result["device"]) for result in results]


def _value(device: Mapping[str, Any], name: str) -> Any:
    """The value of an attribute given by its full name; a bare name stands for the driver's own domain."""
    attributes = device.get("attributes", {})
    found = attributes.get(name, attributes.get(name.partition("/")[2], {}))
    return next(iter(found.values()), None)
