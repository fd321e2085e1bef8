"""ComputeDomains of a piece: pods that join one are asked for in one clique; who joins none may be anywhere.

A gang may have both: the launcher of an MPIJob runs where there are no GPUs, its workers share memory over NVLink. So
it is not the gang that is bound to a clique, but those of each domain, as one group in whatever group they are of.
Where the domain has pods on nodes already, whosever they are, all others go to their clique.
Source: NVIDIA's DRA driver (nvbandwidth, its example of a ComputeDomain, is such an MPIJob).
"""

from dataclasses import replace

from scheduler.model.reasons import InvalidGang
from scheduler.plan.ground.cliques import ComputeDomains
from scheduler.plan.ground.shapes import Bundle
from scheduler.plan.ground.topology import CLIQUE_LEVEL, Domains
from scheduler.plan.pieces import Wanted
from scheduler.solver.problem import Group

_CLIQUE = ("", CLIQUE_LEVEL)
_APART = "Make those of each ComputeDomain a sub-group, or a gang of their own."


def tied(piece: Wanted, gang: str, domains: Domains, compute_domains: ComputeDomains) -> Wanted | InvalidGang:
    """The piece with the pods of each ComputeDomain bound to one clique, or why they cannot be."""
    if not compute_domains.of(piece.all_pods()):
        return piece
    tying = _Tying(piece, gang, domains, compute_domains)
    group = tying.group(piece.group)
    return tying.problem or Wanted(group=group, bundles={key: tuple(each) for key, each in tying.bundles.items()})


class _Tying:
    """`bundles`: of the groups as they are bound. `problem`: the first reason why they cannot be."""

    def __init__(self, piece: Wanted, gang: str, domains: Domains, compute_domains: ComputeDomains) -> None:
        self.bundles: dict[tuple[str, int], list[Bundle]] = {}
        self.problem: InvalidGang | None = None
        self._piece = piece
        self._gang = gang
        self._domains = domains
        self._compute_domains = compute_domains
        self._begun: set[str] = set()

    def group(self, group: Group) -> Group:
        """The group with those of each domain bound to a clique."""
        joined = self._joined(group)
        if joined == {frozenset()}:
            self._list(group)
            return group
        sole = _sole(joined)
        if sole:
            self._list(group)
            return self._together(group, sole)
        return self._leaf(group) if group.units else self._inner(group)

    def _joined(self, group: Group) -> set[frozenset[str]]:
        """What the bundles of the group, and of those below, join."""
        return {self._joins(bundle) for each in group.walk() for bundle in self._piece.listed(each)}

    def _joins(self, bundle: Bundle) -> frozenset[str]:
        return self._compute_domains.of(bundle.pods)

    def _list(self, group: Group) -> None:
        for each in group.walk():
            for bundle in self._piece.listed(each):
                self.bundles.setdefault((each.name, bundle.shape), []).append(bundle)

    def _together(self, group: Group, domain: str) -> Group:
        """The group, all of which joins the domain, in one clique. What it prefers does not count then."""
        nodes = self._compute_domains.nodes(domain)
        of = self._domains.of(_CLIQUE)
        cliques = sorted({of[node] for node in nodes})
        if len(cliques) > 1:
            self._refuse(
                f"pods of its ComputeDomain are in several cliques already: {', '.join(cliques)}",
                "Delete those in all of them but one: NVLink joins the nodes of one clique only.",
            )
        if not nodes and domain in self._begun:
            self._refuse("pods of one ComputeDomain are in sub-groups of which others have pods of another", _APART)
        self._begun.add(domain)
        pinned = cliques[0] if cliques else ""
        if group.required is None:
            return replace(group, steps=(_CLIQUE,), required=_CLIQUE, pinned=pinned, near=group.near | nodes)
        if not nodes and not group.pinned:
            both = self._domains.in_clique(group.required)
            return replace(group, steps=(both,), required=both)
        # Others of the domain are in its clique, but need not be in the domain of the level that this group is in.
        return Group(
            name=group.name,
            minimum=1,
            children=(group,),
            steps=(_CLIQUE,),
            required=_CLIQUE,
            pinned=pinned,
            near=nodes,
        )

    def _leaf(self, group: Group) -> Group:
        """Pods that join a domain beside others that join none: so many of each as come first."""
        joined = frozenset().union(*self._joined(group))
        if len(joined) > 1:
            problem = f"pods of {group.name or 'it'} join {len(joined)} ComputeDomains, each a clique of its own"
            self._refuse(problem, _APART)
            return group
        (domain,) = joined
        needed, taken = {True: 0, False: 0}, 0
        bundles = self._piece.listed(group)
        listed = [(unit, each, bool(self._joins(each))) for unit, each in zip(group.units, bundles, strict=True)]
        for unit, _, joins in listed:
            if taken < group.minimum:
                needed[joins] += unit.pods
                taken += unit.pods
        parts = []
        for joins in (joins for joins in (True, False) if needed[joins]):
            name = f"{group.name}/{domain}" if joins else group.name
            part = Group(
                name=name,
                minimum=needed[joins],
                units=tuple(unit for unit, _, other in listed if other is joins),
                company=group.company,
            )
            for _, bundle, other in listed:
                if other is joins:
                    self.bundles.setdefault((name, bundle.shape), []).append(bundle)
            parts.append(self._together(part, domain) if joins else part)
        return replace(group, minimum=len(parts), units=(), children=tuple(parts), company=())

    def _inner(self, group: Group) -> Group:
        """Groups below it that join one domain are bound together. If not all are needed, it is those that come
        first."""
        soles = [_sole(self._joined(child)) for child in group.children]
        many = {sole for sole in soles if sole and soles.count(sole) > 1 and not self._compute_domains.nodes(sole)}
        if many and group.minimum < len(group.children):
            return self.group(replace(group, children=group.children[: group.minimum]))
        children: list[Group] = []
        bound: set[str] = set()
        for sole, child in zip(soles, group.children, strict=True):
            if sole not in many:
                children.append(self.group(child))
            elif sole not in bound:
                bound.add(sole)
                alike = tuple(other for other, of in zip(group.children, soles, strict=True) if of == sole)
                for each in alike:
                    self._list(each)
                whole = Group(name=f"{group.name}/{sole}", minimum=len(alike), children=alike)
                children.append(self._together(whole, sole))
        return replace(group, minimum=len(children) if many else group.minimum, children=tuple(children))

    def _refuse(self, problem: str, remedy: str) -> None:
        if self.problem is None:
            self.problem = InvalidGang(gang=self._gang, problem=problem, remedy=remedy)


def _sole(joined: set[frozenset[str]]) -> str:
    """The domain that all join, and no other; "" if there is none."""
    (first, *others) = joined
    return next(iter(first)) if len(first) == 1 and not others else ""
