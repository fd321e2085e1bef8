"""Pages over HTTP: whether the plugin lives and is of use, for the kubelet's probes; its metrics, for Prometheus."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Check = Callable[[], Awaitable[str]]
"""What is wrong, in words; "" if nothing is."""


class ProbeError(Exception):
    """An address cannot be listened on."""


@asynccontextmanager
async def probed(host: str, port: int, *, lives: Check, ready: Check) -> AsyncIterator[int]:
    """Serve /healthz and /readyz until the block ends; the port that was taken. Raises ProbeError."""
    routes = [web.get("/healthz", _page(lives)), web.get("/readyz", _page(ready))]
    async with _served(host, port, routes, what="Probe", setting="probe_port") as taken:
        yield taken


@asynccontextmanager
async def exposed(host: str, port: int, content_type: str, body: Callable[[], Awaitable[bytes]]) -> AsyncIterator[int]:
    """Serve /metrics likewise."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(body=await body(), headers={"Content-Type": content_type})

    async with _served(host, port, [web.get("/metrics", page)], what="Metrics", setting="metrics_port") as taken:
        yield taken


@asynccontextmanager
async def _served(host: str, port: int, routes: list[web.RouteDef], *, what: str, setting: str) -> AsyncIterator[int]:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host or None, port).start()
        except OSError as error:
            raise ProbeError(
                f"{what} at {host or 'all addresses'}, port {port}: cannot be served: {error.strerror}; set {setting} "
                "to a free port (0 takes any), or leave it out."
            ) from None
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _page(check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def page(_: web.Request) -> web.Response:
        problem = await check()
        return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")

    return page
