"""What controllers would make of manifests: pods of Jobs, Deployments, StatefulSets, JobSets, LeaderWorkerSets and (in
`expand_distributed`) Kubeflow and Ray, and claims of templates, unless those are given themselves.

Names are the owner's with a number, so that a plan reads well; uids depend on nothing but the names.
Source: the labels and names these controllers give (Kubernetes, JobSet and LeaderWorkerSet documentation).
"""

from collections.abc import Callable, Sequence

from scheduler.api.dra import POD_CLAIM_NAME_ANNOTATION
from scheduler.state.cast import (
    CLAIM,
    DEPLOYMENT,
    JOB,
    JOB_SET,
    LEADER_WORKER_SET,
    POD,
    RAY_CLUSTER,
    REPLICA_SET,
    STATEFUL_SET,
    TEMPLATE,
    VOLUME_CLAIM,
    Cast,
    Document,
    Identity,
    Present,
)
from scheduler.state.expand_distributed import DISTRIBUTED
from scheduler.state.fields import Fields
from scheduler.state.grouping import (
    JOB_INDEX_LABEL,
    LWS_GROUP_LABEL,
    LWS_SIZE_ANNOTATION,
    LWS_WORKER_LABEL,
    REPLICATED_JOB_LABEL,
)
from scheduler.state.lineage import JOB_SET_LABEL, LWS_LABEL
from scheduler.state.making import Extra, Making, Owner, count_of, derived_uid

# Read only to make pods of them.
CONTROLLERS = (REPLICA_SET, DEPLOYMENT, STATEFUL_SET)


def expanded(cast: Cast, present: Present) -> None:
    """Add the pods and claims that controllers would make. `present`: what the cluster has besides the manifests.

    Raises Bad for what cannot be read, and for more than is made at once."""
    for what in (POD, CLAIM, JOB, REPLICA_SET, RAY_CLUSTER):
        for identity, document in cast.of(what):
            present.note(what, cast.fields(identity, document))
    making = Making(cast=cast, present=present)
    for what, pods_of in _CONTROLLERS:
        for identity, document in cast.of(what):
            pods_of(making, Owner(identity=identity, fields=cast.fields(identity, document)))
    for identity, document in cast.of(POD):
        _claims(making, identity, document)
        _volume_claims(making, identity, document)


def _job(making: Making, owner: Owner) -> None:
    if not _has_pods(making.present, owner):
        labels = {"job-name": owner.name, "batch.kubernetes.io/job-name": owner.name}
        indexed = owner.spec.text("completionMode") == "Indexed"

        def extra(index: int) -> Extra:
            place = {"batch.kubernetes.io/job-completion-index": str(index)} if indexed else {}
            return Extra(suffix=str(index), labels=labels | place, annotations=place)

        _replicas(making, owner, _job_pods(owner.fields), extra)


def _stateful_set(making: Making, owner: Owner) -> None:
    def extra(index: int) -> Extra:
        labels = {
            "statefulset.kubernetes.io/pod-name": f"{owner.name}-{index}",
            "apps.kubernetes.io/pod-index": str(index),
        }
        return Extra(suffix=str(index), labels=labels)

    if _has_pods(making.present, owner):
        return
    count, templates = count_of(owner.spec, "replicas"), list(owner.spec.items("volumeClaimTemplates"))
    names = [each.mapping("metadata").text("name") for each in templates]
    _replicas(making, owner, count, extra, volumes=names)
    for each, name in zip(templates, names, strict=True):
        making.charge(each, count)
        for index in range(count):
            claim = f"{name}-{owner.name}-{index}"
            making.cast.make(VOLUME_CLAIM, _volume_claim(owner.namespace, claim, each), owner.identity)


def _stateless(making: Making, owner: Owner) -> None:
    if not _has_pods(making.present, owner):
        _replicas(making, owner, count_of(owner.spec, "replicas"), lambda index: Extra(suffix=str(index)))


def _replicas(
    making: Making, owner: Owner, count: int, extra: Callable[[int], Extra], *, volumes: Sequence[str] = ()
) -> None:
    """`volumes`: those for which every pod has a claim, called after the volume and the pod."""
    if count:
        template = making.template(owner.spec, "template", count)
        for index in range(count):
            making.pod(owner, template, extra(index), volumes=volumes)


def _has_pods(present: Present, owner: Owner) -> bool:
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
    parallelism, completions = count_of(spec, "parallelism"), spec.whole("completions")
    if spec.flag("suspend") or any(ended):
        return 0
    if completions is None:
        return parallelism
    return min(parallelism, max(completions - (status.whole("succeeded") or 0), 0))


def _job_set(making: Making, owner: Owner) -> None:
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
        replicas, pods = count_of(job, "replicas"), _job_pods(template)
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
                making.pod(owner, of, Extra(suffix=f"{name}-{replica}-{index}", labels=labels))


def _leader_worker_set(making: Making, owner: Owner) -> None:
    """Every group: the leader, named as the group, and its workers."""
    if (owner.namespace, LWS_LABEL, owner.name) in making.present.labelled:
        return
    templates = owner.spec.mapping("leaderWorkerTemplate")
    groups, size = count_of(owner.spec, "replicas"), count_of(templates, "size")
    if not groups * size:
        return
    leader = making.template(
        templates, "leaderTemplate" if templates.has("leaderTemplate") else "workerTemplate", groups
    )
    worker = making.template(templates, "workerTemplate", groups * (size - 1)) if size > 1 else leader
    for group in range(groups):
        for index in range(size):
            extra = Extra(
                suffix=f"{group}-{index}" if index else str(group),
                labels={LWS_LABEL: owner.name, LWS_GROUP_LABEL: str(group), LWS_WORKER_LABEL: str(index)},
                annotations={LWS_SIZE_ANNOTATION: str(size)},
            )
            making.pod(owner, worker if index else leader, extra)


# In this order: of two pods of one name, the later is renamed.
_CONTROLLERS: tuple[tuple[tuple[str, str], Callable[[Making, Owner], None]], ...] = (
    *DISTRIBUTED,
    (JOB_SET, _job_set),
    (LEADER_WORKER_SET, _leader_worker_set),
    (JOB, _job),
    (DEPLOYMENT, _stateless),
    (REPLICA_SET, _stateless),
    (STATEFUL_SET, _stateful_set),
)


def _claims(making: Making, identity: Identity, document: Document) -> None:
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


def _volume_claims(making: Making, identity: Identity, document: Document) -> None:
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
