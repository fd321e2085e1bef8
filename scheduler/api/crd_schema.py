"""Our kinds as CustomResourceDefinitions, made from the pydantic models in `scheduler.api.crds`.

pydantic writes JSON schema 2020-12; a definition takes structural OpenAPI v3.0 schemas: no references, one type per
node, no null alternatives, exclusive bounds as switches. Source: apiextensions.k8s.io/v1 (structural schemas).
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from scheduler.api.crds import GROUP, VERSION, PodGroup, Queue, Topology

Schema = dict[str, Any]

# In the order in which a reader wants them.
_KEPT = (
    "description",
    "type",
    "format",
    "required",
    "enum",
    "default",
    "pattern",
    "minimum",
    "maximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
)
# What pydantic adds for readers of JSON schema only.
_DROPPED = frozenset(("title", "examples", "deprecated", "propertyNames"))
_INT_OR_STRING = "x-kubernetes-int-or-string"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of `kubectl get`. `wide`: only with -o wide."""

    name: str
    path: str
    type: str = "string"
    description: str = ""
    wide: bool = False

    def document(self) -> Schema:
        made: Schema = {"name": self.name, "type": self.type, "jsonPath": self.path}
        if self.description:
            made["description"] = self.description
        return {**made, "priority": 1} if self.wide else made


_AGE = Column(name="Age", type="date", path=".metadata.creationTimestamp")

_QUEUE_COLUMNS = (
    Column(name="Parent", path=".spec.parentQueue"),
    Column(name="GPUs", path=".status.allocated.gpu", description="GPUs in use."),
    Column(name="Quota", path=".spec.resources.gpu.quota", description="GPUs guaranteed."),
    Column(name="Limit", path=".spec.resources.gpu.limit", description="GPUs never exceeded."),
    Column(name="Fair-Share", path=".status.fairShare.gpu", description="GPUs it may count on at present."),
    Column(name="Running", type="integer", path=".status.running", description="Gangs that run."),
    Column(name="Pending", type="integer", path=".status.pending", description="Gangs that wait."),
    Column(name="Ready", path='.status.conditions[?(@.type=="Ready")].status'),
    Column(name="Priority", type="integer", path=".spec.priority", wide=True),
    _AGE,
)
_POD_GROUP_COLUMNS = (
    Column(name="Queue", path=".spec.queue"),
    Column(name="Needed", type="integer", path=".status.needed", description="Pods that start together."),
    Column(name="Bound", type="integer", path=".status.bound", description="Pods with a node."),
    Column(name="Running", type="integer", path=".status.running"),
    Column(name="Scheduled", path='.status.conditions[?(@.type=="Scheduled")].status'),
    Column(name="Reason", path=".status.reason.code"),
    Column(name="Message", path=".status.reason.message", wide=True),
    Column(name="Cure", path=".status.reason.cure", wide=True),
    _AGE,
)
_TOPOLOGY_COLUMNS = (Column(name="Coarsest", path=".spec.levels[0].key"), _AGE)


def crds() -> list[Schema]:
    """The definitions of Queue, PodGroup and Topology, by name; plain values for YAML or JSON."""
    return [
        _definition(PodGroup, plural="podgroups", scope="Namespaced", columns=_POD_GROUP_COLUMNS),
        _definition(Queue, plural="queues", scope="Cluster", columns=_QUEUE_COLUMNS),
        _definition(Topology, plural="topologies", scope="Cluster", columns=_TOPOLOGY_COLUMNS),
    ]


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of a model. Raises ValueError for what such a schema cannot say (a union, recursion)."""
    schema = model.model_json_schema(by_alias=True)
    return _structural(schema, schema.get("$defs", {}), ())


def _definition(model: type[BaseModel], *, plural: str, scope: str, columns: Sequence[Column]) -> Schema:
    kind = model.__name__
    schema = structural(model)
    properties = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        **schema["properties"],
    }
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [column.document() for column in columns],
        "schema": {"openAPIV3Schema": {**schema, "properties": properties}},
    }
    if "status" in properties:
        version["subresources"] = {"status": {}}
    names = {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "categories": ["tutti"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "scope": scope, "names": names, "versions": [version]},
    }


def _structural(node: Mapping[str, Any], definitions: Mapping[str, Any], seen: tuple[str, ...]) -> Schema:
    if "$ref" in node:
        name = str(node["$ref"]).rsplit("/", 1)[-1]
        if name in seen:
            raise ValueError(f"{name} contains itself, which a structural schema cannot say")
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _structural({**definitions[name], **beside}, definitions, (*seen, name))
    if "anyOf" in node and _INT_OR_STRING not in node:
        return _structural(_only_alternative(node), definitions, seen)
    made: Schema = {}
    for key, value in node.items():
        if key in _DROPPED or key == "$defs" or (key == "default" and value in (None, {}, [])):
            continue
        if key == "properties":
            made[key] = {name: _structural(below, definitions, seen) for name, below in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            made[key] = _structural(value, definitions, seen)
        elif key == "const":
            made["enum"] = [value]
        elif key in ("exclusiveMinimum", "exclusiveMaximum"):
            made[key], made["minimum" if key == "exclusiveMinimum" else "maximum"] = True, value
        elif key in _KEPT or key.startswith("x-kubernetes-") or (key == "anyOf" and _INT_OR_STRING in node):
            made[key] = " ".join(value.split()) if key == "description" else deepcopy(value)
        else:
            raise ValueError(f"{key} has no place in a structural schema")
    if made.get("type") == "integer":
        made.setdefault("format", "int64")
    return {key: made[key] for key in sorted(made, key=_place)}


def _place(key: str) -> int:
    return _KEPT.index(key) if key in _KEPT else len(_KEPT)


def _only_alternative(node: Mapping[str, Any]) -> Schema:
    """`X | None` is X: what is optional may be absent, never null."""
    alternatives = [each for each in node["anyOf"] if each.get("type") != "null"]
    if len(alternatives) != 1:
        kinds = ", ".join(sorted(str(each.get("type", "an object")) for each in alternatives))
        raise ValueError(f"a union ({kinds}) is not structural: give each alternative its own optional field")
    return {**alternatives[0], **{key: value for key, value in node.items() if key != "anyOf"}}
