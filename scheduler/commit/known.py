"""What the committer must know of the cluster, and where it notes what it has written."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from scheduler.api.changes import Change
from scheduler.api.kinds import Kind
from scheduler.api.meta import Wire


class Known(Protocol):
    """The newest objects with our own writes laid over them (`scheduler.state.cluster.ClusterState`)."""

    def apply(self, change: Change) -> None: ...

    def object(self, kind: Kind, key: str) -> Wire | None: ...

    def objects(self, kind: Kind) -> Iterator[tuple[str, Wire]]: ...

    def raw(self, kind: Kind, key: str) -> bytes | None:
        """The JSON document with all its fields."""
        ...

    def assume_bound(self, pod: str, uid: str, node: str, *, queue: str = "", now_ms: int = 0) -> None: ...

    def assume_extended_claim(self, pod: str, uid: str, claim: str, *, now_ms: int = 0) -> None: ...

    def assume_terminating(self, pod: str, uid: str, *, now_ms: int = 0) -> None: ...

    def forget_pod(self, pod: str) -> None: ...

    def assume_claim(self, document: Mapping[str, Any], *, in_flight: bool = False, now_ms: int = 0) -> None: ...

    def forget_claim(self, claim: str) -> None: ...
