"""Keeps the ResourceSlices of this node's driver equal to what it offers, whoever changes or deletes them.

The kubelet deletes all slices of its node when it starts, and those of a driver that is not registered; two instances
of this plugin may publish side by side during an update, and then write the same. Another driver of the same name does
not: beside its slices nothing is written. What an older server leaves out of a slice is told, and not written again.
Source: KEP 4381 (publishing, pool generations), KEP 4815 (shared counters).
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import structlog

from dra_driver.devices import Inventory, Kind
from dra_driver.slices import MARK, Document, Target, Write, changes, content, documents, slice_name
from scheduler.api.changes import Change
from scheduler.api.kinds import NODE, RESOURCE_SLICE
from scheduler.kube.backoff import Backoff
from scheduler.kube.client import ApiError, Client
from scheduler.kube.reflector import Reflector, Rhythm

log = structlog.get_logger(__name__)

_COUNTERS = ("sharedCounters", "consumesCounters")
_LONGEST_WAIT_SECONDS = 30.0
_LATEST_QUIETS = 20  # so many times as long as quiet is waited for it


class ForeignSlicesError(Exception):
    """Another driver of the same name publishes for this node. Object, cause, cure."""


class Publisher:
    """What is wanted is told with `want`; `run` makes it so, for ever.

    `resync_seconds`: so often what is not settled is looked at, though nothing was heard. `quiet_seconds`: what others
    do is answered when nothing has been heard for so long: another instance may be in the middle of its writes, a
    kubelet of its deletes. `on_problem` is told, once each time it changes, why what is published is not what is
    wanted, and "" when it is again (also `problem`). `backoff`: the waits after failures and repairs."""

    def __init__(
        self,
        client: Client,
        target: Target,
        *,
        resync_seconds: float = 30.0,
        quiet_seconds: float = 0.25,
        rhythm: Rhythm | None = None,
        backoff: Backoff | None = None,
        on_problem: Callable[[str], None] | None = None,
    ) -> None:
        self.problem = ""
        self._client, self._target = client, target
        self._resync_seconds, self._quiet_seconds = resync_seconds, quiet_seconds
        self._rhythm = rhythm or Rhythm()
        self._backoff = backoff or Backoff(first_seconds=0.2, most_seconds=_LONGEST_WAIT_SECONDS)
        self._on_problem = on_problem
        self._inventory: Inventory | None = None
        self._wanted: tuple[Document, ...] = ()
        self._counts = True  # the server keeps counters, as far as we know
        self._listed = False
        self._there: dict[str, Document] = {}
        self._kept: dict[str, tuple[Document, Document]] = {}  # what was sent, and what the server made of it
        self._lacks: dict[str, tuple[str, ...]] = {}
        self._heard = float("-inf")  # when the watch last told something, by the loop's clock
        self._wake, self._fresh, self._settled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def want(self, inventory: Inventory) -> None:
        """From now on this is what is offered."""
        if inventory != self._inventory:
            self._inventory = inventory
            self._renew()

    async def settled(self) -> None:
        """Wait until all that is wanted is published."""
        await self._settled.wait()

    async def check(self) -> None:
        """For the start: raise ForeignSlicesError if another driver of this name publishes for this node."""
        found, _ = await self._client.list(RESOURCE_SLICE, field_selector=self._selector)
        foreign = [document for document in found if not self._is_ours(document)]
        if foreign:
            raise ForeignSlicesError(self._beside(foreign))

    async def run(self) -> None:
        """Publish until cancelled. What fails is tried again, with waits that grow; nothing is left behind undone."""
        queue: asyncio.Queue[list[Change]] = asyncio.Queue()
        reflector = Reflector(
            client=self._client,
            kind=RESOURCE_SLICE,
            field_selector=self._selector,
            rhythm=self._rhythm,
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(reflector.run(queue))
            tasks.create_task(self._take_in(queue))
            tasks.create_task(self._keep())

    @property
    def _selector(self) -> str:
        return f"spec.nodeName={self._target.node},spec.driver={self._target.driver}"

    def _renew(self) -> None:
        if self._inventory is None:
            return
        inventory = self._inventory if self._counts else _in_one_piece(self._inventory)
        self._wanted = documents(inventory, self._target)
        self._settled.clear()
        self._fresh.set()
        self._wake.set()

    # --- what is there ---

    async def _take_in(self, queue: asyncio.Queue[list[Change]]) -> None:
        while True:
            for change in await queue.get():
                if change.type == "LISTED":
                    self._listed = True
                elif change.type == "DELETED":
                    self._gone(change.key, change.meta.uid)
                else:
                    self._see(msgspec.json.decode(change.raw))
            self._heard = asyncio.get_running_loop().time()
            self._wake.set()

    def _see(self, document: Document) -> None:
        """Take it up, unless it is older than what we have: answers to our writes are faster than the watch."""
        name, metadata = document["metadata"]["name"], document["metadata"]
        known = self._there.get(name, {}).get("metadata", {})
        if known.get("uid") == metadata.get("uid") and _is_older(metadata, known):
            return
        self._there[name] = document

    def _gone(self, name: str, uid: str) -> None:
        known = self._there.get(name, {}).get("metadata", {})
        if not uid or known.get("uid") == uid:
            self._there.pop(name, None)

    def _is_ours(self, document: Document) -> bool:
        """By its label; or by its name, should somebody have taken the label away. Others let the server end the names
        of theirs, with five characters."""
        name, labels = document["metadata"]["name"], document["metadata"].get("labels") or {}
        base = slice_name(self._target, 0).removesuffix("00")
        return MARK in labels or (name.startswith(base) and name[len(base) :].isdecimal() and len(name) < len(base) + 4)

    def _beside(self, foreign: list[Document]) -> str:
        names = ", ".join(sorted(document["metadata"]["name"] for document in foreign))
        return (
            f"Node {self._target.node}: another DRA driver publishes as {self._target.driver} (ResourceSlice {names}, "
            f"without label {MARK}), and each device would be given out twice; remove that driver from the node "
            "(NVIDIA's, as a rule), or give this one another name (driver)."
        )

    # --- making it so ---

    async def _keep(self) -> None:
        """One look after the other. A repair, or a failure, is followed by a wait: who fights for the same slices, or a
        server that refuses, is not answered without end and pause."""
        clock = asyncio.get_running_loop().time
        trouble = clock()
        while True:
            heard = await self._hear()
            if not self._listed or self._inventory is None or (self._settled.is_set() and not heard):
                continue
            fresh = self._fresh.is_set()
            self._fresh.clear()
            if fresh or clock() - trouble > 2 * _LONGEST_WAIT_SECONDS:
                self._backoff.reset()
            writes = self._due()
            if not writes or (not fresh and not await self._quiet()):
                continue
            failure = await self._owner(writes) if not fresh else None
            if failure is None and not self._fresh.is_set():
                failure = await self._write(writes)
            self._wake.set()
            if failure is not None or not fresh:
                trouble = clock()
                least = failure.retry_after or 0.0 if failure is not None else 0.0
                await self._rest(min(max(self._backoff.seconds(), least), _LONGEST_WAIT_SECONDS))

    async def _hear(self) -> bool:
        """Wait until something has happened (True), or it is time to look again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._resync_seconds):
                await self._wake.wait()
        heard = self._wake.is_set()
        self._wake.clear()
        return heard

    async def _quiet(self) -> bool:
        """Whether nothing has been heard for a while; else wait for that, and look again: what was to be written may
        have been by others. Who never stops is answered in the end."""
        clock = asyncio.get_running_loop().time
        if clock() - self._heard >= self._quiet_seconds:
            return True
        latest = clock() + _LATEST_QUIETS * self._quiet_seconds
        while (left := min(self._heard + self._quiet_seconds, latest) - clock()) > 0 and not self._fresh.is_set():
            await self._rest(left)
        self._wake.set()
        return clock() >= latest

    async def _rest(self, seconds: float) -> None:
        """Wait so long, or until something else is wanted."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._fresh.wait()

    def _due(self) -> tuple[Write, ...]:
        """What is to be written; none beside another driver, and none when all is well, which is told."""
        foreign = [document for document in self._there.values() if not self._is_ours(document)]
        if foreign:
            self._settled.clear()
            self._tell(self._beside(foreign))
            return ()
        writes = changes(self._there.values(), self._wanted, self._as_kept)
        if writes:
            self._settled.clear()
        else:
            self._settled.set()
            self._tell(self._losses())
        return writes

    async def _owner(self, writes: tuple[Write, ...]) -> ApiError | None:
        """Who makes slices anew asks first whose they are: those of a Node that was deleted are collected, and it may
        have come back as another. Then all is wanted with that one as its owner."""
        if not any(write.verb == "create" for write in writes):
            return None
        try:
            node = await self._client.get(NODE, None, self._target.node)
        except ApiError as error:
            self._tell(f"ResourceSlices of node {self._target.node} wait for their owner: {error}")
            return error
        uid = node["metadata"]["uid"]
        if uid != self._target.node_uid:
            self._target = replace(self._target, node_uid=uid)
            self._renew()
        return None

    async def _write(self, writes: tuple[Write, ...]) -> ApiError | None:
        """Do it in this order, up to what fails. What the server has instead of what we thought is looked up."""
        counts = self._counts
        for write in writes:
            try:
                await self._send(write)
            except ApiError as error:
                if error.conflict or error.already_exists or error.not_found:
                    log.info("a slice is not as it was", slice=write.name, error=str(error))
                    return await self._look(write.name) or error
                self._tell(f"ResourceSlices of node {self._target.node} are not up to date: {error}")
                return error
            if self._counts != counts:
                return None  # before anything is published that would draw on them
        generation = max(write.document["spec"]["pool"]["generation"] for write in writes)
        verbs = Counter(str(write.verb) for write in writes)
        log.info("slices are written", node=self._target.node, generation=generation, **verbs)
        return None

    async def _send(self, write: Write) -> None:
        metadata = write.document["metadata"]
        if write.verb == "delete":
            await self._client.delete(RESOURCE_SLICE, None, write.name, uid=metadata["uid"])
            self._gone(write.name, metadata["uid"])
            return
        if write.verb == "update":
            answer = await self._client.replace(RESOURCE_SLICE, None, write.name, write.document)
        else:
            answer = await self._client.create(RESOURCE_SLICE, None, write.document)
        self._see(answer)
        self._compare(write.document, answer)

    async def _look(self, name: str) -> ApiError | None:
        """Read one slice anew."""
        try:
            document = await self._client.get(RESOURCE_SLICE, None, name)
        except ApiError as error:
            if error.not_found:
                self._there.pop(name, None)
                return None
            return error
        spec = document["spec"]
        if (spec.get("nodeName"), spec.get("driver")) == (self._target.node, self._target.driver):
            self._there[name] = document
        else:
            self._tell(f"ResourceSlice {name} belongs to another node or driver; delete it, its name is needed.")
        return None

    # --- what the server makes of it ---

    def _as_kept(self, document: Document) -> Document:
        """How the server keeps this, as its answer has shown."""
        wanted = content(document)
        sent, kept = self._kept.get(document["metadata"]["name"], (None, wanted))
        return kept if sent == wanted else wanted

    def _compare(self, sent: Document, answer: Document) -> None:
        name, wanted, kept = sent["metadata"]["name"], content(sent), content(answer)
        if wanted == kept:
            self._kept.pop(name, None)
            self._lacks.pop(name, None)
            return
        lacks = tuple(sorted(set(_differences(sent["spec"], answer.get("spec", {}), "spec"))))
        self._kept[name], self._lacks[name] = (wanted, kept), lacks
        if self._counts and any(field in path for path in lacks for field in _COUNTERS):
            # Without counters overlapping devices would be given out at once: nothing of that kind is offered.
            self._counts = False
            self._renew()

    def _losses(self) -> str:
        names = {document["metadata"]["name"] for document in self._wanted}
        fields = sorted({path for name, paths in self._lacks.items() if name in names for path in paths})
        if not self._counts:
            return (
                "The API server keeps no counters of devices (Kubernetes before 1.36, or feature gate "
                "DRAPartitionableDevices off): GPUs are offered in one piece only; upgrade it, and restart this plugin."
            )
        if fields:
            return (
                f"The API server keeps ResourceSlices without or with other {', '.join(fields)}: it is older than "
                "these fields, or their feature gate is off; what they say has no effect. Upgrade it, and restart this "
                "plugin."
            )
        return ""

    def _tell(self, problem: str) -> None:
        if problem == self.problem:
            return
        self.problem = problem
        if problem:
            log.warning("what is offered is not published as it should be", problem=problem)
        else:
            log.info("what is offered is published", slices=len(self._wanted))
        if self._on_problem is not None:
            self._on_problem(problem)


def _in_one_piece(inventory: Inventory) -> Inventory:
    """The same without what can be cut: whole GPUs, and what an operator has cut."""
    devices = tuple(
        replace(device, counters={}, counter_set="")
        for device in inventory.devices
        if not device.counters or device.kind is Kind.GPU
    )
    return replace(inventory, devices=devices, counter_sets=())


def _is_older(one: Document, other: Document) -> bool:
    """Whether a version of an object comes before another. Versions that are no numbers do not tell."""
    versions = (str(one.get("resourceVersion")), str(other.get("resourceVersion")))
    return all(version.isdecimal() for version in versions) and int(versions[0]) < int(versions[1])


def _differences(sent: Any, got: Any, path: str) -> Iterator[str]:
    """Fields that were sent and did not come back as they were. What lists and maps hold is not told apart."""
    if isinstance(sent, dict) and isinstance(got, dict):
        for name, value in sent.items():
            if path == "spec" and name == "pool":
                continue
            step = "*" if path.rpartition(".")[2] in ("attributes", "capacity", "counters") else name
            yield from _differences(value, got.get(name), f"{path}.{step}")
    elif isinstance(sent, list) and isinstance(got, list) and len(sent) == len(got):
        for one, other in zip(sent, got, strict=True):
            yield from _differences(one, other, f"{path}[]")
    elif content({"spec": {"counters": sent}}) != content({"spec": {"counters": got}}):
        yield path
