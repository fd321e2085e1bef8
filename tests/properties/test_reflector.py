"""Whatever breaks on the way, the receiver of a reflector ends up knowing exactly what the server has."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from scheduler.api.kinds import NAMESPACE
from scheduler.devcluster.run import DevCluster, new_store
from scheduler.kube.client import ApiError, Client
from scheduler.kube.identity import Identity
from scheduler.kube.reflector import Change, Reflector, Rhythm
from scheduler.state.cluster import ClusterState

RHYTHM = Rhythm(server=60, silence=5, listing=5, backoff_first=0.01, backoff_most=0.03)


@asynccontextmanager
async def fragile(port: int, cuts: random.Random) -> AsyncIterator[str]:
    """The address of a connection to `port` that breaks after some random number of bytes."""
    open_: set[asyncio.StreamWriter] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, left: int) -> None:
        while left > 0 and (data := await source.read(min(left, 4096))):
            sink.write(data)
            await sink.drain()
            left -= len(data)
        sink.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, onward = await asyncio.open_connection("127.0.0.1", port)
        open_.update((writer, onward))
        lasts = cuts.choice((200, 700, 1500, 4000, 9000))
        await asyncio.gather(pump(reader, onward, 10**9), pump(upstream, writer, lasts), return_exceptions=True)

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in open_:
            writer.close()


async def change_at_random(client: Client, choice: random.Random, times: int) -> None:
    """Create, relabel and delete a few namespaces."""
    for turn in range(times):
        name = f"n{choice.randrange(6)}"
        try:
            match choice.randrange(3):
                case 0:
                    await client.create(NAMESPACE, None, {"metadata": {"name": name, "labels": {"turn": str(turn)}}})
                case 1:
                    await client.patch(NAMESPACE, None, name, {"metadata": {"labels": {"turn": str(turn)}}})
                case _:
                    await client.delete(NAMESPACE, None, name)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
        if turn % 7 == 0:
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("seed", range(6))
async def test_the_receiver_ends_up_with_what_the_server_has(seed: int) -> None:
    choice = random.Random(seed)
    queue: asyncio.Queue[list[Change]] = asyncio.Queue()
    state = ClusterState([NAMESPACE])
    async with (
        DevCluster(store=new_store(window=3), bookmark_seconds=0.01) as cluster,
        Client(Identity(server=cluster.url)) as steady,
        fragile(cluster.port, random.Random(seed)) as address,
        Client(Identity(server=address), attempts=1) as broken,
    ):
        reflector = Reflector(client=broken, kind=NAMESPACE, rhythm=RHYTHM, jitter=random.Random(seed))
        following = asyncio.create_task(reflector.run(queue))
        try:
            await change_at_random(steady, choice, 200)
            items, _ = await steady.list(NAMESPACE)
            wanted = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in items}
            async with asyncio.timeout(20):
                while not state.synced or _known(state) != wanted:
                    state.apply_all(await queue.get())
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    assert _known(state) == wanted


def _known(state: ClusterState) -> dict[str, str]:
    found = ((key, state.change(NAMESPACE, key)) for key in state.keys(NAMESPACE))
    return {key: change.meta.resource_version for key, change in found if change is not None}
