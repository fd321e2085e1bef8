"""From what a client sent to what is stored: one create, one change, one binding, as pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from scheduler.api.attributes import PLACE_LABELS
from scheduler.devcluster import apply, errors, kinds, patch
from scheduler.devcluster.errors import FieldError, StatusError, bad_request
from scheduler.devcluster.kind_rules import rules_of
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.lists import Lists, check_shape, lists_of
from scheduler.devcluster.objects import Obj, field_of, with_condition, with_field
from scheduler.devcluster.rules import Lookup, check_meta, refuse

_SERVER_FIELDS = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "resourceVersion",
    "generateName",
)
_UNKNOWN_FORMAT = "the body of the request was in an unknown format - accepted media types include: "
_ABSENT: Obj = {}
_NOT_SPEC = frozenset(("metadata", "status", "apiVersion", "kind"))
_NO_GENERATION = frozenset(
    (
        kinds.EVENT.key,
        kinds.CONFIG_MAP.key,
        kinds.SECRET.key,
        kinds.LEASE.key,
        kinds.NAMESPACE.key,
        kinds.NODE.key,
        kinds.CLAIM.key,
        kinds.CLAIM_TEMPLATE.key,
        kinds.SERVICE_ACCOUNT.key,
        kinds.ROLE.key,
        kinds.ROLE_BINDING.key,
        kinds.CLUSTER_ROLE.key,
        kinds.CLUSTER_ROLE_BINDING.key,
        kinds.SERVICE.key,
        kinds.VOLUME.key,
        kinds.VOLUME_CLAIM.key,
        kinds.STORAGE_CLASS.key,
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """The circumstances of one write. `manager` is the field manager the client names, if it does."""

    kind: Kind
    now: str
    subresource: str | None = None
    manager: str | None = None
    patch_type: str | None = None
    force: bool = False


def merge_lists(kind: Kind) -> Lists:
    """How the lists of a kind merge."""
    return kind.schema.lists if kind.schema is not None else lists_of(kind.key)


def begin(write: Write, obj: Obj, lookup: Lookup) -> Obj:
    """A new object, complete: defaults, admission, validation, generation 1. Name and uid are set already."""
    kind, meta = write.kind, obj["metadata"]
    if meta.get("resourceVersion"):
        raise bad_request("resourceVersion should not be set on objects to be created")
    if kind.namespaced:
        _check_namespace(kind, meta, lookup)
    rules = rules_of(kind)
    if kind.has_status and not rules.keeps_status_on_create and "status" in obj:
        obj = {key: value for key, value in obj.items() if key != "status"}
    dropped = [key for key in ("deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion") if key in meta]
    meta = {key: value for key, value in meta.items() if key not in dropped}
    if kind.key not in _NO_GENERATION:
        meta["generation"] = 1
    if not _applied(meta):
        meta.pop("managedFields", None)
    obj = {**obj, "metadata": meta}
    with _readable(kind):
        faults = check_meta(kind, obj)
        if faults:
            raise refuse(kind, obj, faults)
        obj = _shaped(kind, obj)
        if write.manager and not meta.get("managedFields"):  # what admission adds belongs to nobody
            obj = apply.track(None, obj, _author(write), merge_lists(kind))
        if rules.begin is not None:
            obj = rules.begin(obj, lookup)
        obj = rules.stamp(obj, write.now)
        faults = _faults(kind, obj)
    if faults:
        raise refuse(kind, obj, faults)
    rules.admit(obj, lookup)
    return obj


def _applied(meta: Obj) -> bool:
    return any(entry.get("operation") == "Apply" for entry in meta.get("managedFields") or ())


def _check_namespace(kind: Kind, meta: Obj, lookup: Lookup) -> None:
    name = meta["namespace"]
    namespace = lookup.find(kinds.NAMESPACE, "", name)
    if namespace is None:
        raise errors.not_found(kinds.NAMESPACE, name)
    if namespace["metadata"].get("deletionTimestamp"):
        text = f"unable to create new content in namespace {name} because it is being terminated"
        refusal = errors.forbidden(kind, str(meta.get("name") or ""), text)
        cause = {"reason": "NamespaceTerminating", "message": f"namespace {name} is being terminated"}
        refusal.details = {**(refusal.details or {}), "causes": [{**cause, "field": "metadata.namespace"}]}
        raise refusal


@contextmanager
def _readable(kind: Kind) -> Iterator[None]:
    """Rules walk objects of any shape: a list where an object belongs is the client's fault, not ours."""
    try:
        yield
    except (AttributeError, TypeError, ValueError, KeyError, IndexError) as error:
        text = f"{kind.kind} in version {kind.version!r} cannot be handled as a {kind.kind}: {error}"
        raise bad_request(text) from error


