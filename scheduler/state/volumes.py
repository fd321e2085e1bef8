"""Storage objects -> the model's: claims, volumes, classes, capacities, limits.

Source: core/v1 and storage.k8s.io/v1; the volume plugins of kube-scheduler (VolumeBinding, VolumeZone,
NodeVolumeLimits) for what binds a volume to nodes.
"""

from collections.abc import Iterable, Mapping

from scheduler.api import core, storage
from scheduler.api.attributes import REGION_LABEL, ZONE_LABEL
from scheduler.api.core import NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from scheduler.api.meta import LabelSelector
from scheduler.api.quantity import QuantityError
from scheduler.model.reasons import Unreadable
from scheduler.model.volumes import Capacity, PodVolume, StorageClass, Volume, VolumeClaim, Where
from scheduler.state.fields import Bad, in_house_units

_NEWER = {
    "failure-domain.beta.kubernetes.io/zone": ZONE_LABEL,
    "failure-domain.beta.kubernetes.io/region": REGION_LABEL,
}
_PLACES = (*_NEWER, ZONE_LABEL, REGION_LABEL)
_SEVERAL = "__"
"""Between zones, in the label of a volume that several zones reach."""

_ELSEWHERE = "cannot reach a volume of the pod"
_OTHER_ZONE = "is not in the zone or region of a volume of the pod"


def pod_volumes(pod: core.Pod) -> tuple[PodVolume, ...]:
    """The claims that the pod's volumes come by, each once, in the pod's order."""
    found: dict[str, PodVolume] = {}
    for volume in pod.spec.volumes or ():
        if volume.persistent_volume_claim is not None:
            key = f"{pod.metadata.namespace}/{volume.persistent_volume_claim.claim_name}"
            found.setdefault(key, PodVolume(claim=key))
        elif volume.ephemeral is not None:
            key = f"{pod.metadata.namespace}/{pod.metadata.name}-{volume.name}"
            found.setdefault(key, PodVolume(claim=key, own=True))
    return tuple(found.values())


def claim(found: storage.PersistentVolumeClaim) -> VolumeClaim:
    """Raises Bad if its size cannot be read."""
    meta, spec = found.metadata, found.spec
    annotations = meta.annotations or {}
    asked = spec.resources.requests or {} if spec.resources else {}
    controller = meta.controller
    return VolumeClaim(
        key=meta.key,
        uid=meta.uid,
        volume=spec.volume_name,
        bound=bool(spec.volume_name) and storage.BIND_COMPLETED_ANNOTATION in annotations,
        lost=found.status.phase == "Lost",
        storage_class=annotations.get(storage.BETA_CLASS_ANNOTATION, spec.storage_class_name),
        size=_bytes(f"PersistentVolumeClaim/{meta.key}", "spec.resources.requests.storage", asked.get("storage", 0)),
        modes=tuple(sorted(spec.access_modes or ())),
        block=spec.volume_mode == "Block",
        selector=_requirements(spec.selector),
        attributes_class=spec.volume_attributes_class_name or "",
        selected_node=annotations.get(storage.SELECTED_NODE_ANNOTATION, ""),
        owner_uid=controller.uid if controller is not None else "",
        terminating=meta.deletion_timestamp is not None,
    )


def volume(found: storage.PersistentVolume) -> Volume:
    """Raises Bad if its size cannot be read."""
    meta, spec = found.metadata, found.spec
    reference = spec.claim_ref
    size = (spec.capacity or {}).get("storage", 0)
    return Volume(
        name=meta.name,
        uid=meta.uid,
        size=_bytes(f"PersistentVolume/{meta.name}", "spec.capacity.storage", size),
        modes=tuple(sorted(spec.access_modes or ())),
        block=spec.volume_mode == "Block",
        storage_class=(meta.annotations or {}).get(storage.BETA_CLASS_ANNOTATION, spec.storage_class_name),
        attributes_class=spec.volume_attributes_class_name or "",
        labels=meta.labels or {},
        where=tuple(_where(found)),
        claim=f"{reference.namespace}/{reference.name}" if reference else "",
        claim_uid=reference.uid if reference else "",
        available=found.status.phase == "Available" and meta.deletion_timestamp is None,
        driver=spec.csi.driver if spec.csi else "",
        handle=spec.csi.volume_handle if spec.csi else "",
    )


