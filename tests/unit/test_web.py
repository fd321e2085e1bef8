"""The debug API and the page, called as an ASGI application; no socket, no clock."""

import asyncio
import dataclasses
import re
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from scheduler.model.plan import Plan
from scheduler.web import app
from scheduler.web.app import LARGEST_BODY, WHAT_IF_WAITING, create_app
from tests.views import MadeUp, empty_view, made_up_view


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def names(self) -> list[str]:
        return [item["name"] for item in self.json["items"]]


class Browser:
    """Asks an ASGI application."""

    def __init__(self, source: MadeUp, **options: Any) -> None:
        self.app = create_app(source, **options)

    async def get(self, url: str, **headers: str) -> Answer:
        return await self.ask("GET", url, b"", headers)

    async def post(self, url: str, body: bytes | None, *, ends: bool = True, **headers: str) -> Answer:
        return await self.ask("POST", url, body, headers, ends=ends)

    async def ask(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], *, ends: bool = True
    ) -> Answer:
        """`body` None: it never arrives; `ends` False: the client leaves behind its first part."""
        path, _, query = url.partition("?")
        sent: list[dict[str, Any]] = []
        parts = [{"type": "http.request", "body": body, "more_body": not ends}]

        async def receive() -> dict[str, Any]:
            if body is None:
                await asyncio.Event().wait()
            return parts.pop(0) if parts else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(dict(message))

        given = {"host": "127.0.0.1:8080", **{name.replace("_", "-"): value for name, value in headers.items()}}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
        }
        await self.app(scope, receive, send)
        start = next(each for each in sent if each["type"] == "http.response.start")
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        content = b"".join(each.get("body", b"") for each in sent if each["type"] == "http.response.body")
        return Answer(start["status"], found, content)


VIEW = made_up_view()


@pytest.fixture
def browser() -> Browser:
    return Browser(MadeUp(VIEW))


# --- health -----------------------------------------------------------------------------------------------------------


async def test_health_and_readiness_say_what_is_wrong():
    source = MadeUp(VIEW)
    browser = Browser(source)
    assert (await browser.get("/healthz")).body == b"ok"
    assert (await browser.get("/readyz")).status == 200
    source.missing = "the watch of pods has not listed yet"
    assert ((await browser.get("/healthz")).status, (await browser.get("/readyz")).status) == (200, 503)
    assert (await browser.get("/readyz")).body == b"the watch of pods has not listed yet"
    source.sick = "the cycle loop has ended"
    assert (await browser.get("/healthz")).status == 503


async def test_half_a_cluster_is_not_handed_out_as_a_snapshot():
    source = MadeUp(VIEW)
    assert (await Browser(source).get("/api/v1/snapshot")).status == 200
    source.missing = "waiting for the first list of pods"
    answer = await Browser(source).get("/api/v1/snapshot")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.json["error"]["message"] == "The service is not ready: waiting for the first list of pods."


async def test_metrics_are_prometheus_text(browser):
    answer = await browser.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert b'tutti_queue_quota{queue="vision",resource="gpu"} 16.0' in answer.body


async def test_before_the_first_cycle_lists_say_so():
    answer = await Browser(MadeUp()).get("/api/v1/gangs")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.json["error"]["message"] == "No cycle has ended yet."


# --- lists ------------------------------------------------------------------------------------------------------------


async def test_queues_have_their_amounts_and_problems(browser):
    queues = {item["name"]: item for item in (await browser.get("/api/v1/queues")).json["items"]}
    assert list(queues) == sorted(queues)
    vision = queues["vision"]
    assert (vision["quota"], vision["limit"], vision["allocated"]) == ({"gpu": "16"}, {"gpu": "32"}, {"gpu": "16"})
    assert vision["overQuotaWeight"] == {"gpu": 2}
    assert (vision["parent"], vision["leaf"], queues["research"]["leaf"]) == ("research", True, False)
    assert (vision["usage"], queues["research"]["usage"]) == ({"gpu": "0.250000"}, None)
    assert queues["lost"]["problem"]["code"] == "QueueUnusable"


