"""One PersistentVolumeClaim that waits for its first consumer: its node written, its volume promised, its binding
awaited. Every step may be repeated.

Where a volume is to be provisioned, the claim is given the node; the provisioner takes that annotation away when it
cannot. A volume made by hand is given the claim instead: the controller that binds both never chooses one for such a
claim by itself, whatever its annotations say. Source: VolumeBinding of kube-scheduler; the PersistentVolume controller.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from scheduler.api import changes, kinds, storage
from scheduler.api.kinds import Kind
from scheduler.commit.attempts import Patience, WriteRefused, persist
from scheduler.commit.known import Known
from scheduler.commit.slots import Slots
from scheduler.commit.writes import VolumeWrite
from scheduler.dra.selection import matches
from scheduler.kube.client import ApiError, Client
from scheduler.model.nodes import Node

_CLAIM, _VOLUME = "PersistentVolumeClaim", "PersistentVolume"


class Volumes:
    """Writes for claims and volumes; keeps `state` up to date with every answer."""

    def __init__(
        self, client: Client, state: Known, slots: Slots, *, patience: Patience, may_write: Callable[[], bool]
    ) -> None:
        self._client = client
        self._state = state
        self._slots = slots
        self._patience = patience
        self._may_write = may_write
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        """By claim (key)."""
        self._promised: dict[str, str] = {}
        """Volumes that commits under way give to a claim (key)."""
        self._written: set[tuple[str, str]] = set()
        """Claims (key, uid) for which commits under way have written something."""

    async def secure(self, write: VolumeWrite) -> None:
        """The claim has its node, or the volume its claim: one request, none if it was so.

        Raises WriteRefused if one of them is gone, or another's."""
        if write.volume:
            await persist(
                f"{_VOLUME} {write.volume}",
                self._patience,
                self._may_write,
                lambda attempt: self._promise(write, attempt),
            )
        else:
            await persist(
                f"{_CLAIM} {write.claim}", self._patience, self._may_write, lambda attempt: self._choose(write, attempt)
            )

    async def wait_until_bound(self, write: VolumeWrite, node: Node) -> None:
        """Until the claim is bound, to a volume that the node reaches.

        Raises WriteRefused if that will not be: it was given up, or takes too long."""
        patience = self._patience.volume_binding_seconds
        deadline = asyncio.get_running_loop().time() + patience
        while not self._is_bound(write, node):
            changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(write.claim, []).append(changed)
            try:
                await asyncio.wait_for(changed, max(deadline - asyncio.get_running_loop().time(), 0))
            except TimeoutError:
                raise WriteRefused(f"{_CLAIM} {write.claim}", f"was not bound within {patience:g} s") from None

    async def take_back(self, write: VolumeWrite) -> None:
        """What was written is undone, unless the claim is bound by now: then it stays bound. Raises WriteRefused."""
        if (write.claim, write.uid) not in self._written:
            return
        if write.volume:
            await persist(
                f"{_VOLUME} {write.volume}", self._patience, self._may_write, lambda _: self._break_promise(write)
            )
        else:
            await persist(f"{_CLAIM} {write.claim}", self._patience, self._may_write, lambda _: self._leave(write))

    def settle(self, writes: tuple[VolumeWrite, ...]) -> None:
        """The commit has ended, well or not."""
        self._written.difference_update((write.claim, write.uid) for write in writes)
        for write in writes:
            self._promised.pop(write.volume, None)

    def intend(self, writes: tuple[VolumeWrite, ...]) -> None:
        """A commit begins: nobody else gets these volumes."""
        self._promised.update((write.volume, write.claim) for write in writes if write.volume)

    @property
    def promised(self) -> Mapping[str, str]:
        """Volumes that commits under way give to a claim (key)."""
        return self._promised

    def changed(self, kind: Kind, key: str) -> None:
        """The watch has seen a claim or a volume change."""
        if kind is kinds.VOLUME:
            volume = self._state.object(kind, key)
            reference = volume.spec.claim_ref if isinstance(volume, storage.PersistentVolume) else None
            self._wake(self._promised.get(key, ""))
            self._wake(f"{reference.namespace}/{reference.name}" if reference is not None else "")
        else:
            self._wake(key)

    def _wake(self, claim: str) -> None:
        for waiting in self._waiting.pop(claim, ()):
            if not waiting.done():
                waiting.set_result(None)

    # --- a volume to be provisioned -------------------------------------------------------------------------------

    async def _choose(self, write: VolumeWrite, attempt: int) -> None:
        claim = await self._read(kinds.VOLUME_CLAIM, write.claim, anew=attempt > 0)
        self._check(claim, write)
        assert isinstance(claim, storage.PersistentVolumeClaim)
        chosen = (claim.metadata.annotations or {}).get(storage.SELECTED_NODE_ANNOTATION, "")
        if chosen == write.node or _bound(claim):
            return
        if chosen:
            raise WriteRefused(f"{_CLAIM} {write.claim}", f"is being provisioned for node {chosen}")
        await self._annotate(claim, write.node)
        self._written.add((write.claim, write.uid))

    async def _leave(self, write: VolumeWrite) -> None:
        claim = await self._read(kinds.VOLUME_CLAIM, write.claim, anew=True)
        if not isinstance(claim, storage.PersistentVolumeClaim) or claim.metadata.uid != write.uid or _bound(claim):
            return
        if (claim.metadata.annotations or {}).get(storage.SELECTED_NODE_ANNOTATION) == write.node:
            await self._annotate(claim, None)

    async def _annotate(self, claim: storage.PersistentVolumeClaim, node: str | None) -> None:
        meta = {"annotations": {storage.SELECTED_NODE_ANNOTATION: node}}
        await self._patch(kinds.VOLUME_CLAIM, claim.metadata.key, claim, {"metadata": meta})

    # --- a volume made by hand ------------------------------------------------------------------------------------

    async def _promise(self, write: VolumeWrite, attempt: int) -> None:
        claim = await self._read(kinds.VOLUME_CLAIM, write.claim, anew=attempt > 0)
        self._check(claim, write)
        volume = await self._read(kinds.VOLUME, write.volume, anew=attempt > 0)
        if not isinstance(volume, storage.PersistentVolume) or volume.metadata.deletion_timestamp:
            raise WriteRefused(f"{_VOLUME} {write.volume}", "went away")
        reference = volume.spec.claim_ref
        namespace, _, name = write.claim.partition("/")
        if reference is not None:
            if (reference.namespace, reference.name) != (namespace, name) or reference.uid not in ("", write.uid):
                raise WriteRefused(f"{_VOLUME} {write.volume}", "was given to another claim")
            if reference.uid:
                return
        body: dict[str, Any] = {
            "spec": {
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": _CLAIM,
                    "namespace": namespace,
                    "name": name,
                    "uid": write.uid,
                }
            }
        }
        if reference is None:
            body["metadata"] = {"annotations": {storage.BOUND_BY_CONTROLLER_ANNOTATION: "yes"}}
        await self._patch(kinds.VOLUME, write.volume, volume, body)
        self._written.add((write.claim, write.uid))

    async def _break_promise(self, write: VolumeWrite) -> None:
        """Guarded by the resourceVersion: a volume that the controller has bound in between stays with its claim."""
        volume = await self._read(kinds.VOLUME, write.volume, anew=True)
        claim = await self._read(kinds.VOLUME_CLAIM, write.claim, anew=True)
        if not isinstance(volume, storage.PersistentVolume) or volume.status.phase == "Bound":
            return
        if isinstance(claim, storage.PersistentVolumeClaim) and claim.metadata.uid == write.uid and _bound(claim):
            return
        reference = volume.spec.claim_ref
        if reference is not None and reference.uid == write.uid:
            notes = {storage.BOUND_BY_CONTROLLER_ANNOTATION: None}
            await self._patch(
                kinds.VOLUME, write.volume, volume, {"metadata": {"annotations": notes}, "spec": {"claimRef": None}}
            )

    # --- both -----------------------------------------------------------------------------------------------------

    def _is_bound(self, write: VolumeWrite, node: Node) -> bool:
        """Whether the claim is bound. Raises WriteRefused if it will not be, or not where the pod goes."""
        claim = self._state.object(kinds.VOLUME_CLAIM, write.claim)
        self._check(claim, write)
        assert isinstance(claim, storage.PersistentVolumeClaim)
        if _bound(claim):
            volume = self._state.object(kinds.VOLUME, claim.spec.volume_name)
            if not isinstance(volume, storage.PersistentVolume):
                return False  # its watch is behind that of claims
            affinity = volume.spec.node_affinity
            if affinity is not None and affinity.required is not None and not matches(affinity.required, node):
                what = f"was bound to {volume.metadata.name}, which node {node.name} does not reach"
                raise WriteRefused(f"{_CLAIM} {write.claim}", what)
            return True
        chosen = (claim.metadata.annotations or {}).get(storage.SELECTED_NODE_ANNOTATION, "")
        if not write.volume and chosen != write.node:
            what = f"could not be given a volume for node {write.node}: its events say why"
            raise WriteRefused(f"{_CLAIM} {write.claim}", what)
        volume = self._state.object(kinds.VOLUME, write.volume) if write.volume else None
        reference = volume.spec.claim_ref if isinstance(volume, storage.PersistentVolume) else None
        if write.volume and (reference is None or reference.uid != write.uid):
            raise WriteRefused(f"{_VOLUME} {write.volume}", "was taken from its claim before it was bound")
        return False

    def _check(self, claim: object, write: VolumeWrite) -> None:
        if not isinstance(claim, storage.PersistentVolumeClaim) or claim.metadata.uid != write.uid:
            raise WriteRefused(f"{_CLAIM} {write.claim}", "went away")
        if claim.metadata.deletion_timestamp:
            raise WriteRefused(f"{_CLAIM} {write.claim}", "is being deleted")

    async def _read(self, kind: Kind, key: str, *, anew: bool) -> object:
        """The object as it is known, or as the server has it; None if it is gone. Raises ApiError."""
        known = None if anew else self._state.object(kind, key)
        if known is not None:
            return known
        namespace, _, name = key.rpartition("/")
        try:
            async with self._slots.commit():
                return self._learn(kind, await self._client.get(kind, namespace or None, name))
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def _patch(self, kind: Kind, key: str, found: object, body: Mapping[str, Any]) -> None:
        """Change this very object as it was read. Raises ApiError."""
        assert isinstance(found, storage.PersistentVolumeClaim | storage.PersistentVolume)
        meta = {"uid": found.metadata.uid, "resourceVersion": found.metadata.resource_version}
        namespace, _, name = key.rpartition("/")
        whole = {**body, "metadata": {**body.get("metadata", {}), **meta}}
        async with self._slots.commit():
            self._learn(kind, await self._client.patch(kind, namespace or None, name, whole))

    def _learn(self, kind: Kind, document: Mapping[str, Any]) -> object:
        change = changes.read(kind, msgspec.json.encode(document), "MODIFIED")
        if change is None:
            return None
        self._state.apply(change)
        return change.object


def _bound(claim: storage.PersistentVolumeClaim) -> bool:
    annotations = claim.metadata.annotations or {}
    return bool(claim.spec.volume_name) and storage.BIND_COMPLETED_ANNOTATION in annotations
