"""What the kubelet asks for, claim by claim: order, overlap, what takes long, and what is refused."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from dra_driver.claims import Claims, Patience
from dra_driver.devices import ClaimRef, Grant, Kind, Prepared
from scheduler.kube.client import ApiError

PATIENT = 30.0
ONE = Prepared(grant=Grant(requests=("gpus",), pool="n1", device="gpu-0"), kind=Kind.GPU, cdi=("v/c=x",))


def ref(name: str, uid: str = "") -> ClaimRef:
    return ClaimRef(namespace="default", name=name, uid=uid or f"uid-of-{name}")


def document(name: str, *, reserved: bool = True) -> dict[str, Any]:
    pods = [{"resource": "pods", "name": f"pod-of-{name}", "uid": "p"}] if reserved else []
    return {"metadata": {"name": name, "uid": f"uid-of-{name}"}, "status": {"reservedFor": pods}}


class Refused(Exception):
    pass


class Busy(Exception):
    pass


class Hardware:
    """Does what it is asked, and says how; `hold(name)` keeps the work for a claim from ending."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.at_work, self.most_at_work = 0, 0
        self._begun: dict[str, threading.Event] = {}
        self._held: dict[str, threading.Event] = {}
        self.problems: dict[str, Exception] = {}
        self.refused: list[str] = []
        self.left: int | None = None
        """So many tries more until what is refused works; None is for ever."""

    def hold(self, name: str) -> None:
        self._held[name], self._begun[name] = threading.Event(), threading.Event()

    async def begun(self, name: str) -> None:
        assert await asyncio.to_thread(self._begun[name].wait, PATIENT)

    def release(self, name: str) -> None:
        self._held[name].set()

    def prepare(self, claim: ClaimRef, grants: tuple[Grant, ...]) -> tuple[Prepared, ...]:
        self._work("prepare", claim)
        return (ONE,) * len(grants)

    def unprepare(self, claim: ClaimRef) -> None:
        self._work("unprepare", claim)

    def _work(self, what: str, claim: ClaimRef) -> None:
        if claim.name in self._held:
            self._begun[claim.name].set()
            assert self._held[claim.name].wait(PATIENT)
        if claim.name in self.problems:
            self.refused.append(f"{what} {claim.name}")
            if self.left is not None:
                self.left -= 1
            if self.left != 0:
                raise self.problems[claim.name]
        self.done.append(f"{what} {claim.name}")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        self.at_work += 1
        self.most_at_work = max(self.at_work, self.most_at_work)
        yield
        self.at_work -= 1


class Bench:
    """Claims at work on hardware, in a cluster that has these documents."""

    def __init__(self, *names: str, patience: float = 0) -> None:
        self.hardware = Hardware()
        self.cluster: dict[str, dict[str, Any] | ApiError] = {name: document(name) for name in names}
        self.failures: list[tuple[str, bool, str]] = []
        self.claims = Claims(
            self.hardware,
            fetch=self._fetch,
            grants=lambda _: (ONE.grant,),
            lock=self.hardware.lock,
            refusals=(Refused,),
            passing=(Busy,),
            patience=Patience(seconds=patience, pause=0.01),
            failed=lambda claim, found, words: self.failures.append((claim.name, found is not None, words)),
        )

    async def _fetch(self, namespace: str, name: str) -> Mapping[str, Any]:
        assert namespace == "default"
        found = self.cluster.get(name, ApiError(request=f"GET {name}", status=404, reason="NotFound", message="none"))
        if isinstance(found, ApiError):
            raise found
        return found

    async def prepare(self, claim: ClaimRef, seconds: float = PATIENT) -> tuple[Prepared, ...] | str:
        return (await self.claims.prepare([claim], seconds))[claim.uid]

    async def unprepare(self, claim: ClaimRef, seconds: float = PATIENT) -> str:
        return (await self.claims.unprepare([claim], seconds))[claim.uid]


async def test_claims_of_one_call_are_answered_each_for_itself():
    bench = Bench("good", "busy", "broken")
    bench.hardware.problems = {"busy": Refused("Device gpu-0: claim x holds it."), "broken": KeyError("gpu-9")}
    claims = [ref("good"), ref("busy"), ref("broken"), ref("gone")]

    answers = await bench.claims.prepare(claims, PATIENT)

    assert answers["uid-of-good"] == (ONE,)
    assert answers["uid-of-busy"] == "Device gpu-0: claim x holds it."
    assert "a defect of the node plugin (KeyError: 'gpu-9')" in str(answers["uid-of-broken"])
    assert answers["uid-of-gone"] == "ResourceClaim default/gone: is not there any more; nothing is prepared for it."
    assert {(name, known) for name, known, _ in bench.failures} == {("busy", True), ("broken", True), ("gone", False)}


async def test_a_namesake_is_not_the_claim_that_is_meant():
    bench = Bench("a")
    answer = await bench.prepare(ref("a", uid="older"))
    assert "has uid uid-of-a, and older was asked for; delete the pod" in str(answer)
    assert bench.hardware.done == []


async def test_a_claim_that_is_reserved_for_nobody_is_not_prepared_by_a_late_call():
    bench = Bench()
    bench.cluster["a"] = document("a", reserved=False)
    assert "is reserved for nobody" in str(await bench.prepare(ref("a")))
    assert bench.hardware.done == []


async def test_a_claim_that_cannot_be_read_is_told_so_and_prepared_by_the_next_call():
    bench = Bench()
    bench.cluster["a"] = ApiError(request="GET a", status=0, reason="Unreachable", message="connection refused")
    assert "connection refused" in str(await bench.prepare(ref("a")))
    bench.cluster["a"] = document("a")
    assert await bench.prepare(ref("a")) == (ONE,)


