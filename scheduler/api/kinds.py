"""The kinds the scheduler watches and writes: where each is served, and the type it is decoded to."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from scheduler.api import core, crds, dra, numa, policy, storage
from scheduler.api.meta import ObjectMeta, Wire


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kind:
    """One served resource. `type` is what a document of it decodes to; `optional`: absence of the API is no error.
    `older`: versions of the same form, tried in turn where `version` is not served."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    type: type[Wire]
    optional: bool = False
    older: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        """URL prefix of the group and version: /api/v1 or /apis/<group>/<version>."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def url(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Path of the collection, of one object, or of its sub-resource."""
        parts = [self.path]
        if self.namespaced and namespace:
            parts.append(f"namespaces/{namespace}")
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


class Document(Wire, frozen=True, kw_only=True):
    """An object of a group whose spec is read later, in a dialect of its own (`scheduler.state.translate`)."""

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta
    spec: Mapping[str, object] = msgspec.field(default_factory=dict)
    status: Mapping[str, object] = msgspec.field(default_factory=dict)


def _core(plural: str, kind: str, type_: type[Wire], *, namespaced: bool) -> Kind:
    return Kind(group="", version="v1", plural=plural, kind=kind, namespaced=namespaced, type=type_)


def _dra(plural: str, kind: str, type_: type[Wire], *, namespaced: bool) -> Kind:
    group = "resource.k8s.io"
    return Kind(group=group, version="v1", plural=plural, kind=kind, namespaced=namespaced, type=type_)


def _storage(
    plural: str, kind: str, type_: type[Wire], *, group: str = "storage.k8s.io", namespaced: bool = False
) -> Kind:
    return Kind(group=group, version="v1", plural=plural, kind=kind, namespaced=namespaced, type=type_, optional=True)


def _document(
    group: str,
    version: str,
    plural: str,
    kind: str,
    *,
    namespaced: bool,
    optional: bool = True,
    older: tuple[str, ...] = (),
) -> Kind:
    return Kind(
        group=group,
        version=version,
        plural=plural,
        kind=kind,
        namespaced=namespaced,
        type=Document,
        optional=optional,
        older=older,
    )


