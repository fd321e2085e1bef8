"""The reflector against a scripted API server: what the receiver is told, whatever the connection does."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from structlog.testing import capture_logs

from scheduler.api.core import Pod
from scheduler.api.kinds import DEVICE_TAINT_RULE, KAI_QUEUE, POD, RESOURCE_CLAIM, RESOURCE_SLICE, Kind
from scheduler.kube.client import Client
from scheduler.kube.identity import Identity
from scheduler.kube.reflector import Change, Reflector, Rhythm
from scheduler.state.inventory import allocated_part
from tests.fake_api import FakeApi, Reply, answer, bookmark, event, failure, failure_document, hang_up, stream
from tests.manifests import allocation, gpu, merged, pod, resource_claim, resource_slice

PODS = "/api/v1/pods"
QUICK = Rhythm(server=60, silence=5, listing=5, absent=0.01, backoff_first=0.001, backoff_most=0.01)


@dataclass
class Told:
    """Everything a reflector has told, in order."""

    queue: asyncio.Queue[list[Change]] = field(default_factory=asyncio.Queue)
    changes: list[Change] = field(default_factory=list)

    async def until(self, enough: Callable[["Told"], bool]) -> None:
        async with asyncio.timeout(10):
            while not enough(self):
                self.changes += await self.queue.get()

    @property
    def words(self) -> list[str]:
        """The changes as "ADDED a/p@1"."""
        return [f"{each.type} {each.key}@{each.meta.resource_version}".rstrip("@ ") for each in self.changes]


@asynccontextmanager
async def following(
    api: FakeApi, kind: Kind = POD, rhythm: Rhythm = QUICK, fields: str | None = None
) -> AsyncIterator[Told]:
    told = Told()
    async with Client(Identity(server=api.url), attempts=1) as client:
        reflector = Reflector(client=client, kind=kind, rhythm=rhythm, jitter=random.Random(1), field_selector=fields)
        task = asyncio.create_task(reflector.run(told.queue))
        try:
            yield told
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi() as server:
        yield server


def at(version: str, name: str = "p", **fields: object) -> dict[str, object]:
    return pod(name, version=version, **fields)  # type: ignore[arg-type]


def listing(*replies: Reply) -> tuple[Reply, ...]:
    """A server that does not stream lists, then these replies."""
    return (failure(422, "Invalid", "sendInitialEvents is forbidden"), *replies)


async def test_who_follows_some_objects_asks_for_these_in_lists_and_watches(api: FakeApi) -> None:
    page = {"metadata": {"resourceVersion": "9"}, "items": [at("3", "p1")]}
    api.script("GET", PODS, *listing(answer(page), stream(event("ADDED", at("10", "p2")), stay=True)))
    async with following(api, fields="spec.nodeName=n1") as told:
        await told.until(lambda told: len(told.changes) == 3)
    assert [query["fieldSelector"] for query in api.queries(PODS)] == ["spec.nodeName=n1"] * 3


async def test_a_streamed_list_is_told_whole_and_then_what_follows(api: FakeApi) -> None:
    api.script(
        "GET",
        PODS,
        stream(
            event("ADDED", at("3", "p1")),
            event("ADDED", at("5", "p2")),
            bookmark("9", ends_list=True),
            event("MODIFIED", at("10", "p1")),
            event("DELETED", at("11", "p2")),
            stay=True,
        ),
    )
    async with following(api) as told:
        await told.until(lambda told: len(told.changes) == 5)
    assert told.words == ["ADDED a/p1@3", "ADDED a/p2@5", "LISTED", "MODIFIED a/p1@10", "DELETED a/p2@11"]
    query = api.queries(PODS)[0]
    assert query["sendInitialEvents"] == "true"
    assert query["resourceVersionMatch"] == "NotOlderThan"
    assert query["allowWatchBookmarks"] == "true"


async def test_the_first_list_is_told_as_it_comes_and_what_went_before_its_end_is_taken_back(api: FakeApi) -> None:
    api.script(
        "GET",
        PODS,
        stream(event("ADDED", at("3", "p1")), event("ADDED", at("5", "p2"))),
        stream(event("ADDED", at("5", "p2")), event("ADDED", at("8", "p3")), bookmark("9", ends_list=True), stay=True),
    )
    async with following(api) as told:
        await told.until(lambda told: "LISTED" in told.words)
    end = told.words.index("LISTED")
    assert told.words[:2] == ["ADDED a/p1@3", "ADDED a/p2@5"]
    assert "DELETED a/p1" in told.words[2:end]
    assert "ADDED a/p3@8" in told.words[2:end]


async def test_a_server_that_does_not_stream_lists_is_read_in_pages(api: FakeApi) -> None:
    page = {"metadata": {"resourceVersion": "9"}, "items": [at("3", "p1")]}
    api.script("GET", PODS, *listing(answer(page), stream(event("ADDED", at("10", "p2")), stay=True)))
    async with following(api) as told:
        await told.until(lambda told: len(told.changes) == 3)
    assert told.words == ["ADDED a/p1@3", "LISTED", "ADDED a/p2@10"]
    assert api.queries(PODS)[2]["resourceVersion"] == "9"


async def test_a_watch_that_ends_goes_on_from_the_last_version(api: FakeApi) -> None:
    api.script(
        "GET",
        PODS,
        stream(event("ADDED", at("3")), bookmark("9", ends_list=True)),
        stream(event("MODIFIED", at("12")), bookmark("30")),
        stream(event("MODIFIED", at("31")), stay=True),
    )
    async with following(api) as told:
        await told.until(lambda told: len(told.changes) == 4)
    assert told.words == ["ADDED a/p@3", "LISTED", "MODIFIED a/p@12", "MODIFIED a/p@31"]
    assert [query.get("resourceVersion") for query in api.queries(PODS)] == ["", "9", "30"]


async def test_a_truncated_event_comes_again_and_is_told_once(api: FakeApi) -> None:
    cut = json.dumps(event("MODIFIED", at("12")))[:40]
    api.script(
        "GET",
        PODS,
        stream(event("ADDED", at("3")), bookmark("9", ends_list=True), cut),
        stream(event("MODIFIED", at("12")), stay=True),
    )
    async with following(api) as told:
        await told.until(lambda told: len(told.changes) == 3)
    assert told.words == ["ADDED a/p@3", "LISTED", "MODIFIED a/p@12"]


@pytest.mark.parametrize(
    "expired",
    [
        stream(event("ERROR", failure_document(410, "Expired", "too old"))),
        failure(410, "Expired", "too old"),
    ],
    ids=["as an event", "as an answer"],
)
async def test_an_expired_version_lists_again_and_tells_only_what_differs(api: FakeApi, expired: Reply) -> None:
    api.script(
        "GET",
        PODS,
        stream(
            event("ADDED", at("3", "kept")),
            event("ADDED", at("4", "changed")),
            event("ADDED", at("5", "gone")),
            bookmark("9", ends_list=True),
        ),
        expired,
        stream(
            event("ADDED", at("3", "kept")),
            event("ADDED", at("44", "changed")),
            event("ADDED", at("50", "new")),
            bookmark("60", ends_list=True),
            stay=True,
        ),
    )
    async with following(api) as told:
        await told.until(lambda told: told.words.count("LISTED") == 2)
    assert told.words[4:] == ["DELETED a/gone", "ADDED a/changed@44", "ADDED a/new@50", "LISTED"]


async def test_events_before_an_error_in_one_batch_are_not_lost(api: FakeApi) -> None:
    together = "".join(
        json.dumps(each) + "\n"
        for each in (event("MODIFIED", at("12")), event("ERROR", failure_document(500, "InternalError")))
    )
    api.script(
        "GET",
        PODS,
        stream(event("ADDED", at("3")), bookmark("9", ends_list=True)),
        stream(together),
        stream(event("MODIFIED", at("13")), stay=True),
    )
    async with following(api) as told:
        await told.until(lambda told: len(told.changes) == 4)
    assert told.words[2:] == ["MODIFIED a/p@12", "MODIFIED a/p@13"]
    assert api.queries(PODS)[2]["resourceVersion"] == "12"


async def test_one_object_that_cannot_be_decoded_does_not_stop_the_others(api: FakeApi) -> None:
    bad = merged(at("4", "bad"), spec={"priority": "high"})
    api.script(
        "GET",
        PODS,
        stream(
            event("ADDED", at("3", "p1")),
            event("ADDED", bad),
            event("ADDED", at("5", "p2")),
            bookmark("9", ends_list=True),
            stay=True,
        ),
    )
    async with following(api) as told:
        await told.until(lambda told: "LISTED" in told.words)
    assert [change.key for change in told.changes] == ["a/p1", "a/bad", "a/p2", ""]
    broken = told.changes[1]
    assert broken.object is None
    assert broken.problem == "Expected `int | null`, got `str` - at `$.spec.priority`"
    assert json.loads(broken.raw)["spec"]["priority"] == "high"
    assert isinstance(told.changes[2].object, Pod)


def deep_claim(name: str, *, brackets: int = 5000) -> str:
    """A claim with opaque parameters that the API server admits (10 KiB) and no decoder here can follow."""
    nested = "[" * brackets + "]" * brackets
    config = [{"opaque": {"driver": "d", "parameters": {"text": 'a "[" in {text}\\', "nested": "HERE"}}}]
    held = allocation("n1", "gpu-0")
    claim = merged(resource_claim(name, allocation=held), spec={"devices": {"config": config}})
    managed = merged(claim, metadata={"resourceVersion": "4", "managedFields": [{"manager": "kubectl"}]})
    return json.dumps(managed).replace('"HERE"', nested)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed list", "pages"])
async def test_an_object_nested_too_deeply_does_not_stop_the_others(api: FakeApi, *, streamed: bool) -> None:
    others = [merged(resource_claim(name), metadata={"resourceVersion": "3"}) for name in ("c1", "c2")]
    shown = [json.dumps(others[0]), deep_claim("deep"), json.dumps(others[1])]
    if streamed:
        events = [f'{{"type":"ADDED","object":{each}}}\n' for each in shown]
        replies: tuple[Reply, ...] = (stream(*events, bookmark("9", ends_list=True), stay=True),)
    else:
        page = f'{{"metadata":{{"resourceVersion":"9"}},"items":[{",".join(shown)}]}}'
        replies = listing(stream(page), stream(stay=True))
    api.script("GET", RESOURCE_CLAIM.url(), *replies)
    async with following(api, RESOURCE_CLAIM) as told:
        await told.until(lambda told: "LISTED" in told.words)
    assert told.words == ["ADDED a/c1@3", "ADDED a/deep@4", "ADDED a/c2@3", "LISTED"]
    deep = told.changes[1]
    assert deep.object is None
    assert deep.problem == "it is nested more than 100 levels deep"
    held = allocated_part(deep)
    assert held is not None
    assert held.status.allocation is not None
    assert held.status.allocation.devices.results is not None
    assert held.status.allocation.devices.results[0].device == "gpu-0"
    assert [each.problem for each in told.changes if each is not deep] == [None, None, None]


async def test_a_claim_that_becomes_nested_too_deeply_is_told_between_the_others(api: FakeApi) -> None:
    api.script(
        "GET",
        RESOURCE_CLAIM.url(),
        stream(
            bookmark("2", ends_list=True),
            f'{{"type":"ADDED","object":{deep_claim("deep")}}}\n',
            event("ADDED", merged(resource_claim("c"), metadata={"resourceVersion": "5"})),
            stay=True,
        ),
    )
    async with following(api, RESOURCE_CLAIM) as told:
        await told.until(lambda told: len(told.changes) == 3)
    assert told.words == ["LISTED", "ADDED a/deep@4", "ADDED a/c@5"]


async def test_an_object_without_a_name_is_left_out(api: FakeApi) -> None:
    nameless = {"kind": "Pod", "metadata": {"resourceVersion": "4"}, "spec": {}}
    api.script("GET", PODS, stream(event("ADDED", nameless), bookmark("9", ends_list=True), stay=True))
    async with following(api) as told:
        await told.until(lambda told: "LISTED" in told.words)
    assert told.words == ["LISTED"]


async def test_a_line_that_is_no_event_is_passed_by_listing_again(api: FakeApi) -> None:
    rubbish = stream("<html>gateway</html>\n")
    api.script(
        "GET",
        PODS,
        stream(event("ADDED", at("3")), bookmark("9", ends_list=True)),
        *[rubbish] * 4,
        stream(event("ADDED", at("14")), bookmark("20", ends_list=True), stay=True),
    )
    async with following(api) as told:
        await told.until(lambda told: told.words.count("LISTED") == 2)
    assert told.words == ["ADDED a/p@3", "LISTED", "ADDED a/p@14", "LISTED"]


async def test_managed_fields_are_dropped_from_the_raw_document(api: FakeApi) -> None:
    managed = merged(at("3"), metadata={"managedFields": [{"manager": "kubectl"}], "labels": {"x": "managedFields"}})
    api.script("GET", PODS, stream(event("ADDED", managed), bookmark("9", ends_list=True), stay=True))
    async with following(api) as told:
        await told.until(lambda told: "LISTED" in told.words)
    raw = json.loads(told.changes[0].raw)
    assert raw == merged(at("3"), metadata={"labels": {"x": "managedFields"}})


async def test_an_object_larger_than_any_buffer_arrives_whole(api: FakeApi) -> None:
    devices = [gpu(index, **{f"a{n}": {"string": "x" * 64} for n in range(25)}) for index in range(128)]
    large = merged(resource_slice("n1", *devices), metadata={"resourceVersion": "3"})
    assert len(json.dumps(large)) > 200_000
    api.script("GET", RESOURCE_SLICE.url(), stream(event("ADDED", large), bookmark("9", ends_list=True), stay=True))
    async with following(api, RESOURCE_SLICE) as told:
        await told.until(lambda told: "LISTED" in told.words)
    assert len(told.changes[0].object.spec.devices) == 128  # type: ignore[union-attr]


async def test_failures_are_waited_out(api: FakeApi) -> None:
    api.script(
        "GET",
        PODS,
        failure(429, "TooManyRequests", Retry_After="0"),
        failure(503, "ServiceUnavailable"),
        hang_up(),
        stream(bookmark("9", ends_list=True), stay=True),
    )
    async with following(api) as told:
        await told.until(lambda told: "LISTED" in told.words)
    assert len(api.asked) == 4


async def test_a_connection_that_falls_silent_is_replaced(api: FakeApi) -> None:
    api.script(
        "GET",
        PODS,
        stream(event("ADDED", at("3")), bookmark("9", ends_list=True), stay=True),
        stream(event("MODIFIED", at("10")), stay=True),
    )
    async with following(api, rhythm=replace(QUICK, silence=0.05)) as told:
        await told.until(lambda told: "MODIFIED a/p@10" in told.words)
    assert api.queries(PODS)[1]["resourceVersion"] == "9"


async def test_a_streamed_list_that_never_ends_is_read_in_pages(api: FakeApi) -> None:
    page = {"metadata": {"resourceVersion": "9"}, "items": [at("3")]}
    api.script("GET", PODS, stream(event("ADDED", at("3")), stay=True), answer(page), stream(stay=True))
    async with following(api, rhythm=replace(QUICK, listing=0.05)) as told:
        await told.until(lambda told: "LISTED" in told.words)
    assert told.words == ["ADDED a/p@3", "LISTED"]


async def test_an_optional_kind_that_is_not_served_is_empty_until_it_appears(api: FakeApi) -> None:
    queue = {"metadata": {"name": "team", "resourceVersion": "3"}, "spec": {}}
    api.script(
        "GET",
        KAI_QUEUE.url(),
        failure(404, "NotFound"),
        failure(404, "NotFound"),
        stream(event("ADDED", queue), bookmark("9", ends_list=True)),
        failure(404, "NotFound"),
    )
    async with following(api, KAI_QUEUE) as told:
        await told.until(lambda told: told.words.count("LISTED") == 3)
    assert told.words == ["LISTED", "ADDED team@3", "LISTED", "DELETED team", "LISTED"]


async def test_an_older_version_of_a_kind_serves_where_the_newest_is_not_there(api: FakeApi) -> None:
    old = replace(DEVICE_TAINT_RULE, version="v1beta2")
    taint = {"key": "k", "effect": "NoSchedule"}
    rule = {"metadata": {"name": "r", "resourceVersion": "3"}, "spec": {"taint": taint}}
    api.script("GET", DEVICE_TAINT_RULE.url(), failure(404, "NotFound"))
    api.script("GET", old.url(), stream(event("ADDED", rule), bookmark("9", ends_list=True), stay=True))
    async with following(api, DEVICE_TAINT_RULE) as told:
        await told.until(lambda told: "LISTED" in told.words)
    assert told.words == ["ADDED r@3", "LISTED"]


async def test_an_optional_kind_that_becomes_forbidden_keeps_what_is_known(api: FakeApi) -> None:
    rule = {"metadata": {"name": "r", "resourceVersion": "3"}, "spec": {}}
    other = {"metadata": {"name": "s", "resourceVersion": "12"}, "spec": {}}
    api.script(
        "GET",
        DEVICE_TAINT_RULE.url(),
        stream(event("ADDED", rule), bookmark("9", ends_list=True)),
        failure(403, "Forbidden"),
        failure(403, "Forbidden"),
        stream(event("ADDED", rule), event("ADDED", other), bookmark("15", ends_list=True), stay=True),
    )
    with capture_logs() as logs:
        async with following(api, DEVICE_TAINT_RULE) as told:
            await told.until(lambda told: told.words.count("LISTED") == 2)
    assert told.words == ["ADDED r@3", "LISTED", "ADDED s@12", "LISTED"]
    (warning,) = [each for each in logs if each["event"] == "kind is forbidden"]
    assert warning["log_level"] == "warning"
    assert warning["consequence"] == "what is known of it stays"


async def test_an_optional_kind_that_is_forbidden_from_the_beginning_counts_as_empty(api: FakeApi) -> None:
    api.script("GET", DEVICE_TAINT_RULE.url(), failure(403, "Forbidden"))
    with capture_logs() as logs:
        async with following(api, DEVICE_TAINT_RULE) as told:
            await told.until(lambda told: "LISTED" in told.words)
    assert told.words == ["LISTED"]
    assert [each["consequence"] for each in logs if each["event"] == "kind is forbidden"] == ["it counts as empty"]


async def test_a_kind_that_must_be_served_is_waited_for(api: FakeApi) -> None:
    api.script("GET", PODS, failure(404, "NotFound"), stream(bookmark("9", ends_list=True), stay=True))
    async with following(api) as told:
        await told.until(lambda told: "LISTED" in told.words)
    assert told.words == ["LISTED"]
