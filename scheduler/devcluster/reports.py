"""Events that controllers and kubelets write: one object per cause, counted up instead of repeated."""

from __future__ import annotations

import hashlib

from scheduler.devcluster import kinds
from scheduler.devcluster.access import Api, StatusError
from scheduler.devcluster.objects import Obj

NORMAL, WARNING = "Normal", "Warning"
_GONE = (403, 404)  # the namespace is going or gone: nobody will read the event


class Reports:
    """Writes the events of one component."""

    def __init__(self, api: Api, component: str) -> None:
        self._api = api
        self._component = component

    async def warn(self, about: Obj, reason: str, message: str) -> None:
        """A Warning about an object."""
        await self._report(WARNING, about, reason, message)

    async def note(self, about: Obj, reason: str, message: str) -> None:
        """A Normal event about an object."""
        await self._report(NORMAL, about, reason, message)

    async def _report(self, type_: str, about: Obj, reason: str, message: str) -> None:
        meta, now = about["metadata"], self._api.now()
        digest = hashlib.sha256(f"{meta['uid']}\n{self._component}\n{reason}\n{message}".encode()).hexdigest()
        namespace, name = meta.get("namespace") or "default", f"{meta['name']}.{digest[:16]}"
        try:
            old = await self._api.get(kinds.EVENT, namespace, name)
        except StatusError as error:
            if error.code != 404:
                raise
        else:
            change = {"count": int(old.get("count") or 1) + 1, "lastTimestamp": now}
            await self._api.patch(kinds.EVENT, namespace, name, change)
            return
        event: Obj = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": meta["name"],
                "uid": meta["uid"],
                "resourceVersion": meta.get("resourceVersion", ""),
            },
            "type": type_,
            "reason": reason,
            "message": message,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": "",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        if meta.get("namespace"):
            event["involvedObject"]["namespace"] = namespace
        try:
            await self._api.create(kinds.EVENT, event)
        except StatusError as error:
            if error.code not in _GONE:
                raise
