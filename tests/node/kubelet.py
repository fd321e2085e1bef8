"""Plays the kubelet to a DRA driver: finds its sockets, knows it, calls it. Over real sockets, in the kubelet's words.

It follows what the kubelet does: the folder of registration sockets is watched, GetInfo says where the driver serves
and which versions, NotifyRegistrationStatus answers; of the versions the newest that both know is used.
Source: KEP 4381; kubelet plugin registration.
"""

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc.aio

from dra_driver.devices import ClaimRef
from dra_driver.proto import (
    dra_v1_pb2,
    dra_v1_pb2_grpc,
    dra_v1beta1_pb2_grpc,
    health_v1_pb2,
    health_v1_pb2_grpc,
    health_v1alpha1_pb2_grpc,
    registration_v1_pb2,
    registration_v1_pb2_grpc,
)

PATIENCE_SECONDS = 20.0
_LOOK_SECONDS = 0.01
_CALL_SECONDS = 45.0
_CLAIMS: dict[str, ModuleType] = {"v1.DRAPlugin": dra_v1_pb2_grpc, "v1beta1.DRAPlugin": dra_v1beta1_pb2_grpc}
_HEALTH: dict[str, ModuleType] = {
    "v1.DRAResourceHealth": health_v1_pb2_grpc,
    "v1alpha1.DRAResourceHealth": health_v1alpha1_pb2_grpc,
}


class Refused(Exception):
    """What the driver answered for one claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """How a driver has made itself known."""

    kind: str
    name: str
    endpoint: Path
    versions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """A device as the kubelet is told of it."""

    requests: tuple[str, ...]
    pool: str
    device: str
    cdi: tuple[str, ...]
    share: str | None = None


class FakeKubelet:
    """The kubelet of one node, with its folder. `seconds`: how long it waits for an answer."""

    def __init__(self, folder: Path, *, seconds: float = _CALL_SECONDS) -> None:
        self.folder = folder
        self._seconds = seconds
        self.registry.mkdir(parents=True, exist_ok=True)

    @property
    def registry(self) -> Path:
        return self.folder / "plugins_registry"

    def sockets(self) -> list[Path]:
        """The registration sockets there are now."""
        return sorted(path for path in self.registry.iterdir() if stat.S_ISSOCK(path.lstat().st_mode))

    async def register(self, socket: Path | None = None, *, error: str = "") -> "Driver":
        """Find the driver's socket (the only one, if none is named), ask who it is, and tell it that it is registered,
        or why not."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (found := [path for path in self.sockets() if socket in (None, path)]):
                await asyncio.sleep(_LOOK_SECONDS)
        (path,) = found
        async with _channel(path) as channel:
            stub = registration_v1_pb2_grpc.RegistrationStub(channel)
            told = await stub.GetInfo(registration_v1_pb2.InfoRequest(), timeout=PATIENCE_SECONDS, wait_for_ready=True)
            status = registration_v1_pb2.RegistrationStatus(plugin_registered=not error, error=error)
            await stub.NotifyRegistrationStatus(status, timeout=PATIENCE_SECONDS)
        info = Info(
            kind=told.type, name=told.name, endpoint=Path(told.endpoint), versions=tuple(told.supported_versions)
        )
        return Driver(info, seconds=self._seconds)


class Driver:
    """A driver as the kubelet knows it."""

    def __init__(self, info: Info, *, seconds: float = _CALL_SECONDS) -> None:
        self.info = info
        self._seconds = seconds

    async def prepare(self, *claims: ClaimRef, version: str = "") -> dict[str, tuple[Handed, ...] | str]:
        """By uid: the devices, or the driver's error. Raises what gRPC raises for the call as a whole."""
        async with self._claims(version) as stub:
            request = dra_v1_pb2.NodePrepareResourcesRequest(claims=_told(claims))
            answer = await stub.NodePrepareResources(request, timeout=self._seconds)
        return {uid: each.error or tuple(map(_handed, each.devices)) for uid, each in answer.claims.items()}

    async def unprepare(self, *claims: ClaimRef, version: str = "") -> dict[str, str]:
        """By uid: the driver's error, "" for none."""
        async with self._claims(version) as stub:
            request = dra_v1_pb2.NodeUnprepareResourcesRequest(claims=_told(claims))
            answer = await stub.NodeUnprepareResources(request, timeout=self._seconds)
        return {uid: str(each.error) for uid, each in answer.claims.items()}

    async def devices(self, claim: ClaimRef) -> tuple[Handed, ...]:
        """The devices of one claim, prepared. Raises Refused."""
        answer = (await self.prepare(claim))[claim.uid]
        if isinstance(answer, str):
            raise Refused(answer)
        return answer

    async def give_back(self, claim: ClaimRef) -> None:
        """Unprepare one claim. Raises Refused."""
        if error := (await self.unprepare(claim))[claim.uid]:
            raise Refused(error)

    @contextlib.asynccontextmanager
    async def health(self, version: str = "") -> AsyncIterator[AsyncIterator[list[health_v1_pb2.DeviceHealth]]]:
        """The complete lists, as they come."""
        stubs = _HEALTH[version or _newest(self.info.versions, _HEALTH)]
        async with _channel(self.info.endpoint) as channel:
            call = stubs.DRAResourceHealthStub(channel).NodeWatchResources(health_v1_pb2.NodeWatchResourcesRequest())
            try:
                yield _lists(call)
            finally:
                call.cancel()

    @contextlib.asynccontextmanager
    async def _claims(self, version: str) -> AsyncIterator[Any]:
        stubs = _CLAIMS[version or _newest(self.info.versions, _CLAIMS)]
        async with _channel(self.info.endpoint) as channel:
            yield stubs.DRAPluginStub(channel)


async def _lists(call: Any) -> AsyncIterator[list[health_v1_pb2.DeviceHealth]]:
    async for answer in call:
        yield list(answer.devices)


def _newest(offered: Sequence[str], known: dict[str, ModuleType]) -> str:
    return next(version for version in known if version in offered)


def _told(claims: Sequence[ClaimRef]) -> Iterator[dra_v1_pb2.Claim]:
    return (dra_v1_pb2.Claim(namespace=each.namespace, uid=each.uid, name=each.name) for each in claims)


def _handed(device: dra_v1_pb2.Device) -> Handed:
    return Handed(
        requests=tuple(device.request_names),
        pool=device.pool_name,
        device=device.device_name,
        cdi=tuple(device.cdi_device_ids),
        share=device.share_id if device.HasField("share_id") else None,
    )


@contextlib.asynccontextmanager
async def _channel(path: Path) -> AsyncIterator[grpc.aio.Channel]:
    # Each with a connection of its own: gRPC would share one between channels to the same path, also over a restart.
    async with grpc.aio.insecure_channel(f"unix:{path}", options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        yield channel