async def test_a_gang_that_waits_has_its_reason_with_details_and_remedy(browser):
    (hero,) = (await browser.get("/api/v1/gangs?namespace=vision&verdict=Refused")).json["items"]
    assert hero["reason"]["code"] == "OverLimit"
    assert hero["reason"]["details"]["asked"] == 40_000
    assert hero["remedy"] == "Raise spec.resources.gpu.limit of Queue vision, or ask for less."
    assert hero["missing"] == {"gpu": "24"}
    assert hero["counts"] == {"needed": 5, "total": 5, "pending": 5, "bound": 0, "running": 0}


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("queue=notebooks", ["ana", "ben"]),
        ("code=OverLimit", ["hero"]),
        ("namespace=default&verdict=Pending", ["sweep"]),
        ("namespace=nobody", []),
        ("name=hero", ["hero"]),
        ("name=hero&namespace=default", []),
        ("pod=hero-0", ["hero"]),
        ("pod=nobody", []),
    ],
)
async def test_gangs_are_found_by_what_they_are(browser, query, names):
    assert (await browser.get(f"/api/v1/gangs?{query}")).names == names


async def test_a_list_comes_in_pages_that_together_are_the_list(browser):
    whole = (await browser.get("/api/v1/gangs")).json["items"]
    found, token, sizes = [], "", []
    while True:
        answer = await browser.get(f"/api/v1/gangs?limit=4&continue={quote(token)}")
        found += answer.json["items"]
        sizes.append((len(answer.json["items"]), answer.json["metadata"]["remainingItemCount"]))
        token = answer.json["metadata"].get("continue", "")
        if not token:
            break
    assert found == whole
    assert sizes == [(4, 6), (4, 2), (2, 0)]


async def test_a_page_goes_on_behind_its_last_item_even_if_that_is_gone():
    source = MadeUp(VIEW)
    browser = Browser(source)
    first = await browser.get("/api/v1/gangs?limit=3")
    last = first.json["items"][-1]
    kept = tuple(gang for gang in VIEW.reports.gangs if gang.gang != f"{last['namespace']}/{last['name']}")
    source.shown = dataclasses.replace(
        VIEW, cycle=VIEW.cycle + 1, reports=dataclasses.replace(VIEW.reports, gangs=kept)
    )
    rest = await browser.get(f"/api/v1/gangs?limit=100&continue={quote(first.json['metadata']['continue'])}")
    assert len(first.names) + len(rest.names) == len(VIEW.reports.gangs)


async def test_nodes_show_what_they_have_and_what_is_asked_of_them(browser):
    nodes = {item["name"]: item for item in (await browser.get("/api/v1/nodes")).json["items"]}
    assert nodes["h100x8-000"]["allocatable"]["cpu"] == "224"
    assert nodes["h100x8-000"]["requested"] == {"cpu": "8", "memory": "64Gi", "pods": "1"}
    assert nodes["h100x8-005"]["unschedulable"] is True
    assert nodes["t4-plugin-000"]["requested"] == {"nvidia.com/gpu": "3"}


async def test_devices_of_a_node_say_who_holds_them(browser):
    devices = (await browser.get("/api/v1/devices?node=h100x8-002")).json["items"]
    held = [device for device in devices if device["state"] == "Allocated"]
    assert (len(devices), len(held)) == (8, 3)
    assert held[0]["holders"] == [
        {
            "claim": "language/eval-0-gpus",
            "queue": "language",
            "gang": "language/eval",
            "pods": ["language/eval-0"],
        }
    ]
    assert held[0]["attributes"]["gpu.nvidia.com/productName"].startswith("NVIDIA H100")
    assert (await browser.get("/api/v1/devices?node=nowhere")).json["items"] == []


