"""OpenAPI documents, as far as kubectl needs them.

Version 3 names every kind with its verbs, so that kubectl sends its field validation to the server; custom resources
have their schema in it, built-in kinds an open one (kubectl brings its own merge keys for those). Version 2 is the
smallest valid document: kubectl falls back to what it knows.
"""

from __future__ import annotations

from hashlib import sha256

from scheduler.devcluster.kinds import Kind, Registry
from scheduler.devcluster.objects import Obj, encode
from scheduler.devcluster.patch import APPLY_PATCH, JSON_PATCH, MERGE_PATCH

TITLE = "Tutti embedded cluster"
_OBJECT_META: Obj = {
    "description": "Standard object metadata.",
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "The name, unique within a namespace."},
        "generateName": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "x-kubernetes-preserve-unknown-fields": True,
}


def _prefix(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def index(registry: Registry, version: str) -> Obj:
    """/openapi/v3: where each group's document lies. The address changes when the document does."""
    paths = {}
    for group, name in sorted({(kind.group, kind.version) for kind in registry}):
        digest = sha256(version.encode() + encode(document(registry, group, name))).hexdigest()[:32].upper()
        paths[_prefix(group, name)] = {"serverRelativeURL": f"/openapi/v3/{_prefix(group, name)}?hash={digest}"}
    return {"paths": paths}


def _gvk(kind: Kind) -> Obj:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _schema_name(kind: Kind) -> str:
    domain = ".".join(reversed(kind.group.split("."))) if kind.group else "io.k8s.api.core"
    return f"{domain}.{kind.version}.{kind.kind}"


def _schema(kind: Kind) -> Obj:
    gvk = {"x-kubernetes-group-version-kind": [_gvk(kind)]}
    if kind.schema is None:
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True, **gvk}
    properties = dict(kind.schema.root.get("properties") or {})
    properties["apiVersion"] = {"type": "string", "description": "The version of this form of the object."}
    properties["kind"] = {"type": "string", "description": "The kind of the object."}
    properties["metadata"] = _OBJECT_META
    return {**kind.schema.root, "properties": properties, **gvk}


def _parameter(name: str) -> Obj:
    return {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}


def _operation(kind: Kind, action: str, body: tuple[str, ...] = ()) -> Obj:
    reference = {"$ref": f"#/components/schemas/{_schema_name(kind)}"}
    operation: Obj = {
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(kind),
    }
    if body:
        operation["parameters"] = [_parameter(name) for name in ("dryRun", "fieldManager", "fieldValidation")]
        operation["requestBody"] = {"content": {media: {"schema": reference} for media in body}}
    return operation


def _paths(kind: Kind) -> Obj:
    base = f"/{_prefix(kind.group, kind.version)}"
    base += "/namespaces/{namespace}" if kind.namespaced else ""
    base += f"/{kind.plural}"
    return {
        base: {
            "get": _operation(kind, "list"),
            "post": _operation(kind, "post", ("application/json",)),
        },
        base + "/{name}": {
            "get": _operation(kind, "get"),
            "put": _operation(kind, "put", ("application/json",)),
            "patch": _operation(kind, "patch", (JSON_PATCH, MERGE_PATCH, APPLY_PATCH)),
            "delete": _operation(kind, "delete"),
        },
    }


def document(registry: Registry, group: str, version: str) -> Obj | None:
    """/openapi/v3/<group version>, or None when it is not served."""
    found = sorted(
        (kind for kind in registry if (kind.group, kind.version) == (group, version)), key=lambda kind: kind.plural
    )
    if not found:
        return None
    paths: Obj = {}
    for kind in found:
        paths |= _paths(kind)
    return {
        "openapi": "3.0.0",
        "info": {"title": TITLE, "version": version},
        "paths": paths,
        "components": {"schemas": {_schema_name(kind): _schema(kind) for kind in found}},
    }


def version_two() -> Obj:
    """/openapi/v2 as JSON."""
    return {"swagger": "2.0", "info": {"title": TITLE, "version": "v1"}, "paths": {}, "definitions": {}}


def version_two_protobuf() -> bytes:
    """The same as gnostic's openapi.v2.Document: field 1 swagger, field 2 info {1 title, 2 version}."""

    def text(field: int, data: bytes) -> bytes:
        return bytes([field << 3 | 2, len(data)]) + data

    info = text(1, TITLE.encode()) + text(2, b"v1")
    return text(1, b"2.0") + text(2, info)
