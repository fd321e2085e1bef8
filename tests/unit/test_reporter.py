"""Reports: the newest word only, in order, never lost to trouble that passes, never said to who is gone."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from scheduler.api import kinds
from scheduler.api.kinds import Kind
from scheduler.commit.reporter import Reporter
from scheduler.commit.slots import Slots
from scheduler.kube.errors import ApiError


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    kind: Kind
    key: str
    uid: str
    body: Mapping[str, Any]
    how: Literal["merge", "strategic", "create"] = "merge"


def status(name: str, text: str) -> Said:
    return Said(kind=kinds.POD_GROUP, key=f"a/{name}", uid="u", body={"status": {"text": text}})


def event(text: str) -> Said:
    return Said(kind=kinds.EVENT, key="a/e", uid="", body={"note": text}, how="create")


class Server:
    """Stands for the client: takes what is said, or answers with the errors it was given."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.errors: list[int] = []
        self.open = asyncio.Event()
        self.open.set()

    async def patch(self, _kind: Kind, _namespace: str, name: str, body: Any, **how: Any) -> None:
        assert how["subresource"] == "status"
        await self._answer(f"{name}: {body['status']['text']}")

    async def create(self, _kind: Kind, _namespace: str, body: Any) -> None:
        await self._answer(body["note"])

    async def _answer(self, text: str) -> None:
        await self.open.wait()
        if self.errors:
            raise ApiError(request="PATCH", status=self.errors.pop(0), reason="R", message="m")
        self.heard.append(text)


@pytest.fixture
async def server():
    return Server()


@pytest.fixture
async def reporter(server):
    reporter = Reporter(server, Slots(4), at_once=2, may_write=lambda: True)  # type: ignore[arg-type]
    running = asyncio.create_task(reporter.run())
    yield reporter
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_only_the_newest_word_about_an_object_is_said(server, reporter):
    server.open.clear()
    reporter.tell([status("x", "1"), status("y", "1"), status("z", "1")])
    reporter.tell([status("x", "2"), status("z", "2")])
    server.open.set()
    await reporter.told()
    assert sorted(server.heard) == ["x: 2", "y: 1", "z: 2"]


async def test_words_about_one_object_arrive_in_order(server, reporter):
    server.open.clear()
    reporter.tell([status("x", "1")])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reporter.tell([status("x", "2")])
    await asyncio.sleep(0)
    server.open.set()
    await reporter.told()
    assert server.heard == ["x: 1", "x: 2"]


async def test_events_are_all_said(server, reporter):
    reporter.tell([event("1"), event("2"), event("3")])
    await reporter.told()
    assert sorted(server.heard) == ["1", "2", "3"]


async def test_a_word_is_not_lost_to_trouble_that_passes(server, reporter):
    server.errors = [503]
    reporter.tell([status("x", "1")])
    await reporter.told()
    assert server.heard == ["x: 1"]


@pytest.mark.parametrize("code", [404, 409, 403])
async def test_a_word_that_is_refused_for_good_is_dropped(server, reporter, code):
    server.errors = [code]
    reporter.tell([status("x", "1")])
    await reporter.told()
    reporter.tell([status("y", "1")])
    await reporter.told()
    assert server.heard == ["y: 1"]
