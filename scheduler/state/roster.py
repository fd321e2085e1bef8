"""Who belongs to which gang: kept up to date pod by pod, so that only the gangs that changed are made anew."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise

from scheduler.model.workloads import Gang
from scheduler.state.grouping import GangId, Member
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
        self._gangs: SortedTable[Gang] = SortedTable()
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

    def rebuild(self, make: Callable[[GangId, list[Member]], Gang | None]) -> None:
        """Make every touched gang anew."""
        for gang in self._touched:
            members = self._members.get(gang, {})
            self._gangs.put(_order(gang), make(gang, [members[pod] for pod in sorted(members)]) if members else None)
            if not members:
                self._members.pop(gang, None)
        if self._touched:
            self._ordered = None
        self._touched = set()

    def in_order(self) -> tuple[Gang, ...]:
        """All gangs by key. Of several with one name the first is a PodGroup of ours and keeps it, the others say what
        they are in brackets, which no name of an object contains."""
        if self._ordered is None:
            found = list(self._gangs.mapping().items())
            gangs = [gang for _, gang in found]
            for index, (before, gang) in enumerate(pairwise([gang.key for gang in gangs]), 1):
                if before == gang:
                    kind = found[index][0].rpartition("\0")[2]
                    gangs[index] = replace(gangs[index], key=f"{gang} ({kind})")
            self._ordered = tuple(gangs)
        return self._ordered


def _order(gang: GangId) -> str:
    """Sorts by name; at one name PodGroups first, ours before the others."""
    rank = 0 if gang.kind == "PodGroup" else 1 if gang.kind.startswith("PodGroup") else 2
    return f"{gang.name}\0{rank}\0{gang.key}\0{gang.kind}"
