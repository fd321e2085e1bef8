"""Pods of one ComputeDomain belong in one clique: which domains pods join, and where those are who have joined.

Gangs of several pods, and several gangs, may share a domain; so may pods of other schedulers.
"""

from collections.abc import Container, Iterable, Mapping

from scheduler.dra.compute_domains import compute_domains
from scheduler.model.workloads import Claim, Pod


class ComputeDomains:
    """By the domain's UID, the node of each pod (key) that has joined it, those placed by the plan included."""

    def __init__(
        self, claims: Mapping[str, Claim] | None = None, pods: Iterable[Pod] = (), nodes: Container[str] = ()
    ) -> None:
        """`pods` on other nodes than these do not count: what they were part of is gone."""
        configured = ((key, claim.spec) for key, claim in (claims or {}).items() if claim.spec.devices.config)
        found = {key: joined for key, spec in configured if (joined := compute_domains(spec))}
        self._of_claim: Mapping[str, frozenset[str]] = found
        self._nodes: dict[str, dict[str, str]] = {}
        for pod in pods if found else ():
            if pod.node in nodes and not (pod.terminating or pod.done):
                self.settle(pod, pod.node)

    def of(self, pods: Iterable[Pod]) -> frozenset[str]:
        """The domains that these pods join."""
        if not self._of_claim:
            return frozenset()
        claims = (entry.claim for pod in pods for entry in pod.claims if entry.claim)
        return frozenset(domain for claim in claims for domain in self._of_claim.get(claim, ()))

    def nodes(self, domain: str) -> frozenset[str]:
        """Where its pods are."""
        return frozenset(self._nodes.get(domain, {}).values())

    def settle(self, pod: Pod, node: str) -> None:
        """The pod has this place, or the promise of it."""
        for domain in self.of((pod,)):
            self._nodes.setdefault(domain, {})[pod.key] = node

    def leave(self, pod: Pod) -> None:
        """The pod has its place no longer."""
        for domain in self.of((pod,)):
            self._nodes.get(domain, {}).pop(pod.key, None)

    def without(self, pods: Iterable[Pod]) -> "ComputeDomains":
        """The same as if these pods had no place; what is settled there is not settled here."""
        other = ComputeDomains()
        other._of_claim = self._of_claim
        other._nodes = {domain: dict(nodes) for domain, nodes in self._nodes.items()}
        for pod in pods:
            other.leave(pod)
        return other