async def test_a_device_that_two_claims_hold_says_so_and_names_both():
    snapshot = VIEW.snapshot
    claim = snapshot.claims["language/eval-0-gpus"]
    stolen = dataclasses.replace(claim, key="theirs/stolen", uid="stolen", reserved_for=())
    twice = dataclasses.replace(snapshot, claims={**snapshot.claims, stolen.key: stolen})
    browser = Browser(MadeUp(dataclasses.replace(VIEW, snapshot=twice)))
    devices = (await browser.get("/api/v1/devices?node=h100x8-002")).json["items"]
    conflicts = [device for device in devices if device["state"] == "GivenTwice"]
    assert len(conflicts) == 3
    assert [holder["claim"] for holder in conflicts[0]["holders"]] == [claim.key, stolen.key]


async def test_all_devices_are_listed_by_node(browser):
    devices = (await browser.get("/api/v1/devices?limit=5000")).json["items"]
    nodes = [device["node"] for device in devices]
    assert nodes == sorted(nodes)
    assert sum(1 for device in devices if device["state"] == "Allocated") == 51


async def test_cycles_and_decisions_come_newest_first(browser):
    cycles = (await browser.get("/api/v1/cycles?limit=3")).json
    assert [item["number"] for item in cycles["items"]] == [1207, 1206, 1205]
    assert cycles["metadata"]["remainingItemCount"] == 58
    decisions = (await browser.get("/api/v1/decisions?gang=vision/hero")).json["items"]
    assert {item["gang"] for item in decisions} == {"vision/hero"}
    assert decisions[0]["code"] == "OverLimit"
    assert [item["cycle"] for item in decisions] == sorted((item["cycle"] for item in decisions), reverse=True)


async def test_objects_that_cannot_be_read_are_listed(browser):
    (item,) = (await browser.get("/api/v1/set-aside")).json["items"]
    assert item["object"] == "Queue/batch"
    assert item["reason"]["message"] == "Queue batch: spec.resources.gpu.quota: 'lots' is no quantity."


async def test_an_explanation_has_the_pods_with_their_devices_and_the_past(browser):
    found = (await browser.get("/api/v1/gangs/vision/segment-anything/explain")).json
    assert [(pod["name"], pod["node"]) for pod in found["pods"]] == [
        ("segment-anything-0", "h100x8-000"),
        ("segment-anything-1", "h100x8-001"),
    ]
    (claim,) = found["pods"][0]["claims"]
    assert len(claim["devices"]) == 8
    assert found["decisions"][0]["verdict"] == "Running"


async def test_an_unknown_gang_is_not_found_and_the_answer_says_what_to_look_at(browser):
    answer = await browser.get("/api/v1/gangs/team/none/explain")
    assert answer.status == 404
    assert "spec.schedulerName" in answer.json["error"]["cure"]


async def test_a_cluster_with_nothing_in_it_has_empty_lists():
    browser = Browser(MadeUp(empty_view()))
    for name in ("queues", "gangs", "nodes", "devices", "cycles", "decisions", "set-aside"):
        assert (await browser.get(f"/api/v1/{name}")).json["items"] == []


@pytest.mark.parametrize("query", ["limit=0", "limit=5001", "limit=x", "continue=%25%25%25"])
async def test_a_parameter_that_makes_no_sense_is_refused(browser, query):
    answer = await browser.get(f"/api/v1/gangs?{query}")
    assert answer.status == 400
    assert set(answer.json["error"]) == {"message", "cure"}


# --- one cycle, one answer --------------------------------------------------------------------------------------------


