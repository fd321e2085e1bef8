"""Claims are written back as they came: an API server that compares bytes has nothing to refuse."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from aiohttp import web

from scheduler.api import changes, kinds
from scheduler.api.dra import AllocationResult, DeviceAllocationResult, DeviceRequestAllocationResult
from scheduler.commit.attempts import Patience, WriteRefused
from scheduler.commit.claims import Claims
from scheduler.commit.slots import Slots
from scheduler.commit.writes import ClaimWrite, Consumer
from scheduler.kube.client import Client
from scheduler.kube.identity import Identity
from scheduler.state.cluster import ClusterState
from tests.fake_api import FakeApi, failure

URL = "/apis/resource.k8s.io/v1/namespaces/a/resourceclaims/c"
# Numbers and texts that another encoder would write differently, and a field of a version after ours.
SPEC = (
    b'{"devices":{"requests":[{"name":"gpu","exactly":{"deviceClassName":"gpu.example","later":[1e3]}}],'
    b'"config":[{"opaque":{"driver":"d","parameters":{"a":1e3,"b":1.10,"c":123456789012345678901234567890,'
    b'"d":"\\u003cx"}}}]}}'
)
REPORTED = b'[{"driver":"gpu.example","pool":"n1","device":"gpu-0","data":{"lanes":1e3},"conditions":{"later":true}}]'
GIVEN = AllocationResult(
    devices=DeviceAllocationResult(
        results=(DeviceRequestAllocationResult(request="gpu", driver="gpu.example", pool="n1", device="gpu-0"),)
    )
)
FIRST, SECOND = Consumer(pod="a/p", uid="u-p"), Consumer(pod="a/q", uid="u-q")

_parts = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass
class OneClaim:
    """A server with one claim. Like the real one it takes the spec for changed if a byte of it is."""

    spec: bytes = SPEC
    status: bytes = b"{}"
    metadata: dict[str, Any] = field(
        default_factory=lambda: {"name": "c", "namespace": "a", "uid": "u", "resourceVersion": "1"}
    )

    @property
    def document(self) -> bytes:
        parts = {"metadata": self.metadata, "spec": msgspec.Raw(self.spec), "status": msgspec.Raw(self.status)}
        return msgspec.json.encode({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", **parts})

    @property
    def status_parts(self) -> Mapping[str, bytes]:
        return {name: bytes(part) for name, part in _parts.decode(self.status).items()}

    async def get(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self.document)

    async def put(self, request: web.Request) -> web.StreamResponse:
        body = _parts.decode(await request.read())
        if bytes(body["spec"]) != self.spec:
            return await failure(422, "Invalid", "spec: field is immutable")(request)
        if request.path.endswith("/status"):
            self.status = bytes(body["status"])
        else:
            self.metadata["finalizers"] = msgspec.json.decode(body["metadata"])["finalizers"]
        self.metadata["resourceVersion"] = str(int(self.metadata["resourceVersion"]) + 1)
        return web.Response(body=self.document)


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi() as server:
        yield server


@pytest.fixture
async def claims(api: FakeApi) -> AsyncIterator[Claims]:
    async with Client(Identity(server=api.url), timeout_seconds=5) as client:
        yield Claims(
            client,
            ClusterState(),
            Slots(4),
            patience=Patience(attempts=2, backoff_seconds=0.001),
            may_write=lambda: True,
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        )


def serve(api: FakeApi, claim: OneClaim) -> None:
    api.script("GET", URL, claim.get)
    api.script("PUT", URL, claim.put)
    api.script("PUT", f"{URL}/status", claim.put)


def write(*consumers: Consumer, first: bool = True) -> ClaimWrite:
    return ClaimWrite(claim="a/c", uid="u", allocation=GIVEN, consumers=consumers, first=first)


async def test_the_spec_goes_back_byte_for_byte(api: FakeApi, claims: Claims) -> None:
    claim = OneClaim()
    serve(api, claim)
    await claims.secure(write(FIRST))
    assert claim.metadata["finalizers"] == ["resource.kubernetes.io/delete-protection"]
    assert b'"device":"gpu-0"' in claim.status_parts["allocation"]
    assert claim.status_parts["reservedFor"] == b'[{"resource":"pods","name":"p","uid":"u-p"}]'


async def test_what_drivers_and_later_versions_say_in_the_status_stays_as_it_is(api: FakeApi, claims: Claims) -> None:
    allocation = msgspec.json.encode(GIVEN)[:-1] + b',"later":1e3}'
    claim = OneClaim(status=b'{"allocation":' + allocation + b',"devices":' + REPORTED + b',"later":[1.10]}')
    serve(api, claim)

    await claims.secure(write(FIRST, SECOND, first=False))
    await claims.release("a/c", "u", {"u-p"})

    kept = claim.status_parts
    assert (kept["allocation"], kept["devices"], kept["later"]) == (allocation, REPORTED, b"[1.10]")
    assert kept["reservedFor"] == b'[{"resource":"pods","name":"q","uid":"u-q"}]'

    await claims.release("a/c", "u", {"u-q"})
    assert claim.status_parts == {"later": b"[1.10]"}


async def test_the_document_that_the_watch_told_is_written_back_as_it_came(api: FakeApi) -> None:
    claim = OneClaim()
    claim.metadata["managedFields"] = [{"manager": "kubectl"}]
    serve(api, claim)
    state = ClusterState()
    told = changes.read(kinds.RESOURCE_CLAIM, claim.document)
    assert told is not None
    state.apply(told)
    async with Client(Identity(server=api.url), timeout_seconds=5) as client:
        claims = Claims(
            client, state, Slots(4), patience=Patience(), may_write=lambda: True, now=lambda: datetime.now(UTC)
        )
        claims.intend(write(FIRST))
        await claims.secure(write(FIRST))
    assert [asked.method for asked in api.asked] == ["PUT", "PUT"]
    seen = state.object(kinds.RESOURCE_CLAIM, "a/c")
    assert seen.status.allocation.devices == GIVEN.devices


NESTED = b'[{"driver":"d","pool":"p","device":"x","data":' + b"[" * 3000 + b"]" * 3000 + b"}]"


@pytest.mark.parametrize(
    ("claim", "problem"),
    [
        (OneClaim(status=b'{"devices":' + NESTED + b"}"), "is nested too deeply to be written back"),
        (OneClaim(spec=b'{"devices":{"config":' + NESTED + b"}}"), "is nested too deeply to be written back"),
        (OneClaim(status=b'{"reservedFor":7}'), "cannot be read"),
        (OneClaim(status=b'{"allocation":[]}'), "cannot be read"),
        (OneClaim(status=b"{"), "cannot be read"),
    ],
    ids=["deep status", "deep spec", "reservations", "allocation", "no JSON"],
)
async def test_a_claim_that_cannot_be_written_back_is_refused_and_left_alone(
    api: FakeApi, claims: Claims, claim: OneClaim, problem: str
) -> None:
    serve(api, claim)
    for step in (claims.secure(write(FIRST)), claims.release("a/c", "u", {"u-p"})):
        with pytest.raises(WriteRefused, match=f"ResourceClaim a/c {problem}"):
            await step
    assert {asked.method for asked in api.asked} == {"GET"}


async def test_a_claim_known_only_in_part_is_not_written_from_that_part(api: FakeApi) -> None:
    claim = OneClaim(spec=b'{"devices":{"config":' + NESTED + b"}}")
    serve(api, claim)
    state = ClusterState()
    told = changes.read(kinds.RESOURCE_CLAIM, claim.document)
    assert told is not None
    assert told.problem is not None
    state.apply(told)
    async with Client(Identity(server=api.url), timeout_seconds=5) as client:
        claims = Claims(
            client, state, Slots(4), patience=Patience(), may_write=lambda: True, now=lambda: datetime.now(UTC)
        )
        claims.intend(write(FIRST))
        with pytest.raises(WriteRefused, match="nested too deeply"):
            await claims.secure(write(FIRST))
    assert [asked.method for asked in api.asked] == ["GET"]


async def test_a_claim_is_reserved_for_256_pods_and_no_more(api: FakeApi, claims: Claims) -> None:
    others = b",".join(b'{"resource":"pods","name":"o%d","uid":"u-o%d"}' % (n, n) for n in range(255))
    claim = OneClaim(status=b'{"allocation":' + msgspec.json.encode(GIVEN) + b',"reservedFor":[' + others + b"]}")
    serve(api, claim)
    before = claim.status
    with pytest.raises(WriteRefused, match="is reserved for 255 pods, 256 at most"):
        await claims.secure(write(FIRST, SECOND, first=False))
    assert claim.status == before
    await claims.secure(write(FIRST, first=False))
    assert claim.status_parts["reservedFor"].count(b"uid") == 256


async def test_who_joins_a_claim_does_not_allocate_it(api: FakeApi, claims: Claims) -> None:
    """The devices were another gang's to choose. Since the plan they may have been given away."""
    claim = OneClaim()
    serve(api, claim)
    with pytest.raises(WriteRefused, match="lost the allocation that its pods were to share"):
        await claims.secure(write(FIRST, first=False))
    assert claim.status == b"{}"
