"""What controllers would make of manifests: pods of Jobs, Deployments, StatefulSets, JobSets and LeaderWorkerSets, and
claims of templates, unless those are given themselves.

Names are the owner's with a number, so that a plan reads well; uids depend on nothing but the names.
Source: the labels and names these controllers give (Kubernetes, JobSet and LeaderWorkerSet documentation).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from scheduler.api.dra import POD_CLAIM_NAME_ANNOTATION
from scheduler.model.reasons import Unreadable
from scheduler.state.cast import (
    CLAIM,
    DEPLOYMENT,
    JOB,
    JOB_SET,
    LEADER_WORKER_SET,
    POD,
    REPLICA_SET,
    STATEFUL_SET,
    TEMPLATE,
    VOLUME_CLAIM,
    Cast,
    Document,
    Identity,
    Present,
)
from scheduler.state.fields import Bad, Fields
from scheduler.state.grouping import (
    JOB_INDEX_LABEL,
    LWS_GROUP_LABEL,
    LWS_SIZE_ANNOTATION,
    LWS_WORKER_LABEL,
    REPLICATED_JOB_LABEL,
)
from scheduler.state.lineage import JOB_SET_LABEL, LWS_LABEL

# Read only to make pods of them.
CONTROLLERS = (REPLICA_SET, DEPLOYMENT, STATEFUL_SET)

MOST_PODS = 20_000
"""That are made of all manifests together."""
_MOST_BYTES = 128 * 1024 * 1024
# What a made object holds besides what its template says.
_HEAD_BYTES = 1024


def expanded(cast: Cast, present: Present) -> None:
    """Add the pods and claims that controllers would make. `present`: what the cluster has besides the manifests.

    Raises Bad for what cannot be read, and for more than is made at once."""
    for what in (POD, CLAIM, JOB, REPLICA_SET):
        for identity, document in cast.of(what):
            present.note(what, cast.fields(identity, document))
    making = _Making(cast=cast, present=present)
    for what, pods_of in _CONTROLLERS:
        for identity, document in cast.of(what):
            pods_of(making, _Owner(identity=identity, fields=cast.fields(identity, document)))
    for identity, document in cast.of(POD):
        _claims(making, identity, document)
        _volume_claims(making, identity, document)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owner:
    """An object that pods are made of."""

    identity: Identity
    fields: Fields

    @property
    def spec(self) -> Fields:
        return self.fields.mapping("spec")

    @property
    def namespace(self) -> str:
        return self.identity[2].partition("/")[0]

    @property
    def name(self) -> str:
        return self.identity[2].partition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Extra:
    """What a controller writes on a pod besides its template."""

    suffix: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Making:
    """What is made, and how much more may be: a few letters of a manifest ask for millions of pods."""

    cast: Cast
    present: Present
    _pods_left: int = MOST_PODS
    _bytes_left: int = _MOST_BYTES

    def template(self, holder: Fields, name: str, count: int) -> "_Template":
        """The template below `holder` that `count` pods are about to be made of."""
        template = holder.needed(name)
        self._pods_left -= count
        if self._pods_left < 0:
            raise _too_much(template, f"more than {MOST_PODS} pods would be made")
        self.charge(template, count)
        metadata = template.mapping("metadata")
        return _Template(
            labels=metadata.texts("labels"),
            annotations=metadata.texts("annotations"),
            spec=template.needed("spec"),
        )

    def charge(self, template: Fields, count: int) -> None:
        """`count` objects are about to be made of this template."""
        self._bytes_left -= count * (len(msgspec.json.encode(template.values)) + _HEAD_BYTES)
        if self._bytes_left < 0:
            raise _too_much(template, f"more than {_MOST_BYTES} bytes of objects would be made")

    def pod(self, owner: _Owner, template: "_Template", extra: _Extra, *, volumes: Sequence[str] = ()) -> None:
        name = f"{owner.name}-{extra.suffix}"
        if self.cast.get(POD, f"{owner.namespace}/{name}") is not None:
            name = f"{owner.name}-{owner.identity[1].lower()}-{extra.suffix}"
        of = owner.fields.mapping("metadata")
        metadata: Document = {
            "name": name,
            "namespace": owner.namespace,
            "uid": derived_uid(*POD, f"{owner.namespace}/{name}"),
            "labels": {**template.labels, **extra.labels},
            "annotations": {**template.annotations, **extra.annotations},
            "ownerReferences": [
                {
                    "apiVersion": owner.identity[0],
                    "kind": owner.identity[1],
                    "name": owner.name,
                    "uid": of.text("uid"),
                    "controller": True,
                }
            ],
        }
        created = of.text("creationTimestamp")
        if created:
            metadata["creationTimestamp"] = created
        spec = template.spec.values
        if volumes:
            kept = [each.values for each in template.spec.items("volumes") if each.text("name") not in volumes]
            claims = ({"claimName": f"{volume}-{owner.name}-{extra.suffix}"} for volume in volumes)
            added = [{"name": v, "persistentVolumeClaim": c} for v, c in zip(volumes, claims, strict=True)]
            spec = {**spec, "volumes": [*kept, *added]}
        document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self.cast.make(POD, document, owner.identity)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec: Fields


def _too_much(template: Fields, problem: str) -> Bad:
    where = template.path.rpartition(".")[0]
    return Bad(
        Unreadable(
            object=template.object,
            field=where or template.path,
            problem=f"{problem} of these manifests",
            remedy="Plan for fewer replicas at once.",
        )
    )


def _job(making: _Making, owner: _Owner) -> None:
    if not _has_pods(making.present, owner):
        labels = {"job-name": owner.name, "batch.kubernetes.io/job-name": owner.name}
        indexed = owner.spec.text("completionMode") == "Indexed"

        def extra(index: int) -> _Extra:
            place = {"batch.kubernetes.io/job-completion-index": str(index)} if indexed else {}
            return _Extra(suffix=str(index), labels=labels | place, annotations=place)

        _replicas(making, owner, _job_pods(owner.fields), extra)


def _stateful_set(making: _Making, owner: _Owner) -> None:
    def extra(index: int) -> _Extra:
        labels = {
            "statefulset.kubernetes.io/pod-name": f"{owner.name}-{index}",
            "apps.kubernetes.io/pod-index": str(index),
        }
        return _Extra(suffix=str(index), labels=labels)

    if _has_pods(making.present, owner):
        return
    count, templates = _count(owner.spec, "replicas"), list(owner.spec.items("volumeClaimTemplates"))
    names = [each.mapping("metadata").text("name") for each in templates]
    _replicas(making, owner, count, extra, volumes=names)
    for each, name in zip(templates, names, strict=True):
        making.charge(each, count)
        for index in range(count):
            claim = f"{name}-{owner.name}-{index}"
            making.cast.make(VOLUME_CLAIM, _volume_claim(owner.namespace, claim, each), owner.identity)


def _stateless(making: _Making, owner: _Owner) -> None:
    if not _has_pods(making.present, owner):
        _replicas(making, owner, _count(owner.spec, "replicas"), lambda index: _Extra(suffix=str(index)))


def _replicas(
    making: _Making, owner: _Owner, count: int, extra: Callable[[int], _Extra], *, volumes: Sequence[str] = ()
) -> None:
    """`volumes`: those for which every pod has a claim, called after the volume and the pod."""
    if count:
        template = making.template(owner.spec, "template", count)
        for index in range(count):
            making.pod(owner, template, extra(index), volumes=volumes)


def _has_pods(present: Present, owner: _Owner) -> bool:
    """Whether pods of it (or, for a Deployment, a ReplicaSet or pods that its selector matches) are there."""
    kind = owner.identity[1]
    if (owner.namespace, kind, owner.name) in present.controlled:
        return True
    if kind == "Deployment":
        return present.of_selector(owner.namespace, owner.spec.mapping("selector").texts("matchLabels"))
    # It has run already: what is missing is for its controller in the cluster to make.
    return kind == "Job" and bool(owner.fields.mapping("status").whole("active"))


def _job_pods(job: Fields) -> int:
    """How many pods a Job runs at once, of those it still needs."""
    spec, status = job.mapping("spec"), job.mapping("status")
    ended = [
        each.text("type") in ("Complete", "Failed") and each.text("status") == "True"
        for each in status.items("conditions")
    ]
    parallelism, completions = _count(spec, "parallelism"), spec.whole("completions")
    if spec.flag("suspend") or any(ended):
        return 0
    if completions is None:
        return parallelism
    return min(parallelism, max(completions - (status.whole("succeeded") or 0), 0))


def _job_set(making: _Making, owner: _Owner) -> None:
    """Every pod of every replica of every replicated job, labelled as JobSet labels them."""
    spec = owner.spec
    if (owner.namespace, JOB_SET_LABEL, owner.name) in making.present.labelled or spec.flag("suspend"):
        return
    names: set[str] = set()
    for job in spec.items("replicatedJobs"):
        name, template = job.text("name"), job.mapping("template")
        if name in names:
            raise job.bad("name", f"{name!r} is there twice", "Give each replicated job a name of its own.")
        names.add(name)
        replicas, pods = _count(job, "replicas"), _job_pods(template)
        if not replicas * pods:
            continue
        of = making.template(template.mapping("spec"), "template", replicas * pods)
        for replica in range(replicas):
            labels = {
                JOB_SET_LABEL: owner.name,
                REPLICATED_JOB_LABEL: name,
                JOB_INDEX_LABEL: str(replica),
                "jobset.sigs.k8s.io/job-global-index": str(replica),
            }
            for index in range(pods):
                making.pod(owner, of, _Extra(suffix=f"{name}-{replica}-{index}", labels=labels))


def _leader_worker_set(making: _Making, owner: _Owner) -> None:
    """Every group: the leader, named as the group, and its workers."""
    if (owner.namespace, LWS_LABEL, owner.name) in making.present.labelled:
        return
    templates = owner.spec.mapping("leaderWorkerTemplate")
    groups, size = _count(owner.spec, "replicas"), _count(templates, "size")
    if not groups * size:
        return
    leader = making.template(
        templates, "leaderTemplate" if templates.has("leaderTemplate") else "workerTemplate", groups
    )
    worker = making.template(templates, "workerTemplate", groups * (size - 1)) if size > 1 else leader
    for group in range(groups):
        for index in range(size):
            extra = _Extra(
                suffix=f"{group}-{index}" if index else str(group),
                labels={LWS_LABEL: owner.name, LWS_GROUP_LABEL: str(group), LWS_WORKER_LABEL: str(index)},
                annotations={LWS_SIZE_ANNOTATION: str(size)},
            )
            making.pod(owner, worker if index else leader, extra)


# In this order: of two pods of one name, the later is renamed.
_CONTROLLERS: tuple[tuple[tuple[str, str], Callable[[_Making, _Owner], None]], ...] = (
    (JOB_SET, _job_set),
    (LEADER_WORKER_SET, _leader_worker_set),
    (JOB, _job),
    (DEPLOYMENT, _stateless),
    (REPLICA_SET, _stateless),
    (STATEFUL_SET, _stateful_set),
)


def _claims(making: _Making, identity: Identity, document: Document) -> None:
    """A claim for every entry that names a template, and the pod's status that names the claim."""
    cast, pod = making.cast, making.cast.fields(identity, document)
    namespace, _, pod_name = identity[2].partition("/")
    status = pod.mapping("status")
    made = list(status.items("resourceClaimStatuses"))
    known = {each.text("name") for each in made}
    if status.text("phase") in ("Succeeded", "Failed"):
        return
    found: list[Document] = []
    for entry in pod.mapping("spec").items("resourceClaims"):
        entry_name, template_name = entry.text("name"), entry.text("resourceClaimTemplateName")
        if not entry_name:
            raise entry.bad("name", "is missing", "Give the entry the name that containers ask for it by.")
        template = cast.get(TEMPLATE, f"{namespace}/{template_name}") if template_name else None
        if entry_name in known or template is None:
            continue
        name = making.present.claims.get((namespace, pod_name, entry_name))
        if name is None:
            name = f"{pod_name}-{entry_name}"
            of = cast.fields((*TEMPLATE, f"{namespace}/{template_name}"), template)
            making.charge(of, 1)
            cast.make(CLAIM, _claim(namespace, pod.mapping("metadata"), entry_name, of.needed("spec")), identity)
        found.append({"name": entry_name, "resourceClaimName": name})
    if found:
        statuses = [*(each.values for each in made), *found]
        cast.replace(identity, {**document, "status": {**status.values, "resourceClaimStatuses": statuses}})


