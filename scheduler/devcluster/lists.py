"""How the lists of the API merge: by a key, as a set, or whole. For strategic merge patch and server-side apply.

Facts from the Kubernetes API types: patchMergeKey/patchStrategy and x-kubernetes-list-type/-list-map-keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Lists:
    """The merge behaviour below one field.

    `fields` describes an object's fields, `item` the entries of a list. `merge_key` is that of strategic merge (None:
    the list is replaced), `map_keys` those of server-side apply (empty: atomic, unless `is_set`). `atomic` marks an
    object that is taken whole, `of_objects` a list of objects that has no keys.
    """

    fields: Mapping[str, Lists] = field(default_factory=dict)
    items: Lists | None = None
    merge_key: str | None = None
    merges_values: bool = False
    map_keys: tuple[str, ...] = ()
    map_defaults: tuple[tuple[str, Any], ...] = ()
    is_set: bool = False
    atomic: bool = False
    of_objects: bool = False

    def field(self, name: str) -> Lists:
        """The behaviour below a field of an object."""
        return self.fields.get(name, ATOMIC_LISTS)

    @property
    def item(self) -> Lists:
        """The behaviour below an entry of a list."""
        return self.items or ATOMIC_LISTS


ATOMIC_LISTS = Lists()
_ATOM = Lists(atomic=True)
_ROWS = Lists(of_objects=True)


def _by(*keys: str, patch: str | None = "", **fields: Lists) -> Lists:
    """A list with map keys; `patch` is the strategic merge key where it is not the first of them."""
    merge_key = keys[0] if patch == "" else patch
    return Lists(items=Lists(fields), merge_key=merge_key, map_keys=keys)


def _obj(**fields: Lists) -> Lists:
    return Lists(fields)


_SET = Lists(is_set=True, merges_values=True)
_CONDITIONS = _by("type")
_META = _obj(ownerReferences=_by("uid"), finalizers=_SET)
_PORTS = Lists(
    items=ATOMIC_LISTS,
    merge_key="containerPort",
    map_keys=("containerPort", "protocol"),
    map_defaults=(("protocol", "TCP"),),
)
_CONTAINERS = _by(
    "name",
    ports=_PORTS,
    env=_by("name"),
    volumeMounts=_by("mountPath"),
    volumeDevices=_by("devicePath"),
    resources=_obj(claims=_by("name", patch=None)),
)
_POD_SPEC = _obj(
    containers=_CONTAINERS,
    initContainers=_CONTAINERS,
    ephemeralContainers=_CONTAINERS,
    volumes=_by("name"),
    imagePullSecrets=_by("name"),
    hostAliases=_by("ip"),
    resourceClaims=_by("name"),
    schedulingGates=_by("name"),
    topologySpreadConstraints=_by("topologyKey", "whenUnsatisfiable"),
    nodeSelector=_ATOM,
    tolerations=_ROWS,
)
_TEMPLATE = _obj(metadata=_META, spec=_POD_SPEC)
_WORKLOAD = _obj(
    metadata=_META,
    spec=_obj(template=_TEMPLATE, selector=_ATOM),
    status=_obj(conditions=_CONDITIONS),
)
_PLAIN = _obj(metadata=_META, status=_obj(conditions=_CONDITIONS))
_CLAIM_SPEC = _obj(devices=_obj(requests=_ROWS, constraints=_ROWS, config=_ROWS))

_BY_KIND: dict[str, Lists] = {
    "pods": _obj(
        metadata=_META,
        spec=_POD_SPEC,
        status=_obj(
            conditions=_CONDITIONS,
            podIPs=_by("ip"),
            hostIPs=_by("ip"),
            resourceClaimStatuses=_by("name"),
            containerStatuses=_ROWS,
            initContainerStatuses=_ROWS,
        ),
    ),
    "nodes": _obj(
        metadata=_META,
        spec=_obj(
            taints=Lists(merge_key="key"),
            podCIDRs=_SET,
        ),
        status=_obj(conditions=_CONDITIONS, addresses=_by("type")),
    ),
    "services": _obj(
        metadata=_META,
        spec=_obj(
            ports=Lists(
                merge_key="port", map_keys=("port", "protocol"), map_defaults=(("protocol", "TCP"),), items=ATOMIC_LISTS
            ),
            selector=_ATOM,
        ),
        status=_obj(conditions=_CONDITIONS),
    ),
    "serviceaccounts": _obj(metadata=_META, secrets=_by("name")),
    "resourceclaims.resource.k8s.io": _obj(
        metadata=_META,
        spec=_CLAIM_SPEC,
        status=_obj(
            reservedFor=_by("uid"),
            devices=Lists(
                items=_obj(conditions=_CONDITIONS), map_keys=("driver", "device", "pool", "shareID"), merge_key=None
            ),
            allocation=_obj(devices=_obj(results=_ROWS, config=_ROWS), nodeSelector=_ATOM),
        ),
    ),
}
for _name in (
    "deployments.apps",
    "replicasets.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "jobs.batch",
):
    _BY_KIND[_name] = _WORKLOAD


def lists_of(key: str) -> Lists:
    """The merge behaviour of a built-in kind, by its table key."""
    return _BY_KIND.get(key, _PLAIN)


def check_shape(value: Any, lists: Lists, name: str = "the object") -> None:
    """Raises ValueError where an object or a list of objects belongs and something else is. Null is nothing."""
    if lists.map_keys or lists.merge_key or lists.of_objects:
        if not isinstance(value, list):
            raise ValueError(f"{name}: a list of objects is needed")
        below = lists.items if lists.items is not None and lists.items.fields else None
        for item in value:
            if not isinstance(item, dict):
                raise ValueError(f"{name}: a list of objects is needed")
            if below is not None:
                check_shape(item, below, name)
    elif lists.fields or lists.atomic:
        if not isinstance(value, dict):
            raise ValueError(f"{name}: an object is needed")
        for field, inner in lists.fields.items():
            item = value.get(field)
            if item is not None:
                check_shape(item, inner, field)
