"""Events on claims, pods and the node: why something could not be done, where its user looks for it.

To tell must neither delay nor fail what is told about: it is sent beside it, and a refusal is logged.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Literal

import structlog

from dra_driver.devices import ClaimRef
from scheduler.api import kinds
from scheduler.api.kinds import Kind
from scheduler.kube.client import ApiError, Client

log = structlog.get_logger(__name__)

COMPONENT = "tutti-dra-driver"
_LONGEST_NOTE = 1024
_LONGEST_NAME = 253
_MOST_UNSENT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Regarding:
    """The object an event is about. `namespace` is empty for a node."""

    kind: Kind
    namespace: str = ""
    name: str
    uid: str


def claim_and_pods(claim: ClaimRef, document: Mapping[str, Any] | None) -> tuple[Regarding, ...]:
    """The claim, and the pods that it is reserved for, as its document tells."""
    consumers = ((document or {}).get("status") or {}).get("reservedFor") or ()
    pods = (each for each in consumers if each.get("resource") == "pods" and not each.get("apiGroup"))
    return (
        Regarding(kind=kinds.RESOURCE_CLAIM, namespace=claim.namespace, name=claim.name, uid=claim.uid),
        *(Regarding(kind=kinds.POD, namespace=claim.namespace, name=pod["name"], uid=pod["uid"]) for pod in pods),
    )


class Events:
    """`tell` never waits. `node`: the name under which this plugin reports."""

    def __init__(self, client: Client, node: str, now: Callable[[], datetime]) -> None:
        self._client = client
        self._node = node
        self._now = now
        self._sending: set[asyncio.Task[None]] = set()

    def tell(
        self, about: Iterable[Regarding], reason: str, note: str, type_: Literal["Normal", "Warning"] = "Warning"
    ) -> None:
        """One event for each object; the same words once more raise the count of the first."""
        for each in about:
            if len(self._sending) >= _MOST_UNSENT:
                log.warning("too many events wait to be sent; one is left out", object=each.name, note=note)
                return
            task = asyncio.create_task(self._send(each, reason, note, type_))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def sent(self) -> None:
        """Until all that was told so far is sent or refused."""
        await asyncio.gather(*self._sending)

    async def _send(self, about: Regarding, reason: str, note: str, type_: str) -> None:
        document = event(about, reason, note, type_, node=self._node, now=self._now())
        namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
        try:
            try:
                await self._client.create(kinds.EVENT, namespace, document)
            except ApiError as error:
                if not error.already_exists:
                    raise
                before = await self._client.get(kinds.EVENT, namespace, name)
                again = {"count": before.get("count", 1) + 1, "lastTimestamp": document["lastTimestamp"]}
                await self._client.patch(kinds.EVENT, namespace, name, again)
        except ApiError as error:
            log.warning("an event could not be sent", object=f"{about.kind} {about.name}", problem=str(error))


def event(about: Regarding, reason: str, note: str, type_: str, *, node: str, now: datetime) -> dict[str, Any]:
    """The document. Its name follows from object, reason and words."""
    mark = blake2b(f"{about.uid}|{reason}|{note}".encode(), digest_size=8).hexdigest()
    time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{about.name[: _LONGEST_NAME - len(mark) - 1]}.{mark}",
            "namespace": about.namespace or "default",
        },
        "involvedObject": {
            "apiVersion": about.kind.api_version,
            "kind": about.kind.kind,
            "name": about.name,
            "uid": about.uid,
            **({"namespace": about.namespace} if about.namespace else {}),
        },
        "reason": reason,
        "message": note if len(note) <= _LONGEST_NOTE else note[: _LONGEST_NOTE - 1] + "…",
        "type": type_,
        "count": 1,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
    }