async def test_an_answer_of_the_same_cycle_is_not_sent_twice():
    source = MadeUp(VIEW)
    browser = Browser(source)
    first = await browser.get("/api/v1/queues")
    again = await browser.get("/api/v1/queues", if_none_match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    weak = await browser.get("/api/v1/queues", if_none_match=f'"other", W/{first.headers["etag"]}')
    assert weak.status == 304
    source.shown = dataclasses.replace(VIEW, cycle=VIEW.cycle + 1)
    assert (await browser.get("/api/v1/queues", if_none_match=first.headers["etag"])).status == 200


async def test_the_same_cycle_in_another_order_gives_the_same_bytes():
    snapshot = VIEW.snapshot
    turned = dataclasses.replace(
        VIEW,
        snapshot=dataclasses.replace(
            snapshot,
            nodes=snapshot.nodes[::-1],
            slices=snapshot.slices[::-1],
            claims=dict(reversed(snapshot.claims.items())),
            gangs=snapshot.gangs[::-1],
        ),
        plan=dataclasses.replace(VIEW.plan, queues=VIEW.plan.queues[::-1]),
        reports=dataclasses.replace(VIEW.reports, gangs=VIEW.reports.gangs[::-1]),
    )
    for path in ("queues", "gangs", "nodes", "devices", "map"):
        one, other = [await Browser(MadeUp(view)).get(f"/api/v1/{path}") for view in (VIEW, turned)]
        assert one.body == other.body, path


# --- the map ----------------------------------------------------------------------------------------------------------


async def test_the_map_shows_every_gpu_and_whose_it_is(browser):
    found = (await browser.get("/api/v1/map")).json
    nodes = {node["name"]: node for group in found["groups"] for node in group["nodes"]}
    language, vision = found["queues"].index("language"), found["queues"].index("vision")
    assert nodes["h100x8-000"]["boards"] == [[[vision, 1000]]] * 8
    assert nodes["h100x8-002"]["boards"] == [[[language, 1000]]] * 3 + [[]] * 5
    assert nodes["t4-plugin-000"]["boards"] == [[[-2, 1000]]] * 3 + [[]]
    assert nodes["cpu-000"]["boards"] == []
    assert nodes["h100x8-005"]["cordoned"] is True


async def test_slices_of_one_gpu_are_drawn_in_one_place(browser):
    found = (await browser.get("/api/v1/map")).json
    boards = next(n["boards"] for group in found["groups"] for n in group["nodes"] if n["name"] == "a100-mig-001")
    notebooks = found["queues"].index("notebooks")
    assert len(boards) == 8
    assert boards[4] == [[notebooks, 142], [notebooks, 142]]


async def test_nodes_are_grouped_by_where_they_stand_and_counted_as_people_count():
    names = {group["name"] for group in (await Browser(MadeUp(VIEW)).get("/api/v1/map")).json["groups"]}
    assert "gb200-nvl72-block-00 / gb200-nvl72-rack-00" in names
    bare = dataclasses.replace(VIEW, snapshot=dataclasses.replace(VIEW.snapshot, topologies={}))
    groups = (await Browser(MadeUp(bare)).get("/api/v1/map")).json["groups"]
    sizes = {group["name"].partition(" ")[0]: len(group["nodes"]) for group in groups}
    assert sizes == {"": 11, "NVLink": 18}


# --- what if ----------------------------------------------------------------------------------------------------------


async def test_a_what_if_hands_the_manifests_on():
    source = MadeUp(VIEW)
    answer = await Browser(source).post("/api/v1/plan", b"kind: Pod\n")
    assert answer.status == 200
    assert source.asked == ["kind: Pod\n"]
    assert {gang["name"] for gang in answer.json["gangs"]} >= {"vision/hero"}


async def test_a_manifest_that_cannot_be_used_is_refused_with_its_cause(browser):
    answer = await browser.post("/api/v1/plan", b"broken")
    assert answer.status == 400
    assert answer.json["error"]["message"] == "Pod a/b: spec.containers: is no list; write a list"


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"  \n", 400), (b"\xff\xfe", 400), (b"x" * (LARGEST_BODY + 1), 413)]
)
async def test_a_body_without_manifests_or_too_large_is_refused(browser, body, status):
    assert (await browser.post("/api/v1/plan", body)).status == status


async def test_a_body_that_does_not_arrive_is_not_awaited_for_ever(browser, monkeypatch):
    monkeypatch.setattr(app, "BODY_SECONDS", 0.0)
    answer = await browser.post("/api/v1/plan", None)
    assert (answer.status, answer.headers["connection"]) == (408, "close")


async def test_a_client_that_leaves_amid_its_body_is_no_fault_of_ours(browser):
    assert (await browser.post("/api/v1/plan", b"kind: ", ends=False)).status == 400


