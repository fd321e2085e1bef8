"""An API server on a bad day, from one number: errors, delays, lost answers, broken and stale watches, rival writers.

What becomes of a request is drawn from the seed and the request itself (what it is, and the how-manieth of its kind),
not from the moment at which it comes: a run can be repeated although no two runs are timed alike. The weather changes
every few seconds; in a calm hour nothing happens, in a storm one request in five suffers.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from tests.proxy import (
    Around,
    Cut,
    LoseAnswer,
    LoseRequest,
    Meddling,
    Read,
    ReadMeddling,
    Refuse,
    Spoil,
    Write,
)

Trouble = TypeVar("Trouble")

WEATHER_SECONDS = 4.0
_GONE = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
_ERRORS = (
    Refuse(409, "Conflict"),
    Refuse(429, "TooManyRequests"),
    Refuse(500, "InternalError"),
    Refuse(503, "ServiceUnavailable"),
    Refuse(504, "Timeout"),
)


class Weather(Enum):
    """What kind of trouble there is for a while."""

    CALM = "calm"
    GUSTY = "gusty"
    """One request in 30, one watch event in 200."""
    STORM = "storm"
    """One request in 5, one watch event in 30."""
    SLOW_STORE = "slow store"
    """Every write takes up to a second."""
    DARK = "dark"
    """The server answers nothing."""
    LEASELESS = "leaseless"
    """The lease can be neither read nor written: whoever leads has to stop."""


_CHANCE = {Weather.GUSTY: (1 / 30, 1 / 200), Weather.STORM: (1 / 5, 1 / 30)}
_SEQUENCE = [Weather.CALM] * 4 + [Weather.GUSTY] * 4 + [Weather.STORM] * 3 + [Weather.SLOW_STORE] * 2
_SEQUENCE += [Weather.DARK, Weather.LEASELESS]


@dataclass
class Faults:
    """`meddle` and `meddle_read` of a `Proxy`. `rival` writes to the object of a request before the request comes.

    `seen` counts the troubles made, by name. `over`: when set, the weather is calm for ever."""

    seed: str
    rival: Callable[[Write], Awaitable[None]]
    seen: Counter[str] = field(default_factory=Counter)
    over: bool = False
    _asked: Counter[str] = field(default_factory=Counter)
    _began: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    @property
    def weather(self) -> Weather:
        """Drawn anew every `WEATHER_SECONDS`."""
        hour = int((asyncio.get_running_loop().time() - self._began) / WEATHER_SECONDS)
        return Weather.CALM if self.over else random.Random(f"{self.seed}/weather/{hour}").choice(_SEQUENCE)

    def meddle(self, write: Write) -> Meddling:
        """What becomes of a write."""
        weather, dice = self.weather, self._dice(f"{write.method} {write.subject}")
        lease = "/leases" in write.path
        if weather is Weather.DARK or (weather is Weather.LEASELESS and lease):
            return self._count(LoseRequest())
        if weather is Weather.SLOW_STORE:
            return self._count(Around(before=_pause(dice.random())), "slow")
        chance, _ = _CHANCE.get(weather, (0.0, 0.0))
        if dice.random() >= chance:
            return None
        kind = dice.choice(("error", "error", "error", "lose request", "lose answer", "late", "rival"))
        match kind:
            case "error":
                return self._count(dice.choice(_ERRORS))
            case "lose request":
                return self._count(LoseRequest())
            case "lose answer":
                return self._count(LoseAnswer())
            case "late":
                return self._count(Around(before=_pause(dice.random())), "late")
            case _:
                return self._count(Around(before=lambda: self.rival(write)), "rival")

    def meddle_read(self, read: Read) -> ReadMeddling:
        """What becomes of a list, a get or a watch."""
        weather, dice = self.weather, self._dice(f"GET {read.path}")
        if weather is Weather.DARK or (weather is Weather.LEASELESS and "/leases" in read.path):
            return self._count(LoseRequest())
        chance, _ = _CHANCE.get(weather, (0.0, 0.0))
        if dice.random() < chance:
            kind = dice.choice(("error", "lose request", "late"))
            if kind == "late":
                return self._count(Around(before=_pause(2 * dice.random())), "late")
            return self._count(dice.choice(_ERRORS[1:]) if kind == "error" else LoseRequest())
        if not read.watch:
            return None
        # A stream that swaps events must not break between the two: the later one would never be seen.
        spoil = self._breaking if dice.random() < 0.6 else self._mixing
        return Spoil(lines=lambda lines: spoil(lines, dice))

    async def _breaking(self, lines: AsyncIterator[bytes], dice: random.Random) -> AsyncIterator[bytes]:
        """A watch that says late what happens, breaks in the middle of a line, or has expired."""
        async for line in lines:
            weather = self.weather
            if weather is Weather.DARK:
                raise Cut
            if dice.random() < _CHANCE.get(weather, (0.0, 0.0))[1]:
                kind = dice.choice(("late", "truncated", "expired"))
                self.seen[kind] += 1
                if kind == "late":
                    await asyncio.sleep(2 * dice.random())
                elif kind == "expired":
                    yield json.dumps({"type": "ERROR", "object": _GONE}).encode() + b"\n"
                    return
                else:
                    yield line[: dice.randrange(len(line))]
                    raise Cut
            yield line

    async def _mixing(self, lines: AsyncIterator[bytes], dice: random.Random) -> AsyncIterator[bytes]:
        """A watch that repeats events, and tells events about different objects in the wrong order."""
        held: bytes | None = None
        async for line in lines:
            if held is not None:
                first, second = (held, line) if _same_object(held, line) else (line, held)
                yield first + second
                held = None
            elif dice.random() < _CHANCE.get(self.weather, (0.0, 0.0))[1] and not _is_mark(line):
                kind = dice.choice(("repeated", "swapped"))
                self.seen[kind] += 1
                if kind == "swapped":
                    held = line
                else:
                    yield line + line
            else:
                yield line
        if held is not None:
            yield held

    def _dice(self, subject: str) -> random.Random:
        self._asked[subject] += 1
        return random.Random(f"{self.seed}/{subject}/{self._asked[subject]}")

    def _count(self, trouble: Trouble, name: str = "") -> Trouble:
        self.seen[name or (str(trouble.status) if isinstance(trouble, Refuse) else type(trouble).__name__)] += 1
        return trouble


def _pause(seconds: float) -> Callable[[], Awaitable[None]]:
    return lambda: asyncio.sleep(seconds)


def _is_mark(line: bytes) -> bool:
    return b'"BOOKMARK"' in line[:40] or b'"ERROR"' in line[:40]


def _same_object(one: bytes, other: bytes) -> bool:
    """Whether two lines are about one object; a mark belongs to all that came before it."""
    if _is_mark(other):
        return True
    names = [json.loads(line)["object"]["metadata"] for line in (one, other)]
    return names[0].get("uid") == names[1].get("uid")
