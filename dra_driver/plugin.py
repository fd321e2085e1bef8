"""The gRPC faces to the kubelet: registration, claims (DRAPlugin v1 and v1beta1), health (v1 and v1alpha1).

Only this and what is generated in `proto` knows gRPC. What is served comes from a `Served`; an error of one claim is
told in the answer of that claim, since an error of the call would discard what was done for the others.
Source: reference of the kubelet's protocol: KEP 4381 (DRA), 4680 (health), the kubelet's plugin registration.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog

from dra_driver.devices import ClaimRef, Prepared
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
from dra_driver.sockets import SocketError, Sockets, clear

log = structlog.get_logger(__name__)

PLUGIN_TYPE = "DRAPlugin"
VERSIONS = ("v1.DRAPlugin", "v1beta1.DRAPlugin", "v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth")
"""As the kubelet calls them; the names of the services on the wire are others."""

LONGEST_MESSAGE = 1024
"""Characters of a device's health message that the kubelet takes."""

_MARGIN_SECONDS = 2.0
_LONGEST_CALL_SECONDS = 40.0
"""The kubelet waits about 45 s for an answer."""
_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceHealth:
    """How a device is; `healthy` None where nobody knows. `seen`: when that was found out, in seconds since 1970.
    `lasts_seconds`: told again within, or the kubelet forgets it."""

    pool: str
    device: str
    healthy: bool | None
    seen: int
    lasts_seconds: int
    message: str = ""


class Served(Protocol):
    """What stands behind the faces. Neither of the first two raises for what is wrong with a claim."""

    async def prepare(self, claims: Sequence[ClaimRef], seconds: float) -> Mapping[str, tuple[Prepared, ...] | str]:
        """By uid: the devices of each claim, or in words why there are none. Answers within `seconds`; what takes
        longer goes on, and is told when it is asked again."""

    async def unprepare(self, claims: Sequence[ClaimRef], seconds: float) -> Mapping[str, str]:
        """By uid: why it is not given back, "" if it is. In time, as above."""

    def health(self) -> AsyncIterator[tuple[DeviceHealth, ...]]:
        """All devices at once, and again whenever that changes or is about to be forgotten."""


class Plugin:
    """The two sockets of one instance, and what is served on them.

    `async with plugin:` first the socket for claims, then the one that makes it known; ended the other way round."""

    def __init__(self, served: Served, driver: str, sockets: Sockets) -> None:
        self._served = served
        self._driver = driver
        self._sockets = sockets
        self._open = contextlib.AsyncExitStack()
        self.registered = asyncio.Event()
        """Set while the kubelet knows us, as it has told."""
        self.refused = ""
        """Why it does not, in its words."""

    async def __aenter__(self) -> "Plugin":
        """Raises SocketError."""
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._listening(self._sockets.claims, self._serve_claims))
            await stack.enter_async_context(self._listening(self._sockets.registration, self._serve_registration))
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """No new calls; those under way have a few seconds to end. To stop twice does nothing."""
        await self._open.aclose()
        self.registered.clear()

    @contextlib.asynccontextmanager
    async def _listening(self, path: Path, serve: Any) -> AsyncIterator[None]:
        """A server on this socket, until the block ends."""
        _make_room(path)
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        serve(server)
        try:
            bound = server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise SocketError(f"Socket {path}: cannot be opened: {error}; let the plugin write there.") from None
        if not bound:
            raise SocketError(f"Socket {path}: cannot be opened; let the plugin write there.")
        # The folder is the kubelet's, and root's: this keeps others off where it is not.
        os.chmod(path, 0o600)
        try:
            await server.start()
            yield
        finally:
            # Who looks for sockets must not find one that is about to close.
            _take_away(path)
            await server.stop(_GRACE_SECONDS)

    def _serve_claims(self, server: grpc.aio.Server) -> None:
        claims, health = _Claims(self._served), _Health(self._served)
        dra_v1_pb2_grpc.add_DRAPluginServicer_to_server(claims, server)
        dra_v1beta1_pb2_grpc.add_DRAPluginServicer_to_server(claims, server)
        health_v1_pb2_grpc.add_DRAResourceHealthServicer_to_server(health, server)
        health_v1alpha1_pb2_grpc.add_DRAResourceHealthServicer_to_server(health, server)

    def _serve_registration(self, server: grpc.aio.Server) -> None:
        registration_v1_pb2_grpc.add_RegistrationServicer_to_server(_Registration(self), server)

    def info(self) -> registration_v1_pb2.PluginInfo:
        """How we make ourselves known."""
        return registration_v1_pb2.PluginInfo(
            type=PLUGIN_TYPE,
            name=self._driver,
            endpoint=str(self._sockets.claims),
            supported_versions=VERSIONS,
        )


