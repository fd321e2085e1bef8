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
        found = {key: joined for key, claim in (claims or {}).items() if (joined := compute_domains(claim.spec))}
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
        """The pod has this place."""
        for domain in self.of((pod,)):
            self._nodes.setdefault(domain, {})[pod.key] = node
