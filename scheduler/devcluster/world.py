"""Controllers and simulated nodes as one part of the embedded cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from scheduler.devcluster.access import Direct
from scheduler.devcluster.clock import Clock, LoopClock
from scheduler.devcluster.control import Controllers
from scheduler.devcluster.kubelet import Habits
from scheduler.devcluster.nodes import SimulatedNodes
from scheduler.devcluster.provisioner import Provisioner
from scheduler.devcluster.shapes import shape_named
from scheduler.devcluster.store import Store


class World:
    """Everything around the API server. `shapes`: units by shape name (`shapes.SHAPES`), made when it starts.

    `ready` is set once they stand. Raises ShapeError for a shape that does not exist.
    """

    def __init__(
        self, shapes: Mapping[str, int] | None = None, *, clock: Clock | None = None, habits: Habits | None = None
    ) -> None:
        self._shapes = [(shape_named(name), count) for name, count in (shapes or {}).items()]
        self._clock = clock or LoopClock()
        self._habits = habits
        self._api: Direct | None = None
        self._controllers: Controllers | None = None
        self._nodes: SimulatedNodes | None = None
        self._provisioner: Provisioner | None = None
        self.ready = asyncio.Event()

    @property
    def nodes(self) -> SimulatedNodes:
        """The simulated nodes; from `ready` on."""
        assert self._nodes is not None, "the world has not begun; await ready"
        return self._nodes

    @property
    def quiet(self) -> bool:
        """True when controllers and kubelets have done all that there is to do before time moves on."""
        if self._api is None or self._controllers is None or self._nodes is None or self._provisioner is None:
            return False
        parts = (self._controllers, self._nodes, self._provisioner)
        return self.ready.is_set() and not self._api.pending and all(part.quiet for part in parts)

    async def run(self, store: Store) -> None:
        """Work on the store until cancelled."""
        self._api = Direct(store)
        self._controllers = Controllers(self._api, self._clock)
        self._nodes = SimulatedNodes(self._api, self._clock, self._habits)
        self._provisioner = Provisioner(self._api)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._controllers.run())
            group.create_task(self._provisioner.run())
            group.create_task(self._nodes.run())
            await self._nodes.add_classes()
            for shape, count in self._shapes:
                await self._nodes.add(shape, count)
            self.ready.set()