class Slow(MadeUp):
    """Thinks until it is released."""

    def __init__(self) -> None:
        super().__init__(VIEW)
        self.released = threading.Event()
        self.thinking = threading.Event()
        self.thread: threading.Thread | None = None

    def what_if(self, manifests: str) -> Plan:
        self.thread = threading.current_thread()
        self.thinking.set()
        self.released.wait(30)
        return super().what_if(manifests)


async def test_so_many_what_ifs_at_once_and_no_more():
    source = Slow()
    browser = Browser(source)
    asked = [asyncio.create_task(browser.post("/api/v1/plan", b"x")) for _ in range(WHAT_IF_WAITING + 1)]
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    (refused,) = [task.result() for task in done]
    assert (refused.status, refused.headers["retry-after"]) == (429, "2")
    source.released.set()
    assert sorted([(await task).status for task in asked]) == [200] * WHAT_IF_WAITING + [429]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "null"},
        {"origin": ""},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site", "origin": "http://127.0.0.1:8080"},
    ],
)
async def test_no_work_is_done_for_the_pages_of_other_sites(headers):
    """A browser posts text to this machine for any page, without asking us first."""
    source = MadeUp(VIEW)
    answer = await Browser(source).post("/api/v1/plan", b"kind: Pod\n", content_type="text/plain", **headers)
    assert (answer.status, source.asked) == (403, [])


async def test_our_own_page_may_ask_what_if():
    headers = {"origin": "http://127.0.0.1:8080", "sec_fetch_site": "same-origin"}
    assert (await Browser(MadeUp(VIEW)).post("/api/v1/plan", b"kind: Pod\n", **headers)).status == 200


async def test_no_question_keeps_the_process_from_ending():
    source = Slow()
    asked = asyncio.create_task(Browser(source).post("/api/v1/plan", b"x"))
    await asyncio.to_thread(source.thinking.wait, 30)
    assert source.thread is not None
    assert source.thread.daemon
    source.released.set()
    assert (await asked).status == 200


async def test_everything_but_the_what_if_is_read_only(browser):
    for path in ("/api/v1/queues", "/api/v1/gangs", "/api/v1/nodes", "/"):
        assert (await browser.post(path, b"{}")).status == 405


# --- the page ---------------------------------------------------------------------------------------------------------


async def test_the_page_takes_nothing_from_another_host(browser):
    page = (await browser.get("/")).body.decode()
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {"/pages/page.css", "/pages/page.js", "/pages/mark.svg"} <= set(links)
    assert all(link.startswith("/") for link in links)
    for link in links:
        assert (await browser.get(link)).status == 200, link
    for name in ("page.css", "page.js"):
        assert "http" not in (await browser.get(f"/pages/{name}")).body.decode()


async def test_the_page_runs_no_script_but_its_own(browser):
    answer = await browser.get("/")
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "style=" not in answer.body.decode()
    assert not re.search(r"<script>|\son\w+=", answer.body.decode())


async def test_only_the_pages_files_are_served(browser):
    for name in ("../app.py", "index.html", "x"):
        assert (await browser.get(f"/pages/{name}")).status == 404


async def test_names_of_other_machines_are_refused():
    """A page of another site can point its own name at this machine; it still says its name."""
    browser = Browser(MadeUp(VIEW), hosts=("tutti.example",))
    for host in ("evil.example", "evil.example:8080", "10.0.0.7:8080", ""):
        assert (await browser.get("/api/v1/gangs", host=host)).status == 421, host
    for host in ("localhost:8080", "127.0.0.1", "[::1]:8080", "tutti.example:443"):
        assert (await browser.get("/api/v1/gangs", host=host)).status == 200, host
    assert (await browser.get("/healthz", host="10.0.0.7:8080")).status == 200


async def test_the_snapshot_is_a_download(browser):
    answer = await browser.get("/api/v1/snapshot")
    assert answer.json == {"objects": []}
    assert "attachment" in answer.headers["content-disposition"]