def storage_class(found: storage.StorageClass) -> StorageClass:
    terms = found.allowed_topologies or ()
    by_hand = found.provisioner in ("", storage.NO_PROVISIONER)
    return StorageClass(
        name=found.metadata.name,
        provisioner="" if by_hand else found.provisioner,
        waits=found.volume_binding_mode == storage.WAIT_FOR_FIRST_CONSUMER,
        allowed=NodeSelector(node_selector_terms=tuple(map(_topology, terms))) if terms else None,
    )


def capacity(found: storage.CSIStorageCapacity) -> Capacity | None:
    """None if it says of no node that there is room. Raises Bad if an amount cannot be read."""
    limit = found.capacity if found.maximum_volume_size is None else found.maximum_volume_size
    if limit is None or found.node_topology is None:
        return None
    name = f"CSIStorageCapacity/{found.metadata.key}"
    return Capacity(
        name=found.metadata.key,
        storage_class=found.storage_class_name,
        where=_selected(found.node_topology),
        largest=_bytes(name, "capacity", limit),
    )


def limits(found: storage.CSINode) -> Mapping[str, int]:
    """By driver, how many of its volumes may be attached to the node; drivers without a limit are left out."""
    return {
        driver.name: max(driver.allocatable.count, 0)
        for driver in found.spec.drivers or ()
        if driver.allocatable is not None and driver.allocatable.count is not None
    }


def _where(found: storage.PersistentVolume) -> Iterable[Where]:
    affinity = found.spec.node_affinity
    if affinity is not None and affinity.required is not None:
        yield Where(selector=affinity.required, cause=_ELSEWHERE)
    for key, value in sorted((found.metadata.labels or {}).items()):
        if key in _PLACES:
            values = tuple(sorted({part.strip() for part in value.split(_SEVERAL)}))
            yield Where(selector=_zone(key, values), cause=_OTHER_ZONE)


def _zone(key: str, values: tuple[str, ...]) -> NodeSelector:
    """The label of a volume in a zone: as the node's, by the older or the newer name. A node that says nothing of zones
    or regions is not held against it."""
    terms = [_term(_requirement(key, "In", values))]
    if key in _NEWER:
        terms.append(_term(_requirement(key, "DoesNotExist"), _requirement(_NEWER[key], "In", values)))
    terms.append(_term(*(_requirement(each, "DoesNotExist") for each in _PLACES)))
    return NodeSelector(node_selector_terms=tuple(terms))


def _topology(term: storage.TopologySelectorTerm) -> NodeSelectorTerm:
    """A term without requirements allows nothing, as in Kubernetes."""
    return _term(*(_requirement(each.key, "In", each.values) for each in term.match_label_expressions or ()))


def _selected(selector: LabelSelector) -> NodeSelector:
    """Nodes by their labels; an empty label selector selects all of them."""
    requirements = _requirements(selector) or (_requirement(_PLACES[0], "Exists"),)
    terms = [_term(*requirements)]
    if not _requirements(selector):
        terms.append(_term(_requirement(_PLACES[0], "DoesNotExist")))
    return NodeSelector(node_selector_terms=tuple(terms))


def _requirements(selector: LabelSelector | None) -> tuple[NodeSelectorRequirement, ...]:
    """All that labels have to hold, sorted, so that equal selectors are equal."""
    if selector is None:
        return ()
    found: list[tuple[str, str, tuple[str, ...]]]
    found = [(key, "In", (value,)) for key, value in (selector.match_labels or {}).items()]
    found += [(each.key, each.operator, tuple(sorted(each.values or ()))) for each in selector.match_expressions or ()]
    return tuple(_requirement(key, operator, values) for key, operator, values in sorted(set(found)))


def _requirement(key: str, operator: str, values: tuple[str, ...] = ()) -> NodeSelectorRequirement:
    return NodeSelectorRequirement(key=key, operator=operator, values=values)


def _term(*requirements: NodeSelectorRequirement) -> NodeSelectorTerm:
    return NodeSelectorTerm(match_expressions=requirements)


def _bytes(name: str, field: str, value: core.Quantity) -> int:
    try:
        return max(in_house_units("storage", value), 0)
    except QuantityError as error:
        remedy = f"Write a quantity such as 100Gi in {field}."
        raise Bad(Unreadable(object=name, field=field, problem=str(error), remedy=remedy)) from None
