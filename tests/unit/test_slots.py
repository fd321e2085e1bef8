"""Turns at the API server."""

import asyncio

import pytest

from scheduler.commit.slots import COMMITS_PER_REPORT, Slots


class Writers:
    """Writers that hold their turn until told to end; `order` is who got a turn, in order."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.order: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str) -> None:
        turn = self.slots.report() if name.startswith("report") else self.slots.commit()
        self.ends[name] = asyncio.Event()

        async def write() -> None:
            async with turn:
                self.order.append(name)
                await self.ends[name].wait()

        self.tasks[name] = asyncio.create_task(write())
        await settle()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.tasks[name]
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def writers():
    writers = Writers(Slots(2))
    yield writers
    for task in writers.tasks.values():
        task.cancel()
    await asyncio.gather(*writers.tasks.values(), return_exceptions=True)


async def test_no_more_writes_are_under_way_than_there_are_slots(writers):
    for name in ("a", "b", "c"):
        await writers.start(name)
    assert writers.order == ["a", "b"]
    await writers.end("a")
    assert writers.order == ["a", "b", "c"]


async def test_a_commit_that_comes_later_goes_before_a_report_that_waits(writers):
    for name in ("a", "b", "report-1", "c"):
        await writers.start(name)
    await writers.end("a")
    assert writers.order == ["a", "b", "c"]
    await writers.end("b")
    assert writers.order == ["a", "b", "c"], "the last free slot is kept for a commit"
    await writers.end("c")
    assert writers.order == ["a", "b", "c", "report-1"]


async def test_reports_leave_one_slot_to_commits(writers):
    for name in ("report-1", "report-2", "a"):
        await writers.start(name)
    assert writers.order == ["report-1", "a"]


async def test_while_many_commits_are_under_way_a_report_follows_so_many_of_them():
    writers = Writers(Slots(8))
    held = ["a", "b", "c", "d", "e"]
    for name in (*held, "report-1", "report-2"):
        await writers.start(name)
    commits = [str(number) for number in range(COMMITS_PER_REPORT)]
    for name in commits:
        assert "report-1" not in writers.order
        await writers.start(name)
        await writers.end(name)
    assert writers.order == [*held, *commits, "report-1"]
    await writers.end("a")
    assert writers.order[-1] == "report-2", "few are under way now"
    for name in ("b", "c", "d", "e", "report-1", "report-2"):
        await writers.end(name)


async def test_while_commits_wait_all_the_time_a_report_follows_so_many_of_them_as_well():
    writers = Writers(Slots(2))
    commits = [str(number) for number in range(COMMITS_PER_REPORT + 3)]
    for name in (*commits, "report-1", "report-2"):
        await writers.start(name)
    for name in commits[:COMMITS_PER_REPORT]:
        assert "report-1" not in writers.order
        await writers.end(name)
    assert writers.order == [*commits[: COMMITS_PER_REPORT + 1], "report-1"]
    for name in ("report-1", *commits[COMMITS_PER_REPORT:], "report-2"):
        await writers.end(name)
    assert writers.order[-3:] == [*commits[-2:], "report-2"]


async def test_one_slot_serves_both():
    writers = Writers(Slots(1))
    await writers.start("report-1")
    await writers.start("a")
    await writers.end("report-1")
    assert writers.order == ["report-1", "a"]
    await writers.end("a")


async def test_a_writer_that_gives_up_waiting_takes_no_slot(writers):
    for name in ("a", "b", "c", "d"):
        await writers.start(name)
    writers.tasks["c"].cancel()
    await settle()
    await writers.end("a")
    assert writers.order == ["a", "b", "d"]
    await writers.end("b")
    await writers.end("d")
    await writers.start("e")
    await writers.start("f")
    assert writers.order[-2:] == ["e", "f"]
