"""Pods: what one asks of a node, and the model's Pod made of the API's.

Source of the request rule: KEP 753 (sidecars), KEP 2837 (pod-level resources), KEP 1287 (resize in place) and the
resource helpers of kubernetes/component-helpers.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from operator import attrgetter

from queues.resources import Resources
from scheduler.api import core
from scheduler.api.attributes import MIG_RESOURCE
from scheduler.api.quantity import QuantityError
from scheduler.model.reasons import Unreadable
from scheduler.model.workloads import ContainerAsk, HostPort, Pod, PodClaim
from scheduler.state.company import company
from scheduler.state.fields import Bad, in_house_units, time_ms
from scheduler.state.volumes import pod_volumes

Amounts = dict[str, int]

_NATIVE = frozenset({"cpu", "memory", "ephemeral-storage", "storage", "pods"})
_POD_LEVEL = frozenset({"cpu", "memory"})

_GRACE_SECONDS = 30
"""Kubernetes' default for terminationGracePeriodSeconds."""


def translate(
    pod: core.Pod,
    *,
    ours: bool,
    priority: int,
    task_priority: int,
    sub_group: str,
    avoids: Iterable[tuple[str, str, str]] = (),
) -> Pod:
    """The model's pod. Raises Bad naming the field if an amount cannot be read."""
    spec, status, meta = pod.spec, pod.status, pod.metadata
    node = spec.node_name
    slices = _mig_annotation(pod)
    if slices and ours and not node:
        raise Bad(mig_by_annotation(meta.key, slices))
    if not node and not ours and status.nominated_node_name:
        # Another scheduler has made room for it there: that room is not ours.
        node = status.nominated_node_name
    affinity = spec.affinity.node_affinity if spec.affinity else None
    extended = status.extended_resource_claim_status
    grace = spec.termination_grace_period_seconds
    return Pod(
        key=meta.key,
        uid=meta.uid,
        requests=_alike(tuple(requests(pod).amounts.items())),
        node=node,
        labels=meta.labels or {},
        node_selector=spec.node_selector or {},
        required_affinity=affinity.required_during_scheduling_ignored_during_execution if affinity else None,
        preferred_affinity=(affinity.preferred_during_scheduling_ignored_during_execution or ()) if affinity else (),
        tolerations=spec.tolerations or (),
        company=company(pod),
        host_ports=host_ports(spec),
        claims=claims(pod),
        volumes=pod_volumes(pod),
        extended=container_asks(pod),
        extended_claim=f"{meta.namespace}/{extended.resource_claim_name}" if extended else "",
        avoids=tuple(sorted(avoids)) if not node else (),
        nominated=status.nominated_node_name if ours and not node else "",
        sub_group=sub_group,
        priority=priority,
        task_priority=task_priority,
        created_ms=time_ms(meta.creation_timestamp),
        started_ms=time_ms(status.start_time) if status.start_time else None,
        bound_ms=_bound_ms(status) if node else None,
        gated=bool(spec.scheduling_gates) and not spec.node_name,
        terminating=meta.deletion_timestamp is not None,
        ends_ms=_ends_ms(meta.deletion_timestamp),
        ending_ms=1000 * (_GRACE_SECONDS if grace is None else grace if grace >= 0 else 1),
        evicted=is_evicted(pod),
        ready=is_ready(status),
        phase=status.phase,
        mig_by_annotation=bool(slices),
        ours=ours,
    )


def mig_by_annotation(pod: str, annotation: str) -> Unreadable:
    """Why a pod (key) that asks for MIG slices by annotation, as KAI once read it, is not placed."""
    return Unreadable(
        object=f"Pod/{pod}",
        field=f"metadata.annotations.{annotation}",
        problem="MIG slices are no longer given by annotation",
        remedy=f"Ask for {annotation} in resources.limits of a container.",
    )


def _mig_annotation(pod: core.Pod) -> str:
    """The annotation by which the pod asks for MIG slices, "" if by none."""
    return min((name for name in pod.metadata.annotations or () if name.startswith(MIG_RESOURCE)), default="")


def _ends_ms(deletion: str | None) -> int | None:
    """None also for an eviction of ours that the watch has not told yet."""
    return time_ms(deletion) or None if deletion else None


def _bound_ms(status: core.PodStatus) -> int | None:
    """The API server notes it when the pod is bound."""
    times = (e.last_transition_time for e in status.conditions or () if e.type == "PodScheduled" and e.status == "True")
    return next((time_ms(time) for time in times if time), None)


def is_ready(status: core.PodStatus) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in status.conditions or ())


def is_evicted(pod: core.Pod) -> bool:
    """The API server notes it on the pod before it deletes it. An eviction of ours that the watch has not told yet has
    no time of deletion."""
    if pod.metadata.deletion_timestamp is None:
        return False
    noted = any(each.type == "DisruptionTarget" and each.status == "True" for each in pod.status.conditions or ())
    return noted or not time_ms(pod.metadata.deletion_timestamp)