def _shaped(kind: Kind, obj: Obj) -> Obj:
    """Defaults filled in; for custom resources also unknown fields removed."""
    with _readable(kind):
        if kind.schema is not None:
            obj = kind.schema.shaped(obj)
        else:
            obj = _with_object_fields(kind, obj)
        return rules_of(kind).defaults(obj)


def _with_object_fields(kind: Kind, obj: Obj) -> Obj:
    """The object without a null spec or status. Raises ValueError for one that has not the shape of its kind."""
    for field in ("spec", "status"):
        value = obj.get(field, _ABSENT)
        if value is None:
            obj = {key: item for key, item in obj.items() if key != field}
        elif value is not _ABSENT and not isinstance(value, dict):
            raise ValueError(f"{field}: an object is needed, not {type(value).__name__}")
    check_shape(obj, lists_of(kind.key))
    return obj


def _faults(kind: Kind, obj: Obj) -> list[FieldError]:
    faults = kind.schema.faults(obj) if kind.schema is not None else []
    return faults or rules_of(kind).check(obj)


def change(write: Write, old: Obj, new: Obj) -> Obj:
    """The next version of an object, or `old` itself when nothing changes.

    Identity and time stamps are the server's; a status write changes status only, any other leaves status alone;
    generation counts the changes outside metadata and status.
    """
    kind = write.kind
    rules = rules_of(kind)
    meta = _kept_meta(write, old, new, rules.status_write_keeps_meta)
    if write.subresource == "status":
        new = {**{key: value for key, value in old.items() if key != "status"}, **_only(new, "status")}
    elif kind.has_status:
        new = {**{key: value for key, value in new.items() if key != "status"}, **_only(old, "status")}
    new = {**new, "apiVersion": old["apiVersion"], "kind": old["kind"], "metadata": meta}
    with _readable(kind):
        new = rules.stamp(_shaped(kind, new), write.now)
    if old == new:
        return old
    with _readable(kind):
        faults = rules.check_change(old, new, write.subresource)
        if write.subresource != "status":
            faults = check_meta(kind, new) + _faults(kind, new) + faults + _immutable_meta(old, new)
        elif kind.schema is not None or kind.key == kinds.NODE.key:
            faults = _faults(kind, new) + faults
    if faults:
        raise refuse(kind, new, faults)
    if "generation" in old["metadata"] and _spec_differs(old, new):
        new = {**new, "metadata": {**new["metadata"], "generation": old["metadata"]["generation"] + 1}}
    if write.patch_type != patch.APPLY_PATCH and (write.manager or old["metadata"].get("managedFields")):
        new = apply.track(old, new, _author(write), merge_lists(kind))
    return new


def _only(obj: Obj, key: str) -> Obj:
    return {key: obj[key]} if key in obj else {}


def _kept_meta(write: Write, old: Obj, new: Obj, status_keeps: bool) -> Obj:
    before = old["metadata"]
    if write.subresource == "status" and status_keeps:
        meta = dict(before)
        if write.patch_type == patch.APPLY_PATCH and "managedFields" in new["metadata"]:
            meta["managedFields"] = new["metadata"]["managedFields"]
        return meta
    meta = dict(new["metadata"])
    for field in _SERVER_FIELDS:
        if field in before:
            meta[field] = before[field]
        else:
            meta.pop(field, None)
    if meta.get("managedFields") is None and before.get("managedFields") and write.patch_type is None:
        meta["managedFields"] = before["managedFields"]  # a PUT without them does not disown anybody
    for field in ("labels", "annotations", "finalizers", "ownerReferences", "managedFields"):
        if field in meta and not meta[field]:
            del meta[field]
    return meta


def _immutable_meta(old: Obj, new: Obj) -> list[FieldError]:
    before, after = old["metadata"], new["metadata"]
    if before.get("deletionTimestamp"):
        added = [item for item in after.get("finalizers") or () if item not in (before.get("finalizers") or ())]
        if added:
            text = f"no new finalizers can be added if the object is being deleted, found new finalizers {added!r}"
            return [errors.forbidden_field("metadata.finalizers", text)]
    return []


def _spec_differs(old: Obj, new: Obj) -> bool:
    keys = {*old, *new} - _NOT_SPEC
    return any(old.get(key) != new.get(key) for key in keys)


def _author(write: Write) -> apply.Author:
    leaves = "status" if write.kind.has_status and not write.subresource else ""
    return apply.Author(
        manager=write.manager or "unknown", subresource=write.subresource or "", now=write.now, leaves=leaves
    )


