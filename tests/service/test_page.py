"""The debug API and the page of a running scheduler."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from scheduler.api import kinds
from scheduler.model.plan_document import to_json
from scheduler.plan import planner
from scheduler.state import recording
from tests.service.conftest import Cluster, Tutti, scheduling
from tests.service.manifests import gang, template


class Page:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str) -> Any:
        async with self._session.get(path) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json() if answer.content_type == "application/json" else await answer.read()

    async def download(self, path: str) -> bytes:
        async with self._session.get(path) as answer:
            return await answer.read()

    async def ask(self, manifests: str) -> Any:
        async with self._session.post("/api/v1/plan", data=manifests.encode()) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def page(cluster: Cluster) -> AsyncIterator[tuple[Page, Tutti]]:
    await cluster.add_nodes("h100x8", 2)
    await cluster.apply(template(count=8))
    async with (
        scheduling(cluster, web_enabled=True, web_port=0) as tutti,
        aiohttp.ClientSession(tutti.page) as session,
    ):
        yield Page(session), tutti


async def test_it_shows_what_runs_and_why_the_rest_waits(cluster: Cluster, page: tuple[Page, Tutti]):
    shown, _ = page
    await cluster.apply(gang("runs", 1))
    await cluster.running("default", 1)
    await cluster.apply(gang("waits", 2))
    reason = await cluster.reason("default/waits", "GangDoesNotFit")

    assert await shown.get("/healthz") == b"ok"
    assert await shown.get("/readyz") == b"ok"
    told = await shown.get("/api/v1/gangs/default/waits/explain")
    assert told["reason"]["message"] == reason["message"]
    assert b"tutti_pods_bound_total 1.0" in await shown.get("/metrics")
    assert len((await shown.get("/api/v1/devices"))["items"]) == 16
    assert b"<html" in await shown.get("/")


async def test_what_if_answers_with_the_plan_and_changes_nothing(cluster: Cluster, page: tuple[Page, Tutti]):
    shown, _ = page
    manifests = f"""
        {template("whole", 8)}
        ---
        {gang("new", 2, template="whole")}
        """
    status, plan = await shown.ask("\n".join(line.strip("\n") for line in _dedented(manifests)))
    assert status == 200, plan
    assert len(plan["placements"]) == 2
    assert {len(placement["claims"]) for placement in plan["placements"]} == {1}
    groups, _ = await cluster.client.list(kinds.POD_GROUP)
    assert groups == []

    status, problem = await shown.ask("kind: PodGroup\napiVersion: tutti.scheduler/v1alpha1\nmetadata: {}\n")
    assert status == 400
    assert problem["error"]["message"]


async def test_the_snapshot_replays_to_the_same_plan(cluster: Cluster, page: tuple[Page, Tutti]):
    shown, tutti = page
    await cluster.apply(gang("waits", 3))
    await cluster.reason("default/waits", "GangDoesNotFit")
    recorded = recording.load(await shown.download("/api/v1/snapshot"))
    replayed = planner.plan(recorded.snapshot())
    assert replayed.why("default/waits") == tutti.cycles[-1].plan.why("default/waits")
    assert recorded.decided == msgspec.json.decode(msgspec.json.encode(to_json(replayed)))


def _dedented(text: str) -> list[str]:
    return [line.removeprefix("        ") for line in text.splitlines()]