def unreadable(pod: core.Pod, *, ours: bool, priority: int, sub_group: str) -> Pod:
    """The pod as far as it can be known although an amount of it cannot be read: it counts, and is never placed."""
    meta = pod.metadata
    return Pod(
        key=meta.key,
        uid=meta.uid,
        requests=Resources({"pods": 1}),
        node=pod.spec.node_name,
        labels=meta.labels or {},
        claims=claims(pod),
        volumes=pod_volumes(pod),
        sub_group=sub_group,
        priority=priority,
        created_ms=time_ms(meta.creation_timestamp),
        gated=bool(pod.spec.scheduling_gates) and not pod.spec.node_name,
        terminating=meta.deletion_timestamp is not None,
        evicted=is_evicted(pod),
        ready=is_ready(pod.status),
        phase=pod.status.phase,
        ours=ours,
    )


def requests(pod: core.Pod) -> Resources:
    """What the pod takes of its node. Raises Bad.

    The larger of all containers with all sidecars, and of any init container with the sidecars started before it;
    pod-level requests in place of that sum; then the overhead."""
    spec = pod.spec
    resized = _resized(pod)
    total: Amounts = {}
    for container in spec.containers or ():
        _add(total, _with_resize(pod, container, resized) if resized else container_amounts(pod, container))
    peak: Amounts = {}
    sidecars: Amounts = {}
    for container in spec.init_containers or ():
        own = _with_resize(pod, container, resized)
        if container.restart_policy == "Always":
            _add(total, own)
            _add(sidecars, own)
            own = sidecars
        else:
            own = dict(own)
            _add(own, sidecars)
        _raise(peak, own)
    _raise(total, peak)
    total.update(_pod_level(pod, total))
    if spec.overhead:
        _add(total, _amounts(pod, "spec.overhead", spec.overhead))
    total["pods"] = 1
    return Resources(total)


@lru_cache(maxsize=16_384)
def _alike(amounts: tuple[tuple[str, int], ...]) -> Resources:
    """Most pods ask for the same as many others: they share one vector, and what is computed of it."""
    return Resources(dict(amounts))


def resize_is_infeasible(status: core.PodStatus) -> bool:
    """The kubelet has said that the size asked for will never fit (KEP 1287)."""
    return any(
        condition.type == "PodResizePending" and condition.status == "True" and condition.reason == "Infeasible"
        for condition in status.conditions or ()
    )


def host_ports(spec: core.PodSpec) -> tuple[HostPort, ...]:
    """Ports that containers and sidecars take on the node itself, sorted."""
    sidecars = (each for each in spec.init_containers or () if each.restart_policy == "Always")
    if not any(container.ports for container in (*(spec.containers or ()), *(spec.init_containers or ()))):
        return ()
    found = {
        (port.host_ip or "", port.protocol, number)
        for container in (*(spec.containers or ()), *sidecars)
        for port in container.ports or ()
        if (number := port.host_port or (port.container_port if spec.host_network else 0))
    }
    return tuple(HostPort(address=address, protocol=protocol, port=port) for address, protocol, port in sorted(found))


def claims(pod: core.Pod) -> tuple[PodClaim, ...]:
    """The pod's entries of spec.resourceClaims, with the names that the claims made from templates have."""
    made = {each.name: each.resource_claim_name for each in pod.status.resource_claim_statuses or ()}
    namespace = pod.metadata.namespace
    found = []
    for entry in pod.spec.resource_claims or ():
        if entry.resource_claim_name:
            found.append(PodClaim(name=entry.name, claim=f"{namespace}/{entry.resource_claim_name}"))
            continue
        name = made.get(entry.name)
        found.append(
            PodClaim(
                name=entry.name,
                claim=f"{namespace}/{name}" if name else None,
                from_template=True,
                needed=bool(name) or entry.name not in made,
            )
        )
    return tuple(found)


def container_asks(pod: core.Pod) -> tuple[ContainerAsk, ...]:
    """The containers that ask for extended resources (nvidia.com/gpu), init containers counted first."""
    inits = pod.spec.init_containers or ()
    found = []
    for index, container in enumerate((*inits, *(pod.spec.containers or ()))):
        if not _names_others(container):
            continue  # as nearly all do: the amounts are read for the requests of the pod anyway
        asked = {
            name: amount
            for name, amount in container_amounts(pod, container).items()
            if amount and name not in _NATIVE and not name.startswith("hugepages-")
        }
        if asked:
            found.append(
                ContainerAsk(
                    name=container.name,
                    index=index,
                    requests=asked,
                    init=index < len(inits),
                    sidecar=index < len(inits) and container.restart_policy == "Always",
                )
            )
    return tuple(found)