def _settable(write: Write, applied: Any) -> Any:
    """The fields of an applied configuration that this subresource can set."""
    if not isinstance(applied, dict) or not write.kind.has_status:
        return applied
    if write.subresource == "status":
        return {key: value for key, value in applied.items() if key in _NOT_SPEC}
    return {key: value for key, value in applied.items() if key != "status"}


def _canonical(kind: Kind, applied: Any) -> Any:
    """An applied configuration with its values as they would be stored (quantities), without adding any."""
    with _readable(kind):
        shaped = rules_of(kind).defaults(applied) if isinstance(applied, dict) else applied
        return applied if shaped is applied else _alike(applied, shaped)


def _alike(value: Any, shaped: Any) -> Any:
    if isinstance(value, dict) and isinstance(shaped, dict):
        return {key: _alike(item, shaped.get(key, item)) for key, item in value.items()}
    if isinstance(value, list) and isinstance(shaped, list) and len(value) == len(shaped):
        return [_alike(item, other) for item, other in zip(value, shaped, strict=True)]
    return shaped


def patched(write: Write, old: Obj | None, body: Any) -> Obj:
    """What the patch makes of the stored object (None: an apply that creates).

    Raises StatusError 400, 409, 415 or 422.
    """
    kind = write.kind
    if write.patch_type == patch.APPLY_PATCH:
        if not write.manager:
            raise bad_request("fieldManager is required for apply patch")
        applied = _canonical(kind, _settable(write, body))
        return apply.merge_applied(old, applied, _author(write), merge_lists(kind), force=write.force)
    assert old is not None
    if write.patch_type == patch.JSON_PATCH:
        new = patch.json_patch(old, body)
    elif not isinstance(body, dict):
        raise bad_request("the patch must be a JSON object")
    elif write.patch_type == patch.MERGE_PATCH:
        new = patch.merge(old, body)
    elif write.patch_type == patch.STRATEGIC_PATCH:
        if kind.custom:
            accepted = (patch.JSON_PATCH, patch.MERGE_PATCH, patch.APPLY_PATCH)
            raise StatusError(415, "UnsupportedMediaType", _UNKNOWN_FORMAT + ", ".join(accepted))
        new = patch.strategic_merge(old, body, lists_of(kind.key))
    else:
        raise StatusError(415, "UnsupportedMediaType", _UNKNOWN_FORMAT + ", ".join(patch.PATCH_TYPES))
    if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
        raise bad_request("the patch leaves no object with metadata")
    for field, value in (("apiVersion", old["apiVersion"]), ("kind", old["kind"])):
        if new.get(field) != value:
            raise bad_request(f"the patch must not change {field}")
    if new["metadata"].get("name") != old["metadata"]["name"]:
        raise bad_request("metadata.name: the name of an object cannot be changed")
    return new


def bound(pod: Obj, binding: Obj, now: str, node_labels: Mapping[str, str]) -> Obj:
    """The pod assigned to the binding's target, a node with these labels. Raises StatusError 409 or 422; see
    Store.bind."""
    name, meta = pod["metadata"]["name"], pod["metadata"]
    target = binding.get("target") or {}
    asked = binding.get("metadata") or {}
    if target.get("kind", "Node") not in ("", "Node"):
        fault = errors.unsupported("target.kind", target.get("kind"), ("Node", ""))
        raise errors.invalid_object(_BINDING, name, [fault])
    if not target.get("name"):
        raise errors.invalid_object(_BINDING, name, [errors.required("target.name")])
    if asked.get("uid") and asked["uid"] != meta["uid"]:
        text = f"Precondition failed: UID in precondition: {asked['uid']}, UID in object meta: {meta['uid']}"
        raise errors.conflict(kinds.POD, name, text, "binding")
    if meta.get("deletionTimestamp"):
        text = f"pod {name} is being deleted, cannot be assigned to a host"
        raise errors.conflict(kinds.POD, name, text, "binding")
    if field_of(pod, "spec", "nodeName"):
        text = f'pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"'
        raise errors.conflict(kinds.POD, name, text, "binding")
    if field_of(pod, "spec", "schedulingGates"):
        raise errors.conflict(kinds.POD, name, f"pod {name} has non-empty .spec.schedulingGates", "binding")
    pod = with_field(pod, ("spec", "nodeName"), str(target["name"]))
    place = {name: node_labels[name] for name in PLACE_LABELS if name in node_labels}
    for field, more in (("annotations", {}), ("labels", place)):
        added = {**(asked.get(field) or {}), **more}
        if added:
            pod = with_field(pod, ("metadata", field), {**(meta.get(field) or {}), **added})
    return with_condition(pod, {"type": "PodScheduled", "status": "True"}, now)


_BINDING = Kind(group="", version="v1", kind="Binding", plural="bindings", singular="binding", namespaced=True)
