"""Do the pods of a plan stand near, apart and spread as they and others want it? A part of the check of plans.

Judged by who stands where in the end, which is no stricter than the moments in between: pods only come. Source: the
filters InterPodAffinity and PodTopologySpread of kube-scheduler.
"""

from collections.abc import Iterator
from functools import cached_property

from scheduler.api.attributes import HOSTNAME_LABEL
from scheduler.model.company import Audience, Spread, Term
from scheduler.model.nodes import Node
from scheduler.model.workloads import Pod
from scheduler.solver.check_case import Case
from scheduler.solver.check_selectors import STOPPING, fulfils, selects, tolerates


def company_is_kept(case: Case) -> Iterator[str]:
    """Required affinity, anti-affinity of the newcomers and of those who are there, hard topology spread."""
    if all(pod.company is None for pod in (*case.snapshot.pods, *(pod for _, pod, _ in case.placed))):
        return
    scene = _Scene(case)
    yield from _apart(case, scene)
    alone: set[tuple[Term, ...]] = set()
    for _, pod, node in case.placed:
        if pod.company is None:
            continue
        if pod.company.near and not _has_company(scene, pod, node):
            if pod.company.near in alone or not _may_be_first(scene, pod, node):
                yield f"pod {pod.key} on node {node.name} is not near the pods that it needs"
            alone.add(pod.company.near)
        for rule in pod.company.spread:
            if rule.hard and (problem := _skew(scene, pod, node, rule)):
                yield f"pod {pod.key} on node {node.name} {problem}"


class _Scene:
    """Who stands where: pods that run, and pods that are placed."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._members: dict[tuple[tuple[Audience, ...], str], dict[str, list[Pod]]] = {}

    @cached_property
    def standing(self) -> list[tuple[Pod, Node]]:
        nodes = self.case.nodes
        there = [(pod, nodes[pod.node]) for pod in self.case.snapshot.pods if pod.node in nodes and not pod.done]
        return there + [(pod, node) for _, pod, node in self.case.placed]

    def members(self, audiences: tuple[Audience, ...], key: str) -> dict[str, list[Pod]]:
        """By domain of the label: the pods that are of all these audiences."""
        known = self._members.get((audiences, key))
        if known is None:
            known = self._members[audiences, key] = {}
            for pod, node in self.standing:
                domain = domain_of(node, key)
                if domain is not None and all(self.belongs(pod, audience) for audience in audiences):
                    known.setdefault(domain, []).append(pod)
        return known

    def belongs(self, pod: Pod, audience: Audience) -> bool:
        """Whether the pod is one of those a rule is about."""
        if audience.nobody or not all(fulfils(each, pod.labels.get(each.key)) for each in audience.labels):
            return False
        labels = self.case.snapshot.namespaces.get(pod.namespace, {})
        by_label = audience.namespace_labels
        return pod.namespace in audience.namespaces or (
            by_label is not None and all(fulfils(each, labels.get(each.key)) for each in by_label)
        )


def domain_of(node: Node, key: str) -> str | None:
    """A host without its label is known by its name."""
    return node.labels.get(key, node.name if key == HOSTNAME_LABEL else None)


def _apart(case: Case, scene: _Scene) -> Iterator[str]:
    """No newcomer is where somebody keeps away from it, or where somebody is from whom it keeps away."""
    new = {pod.key for _, pod, _ in case.placed}
    holders: dict[Term, dict[str, list[Pod]]] = {}
    for pod, node in scene.standing:
        for term in pod.company.apart if pod.company is not None else ():
            domain = domain_of(node, term.key)
            if domain is not None:
                holders.setdefault(term, {}).setdefault(domain, []).append(pod)
    for term, by_domain in holders.items():
        members = scene.members((term.audience,), term.key)
        for domain in sorted(by_domain.keys() & members.keys()):
            for holder in by_domain[domain]:
                for other in members[domain]:
                    if other.key != holder.key and (holder.key in new or other.key in new):
                        yield f"pods {holder.key} and {other.key} are in one {term.key} ({domain}), and keep apart"
                        break


def _has_company(scene: _Scene, pod: Pod, node: Node) -> bool:
    """By every key another pod of all the audiences is near."""
    assert pod.company is not None
    audiences = tuple(dict.fromkeys(term.audience for term in pod.company.near))
    for term in pod.company.near:
        near = scene.members(audiences, term.key).get(domain_of(node, term.key) or "", ())
        if all(other.key == pod.key for other in near):
            return False
    return True


def _may_be_first(scene: _Scene, pod: Pod, node: Node) -> bool:
    """It is of all the audiences itself, has all the labels, and nobody of them ran before. Who was placed earlier by
    the same plan cannot be told from who came later."""
    assert pod.company is not None
    audiences = tuple(dict.fromkeys(term.audience for term in pod.company.near))
    new = {each.key for _, each, _ in scene.case.placed}
    for term in pod.company.near:
        members = scene.members(audiences, term.key)
        if domain_of(node, term.key) is None or any(
            each.key not in new for found in members.values() for each in found
        ):
            return False
    return all(scene.belongs(pod, audience) for audience in audiences)


def _skew(scene: _Scene, pod: Pod, node: Node, rule: Spread) -> str | None:
    """What is wrong about the pod's domain: it stands in none, or in too full a one. Of the newcomers only those count
    that have the rule themselves: others may have come after them."""
    assert pod.company is not None
    keys = {each.term.key for each in pod.company.spread if each.hard}
    domains: dict[str, list[Pod]] = {}
    for other in scene.case.snapshot.nodes:
        domain = domain_of(other, rule.term.key)
        if domain is not None and _is_meant(pod, rule, other) and _has(other, keys):
            domains.setdefault(domain, [])
    own = domain_of(node, rule.term.key)
    if own is None or own not in domains:
        return f"has no {rule.term.key} to be spread over"
    node_of = {each.key: other for each, other in scene.standing}
    for domain, members in scene.members((rule.term.audience,), rule.term.key).items():
        if domain in domains:
            domains[domain] = [
                each
                for each in members
                if not each.terminating and _is_meant(pod, rule, node_of[each.key]) and _has(node_of[each.key], keys)
            ]
    new = {each.key for _, each, _ in scene.case.placed}
    bound = [each for each in domains[own] if each.key not in new or (each.company and rule in each.company.spread)]
    fewest = 0 if len(domains) < rule.min_domains else min(map(len, domains.values()))
    if len(bound) - fewest > rule.max_skew:
        return f"makes {len(bound)} in its {rule.term.key}, more than {rule.max_skew} above {fewest}"
    return None


def _has(node: Node, keys: set[str]) -> bool:
    return all(domain_of(node, key) is not None for key in keys)


def _is_meant(pod: Pod, rule: Spread, node: Node) -> bool:
    """Whether the node is one of those over which the pod is spread."""
    if rule.by_affinity:
        if any(node.labels.get(key) != value for key, value in pod.node_selector.items()):
            return False
        if pod.required_affinity is not None and not selects(pod.required_affinity, node):
            return False
    blocking = (taint for taint in node.taints if taint.effect in STOPPING)
    return not rule.by_taints or all(tolerates(pod.tolerations, taint) for taint in blocking)
