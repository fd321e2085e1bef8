"""GPUs cut anew by a label of their node: tainted, drained, cut, published; whole or told why, killed whenever."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dra_driver import mig_labels
from dra_driver.checkpoint import Checkpoint
from dra_driver.devices import ClaimRef, Entry, Grant, Kind, Phase, Prepared, Taint
from dra_driver.disk import Disk
from dra_driver.events import Events
from dra_driver.facts import Failure, GpuError, Placement
from dra_driver.fake import FakeGpus
from dra_driver.host import fake_host
from dra_driver.inventory import Offer
from dra_driver.layouts import Layout, configs, layouts
from dra_driver.libraries import Libraries
from dra_driver.node import Hardware, Offered
from dra_driver.publisher import Publisher
from dra_driver.reconfigure import Pace, Reconfiguration, Site, Taints
from dra_driver.repartition import Create, Destroy, Mode, Reset, carry_out, static, steps
from dra_driver.slices import Target
from scheduler.api.kinds import NODE
from scheduler.devcluster import kinds
from scheduler.devcluster.run import DevCluster
from scheduler.kube.client import Client, Document
from scheduler.kube.reflector import Rhythm
from tests.node.offers import cut, gpus

T = TypeVar("T")
QUICK = Rhythm(server=60, silence=5, listing=5, absent=0.01, backoff_first=0.001, backoff_most=0.01)
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
STATE, CONFIG, TAINT = mig_labels.STATE, mig_labels.CONFIG, mig_labels.TAINT

FILE = """
version: v1
mig-configs:
  whole: [{devices: all, mig-enabled: false}]
  uncut: [{devices: all, mig-enabled: true, mig-devices: {}}]
  halves: [{devices: all, mig-enabled: true, mig-devices: {3g.40gb: 2}}]
  second: [{devices: [1], mig-enabled: true, mig-devices: {3g.40gb: 1, 1g.10gb: 4}}]
  odd: [{devices: all, mig-enabled: true, mig-devices: {3g.20gb: 1}}]
  much: [{devices: all, mig-enabled: true, mig-devices: {3g.40gb: 2, 1g.10gb: 1}}]
