"""Pieces of gangs: the questions that placement answers, one after the other.

A piece is a group of bundles, some of which may do without others. Where pods that share a claim find no room all
together, fewer of them may: the others can follow once the claim has its devices.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from scheduler.model.workloads import Pod
from scheduler.plan.ground.shapes import Bundle, Shapes
from scheduler.solver.problem import Group, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A question for placement. `bundles` by (leaf, shape), in the order in which they are to be placed."""

    group: Group
    bundles: Mapping[tuple[str, int], tuple[Bundle, ...]]

    def listed(self, group: Group) -> Iterator[Bundle]:
        """The bundles of one of its leaves, as its units list them."""
        used: dict[int, int] = {}
        for unit in group.units:
            number = used[unit.shape] = used.get(unit.shape, -1) + 1
            yield self.bundles[group.name, unit.shape][number]

    def chosen(self) -> Iterator[Bundle]:
        """The bundles that are placed if all goes as listed: of each group, what its minimum takes first."""
        used: dict[tuple[str, int], int] = {}
        for leaf, unit in _first_units(self.group):
            number = used.get((leaf, unit.shape), 0)
            used[leaf, unit.shape] = number + 1
            yield self.bundles[leaf, unit.shape][number]

    def all_bundles(self) -> Iterator[Bundle]:
        """All bundles, those included that will not be needed."""
        return (bundle for bundles in self.bundles.values() for bundle in bundles)

    def all_pods(self) -> Iterator[Pod]:
        """The pods of all bundles."""
        return (pod for bundle in self.all_bundles() for pod in bundle.pods)

    @property
    def pods(self) -> int:
        """How many pods must find room at once."""
        return sum(unit.pods for _, unit in _first_units(self.group))


def fewest(piece: Wanted, shapes: Shapes) -> Wanted | None:
    """The piece with only so many of the pods that share a claim as it needs; the others can follow once the claim has
    its devices. None if it needs all of them."""
    bundles: dict[tuple[str, int], list[Bundle]] = {}
    group = _fewest(piece, piece.group, shapes, bundles)
    if sum(len(bundle.pods) for each in bundles.values() for bundle in each) == sum(1 for _ in piece.all_pods()):
        return None
    return Wanted(group=group, bundles={key: tuple(each) for key, each in bundles.items()})


def _fewest(piece: Wanted, group: Group, shapes: Shapes, bundles: dict[tuple[str, int], list[Bundle]]) -> Group:
    """The group with its bundles cut to what its minimum takes; these go into `bundles`."""
    taken = 0
    units: list[Unit] = []
    for bundle in piece.listed(group):
        cut = shapes.part(bundle, group.minimum - taken if taken < group.minimum else group.minimum)
        taken += len(cut.pods)
        units.append(Unit(shape=cut.shape, pods=len(cut.pods)))
        bundles.setdefault((group.name, cut.shape), []).append(cut)
    children = tuple(_fewest(piece, child, shapes, bundles) for child in group.children)
    return replace(group, units=tuple(units), children=children)


def afresh(piece: Wanted, shapes: Shapes) -> Wanted:
    """The piece as it would be asked for now, if it names claims that others name too: these may have got devices, or
    lost them."""
    if not any(entry.claim and not entry.from_template for pod in piece.all_pods() for entry in pod.claims):
        return piece
    bundles: dict[tuple[str, int], list[Bundle]] = {}
    group = _afresh(piece, piece.group, shapes, bundles)
    return Wanted(group=group, bundles={key: tuple(each) for key, each in bundles.items()})


def _afresh(piece: Wanted, group: Group, shapes: Shapes, bundles: dict[tuple[str, int], list[Bundle]]) -> Group:
    """The group with bundles made anew; these go into `bundles`."""
    made = shapes.bundles([pod for bundle in piece.listed(group) for pod in bundle.pods])
    for bundle in made:
        bundles.setdefault((group.name, bundle.shape), []).append(bundle)
    units = tuple(Unit(shape=bundle.shape, pods=len(bundle.pods)) for bundle in made)
    return replace(group, units=units, children=tuple(_afresh(piece, each, shapes, bundles) for each in group.children))


def may_be_divided(piece: Wanted, shapes: Shapes) -> bool:
    """Whether some of the pods that share a claim might do where all of them do not, and not just any of them: then the
    piece finding no room proves nothing about the gang."""
    for group in piece.group.walk():
        together = [bundle for bundle in piece.listed(group) if len(bundle.pods) > 1]
        spare = sum(unit.pods for unit in group.units) > group.minimum
        if together and spare and (len(group.units) > 1 or not shapes.interchangeable(together[0].pods)):
            return True
    return False


def _first_units(group: Group) -> Iterator[tuple[str, Unit]]:
    pods = 0
    for unit in group.units:
        if pods >= group.minimum:
            return
        pods += unit.pods
        yield group.name, unit
    for child in group.children[: group.minimum]:
        yield from _first_units(child)