POD = _core("pods", "Pod", core.Pod, namespaced=True)
NODE = _core("nodes", "Node", core.Node, namespaced=False)
NAMESPACE = _core("namespaces", "Namespace", core.Namespace, namespaced=False)
EVENT = _core("events", "Event", Document, namespaced=True)
PRIORITY_CLASS = Kind(
    group="scheduling.k8s.io",
    version="v1",
    plural="priorityclasses",
    kind="PriorityClass",
    namespaced=False,
    type=core.PriorityClass,
)
LEASE = Kind(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease", namespaced=True, type=core.Lease)
RESOURCE_SLICE = _dra("resourceslices", "ResourceSlice", dra.ResourceSlice, namespaced=False)
DEVICE_CLASS = _dra("deviceclasses", "DeviceClass", dra.DeviceClass, namespaced=False)
RESOURCE_CLAIM = _dra("resourceclaims", "ResourceClaim", dra.ResourceClaim, namespaced=True)
RESOURCE_CLAIM_TEMPLATE = _dra(
    "resourceclaimtemplates", "ResourceClaimTemplate", dra.ResourceClaimTemplate, namespaced=True
)
DEVICE_TAINT_RULE = Kind(
    group="resource.k8s.io",
    version="v1",
    plural="devicetaintrules",
    kind="DeviceTaintRule",
    namespaced=False,
    type=dra.DeviceTaintRule,
    optional=True,
    older=("v1beta2", "v1alpha3"),  # 1.36, and 1.34 and 1.35; behind a gate
)
NODE_TOPOLOGY = Kind(
    group="topology.node.k8s.io",
    version="v1alpha2",
    plural="noderesourcetopologies",
    kind="NodeResourceTopology",
    namespaced=False,
    type=numa.NodeResourceTopology,
    optional=True,
)

# What volumes ask of nodes. Without the right to read them, pods with claims wait.
VOLUME_CLAIM = _storage(
    "persistentvolumeclaims", "PersistentVolumeClaim", storage.PersistentVolumeClaim, group="", namespaced=True
)
VOLUME = _storage("persistentvolumes", "PersistentVolume", storage.PersistentVolume, group="")
STORAGE_CLASS = _storage("storageclasses", "StorageClass", storage.StorageClass)
CSI_NODE = _storage("csinodes", "CSINode", storage.CSINode)
CSI_DRIVER = _storage("csidrivers", "CSIDriver", storage.CSIDriver)
STORAGE_CAPACITY = _storage("csistoragecapacities", "CSIStorageCapacity", storage.CSIStorageCapacity, namespaced=True)

# What evictions must respect. Without the right to read them, the server's refusal alone tells.
DISRUPTION_BUDGET = Kind(
    group="policy",
    version="v1",
    plural="poddisruptionbudgets",
    kind="PodDisruptionBudget",
    namespaced=True,
    type=policy.DisruptionBudget,
    optional=True,
)

QUEUE = _document(crds.GROUP, crds.VERSION, "queues", "Queue", namespaced=False, optional=False)
POD_GROUP = _document(crds.GROUP, crds.VERSION, "podgroups", "PodGroup", namespaced=True, optional=False)
TOPOLOGY = _document(crds.GROUP, crds.VERSION, "topologies", "Topology", namespaced=False, optional=False)

# Dialects: watched only where served.
KAI_QUEUE = _document("scheduling.run.ai", "v2", "queues", "Queue", namespaced=False)
KAI_POD_GROUP = _document("scheduling.run.ai", "v2alpha2", "podgroups", "PodGroup", namespaced=True)
KAI_TOPOLOGY = _document("kai.scheduler", "v1alpha1", "topologies", "Topology", namespaced=False)
SEED_QUEUE = _document("kai.scheduler", "v1alpha1", "queues", "Queue", namespaced=False)
SEED_POD_GROUP = _document("scheduling.run.ai", "v1", "podgroups", "PodGroup", namespaced=True)
COSCHEDULING_POD_GROUP = _document("scheduling.x-k8s.io", "v1alpha1", "podgroups", "PodGroup", namespaced=True)
NATIVE_POD_GROUP = _document("scheduling.k8s.io", "v1beta1", "podgroups", "PodGroup", namespaced=True)

# Owners of pods: read for the gangs they imply.
JOB = _document("batch", "v1", "jobs", "Job", namespaced=True, optional=False)
REPLICA_SET = _document("apps", "v1", "replicasets", "ReplicaSet", namespaced=True)
JOB_SET = _document("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet", namespaced=True)
LEADER_WORKER_SET = _document("leaderworkerset.x-k8s.io", "v1", "leaderworkersets", "LeaderWorkerSet", namespaced=True)
TF_JOB = _document("kubeflow.org", "v1", "tfjobs", "TFJob", namespaced=True)
XGBOOST_JOB = _document("kubeflow.org", "v1", "xgboostjobs", "XGBoostJob", namespaced=True)
JAX_JOB = _document("kubeflow.org", "v1", "jaxjobs", "JAXJob", namespaced=True)
PYTORCH_JOB = _document("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob", namespaced=True)
MPI_JOB = _document("kubeflow.org", "v2beta1", "mpijobs", "MPIJob", namespaced=True, older=("v1",))
RAY_CLUSTER = _document("ray.io", "v1", "rayclusters", "RayCluster", namespaced=True, older=("v1alpha1",))
POD_GANG = _document("scheduler.grove.io", "v1alpha1", "podgangs", "PodGang", namespaced=True)
COMPOSITE_POD_GROUP = _document(
    "scheduling.k8s.io", "v1alpha3", "compositepodgroups", "CompositePodGroup", namespaced=True
)
NATIVE_WORKLOAD = _document("scheduling.k8s.io", "v1alpha1", "workloads", "Workload", namespaced=True)

# Owners that form no gang: read for their labels and annotations.
DEPLOYMENT = _document("apps", "v1", "deployments", "Deployment", namespaced=True)
STATEFUL_SET = _document("apps", "v1", "statefulsets", "StatefulSet", namespaced=True)
CRON_JOB = _document("batch", "v1", "cronjobs", "CronJob", namespaced=True)
NOTEBOOK = _document("kubeflow.org", "v1", "notebooks", "Notebook", namespaced=True, older=("v1beta1",))
TRAIN_JOB = _document("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob", namespaced=True)
RAY_JOB = _document("ray.io", "v1", "rayjobs", "RayJob", namespaced=True, older=("v1alpha1",))
RAY_SERVICE = _document("ray.io", "v1", "rayservices", "RayService", namespaced=True, older=("v1alpha1",))
KNATIVE_SERVICE = _document("serving.knative.dev", "v1", "services", "Service", namespaced=True)
KNATIVE_CONFIGURATION = _document("serving.knative.dev", "v1", "configurations", "Configuration", namespaced=True)
KNATIVE_REVISION = _document("serving.knative.dev", "v1", "revisions", "Revision", namespaced=True)
SELDON_DEPLOYMENT = _document(
    "machinelearning.seldon.io", "v1", "seldondeployments", "SeldonDeployment", namespaced=True
)
SPARK_APPLICATION = _document(
    "sparkoperator.k8s.io", "v1beta2", "sparkapplications", "SparkApplication", namespaced=True
)
WORKFLOW = _document("argoproj.io", "v1alpha1", "workflows", "Workflow", namespaced=True)
DYNAMO_GRAPH = _document("nvidia.com", "v1alpha1", "dynamographdeployments", "DynamoGraphDeployment", namespaced=True)
POD_CLIQUE_SET = _document("grove.io", "v1alpha1", "podcliquesets", "PodCliqueSet", namespaced=True)
POD_CLIQUE_SCALING_GROUP = _document(
    "grove.io", "v1alpha1", "podcliquescalinggroups", "PodCliqueScalingGroup", namespaced=True
)
POD_CLIQUE = _document("grove.io", "v1alpha1", "podcliques", "PodClique", namespaced=True)

CUSTOM_RESOURCE_DEFINITION = _document(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)

# What may stand above a pod, each watched only where it is served; those of FORMING make a gang of its pods, or may.
FORMING: tuple[Kind, ...] = (
    JOB,
    JOB_SET,
    LEADER_WORKER_SET,
    TF_JOB,
    XGBOOST_JOB,
    JAX_JOB,
    PYTORCH_JOB,
    MPI_JOB,
    RAY_CLUSTER,
    POD_GANG,
    NATIVE_WORKLOAD,
    COMPOSITE_POD_GROUP,
)
OWNERS: tuple[Kind, ...] = (
    *FORMING,
    REPLICA_SET,
    DEPLOYMENT,
    STATEFUL_SET,
    CRON_JOB,
    NOTEBOOK,
    TRAIN_JOB,
    RAY_JOB,
    RAY_SERVICE,
    KNATIVE_SERVICE,
    KNATIVE_CONFIGURATION,
    KNATIVE_REVISION,
    SELDON_DEPLOYMENT,
    SPARK_APPLICATION,
    WORKFLOW,
    DYNAMO_GRAPH,
    POD_CLIQUE_SET,
    POD_CLIQUE_SCALING_GROUP,
    POD_CLIQUE,
)

# Kinds that people's manifests hold, for what applies or expands them.
APPLIED: tuple[Kind, ...] = (
    NAMESPACE,
    POD,
    RESOURCE_CLAIM,
    RESOURCE_CLAIM_TEMPLATE,
    DEVICE_CLASS,
    JOB,
    DEPLOYMENT,
    STATEFUL_SET,
    PRIORITY_CLASS,
    STORAGE_CLASS,
    VOLUME,
    VOLUME_CLAIM,
    QUEUE,
    POD_GROUP,
    TOPOLOGY,
)

WATCHED: tuple[Kind, ...] = (
    NAMESPACE,
    NODE_TOPOLOGY,
    NODE,
    RESOURCE_SLICE,
    DEVICE_CLASS,
    DEVICE_TAINT_RULE,
    RESOURCE_CLAIM,
    STORAGE_CLASS,
    CSI_DRIVER,
    CSI_NODE,
    STORAGE_CAPACITY,
    VOLUME,
    VOLUME_CLAIM,
    PRIORITY_CLASS,
    DISRUPTION_BUDGET,
    TOPOLOGY,
    QUEUE,
    POD_GROUP,
    KAI_QUEUE,
    KAI_POD_GROUP,
    KAI_TOPOLOGY,
    SEED_QUEUE,
    SEED_POD_GROUP,
    COSCHEDULING_POD_GROUP,
    NATIVE_POD_GROUP,
    *OWNERS,
    POD,
)
