"""Older forms of resource.k8s.io objects -> v1, and older versions of owners -> the one we read. Manifests are full of
them, also under the label v1.

In v1beta1, and in many articles that say v1, a request names its class directly instead of below `exactly`, and a
device of a slice has its attributes below `basic`. v1beta2 is v1 by another name. Source: KEP 4381, its API versions.
"""

from collections.abc import Mapping
from typing import Any

from scheduler.api.kinds import OWNERS

Document = dict[str, Any]

_GROUP = "resource.k8s.io/"
_READ = frozenset({"v1", "v1beta1", "v1beta2"})
_OWNERS = {(f"{kind.group}/{version}", kind.kind): kind.api_version for kind in OWNERS for version in kind.older}
"""Of these the fields that we read are the same in every version."""
_EXACTLY = ("deviceClassName", "selectors", "allocationMode", "count", "adminAccess", "tolerations", "capacity")


def modernised(document: Document) -> Document:
    """The document in the version that we read if it is in an older one that we know; else as it is. The given one
    stays."""
    api_version, kind = document.get("apiVersion", ""), document.get("kind")
    newer = _OWNERS.get((api_version, str(kind)))
    if newer is not None:
        return {**document, "apiVersion": newer}
    if not api_version.startswith(_GROUP) or api_version.removeprefix(_GROUP) not in _READ:
        return document
    spec = document.get("spec")
    if not isinstance(spec, dict):
        return document
    if kind == "ResourceClaim":
        document = {**document, "spec": _claim_spec(spec)}
    elif kind == "ResourceClaimTemplate" and isinstance(spec.get("spec"), dict):
        document = {**document, "spec": {**spec, "spec": _claim_spec(spec["spec"])}}
    elif kind == "ResourceSlice":
        document = {**document, "spec": _mapped(spec, "devices", _device)}
    elif kind not in ("DeviceClass", "DeviceTaintRule", "ResourceClaimTemplate"):
        return document
    return {**document, "apiVersion": "resource.k8s.io/v1"}


def _claim_spec(spec: Document) -> Document:
    devices = spec.get("devices")
    if not isinstance(devices, dict):
        return spec
    return {**spec, "devices": _mapped(devices, "requests", _request)}


def _request(request: Document) -> Document:
    if "deviceClassName" not in request or "exactly" in request or "firstAvailable" in request:
        return request
    exactly = {name: request[name] for name in _EXACTLY if name in request}
    rest = {name: value for name, value in request.items() if name not in exactly}
    return {**rest, "exactly": exactly}


def _device(device: Document) -> Document:
    basic = device.get("basic")
    if not isinstance(basic, Mapping):
        return device
    return {**{name: value for name, value in device.items() if name != "basic"}, **basic}


def _mapped(holder: Document, name: str, change: Any) -> Document:
    entries = holder.get(name)
    if not isinstance(entries, list):
        return holder
    return {**holder, name: [change(each) if isinstance(each, dict) else each for each in entries]}
