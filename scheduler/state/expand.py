"""What controllers would make of manifests: pods of Jobs, Deployments, StatefulSets, JobSets and LeaderWorkerSets, and
claims of templates, unless those are given themselves.

Names are the owner's with a number, so that a plan reads well; uids depend on nothing but the names.
Source: the labels and names these controllers give (Kubernetes, JobSet and LeaderWorkerSet documentation).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scheduler.api.dra import POD_CLAIM_NAME_ANNOTATION
from scheduler.state.grouping import (
    JOB_INDEX_LABEL,
    JOB_SET_LABEL,
    LWS_GROUP_LABEL,
    LWS_LABEL,
    LWS_SIZE_ANNOTATION,
    LWS_WORKER_LABEL,
    REPLICATED_JOB_LABEL,
)

Document = dict[str, Any]
Name = tuple[str, str]
"""apiVersion and kind."""
Identity = tuple[str, str, str]
"""apiVersion, kind and key of an object."""

JOB = ("batch/v1", "Job")
REPLICA_SET = ("apps/v1", "ReplicaSet")
DEPLOYMENT = ("apps/v1", "Deployment")
STATEFUL_SET = ("apps/v1", "StatefulSet")
JOB_SET = ("jobset.x-k8s.io/v1alpha2", "JobSet")
LEADER_WORKER_SET = ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
POD = ("v1", "Pod")
CLAIM = ("resource.k8s.io/v1", "ResourceClaim")
TEMPLATE = ("resource.k8s.io/v1", "ResourceClaimTemplate")

# Read only to make pods of them.
CONTROLLERS = (REPLICA_SET, DEPLOYMENT, STATEFUL_SET)

_MOST_PODS = 20_000


@dataclass(slots=True)
class Cast:
    """All objects of a plan's input by what they are, and where each was written."""

    _documents: dict[Name, dict[str, Document]] = field(default_factory=dict)
    _where: dict[Identity, str] = field(default_factory=dict)
    _lasting: set[Identity] = field(default_factory=set)

    def seen(self, identity: Identity, document: Document) -> None:
        """An object of the cluster that one of the manifests is about to be laid over."""
        self._put(identity, document)
        self._where[identity] = "the cluster"
        self._lasting.add(identity)

    def add(self, identity: Identity, document: Document, where: str, *, lasting: bool) -> bool:
        """An object as written. `lasting`: it comes from a cluster, and one written by hand is laid over it.

        False if another document describes it differently, and neither or both come from a cluster."""
        known = self.get(identity[:2], identity[2])
        if known is None or known == document:
            self._put(identity, document)
            self._where.setdefault(identity, where)
            if lasting:
                self._lasting.add(identity)
            return True
        if lasting == (identity in self._lasting):
            return False
        below, above = (document, known) if lasting else (known, document)
        self._put(identity, _applied(below, above))
        self._lasting.add(identity)
        return True

    def make(self, what: Name, document: Document, maker: Identity) -> None:
        """An object that a controller would make; one that is given stays as it is."""
        metadata = document["metadata"]
        identity = (*what, f"{metadata['namespace']}/{metadata['name']}")
        if self.get(what, identity[2]) is None:
            self._put(identity, document)
            self._where[identity] = self._where.get(maker, "")

    def replace(self, identity: Identity, document: Document) -> None:
        self._put(identity, document)

    def of(self, what: Name) -> list[tuple[Identity, Document]]:
        """All objects of a kind, by key."""
        return [((*what, key), document) for key, document in sorted(self._documents.get(what, {}).items())]

    def get(self, what: Name, key: str) -> Document | None:
        return self._documents.get(what, {}).get(key)

    def in_order(self) -> Iterator[tuple[Identity, Document]]:
        for what in sorted(self._documents):
            yield from self.of(what)

    def where(self, identity: Identity) -> str:
        return self._where.get(identity, "")

    def _put(self, identity: Identity, document: Document) -> None:
        self._documents.setdefault(identity[:2], {})[identity[2]] = document


@dataclass(slots=True)
class Present:
    """What is there already and need not be made, among the manifests and in the cluster they are laid over."""

    controlled: set[tuple[str, str, str]] = field(default_factory=set)
    """Namespace, kind and name of controllers of pods and of ReplicaSets."""
    labelled: set[tuple[str, str, str]] = field(default_factory=set)
    """Namespace, label and value of pods and Jobs that a JobSet or a LeaderWorkerSet has made."""
    of_replica_sets: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    """Namespace and labels of pods that a ReplicaSet has made."""
    claims: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """Namespace, pod and the pod's name for it -> a claim made from a template."""

    def note(self, what: Name, document: Document) -> None:
        metadata = document["metadata"]
        namespace = str(metadata.get("namespace", ""))
        kind, name = _controller(document)
        labels = _at(metadata, "labels")
        if what == CLAIM:
            entry = _at(metadata, "annotations").get(POD_CLAIM_NAME_ANNOTATION)
            if kind == "Pod" and isinstance(entry, str):
                self.claims[namespace, name, entry] = str(metadata["name"])
            return
        if kind:
            self.controlled.add((namespace, kind, name))
        if what == POD and kind == "ReplicaSet":
            self.of_replica_sets.append((namespace, labels))
        for label in (JOB_SET_LABEL, LWS_LABEL):
            if isinstance(labels.get(label), str):
                self.labelled.add((namespace, label, labels[label]))


