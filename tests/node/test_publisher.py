"""The publisher against an API server: whatever others do, what is published is what is offered."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dra_driver.devices import Inventory, Taint
from dra_driver.inventory import Offer, Shares
from dra_driver.publisher import ForeignSlicesError, Publisher
from dra_driver.slices import MARK, Target, content, documents
from scheduler.devcluster import kinds
from scheduler.devcluster.run import DevCluster
from scheduler.kube.backoff import Backoff
from scheduler.kube.client import Client, Document
from scheduler.kube.reflector import Rhythm
from tests.node.offers import DYNAMIC, gpus, offered

DRIVER = "gpu.nvidia.com"
QUICK = Rhythm(server=60, silence=5, listing=5, absent=0.01, backoff_first=0.001, backoff_most=0.01)
QUIET = 0.1
SICK = Taint(key="gpu.nvidia.com/xid", value="79", effect="NoExecute", since_ms=1_700_000_000_000)


@dataclass
class Node:
    """A cluster with one node, and every write to its slices."""

    cluster: DevCluster
    kubeconfig: Path
    target: Target
    writes: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, kind: Any, before: Document | None, after: Document | None) -> None:
        if kind.key == kinds.SLICE.key:
            verb = "create" if before is None else "delete" if after is None else "update"
            self.writes.append(f"{verb} {(after or before or {})['metadata']['name'][-2:]}")
            self.changed.set()

    @property
    def slices(self) -> list[Document]:
        return self.cluster.store.all(kinds.SLICE)

    @property
    def generations(self) -> set[int]:
        return {each["spec"]["pool"]["generation"] for each in self.slices}

    def shows(self, inventory: Inventory, target: Target | None = None) -> bool:
        """Whether these and no other slices stand, all of one generation."""
        wanted = [content(each) for each in documents(inventory, target or self.target)]
        return [content(each) for each in self.slices] == wanted and len(self.generations) == 1

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    def spoil(self, position: int, change: Callable[[Document], Document]) -> None:
        """Somebody else writes a slice."""
        self.cluster.store.update(kinds.SLICE, change(self.slices[position]))

    def delete(self, *positions: int) -> None:
        for name in [self.slices[position]["metadata"]["name"] for position in positions]:
            self.cluster.store.delete(kinds.SLICE, "", name)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with DevCluster() as cluster:
        made = cluster.store.create(kinds.NODE, {"metadata": {"name": "n1"}})
        target = Target(node="n1", node_uid=made["metadata"]["uid"])
        found = Node(cluster, cluster.kubeconfig(tmp_path / "kubeconfig"), target)
        cluster.store.observe(found.note)
        yield found


@asynccontextmanager
async def publishing(
    node: Node, inventory: Inventory | None = None, client: type[Client] = Client, **more: Any
) -> AsyncIterator[Publisher]:
    async with await client.connect(node.kubeconfig) as connected:
        more = {"backoff": Backoff(first_seconds=0.02, most_seconds=0.5), **more}
        publisher = Publisher(connected, node.target, rhythm=QUICK, quiet_seconds=QUIET, **more)
        if inventory is not None:
            publisher.want(inventory)
        task = asyncio.create_task(publisher.run())
        try:
            if inventory is not None:
                async with asyncio.timeout(20):
                    await publisher.settled()
            yield publisher
        finally:
            task.cancel()
            outcome = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(outcome[0], asyncio.CancelledError)


async def settled(publisher: Publisher) -> None:
    async with asyncio.timeout(20):
        await publisher.settled()


EIGHT = offered(gpus("h100x8"))
SICK_ONE = offered(gpus("h100x8"), taints={"gpu-3": (SICK,)})
SICK_TWO = offered(gpus("h100x8"), taints={"gpu-3": (SICK,), "gpu-5": (SICK,)})


async def test_what_is_offered_is_published(node: Node):
    async with publishing(node, EIGHT):
        assert node.shows(EIGHT)
        assert node.generations == {1}
        assert node.writes == [f"create {number:02}" for number in range(9)]


async def test_nothing_is_published_before_something_is_wanted(node: Node):
    async with publishing(node) as publisher:
        publisher.want(Inventory(devices=()))
        await settled(publisher)
    assert [each["spec"].get("devices") or [] for each in node.slices] == [[]]


async def test_a_change_of_one_gpu_is_one_update(node: Node):
    async with publishing(node, EIGHT) as publisher:
        node.writes.clear()
        publisher.want(SICK_ONE)
        await settled(publisher)
        assert node.shows(SICK_ONE)
        assert (node.writes, node.generations) == (["update 04"], {1})


async def test_a_larger_change_moves_the_pool_to_another_generation(node: Node):
    async with publishing(node, EIGHT) as publisher:
        publisher.want(SICK_TWO)
        await settled(publisher)
        assert node.shows(SICK_TWO)
        assert node.generations == {2}


async def test_the_same_is_not_written_twice(node: Node):
    async with publishing(node, EIGHT) as publisher:
        node.writes.clear()
        publisher.want(offered(reversed(gpus("h100x8"))))
        await settled(publisher)
        assert node.writes == []


async def test_a_plugin_that_starts_again_writes_nothing(node: Node):
    async with publishing(node, EIGHT):
        node.writes.clear()
    async with publishing(node, EIGHT):
        assert node.writes == []


async def test_what_another_version_has_published_is_replaced(node: Node):
    async with publishing(node, EIGHT):
        pass
    fewer = offered(gpus("h100x2"))
    async with publishing(node, fewer):
        assert node.shows(fewer)
        assert node.generations == {2}


async def test_what_is_deleted_is_made_again(node: Node):
    async with publishing(node, EIGHT):
        node.delete(2, 4)
        await node.until(lambda: node.shows(EIGHT))
        assert node.generations == {1}


async def test_a_kubelet_that_starts_deletes_all_and_all_comes_again(node: Node):
    async with publishing(node, EIGHT):
        node.delete(*range(9))
        assert node.slices == []
        await node.until(lambda: node.shows(EIGHT))


async def test_what_somebody_changes_is_put_right(node: Node):
    def without_devices(old: Document) -> Document:
        return {**old, "spec": {**old["spec"], "devices": []}}

    async with publishing(node, EIGHT):
        node.spoil(3, without_devices)
        assert not node.shows(EIGHT)
        await node.until(lambda: node.shows(EIGHT))


async def test_a_slice_that_lost_its_label_is_still_ours(node: Node):
    def without_labels(old: Document) -> Document:
        return {**old, "metadata": {**old["metadata"], "labels": {}}}

    async with publishing(node, EIGHT) as publisher:
        node.spoil(3, without_labels)
        await node.until(lambda: node.shows(EIGHT))
        assert publisher.problem == ""


class Noted(Backoff):
    """Waits that are noted, and cut short."""

    noted: ClassVar[list[float]] = []

    def seconds(self) -> float:
        self.noted.append(super().seconds())
        return 0.0


async def test_who_fights_for_a_slice_is_answered_with_longer_and_longer_waits(node: Node):
    def spoilt(old: Document) -> Document:
        return {**old, "spec": {**old["spec"], "devices": old["spec"]["devices"][:1]}}

    Noted.noted = []
    waits = Noted(first_seconds=0.2, most_seconds=30)
    async with publishing(node, EIGHT, backoff=waits):
        for _ in range(9):
            node.spoil(1, spoilt)
            await node.until(lambda: node.shows(EIGHT))
    assert len(Noted.noted) >= 8
    assert all(wait >= 0.2 * 2**number / 2 for number, wait in enumerate(Noted.noted[:8]))


async def test_two_instances_side_by_side_do_no_harm(node: Node):
    async with publishing(node, EIGHT) as first, publishing(node, EIGHT) as second:
        assert node.writes == [f"create {number:02}" for number in range(9)]
        for each in (first, second):
            each.want(SICK_TWO)
        await settled(first)
        await settled(second)
        await node.until(lambda: node.shows(SICK_TWO))
        node.delete(*range(9))
        await node.until(lambda: node.shows(SICK_TWO))
        assert (first.problem, second.problem) == ("", "")


async def test_two_instances_that_start_together_agree(node: Node):
    async with (
        await Client.connect(node.kubeconfig) as client,
        await Client.connect(node.kubeconfig) as other,
        asyncio.TaskGroup() as tasks,
    ):
        both = [Publisher(each, node.target, rhythm=QUICK, quiet_seconds=QUIET) for each in (client, other)]
        running = [tasks.create_task(each.run()) for each in both]
        for each in both:
            each.want(EIGHT)
        for each in both:
            await settled(each)
        assert node.shows(EIGHT)
        for task in running:
            task.cancel()


async def test_other_nodes_and_drivers_are_left_alone(node: Node):
    for name, driver in (("n2", DRIVER), ("n1", "dra.net")):
        spec = {"driver": driver, "nodeName": name, "pool": {"name": name, "resourceSliceCount": 1}, "devices": []}
        node.cluster.store.create(kinds.SLICE, {"metadata": {"name": f"{name}-{driver}-x"}, "spec": spec})
    async with publishing(node, EIGHT):
        assert len(node.slices) == 11
        assert [each for each in node.writes if each.startswith(("update", "delete"))] == []


async def test_a_node_that_comes_back_as_another_owns_its_slices_again(node: Node):
    store = node.cluster.store
    async with publishing(node, EIGHT) as publisher:
        store.delete(kinds.NODE, "", "n1")
        node.delete(*range(len(node.slices)))
        again = store.create(kinds.NODE, {"metadata": {"name": "n1"}})
        target = replace(node.target, node_uid=again["metadata"]["uid"])
        await node.until(lambda: node.shows(EIGHT, target))
        await settled(publisher)
        assert target.node_uid != node.target.node_uid


async def test_slices_wait_for_a_node_that_is_gone(node: Node):
    store = node.cluster.store
    problems: asyncio.Queue[str] = asyncio.Queue()
    async with publishing(node, EIGHT, on_problem=problems.put_nowait):
        store.delete(kinds.NODE, "", "n1")
        node.delete(*range(len(node.slices)))
        async with asyncio.timeout(10):
            assert "wait for their owner" in await problems.get()
        assert node.slices == []


# --- beside another driver ---


def nvidias(node: Node, name: str = "n1-gpu.nvidia.com-x7kqz") -> Document:
    pool = {"name": "n1", "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": DRIVER, "nodeName": "n1", "pool": pool, "devices": [{"name": "gpu-0"}]}
    return node.cluster.store.create(kinds.SLICE, {"metadata": {"name": name}, "spec": spec})


async def test_beside_nvidias_driver_the_start_is_refused(node: Node):
    nvidias(node)
    async with await Client.connect(node.kubeconfig) as client:
        with pytest.raises(ForeignSlicesError, match=r"n1-gpu\.nvidia\.com-x7kqz.*remove that driver"):
            await Publisher(client, node.target).check()


async def test_the_start_is_not_refused_beside_what_we_published_ourselves(node: Node):
    async with publishing(node, EIGHT) as publisher:
        await publisher.check()


async def test_beside_nvidias_driver_nothing_is_written_until_it_is_gone(node: Node):
    nvidias(node)
    problems: asyncio.Queue[str] = asyncio.Queue()
    async with publishing(node, on_problem=problems.put_nowait) as publisher:
        publisher.want(EIGHT)
        async with asyncio.timeout(10):
            assert "another DRA driver publishes as gpu.nvidia.com" in await problems.get()
        assert node.writes == ["create qz"]
        node.delete(0)
        await settled(publisher)
        assert node.shows(EIGHT)
        assert publisher.problem == ""


async def test_when_nvidias_driver_comes_we_stop_writing(node: Node):
    problems: asyncio.Queue[str] = asyncio.Queue()
    async with publishing(node, EIGHT, on_problem=problems.put_nowait) as publisher:
        nvidias(node)
        async with asyncio.timeout(10):
            assert "each device would be given out twice" in await problems.get()
        node.writes.clear()
        publisher.want(SICK_ONE)
        with pytest.raises(ForeignSlicesError):
            await publisher.check()
        assert node.writes == []
        node.cluster.store.delete(kinds.SLICE, "", "n1-gpu.nvidia.com-x7kqz")
        await settled(publisher)
        assert node.shows(SICK_ONE)


# --- a server that refuses, or leaves things out ---


async def test_what_fails_is_tried_again(node: Node):
    class Weak(Client):
        failures = 3

        async def create(self, kind: Any, namespace: str | None, body: Document) -> Document:
            if Weak.failures:
                Weak.failures -= 1
                body = {**body, "spec": {**body["spec"], "nodeName": ""}}
            return await super().create(kind, namespace, body)

    problems: list[str] = []
    async with publishing(node, EIGHT, Weak, on_problem=problems.append):
        assert node.shows(EIGHT)
    assert "are not up to date" in problems[0]
    assert "exactly one of" in problems[0]
    assert problems[-1] == ""


@contextmanager
def older(*lacking: str) -> Iterator[type[Client]]:
    """A client to whose server these fields of slices and devices are unknown."""

    def cut(document: Document) -> Document:
        spec = {name: value for name, value in document["spec"].items() if name not in lacking}
        if "devices" in spec:
            spec["devices"] = [
                {name: value for name, value in device.items() if name not in lacking} for device in spec["devices"]
            ]
        return {**document, "spec": spec}

    class Older(Client):
        async def create(self, kind: Any, namespace: str | None, body: Document) -> Document:
            return await super().create(kind, namespace, cut(body))

        async def replace(
            self, kind: Any, namespace: str | None, name: str, body: Document, subresource: str | None = None
        ) -> Document:
            return await super().replace(kind, namespace, name, cut(body), subresource)

    yield Older


SHARED = offered(gpus("h100x2"), Offer(shares=Shares()))


async def test_what_an_older_server_leaves_out_is_told_and_not_written_again(node: Node):
    with older("allowMultipleAllocations") as client:
        async with publishing(node, SHARED, client) as publisher:
            assert node.writes == ["create 00"]
            assert "spec.devices[].allowMultipleAllocations" in publisher.problem
            node.delete(0)
            await node.until(lambda: len(node.slices) == 1)
            await settled(publisher)
            assert node.writes == ["create 00", "delete 00", "create 00"]


async def test_two_instances_beside_an_older_server_do_not_write_in_turns(node: Node):
    sick = {gpu.uuid: (SICK,) for gpu in gpus("h100x8")}
    inventory = offered(gpus("h100x8"), DYNAMIC, taints=sick)
    with older("taints") as client:
        async with publishing(node, inventory, client) as first, publishing(node, inventory, client) as second:
            await settled(first)
            node.writes.clear()
            assert "taints" in second.problem
            node.delete(7, 8)
            await node.until(lambda: len(node.slices) == 9)
            for each in (first, second):
                await settled(each)
            assert not any(each.startswith("update") for each in node.writes)


async def test_where_counters_are_left_out_gpus_are_offered_in_one_piece(node: Node):
    """Else overlapping instances would be given out at once."""
    with older("sharedCounters", "consumesCounters") as client:
        async with publishing(node, EIGHT, client) as publisher:
            assert [device["name"] for each in node.slices for device in each["spec"]["devices"]] == [
                f"gpu-{number}" for number in range(8)
            ]
            assert "offered in one piece only" in publisher.problem
    assert node.writes[0] == "create 00"
    assert not any("create 01" in each for each in node.writes)


async def test_a_name_that_another_node_has_taken_is_told(node: Node):
    name = documents(EIGHT, node.target)[0]["metadata"]["name"]
    pool = {"name": "n9", "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": DRIVER, "nodeName": "n9", "pool": pool, "devices": []}
    node.cluster.store.create(kinds.SLICE, {"metadata": {"name": name, "labels": {MARK: "x"}}, "spec": spec})
    problems: asyncio.Queue[str] = asyncio.Queue()
    async with publishing(node, on_problem=problems.put_nowait) as publisher:
        publisher.want(EIGHT)
        async with asyncio.timeout(10):
            assert "belongs to another node or driver" in await problems.get()
        node.delete(0)
        await settled(publisher)
        assert node.shows(EIGHT)
