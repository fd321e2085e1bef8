"""Volumes in use as a plan grows: what is attached where, which volumes made by hand are left, who uses what alone.

Source: the plugins VolumeBinding, VolumeRestrictions and NodeVolumeLimits of kube-scheduler.
"""

from collections.abc import Iterable, Mapping, Sequence

from scheduler.model.nodes import Node
from scheduler.model.reasons import WaitingForVolumes
from scheduler.model.volumes import Storage
from scheduler.model.workloads import Pod
from scheduler.plan.ground.shelves import NO_WISH, Shelves, Wish

_BINDING = "It is bound within seconds, and then this pod can follow; if not, the claim's events say why."
_TAKEN = "Wait until that pod ends, or give each pod a claim of its own."

Choice = tuple[tuple[str, str], ...]
"""For claims (key) that wait for their first consumer: the volume each gets, "" for one that is to be provisioned."""


class Volumes:
    """What is attached where, which volumes are still free, and who uses what."""

    def __init__(
        self, nodes: Mapping[str, Node], storage: Storage, pods: Iterable[Pod] = (), wanted: Iterable[Pod] = ()
    ) -> None:
        """`pods` stand on nodes, `wanted` may be placed."""
        pods = [pod for pod in pods if pod.volumes and pod.node in nodes and not pod.done]
        wanted = [pod for pod in wanted if pod.volumes and not pod.node]
        self.idle = not wanted
        """Whether no pod that may be placed has volumes."""
        self._attached: dict[str, dict[tuple[str, str], int]] = {}
        self._taken: dict[str, str] = {}
        self._users: dict[str, dict[str, str]] = {}
        self._given: dict[str, str] = {}
        self._binding: dict[str, str] = {}
        self._shelves = Shelves(nodes, storage, [*pods, *wanted] if wanted else [])
        if self.idle:
            return
        for pod in pods:
            self.take(pod, pod.node)
            self._binding.update(dict.fromkeys(self._shelves.open_claims(pod), pod.key))
        self._shelves.open(wanted)

    def fork(self) -> "Volumes":
        """The same, of its own."""
        other = self.bare()
        other._attached = {node: dict(handles) for node, handles in self._attached.items()}
        other._taken, other._given = dict(self._taken), dict(self._given)
        other._users = {claim: dict(users) for claim, users in self._users.items()}
        return other

    def bare(self) -> "Volumes":
        """The same with nothing in use."""
        other = object.__new__(Volumes)
        other.idle, other._shelves, other._binding = self.idle, self._shelves, self._binding
        other._attached, other._taken, other._users, other._given = {}, {}, {}, {}
        return other

    def trouble(self, pod: Pod, joining: Mapping[str, str] | None = None) -> WaitingForVolumes | None:
        """The first of the pod's claims that it cannot use yet. `joining`: claims that one pod alone may use, and pods
        (key) that are about to."""
        for entry in pod.volumes if not self.idle else ():
            found = self._shelves.trouble(pod, entry.claim, own=entry.own)
            if found is None and entry.claim in self._binding:
                found = f"is being bound for pod {self._binding[entry.claim]}", _BINDING
            if found is None and self._shelves.exclusive(entry.claim):
                users = {**self._users.get(entry.claim, {})}
                users.pop(pod.uid, None)
                user = next(iter(users.values()), "") or (joining or {}).get(entry.claim, "")
                if user and user != pod.key:
                    found = f"pod {user} uses, and only one pod may (ReadWriteOncePod)", _TAKEN
            if found is not None:
                return WaitingForVolumes(pod=pod.key, claim=entry.claim, problem=found[0], remedy=found[1])
        return None

    def exclusive(self, pod: Pod) -> tuple[str, ...]:
        """Claims of the pod that no other pod may use."""
        return tuple(e.claim for e in pod.volumes if self._shelves.exclusive(e.claim)) if not self.idle else ()

    def ties(self, pod: Pod) -> tuple[str, ...]:
        """Claims (key) because of which pods must go to one node together: none of those is bound or has been given a
        node yet, and their volume will be reached from there alone."""
        if self.idle:
            return ()
        return tuple(e.claim for e in pod.volumes if self._shelves.tied(e.claim) and e.claim not in self._given)

    def overtaken(self, pods: Iterable[Pod]) -> bool:
        """Whether pods placed by this plan have changed what these pods can have."""
        if self.idle:
            return False
        for pod in pods:
            for entry in pod.volumes:
                users = self._users.get(entry.claim, {})
                if any(uid != pod.uid for uid in users) and self._shelves.exclusive(entry.claim):
                    return True
                if entry.claim in self._given and self._shelves.tied(entry.claim):
                    return True
        return False

    def wish(self, pods: Sequence[Pod]) -> Wish:
        """What the pods ask of the node that they go to together. None of them is in trouble."""
        if self.idle or not any(pod.volumes for pod in pods):
            return NO_WISH
        claims = tuple(dict.fromkeys(entry.claim for pod in pods for entry in pod.volumes))
        pinned = tuple(self._given.get(claim, "") if self._shelves.tied(claim) else "" for claim in claims)
        return self._shelves.wish(claims, pinned)

    def state(self, node: str) -> object:
        """Equal for nodes of which `refusal` says the same, now."""
        shelves = self._shelves
        if self.idle or not shelves.passing:
            return None
        limits = shelves.storage.limits.get(node, {})
        attached = self._attached.get(node, {})
        used: dict[str, int] = {}
        for driver, _ in attached:
            used[driver] = used.get(driver, 0) + 1
        return (
            tuple((driver, limits[driver] - used.get(driver, 0)) for driver in shelves.drivers if driver in limits),
            frozenset(handle for handle in attached if handle in shelves.shared),
            frozenset(name for name in shelves.reached(node) if name not in self._taken),
            shelves.provisions(node),
        )

    def refusal(self, node: str, wishes: Sequence[tuple[Wish, int]]) -> str | None:
        """Why the node cannot take so many of each of these together, in words that complete "the node ..."; None if it
        can."""
        asking = [(wish, count) for wish, count in wishes if wish.passing]
        if not asking:
            return None
        seeks = [seek for wish, count in asking for _ in range(count) for seek in wish.seeks]
        return self._too_many(node, asking) or (self._unmatched(node, seeks) if seeks else None)

    def choose(self, node: str, pods: Sequence[Pod]) -> dict[str, str] | None:
        """For every claim of the pods that waits for its first consumer, the volume it gets if they all go to the node,
        "" for one to be provisioned; None if some would get none."""
        claims = (
            dict.fromkeys(claim for pod in pods for claim in self._shelves.open_claims(pod)) if not self.idle else {}
        )
        # One that this plan has given a node gets what it got.
        open_ = [claim for claim in claims if claim not in self._given]
        matched = self._match(node, [self._shelves.seek(claim) for claim in open_])
        if matched is None:
            return None
        chosen = dict(zip(open_, matched, strict=True))
        by_claim = {claim: volume for volume, claim in self._taken.items()}
        return {claim: chosen.get(claim, by_claim.get(claim, "")) for claim in claims}

    def part(self, chosen: Mapping[str, str], pod: Pod) -> Choice:
        """What of it is the pod's."""
        if self.idle:
            return ()
        return tuple((claim, chosen[claim]) for claim in self._shelves.open_claims(pod))

    def take(self, pod: Pod, node: str, choice: Choice = ()) -> tuple[str, ...]:
        """The pod is on the node and its claims get this. Returns other nodes for which less is left."""
        if self.idle or not pod.volumes:
            return ()
        touched: list[str] = []
        for claim, volume in choice:
            self._given.setdefault(claim, node)
            if volume and volume not in self._taken:
                self._taken[volume] = claim
                touched += self._shelves.reaching(volume)
        handles = self._attached.setdefault(node, {})
        for handle in self._shelves.handles(pod):
            handles[handle] = handles.get(handle, 0) + 1
        for entry in pod.volumes:
            if self._shelves.exclusive(entry.claim):
                self._users.setdefault(entry.claim, {})[pod.uid] = pod.key
        return tuple(dict.fromkeys(touched))

    def give_back(self, pod: Pod, node: str, choice: Choice = ()) -> tuple[str, ...]:
        """The opposite of `take`."""
        if self.idle or not pod.volumes:
            return ()
        touched: list[str] = []
        for claim, volume in choice:
            self._given.pop(claim, None)
            if self._taken.pop(volume, None) is not None:
                touched += self._shelves.reaching(volume)
        handles = self._attached[node]
        for handle in self._shelves.handles(pod):
            handles[handle] -= 1
            if not handles[handle]:
                del handles[handle]
        for entry in pod.volumes:
            self._users.get(entry.claim, {}).pop(pod.uid, None)
        return tuple(dict.fromkeys(touched))

    def _too_many(self, node: str, asking: Sequence[tuple[Wish, int]]) -> str | None:
        limits = self._shelves.storage.limits.get(node)
        if not limits:
            return None
        attached = self._attached.get(node, {})
        more: dict[str, int] = {}
        for driver, _ in dict.fromkeys(
            handle for wish, _ in asking for handle in wish.shared if handle not in attached
        ):
            more[driver] = more.get(driver, 0) + 1
        for wish, count in asking:
            for driver, each in wish.attach:
                more[driver] = more.get(driver, 0) + each * count
        for driver, count in sorted(more.items()):
            used = sum(1 for owner, _ in attached if owner == driver)
            if driver in limits and used + count > limits[driver]:
                return f"has as many volumes of {driver} as it can attach"
        return None

    def _unmatched(self, node: str, seeks: Sequence[int]) -> str | None:
        if self._match(node, seeks) is not None:
            return None
        classes = sorted({self._shelves.seeks[seek].storage_class for seek in seeks})
        return f"has no free PersistentVolume that fits (StorageClass {', '.join(classes)})"

    def _match(self, node: str, seeks: Sequence[int]) -> list[str] | None:
        """A volume for each, no two the same: those first that nothing is provisioned for, by augmenting paths."""
        shelves = self._shelves
        here, provisions = shelves.reached(node), shelves.provisions(node) | shelves.only_made
        owner: dict[str, int] = {}

        def give(place: int, seen: set[str]) -> bool:
            fitting = shelves.seeks[seeks[place]].candidates
            for name in here:
                if name in fitting and name not in self._taken and name not in seen:
                    seen.add(name)
                    if name not in owner or give(owner[name], seen):
                        owner[name] = place
                        return True
            return False

        for place in sorted(range(len(seeks)), key=lambda p: (seeks[p] in provisions, p)):
            if not give(place, set()) and seeks[place] not in provisions:
                return None
        found = [""] * len(seeks)
        for name, place in owner.items():
            found[place] = name
        return found
