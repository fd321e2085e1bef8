"""How objects are made of a controller's template, for plans of manifests: names, uids, and how many at most."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from scheduler.model.reasons import Unreadable
from scheduler.state.cast import POD, Cast, Document, Identity, Name, Present
from scheduler.state.fields import Bad, Fields

MOST_PODS = 20_000
"""That are made of all manifests together."""
_MOST_BYTES = 128 * 1024 * 1024
# What a made object holds besides what its template says.
_HEAD_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
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
class Extra:
    """What a controller writes on a pod besides its template."""

    suffix: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Making:
    """What is made, and how much more may be: a few letters of a manifest ask for millions of pods."""

    cast: Cast
    present: Present
    _pods_left: int = MOST_PODS
    _bytes_left: int = _MOST_BYTES

    def template(self, holder: Fields, name: str, count: int) -> "Template":
        """The template below `holder` that `count` pods are about to be made of."""
        template = holder.needed(name)
        self._pods_left -= count
        if self._pods_left < 0:
            raise _too_much(template, f"more than {MOST_PODS} pods would be made")
        self.charge(template, count)
        metadata = template.mapping("metadata")
        return Template(
            labels=metadata.texts("labels"),
            annotations=metadata.texts("annotations"),
            spec=template.needed("spec"),
        )

    def charge(self, template: Fields, count: int) -> None:
        """`count` objects are about to be made of this template."""
        self._bytes_left -= count * (len(msgspec.json.encode(template.values)) + _HEAD_BYTES)
        if self._bytes_left < 0:
            raise _too_much(template, f"more than {_MOST_BYTES} bytes of objects would be made")

    def pod(self, owner: Owner, template: "Template", extra: Extra, *, volumes: Sequence[str] = ()) -> None:
        name = f"{owner.name}-{extra.suffix}"
        if self.cast.get(POD, f"{owner.namespace}/{name}") is not None:
            name = f"{owner.name}-{owner.identity[1].lower()}-{extra.suffix}"
        labels, annotations = {**template.labels, **extra.labels}, {**template.annotations, **extra.annotations}
        metadata = owned(owner, POD, name, labels, annotations)
        spec = template.spec.values
        if volumes:
            kept = [each.values for each in template.spec.items("volumes") if each.text("name") not in volumes]
            claims = ({"claimName": f"{volume}-{owner.name}-{extra.suffix}"} for volume in volumes)
            added = [{"name": v, "persistentVolumeClaim": c} for v, c in zip(volumes, claims, strict=True)]
            spec = {**spec, "volumes": [*kept, *added]}
        document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self.cast.make(POD, document, owner.identity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec: Fields


def owned(owner: Owner, made: Name, name: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> Document:
    """The metadata of what the owner's controller makes, as old as the owner."""
    of = owner.fields.mapping("metadata")
    metadata: Document = {
        "name": name,
        "namespace": owner.namespace,
        "uid": derived_uid(*made, f"{owner.namespace}/{name}"),
        "labels": dict(labels),
        "annotations": dict(annotations),
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
    return metadata


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


def derived_uid(api_version: str, kind: str, key: str) -> str:
    """A uid that depends on nothing but which object it is."""
    group = api_version.rpartition("/")[0]
    digest = hashlib.sha256(f"{group}/{kind}/{key}".encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def count_of(holder: Fields, name: str) -> int:
    """A number of replicas; 1 if absent, as everywhere in Kubernetes."""
    count = holder.whole(name)
    return 1 if count is None else count