def expanded(cast: Cast, present: Present) -> None:
    """Add the pods and claims that controllers would make. `present`: what the cluster has besides the manifests."""
    for what in (POD, CLAIM, JOB, REPLICA_SET):
        for _, document in cast.of(what):
            present.note(what, document)
    for identity, document in cast.of(JOB_SET):
        _job_set(cast, identity, document, present)
    for identity, document in cast.of(LEADER_WORKER_SET):
        _leader_worker_set(cast, identity, document, present)
    for what, count, extra in _PLAIN:
        for identity, document in cast.of(what):
            if not _has_pods(identity, document, present):
                _replicas(cast, identity, document, count(document), extra)
    for identity, document in cast.of(POD):
        _claims(cast, identity, document, present)


def _job_pods(job: Mapping[str, Any]) -> int:
    """How many pods a Job runs at once, of those it still needs."""
    spec, status = _at(job, "spec"), _at(job, "status")
    conditions = status.get("conditions") or ()
    ended = any(
        each.get("type") in ("Complete", "Failed") and each.get("status") == "True"
        for each in conditions
        if isinstance(each, dict)
    )
    if spec.get("suspend") or ended:
        return 0
    parallelism = _count(spec.get("parallelism"))
    completions = spec.get("completions")
    if isinstance(completions, int):
        parallelism = min(parallelism, max(completions - _count(status.get("succeeded"), 0), 0))
    return parallelism


def _job_extra(job: Document, index: int) -> Document:
    name = job["metadata"]["name"]
    labels = {"job-name": name, "batch.kubernetes.io/job-name": name}
    if _at(job, "spec").get("completionMode") != "Indexed":
        return {"labels": labels}
    place = {"batch.kubernetes.io/job-completion-index": str(index)}
    return {"labels": labels | place, "annotations": place}


def _stateful_extra(owner: Document, index: int) -> Document:
    name = f"{owner['metadata']['name']}-{index}"
    return {"labels": {"statefulset.kubernetes.io/pod-name": name, "apps.kubernetes.io/pod-index": str(index)}}


_PLAIN: tuple[tuple[tuple[str, str], Callable[[Document], int], Callable[[Document, int], Document]], ...] = (
    (JOB, _job_pods, _job_extra),
    (DEPLOYMENT, lambda owner: _count(_at(owner, "spec").get("replicas")), lambda _, __: {}),
    (REPLICA_SET, lambda owner: _count(_at(owner, "spec").get("replicas")), lambda _, __: {}),
    (STATEFUL_SET, lambda owner: _count(_at(owner, "spec").get("replicas")), _stateful_extra),
)


def _has_pods(identity: Identity, owner: Document, present: Present) -> bool:
    """Whether pods of it (or, for a Deployment, a ReplicaSet or pods that its selector matches) are there."""
    _, kind, key = identity
    namespace, _, name = key.partition("/")
    if (namespace, kind, name) in present.controlled:
        return True
    if kind == "Deployment":
        wanted = _at(_at(owner, "spec"), "selector").get("matchLabels") or {}
        return bool(wanted) and any(
            where == namespace and wanted.items() <= labels.items() for where, labels in present.of_replica_sets
        )
    # It has run already: what is missing is for its controller in the cluster to make.
    return kind == "Job" and bool(_at(owner, "status").get("active"))


def _replicas(
    cast: Cast, identity: Identity, owner: Document, count: int, extra: Callable[[Document, int], Document]
) -> None:
    template = _at(_at(owner, "spec"), "template")
    for index in range(min(count, _MOST_PODS)):
        _pod(cast, identity, owner, template, str(index), extra(owner, index))


def _job_set(cast: Cast, identity: Identity, owner: Document, present: Present) -> None:
    """Every pod of every replica of every replicated job, labelled as JobSet labels them."""
    key = identity[2]
    namespace, _, name = key.partition("/")
    spec = _at(owner, "spec")
    if (namespace, JOB_SET_LABEL, name) in present.labelled or spec.get("suspend"):
        return
    for job in spec.get("replicatedJobs") or ():
        if not isinstance(job, dict):
            continue
        template = _at(job, "template")
        pods = _job_pods(template)
        for replica in range(_count(job.get("replicas"))):
            labels = {
                JOB_SET_LABEL: name,
                REPLICATED_JOB_LABEL: str(job.get("name", "")),
                JOB_INDEX_LABEL: str(replica),
                "jobset.sigs.k8s.io/job-global-index": str(replica),
            }
            for index in range(pods):
                _pod(
                    cast,
                    identity,
                    owner,
                    _at(_at(template, "spec"), "template"),
                    f"{job.get('name', '')}-{replica}-{index}",
                    {"labels": labels},
                )


