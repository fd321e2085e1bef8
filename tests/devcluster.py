"""Objects and a store for tests of the embedded cluster: only what a test is about needs to be said."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from scheduler.devcluster import kinds
from scheduler.devcluster.errors import StatusError
from scheduler.devcluster.store import Store

Obj = dict[str, Any]
NOW = "2026-01-01T00:00:00Z"


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: str = NOW) -> None:
        self.now = now

    def __call__(self) -> str:
        return self.now


def uids() -> Callable[[], str]:
    """Uids that count up: the same in every run."""
    number = 0

    def next_uid() -> str:
        nonlocal number
        number += 1
        return str(uuid.UUID(int=number))

    return next_uid


def new_store(*, clock: Callable[[], str] | None = None, window: int = 8192) -> Store:
    """An empty store with a standing clock."""
    return Store(clock or Clock(), uids(), window=window)


def pod(name: str = "web", *, meta: Obj | None = None, container: Obj | None = None, **spec: Any) -> Obj:
    """A pod of one container."""
    containers = [{"name": "main", "image": "app", **(container or {})}]
    return {"metadata": {"name": name, **(meta or {})}, "spec": {"containers": containers, **spec}}


def claim(name: str = "gpu", *, spec: Obj | None = None, meta: Obj | None = None) -> Obj:
    """A ResourceClaim of one device."""
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}}
    return {"metadata": {"name": name, **(meta or {})}, "spec": spec or {"devices": {"requests": [request]}}}


def allocation(device: str = "gpu-0", request: str = "gpu") -> Obj:
    """What a scheduler writes to a claim's status.allocation."""
    result = {"request": request, "driver": "gpu.example.com", "pool": "n1", "device": device}
    return {"devices": {"results": [result]}}


def consumer(name: str, uid: str = "") -> Obj:
    """An entry of status.reservedFor."""
    return {"resource": "pods", "name": name, "uid": uid or f"uid-of-{name}"}


def resource_slice(name: str = "n1-gpus", **spec: Any) -> Obj:
    """A ResourceSlice of one device on node n1."""
    pool = {"name": "n1", "generation": 1, "resourceSliceCount": 1}
    whole = {"driver": "gpu.example.com", "nodeName": "n1", "pool": pool, "devices": [{"name": "gpu-0"}]}
    return {"metadata": {"name": name}, "spec": {**whole, **spec}}


def owned_by(owner: Obj, **more: Any) -> Obj:
    """Metadata with a controller reference to `owner`."""
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"]}
    return {"ownerReferences": [{**reference, "uid": owner["metadata"]["uid"], "controller": True, **more}]}


def bound(store: Store, name: str = "web", node: str = "n1", **more: Any) -> Obj:
    """A pod in the store that is bound to a node."""
    store.create(kinds.POD, pod(name, **more))
    store.bind("default", name, {"target": {"kind": "Node", "name": node}})
    return store.get(kinds.POD, "default", name)


def definition(properties: Obj, *, version: Obj | None = None, scope: str = "Namespaced", **spec: Any) -> Obj:
    """A CustomResourceDefinition of widgets.example.com with this spec schema."""
    schema = {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": properties},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    served = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        **(version or {}),
    }
    names = {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]}
    return {
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": scope, "names": names, "versions": [served], **spec},
    }


def refusal(code: int, reason: str) -> Any:
    """`with refusal(409, "Conflict"):` passes when the block is refused with just that."""
    return pytest.raises(StatusError, check=lambda error: (error.code, error.reason) == (code, reason))


def faulty_fields(refused: StatusError) -> list[str]:
    """The fields a 422 complains about."""
    return [cause["field"] for cause in (refused.details or {})["causes"]]
