"""GPUs cut anew by a label of their Node (`dra_driver.mig_labels`), as one transaction with the scheduler.

Only GPUs that are not as the config says are touched. Their devices get the taint `tutti.scheduler/mig-reconfigure`
(NoSchedule) before anything else, so that no scheduler gives them away. Who has them is waited for; after a while, if
one is set, the taint says NoExecute, for which Kubernetes (its device taint eviction) moves their pods. A GPU that
nobody has any more is cut, under the node's lock; then the hardware is looked at anew and published, and after that the
taint goes. Instances made so are an operator's: offered as they are, never touched for a claim.

Nothing but the label says what is wanted, and every turn begins with what is there: whoever is killed goes on after the
restart, and what a reboot or somebody's hand has undone is done again. Without the label nothing is touched. Under
dynamic MIG a config with `mig-enabled: false`, or without mig-devices, gives GPUs back to be cut on demand.

A MIG mode that changes by a reset only (Ampere) is set; the GPU stays drained, and the state pending, until somebody
has reset it. What fails is told in an Event on the Node, and taints go, as what is published is what is there. It is
tried again when config or hardware are others, when the state label is removed, or after a restart.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from dra_driver import mig_labels
from dra_driver.devices import Entry, Inventory, Taint
from dra_driver.events import Events, Regarding
from dra_driver.facts import Failure, GpuError, Gpus
from dra_driver.holding import owned
from dra_driver.layouts import LayoutRefused, configs, layouts
from dra_driver.mig_labels import TAINT, Document, State
from dra_driver.prepare import FAILURES, told
from dra_driver.recovery import Alone
from dra_driver.repartition import Reset, Step, carry_out, static, steps
from scheduler.api import kinds
from scheduler.api.changes import Change
from scheduler.kube.client import ApiError, Client
from scheduler.kube.reflector import Reflector, Rhythm

log = structlog.get_logger(__name__)

Taints = Mapping[str, tuple[Taint, ...]]
Plan = Mapping[str, tuple[Step, ...]]
"""What is to be done of each GPU that is not as wanted, by UUID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds. `drain`: until pods are moved away, None for never; `look`: so often it is looked who still has a GPU;
    `grace`: so long a taint stands before a GPU is cut, for schedulers that see it late."""

    drain: float | None = None
    look: float = 2.0
    grace: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What of the plugin takes part. `taint`: these stand from now on and no others of ours, by UUID of the GPU; they
    are to be published. `look`: the hardware is looked at anew; what it offers is to be published. `published`: waits
    until all that is so. `entries`: of the checkpoint, under the node's lock. `claims`: of all the cluster; raises
    ApiError."""

    client: Client
    node: str
    driver: str
    gpus: Gpus
    alone: Alone
    entries: Callable[[], tuple[Entry, ...]]
    boot: Callable[[], str]
    inventory: Callable[[], Inventory]
    taint: Callable[[Taints], Awaitable[None]]
    look: Callable[[], Awaitable[None]]
    published: Callable[[], Awaitable[None]]
    claims: Callable[[], Awaitable[Sequence[Document]]]
    events: Events
    now: Callable[[], datetime]