def _leader_worker_set(cast: Cast, identity: Identity, owner: Document, present: Present) -> None:
    """Every group: the leader, named as the group, and its workers."""
    namespace, _, name = identity[2].partition("/")
    if (namespace, LWS_LABEL, name) in present.labelled:
        return
    spec = _at(owner, "spec")
    templates = _at(spec, "leaderWorkerTemplate")
    worker = _at(templates, "workerTemplate")
    leader = _at(templates, "leaderTemplate") or worker
    size = _count(templates.get("size"))
    for group in range(_count(spec.get("replicas"))):
        for index in range(min(size, _MOST_PODS)):
            extra = {
                "labels": {LWS_LABEL: name, LWS_GROUP_LABEL: str(group), LWS_WORKER_LABEL: str(index)},
                "annotations": {LWS_SIZE_ANNOTATION: str(size)},
            }
            suffix = f"{group}-{index}" if index else str(group)
            _pod(cast, identity, owner, worker if index else leader, suffix, extra)


def _pod(
    cast: Cast, identity: Identity, owner: Document, template: Mapping[str, Any], suffix: str, extra: Document
) -> None:
    namespace = identity[2].partition("/")[0]
    name = f"{owner['metadata']['name']}-{suffix}"
    if cast.get(POD, f"{namespace}/{name}") is not None:
        name = f"{owner['metadata']['name']}-{identity[1].lower()}-{suffix}"
    meta = _at(template, "metadata")
    metadata: Document = {
        "name": name,
        "namespace": namespace,
        "uid": derived_uid(*POD, f"{namespace}/{name}"),
        "labels": {**_at(meta, "labels"), **extra.get("labels", {})},
        "annotations": {**_at(meta, "annotations"), **extra.get("annotations", {})},
        "ownerReferences": [
            {
                "apiVersion": identity[0],
                "kind": identity[1],
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"],
                "controller": True,
            }
        ],
    }
    created = owner["metadata"].get("creationTimestamp")
    if created:
        metadata["creationTimestamp"] = created
    spec = template.get("spec")
    cast.make(POD, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, identity)


def _claims(cast: Cast, identity: Identity, pod: Document, present: Present) -> None:
    """A claim for every entry that names a template, and the pod's status that names the claim."""
    metadata, namespace = pod["metadata"], identity[2].partition("/")[0]
    status = _at(pod, "status")
    entries = _at(pod, "spec").get("resourceClaims")
    made = [each for each in status.get("resourceClaimStatuses") or () if isinstance(each, dict)]
    known = {each.get("name") for each in made}
    if status.get("phase") in ("Succeeded", "Failed") or not isinstance(entries, list):
        return
    found = list(made)
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("name") in known:
            continue
        template = cast.get(TEMPLATE, f"{namespace}/{entry.get('resourceClaimTemplateName')}")
        if template is None:
            continue
        name = present.claims.get((namespace, metadata["name"], str(entry["name"])))
        if name is None:
            claim = _claim(namespace, metadata, str(entry["name"]), template)
            cast.make(CLAIM, claim, identity)
            name = claim["metadata"]["name"]
        found.append({"name": entry["name"], "resourceClaimName": name})
    if len(found) > len(made):
        cast.replace(identity, {**pod, "status": {**status, "resourceClaimStatuses": found}})


def _claim(namespace: str, pod: Document, entry: str, template: Document) -> Document:
    name = f"{pod['name']}-{entry}"
    body = _at(template, "spec")
    meta = _at(body, "metadata")
    metadata: Document = {
        "name": name,
        "namespace": namespace,
        "uid": derived_uid(*CLAIM, f"{namespace}/{name}"),
        "labels": dict(_at(meta, "labels")),
        "annotations": {**_at(meta, "annotations"), POD_CLAIM_NAME_ANNOTATION: entry},
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": pod["name"], "uid": pod["uid"], "controller": True}
        ],
    }
    if pod.get("creationTimestamp"):
        metadata["creationTimestamp"] = pod["creationTimestamp"]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": metadata,
        "spec": body.get("spec"),
    }


def derived_uid(api_version: str, kind: str, key: str) -> str:
    """A uid that depends on nothing but which object it is."""
    group = api_version.rpartition("/")[0]
    digest = hashlib.sha256(f"{group}/{kind}/{key}".encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def _applied(below: Document, above: Document) -> Document:
    """The cluster's object with what the manifest says: its labels, annotations and the rest, but who it is stays."""
    metadata = {**above["metadata"], **below["metadata"]}
    for name in ("labels", "annotations"):
        metadata[name] = {**_at(below["metadata"], name), **_at(above["metadata"], name)}
    return {**below, **{name: value for name, value in above.items() if name != "status"}, "metadata": metadata}


def _controller(document: Document) -> tuple[str, str]:
    owners = document["metadata"].get("ownerReferences")
    for owner in owners if isinstance(owners, list | tuple) else ():
        if isinstance(owner, dict) and owner.get("controller"):
            return str(owner.get("kind")), str(owner.get("name"))
    return "", ""


def _at(holder: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A mapping below another; empty if it is not there, or no mapping (decoding says so later)."""
    found = holder.get(name)
    return found if isinstance(found, Mapping) else {}


def _count(value: object, absent: int = 1) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else absent
