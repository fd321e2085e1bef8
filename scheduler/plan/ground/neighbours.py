"""Who stands near whom: the rules of pods about other pods, counted domain by domain as a plan grows.

A tally counts, per domain of one node label, the pods that a rule looks at. Pods that want the same company and are
looked at by the same rules are alike: they have one manner. Where no pod has such a rule, all manners are 0 and nothing
is counted. Source: the filters InterPodAffinity and PodTopologySpread of kube-scheduler (existing pods' required
anti-affinity holds against new pods too; their affinity does not).
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

from scheduler.api import attributes
from scheduler.model.company import Audience, Company, Spread, Term, holds
from scheduler.model.nodes import Node
from scheduler.model.workloads import Pod
from scheduler.plan.ground.fit import Need, Seat, node_affinity, node_selector, taints

ALONE = 0
"""The manner of a pod that looks at nobody and that nobody looks at."""

_ANYWHERE = ""
"""Stands in a guest list for all domains of a tally together."""


@dataclass(slots=True, kw_only=True)
class _Tally:
    """`domains`: of the nodes that count; `counts` per domain; `total` of them. `leaving`: whether pods that are being
    deleted count."""

    domains: Mapping[str, str]
    leaving: bool = True
    counts: dict[str, int] = field(default_factory=dict)
    total: int = 0

    def add(self, node: str, count: int) -> None:
        domain = self.domains.get(node)
        if domain is not None:
            self.counts[domain] = self.counts.get(domain, 0) + count
            self.total += count

    def fork(self) -> "_Tally":
        return _Tally(domains=self.domains, leaving=self.leaving, counts=dict(self.counts), total=self.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Even:
    """A spread constraint: its tally, and whether the pod itself is of the audience."""

    rule: Spread
    tally: int
    itself: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manner:
    """`counted`: tallies that such a pod is counted in. `near`: (key, tally) to be found in, `first` if such a pod may
    be the first one. `apart`: (key, tally) to stay away from; `shunned`: the same for the rules of others about it.
    `tastes`: (weight, tally). `even`: spread constraints."""

    counted: tuple[int, ...]
    near: tuple[tuple[str, int], ...] = ()
    first: bool = False
    apart: tuple[tuple[str, int], ...] = ()
    shunned: tuple[tuple[str, int], ...] = ()
    tastes: tuple[tuple[int, int], ...] = ()
    even: tuple[_Even, ...] = ()

    @property
    def looks_at(self) -> tuple[int, ...]:
        """The tallies that its rules, and those about it, are about."""
        found = [number for _, number in (*self.near, *self.apart, *self.shunned, *self.tastes)]
        return tuple(dict.fromkeys((*found, *(even.tally for even in self.even))))


class Neighbours:
    """What is counted of all pods on nodes, and of those that are placed."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        namespaces: Mapping[str, Mapping[str, str]],
        pods: Iterable[Pod] = (),
        wanted: Iterable[Pod] = (),
    ) -> None:
        """`pods` stand on nodes, `wanted` may be placed. `namespaces`: their labels."""
        pods = [pod for pod in pods if pod.node in nodes and not pod.done]
        self._nodes = nodes
        self._namespaces = namespaces
        self._tallies: list[_Tally] = []
        self._watched: dict[tuple[Audience, ...], list[int]] = {}
        self._owned: dict[Term, int] = {}
        self._numbers: dict[Hashable, int] = {}
        self._manners: list[_Manner] = [_Manner(counted=())]
        self._known: dict[Hashable, int] = {}
        self._by_rule: dict[_Manner, int] = {}
        everybody = [*pods, *wanted]
        self.idle = all(pod.company is None for pod in everybody)
        """Whether no pod has a rule about others."""
        if self.idle:
            return
        for pod in everybody:
            if pod.company is not None:
                self._open(pod, pod.company)
        for pod in pods:
            self._add(pod, pod.node, 1)

    def fork(self) -> "Neighbours":
        """Counts of its own, equal to these now."""
        other = object.__new__(Neighbours)
        other._nodes, other._namespaces, other.idle = self._nodes, self._namespaces, self.idle
        other._watched, other._owned, other._numbers = self._watched, self._owned, self._numbers
        other._manners, other._known, other._by_rule = self._manners, self._known, self._by_rule
        other._tallies = [tally.fork() for tally in self._tallies]
        return other

    def manner(self, pod: Pod) -> int:
        """A number that is equal for pods that want the same of others, and of whom others want the same."""
        if self.idle:
            return ALONE
        key = (pod.namespace, frozenset(pod.labels.items()), pod.company, _where(pod))
        known = self._known.get(key)
        if known is None:
            manner = self._manner(pod)
            known = self._by_rule.get(manner)
            if known is None:
                known = ALONE if manner == self._manners[ALONE] else len(self._manners)
                self._by_rule[manner] = known
                if known:
                    self._manners.append(manner)
            self._known[key] = known
        return known

    def keys(self, manner: int) -> tuple[str, ...]:
        """Labels in whose domains such a pod needs company: those of a gang do best in one of each."""
        return tuple(dict.fromkeys(key for key, _ in self._manners[manner].near))

    def around(self, manner: int, node: str) -> Hashable:
        """The domains of the node that count for such a pod."""
        return tuple(self._tallies[number].domains.get(node) for number in self._manners[manner].looks_at)

    def take(self, pod: Pod, node: str) -> None:
        """The pod stands on the node."""
        if not self.idle:
            self._add(pod, node, 1)

    def give_back(self, pod: Pod, node: str) -> None:
        """The opposite of `take`."""
        if not self.idle:
            self._add(pod, node, -1)

    def guests(self) -> "Guests":
        """An attempt's own additions, none so far."""
        return Guests(self)

    def _add(self, pod: Pod, node: str, count: int) -> None:
        for number in self._manners[self.manner(pod)].counted:
            tally = self._tallies[number]
            if tally.leaving or not pod.terminating:
                tally.add(node, count)

    # --- which tallies there are ----------------------------------------------------------------------------------

    def _open(self, pod: Pod, company: Company) -> None:
        """Have all tallies that the pod's rules look at."""
        self._near(company)
        for term in (*company.apart, *(taste.term for taste in company.tastes)):
            self._tally((term.audience,), term.key)
        for term in company.apart:
            if term not in self._owned:
                self._owned[term] = self._new(_Tally(domains=self._domains(term.key)))
        for rule in company.spread:
            self._even(pod, company, rule)

    def _near(self, company: Company) -> tuple[tuple[str, int], ...]:
        audiences = tuple(dict.fromkeys(term.audience for term in company.near))
        return tuple((term.key, self._tally(audiences, term.key)) for term in company.near)

    def _even(self, pod: Pod, company: Company, rule: Spread) -> int:
        """The tally of a spread constraint: over the nodes that the pod may be counted on."""
        keys = tuple(sorted({each.term.key for each in company.spread if each.hard == rule.hard}))
        where = _where(pod) if rule.by_affinity else None
        tolerated = pod.tolerations if rule.by_taints else None
        number = self._numbers.get((rule.term, keys, where, tolerated))
        if number is None:
            domains = {
                name: domain
                for name, domain in self._domains(rule.term.key).items()
                if self._counts(pod, rule, self._nodes[name], keys)
            }
            number = self._new(_Tally(domains=domains, leaving=False, counts=dict.fromkeys(domains.values(), 0)))
            self._numbers[rule.term, keys, where, tolerated] = number
            self._watched.setdefault((rule.term.audience,), []).append(number)
        return number

    def _counts(self, pod: Pod, rule: Spread, node: Node, keys: tuple[str, ...]) -> bool:
        """Whether the node makes a domain for this constraint of the pod."""
        need, seat = Need(pod=pod, requests=pod.requests), Seat(node=node)
        if rule.by_affinity and (node_selector(need, seat) or node_affinity(need, seat)):
            return False
        if rule.by_taints and taints(need, seat):
            return False
        return all(_label(node, key) is not None for key in keys)

    def _tally(self, audiences: tuple[Audience, ...], key: str) -> int:
        number = self._numbers.get((audiences, key))
        if number is None:
            number = self._numbers[audiences, key] = self._new(_Tally(domains=self._domains(key)))
            self._watched.setdefault(audiences, []).append(number)
        return number

    def _new(self, tally: _Tally) -> int:
        self._tallies.append(tally)
        return len(self._tallies) - 1

    def _domains(self, key: str) -> dict[str, str]:
        return {name: label for name, node in self._nodes.items() if (label := _label(node, key)) is not None}

    # --- who is in them -------------------------------------------------------------------------------------------

    def _manner(self, pod: Pod) -> _Manner:
        company = pod.company or Company()
        member = [audiences for audiences in self._watched if all(self._is_in(pod, each) for each in audiences)]
        counted = [number for audiences in member for number in self._watched[audiences]]
        near = self._near(company)
        return _Manner(
            counted=tuple(sorted({*counted, *(self._owned[term] for term in company.apart)})),
            near=near,
            first=bool(near) and all(self._is_in(pod, term.audience) for term in company.near),
            apart=tuple((term.key, self._tally((term.audience,), term.key)) for term in company.apart),
            shunned=tuple(
                (term.key, number) for term, number in self._owned.items() if self._is_in(pod, term.audience)
            ),
            tastes=tuple((t.weight, self._tally((t.term.audience,), t.term.key)) for t in company.tastes),
            even=tuple(
                _Even(rule=rule, tally=self._even(pod, company, rule), itself=self._is_in(pod, rule.term.audience))
                for rule in company.spread
            ),
        )

    def _is_in(self, pod: Pod, audience: Audience) -> bool:
        if audience.nobody or not holds(audience.labels, pod.labels):
            return False
        if pod.namespace in audience.namespaces:
            return True
        if audience.namespace_labels is None:
            return False
        return holds(audience.namespace_labels, self._namespaces.get(pod.namespace, {}))


