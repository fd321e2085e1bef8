"""The REST and watch protocol over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from scheduler.devcluster import kinds
from scheduler.devcluster.run import DevCluster
from scheduler.devcluster.server import MAX_BODY
from tests.devcluster import bound, definition, pod

PODS = "/api/v1/namespaces/default/pods"
CONFIGS = "/api/v1/namespaces/default/configmaps"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


class Client:
    """One connection pool to one cluster."""

    def __init__(self, cluster: DevCluster, session: aiohttp.ClientSession) -> None:
        self.store = cluster.store
        self._url = cluster.url
        self._session = session

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
        async with self._session.request(method, self._url + path, data=data, headers=sent) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if answer.content_type.endswith("json") else text

    async def watch(self, path: str, **headers: str) -> AsyncIterator[dict[str, Any]]:
        """The events of a watch, until the server ends it."""
        async with self._session.get(self._url + path, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                yield json.loads(line)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with DevCluster(bookmark_seconds=0.05) as cluster, aiohttp.ClientSession() as session:
        yield Client(cluster, session)


async def test_the_verbs_of_a_resource(client: Client):
    status, made = await client.ask("POST", CONFIGS, {"metadata": {"name": "a"}, "data": {"x": "1"}})
    assert (status, made["kind"]) == (201, "ConfigMap")
    assert await client.ask("GET", f"{CONFIGS}/a") == (200, made)
    status, changed = await client.ask("PUT", f"{CONFIGS}/a", {**made, "data": {"x": "2"}})
    assert (status, changed["data"]) == (200, {"x": "2"})
    status, patched = await client.ask(
        "PATCH", f"{CONFIGS}/a", {"data": {"y": "3"}}, Content_Type="application/merge-patch+json"
    )
    assert (status, patched["data"]) == (200, {"x": "2", "y": "3"})
    status, gone = await client.ask("DELETE", f"{CONFIGS}/a")
    assert (status, gone["status"], gone["details"]["uid"]) == (200, "Success", made["metadata"]["uid"])
    status, missing = await client.ask("GET", f"{CONFIGS}/a")
    assert (status, missing["reason"]) == (404, "NotFound")
    assert missing["message"] == 'configmaps "a" not found'


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", "/api/v1/nosuch", None, 404),
        ("GET", "/apis/nosuch.io/v1/things", None, 404),
        ("GET", "/nosuch", None, 404),
        ("GET", "/api", None, 200),
        ("GET", f"{PODS}/a/nosuch", None, 404),
        ("POST", "/api/v1/pods", {}, 405),
        ("TRACE", PODS, None, 405),
        ("POST", CONFIGS, b"{", 400),
        ("POST", CONFIGS, b"[1]", 400),
        ("POST", CONFIGS, {"kind": "Pod", "metadata": {"name": "a"}}, 400),
        ("POST", CONFIGS, {"apiVersion": "v2", "metadata": {"name": "a"}}, 400),
        ("POST", f"{CONFIGS}?dryRun=Maybe", {"metadata": {"name": "a"}}, 400),
        ("POST", CONFIGS, {}, 422),
        ("PUT", f"{CONFIGS}/a", {"metadata": {"name": "b"}}, 400),
        ("GET", f"{PODS}?limit=many", None, 400),
        ("GET", f"{PODS}?continue=rubbish", None, 400),
        ("GET", f"{PODS}?labelSelector=a+b", None, 400),
        ("GET", f"{PODS}?fieldSelector=spec.x%3D1", None, 400),
        ("GET", f"{PODS}?resourceVersion=999999", None, 504),
        ("GET", f"{PODS}?watch=1&resourceVersion=999999", None, 504),
        ("GET", f"{PODS}?watch=1&resourceVersion=x", None, 400),
        ("PATCH", f"{CONFIGS}/a", {}, 415),
        ("DELETE", f"{PODS}/none", None, 404),
        ("DELETE", "/api/v1/pods", None, 405),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_with_a_status(
    client: Client, method: str, path: str, body: Any, code: int
):
    status, answer = await client.ask(method, path, body)
    assert status == code
    if code != 200:
        assert (answer["kind"], answer["status"], answer["code"]) == ("Status", "Failure", code)


async def test_a_body_beyond_the_limit_is_refused(client: Client):
    status, answer = await client.ask("POST", CONFIGS, b" " * (MAX_BODY + 1))
    assert (status, answer["reason"]) == (413, "RequestEntityTooLarge")


async def test_binding_and_eviction_are_posts_below_the_pod(client: Client):
    await client.ask("POST", PODS, pod())
    target = {"target": {"kind": "Node", "name": "n1"}}
    status, answer = await client.ask("POST", f"{PODS}/web/binding", target)
    assert (status, answer["status"]) == (201, "Success")
    assert (await client.ask("POST", f"{PODS}/web/binding", target))[0] == 409
    assert (await client.ask("POST", f"{PODS}/web/eviction", {"metadata": {"name": "web"}}))[0] == 201
    _, now = await client.ask("GET", f"{PODS}/web")
    assert now["metadata"]["deletionTimestamp"]


async def test_a_delete_with_options_keeps_to_them(client: Client):
    bound(client.store, "web")
    status, answer = await client.ask("DELETE", f"{PODS}/web", {"preconditions": {"uid": "another"}})
    assert (status, answer["reason"]) == (409, "Conflict")
    status, marked = await client.ask("DELETE", f"{PODS}/web", {"gracePeriodSeconds": 7})
    assert (status, marked["metadata"]["deletionGracePeriodSeconds"]) == (200, 7)
    status, gone = await client.ask("DELETE", f"{PODS}/web?gracePeriodSeconds=0")
    assert (status, gone["status"]) == (200, "Success")


async def test_a_collection_is_deleted_by_selector(client: Client):
    for name in ("a", "b", "c"):
        body = {"metadata": {"name": name, "labels": {"keep": "yes" if name == "b" else "no"}}}
        await client.ask("POST", CONFIGS, body)
    status, answer = await client.ask("DELETE", f"{CONFIGS}?labelSelector=keep%3Dno")
    assert (status, [entry["metadata"]["name"] for entry in answer["items"]]) == (200, ["a", "c"])
    assert [obj["metadata"]["name"] for obj in client.store.all(kinds.CONFIG_MAP)] == ["b"]


async def test_a_long_list_comes_in_pages(client: Client):
    for number in range(5):
        await client.ask("POST", CONFIGS, {"metadata": {"name": f"c{number}"}})
    names: list[str] = []
    path, pages = f"{CONFIGS}?limit=2", 0
    while path:
        _, page = await client.ask("GET", path)
        names += [entry["metadata"]["name"] for entry in page["items"]]
        token, pages = page["metadata"].get("continue"), pages + 1
        if pages == 1:
            assert page["metadata"]["remainingItemCount"] == 3
        path = f"{CONFIGS}?limit=2&continue={token}" if token else ""
    assert (names, pages) == (["c0", "c1", "c2", "c3", "c4"], 3)


async def test_an_exact_list_of_the_past_is_gone(client: Client):
    await client.ask("POST", CONFIGS, {"metadata": {"name": "a"}})
    status, answer = await client.ask("GET", f"{CONFIGS}?resourceVersion=1&resourceVersionMatch=Exact")
    assert (status, answer["reason"]) == (410, "Expired")
    assert (await client.ask("GET", f"{CONFIGS}?resourceVersion=1&resourceVersionMatch=NotOlderThan"))[0] == 200


async def test_scale_is_a_face_of_the_workload(client: Client):
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "m", "image": "i"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    base = "/apis/apps/v1/namespaces/default/deployments"
    await client.ask("POST", base, {"metadata": {"name": "d"}, "spec": spec})
    _, scale = await client.ask("GET", f"{base}/d/scale")
    assert (scale["kind"], scale["spec"], scale["status"]["selector"]) == ("Scale", {"replicas": 1}, "a=b")
    merge = {"Content_Type": "application/merge-patch+json"}
    status, scale = await client.ask("PATCH", f"{base}/d/scale", {"spec": {"replicas": 4}}, **merge)
    assert (status, scale["spec"]["replicas"]) == (200, 4)
    assert (await client.ask("PUT", f"{base}/d/scale", {**scale, "spec": {"replicas": -1}}))[0] == 422
    _, now = await client.ask("GET", f"{base}/d")
    assert now["spec"]["replicas"] == 4


async def test_unknown_fields_of_custom_resources_are_told(client: Client):
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    await client.ask("POST", crds, definition({"size": {"type": "integer"}}))
    widgets = "/apis/example.com/v1/namespaces/default/widgets"
    body = {"metadata": {"name": "w"}, "spec": {"sise": 1}}
    status, answer = await client.ask("POST", f"{widgets}?fieldValidation=Strict", body)
    assert (status, answer["reason"]) == (400, "BadRequest")
    assert 'strict decoding error: unknown field "spec.sise"' in answer["message"]
    status, made = await client.ask("POST", f"{widgets}?fieldValidation=Warn", body)
    assert (status, made["spec"]) == (201, {})
    status, _ = await client.ask("PUT", f"{widgets}/w", body)
    assert status == 422, "a custom resource is not updated without its version"


async def test_an_applied_yaml_creates_and_updates(client: Client):
    text = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {since: 2026-01-01}\n"
    path = f"{CONFIGS}/a?fieldManager=me"
    status, made = await client.ask("PATCH", path, text, Content_Type="application/apply-patch+yaml")
    assert (status, made["data"]) == (201, {"since": "2026-01-01"}), "a date in YAML stays text"
    status, _ = await client.ask("PATCH", path, text, Content_Type="application/apply-patch+yaml")
    assert status == 200


# --- watches ------------------------------------------------------------------------------------------------------


async def events(stream: AsyncIterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    found = []
    async for event in stream:
        found.append(event)
        if len(found) == count:
            break
    return found


def named(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in found]


async def test_a_watch_follows_a_list(client: Client):
    await client.ask("POST", CONFIGS, {"metadata": {"name": "a"}})
    _, listed = await client.ask("GET", CONFIGS)
    stream = client.watch(f"{CONFIGS}?watch=true&resourceVersion={listed['metadata']['resourceVersion']}")
    following = asyncio.create_task(events(stream, 2))
    await client.ask("POST", CONFIGS, {"metadata": {"name": "b"}})
    await client.ask("DELETE", f"{CONFIGS}/a")
    assert named(await following) == [("ADDED", "b"), ("DELETED", "a")]


async def test_a_watch_without_version_begins_with_what_there_is(client: Client):
    await client.ask("POST", CONFIGS, {"metadata": {"name": "a"}})
    assert named(await events(client.watch(f"{CONFIGS}?watch=true"), 1)) == [("ADDED", "a")]


async def test_a_streaming_list_ends_with_a_marked_bookmark(client: Client):
    await client.ask("POST", CONFIGS, {"metadata": {"name": "a"}})
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    first, mark = await events(client.watch(f"{CONFIGS}?{query}"), 2)
    assert named([first]) == [("ADDED", "a")]
    assert mark["type"] == "BOOKMARK"
    assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert mark["object"]["metadata"]["resourceVersion"] == str(client.store.resource_version)


async def test_bookmarks_tell_how_far_the_watch_has_come(client: Client):
    version = client.store.resource_version
    stream = client.watch(f"{CONFIGS}?watch=1&allowWatchBookmarks=true&resourceVersion={version}")
    (mark,) = await events(stream, 1)
    assert (mark["type"], mark["object"]["kind"]) == ("BOOKMARK", "ConfigMap")


async def test_a_watch_from_a_forgotten_version_gets_410_as_an_event(client: Client):
    version = client.store.resource_version
    await client.ask("POST", CONFIGS, {"metadata": {"name": "a"}})
    client.store.compact()
    (error,) = await events(client.watch(f"{CONFIGS}?watch=1&resourceVersion={version}"), 5)
    assert (error["type"], error["object"]["code"], error["object"]["reason"]) == ("ERROR", 410, "Expired")


async def test_a_watch_ends_when_its_time_is_over(client: Client):
    version = client.store.resource_version
    assert await events(client.watch(f"{CONFIGS}?watch=1&timeoutSeconds=1&resourceVersion={version}"), 9) == []


async def test_the_end_of_the_cluster_ends_its_watches():
    async with aiohttp.ClientSession() as session:
        async with DevCluster() as cluster:
            version = cluster.store.resource_version
            stream = Client(cluster, session).watch(f"{CONFIGS}?watch=1&resourceVersion={version}")
            following = asyncio.create_task(events(stream, 9))
            cluster.store.create(kinds.CONFIG_MAP, {"metadata": {"name": "a"}})
            while not cluster.watchers:
                await asyncio.sleep(0)
        assert len(await following) <= 1


async def test_a_watch_of_one_object_sees_no_other(client: Client):
    following = asyncio.create_task(events(client.watch(f"{CONFIGS}/b?watch=1"), 1))
    for name in ("a", "b"):
        await client.ask("POST", CONFIGS, {"metadata": {"name": name}})
    assert named(await following) == [("ADDED", "b")]


# --- forms --------------------------------------------------------------------------------------------------------


async def test_tables_for_lists_objects_and_watches(client: Client):
    await client.ask("POST", PODS, pod())
    _, shown = await client.ask("GET", PODS, **TABLE)
    assert (shown["kind"], [row["cells"][0] for row in shown["rows"]]) == ("Table", ["web"])
    assert shown["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    _, one = await client.ask("GET", f"{PODS}/web?includeObject=Object", **TABLE)
    assert one["rows"][0]["object"]["spec"]["containers"][0]["name"] == "main"
    (event,) = await events(client.watch(f"{PODS}?watch=1", **TABLE), 1)
    assert event["object"]["rows"][0]["cells"][:3] == ["web", "0/1", "Pending"]


async def test_metadata_alone(client: Client):
    await client.ask("POST", PODS, pod())
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    _, shown = await client.ask("GET", PODS, Accept=accept)
    assert shown["kind"] == "PartialObjectMetadataList"
    assert set(shown["items"][0]) == {"kind", "apiVersion", "metadata"}


async def test_discovery_in_both_forms(client: Client):
    _, groups = await client.ask("GET", "/apis")
    assert "resource.k8s.io" in [group["name"] for group in groups["groups"]]
    _, resources = await client.ask("GET", "/apis/resource.k8s.io/v1")
    assert "resourceclaims/status" in [entry["name"] for entry in resources["resources"]]
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    _, core = await client.ask("GET", "/api", Accept=accept)
    assert core["kind"] == "APIGroupDiscoveryList"
    pods = next(entry for entry in core["items"][0]["versions"][0]["resources"] if entry["resource"] == "pods")
    assert {entry["subresource"] for entry in pods["subresources"]} >= {"binding", "eviction", "status", "log"}


async def test_custom_resources_join_discovery_and_openapi(client: Client):
    client.store.create(kinds.CUSTOM_RESOURCE, definition({"size": {"type": "integer", "description": "How big."}}))
    _, resources = await client.ask("GET", "/apis/example.com/v1")
    assert [entry["name"] for entry in resources["resources"]] == ["widgets", "widgets/status"]
    _, index = await client.ask("GET", "/openapi/v3")
    where = index["paths"]["apis/example.com/v1"]["serverRelativeURL"]
    _, document = await client.ask("GET", where)
    (schema,) = document["components"]["schemas"].values()
    assert schema["properties"]["spec"]["properties"]["size"]["description"] == "How big."


async def test_health_and_version(client: Client):
    assert await client.ask("GET", "/readyz") == (200, "ok")
    _, version = await client.ask("GET", "/version")
    assert (version["major"], version["minor"]) == ("1", "36")


async def test_what_a_container_prints(client: Client):
    await client.ask("POST", PODS, pod())
    assert (await client.ask("GET", f"{PODS}/web/log"))[0] == 400
    bound(client.store, "there")
    now = client.store.get(kinds.POD, "default", "there")
    client.store.update(kinds.POD, {**now, "status": {**now["status"], "phase": "Running"}}, subresource="status")
    status, text = await client.ask("GET", f"{PODS}/there/log")
    assert (status, "simulated on node n1" in text) == (200, True)


async def test_a_failing_part_is_not_passed_over():
    class Broken:
        async def run(self, _store: Any) -> None:
            raise RuntimeError("the part broke")

    with pytest.raises(RuntimeError, match="the part broke"):
        async with DevCluster(parts=[Broken()]) as cluster:
            await cluster.wait()
