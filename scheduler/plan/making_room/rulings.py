"""All that stands against too many victims: the shares of queues, where they bind, and the caps on evictions.

What may not go by itself goes with nobody; so it is found out once for all who cost their queues the same.
"""

from collections.abc import Iterable, Sequence

from scheduler.plan.caps import Caps
from scheduler.plan.making_room.laws import Laws, Row
from scheduler.plan.making_room.leavers import Option


class Ruling:
    """For one gang, as the plan stands."""

    def __init__(self, laws: Laws | None, caps: Caps) -> None:
        self._laws = laws
        self._caps = caps
        self._loses: dict[tuple[int, str], tuple[tuple[Row, int], ...] | None] = {}
        # Where some resources go along with others, it matters besides whose the pods are.
        self._apart = laws is not None and laws.along

    def alone(self, option: Option) -> bool:
        """Whether it may go at all."""
        return self._row(option) is not None and self._caps.allow(option.losses)

    def together(self, options: Sequence[Option]) -> bool:
        """Whether budgets leave enough for all of these; if they do not, they do for no more of them either."""
        if self._laws is not None:
            lost: dict[Row, int] = {}
            for option in options:
                row = self._row(option)
                if row is None:
                    return False
                for name, amount in row:
                    lost[name] = lost.get(name, 0) + amount
            if any(amount > self._laws.budgets[name] for name, amount in lost.items()):
                return False
        return not self._caps.left or self._caps.allow(loss for option in options for loss in option.losses)

    def allow(self, options: Sequence[Option]) -> bool:
        """Whether these may go together, and nobody else."""
        return self.together(options) and (self._laws is None or not options or self._laws.allow(options))

    def looser_than(self, other: "Ruling | None") -> bool:
        """Whether something may be allowed that the other did not allow; nothing is asked of the caps, which only grow
        tighter."""
        if self._laws is None:
            return False
        if other is None or other._laws is None:
            return True
        mine, theirs = self._laws, other._laws
        if mine.budgets.keys() != theirs.budgets.keys() or mine.least.keys() != theirs.least.keys():
            return True
        return any(most > theirs.budgets[row] for row, most in mine.budgets.items()) or any(
            least < theirs.least[row] for row, least in mine.least.items()
        )

    def _row(self, option: Option) -> tuple[tuple[Row, int], ...] | None:
        """What of the budgets it takes; None if that is more than there is."""
        if self._laws is None:
            return ()
        key = option.kind, option.gang.key if self._apart else ""
        if key not in self._loses:
            rows = tuple(self._laws.loses(option))
            over = any(amount > self._laws.budgets[row] for row, amount in rows)
            self._loses[key] = None if over else rows
        return self._loses[key]

    def forbidden(self, options: Iterable[Option]) -> bool:
        """Whether none of these may go."""
        return not any(self.alone(option) for option in options)
