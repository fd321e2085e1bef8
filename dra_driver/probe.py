"""Whether the plugin lives, and whether it is of use: two pages for the kubelet's probes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Check = Callable[[], Awaitable[str]]
"""What is wrong, in words; "" if nothing is."""


class ProbeError(Exception):
    """The probe's address cannot be listened on."""


@asynccontextmanager
async def probed(host: str, port: int, *, lives: Check, ready: Check) -> AsyncIterator[int]:
    """Serve /healthz and /readyz until the block ends; the port that was taken. Raises ProbeError."""
    app = web.Application()
    app.add_routes([web.get("/healthz", _page(lives)), web.get("/readyz", _page(ready))])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host or None, port).start()
        except OSError as error:
            raise ProbeError(
                f"Probe at {host or 'all addresses'}, port {port}: cannot be served: {error.strerror}; set probe_port "
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
