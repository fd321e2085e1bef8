"""One cycle after another: what runs when, what is planned once, and what stops the service."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from scheduler import cycle
from scheduler.api.kinds import Kind
from scheduler.commit.attempts import Patience
from scheduler.commit.committer import Committer
from scheduler.commit.outcome import CommitFailed, GangOutcome
from scheduler.commit.slots import Slots
from scheduler.cycle import Cycle, CycleReport, Rhythm
from scheduler.explain.status import StatusWrite, Teller
from scheduler.kube.errors import ApiError
from scheduler.model.errors import InvariantError
from scheduler.model.plan import Placement, Plan
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.plan import planner
from scheduler.stand_by import Foresight
from scheduler.state import translate
from scheduler.state.cluster import ClusterState
from tests import manifests

GANG = "a/train"
FAILED = CommitFailed(gang=GANG, object="ResourceClaim a/c", problem="was refused")


class Server:
    """Stands for the client: binds, or waits at the gate, or refuses."""

    def __init__(self) -> None:
        self.bound: list[str] = []
        self.evicted: list[str] = []
        self.refusals: list[int] = []
        self.protected: set[str] = set()
        self.unwritable: set[str] = set()
        self.pods: dict[str, dict[str, Any]] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def bind(self, _namespace: str, name: str, _uid: str, _node: str, **_: object) -> None:
        await self.gate.wait()
        if self.refusals:
            raise ApiError(request="POST", status=self.refusals.pop(0), reason="R", message="refused by the test")
        self.bound.append(name)

    async def evict(self, _namespace: str, name: str, *, dry_run: bool = False, **_: object) -> None:
        if name in self.protected:
            raise ApiError(request="POST", status=429, reason="R", message="a budget forbids it")
        if not dry_run:
            self.evicted.append(name)

    async def patch(self, _kind: Kind, _namespace: str, name: str, body: Any, **_: object) -> dict[str, Any]:
        if name in self.unwritable:
            raise ApiError(request="PATCH", status=403, reason="Forbidden", message="not by you")
        return {**self.pods.get(name, {}), **body}

    async def replace_raw(self, _kind: Kind, _namespace: str, _name: str, body: Any, **_: object) -> bytes:
        return msgspec.json.encode(body)

    async def get(self, _kind: Kind, _namespace: str, name: str) -> dict[str, Any]:
        if name not in self.pods:
            raise ApiError(request="GET", status=503, reason="R", message="no answer in this test")
        return self.pods[name]

    async def get_raw(self, kind: Kind, namespace: str, name: str) -> bytes:
        return msgspec.json.encode(await self.get(kind, namespace, name))


POLICY = Policy(stages=("allocate", "preempt"))


class World:
    """A cycle over a state that the test fills."""

    def __init__(self) -> None:
        self.server = Server()
        self.state: ClusterState = manifests.state(
            manifests.queue("default"), manifests.node("n1", cpu="4"), manifests.pod_group("train", "a", 2)
        )
        self.reports: list[CycleReport] = []
        self.outcomes: list[GangOutcome] = []
        self.told: list[StatusWrite] = []
        self.now = lambda: 0
        self.committer = Committer(
            self.server,  # type: ignore[arg-type]
            self.state,
            Slots(4),
            gangs_in_flight=4,
            patience=Patience(attempts=2, backoff_seconds=0),
            may_write=lambda: True,
            now=lambda: datetime.now(UTC),
        )
        self.cycle = Cycle(
            self.state,
            self.committer,
            policy=POLICY,
            rhythm=Rhythm(debounce=0, interval=0, recheck=60, commit_retry=60, telling=0),
            now_ms=lambda: self.now(),
            teller=Teller(self.state),
            tell=self.told.extend,
            observe=self.reports.append,
            observe_outcome=self.outcomes.append,
        )

    def add(self, *documents: dict[str, Any]) -> None:
        for document in documents:
            self.state.apply(manifests.change(document))
        self.cycle.changed()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.cycle.run(stop, grace_seconds=5))
        try:
            yield task
        finally:
            stop.set()
            if not task.done():
                await task


@pytest.fixture
async def world() -> World:
    return World()


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


async def test_one_cycle_places_a_gang_and_the_next_one_leaves_it_alone(world: World):
    world.add(*manifests.pods("p", 2, group="train"))
    world.server.gate.clear()

    first = await world.cycle.run_once()
    second = await world.cycle.run_once()

    assert len(first.plan.placements) == 2
    assert second.plan.placements == (), "what is being bound counts as bound"
    world.server.gate.set()
    await world.cycle.settled()
    assert sorted(world.server.bound) == ["p-0", "p-1"]


async def test_pods_that_come_to_a_gang_in_flight_wait_until_it_has_landed(world: World):
    world.add(*manifests.pods("p", 2, group="train"))
    world.server.gate.clear()
    await world.cycle.run_once()
    world.add(manifests.pod("p-2", group="train"))

    await world.cycle.run_once()
    assert len(world.committer.in_flight) == 1
    world.server.gate.set()
    await world.cycle.settled()
    await world.cycle.run_once()
    await world.cycle.settled()

    assert sorted(world.server.bound) == ["p-0", "p-1", "p-2"]


async def test_a_change_runs_a_cycle_and_quiet_runs_none(world: World):
    async with world.running():
        world.add(*manifests.pods("p", 2, group="train"))
        await until(lambda: len(world.server.bound) == 2)
        await until(lambda: len(world.reports) >= 2)
        seen = len(world.reports)
        await asyncio.sleep(0.05)
        assert len(world.reports) == seen


async def test_a_gang_that_has_to_end_is_ended_then_though_nothing_changes(world: World):
    """The next cycle without it would be in a minute."""
    world.state.apply(manifests.change(manifests.pod_group("train", "a", 1, maxRuntime="10s"), "MODIFIED"))
    one = manifests.pod("p", group="train", node="n1")
    one["status"] = {"phase": "Running", "startTime": "1970-01-01T00:00:00Z"}
    began = time.monotonic()
    world.now = lambda: 9_700 + round((time.monotonic() - began) * 1000)
    async with world.running():
        world.add(one)
        await until(lambda: world.server.evicted == ["p"])
        assert world.reports[0].plan.evictions == ()
    (told,) = [write for write in world.told if write.body.get("reason") == "MaxRuntimeReached" and "p." in write.key]
    assert told.body["message"] == "Its gang ran for as long as it may (maxRuntime)."


async def test_what_the_watch_confirms_is_told_and_decided_no_more(world: World):
    async with world.running():
        world.add(*manifests.pods("p", 2, group="train"))
        await until(lambda: len(world.server.bound) == 2)
        await until(lambda: len(world.reports) == 2)
        version = world.state.version
        noted = {"tutti.scheduler/charged-queue": "default"}
        for name in world.server.bound:
            bound = manifests.pod(name, group="train", node="n1", annotations=noted)
            world.state.apply(manifests.change(bound, "MODIFIED"))
        assert world.state.confirmed == 2
        world.cycle.confirmed()
        await until(lambda: [write for write in world.told if write.body.get("reason") == "Scheduled"])
        assert (world.state.version, len(world.reports)) == (version, 2)


async def foreseen(world: World) -> Foresight:
    snapshot = translate.snapshot(world.state, now_ms=0, policy=POLICY)
    return Foresight(
        version=world.state.version, moment=time.monotonic(), snapshot=snapshot, plan=planner.plan(snapshot)
    )


async def test_what_a_stand_by_has_foreseen_is_carried_out_by_the_first_cycle(world: World):
    world.add(*manifests.pods("p", 2, group="train"))
    foresight = await foreseen(world)
    stop = asyncio.Event()
    running = asyncio.create_task(world.cycle.run(stop, grace_seconds=5, foresight=foresight))
    await until(lambda: len(world.server.bound) == 2)
    stop.set()
    await running

    assert world.reports[0].plan is foresight.plan


@pytest.mark.parametrize("cause", ["a change", "its age"])
async def test_what_was_foreseen_is_decided_anew_after(world: World, cause: str):
    world.add(*manifests.pods("p", 2, group="train"))
    foresight = await foreseen(world)
    if cause == "a change":
        world.add(manifests.node("n1", cpu="4", unschedulable=True))
    else:
        foresight = replace(foresight, moment=foresight.moment - 61)
    stop = asyncio.Event()
    running = asyncio.create_task(world.cycle.run(stop, grace_seconds=5, foresight=foresight))
    await until(lambda: bool(world.reports))
    stop.set()
    await running

    assert world.reports[0].plan is not foresight.plan
    assert len(world.reports[0].plan.placements) == (0 if cause == "a change" else 2)


async def test_where_nobody_waits_the_next_cycle_comes_when_the_commits_have_ended(world: World):
    world.server.gate.clear()
    async with world.running():
        world.add(*manifests.pods("p", 2, group="train"))
        await until(lambda: bool(world.committer.in_flight))
        await asyncio.sleep(0.05)
        assert len(world.reports) == 1, "all that has changed is what this plan does"
        world.server.gate.set()
        await until(lambda: len(world.reports) == 2)
    assert [decision.verdict for decision in world.reports[1].plan.gangs] == ["Running"]


async def test_where_somebody_waits_the_next_cycle_does_not_wait_for_commits(world: World):
    world.server.gate.clear()
    async with world.running():
        world.add(*manifests.pods("p", 2, group="train"), manifests.pod("large", cpu="100"))
        await until(lambda: len(world.reports) == 2)
        assert world.committer.in_flight
        world.server.gate.set()


def asking(snapshot: Snapshot) -> set[str]:
    return {gang.name for gang in snapshot.gangs if gang.pending and not gang.problems}


async def test_a_gang_that_the_planner_fails_with_is_left_out_and_says_so_while_all_others_start(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    plan, tries = planner.plan, []

    def failing(snapshot: Snapshot) -> Plan:
        tries.append(asking(snapshot))
        if asking(snapshot) & {"bad", "worse"}:
            raise ZeroDivisionError
        return plan(snapshot)

    monkeypatch.setattr(planner, "plan", failing)
    world.add(*(manifests.pod(name, cpu="1") for name in ("bad", "fine", "good", "worse")))

    first = await world.cycle.run_once()
    await world.cycle.settled()
    tries.clear()
    second = await world.cycle.run_once()

    assert sorted(world.server.bound) == ["fine", "good"]
    for report in (first, second):
        reasons = [report.plan.why(f"a/{name}") for name in ("bad", "worse")]
        assert [reason.code for reason in reasons if reason] == ["InternalError"] * 2
    assert len(tries) == 1, "what was found out once is not tried again in every cycle"


async def test_a_plan_that_breaks_a_rule_is_made_again_without_the_solver(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    plan = planner.plan

    def overfull(snapshot: Snapshot) -> Plan:
        if not snapshot.policy.solver_enabled:
            return plan(snapshot)
        pods = [pod for gang in snapshot.gangs for pod in gang.pods]
        placements = tuple(Placement(pod=pod.key, pod_uid=pod.uid, gang=GANG, node="gone") for pod in pods)
        return Plan(now_ms=0, placements=placements)

    monkeypatch.setattr(planner, "plan", overfull)
    world.add(*manifests.pods("p", 2, group="train"))
    await world.cycle.run_once()
    await world.cycle.settled()

    assert sorted(world.server.bound) == ["p-0", "p-1"]


async def test_a_planner_that_fails_without_any_waiting_gang_stops_the_service(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    def broken(_: Snapshot) -> Plan:
        raise ZeroDivisionError

    monkeypatch.setattr(planner, "plan", broken)
    world.add(*manifests.pods("p", 5, group="train"))
    async with world.running() as task:
        with pytest.raises(InvariantError, match="even without any waiting gang"):
            await task
    assert world.server.bound == []


async def test_a_defect_in_a_commit_stops_the_service(world: World, monkeypatch: pytest.MonkeyPatch):
    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(world.server, "bind", broken)
    world.add(*manifests.pods("p", 2, group="train"))
    async with world.running() as task:
        with pytest.raises(ZeroDivisionError):
            await task


async def test_stopping_waits_for_the_commits_under_way(world: World):
    world.server.gate.clear()
    async with world.running() as task:
        world.add(*manifests.pods("p", 2, group="train"))
        await until(lambda: world.committer.in_flight)
        asyncio.get_running_loop().call_later(0.01, world.server.gate.set)
    assert task.done()
    assert sorted(world.server.bound) == ["p-0", "p-1"]


async def test_a_gang_whose_binds_failed_says_so_and_waits_before_it_is_tried_again(world: World):
    world.server.refusals = [403, 403]
    world.add(*manifests.pods("p", 2, group="train"))
    await world.cycle.run_once()
    await world.cycle.settled()

    report = await world.cycle.run_once()

    assert report.plan.placements == ()
    reason = report.plan.why("a/train")
    assert reason is not None
    assert reason.code == "BindFailed"
    assert world.server.bound == []


async def test_a_pod_of_whose_bind_nothing_is_known_keeps_its_room_until_the_server_says_otherwise(world: World):
    world.server.refusals = [503, 503]
    silent = manifests.pod("silent", cpu="4")
    world.add(silent)
    await world.cycle.run_once()
    await world.cycle.settled()
    world.add(manifests.pod("next", cpu="4"))
    await world.cycle.run_once()
    await world.cycle.settled()
    assert [outcome.unknown for outcome in world.outcomes] == [("a/silent",)]
    assert world.server.bound == [], "silent may be on the node"

    world.server.pods["silent"] = silent
    await world.committer.look_again(["Pod/a/silent"])
    await world.cycle.run_once()
    await world.cycle.settled()

    assert world.server.bound == ["next"]


async def test_what_is_found_out_about_an_overdue_write_is_decided_upon_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    lost, answered = manifests.pod("lost", cpu="4"), asyncio.Event()

    async def answer(*_: object) -> bytes:
        await answered.wait()
        return msgspec.json.encode(lost)

    monkeypatch.setattr(world.server, "get_raw", answer)
    world.add(lost)
    world.state.assume_bound("a/lost", "uid-a-lost", "n1", now_ms=-60_000)
    async with world.running():
        await until(lambda: world.reports)
        answered.set()
        await until(lambda: world.server.bound == ["lost"])


async def test_what_a_gang_that_is_held_back_would_take_is_free_for_others(world: World):
    world.server.refusals = [403]
    world.add(manifests.pod("greedy", cpu="4"))
    await world.cycle.run_once()
    await world.cycle.settled()
    world.add(manifests.pod("patient", cpu="4"))

    report = await world.cycle.run_once()
    await world.cycle.settled()

    assert world.server.bound == ["patient"]
    reason = report.plan.why("a/greedy")
    assert reason is not None
    assert reason.code == "BindFailed"


@pytest.mark.parametrize(
    ("last", "committing", "rest"),
    [
        (0.01, False, 0.09),  # the interval is from start to start
        (0.5, False, 0.5),
        (0.5, True, 1.0),
        (9.0, True, 3.0),
    ],
)
def test_a_long_cycle_leaves_the_interpreter_to_watches_and_writes(last: float, committing: bool, rest: float):
    assert Rhythm(interval=0.1).rest(last, committing=committing) == pytest.approx(rest)


@pytest.mark.parametrize(
    ("last", "committing", "calm"),
    [
        (0.0, False, 0.05),
        (0.0, True, 0.5),
        (0.07, True, 0.7),
        (9.0, False, 3.0),
    ],
)
def test_a_long_telling_is_followed_by_a_longer_calm(last: float, committing: bool, calm: float):
    assert Rhythm().calm(last, committing=committing) == pytest.approx(calm)


async def test_devices_that_a_claim_avoids_are_forgiven_where_there_are_no_others(world: World):
    world.add(
        *manifests.h100_node("gpus", gpus=1),
        manifests.device_class(),
        manifests.resource_claim("c", "a", manifests.request("gpu")),
        manifests.pod("p", claims={"gpu": "c"}),
    )
    avoided = ("gpu.nvidia.com", "gpus", "gpu-0")
    world.state.avoid("a/c", "uid-a-c", [avoided])

    first = await world.cycle.run_once()
    second = await world.cycle.run_once()

    assert first.snapshot.claims["a/c"].avoids == (avoided,)
    assert first.plan.placements == ()
    assert [placement.pod for placement in second.plan.placements] == ["a/p"]
    await world.cycle.settled()
    assert world.server.bound == ["p"]


async def test_devices_that_are_avoided_for_a_pod_are_forgiven_where_there_are_no_others(world: World):
    extended = manifests.merged(manifests.device_class(), spec={"extendedResourceName": "nvidia.com/gpu"})
    world.add(*manifests.h100_node("gpus", gpus=1), extended, manifests.pod("p", gpus=1, uid="p1"))
    avoided = ("gpu.nvidia.com", "gpus", "gpu-0")
    world.state.avoid_for_pod("a/p", "p1", [avoided])

    report = await world.cycle.run_once()

    ((one,),) = (gang.pods for gang in report.snapshot.gangs)
    assert one.avoids == (avoided,)
    assert report.plan.placements == ()
    assert world.state.avoided == {}


async def test_devices_that_a_claim_avoids_are_forgiven_where_the_others_are_too_much_for_its_queue(world: World):
    small, large = manifests.gpu(0, memory="10Gi"), manifests.gpu(1, memory="80Gi")
    world.add(
        manifests.queue("default", resources={"memory.deviceclass/gpu.nvidia.com": {"limit": "20Gi"}}),
        manifests.node("gpus", cpu="4"),
        manifests.resource_slice("gpus", small, large),
        manifests.device_class(),
        manifests.resource_claim("c", "a", manifests.request("gpu")),
        manifests.pod("p", claims={"gpu": "c"}),
    )
    world.state.avoid("a/c", "uid-a-c", [("gpu.nvidia.com", "gpus", "gpu-0")])

    first = await world.cycle.run_once()
    second = await world.cycle.run_once()

    assert first.plan.placements == ()
    assert [placement.pod for placement in second.plan.placements] == ["a/p"]
    await world.cycle.settled()
    assert world.server.bound == ["p"]


async def test_a_cycle_runs_when_time_alone_may_have_changed_the_answer(world: World, monkeypatch: pytest.MonkeyPatch):
    """Source: preemption delays and minimum runtimes end without any change of the cluster."""
    ends = iter((40, None))
    decide = planner.plan
    monkeypatch.setattr(planner, "plan", lambda seen: replace(decide(seen), again_ms=next(ends, None)))
    async with world.running():
        await until(lambda: len(world.reports) == 2)
    assert world.reports[0].plan.again_ms == 40


def outranked(world: World) -> None:
    """Two nodes, each full with one pod, and one pod that waits and outranks them."""
    for name in ("low-0", "low-1"):
        world.add(manifests.pod(name, cpu="4", node="n1" if name == "low-0" else "n2", phase="Running", priority=0))
    world.add(manifests.node("n2", cpu="4"), manifests.pod("urgent", cpu="4", priority=9))


async def test_whom_the_server_does_not_let_go_is_spared_and_another_goes_instead(world: World):
    outranked(world)
    world.server.protected |= {"low-0", "low-1"}
    first = await world.cycle.run_once()
    await world.cycle.settled()
    (asked,) = (eviction.pod for eviction in first.plan.evictions)
    world.server.protected.clear()
    second = await world.cycle.run_once()
    await world.cycle.settled()
    assert second.snapshot.spared == {asked}
    assert world.server.evicted == [name for name in ("low-0", "low-1") if name != asked.partition("/")[2]]


@pytest.mark.parametrize("trouble", ["unwritable", "gone"])
async def test_who_was_never_asked_is_not_spared_and_the_gang_that_cannot_be_promised_its_place_waits(
    world: World, trouble: str, monkeypatch: pytest.MonkeyPatch
):
    outranked(world)
    if trouble == "unwritable":
        world.server.unwritable.add("urgent")
    else:
        monkeypatch.setattr(world.server, "patch", missing)

    first = await world.cycle.run_once()
    await world.cycle.settled()
    second = await world.cycle.run_once()
    await world.cycle.settled()

    assert len(first.plan.evictions) == 1
    assert second.snapshot.spared == frozenset()
    assert world.server.evicted == []
    if trouble == "unwritable":
        assert [reason.code for reason in second.held_back.values()] == ["NotPromised"]
        assert second.plan.evictions == ()
    else:
        assert second.plan.evictions == first.plan.evictions, "overtaken by a change, it is tried again at once"


async def missing(*_: object, **__: object) -> None:
    raise ApiError(request="PATCH", status=404, reason="NotFound", message="there is no such pod")


async def test_when_sparing_ends_those_are_asked_again_though_nothing_has_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """The next cycle without it would be in a minute."""
    monkeypatch.setattr(cycle, "_SPARED_SECONDS", 0.05)
    outranked(world)
    world.server.protected |= {"low-0", "low-1"}
    async with world.running():
        await until(lambda: any(len(report.snapshot.spared) == 2 for report in world.reports))
        world.server.protected.clear()
        await until(lambda: world.server.evicted)