class Reconfiguration:
    """Follows the Node's label. `file`: the configs; `dynamic`: GPUs are cut on demand for claims, too."""

    def __init__(self, site: Site, file: Path, pace: Pace, *, dynamic: bool, rhythm: Rhythm | None = None) -> None:
        self._site, self._file, self._pace, self._dynamic = site, file, pace, dynamic
        self._rhythm = rhythm or Rhythm()
        self._node: Document | None = None
        self._tainted: Taints = {}
        self._since: tuple[str, int] = ("", 0)  # a config, and when its first taint was set (ms since 1970)
        self._stand: float | None = None  # since when, by the loop's clock, all taints are published
        self._given_up: tuple[str, Plan] | None = None
        self._said: set[str] = set()
        self._news = asyncio.Event()

    def heard(self) -> None:
        """Hardware or claims may be others than they were."""
        self._news.set()

    async def begin(self) -> None:
        """For the start, before anything is published: what was tainted at the end is so again. Raises ApiError."""
        client, site = self._site.client, self._site
        self._node = await client.get(kinds.NODE, None, site.node)
        name = mig_labels.config(self._node)
        selector = f"spec.nodeName={site.node},spec.driver={site.driver}"
        slices, _ = await client.list(kinds.RESOURCE_SLICE, field_selector=selector)
        since = mig_labels.since(slices, name)
        if not name or since is None or mig_labels.rival(self._node):
            return
        self._since = (name, since)
        try:
            await self._taint(name, await self._plan(name, await self._read()))
        except (LayoutRefused, *FAILURES) as problem:
            log.warning("the MIG config is looked at again", config=name, problem=str(problem))

    async def run(self) -> None:
        """Until cancelled."""
        queue: asyncio.Queue[list[Change]] = asyncio.Queue()
        reflector = Reflector(
            client=self._site.client,
            kind=kinds.NODE,
            field_selector=f"metadata.name={self._site.node}",
            rhythm=self._rhythm,
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(reflector.run(queue))
            tasks.create_task(self._follow(queue))
            tasks.create_task(self._turns())

    async def turn(self) -> float | None:
        """See what is, and do what is next: seconds until it is time for another, None for not before there is news.

        May be repeated at any time. Raises ApiError, and one of FAILURES."""
        node = self._node
        name = mig_labels.config(node)
        if node is None or not name:
            await self._leave()
            return None
        if words := mig_labels.rival(node):
            await self._taint("", {})
            self._tell("MigReconfigureRefused", words)
            return None
        try:
            text = await self._read()
            plan = await self._plan(name, text)
            if mig_labels.state(node) and self._given_up == (name, plan):
                return None
            self._given_up = None
            await self._taint(name, plan)
            return await (self._go_on(name, plan, text) if plan else self._done(name))
        except LayoutRefused as problem:
            await self._fail(str(problem))
            return None

    # --- parts of a turn ---

    async def _go_on(self, name: str, plan: Plan, text: str) -> float | None:
        """Taints are wanted: wait until they stand, and for GPUs to be free; cut those that are."""
        clock = asyncio.get_running_loop().time
        if not await self._published():
            return self._pace.look
        self._stand = clock() if self._stand is None else self._stand
        await self._say(State.PENDING)
        if (left := self._stand + self._pace.grace - clock()) > 0:
            return left
        resets = [gpu for gpu, todo in plan.items() if isinstance(todo[0], Reset)]
        if resets:
            self._tell("MigResetRequired", mig_labels.reset(name, resets))
        users = await self._users([gpu for gpu in plan if gpu not in resets])
        free = [gpu for gpu, found in users.items() if not found]
        if free:
            return await self._cut(name, free, text)
        if users:
            moved = any(taint.effect == "NoExecute" for taints in self._tainted.values() for taint in taints)
            self._tell("MigReconfigureWaits", mig_labels.waits(name, users, moved=moved), "Normal")
            return self._pace.look
        return None

    async def _cut(self, name: str, free: Sequence[str], text: str) -> float | None:
        """Change the hardware, if that is still wanted, and publish what has become of it."""
        self._node = await self._site.client.get(kinds.NODE, None, self._site.node)
        if mig_labels.config(self._node) != name or mig_labels.rival(self._node):
            return 0.0
        failed, busy = list[str](), list[str]()
        for gpu in free:
            try:
                await self._site.alone(partial(self._cut_one, name, gpu, text))
            except GpuError as error:
                words = told(error)
                words = words if gpu in words else f"GPU {gpu}: {words}"
                (busy if error.failure is Failure.IN_USE else failed).append(words)
        await self._site.look()
        if failed:
            again = f"Remove label {mig_labels.STATE} of the node to have it tried again"
            await self._fail(f"MIG config {name}: {'; '.join(failed)}. {again}.", (name, await self._plan(name, text)))
            return None
        if busy:
            self._tell("MigReconfigureWaits", f"MIG config {name}: {'; '.join(busy)}.")
        return self._pace.look if busy else 0.0

    def _cut_one(self, name: str, gpu: str, text: str) -> None:
        """Under the node's lock, with everything looked at again. Raises GpuError, LayoutRefused."""
        if self._holders([gpu])[gpu]:
            raise GpuError(Failure.IN_USE, "reconfigure", gpu, "somebody came just now")
        if not carry_out(self._site.gpus, self._planned(name, text).get(gpu, ())):
            return
        left = self._planned(name, text).get(gpu, ())
        if left:
            raise GpuError(Failure.UNKNOWN, "reconfigure", gpu, f"is not as it was to be ({len(left)} steps are left)")

    async def _done(self, name: str) -> float | None:
        """All is as wanted."""
        if not await self._published():
            return self._pace.look
        if mig_labels.state(self._node) == State.PENDING.value:
            words = f"MIG config {name}: all GPUs that it is for are as it says."
            self._tell("MigReconfigured", words, "Normal")
        self._said.clear()
        await self._say(State.SUCCESS)
        return None

    async def _fail(self, words: str, given_up: tuple[str, Plan] | None = None) -> None:
        """It stays as it is: taints go, and it is told why."""
        self._given_up = given_up
        await self._taint("", {})
        self._tell("MigReconfigureFailed", words)
        await self._say(State.FAILED)

    async def _leave(self) -> None:
        """Nothing is wanted any more. A state that says that we are at it is taken back."""
        await self._taint("", {})
        self._given_up = None
        self._said.clear()
        if mig_labels.state(self._node) == mig_labels.our_state(self._node) == State.PENDING.value:
            await self._write(None)

    async def _published(self) -> bool:
        """Whether all is published, before long."""
        try:
            async with asyncio.timeout(self._pace.look):
                await self._site.published()
        except TimeoutError:
            return False
        return True

    # --- what is wanted, and what is there ---

    async def _read(self) -> str:
        """The file. Raises LayoutRefused."""
        try:
            return await asyncio.to_thread(self._file.read_text, "utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise LayoutRefused(
                f"File {self._file}: cannot be read ({why}); mount the file of MIG configs there, or set mig_configs."
            ) from None

    async def _plan(self, name: str, text: str) -> Plan:
        return await self._site.alone(partial(self._planned, name, text))

    def _planned(self, name: str, text: str) -> Plan:
        """Under the node's lock. Raises LayoutRefused, GpuError."""
        ours = owned(self._site.entries(), self._site.boot())
        there = {gpu.uuid: static(gpu, ours) for gpu in self._site.gpus.gpus()}
        wanted = layouts(configs(text, str(self._file)), name, there.values(), str(self._file))
        plan = {uuid: steps(there[uuid], layout, dynamic=self._dynamic) for uuid, layout in wanted.items()}
        return {uuid: todo for uuid, todo in plan.items() if todo}

    async def _users(self, gpus: Sequence[str]) -> Mapping[str, list[str]]:
        """Who has each of these GPUs, or a part of it: claims, prepared or given it, and else processes. Claims that
        only look on are not waited for."""
        users = await self._site.alone(partial(self._holders, gpus))
        if all(users.values()):
            return users
        of = {device.name: device.gpu for device in self._site.inventory().devices}
        for claim in await self._site.claims():
            name = f"claim {claim['metadata'].get('namespace')}/{claim['metadata'].get('name')}"
            for device in mig_labels.given(claim, self._site.driver, self._site.node):
                found = users.get(of.get(device, ""))
                if found is not None and name not in found:
                    found.append(name)
        return users

    def _holders(self, gpus: Sequence[str]) -> dict[str, list[str]]:
        """Under the node's lock."""
        boot, users = self._site.boot(), {gpu: list[str]() for gpu in gpus}
        for entry in self._site.entries():
            held = {device.gpu for device in entry.devices if not device.grant.admin}
            for gpu in gpus:
                if gpu in held and entry.boot == boot:
                    users[gpu].append(f"claim {entry.claim.namespace}/{entry.claim.name}")
        for gpu, found in users.items():
            found += [f"process {process.pid}" for process in self._site.gpus.processes(gpu)] if not found else []
        return users

    # --- what is told ---

    async def _taint(self, name: str, plan: Plan) -> None:
        """The devices of these GPUs, and no others."""
        now = int(self._site.now().timestamp() * 1000)
        if not plan:
            self._since = ("", 0)
        elif self._since[0] != name:
            self._since = (name, now)
        drain = self._pace.drain
        late = drain is not None and now >= self._since[1] + drain * 1000
        effect = "NoExecute" if late else "NoSchedule"
        taint = Taint(key=TAINT, value=name, effect=effect, since_ms=self._since[1])
        wanted = dict.fromkeys(plan, (taint,))
        if wanted == self._tainted:
            return
        if not wanted.keys() <= self._tainted.keys():
            self._stand = None
        self._tainted = wanted
        await self._site.taint(wanted)

    async def _say(self, state: State) -> None:
        if (mig_labels.state(self._node), mig_labels.our_state(self._node)) != (state.value, state.value):
            await self._write(state)

    async def _write(self, state: State | None) -> None:
        client, node = self._site.client, self._site.node
        self._node = await client.patch(kinds.NODE, None, node, mig_labels.change(state))

    def _tell(self, reason: str, words: str, type_: Literal["Normal", "Warning"] = "Warning") -> None:
        """Once, until all is done."""
        if self._node is None or words in self._said:
            return
        self._said.add(words)
        (log.info if type_ == "Normal" else log.warning)(words, reason=reason)
        about = Regarding(kind=kinds.NODE, name=self._site.node, uid=self._node["metadata"].get("uid", ""))
        self._site.events.tell([about], reason, words, type_)

    # --- turns ---

    async def _follow(self, queue: asyncio.Queue[list[Change]]) -> None:
        while True:
            before = self._node
            for change in await queue.get():
                if change.type != "LISTED":
                    self._node = None if change.type == "DELETED" else msgspec.json.decode(change.raw)
            if mig_labels.part(self._node) != mig_labels.part(before):  # the kubelet writes its Node often
                self._news.set()

    async def _turns(self) -> None:
        while True:
            self._news.clear()
            try:
                pause = await self.turn()
            except (ApiError, *FAILURES) as problem:
                log.warning("the MIG config is looked at again", problem=str(problem))
                pause = self._pace.look
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()
