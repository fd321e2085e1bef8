"""Waiting raises a gang's place in its queue, so that a stream of higher priorities does not starve it for ever.

The lift grows evenly with the time waited and ends at its full value, like Slurm's age factor (PriorityWeightAge,
PriorityMaxAge). It moves nobody's place among queues and gives no right to stop others: both go by the priority itself.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Aging:
    """`weight`: how many points of priority a gang gains that has waited `full_ms` or longer; 0: none ever."""

    weight: int = 0
    full_ms: int = 1

    def lift(self, created_ms: int, now_ms: int) -> int:
        """Points of priority, rounded down. None for what does not tell when it was created (0), or will be."""
        if created_ms <= 0 or self.full_ms <= 0:
            return 0
        waited = min(max(now_ms - created_ms, 0), self.full_ms)
        return self.weight * waited // self.full_ms
