"""One write, tried until it is through: what is worth another try, and how long to wait before it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from scheduler.kube.client import ApiError

T = TypeVar("T")

_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_BACKOFF_SECONDS = 5.0


class WriteRefused(Exception):
    """A write that will not get through: the object, and why in a few words. `unanswered`: it may be stored even so.
    `elsewhere`: what was in the way is avoided from now on, so the next try is another one."""

    def __init__(self, object: str, problem: str, *, unanswered: bool = False, elsewhere: bool = False) -> None:
        super().__init__(f"{object} {problem}")
        self.object = object
        self.problem = problem
        self.unanswered = unanswered
        self.elsewhere = elsewhere


class NotLeading(Exception):
    """Another replica leads now: nothing more is written, also nothing taken back. It finishes or clears all this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a commit tries. `binding_conditions_seconds` counts from the allocation (KEP 5007: 600),
    `volume_binding_seconds` from the moment when all claims of the gang are written."""

    attempts: int = 6
    backoff_seconds: float = 0.1
    binding_conditions_seconds: float = 600.0
    volume_binding_seconds: float = 600.0


def transient(error: ApiError) -> bool:
    """Whether the same request may succeed later; it may even have succeeded already (a lost answer)."""
    return error.status < 400 or error.status in _TRANSIENT


async def persist(
    object: str, patience: Patience, may_write: Callable[[], bool], step: Callable[[int], Awaitable[T]]
) -> T:
    """Run `step(attempt)` until it succeeds. It must look at the object again when `attempt` is not 0.

    Raises WriteRefused for an answer that another try cannot change, or when the tries are used up; NotLeading."""
    problem = ""
    for attempt in range(patience.attempts):
        if not may_write():
            raise NotLeading
        try:
            return await step(attempt)
        except ApiError as error:
            if not (error.conflict or transient(error)):
                raise WriteRefused(object, f"was refused: {error.message}") from error
            problem = error.message
            await asyncio.sleep(_pause(error, attempt, patience))
    raise WriteRefused(object, f"could not be written in {patience.attempts} tries: {problem}", unanswered=True)


def _pause(error: ApiError, attempt: int, patience: Patience) -> float:
    if error.conflict and attempt == 0:
        return 0.0
    backoff = min(patience.backoff_seconds * 2.0 ** min(attempt, 30), _LONGEST_BACKOFF_SECONDS)
    return max(backoff, float(error.retry_after or 0.0))
