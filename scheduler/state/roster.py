"""Who belongs to which gang: kept up to date pod by pod, so that only the gangs that changed are made anew."""

from collections.abc import Callable, Iterable, Set
from dataclasses import replace

from scheduler.model.workloads import Gang
from scheduler.state.grouping import ALONE, GangId, Member
from scheduler.state.tables import SortedTable

Reference = tuple[str, str]
"""What a pod's place was read from: the name of a kind and the key of an object, which may not exist yet."""


class Roster:
    """Members by gang, and the gangs made of them."""

    def __init__(self) -> None:
        self._members: dict[GangId, dict[str, Member]] = {}
        self._gang_of: dict[str, GangId] = {}
        self._referring: dict[Reference, set[str]] = {}
        self._references: dict[str, tuple[Reference, ...]] = {}
        self._touched: set[GangId] = set()
        self._gangs: SortedTable[tuple[GangId, Gang]] = SortedTable()
        self._ordered: tuple[Gang, ...] | None = ()

    def put(self, pod: str, member: Member | None, references: tuple[Reference, ...] = ()) -> None:
        """The pod is this member now; None: it is in no gang. `references`: what its place depends on."""
        before = self._gang_of.pop(pod, None)
        if before is not None:
            self._members[before].pop(pod)
            self._touched.add(before)
        for reference in self._references.pop(pod, ()):
            self._referring[reference].discard(pod)
            if not self._referring[reference]:
                del self._referring[reference]
        if member is None:
            return
        gang = member.membership.gang
        self._members.setdefault(gang, {})[pod] = member
        self._gang_of[pod] = gang
        self._touched.add(gang)
        if references:
            self._references[pod] = references
            for reference in references:
                self._referring.setdefault(reference, set()).add(pod)

    def referring(self, reference: Reference) -> Iterable[str]:
        """The pods whose place depends on this object."""
        return self._referring.get(reference, ())

    def touch(self, reference: Reference) -> None:
        """The gangs of several pods whose place depends on this object may differ, although every pod is as it was."""
        gangs = {self._gang_of[pod] for pod in self._referring.get(reference, ())}
        self._touched.update(gang for gang in gangs if gang.kind != ALONE)

    def rebuild(self, make: Callable[[GangId, list[Member]], Gang | None]) -> None:
        """Make every touched gang anew."""
        for id_ in sorted(self._touched, key=_order):  # sorted, as a table is filled fastest
            members = self._members.get(id_, {})
            gang = make(id_, [members[pod] for pod in sorted(members)]) if members else None
            self._gangs.put(_order(id_), None if gang is None else (id_, gang))
            if not members:
                self._members.pop(id_, None)
        if self._touched:
            self._ordered = None
        self._touched = set()

    def in_order(self) -> tuple[Gang, ...]:
        """All gangs by key. Of several with one name the first is a PodGroup of ours and keeps it, the others say what
        they are in brackets, which no name of an object contains. No two have one key, whatever labels say."""
        if self._ordered is None:
            gangs: list[Gang] = []
            plain = {gang.key for _, gang in self._gangs.values()}
            taken: set[str] = set()
            for id_, gang in self._gangs.values():
                key = gang.key
                if key in taken:
                    key = _free(f"{key} ({id_.kind}{f', group {id_.part}' if id_.part else ''}", plain | taken)
                    gang = replace(gang, key=key)
                taken.add(key)
                gangs.append(gang)
            self._ordered = tuple(gangs)
        return self._ordered


def _free(name: str, taken: Set[str]) -> str:
    """The name with its bracket closed; an owner reference may hold any text, so it may have to be numbered."""
    found = f"{name})"
    number = 2
    while found in taken:
        found = f"{name}, {number})"
        number += 1
    return found


def _order(gang: GangId) -> str:
    """Sorts by name; at one name PodGroups first, ours before the others."""
    rank = 0 if gang.kind == "PodGroup" else 1 if gang.kind.startswith("PodGroup") else 2
    return f"{gang.name}\0{rank}\0{gang.key}\0{gang.kind}"
