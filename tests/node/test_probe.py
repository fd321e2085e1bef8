"""The pages for the kubelet's probes."""

import aiohttp
import pytest

from dra_driver.probe import ProbeError, probed

LOOPBACK = "127.0.0.1"


async def page(port: int, name: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{LOOPBACK}:{port}/{name}") as answer:
        return answer.status, await answer.text()


async def test_a_probe_says_what_is_wrong():
    problems = {"lives": "", "ready": "not registered yet"}

    async def lives() -> str:
        return problems["lives"]

    async def ready() -> str:
        return problems["ready"]

    async with probed(LOOPBACK, 0, lives=lives, ready=ready) as port:
        assert await page(port, "healthz") == (200, "ok\n")
        assert await page(port, "readyz") == (503, "not registered yet\n")
        problems.update(lives="a socket is gone", ready="")
        assert await page(port, "healthz") == (503, "a socket is gone\n")
        assert await page(port, "readyz") == (200, "ok\n")
        assert (await page(port, "metrics"))[0] == 404

        with pytest.raises(ProbeError, match=rf"port {port}: cannot be served: .*; set probe_port to a free port"):
            async with probed(LOOPBACK, port, lives=lives, ready=ready):
                pass
