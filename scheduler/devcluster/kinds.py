"""The resources this API server has: names, scope, subresources; and the registry that custom resources join."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from scheduler.devcluster.schema import Schema

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrinterColumn:
    """A column of `kubectl get` that a custom resource asks for. `path` is the JSONPath of the definition."""

    name: str
    type: str
    path: str
    format: str = ""
    description: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A resource as discovery describes it.

    `key` names the table the objects lie in; two kinds with one key are two views of the same objects (versions of a
    custom resource, or Event in its two groups).
    """

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    columns: tuple[PrinterColumn, ...] = ()
    list_kind: str = ""
    key: str = ""
    custom: bool = False
    stored_version: str = ""
    schema: Schema | None = field(default=None, compare=False, repr=False)
    scale_paths: tuple[str, str, str] = (".spec.replicas", ".status.replicas", ".status.selector")

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", self.qualified)
        if not self.list_kind:
            object.__setattr__(self, "list_kind", self.kind + "List")
        if not self.stored_version:
            object.__setattr__(self, "stored_version", self.version)

    @property
    def api_version(self) -> str:
        """The apiVersion of objects of this kind."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The resource with its group, as error messages name it: `deployments.apps`, `pods`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def has_status(self) -> bool:
        """True where status is written through its own subresource only."""
        return "status" in self.subresources


def _kind(api_version: str, kind: str, plural: str, short: str = "", *, cluster: bool = False, **more: Any) -> Kind:
    group, _, version = api_version.rpartition("/")
    names = tuple(short.split())
    return Kind(
        group=group,
        version=version,
        kind=kind,
        plural=plural,
        singular=kind.lower(),
        namespaced=not cluster,
        short_names=names,
        **more,
    )


_ALL: dict[str, Any] = {"categories": ("all",)}
_STATUS: dict[str, Any] = {"subresources": ("status",)}
_SCALED: dict[str, Any] = {"categories": ("all",), "subresources": ("status", "scale")}

POD = _kind("v1", "Pod", "pods", "po", subresources=("status", "binding", "eviction", "log"), **_ALL)
NODE = _kind("v1", "Node", "nodes", "no", cluster=True, **_STATUS)
NAMESPACE = _kind("v1", "Namespace", "namespaces", "ns", cluster=True, subresources=("status", "finalize"))
EVENT = _kind("v1", "Event", "events", "ev")
CONFIG_MAP = _kind("v1", "ConfigMap", "configmaps", "cm")
SECRET = _kind("v1", "Secret", "secrets")
SERVICE_ACCOUNT = _kind("v1", "ServiceAccount", "serviceaccounts", "sa")
SERVICE = _kind("v1", "Service", "services", "svc", subresources=("status",), **_ALL)
VOLUME = _kind("v1", "PersistentVolume", "persistentvolumes", "pv", cluster=True, **_STATUS)
VOLUME_CLAIM = _kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", **_STATUS)
NEW_EVENT = _kind("events.k8s.io/v1", "Event", "events", "ev", key=EVENT.key)
DEPLOYMENT = _kind("apps/v1", "Deployment", "deployments", "deploy", **_SCALED)
REPLICA_SET = _kind("apps/v1", "ReplicaSet", "replicasets", "rs", **_SCALED)
STATEFUL_SET = _kind("apps/v1", "StatefulSet", "statefulsets", "sts", **_SCALED)
DAEMON_SET = _kind("apps/v1", "DaemonSet", "daemonsets", "ds", subresources=("status",), **_ALL)
JOB = _kind("batch/v1", "Job", "jobs", subresources=("status",), **_ALL)
DISRUPTION_BUDGET = _kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", **_STATUS)
PRIORITY_CLASS = _kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", "pc", cluster=True)
STORAGE_CLASS = _kind("storage.k8s.io/v1", "StorageClass", "storageclasses", "sc", cluster=True)
CSI_NODE = _kind("storage.k8s.io/v1", "CSINode", "csinodes", cluster=True)
CSI_DRIVER = _kind("storage.k8s.io/v1", "CSIDriver", "csidrivers", cluster=True)
STORAGE_CAPACITY = _kind("storage.k8s.io/v1", "CSIStorageCapacity", "csistoragecapacities")
LEASE = _kind("coordination.k8s.io/v1", "Lease", "leases")
SLICE = _kind("resource.k8s.io/v1", "ResourceSlice", "resourceslices", cluster=True)
CLAIM = _kind("resource.k8s.io/v1", "ResourceClaim", "resourceclaims", **_STATUS)
CLAIM_TEMPLATE = _kind("resource.k8s.io/v1", "ResourceClaimTemplate", "resourceclaimtemplates")
DEVICE_CLASS = _kind("resource.k8s.io/v1", "DeviceClass", "deviceclasses", cluster=True)
# As 1.36 serves it where DRADeviceTaintRules is on. Nothing here evicts for NoExecute.
TAINT_RULE = _kind("resource.k8s.io/v1beta2", "DeviceTaintRule", "devicetaintrules", cluster=True, **_STATUS)
CUSTOM_RESOURCE = _kind(
    "apiextensions.k8s.io/v1",
    "CustomResourceDefinition",
    "customresourcedefinitions",
    "crd crds",
    cluster=True,
    categories=("api-extensions",),
    subresources=("status",),
)
ROLE = _kind("rbac.authorization.k8s.io/v1", "Role", "roles")
ROLE_BINDING = _kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings")
CLUSTER_ROLE = _kind("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", cluster=True)
CLUSTER_ROLE_BINDING = _kind("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", cluster=True)
ADMISSION_POLICY = _kind(
    "admissionregistration.k8s.io/v1",
    "ValidatingAdmissionPolicy",
    "validatingadmissionpolicies",
    cluster=True,
    categories=("api-extensions",),
    subresources=("status",),
)
ADMISSION_BINDING = _kind(
    "admissionregistration.k8s.io/v1",
    "ValidatingAdmissionPolicyBinding",
    "validatingadmissionpolicybindings",
    cluster=True,
    categories=("api-extensions",),
)

BUILT_IN: tuple[Kind, ...] = (
    CONFIG_MAP,
    EVENT,
    NAMESPACE,
    NODE,
    VOLUME_CLAIM,
    VOLUME,
    POD,
    SECRET,
    SERVICE_ACCOUNT,
    SERVICE,
    DAEMON_SET,
    DEPLOYMENT,
    REPLICA_SET,
    STATEFUL_SET,
    NEW_EVENT,
    JOB,
    DISRUPTION_BUDGET,
    CLUSTER_ROLE_BINDING,
    CLUSTER_ROLE,
    ROLE_BINDING,
    ROLE,
    ADMISSION_POLICY,
    ADMISSION_BINDING,
    CUSTOM_RESOURCE,
    PRIORITY_CLASS,
    STORAGE_CLASS,
    CSI_NODE,
    CSI_DRIVER,
    STORAGE_CAPACITY,
    LEASE,
    DEVICE_CLASS,
    CLAIM,
    CLAIM_TEMPLATE,
    SLICE,
    TAINT_RULE,
)


class Registry:
    """Every kind that is served now: the built-in ones and those that CustomResourceDefinitions brought."""

    def __init__(self, kinds: Iterable[Kind] = BUILT_IN) -> None:
        self._by_resource: dict[tuple[str, str, str], Kind] = {}
        self._by_kind: dict[tuple[str, str], Kind] = {}
        for kind in kinds:
            self.add(kind)

    def add(self, kind: Kind) -> None:
        """Serve a kind; one with the same group, version and plural is replaced."""
        self._by_resource[kind.group, kind.version, kind.plural] = kind
        self._by_kind[kind.api_version, kind.kind] = kind

    def remove(self, kind: Kind) -> None:
        """Serve it no longer."""
        self._by_resource.pop((kind.group, kind.version, kind.plural), None)
        self._by_kind.pop((kind.api_version, kind.kind), None)

    def resource(self, group: str, version: str, plural: str) -> Kind | None:
        """The kind served under this path, if any."""
        return self._by_resource.get((group, version, plural))

    def named(self, api_version: str, kind: str) -> Kind | None:
        """The kind an object's apiVersion and kind mean, if served."""
        return self._by_kind.get((api_version, kind))

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._by_resource.values())

    def tables(self) -> tuple[Kind, ...]:
        """One kind for every table, the first that was added."""
        firsts: dict[str, Kind] = {}
        for kind in self:
            firsts.setdefault(kind.key, kind)
        return tuple(firsts.values())


def at_version(kind: Kind, version: str) -> Kind:
    """The same resource in another of its versions."""
    return replace(kind, version=version)
