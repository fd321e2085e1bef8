"""What stands above a pod: its controller, that one's controller, and so on, as far as we know the kinds.

Two kinds of owners are found by label as well, because what is between them and the pod is not read or not yet there:
JobSet and LeaderWorkerSet. Source: the labels that these controllers give; reference kai.md 1.4.
"""

from collections.abc import Callable, Mapping

from scheduler.api import core
from scheduler.api.kinds import JOB_SET, LEADER_WORKER_SET, OWNERS, Document, Kind
from scheduler.api.meta import ObjectMeta, OwnerReference

JOB_SET_LABEL = "jobset.sigs.k8s.io/jobset-name"
LWS_LABEL = "leaderworkerset.sigs.k8s.io/name"

Find = Callable[[Kind, str], Document | None]
Above = tuple[tuple[Kind, str], ...]
"""Kinds and keys, the outermost first."""

_KNOWN: Mapping[tuple[str, str], Kind] = {(kind.group, kind.kind): kind for kind in OWNERS}
_BY_LABEL = ((LEADER_WORKER_SET, LWS_LABEL), (JOB_SET, JOB_SET_LABEL))
_MOST = 8
"""Of owners above each other; the longest chain there is has five. What is above is not looked at."""


def lineage(pod: core.Pod, find: Find) -> Above:
    """The owners of a pod that we know how to read, the outermost first, those not (yet) there included."""
    meta, labels = pod.metadata, pod.metadata.labels or {}
    controller = meta.controller
    named = [(kind, labels[label]) for kind, label in _BY_LABEL if labels.get(label)] if labels else []
    if controller is None and not named:
        return ()
    found: list[tuple[Kind, str]] = []
    if controller is not None:
        _climb(found, meta.namespace, controller, find)
    for kind, name in named:
        key = f"{meta.namespace}/{name}"
        if (kind, key) not in found:
            found.append((kind, key))
            _climb(found, meta.namespace, _controller(find(kind, key)), find)
    return tuple(reversed(found))


def _climb(found: list[tuple[Kind, str]], namespace: str, step: OwnerReference | None, find: Find) -> None:
    """Add this owner and those above it. Owners in a circle are each there once."""
    while step is not None and len(found) < _MOST:
        kind = _KNOWN.get((step.api_version.partition("/")[0], step.kind))
        if kind is None or (kind, f"{namespace}/{step.name}") in found:
            return
        found.append((kind, f"{namespace}/{step.name}"))
        step = _controller(find(*found[-1]))


def _controller(document: Document | None) -> OwnerReference | None:
    meta: ObjectMeta | None = document.metadata if document is not None else None
    return meta.controller if meta is not None else None
