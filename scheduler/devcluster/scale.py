"""The scale subresource: the number of replicas of a workload, seen as an autoscaling/v1 Scale."""

from __future__ import annotations

from typing import Any

from scheduler.devcluster import errors
from scheduler.devcluster.columns import selector_text
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.objects import Obj, field_of, with_field


def _steps(path: str) -> tuple[str, ...]:
    return tuple(path.removeprefix(".").split("."))


def scale_of(kind: Kind, obj: Obj) -> Obj:
    """The Scale of an object."""
    spec_path, status_path, _ = kind.scale_paths
    meta = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Obj = {"replicas": field_of(obj, *_steps(status_path)) or 0}
    selector = field_of(obj, "spec", "selector")
    if isinstance(selector, dict) and selector:
        status["selector"] = selector_text(selector)
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: meta[key] for key in kept if key in meta},
        "spec": {"replicas": field_of(obj, *_steps(spec_path)) or 0},
        "status": status,
    }


def rescaled(kind: Kind, obj: Obj, scale: Any) -> Obj:
    """The object with the replicas of this Scale; its preconditions (uid, resourceVersion) go with it."""
    replicas = field_of(scale, "spec", "replicas") or 0
    name = obj["metadata"]["name"]
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        fault = errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0")
        raise errors.invalid_object(kind, name, [fault])
    changed = with_field(obj, _steps(kind.scale_paths[0]), replicas)
    asked = field_of(scale, "metadata") or {}
    wanted = {key: asked[key] for key in ("uid", "resourceVersion") if asked.get(key)}
    return {**changed, "metadata": {**changed["metadata"], **wanted}}