def _names_others(container: core.Container) -> bool:
    """Whether it names resources besides Kubernetes' own."""
    asked = container.resources
    if asked is None:
        return False
    return not (_NATIVE.issuperset(asked.limits or ()) and _NATIVE.issuperset(asked.requests or ()))


def _pod_level(pod: core.Pod, total: Amounts) -> Amounts:
    """What spec.resources says for the pod as a whole: its requests; its limits where no container asks for any."""
    level = pod.spec.resources
    if level is None:
        return {}
    asked = _amounts(pod, "spec.resources.requests", level.requests or {})
    for name, amount in _amounts(pod, "spec.resources.limits", level.limits or {}).items():
        if name not in asked and name not in total:
            asked[name] = amount
    asked = {name: amount for name, amount in asked.items() if name in _POD_LEVEL or name.startswith("hugepages-")}
    return _with_pod_resize(pod, asked)


def _with_pod_resize(pod: core.Pod, asked: Amounts) -> Amounts:
    """As for a container: the most of what is asked, given and in force.

    The kubelet says both of the last with the overhead in them, and it is added again: so does the kubelet, when it
    admits further pods, and kube-scheduler (1.36). A pod that fits only without it would be refused as OutOfcpu."""
    status = pod.status
    if status.resources is None:
        return asked
    known = _amounts(pod, "status.allocatedResources", status.allocated_resources or {})
    _raise(known, _amounts(pod, "status.resources.requests", status.resources.requests or {}))
    if not resize_is_infeasible(status):
        _raise(known, asked)
    return {name: known.get(name, amount) for name, amount in asked.items()}


def container_amounts(pod: core.Pod, container: core.Container) -> Amounts:
    """A container's requests; where it has none, its limits, as the API server fills them in."""
    if container.resources is None:
        return {}
    limits, asked = container.resources.limits, container.resources.requests
    amounts = _amounts(pod, "spec.containers[{}].resources.limits", limits, container.name) if limits else {}
    if asked:
        amounts.update(_amounts(pod, "spec.containers[{}].resources.requests", asked, container.name))
    return amounts


def _with_resize(pod: core.Pod, container: core.Container, resized: Mapping[str, core.ContainerStatus]) -> Amounts:
    """The most of what is asked, what the kubelet has given, and what is in force; an impossible ask does not count."""
    asked = container_amounts(pod, container)
    status = resized.get(container.name)
    if status is None:
        return asked
    known = _amounts(pod, "status.containerStatuses.allocatedResources", status.allocated_resources or {})
    in_force = status.resources.requests if status.resources else None
    _raise(known, _amounts(pod, "status.containerStatuses.resources.requests", in_force or {}))
    if known and resize_is_infeasible(pod.status):
        return known
    _raise(known, asked)
    return known


def _resized(pod: core.Pod) -> dict[str, core.ContainerStatus]:
    if not pod.status.container_statuses and not pod.status.init_container_statuses:
        return {}
    statuses = (*(pod.status.container_statuses or ()), *(pod.status.init_container_statuses or ()))
    return {each.name: each for each in statuses if each.resources is not None or each.allocated_resources is not None}


def _amounts(pod: core.Pod, where: str, quantities: Mapping[str, core.Quantity], container: str = "") -> Amounts:
    """The quantities of a field, "{}" in its name standing for the container. Raises Bad."""
    amounts: Amounts = {}
    for name, value in quantities.items():
        try:
            amounts[name] = in_house_units(name, value)
        except QuantityError as error:
            field = where.format(container)
            raise Bad(
                Unreadable(
                    object=f"Pod/{pod.metadata.key}",
                    field=f"{field}.{name}",
                    problem=str(error),
                    remedy=f"Correct {field}.{name} of the pod, or of the template it is made from.",
                )
            ) from None
        if amounts[name] < 0:
            field = where.format(container)
            raise Bad(
                Unreadable(
                    object=f"Pod/{pod.metadata.key}",
                    field=f"{field}.{name}",
                    problem=f"{value} is negative",
                    remedy=f"Write an amount of at least 0 in {field}.{name}.",
                )
            )
    return amounts


def _add(total: Amounts, part: Mapping[str, int]) -> None:
    for name, amount in part.items():
        total[name] = total.get(name, 0) + amount


def _raise(total: Amounts, floor: Mapping[str, int]) -> None:
    """Bring every amount up to that of `floor`."""
    for name, amount in floor.items():
        if total.get(name, 0) < amount:
            total[name] = amount


def by_creation(pods: Iterable[Pod]) -> tuple[Pod, ...]:
    """Oldest first, then by name."""
    return tuple(sorted(pods, key=attrgetter("created_ms", "key")))
