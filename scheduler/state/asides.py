"""What could not be read, and why: kept aside until it can be, or is gone."""

from scheduler.api.changes import Change
from scheduler.api.kinds import Kind
from scheduler.model.reasons import Unreadable
from scheduler.model.snapshot import SetAside
from scheduler.state import dialects
from scheduler.state.tables import SortedTable


class Asides:
    """By kind and key: one object among those of all kinds and dialects."""

    def __init__(self) -> None:
        self._found: SortedTable[SetAside] = SortedTable()

    def look(self, kind: Kind, key: str, change: Change | None) -> None:
        """Note that the object cannot be decoded, or that it can again."""
        if change is None or change.problem is None:
            self.clear(kind, key)
        else:
            self.put(kind, key, change.meta.uid, undecodable(change))

    def put(self, kind: Kind, key: str, uid: str, reason: Unreadable) -> None:
        """The object is set aside for this reason."""
        self._found.put(_name(kind, key), dialects.set_aside(kind, key, uid, reason))

    def clear(self, kind: Kind, key: str) -> None:
        """Nothing is the matter with it."""
        self._found.put(_name(kind, key), None)

    def values(self) -> tuple[SetAside, ...]:
        return self._found.values()


def undecodable(change: Change) -> Unreadable:
    """The decoder's words ("Expected `int`, got `str` - at `$.spec.count`") as a reason."""
    problem, _, where = (change.problem or "cannot be decoded").partition(" - at ")
    field = where.strip("`").removeprefix("$").lstrip(".") or "the document"
    return Unreadable(
        object=f"{change.kind.kind}/{change.key}",
        field=field,
        problem=problem,
        remedy=f"Correct {field} as {change.kind.api_version} {change.kind.kind} defines it.",
    )


def _name(kind: Kind, key: str) -> str:
    return f"{kind.api_version}/{kind.kind}/{key}"
