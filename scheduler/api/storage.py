"""Storage kinds: the fields we read of claims, volumes, classes, and of what CSI drivers and nodes say about them.

Source: core/v1 PersistentVolumeClaim and PersistentVolume; storage.k8s.io/v1 StorageClass, CSINode, CSIDriver and
CSIStorageCapacity."""

from collections.abc import Mapping

from scheduler.api.core import NodeSelector, Quantity
from scheduler.api.meta import LabelSelector, ObjectMeta, Wire

BIND_COMPLETED_ANNOTATION = "pv.kubernetes.io/bind-completed"
"""On a claim: the binding to the volume it names has gone through."""

BOUND_BY_CONTROLLER_ANNOTATION = "pv.kubernetes.io/bound-by-controller"
"""On a claim or a volume: not the user has named its counterpart, and the binding may be undone."""

SELECTED_NODE_ANNOTATION = "volume.kubernetes.io/selected-node"
"""On a claim that waits for its first consumer: provision a volume that this node can reach."""

BETA_CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"
DEFAULT_CLASS_ANNOTATION = "storageclass.kubernetes.io/is-default-class"

NO_PROVISIONER = "kubernetes.io/no-provisioner"
"""Volumes of such a class are made by hand."""

WAIT_FOR_FIRST_CONSUMER = "WaitForFirstConsumer"
READ_WRITE_ONCE = "ReadWriteOnce"
READ_WRITE_ONCE_POD = "ReadWriteOncePod"


class VolumeResources(Wire, frozen=True, kw_only=True):
    requests: Mapping[str, Quantity] | None = None


class PersistentVolumeClaimSpec(Wire, frozen=True, kw_only=True):
    """`storage_class_name` "": no class, and only volumes without one; absent: the default class was not there when the
    claim was made."""

    access_modes: tuple[str, ...] | None = None
    resources: VolumeResources | None = None
    volume_name: str = ""
    storage_class_name: str | None = None
    volume_mode: str | None = None
    selector: LabelSelector | None = None
    volume_attributes_class_name: str | None = None


class PersistentVolumeClaimStatus(Wire, frozen=True, kw_only=True):
    """`phase`: Pending, Bound or Lost."""

    phase: str = "Pending"


class PersistentVolumeClaim(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: PersistentVolumeClaimSpec = PersistentVolumeClaimSpec()
    status: PersistentVolumeClaimStatus = PersistentVolumeClaimStatus()


class ObjectReference(Wire, frozen=True, kw_only=True):
    namespace: str = ""
    name: str = ""
    uid: str = ""


class CSIVolumeSource(Wire, frozen=True, kw_only=True):
    """Of a volume: which driver attaches what."""

    driver: str = ""
    volume_handle: str = ""


class VolumeNodeAffinity(Wire, frozen=True, kw_only=True):
    required: NodeSelector | None = None


class PersistentVolumeSpec(Wire, frozen=True, kw_only=True):
    capacity: Mapping[str, Quantity] | None = None
    access_modes: tuple[str, ...] | None = None
    claim_ref: ObjectReference | None = None
    storage_class_name: str = ""
    volume_mode: str | None = None
    node_affinity: VolumeNodeAffinity | None = None
    csi: CSIVolumeSource | None = None
    volume_attributes_class_name: str | None = None


class PersistentVolumeStatus(Wire, frozen=True, kw_only=True):
    """`phase`: Pending, Available, Bound, Released or Failed; absent in manifests, where nobody has taken it yet."""

    phase: str = "Available"


class PersistentVolume(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: PersistentVolumeSpec = PersistentVolumeSpec()
    status: PersistentVolumeStatus = PersistentVolumeStatus()


class TopologySelectorLabelRequirement(Wire, frozen=True, kw_only=True):
    key: str
    values: tuple[str, ...] = ()


class TopologySelectorTerm(Wire, frozen=True, kw_only=True):
    match_label_expressions: tuple[TopologySelectorLabelRequirement, ...] | None = None


class StorageClass(Wire, frozen=True, kw_only=True):
    """`allowed_topologies`: terms are ORed, none means everywhere."""

    metadata: ObjectMeta
    provisioner: str = ""
    volume_binding_mode: str | None = None
    allowed_topologies: tuple[TopologySelectorTerm, ...] | None = None


class VolumeNodeResources(Wire, frozen=True, kw_only=True):
    count: int | None = None


class CSINodeDriver(Wire, frozen=True, kw_only=True):
    """`allocatable.count`: the most volumes of the driver that can be attached there; absent: no limit."""

    name: str
    allocatable: VolumeNodeResources | None = None


class CSINodeSpec(Wire, frozen=True, kw_only=True):
    drivers: tuple[CSINodeDriver, ...] | None = None


class CSINode(Wire, frozen=True, kw_only=True):
    """Bears its node's name."""

    metadata: ObjectMeta
    spec: CSINodeSpec = CSINodeSpec()


class CSIDriverSpec(Wire, frozen=True, kw_only=True):
    storage_capacity: bool | None = None


class CSIDriver(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: CSIDriverSpec = CSIDriverSpec()


class CSIStorageCapacity(Wire, frozen=True, kw_only=True):
    """How much a driver has left for volumes of a class, on the nodes of a selector; without one on none."""

    metadata: ObjectMeta
    storage_class_name: str = ""
    node_topology: LabelSelector | None = None
    capacity: Quantity | None = None
    maximum_volume_size: Quantity | None = None