def _volume_claims(making: _Making, identity: Identity, document: Document) -> None:
    """A PersistentVolumeClaim for every ephemeral volume."""
    pod = making.cast.fields(identity, document)
    namespace, _, pod_name = identity[2].partition("/")
    if pod.mapping("status").text("phase") in ("Succeeded", "Failed"):
        return
    for volume in pod.mapping("spec").items("volumes"):
        if volume.has("ephemeral"):
            template = volume.mapping("ephemeral").needed("volumeClaimTemplate")
            making.charge(template, 1)
            claim = _volume_claim(namespace, f"{pod_name}-{volume.text('name')}", template)
            uid = pod.mapping("metadata").text("uid")
            owner = {"apiVersion": "v1", "kind": "Pod", "name": pod_name, "uid": uid, "controller": True}
            claim["metadata"]["ownerReferences"] = [owner]
            making.cast.make(VOLUME_CLAIM, claim, identity)


def _volume_claim(namespace: str, name: str, template: Fields) -> Document:
    of = template.mapping("metadata")
    metadata: Document = {
        "name": name,
        "namespace": namespace,
        "uid": derived_uid(*VOLUME_CLAIM, f"{namespace}/{name}"),
        "labels": dict(of.texts("labels")),
        "annotations": dict(of.texts("annotations")),
    }
    kind = {"apiVersion": VOLUME_CLAIM[0], "kind": VOLUME_CLAIM[1]}
    return {**kind, "metadata": metadata, "spec": template.needed("spec").values}


def _claim(namespace: str, pod: Fields, entry: str, template: Fields) -> Document:
    name = f"{pod.text('name')}-{entry}"
    of = template.mapping("metadata")
    metadata: Document = {
        "name": name,
        "namespace": namespace,
        "uid": derived_uid(*CLAIM, f"{namespace}/{name}"),
        "labels": dict(of.texts("labels")),
        "annotations": {**of.texts("annotations"), POD_CLAIM_NAME_ANNOTATION: entry},
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": pod.text("name"), "uid": pod.text("uid"), "controller": True}
        ],
    }
    created = pod.text("creationTimestamp")
    if created:
        metadata["creationTimestamp"] = created
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": metadata,
        "spec": template.needed("spec").values,
    }


def derived_uid(api_version: str, kind: str, key: str) -> str:
    """A uid that depends on nothing but which object it is."""
    group = api_version.rpartition("/")[0]
    digest = hashlib.sha256(f"{group}/{kind}/{key}".encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def _count(holder: Fields, name: str) -> int:
    """A number of replicas; 1 if absent, as everywhere in Kubernetes."""
    count = holder.whole(name)
    return 1 if count is None else count