"""
HALVES = ["3g.40gb@0", "3g.40gb@4"]
SECOND = ["1g.10gb@0", "1g.10gb@1", "1g.10gb@2", "1g.10gb@3", "3g.40gb@4"]


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Plant:
    """A cluster with one node, its hardware and its disk: all that outlives the plugin. `tick` sees each change of
    hardware and each write to the API server."""

    cluster: DevCluster
    folder: Path
    machine: str = "h100x2"
    dynamic: bool = False
    drain: float | None = None
    now: datetime = NOON
    tick: Callable[[], None] = lambda: None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[dict[str, str]] = field(default_factory=list)
    """All that was ever published, as `shown`."""
    wanted: list[dict[str, str]] = field(default_factory=list)
    """All that was ever to be published."""

    def __post_init__(self) -> None:
        self.file = self.folder / "configs.yaml"
        self.file.write_text(FILE)
        self.kubeconfig = self.cluster.kubeconfig(self.folder / "kubeconfig")
        self.checkpoint = Checkpoint(self.folder, Disk())
        self.checkpoint.rebuild(())
        self.gpus = self.hardware()
        self.cluster.store.create(kinds.NODE, {"metadata": {"name": "n1"}})
        self.cluster.store.observe(self._note)

    def hardware(self, **more: Any) -> FakeGpus:
        state = self.folder / "hardware.json"
        return FakeGpus(self.machine, node="n1", state=state, moving_minors=True, step=lambda _: self.tick(), **more)

    def _note(self, *_: object) -> None:
        if self.seen[-1:] != [self.shown]:
            self.seen.append(self.shown)
        self.changed.set()

    async def until(self, holds: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(20):
                while not holds():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise AssertionError((self.state, self.shown, self.events)) from None

    # --- what can be seen ---

    @property
    def node(self) -> Document:
        return self.cluster.store.get(kinds.NODE, "", "n1")

    @property
    def state(self) -> str:
        return mig_labels.state(self.node)

    @property
    def shown(self) -> dict[str, str]:
        """Devices that are published, with the effect of the taint that says they are cut anew."""
        devices = (each for one in self.cluster.store.all(kinds.SLICE) for each in one["spec"].get("devices") or ())
        return {
            each["name"]: ",".join(taint["effect"] for taint in each.get("taints") or () if taint["key"] == TAINT)
            for each in devices
        }

    @property
    def cut(self) -> dict[int, list[str]]:
        """Instances by index of the GPU, where it is in MIG mode."""
        return {
            gpu.index: [f"{each.profile}@{each.placement.start}" for each in gpu.mig.instances]
            for gpu in self.gpus.gpus()
            if gpu.mig is not None and gpu.mig.on
        }

    @property
    def events(self) -> list[tuple[str, str]]:
        found = self.cluster.store.all(kinds.EVENT)
        assert all(each["involvedObject"]["uid"] == self.node["metadata"]["uid"] for each in found)
        return [(each["reason"], each["message"]) for each in found]

    def told(self, reason: str) -> list[str]:
        return [words for why, words in self.events if why == reason]

    # --- what others do ---

    def label(self, **labels: str | None) -> None:
        """By the last part of their names, as mig_config."""
        node, names = self.node, {"config": CONFIG, "state": STATE, "manager": mig_labels.MANAGER}
        known = dict(node["metadata"].get("labels") or {})
        for name, value in labels.items():
            known.pop(names[name], None)
            if value is not None:
                known[names[name]] = value
        self.cluster.store.update(kinds.NODE, {**node, "metadata": {**node["metadata"], "labels": known}})

    def hold(self, *devices: tuple[str, int], admin: bool = False, name: str = "a") -> None:
        """A claim has these devices prepared: names, and indexes of their GPUs."""
        prepared = tuple(
            Prepared(
                grant=Grant(requests=("r",), pool="n1", device=device, admin=admin),
                kind=Kind.GPU,
                gpu=self.gpus.uuids[index],
            )
            for device, index in devices
        )
        claim = ClaimRef(namespace="team", name=name, uid=f"uid-{name}")
        entry = Entry(claim=claim, phase=Phase.DONE, boot=self.gpus.boot_id, devices=prepared)
        self.checkpoint.save([*self.checkpoint.load().entries, entry])

    def release(self) -> None:
        self.checkpoint.save(())

    def allocate(self, device: str, *, admin: bool = False) -> None:
        """A scheduler has given a device to a claim, and nobody has prepared it yet."""
        if admin:
            labels = {"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}
            self.cluster.store.patch(kinds.NAMESPACE, "", "default", "application/merge-patch+json", labels)
        exactly: Document = {"deviceClassName": "gpu", **({"adminAccess": True} if admin else {})}
        claim = self.cluster.store.create(
            kinds.CLAIM,
            {
                "metadata": {"namespace": "default", "name": "given"},
                "spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}},
            },
        )
        result = {"request": "r", "driver": "gpu.nvidia.com", "pool": "n1", "device": device, "adminAccess": admin}
        status = {"allocation": {"devices": {"results": [result]}}}
        self.cluster.store.update(kinds.CLAIM, {**claim, "status": status}, subresource="status")


class Watched(Client):
    """Each write to the Node is a tick."""

    tick: Callable[[], None] = lambda: None

    async def patch(self, *args: Any, **more: Any) -> Document:
        if args[0] is NODE:
            type(self).tick()
        return await super().patch(*args, **more)


@dataclass
class Life:
    """One process of the plugin."""

    plant: Plant
    works: Reconfiguration
    offered: Offered
    publisher: Publisher
    look: Callable[[], Awaitable[None]]

    async def finish(self) -> None:
        """Turn after turn, until there is nothing to do before there is news."""
        for _ in range(50):
            if await self.works.turn() is None:
                return
        raise AssertionError("it does not come to an end")


@asynccontextmanager
async def life(plant: Plant, *, look: float = 5.0) -> AsyncIterator[Life]:
    """The plugin begins, as far as it is about this: what is offered is published, and the label has been read."""
    plant.gpus = plant.hardware()
    async with await Watched.connect(plant.kubeconfig) as client:
        Watched.tick = staticmethod(lambda: plant.tick())
        hardware = Hardware(
            gpus=plant.gpus,
            host=fake_host(plant.folder / "host", [replace(gpu, mig=None) for gpu in plant.gpus.gpus()]),
            libraries=Libraries(),
        )
        hardware.host.boot_id = lambda: plant.gpus.boot_id  # type: ignore[method-assign]
        offered = Offered("n1", hardware, Offer(dynamic_mig=plant.dynamic))
        offered.remember([(f"gpu-{index}", uuid) for index, uuid in enumerate(plant.gpus.uuids)])
        publisher = Publisher(
            client, Target(node="n1", node_uid=plant.node["metadata"]["uid"]), rhythm=QUICK, quiet_seconds=0.01
        )

        def want() -> None:
            shown = {
                device.name: ",".join(taint.effect for taint in device.taints) for device in offered.inventory.devices
            }
            if plant.wanted[-1:] != [shown]:
                plant.wanted.append(shown)
            publisher.want(offered.inventory)

        async def alone(do: Callable[[], T]) -> T:
            return do()

        async def taint(taints: Taints) -> None:
            plant.tick()
            offered.taint(taints, by="reconfigure")
            want()

        async def look_anew() -> None:
            offered.look(plant.checkpoint.load().entries)
            want()
            works.heard()

        async def claims() -> list[Document]:
            return plant.cluster.store.all(kinds.CLAIM)

        events = Events(client, "n1", lambda: plant.now)
        works = Reconfiguration(
            Site(
                client=client,
                node="n1",
                driver="gpu.nvidia.com",
                gpus=plant.gpus,
                alone=alone,
                entries=lambda: plant.checkpoint.load().entries,
                boot=lambda: plant.gpus.boot_id,
                inventory=lambda: offered.inventory,
                taint=taint,
                look=look_anew,
                published=publisher.settled,
                claims=claims,
                events=events,
                now=lambda: plant.now,
            ),
            plant.file,
            Pace(drain=plant.drain, look=look, grace=0),
            dynamic=plant.dynamic,
            rhythm=QUICK,
        )
        offered.look(plant.checkpoint.load().entries)
        await works.begin()
        want()
        task = asyncio.create_task(publisher.run())
        try:
            yield Life(plant, works, offered, publisher, look_anew)
            await events.sent()
            async with asyncio.timeout(20):
                await publisher.settled()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def running(plant: Plant) -> AsyncIterator[Life]:
    """The same, at work by itself."""
    async with life(plant, look=0.05) as alive:
        task = asyncio.create_task(alive.works.run())
        try:
            yield alive
        finally:
            task.cancel()
            outcome = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(outcome[0], asyncio.CancelledError), outcome


Planted = Callable[..., Plant]


@pytest.fixture
async def planted(tmp_path: Path) -> AsyncIterator[Planted]:
    async with DevCluster() as cluster:
        yield lambda **more: Plant(cluster, tmp_path, **more)


# --- the whole transaction ---


async def test_a_gpu_is_tainted_drained_cut_and_published_and_its_neighbour_is_not_touched(planted: Planted):
    plant = planted()
    plant.hold(("gpu-1", 1))
    async with running(plant) as alive:
        plant.label(config="second")
        await plant.until(lambda: plant.shown == {"gpu-0": "", "gpu-1": "NoSchedule"} and plant.state == "pending")
        await plant.until(lambda: plant.told("MigReconfigureWaits"))
        assert plant.cut == {}

        plant.release()
        await plant.until(lambda: plant.state == "success")

        assert plant.cut == {1: SECOND}
        static = {device.name: device.instance for device in alive.offered.inventory.devices if device.kind is Kind.MIG}
        assert plant.shown == dict.fromkeys(["gpu-0", *static], "")
        assert len(static) == 5
        assert all(static.values())
    assert plant.told("MigReconfigureWaits")[0].startswith(
        f"MIG config second: waits for claim team/a on GPU {plant.gpus.uuids[1]}; "
    )
    assert plant.told("MigReconfigured") == ["MIG config second: all GPUs that it is for are as it says."]
    # What was published on the way never offered, untainted, what is about to go or has just come.
    assert not any("gpu-1" in each and plant_is_cut(each) for each in plant.seen)


def plant_is_cut(shown: dict[str, str]) -> bool:
    return any(name.startswith("gpu-1-mig") for name in shown)


async def test_devices_that_have_just_come_are_tainted_as_those_that_went_were(planted: Planted):
    plant = planted()
    plant.label(config="second")
    async with life(plant) as alive:
        await alive.finish()
    names = sorted(name for name in plant.shown if name != "gpu-0")
    assert [(sorted(each.keys() - {"gpu-0"}), set(each.values())) for each in plant.wanted] == [
        (["gpu-1"], {""}),
        (["gpu-1"], {"", "NoSchedule"}),
        (names, {"", "NoSchedule"}),
        (names, {""}),
    ]
    assert all(each["gpu-0"] == "" for each in plant.wanted)


async def test_every_gpu_is_cut_as_soon_as_it_is_free(planted: Planted):
    plant = planted()
    plant.hold(("gpu-1", 1))
    async with running(plant):
        plant.label(config="halves")
        await plant.until(lambda: plant.cut == {0: ["3g.40gb@0", "3g.40gb@4"]} and plant.told("MigReconfigureWaits"))
        await plant.until(lambda: plant.shown.get("gpu-0-mig-3g40gb-9-0") == "")
        assert (plant.shown["gpu-1"], plant.state) == ("NoSchedule", "pending")
        plant.release()
        await plant.until(lambda: plant.state == "success")
        assert plant.cut == {0: HALVES, 1: HALVES}


async def test_what_is_as_wanted_is_not_touched_and_its_holders_stay(planted: Planted):
    plant = planted()
    plant.label(config="halves")
    async with life(plant) as alive:
        await alive.finish()
    before = [each.uuid for gpu in plant.gpus.uuids for each in plant.gpus.instances(gpu)]
    plant.hold(("gpu-0-mig-3g40gb-9-0", 0), ("gpu-1-mig-3g40gb-9-0", 1))
    plant.label(state=None)
    async with life(plant) as alive:
        await alive.finish()
    assert [each.uuid for gpu in plant.gpus.uuids for each in plant.gpus.instances(gpu)] == before
    assert (plant.state, set(plant.shown.values())) == ("success", {""})


async def test_another_config_keeps_what_it_shares_and_destroys_the_rest(planted: Planted):
    plant = planted()
    plant.label(config="halves")
    async with running(plant):
        await plant.until(lambda: plant.state == "success")
        kept = plant.gpus.instances(plant.gpus.uuids[1])[1].uuid
        plant.label(config="second")
        await plant.until(lambda: plant.cut == {0: ["3g.40gb@0", "3g.40gb@4"], 1: SECOND})
        assert plant.gpus.instances(plant.gpus.uuids[1])[4].uuid == kept
        plant.label(config="whole")
        await plant.until(lambda: plant.cut == {} and plant.state == "success" and len(plant.shown) == 2)
        assert plant.shown == {"gpu-0": "", "gpu-1": ""}


async def test_what_a_reboot_has_undone_is_done_again(planted: Planted):
    plant = planted()
    plant.label(config="second")
    async with life(plant) as alive:
        await alive.finish()
        plant.gpus.reboot()
        assert plant.cut == {}
        await alive.look()
        await alive.finish()
        assert plant.cut == {1: SECOND}


async def test_without_the_label_nothing_is_touched(planted: Planted):
    plant = planted()
    uuid = plant.gpus.uuids[0]
    plant.gpus.set_mig(uuid, True)
    plant.gpus.create_instance(uuid, 19, Placement(start=6, size=1))
    async with life(plant) as alive:
        await alive.finish()
    assert (plant.cut, plant.state, plant.events) == ({0: ["1g.10gb@6"]}, "", [])


async def test_a_label_that_is_taken_back_takes_taints_and_state_back(planted: Planted):
    plant = planted()
    plant.hold(("gpu-1", 1))
    async with running(plant):
        plant.label(config="second")
        await plant.until(lambda: plant.state == "pending" and plant.shown["gpu-1"] == "NoSchedule")
        plant.label(config=None)
        await plant.until(lambda: plant.state == "" and plant.shown["gpu-1"] == "")
    assert plant.cut == {}


# --- who has a GPU ---


async def test_who_does_not_leave_in_time_is_moved_and_the_time_counts_over_a_restart(planted: Planted):
    plant = planted(drain=600)
    plant.label(config="second")
    plant.hold(("gpu-1", 1))
    async with life(plant) as alive:
        assert await alive.works.turn() == 5.0
        await alive.publisher.settled()
        assert plant.shown["gpu-1"] == "NoSchedule"
    plant.now += timedelta(seconds=599)
    async with life(plant) as alive:
        await alive.publisher.settled()
        await alive.works.turn()
        assert plant.shown["gpu-1"] == "NoSchedule"
        plant.now += timedelta(seconds=1)
        await alive.works.turn()
        await alive.publisher.settled()
        assert plant.shown == {"gpu-0": "", "gpu-1": "NoExecute"}
        plant.release()
        await alive.finish()
    assert (plant.cut, plant.state) == ({1: SECOND}, "success")


async def test_a_claim_that_was_given_the_gpu_but_not_prepared_is_waited_for(planted: Planted):
    plant = planted()
    plant.allocate("gpu-1")
    plant.label(config="second")
    async with running(plant):
        await plant.until(lambda: plant.told("MigReconfigureWaits"))
        assert "claim default/given" in plant.told("MigReconfigureWaits")[0]
        assert plant.cut == {}
        plant.cluster.store.delete(kinds.CLAIM, "default", "given")
        await plant.until(lambda: plant.state == "success")


async def test_who_only_looks_on_is_not_waited_for(planted: Planted):
    plant = planted()
    plant.allocate("gpu-1", admin=True)
    plant.hold(("gpu-1", 1), admin=True)
    plant.label(config="second")
    async with life(plant) as alive:
        await alive.finish()
    assert (plant.cut, plant.state) == ({1: SECOND}, "success")


async def test_a_process_without_a_claim_is_waited_for(planted: Planted):
    plant = planted()
    plant.gpus.use(plant.gpus.uuids[1], pid=4711)
    plant.label(config="second")
    async with running(plant):
        await plant.until(lambda: plant.told("MigReconfigureWaits"))
        assert "process 4711" in plant.told("MigReconfigureWaits")[0]
        plant.gpus.leave(4711)
        await plant.until(lambda: plant.state == "success")


async def test_instances_that_claims_made_on_demand_are_drained_and_not_taken_for_the_operators(planted: Planted):
    plant = planted(dynamic=True)
    uuid, place = plant.gpus.uuids[1], Placement(start=4, size=4)
    plant.gpus.set_mig(uuid, True)
    made = plant.gpus.create_instance(uuid, 9, place)
    grant = Grant(requests=("r",), pool="n1", device="gpu-1-mig-3g40gb-9-4")
    device = Prepared(grant=grant, kind=Kind.MIG, gpu=uuid, profile_id=9, placement=place, made=True)
    entry = Entry(
        claim=ClaimRef(namespace="team", name="a", uid="u"),
        phase=Phase.DONE,
        boot=plant.gpus.boot_id,
        devices=(device,),
    )
    plant.checkpoint.save([entry])
    plant.label(config="whole")
    async with life(plant) as alive:
        await alive.finish()
        # Nothing is to be cut beforehand: on-demand instances are no difference.
        assert (plant.cut, plant.state) == ({1: ["3g.40gb@4"]}, "success")
    plant.label(config="second")
    async with life(plant) as alive:
        assert await alive.works.turn() == 5.0
        assert plant.cut == {1: ["3g.40gb@4"]}
        plant.gpus.destroy_instance(made)
        plant.release()
        await alive.finish()
    assert (plant.cut, plant.state) == ({1: SECOND}, "success")


async def test_under_dynamic_mig_an_uncut_config_gives_gpus_back_to_be_cut_on_demand(planted: Planted):
    plant = planted(dynamic=True)
    plant.label(config="second")
    async with life(plant) as alive:
        await alive.finish()
    assert "gpu-1" not in plant.shown
    plant.label(config="uncut")
    async with life(plant) as alive:
        await alive.finish()
    assert plant.shown.keys() >= {"gpu-1", "gpu-1-mig-3g40gb-9-0", "gpu-1-mig-3g40gb-9-4"}
    assert plant.gpus.instances(plant.gpus.uuids[1]) == ()


async def test_devices_keep_their_names_though_the_mode_moves_minor_numbers(planted: Planted):
    plant = planted()
    plant.label(config="halves")
    async with life(plant) as alive:
        await alive.finish()
        assert [gpu.minor for gpu in plant.gpus.gpus()] != [0, 1]
        assert sorted(plant.shown) == [f"gpu-{gpu}-mig-3g40gb-9-{start}" for gpu in (0, 1) for start in (0, 4)]
    plant.label(config="whole")
    async with life(plant) as alive:
        await alive.finish()
        assert sorted(plant.shown) == ["gpu-0", "gpu-1"]


# --- killed anywhere ---


async def lives(plant: Plant, ticks: int | None) -> bool:
    """Whether a life comes to its end, and is not killed at this tick, counted from nought."""
    left = ticks

    def tick() -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left = None if left is None else left - 1

    plant.tick = tick
    try:
        async with life(plant) as alive:
            await alive.finish()
    except Killed:
        return False
    finally:
        plant.tick = lambda: None
    return True


async def test_killed_anywhere_the_next_process_does_the_rest(tmp_path: Path):
    """From two halves to another layout on one GPU, and from whole to it on the next; one run for each place."""
    entries = {
        "before": {"devices": [0], "mig-enabled": True, "mig-devices": {"3g.40gb": 2}},
        "after": {"devices": "all", "mig-enabled": True, "mig-devices": {"2g.20gb": 2, "1g.10gb": 1}},
    }
    layout = ["2g.20gb@2", "2g.20gb@4", "1g.10gb@6"]
    for place in range(100):
        folder = tmp_path / str(place)
        folder.mkdir()
        async with DevCluster() as cluster:
            plant = Plant(cluster, folder)
            plant.file.write_text(
                json.dumps({"version": "v1", "mig-configs": {name: [entry] for name, entry in entries.items()}})
            )
            plant.label(config="before")
            assert await lives(plant, None)
            plant.label(config="after")
            whole = await lives(plant, place)
            assert whole or await lives(plant, None)
            assert (place, plant.cut, plant.state) == (place, {0: layout, 1: layout}, "success")
            assert plant.shown == dict.fromkeys(plant.shown, "")
            assert len(plant.shown) == 6
            assert mig_labels.our_state(plant.node) == "success"
        if whole:
            break
    # Taints three times, the state twice, four steps to destroy two, one mode, two steps for each of six.
    assert place > 20


# --- beside others ---


async def test_nothing_is_done_beside_the_gpu_operators_mig_manager(planted: Planted):
    plant = planted()
    plant.label(config="second", manager="true")
    async with running(plant):
        await plant.until(lambda: plant.told("MigReconfigureRefused") and plant.shown)
        assert (plant.cut, plant.state, plant.shown) == ({}, "", {"gpu-0": "", "gpu-1": ""})
        plant.label(manager="false")
        await plant.until(lambda: plant.state == "success")
    assert plant.told("MigReconfigureRefused") == [
        "Node n1: the GPU Operator's MIG manager serves it (nvidia.com/gpu.deploy.mig-manager=true), and two may not "
        "cut its GPUs; set that label to false, or take mig_configs from this plugin's settings."
    ]


@pytest.mark.parametrize("said", ["pending", "rebooting"])
async def test_nothing_is_done_while_somebody_else_says_to_be_at_it(planted: Planted, said: str):
    plant = planted()
    plant.label(config="second", state=said)
    async with running(plant):
        await plant.until(lambda: plant.told("MigReconfigureRefused"))
        assert (plant.cut, plant.state) == ({}, said)
        plant.label(state="success")
        await plant.until(lambda: plant.cut == {1: SECOND})


async def test_who_writes_the_state_while_we_wait_stops_us(planted: Planted):
    plant = planted()
    plant.hold(("gpu-1", 1))
    plant.label(config="second")
    async with running(plant):
        await plant.until(lambda: plant.told("MigReconfigureWaits"))
        plant.label(state="rebooting")
        plant.release()
        await plant.until(lambda: plant.told("MigReconfigureRefused") and plant.shown["gpu-1"] == "")
        assert (plant.cut, plant.state) == ({}, "rebooting")


# --- what cannot be done ---


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("all-4g.40gb", "MIG config all-4g.40gb: is not in {file}; take one of "),
        ("odd", "MIG config odd in {file}: GPU 0 (NVIDIA H100 80GB HBM3) has no profile 3g.20gb; it has "),
        ("much", "MIG config much in {file}: 2 x 3g.40gb + 1 x 1g.10gb do not fit together on GPU 0 "),
    ],
)
async def test_a_config_that_cannot_be_is_told_and_nothing_is_tainted(planted: Planted, config: str, words: str):
    plant = planted()
    plant.label(config=config)
    async with life(plant) as alive:
        await alive.finish()
        await alive.finish()
    ((reason, message),) = plant.events
    assert (reason, plant.state, plant.cut) == ("MigReconfigureFailed", "failed", {})
    assert message.startswith(words.format(file=plant.file))
    assert not any(effect for shown in plant.seen for effect in shown.values())


@pytest.mark.parametrize("content", [None, "version: v2", "\xff"])
async def test_a_file_that_cannot_be_read_is_told_and_one_that_can_again_is_used(planted: Planted, content: str | None):
    plant = planted()
    plant.file.unlink() if content is None else plant.file.write_text(content, encoding="latin-1")
    plant.label(config="second")
    async with life(plant) as alive:
        await alive.finish()
        assert plant.state == "failed"
        plant.file.write_text(FILE)
        await alive.finish()
        assert (plant.cut, plant.state) == ({1: SECOND}, "success")
    assert str(plant.file) in plant.told("MigReconfigureFailed")[0]


async def test_what_the_driver_refuses_is_told_what_is_there_is_published_and_it_is_tried_when_asked(planted: Planted):
    plant = planted()
    plant.label(config="halves")
    async with life(plant) as alive:
        plant.gpus.refuse("create_instance", Failure.INSUFFICIENT_RESOURCES, plant.gpus.uuids[0])
        await alive.finish()
        await alive.publisher.settled()
        assert plant.state == "failed"
        assert plant.cut == {0: [], 1: ["3g.40gb@0", "3g.40gb@4"]}
        assert plant.shown == {"gpu-1-mig-3g40gb-9-0": "", "gpu-1-mig-3g40gb-9-4": ""}
        await alive.finish()  # It is left alone,
        assert plant.state == "failed"
    (words,) = plant.told("MigReconfigureFailed")
    assert plant.gpus.uuids[0] in words
    assert "insufficient resources" in words
    assert f"Remove label {STATE}" in words

    async with running(plant):
        await plant.until(lambda: plant.state == "success")  # until a restart,
    plant.label(config="whole")
    async with running(plant):
        await plant.until(lambda: plant.shown == {"gpu-0": "", "gpu-1": ""})
        plant.gpus.refuse("set_mig", Failure.UNKNOWN, plant.gpus.uuids[0])
        plant.label(config="halves")
        await plant.until(lambda: plant.state == "failed")
        plant.label(state=None)  # or until the label is removed.
        await plant.until(lambda: plant.state == "success")
        assert plant.cut == {0: HALVES, 1: HALVES}


async def test_a_gpu_that_somebody_looks_at_is_tried_again_by_itself(planted: Planted):
    plant = planted()
    plant.label(config="second")
    plant.gpus.refuse("set_mig", Failure.IN_USE)
    async with running(plant):
        await plant.until(lambda: plant.state == "success")
    assert "in use" in plant.told("MigReconfigureWaits")[0]


async def test_where_the_mode_needs_a_reset_the_gpu_stays_drained_until_it_comes(planted: Planted):
    plant = planted(machine="a100x2")
    uuid = plant.gpus.uuids[1]
    plant.label(config="second")
    async with life(plant) as alive:
        await alive.finish()
        await alive.publisher.settled()
        assert (plant.state, plant.shown, plant.cut) == ("pending", {"gpu-0": "", "gpu-1": "NoSchedule"}, {})
        plant.gpus.reset(uuid)
        await alive.look()
        await alive.finish()
        assert (plant.state, plant.cut) == ("success", {1: SECOND})
    (words,) = plant.told("MigResetRequired")
    assert words.startswith(f"MIG config second: pending reset: the MIG mode of GPU {uuid} changes with that only; ")


async def test_a_mode_that_waits_for_a_reset_is_taken_back_by_another_config(planted: Planted):
    plant = planted(machine="a100x2")
    plant.label(config="second")
    async with running(plant):
        await plant.until(lambda: plant.told("MigResetRequired"))
        plant.label(config="whole")
        await plant.until(lambda: plant.state == "success")
        assert [gpu.mig.pending for gpu in plant.gpus.gpus() if gpu.mig] == [False, False]
        assert plant.shown == {"gpu-0": "", "gpu-1": ""}


# --- steps ---


def planned(wanted: str, gpu: Any, dynamic: bool = False) -> list[str]:
    layout = layouts(configs(FILE, "f"), wanted, [gpu], "f")[gpu.uuid]
    return [named(step) for step in steps(gpu, layout, dynamic=dynamic)]


def named(step: object) -> str:
    match step:
        case Destroy():
            return f"-{step.instance.profile}@{step.instance.placement.start}"
        case Create():
            return f"+{step.profile.name}@{step.placement.start}"
        case Mode():
            return "on" if step.on else "off"
    return "reset"


def test_steps_are_what_is_missing_and_no_more():
    bare = gpus("h100x1")[0]
    assert planned("whole", bare) == []
    assert planned("uncut", bare) == ["on"]
    assert planned("halves", bare) == ["on", "+3g.40gb@0", "+3g.40gb@4"]
    assert planned("halves", cut(bare, ("3g.40gb", 4))) == ["+3g.40gb@0"]
    assert planned("halves", cut(bare, ("3g.40gb", 4), usable=False)) == ["-3g.40gb@4", "+3g.40gb@0", "+3g.40gb@4"]
    assert planned("whole", cut(bare, ("1g.10gb", 3))) == ["-1g.10gb@3", "off"]


def test_where_claims_cut_on_demand_the_mode_of_an_uncut_gpu_is_theirs():
    bare = gpus("h100x1")[0]
    for config in ("whole", "uncut"):
        assert planned(config, bare, dynamic=True) == planned(config, cut(bare), dynamic=True) == []
        assert planned(config, cut(bare, ("1g.10gb", 3)), dynamic=True) == ["-1g.10gb@3"]
    assert planned("uncut", gpus("a100x1")[0], dynamic=True) == ["on", "reset"]


def test_a_reset_comes_between_the_mode_and_the_instances():
    bare = gpus("a100x1")[0]
    assert bare.mig is not None
    assert planned("halves", bare) == ["on", "reset", "+3g.40gb@0", "+3g.40gb@4"]
    assert planned("halves", replace(bare, mig=replace(bare.mig, pending=True))) == planned("halves", bare)[1:]
    assert planned("whole", replace(bare, mig=replace(bare.mig, pending=True))) == ["off"]


def test_steps_end_before_a_reset_and_pass_over_what_has_gone():
    machine = FakeGpus("h100x1")
    machine.set_mig(machine.uuids[0], True)
    made = machine.create_instance(machine.uuids[0], 9, Placement(start=0, size=4))
    machine.destroy_instance(made)
    assert carry_out(machine, [Destroy(instance=made), Mode(gpu=machine.uuids[0], on=False)])
    assert not carry_out(machine, [Reset(gpu=machine.uuids[0]), Mode(gpu=machine.uuids[0], on=True)])
    machine.set_mig(machine.uuids[0], True)
    machine.refuse("destroy_instance", Failure.UNKNOWN)
    with pytest.raises(GpuError):
        carry_out(machine, [Destroy(instance=made)])


def test_what_is_made_for_claims_is_no_part_of_a_layout():
    known = cut(gpus("h100x1")[0], ("3g.40gb", 0), ("1g.10gb", 4))
    left = static(known, {(known.uuid, Placement(start=4, size=1))})
    assert left.mig is not None
    assert [each.profile for each in left.mig.instances] == ["3g.40gb"]
    bare = gpus("t4x1")[0]
    assert static(bare, ()) == bare
    assert steps(bare, Layout(enabled=True), dynamic=False) == ()


# --- labels ---


def slices(*taints: Taint) -> Iterable[Document]:
    listed = [{"key": each.key, "value": each.value, "timeAdded": "2026-05-01T12:00:00Z"} for each in taints]
    return [{"spec": {"devices": [{"name": "gpu-0"}, {"name": "gpu-1", "taints": listed}]}}, {"spec": {}}]


def test_the_time_of_a_taint_counts_for_its_config_only():
    noon = int(NOON.timestamp() * 1000)
    ours = Taint(key=TAINT, value="second", effect="NoSchedule", since_ms=0)
    assert mig_labels.since(slices(ours), "second") == noon
    assert mig_labels.since(slices(ours), "halves") is None
    assert mig_labels.since(slices(replace(ours, key="gpu.nvidia.com/xid")), "second") is None