class Guests:
    """What an attempt adds to its neighbours; `copy()` to try one thing and another. Where no rules are kept, for
    questions about empty nodes, everybody is welcome everywhere."""

    def __init__(self, among: Neighbours, more: dict[tuple[int, str], int] | None = None) -> None:
        self._among = among
        self._more = more if more is not None else {}
        self._fewest: dict[int, int] = {}

    def copy(self) -> "Guests":
        """A list of its own, equal to this one now."""
        return Guests(self._among, dict(self._more))

    def join(self, manner: int, node: str, count: int = 1) -> None:
        """So many pods of this manner stand on the node."""
        if self._among.idle:
            return
        for number in self._among._manners[manner].counted:
            domain = self._among._tallies[number].domains.get(node)
            if domain is not None:
                for place in (domain, _ANYWHERE):
                    self._more[number, place] = self._more.get((number, place), 0) + count
                self._fewest.pop(number, None)

    def refusal(self, manner: int, node: str) -> str | None:
        """Why one more pod of this manner may not stand on the node, in words that complete "the node ..."; None if it
        may."""
        if self._among.idle:
            return None
        want = self._among._manners[manner]
        for key, number in want.apart:
            if self._there(number, node):
                return f"has pods in its {key} that the pod keeps away from (pod anti-affinity)"
        for key, number in want.shunned:
            if self._there(number, node):
                return f"has pods in its {key} that keep away from this one (their pod anti-affinity)"
        alone = want.first and not any(self._total(number) for _, number in want.near)
        for key, number in want.near:
            if self._domain(number, node) is None:
                return f"lacks the label {key} (pod affinity)"
            if not alone and not self._there(number, node):
                return f"has no pods in its {key} that this one goes with (pod affinity)"
        for even in want.even:
            if even.rule.hard and not self._is_even(even, node):
                hard = (each.rule.term.key for each in want.even if each.rule.hard)
                lacking = next((key for key in hard if _label(self._among._nodes[node], key) is None), "")
                if lacking:
                    return f"lacks the label {lacking} (topology spread)"
                return f"is in a {even.rule.term.key} that has its share of such pods (topology spread)"
        return None

    def discomfort(self, manner: int, node: str) -> int:
        """How much such a pod would rather stand elsewhere, 0 for not at all: preferred company missed, disliked
        company met, and how full the domains are over which it is spread."""
        if self._among.idle:
            return 0
        want = self._among._manners[manner]
        missed = sum(abs(weight) for weight, number in want.tastes if (weight > 0) != bool(self._there(number, node)))
        full = sum(self._there(even.tally, node) for even in want.even)
        lacking = sum(1 for even in want.even if self._domain(even.tally, node) is None)
        return missed + 100 * (full + lacking)

    def _is_even(self, even: _Even, node: str) -> bool:
        domain = self._domain(even.tally, node)
        if domain is None:
            return False
        return self._there(even.tally, node) + even.itself - self._least(even) <= even.rule.max_skew

    def _least(self, even: _Even) -> int:
        tally = self._among._tallies[even.tally]
        if len(tally.counts) < even.rule.min_domains:
            return 0
        known = self._fewest.get(even.tally)
        if known is None:
            counts = (count + self._more.get((even.tally, domain), 0) for domain, count in tally.counts.items())
            known = self._fewest[even.tally] = min(counts, default=0)
        return known

    def _domain(self, number: int, node: str) -> str | None:
        return self._among._tallies[number].domains.get(node)

    def _there(self, number: int, node: str) -> int:
        tally = self._among._tallies[number]
        domain = tally.domains.get(node)
        return 0 if domain is None else tally.counts.get(domain, 0) + self._more.get((number, domain), 0)

    def _total(self, number: int) -> int:
        return self._among._tallies[number].total + self._more.get((number, _ANYWHERE), 0)


def _where(pod: Pod) -> Hashable:
    """What binds a pod with spread constraints to nodes: it decides which nodes make domains."""
    if pod.company is None or not pod.company.spread:
        return None
    return tuple(sorted(pod.node_selector.items())), pod.required_affinity, pod.tolerations


def _label(node: Node, key: str) -> str | None:
    """The node's domain by a label; a host without its label is known by its name."""
    found = node.labels.get(key)
    return node.name if found is None and key == attributes.HOSTNAME_LABEL else found
