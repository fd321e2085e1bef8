"""Backoff: how long to wait before the next try, longer each time, with jitter so that many do not return at once."""

from dataclasses import dataclass, field
from random import Random


@dataclass(slots=True, kw_only=True)
class Backoff:
    """Waits of `first_seconds`, doubling up to `most_seconds`, each shortened at random by up to half."""

    first_seconds: float = 0.2
    most_seconds: float = 30.0
    random: Random = field(default_factory=Random)
    tries: int = 0

    def seconds(self) -> float:
        """The next wait."""
        longest = min(self.first_seconds * 2.0 ** min(self.tries, 30), self.most_seconds)
        self.tries += 1
        return longest * (0.5 + self.random.random() / 2)

    def reset(self) -> None:
        """It worked: the next failure starts over."""
        self.tries = 0


def jittered(seconds: float, source: Random) -> float:
    """`seconds`, up to a fifth more or less."""
    return seconds * (0.8 + 0.4 * source.random())