class _Registration:
    """`pluginregistration.Registration`."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    async def GetInfo(self, request: registration_v1_pb2.InfoRequest, context: Any) -> registration_v1_pb2.PluginInfo:
        del request, context
        return self._plugin.info()

    async def NotifyRegistrationStatus(
        self, request: registration_v1_pb2.RegistrationStatus, context: Any
    ) -> registration_v1_pb2.RegistrationStatusResponse:
        del context
        if request.plugin_registered:
            self._plugin.refused = ""
            self._plugin.registered.set()
            log.info("registered with the kubelet")
        else:
            self._plugin.refused = request.error or "it gives no reason"
            self._plugin.registered.clear()
            log.error("the kubelet does not register the plugin", cause=self._plugin.refused)
        return registration_v1_pb2.RegistrationStatusResponse()


class _Claims:
    """`DRAPlugin`, of both versions: their messages are alike on the wire."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def NodePrepareResources(
        self, request: dra_v1_pb2.NodePrepareResourcesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> dra_v1_pb2.NodePrepareResourcesResponse:
        claims = _claims(request.claims)
        done = await self._served.prepare(claims, _seconds(context))
        answers = {claim.uid: _prepared(done.get(claim.uid, _UNANSWERED)) for claim in claims}
        return dra_v1_pb2.NodePrepareResourcesResponse(claims=answers)

    async def NodeUnprepareResources(
        self, request: dra_v1_pb2.NodeUnprepareResourcesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> dra_v1_pb2.NodeUnprepareResourcesResponse:
        claims = _claims(request.claims)
        done = await self._served.unprepare(claims, _seconds(context))
        answers = {
            claim.uid: dra_v1_pb2.NodeUnprepareResourceResponse(error=done.get(claim.uid, _UNANSWERED))
            for claim in claims
        }
        return dra_v1_pb2.NodeUnprepareResourcesResponse(claims=answers)


class _Health:
    """`DRAResourceHealth`, of both versions."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def NodeWatchResources(
        self, request: health_v1_pb2.NodeWatchResourcesRequest, context: Any
    ) -> AsyncIterator[health_v1_pb2.NodeWatchResourcesResponse]:
        del request, context
        async for devices in self._served.health():
            yield health_v1_pb2.NodeWatchResourcesResponse(devices=[_health(device) for device in devices])


_UNANSWERED = "The plugin has no answer for this claim, which is a defect of it; the call is repeated."


def _claims(told: Iterable[dra_v1_pb2.Claim]) -> list[ClaimRef]:
    """Each once, by uid."""
    found = {each.uid: ClaimRef(namespace=each.namespace, name=each.name, uid=each.uid) for each in told}
    return list(found.values())


def _seconds(context: "grpc.aio.ServicerContext[Any, Any]") -> float:
    """How long an answer may take, so that it still arrives."""
    remaining = context.time_remaining()
    if remaining is None:
        return _LONGEST_CALL_SECONDS
    return max(0.0, min(_LONGEST_CALL_SECONDS, remaining - min(_MARGIN_SECONDS, remaining / 4)))


def _prepared(answer: "tuple[Prepared, ...] | str") -> dra_v1_pb2.NodePrepareResourceResponse:
    if isinstance(answer, str):
        return dra_v1_pb2.NodePrepareResourceResponse(error=answer)
    return dra_v1_pb2.NodePrepareResourceResponse(devices=[_device(device) for device in answer])


def _device(prepared: Prepared) -> dra_v1_pb2.Device:
    grant = prepared.grant
    return dra_v1_pb2.Device(
        request_names=grant.requests,
        pool_name=grant.pool,
        device_name=grant.device,
        cdi_device_ids=prepared.cdi,
        share_id=grant.share_id or None,
    )


def _health(device: DeviceHealth) -> health_v1_pb2.DeviceHealth:
    status = {None: health_v1_pb2.UNKNOWN, True: health_v1_pb2.HEALTHY, False: health_v1_pb2.UNHEALTHY}
    return health_v1_pb2.DeviceHealth(
        device=health_v1_pb2.DeviceIdentifier(pool_name=device.pool, device_name=device.device),
        health=status[device.healthy],
        last_updated_time=device.seen,
        health_check_timeout_seconds=device.lasts_seconds,
        message=device.message[:LONGEST_MESSAGE],
    )


def _make_room(path: Path) -> None:
    """The socket's folder, and no older socket in its place. Raises SocketError."""
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        cure = "mount it writable" if error.errno == errno.EROFS else "let the plugin write there"
        raise SocketError(f"Folder {path.parent}: cannot be made: {error.strerror}; {cure}.") from None
    if clear(path):
        log.info("a socket that an earlier run has left is removed", path=str(path))


def _take_away(path: Path) -> None:
    path.unlink(missing_ok=True)
