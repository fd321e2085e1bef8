"""Who binds the backlog: our service, kube-scheduler, or a bare writer that sends the same writes with no thought.

Each is a process of its own that begins when it holds a Lease: it has read the cluster by then, as a stand-by has.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.api import kinds
from scheduler.api.dra import CLAIM_FINALIZER
from scheduler.kube.client import Client
from tests.perf.backlog import CLASS, NAMESPACE, REQUEST
from tests.perf.processes import environment

RETRY_SECONDS = 0.1
"""How often each asks for the Lease: ours looks four times as often as it renews."""
WRITER_CONNECTIONS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """`lease`: namespace and name of the Lease that it waits for."""

    name: str
    scheduler_name: str
    lease: tuple[str, str]

    def command(self, assets: Path, admin: Path, tutti: Path, settings: list[str]) -> list[str]:
        """How to start it. `tutti`: the kubeconfig with our manifest's rights. `settings`: further ones of ours."""
        match self.name:
            case "kube-scheduler":
                return [
                    str(assets / "kube-scheduler"),
                    f"--kubeconfig={admin}",
                    "--kube-api-qps=5000",
                    "--kube-api-burst=10000",
                    "--leader-elect=true",
                    f"--leader-elect-retry-period={RETRY_SECONDS}s",
                    "--secure-port=0",
                ]
            case "tutti":
                set_ = [f"lease_retry_seconds={4 * RETRY_SECONDS}", "web_enabled=false", "log_level=warning", *settings]
                flags = [part for one in set_ for part in ("--set", one)]
                return [sys.executable, "-m", "scheduler", "run", f"--kubeconfig={tutti}", *flags]
            case _:
                return [sys.executable, "-m", "tests.perf.contestants", str(tutti)]

    @contextlib.contextmanager
    def running(self, command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """The process, killed at the end; what it says goes into the log."""
        with log.open("wb") as said:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, env=environment()
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()


TUTTI = Contestant(name="tutti", scheduler_name="tutti", lease=("tutti-system", "tutti-scheduler"))
KUBE_SCHEDULER = Contestant(
    name="kube-scheduler", scheduler_name="default-scheduler", lease=("kube-system", "kube-scheduler")
)
BARE_WRITER = Contestant(name="bare writer", scheduler_name="tutti", lease=TUTTI.lease)
CONTESTANTS = {each.name: each for each in (TUTTI, KUBE_SCHEDULER, BARE_WRITER)}


async def write_bare(kubeconfig: Path) -> None:
    """Pods to nodes in turn, every GPU of a node before the next node: read all, wait for the Lease, write."""
    async with await Client.connect(kubeconfig, connections=WRITER_CONNECTIONS) as client:
        work = await _assigned(client)
        while (await client.get(kinds.LEASE, *BARE_WRITER.lease))["spec"].get("holderIdentity"):
            await asyncio.sleep(RETRY_SECONDS)
        await _take(client)
        turns = asyncio.Semaphore(WRITER_CONNECTIONS)

        async def bind(pod: dict[str, Any], node: str, claim: dict[str, Any] | None, device: dict[str, Any]) -> None:
            async with turns:
                if claim is not None:
                    await _allocate(client, pod, node, claim, device)
                await client.bind(NAMESPACE, pod["metadata"]["name"], pod["metadata"]["uid"], node)

        await asyncio.gather(*(bind(*each) for each in work))
        await asyncio.Event().wait()


Assigned = tuple[dict[str, Any], str, dict[str, Any] | None, dict[str, Any]]


async def _assigned(client: Client) -> list[Assigned]:
    """Each pod, its node, its claim if it has one, and the device for that."""
    pods, claims, slices = [
        sorted((await client.list(kind))[0], key=lambda each: str(each["metadata"]["name"]))
        for kind in (kinds.POD, kinds.RESOURCE_CLAIM, kinds.RESOURCE_SLICE)
    ]
    by_name = {claim["metadata"]["name"]: claim for claim in claims}
    pools = {each["spec"]["nodeName"]: each["spec"] for each in slices if each["spec"]["driver"] == CLASS}
    nodes = sorted(pools)
    found: list[Assigned] = []
    for number, pod in enumerate(pods):
        named = pod["status"].get("resourceClaimStatuses") or []
        # As many on each node as it has GPUs; plain pods go round and round.
        round_, spot = divmod(number, len(nodes)) if not named else divmod(number, 8)[::-1]
        spec = pools[nodes[spot]]
        device = {"driver": CLASS, "pool": spec["pool"]["name"], "device": spec["devices"][round_ % 8]["name"]}
        found.append((pod, nodes[spot], by_name[named[0]["resourceClaimName"]] if named else None, device))
    return found


async def _allocate(
    client: Client, pod: dict[str, Any], node: str, claim: dict[str, Any], device: dict[str, Any]
) -> None:
    """The two writes of a claim: its finalizer, then its status."""
    name = claim["metadata"]["name"]
    held = {**claim, "metadata": {**claim["metadata"], "finalizers": [CLAIM_FINALIZER]}}
    held = await client.replace(kinds.RESOURCE_CLAIM, NAMESPACE, name, held)
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    allocation = {
        "devices": {"results": [{"request": REQUEST, **device}]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]},
    }
    consumer = {"resource": "pods", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
    status = {"allocation": allocation, "reservedFor": [consumer]}
    await client.replace(kinds.RESOURCE_CLAIM, NAMESPACE, name, {**held, "status": status}, "status")


async def _take(client: Client) -> None:
    lease = await client.get(kinds.LEASE, *BARE_WRITER.lease)
    lease["spec"]["holderIdentity"] = BARE_WRITER.name
    await client.replace(kinds.LEASE, *BARE_WRITER.lease, lease)


if __name__ == "__main__":
    asyncio.run(write_bare(Path(sys.argv[1])))