async def test_work_for_several_claims_is_done_one_at_a_time():
    names = ["a", "b", "c", "d"]
    bench = Bench(*names)
    await asyncio.gather(*(bench.prepare(ref(name)) for name in names))
    assert sorted(bench.hardware.done) == ["prepare a", "prepare b", "prepare c", "prepare d"]
    assert bench.hardware.most_at_work == 1


async def test_what_takes_longer_than_the_kubelet_waits_goes_on_and_is_found_by_the_next_call():
    bench = Bench("long", "quick")
    bench.hardware.hold("long")
    assert "takes long: it goes on, and the next call finds it" in str(await bench.prepare(ref("long"), 0.01))
    await bench.hardware.begun("long")

    again = asyncio.create_task(bench.prepare(ref("long")))
    await asyncio.sleep(0)
    bench.hardware.release("long")

    assert await again == (ONE,)
    assert bench.hardware.done == ["prepare long"]
    assert bench.failures == []


async def test_of_a_call_that_ends_in_time_for_some_claims_these_are_answered():
    bench = Bench("long")
    bench.hardware.hold("long")
    answers = await bench.claims.prepare([ref("long"), ref("gone")], 0.2)
    assert "goes on" in str(answers["uid-of-long"])
    assert "is not there any more" in str(answers["uid-of-gone"])
    bench.hardware.release("long")
    await bench.claims.settled()


async def test_a_caller_that_gives_up_does_not_stop_the_work():
    bench = Bench("a")
    bench.hardware.hold("a")
    calling = asyncio.create_task(bench.prepare(ref("a")))
    await bench.hardware.begun("a")
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    bench.hardware.release("a")
    await bench.claims.settled()
    assert bench.hardware.done == ["prepare a"]


async def test_who_waits_no_longer_for_the_hardware_keeps_others_off_until_the_work_is_done():
    bench, began, ended, order = Bench(), threading.Event(), threading.Event(), []

    def long() -> None:
        began.set()
        assert ended.wait(PATIENT)
        order.append("first")

    first = asyncio.create_task(bench.claims.alone(long))
    assert await asyncio.to_thread(began.wait, PATIENT)
    first.cancel()
    second = asyncio.create_task(bench.claims.alone(lambda: order.append("second")))
    await asyncio.sleep(0)
    ended.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert order == ["first", "second"]
    assert bench.hardware.most_at_work == 1


async def test_what_is_asked_for_one_claim_is_done_in_turn():
    bench = Bench("a")
    bench.hardware.hold("a")
    prepared = asyncio.create_task(bench.prepare(ref("a")))
    await bench.hardware.begun("a")
    given_back = asyncio.create_task(bench.unprepare(ref("a")))
    once_more = asyncio.create_task(bench.prepare(ref("a")))
    await asyncio.sleep(0)
    bench.hardware.release("a")

    assert (await prepared, await given_back, await once_more) == ((ONE,), "", (ONE,))
    assert bench.hardware.done == ["prepare a", "unprepare a", "prepare a"]


async def test_what_passes_in_a_moment_is_tried_again_within_the_call():
    bench = Bench("a", patience=PATIENT)
    bench.hardware.problems["a"], bench.hardware.left = Busy("Device gpu-0: is being given back."), 3
    assert await bench.prepare(ref("a")) == (ONE,)
    assert bench.hardware.refused == ["prepare a"] * 3
    assert bench.failures == []


async def test_what_does_not_pass_is_refused_once_with_its_last_words():
    bench = Bench("a", patience=0.05)
    bench.hardware.problems["a"] = Busy("Device gpu-0: claim x holds it.")
    assert await bench.prepare(ref("a")) == "Device gpu-0: claim x holds it."
    assert len(bench.hardware.refused) > 1
    assert bench.failures == [("a", True, "Device gpu-0: claim x holds it.")]


async def test_what_does_not_pass_by_itself_is_not_tried_again():
    bench = Bench("a", patience=PATIENT)
    bench.hardware.problems["a"] = Refused("claim a: its config is none.")
    assert await bench.prepare(ref("a")) == "claim a: its config is none."
    assert bench.hardware.refused == ["prepare a"]


async def test_who_gives_back_does_not_wait_for_tries_that_nobody_needs_any_more():
    bench = Bench("a", patience=PATIENT)
    bench.hardware.problems["a"] = Busy("Device gpu-0: claim x holds it.")
    bench.hardware.hold("a")
    preparing = asyncio.create_task(bench.prepare(ref("a")))
    await bench.hardware.begun("a")
    giving_back = asyncio.create_task(bench.unprepare(ref("a")))
    await asyncio.sleep(0)
    bench.hardware.release("a")
    assert await preparing == "Device gpu-0: claim x holds it."
    assert await giving_back == "Device gpu-0: claim x holds it."
    assert bench.hardware.refused == ["prepare a", "unprepare a"]


async def test_a_claim_that_cannot_be_given_back_says_why_and_is_tried_again():
    bench = Bench()
    bench.hardware.problems["a"] = Refused("Device gpu-0: a process is on it; end it.")
    assert await bench.unprepare(ref("a")) == "Device gpu-0: a process is on it; end it."
    bench.hardware.problems["a"] = RuntimeError("no such thing")
    assert "could not be given back for a defect" in await bench.unprepare(ref("a"))
    bench.hardware.problems.clear()
    assert await bench.unprepare(ref("a")) == ""


async def test_giving_back_needs_no_claim_in_the_cluster():
    bench = Bench()
    assert await bench.unprepare(ref("gone")) == ""
    assert bench.hardware.done == ["unprepare gone"]
