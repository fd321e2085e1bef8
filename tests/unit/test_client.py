"""The client against a scripted API server: what is retried, what is not, and how failures read."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import certifi
import pytest
import yaml
from kubernetes.aio.config import incluster_config

from scheduler.api.kinds import NODE, POD, POD_GROUP, RESOURCE_CLAIM
from scheduler.kube.client import ApiError, Client
from scheduler.kube.identity import Identity, IdentityError, load
from tests.fake_api import FakeApi, answer, failure, hang_up, stream
from tests.manifests import node, pod

PODS = "/api/v1/pods"
ONE = "/api/v1/namespaces/a/pods/p"


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi() as server:
        yield server


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[Client]:
    async with Client(Identity(server=api.url), timeout_seconds=5) as session:
        yield session


async def test_an_object_is_read_from_its_url(api: FakeApi, client: Client) -> None:
    api.script("GET", ONE, answer(pod("p")))
    assert (await client.get(POD, "a", "p"))["metadata"]["name"] == "p"


async def test_a_missing_object_is_an_error_that_says_so(client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        await client.get(POD, "a", "p")
    assert caught.value.not_found
    assert f"GET {ONE}: 404 NotFound" in str(caught.value)


async def test_the_time_is_the_servers_whatever_this_machine_thinks(
    api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.script("GET", ONE, answer(pod("p")))
    monkeypatch.setattr("scheduler.kube.clock.time.time_ns", lambda: 0)
    assert client.clock.now_ms() == 0, "nobody has told it anything else yet"
    await client.get(POD, "a", "p")
    assert abs(client.clock.now_ms() - time.time() * 1000) < 1_500


async def test_a_watch_tells_the_time_too(api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    api.script("GET", PODS, stream())
    monkeypatch.setattr("scheduler.kube.clock.time.time_ns", lambda: 0)
    async with client.watch(POD, {}, silence_seconds=5):
        assert abs(client.clock.now_ms() - time.time() * 1000) < 1_500


async def test_a_list_is_read_page_by_page(api: FakeApi, client: Client) -> None:
    first = {"metadata": {"resourceVersion": "9", "continue": "more"}, "items": [pod("p1")]}
    last = {"metadata": {"resourceVersion": "9"}, "items": [pod("p2")]}
    api.script("GET", PODS, answer(first), answer(last))
    items, version = await client.list(POD, label_selector="app=x")
    assert [item["metadata"]["name"] for item in items] == ["p1", "p2"]
    assert version == "9"
    assert api.queries(PODS) == [
        {"labelSelector": "app=x", "limit": "500"},
        {"labelSelector": "app=x", "limit": "500", "continue": "more"},
    ]


async def test_a_list_whose_next_page_has_expired_is_read_again_in_one_piece(api: FakeApi, client: Client) -> None:
    first = {"metadata": {"resourceVersion": "9", "continue": "more"}, "items": [pod("old")]}
    whole = {"metadata": {"resourceVersion": "12"}, "items": [pod("p1"), pod("p2")]}
    api.script("GET", PODS, answer(first), failure(410, "Expired"), answer(whole))
    items, version = await client.list(POD)
    assert [item["metadata"]["name"] for item in items] == ["p1", "p2"]
    assert version == "12"


@pytest.mark.parametrize("reply", [failure(503, "ServiceUnavailable"), failure(500, "InternalError"), hang_up()])
async def test_a_read_is_tried_again_after_a_passing_failure(api: FakeApi, client: Client, reply: object) -> None:
    api.script("GET", ONE, reply, answer(pod("p")))  # type: ignore[arg-type]
    assert (await client.get(POD, "a", "p"))["metadata"]["name"] == "p"
    assert len(api.asked) == 2


async def test_a_read_gives_up_after_some_tries(api: FakeApi) -> None:
    api.script("GET", ONE, failure(503, "ServiceUnavailable"))
    async with Client(Identity(server=api.url), attempts=2) as client:
        with pytest.raises(ApiError) as caught:
            await client.get(POD, "a", "p")
    assert caught.value.status == 503
    assert len(api.asked) == 2


async def test_every_refused_request_is_told_to_whoever_counts_them(api: FakeApi, client: Client) -> None:
    told: list[tuple[str, str]] = []
    client.on_error = lambda method, error: told.append((method, error.reason))
    api.script("GET", ONE, failure(503, "ServiceUnavailable"), answer(pod("p")))
    await client.get(POD, "a", "p")
    assert told == [("GET", "ServiceUnavailable")]


async def test_an_answer_nested_too_deeply_is_the_clusters_error(api: FakeApi, client: Client) -> None:
    api.script("GET", ONE, stream('{"metadata":' + "[" * 5000 + "]" * 5000 + "}"))
    with pytest.raises(ApiError, match="cannot be read") as caught:
        await client.get(POD, "a", "p")
    assert caught.value.reason == "Unreadable"


async def test_a_busy_server_is_obeyed_and_asked_again(api: FakeApi, client: Client) -> None:
    api.script("POST", "/api/v1/nodes", failure(429, "TooManyRequests", Retry_After="0"), answer(node("n"), 201))
    await client.create(NODE, None, node("n"))
    assert len(api.asked) == 2


async def test_a_write_whose_outcome_is_unknown_is_not_sent_twice(api: FakeApi, client: Client) -> None:
    api.script("POST", f"{ONE}/binding", hang_up(), answer({"kind": "Status"}, 201))
    with pytest.raises(ApiError) as caught:
        await client.bind("a", "p", "u1", "n1")
    assert caught.value.unanswered
    assert len(api.asked) == 1


async def test_a_server_that_cannot_be_reached_is_named_with_a_cure() -> None:
    async with Client(Identity(server="http://127.0.0.1:1"), attempts=1) as client:
        with pytest.raises(ApiError) as caught:
            await client.get(POD, "a", "p")
    assert caught.value.reason == "Unreachable"
    assert "check that the API server runs" in str(caught.value)


async def test_conflict_and_existing_object_are_told_apart(api: FakeApi, client: Client) -> None:
    api.script("POST", "/api/v1/nodes", failure(409, "AlreadyExists"))
    api.script("PUT", ONE, failure(409, "Conflict"))
    with pytest.raises(ApiError) as there:
        await client.create(NODE, None, node("n"))
    with pytest.raises(ApiError) as changed:
        await client.replace(POD, "a", "p", pod("p"))
    assert (there.value.already_exists, there.value.conflict) == (True, False)
    assert (changed.value.already_exists, changed.value.conflict) == (False, True)


async def test_a_binding_names_the_pod_by_uid_and_the_node(api: FakeApi, client: Client) -> None:
    api.script("POST", f"{ONE}/binding", answer({"kind": "Status"}, 201))
    await client.bind("a", "p", "u1", "n1")
    body = api.asked[0].body
    assert body["metadata"] == {"name": "p", "namespace": "a", "uid": "u1"}
    assert body["target"]["name"] == "n1"


async def test_a_binding_may_carry_annotations_for_the_pod(api: FakeApi, client: Client) -> None:
    api.script("POST", f"{ONE}/binding", answer({}))
    await client.bind("a", "p", "u1", "n1", annotations={"x": "y"})
    assert api.asked[0].body["metadata"] == {"name": "p", "namespace": "a", "uid": "u1", "annotations": {"x": "y"}}


async def test_an_eviction_that_a_budget_forbids_is_not_repeated(api: FakeApi, client: Client) -> None:
    refusal = failure(429, "TooManyRequests", "budget", {"causes": [{"reason": "DisruptionBudget"}]}, Retry_After="10")
    api.script("POST", f"{ONE}/eviction", refusal)
    with pytest.raises(ApiError) as caught:
        await client.evict("a", "p", uid="u1", grace_seconds=5)
    assert caught.value.too_many_requests
    assert caught.value.retry_after == 10
    assert len(api.asked) == 1
    assert api.asked[0].body["deleteOptions"] == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": "u1"},
        "gracePeriodSeconds": 5,
    }


@pytest.mark.parametrize(
    ("how", "content"),
    [("merge", "merge-patch"), ("strategic", "strategic-merge-patch"), ("json", "json-patch")],
)
async def test_each_kind_of_patch_says_what_it_is(api: FakeApi, client: Client, how: str, content: str) -> None:
    path = "/apis/resource.k8s.io/v1/namespaces/a/resourceclaims/c/status"
    api.script("PATCH", path, answer({"metadata": {"name": "c"}}))
    await client.patch(RESOURCE_CLAIM, "a", "c", {"status": {}}, subresource="status", how=how)  # type: ignore[arg-type]
    assert api.asked[0].headers["Content-Type"] == f"application/{content}+json"


async def test_what_is_served_leaves_out_groups_that_do_not_answer(api: FakeApi, client: Client) -> None:
    api.script("GET", "/api", answer({"versions": ["v1"]}))
    groups = [
        {"name": "tutti.scheduler", "versions": [{"version": "v1alpha1", "groupVersion": "tutti.scheduler/v1alpha1"}]},
        {"name": "metrics.k8s.io", "versions": [{"version": "v1beta1", "groupVersion": "metrics.k8s.io/v1beta1"}]},
    ]
    api.script("GET", "/apis", answer({"groups": groups}))
    api.script("GET", "/api/v1", answer({"resources": [{"name": "pods"}, {"name": "pods/binding"}]}))
    api.script("GET", "/apis/tutti.scheduler/v1alpha1", answer({"resources": [{"name": "podgroups"}]}))
    assert await client.served() == {("", "v1", "pods"), (POD_GROUP.group, POD_GROUP.version, POD_GROUP.plural)}


async def test_an_answer_that_is_no_kubernetes_document_is_an_api_error(api: FakeApi, client: Client) -> None:
    api.script("GET", ONE, answer("<html>login</html>"))
    with pytest.raises(ApiError) as caught:
        await client.get(POD, "a", "p")
    assert caught.value.reason == "Unreadable"


async def test_no_more_requests_are_under_way_than_connections(api: FakeApi) -> None:
    under_way = most = 0

    async def slow(_: object) -> object:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return await answer(pod("p"))(_)  # type: ignore[arg-type]

    api.script("GET", ONE, slow)  # type: ignore[arg-type]
    async with Client(Identity(server=api.url), connections=3) as client:
        await asyncio.gather(*(client.get(POD, "a", "p") for _ in range(12)))
    assert most == 3


async def test_a_refused_token_is_read_again_once(api: FakeApi, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    kubeconfig = _kubeconfig(tmp_path, api.url, {"tokenFile": str(token)})
    api.script("GET", ONE, failure(401, "Unauthorized"), answer(pod("p")))
    async with await Client.connect(kubeconfig) as client:
        token.write_text("new")
        await client.get(POD, "a", "p")
    assert [each.headers.get("Authorization") for each in api.asked] == ["Bearer old", "Bearer new"]


async def test_in_a_pod_its_service_account_is_used_and_a_rotated_token_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", certifi.where())
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    identity = await load()
    assert identity.server == "https://10.0.0.1:443"
    assert identity.tls is not None
    assert await identity.headers() == {"Authorization": "Bearer first"}
    token.write_text("second\n")
    assert await identity.headers() == {"Authorization": "Bearer first"}
    identity.clock = lambda: time.monotonic() + 61
    assert await identity.headers() == {"Authorization": "Bearer second"}


async def test_a_kubeconfig_that_is_not_there_is_the_operators_error(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"--kubeconfig"):
        await load(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["", "{", "[]", "just words", "apiVersion: v1\nclusters: [3]\n", "clusters: {a: ["])
async def test_a_kubeconfig_cut_short_is_the_operators_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(IdentityError, match=r"--kubeconfig"):
        await load(path)


@pytest.mark.parametrize("meanwhile", [None, "", "clusters: {a: ["], ids=["gone", "empty", "cut short"])
async def test_a_kubeconfig_unreadable_for_a_moment_leaves_the_old_token_in_use(
    tmp_path: Path, meanwhile: str | None
) -> None:
    path = _kubeconfig(tmp_path, "http://127.0.0.1:1", {"token": "first"})
    identity = await load(path)
    now = time.monotonic()
    identity.clock = lambda: now
    if meanwhile is None:
        path.unlink()
    else:
        path.write_text(meanwhile)
    now += 61
    assert await identity.headers() == {"Authorization": "Bearer first"}
    assert not await identity.renew()
    _kubeconfig(tmp_path, "http://127.0.0.1:1", {"token": "second"})
    now += 6
    assert await identity.headers() == {"Authorization": "Bearer second"}


async def test_a_refused_token_that_cannot_be_read_again_is_the_clusters_error(api: FakeApi, tmp_path: Path) -> None:
    api.script("GET", ONE, failure(401, "Unauthorized"))
    path = _kubeconfig(tmp_path, api.url, {"token": "first"})
    async with Client(await load(path)) as client:
        path.unlink()
        with pytest.raises(ApiError) as caught:
            await client.get(POD, "a", "p")
    assert caught.value.status == 401


async def test_requests_refused_together_read_the_credentials_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = await load(_kubeconfig(tmp_path, "http://127.0.0.1:1", {"token": "first"}))
    read: list[str] = []

    async def slowly(*_: object) -> Identity:
        read.append("once")
        await asyncio.sleep(0)
        return Identity(server="http://127.0.0.1:1", token="Bearer second")

    monkeypatch.setattr("scheduler.kube.identity.load", slowly)
    assert all(await asyncio.gather(identity.renew(), identity.renew(), identity.renew()))
    assert read == ["once"]
    assert identity.token == "Bearer second"


async def test_a_context_that_is_not_there_is_named(tmp_path: Path) -> None:
    kubeconfig = _kubeconfig(tmp_path, "http://127.0.0.1:1", {})
    with pytest.raises(IdentityError, match="context other"):
        await load(kubeconfig, "other")


def _kubeconfig(folder: Path, server: str, user: dict[str, str]) -> Path:
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "main",
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "main", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )
    return path
