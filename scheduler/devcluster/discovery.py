"""What the server says about itself: groups, versions, resources; in the old form and in the aggregated one."""

from __future__ import annotations

from scheduler.devcluster.kinds import VERBS, Kind, Registry
from scheduler.devcluster.objects import Obj

# Of several versions the stable ones first, each newest first: v2, v1, v1beta2, v1beta1, v1alpha1.
_STAGES = ("alpha", "beta")

# subresource -> (group, version, kind, verbs) where it is not the object's own kind with get, patch, update
_SUBRESOURCES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "binding": ("", "v1", "Binding", ("create",)),
    "eviction": ("policy", "v1", "Eviction", ("create",)),
    "log": ("", "", "", ("get",)),
    "scale": ("autoscaling", "v1", "Scale", ("get", "patch", "update")),
    "finalize": ("", "", "", ("update",)),
}


def version_order(version: str) -> tuple[int, int, int, str]:
    """A sort key that puts the version clients should prefer first."""
    digits = version[1:]
    for rank, stage in enumerate(_STAGES):
        major, found, minor = digits.partition(stage)
        if found and major.isdigit():
            return (2 - rank, -int(major), -int(minor or 0), version)
    return (0, -int(digits), 0, version) if digits.isdigit() else (3, 0, 0, version)


def _groups(registry: Registry) -> dict[str, dict[str, list[Kind]]]:
    """group -> version -> kinds, in the order in which clients should see them."""
    found: dict[str, dict[str, list[Kind]]] = {}
    for kind in registry:
        found.setdefault(kind.group, {}).setdefault(kind.version, []).append(kind)
    return {
        group: {
            version: sorted(found[group][version], key=lambda kind: kind.plural)
            for version in sorted(found[group], key=version_order)
        }
        for group in sorted(found)
    }


def core_versions(address: str) -> Obj:
    """/api."""
    where = {"clientCIDR": "0.0.0.0/0", "serverAddress": address}
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [where]}


def _group(name: str, versions: list[str]) -> Obj:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def group_list(registry: Registry) -> Obj:
    """/apis."""
    groups = [_group(name, list(versions)) for name, versions in _groups(registry).items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(registry: Registry, name: str) -> Obj | None:
    """/apis/<group>, or None when it is not served."""
    versions = _groups(registry).get(name)
    if versions is None:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, list(versions))}


def _resource(kind: Kind) -> Obj:
    resource: Obj = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": sorted(VERBS),
    }
    if kind.short_names:
        resource["shortNames"] = list(kind.short_names)
    if kind.categories:
        resource["categories"] = list(kind.categories)
    return resource


def _subresource(kind: Kind, name: str) -> tuple[str, str, str, tuple[str, ...]]:
    group_name, version, kind_name, verbs = _SUBRESOURCES.get(name, ("", "", "", ("get", "patch", "update")))
    if not kind_name:
        return kind.group, kind.version, kind.kind, verbs
    return group_name, version, kind_name, verbs


def resource_list(registry: Registry, group_name: str, version: str) -> Obj | None:
    """/api/v1 or /apis/<group>/<version>, or None when it is not served."""
    found = _groups(registry).get(group_name, {}).get(version)
    if found is None:
        return None
    resources = []
    for kind in found:
        resources.append(_resource(kind))
        for name in kind.subresources:
            sub_group, sub_version, sub_kind, verbs = _subresource(kind, name)
            resource = {
                "name": f"{kind.plural}/{name}",
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": sub_kind,
                "verbs": list(verbs),
            }
            if (sub_group, sub_version) != (kind.group, kind.version):
                resource |= {"group": sub_group, "version": sub_version}
            resources.append(resource)
    group_version = f"{group_name}/{version}" if group_name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}


def aggregated(registry: Registry, *, core: bool, api_version: str) -> Obj:
    """/api (core) or /apis (the rest) as one APIGroupDiscoveryList of apidiscovery.k8s.io."""
    items = []
    for name, versions in _groups(registry).items():
        if (name == "") is not core:
            continue
        listed = [
            {"version": version, "freshness": "Current", "resources": [_aggregated(kind) for kind in found]}
            for version, found in versions.items()
        ]
        items.append({"metadata": {"name": name, "creationTimestamp": None}, "versions": listed})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items}


def _aggregated(kind: Kind) -> Obj:
    resource: Obj = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": sorted(VERBS),
    }
    if kind.short_names:
        resource["shortNames"] = list(kind.short_names)
    if kind.categories:
        resource["categories"] = list(kind.categories)
    subresources = []
    for name in kind.subresources:
        sub_group, sub_version, sub_kind, verbs = _subresource(kind, name)
        response = {"group": sub_group, "version": sub_version, "kind": sub_kind}
        subresources.append({"subresource": name, "responseKind": response, "verbs": list(verbs)})
    if subresources:
        resource["subresources"] = subresources
    return resource
