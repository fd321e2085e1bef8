"""Which rules apply to which kind."""

from __future__ import annotations

from scheduler.devcluster import kinds
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.objects import Obj, with_field
from scheduler.devcluster.rules import PLAIN, Lookup, Rules


def _begin_namespace(obj: Obj, _lookup: Lookup) -> Obj:
    name = obj["metadata"]["name"]
    labels = {**(obj["metadata"].get("labels") or {}), "kubernetes.io/metadata.name": name}
    obj = with_field(obj, ("metadata", "labels"), labels)
    return {**obj, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}


_RULES: dict[str, Rules] = {
    kinds.NAMESPACE.key: Rules(begin=_begin_namespace),
    kinds.NODE.key: Rules(keeps_status_on_create=True, status_write_keeps_meta=False),
}


def rules_of(kind: Kind) -> Rules:
    """The rules of a kind; most have none of their own."""
    return _RULES.get(kind.key, PLAIN)
