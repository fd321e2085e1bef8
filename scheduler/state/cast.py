"""All objects of a plan's input by what they are, and what of their making is done already."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scheduler.api.dra import POD_CLAIM_NAME_ANNOTATION
from scheduler.state.fields import Fields
from scheduler.state.lineage import JOB_SET_LABEL, LWS_LABEL

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
RAY_CLUSTER = ("ray.io/v1", "RayCluster")
POD = ("v1", "Pod")
CLAIM = ("resource.k8s.io/v1", "ResourceClaim")
VOLUME_CLAIM = ("v1", "PersistentVolumeClaim")
TEMPLATE = ("resource.k8s.io/v1", "ResourceClaimTemplate")


@dataclass(slots=True)
class Cast:
    """All objects of a plan's input by what they are, and where each was written."""

    _documents: dict[Name, dict[str, Document]] = field(default_factory=dict)
    _where: dict[Identity, str] = field(default_factory=dict)
    _lasting: set[Identity] = field(default_factory=set)
    _generated: dict[str, int] = field(default_factory=dict)

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

    def times_before(self, generated: str) -> int:
        """How many objects with this generated name there were before: each of them is an object of its own."""
        times = self._generated.get(generated, 0)
        self._generated[generated] = times + 1
        return times

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

    def called(self, identity: Identity) -> str:
        """The object as a message names it: where it was written, its kind and its key."""
        return f"{self._where.get(identity, '')}: {identity[1]} {identity[2]}"

    def where(self, identity: Identity) -> str:
        return self._where.get(identity, "")

    def fields(self, identity: Identity, document: Document) -> Fields:
        """The document, to be read with errors that name it."""
        return Fields(object=self.called(identity), path="", values=document)

    def _put(self, identity: Identity, document: Document) -> None:
        self._documents.setdefault(identity[:2], {})[identity[2]] = document


@dataclass(slots=True)
class Present:
    """What is there already and need not be made, among the manifests and in the cluster they are laid over."""

    controlled: set[tuple[str, str, str]] = field(default_factory=set)
    """Namespace, kind and name of controllers of pods and of ReplicaSets."""
    labelled: set[tuple[str, str, str]] = field(default_factory=set)
    """Namespace, label and value of pods and Jobs that a JobSet or a LeaderWorkerSet has made."""
    of_replica_sets: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    """Namespace and labels of pods that a ReplicaSet has made."""
    claims: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """Namespace, pod and the pod's name for it -> a claim made from a template."""

    def note(self, what: Name, written: Fields) -> None:
        """An object that is there. Raises Bad."""
        metadata = written.mapping("metadata")
        namespace = metadata.text("namespace")
        kind, name = _controller(metadata)
        labels = metadata.texts("labels")
        if what == CLAIM:
            entry = metadata.texts("annotations").get(POD_CLAIM_NAME_ANNOTATION)
            if kind == "Pod" and entry is not None:
                self.claims[namespace, name, entry] = metadata.text("name")
            return
        if kind:
            self.controlled.add((namespace, kind, name))
        if what == POD and kind == "ReplicaSet":
            self.of_replica_sets.append((namespace, labels))
        for label in (JOB_SET_LABEL, LWS_LABEL):
            if label in labels:
                self.labelled.add((namespace, label, labels[label]))

    def of_selector(self, namespace: str, wanted: Mapping[str, str]) -> bool:
        """Whether a ReplicaSet has made pods that this selector matches."""
        return bool(wanted) and any(
            where == namespace and wanted.items() <= labels.items() for where, labels in self.of_replica_sets
        )


def _controller(metadata: Fields) -> tuple[str, str]:
    for owner in metadata.items("ownerReferences"):
        if owner.flag("controller"):
            return owner.text("kind"), owner.text("name")
    return "", ""


def _applied(below: Document, above: Document) -> Document:
    """The cluster's object with what the manifest says: its labels, annotations and the rest, but who it is stays."""
    metadata = {**above["metadata"], **below["metadata"]}
    for name in ("labels", "annotations"):
        metadata[name] = {**(below["metadata"].get(name) or {}), **(above["metadata"].get(name) or {})}
    return {**below, **{name: value for name, value in above.items() if name != "status"}, "metadata": metadata}
