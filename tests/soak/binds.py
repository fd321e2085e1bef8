"""When a pod is bound, its claims hold devices, for it, and they are ready; what its containers ask for by the name of
a resource is in a claim that its status names. A device that has failed is given back.

Versions of pods and claims are those of one store: they tell what was first. Source: KEP 4381, KEP 5004, KEP 5007.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from scheduler.api.dra import EXTENDED_RESOURCE_CLAIM_ANNOTATION
from tests.service.verifier import Device
from tests.soak.asks import Document, is_served
from tests.soak.judge import Awake

MOST_FAILED_SECONDS = 30.0
MOST_FAILURES = 10
"""How often one device may fail one claim, or one pod for which claims are made: whoever leads anew does not know what
failed under another, and where there is nothing else what failed is tried again, after waits that double: eight times
in the minute, and once for each leader."""


class _Bound(NamedTuple):
    version: int
    pod: Document


class Binds:
    """`see_claim` and `see_pod` are to get every version. `settled()` judges what is left once all are seen.

    `figures`: how many pods were judged, how many claims were made for extended resources, how many devices were made
    ready; how often one failed, and how often the claim then got another one or the same."""

    def __init__(self, awake: Awake) -> None:
        self._awake = awake
        self._claims: dict[str, list[tuple[int, Document | None]]] = {}
        self._seen = 0
        self._unbound: set[str] = set()
        self._due: list[_Bound] = []
        self._failing: dict[str, float] = {}
        self._failed: dict[str, Counter[Device]] = {}
        self._last: dict[str, set[Device]] = {}
        self.figures: Counter[str] = Counter()
        self.problems: list[str] = []

    def see_claim(self, event: str, claim: Document) -> None:
        """The next version of a claim."""
        metadata = claim["metadata"]
        key = f"{metadata['namespace']}/{metadata['name']}"
        version = int(metadata["resourceVersion"])
        history = self._claims.setdefault(key, [])
        self.figures["made claims"] += bool(not history and _is_made(claim))
        self._see_failure(key, history[-1][1] if history else None, None if event == "DELETED" else claim)
        history.append((version, None if event == "DELETED" else claim))
        self._seen = max(self._seen, version)
        due, self._due = self._due, []
        for bound in due:
            self._judge_in_time(bound)

    def see_pod(self, event: str, pod: Document) -> None:
        """The next version of a pod. One that was bound when it was first seen is left out."""
        uid = pod["metadata"]["uid"]
        if event == "DELETED":
            self._unbound.discard(uid)
        elif not pod["spec"].get("nodeName"):
            self._unbound.add(uid)
        elif uid in self._unbound:
            self._unbound.discard(uid)
            if not pod["metadata"].get("deletionTimestamp"):
                self._judge_in_time(_Bound(int(pod["metadata"]["resourceVersion"]), pod))

    def settled(self) -> None:
        """Nothing changes any more: judge what waited for a later version."""
        due, self._due = self._due, []
        for bound in due:
            self._judge(bound)

    def look(self) -> None:
        """Note who has held a device that failed for too long. To be called every now and then."""
        for key, since in sorted(self._failing.items()):
            problem = f"claim {key} held a device that had failed for more than {MOST_FAILED_SECONDS:g} s"
            if self._awake.seconds - since > MOST_FAILED_SECONDS and problem not in self.problems:
                self.problems.append(problem)

    # --- what is wrong --------------------------------------------------------------------------------------------

    def _judge_in_time(self, bound: _Bound) -> None:
        """Now, if all claims are known as they were then; a claim's later version tells that."""
        if bound.version < self._seen:
            self._judge(bound)
        else:
            self._due.append(bound)

    def _judge(self, bound: _Bound) -> None:
        self.figures["judged pods"] += 1
        name = f"pod {bound.pod['metadata']['name']}, bound at version {bound.version}:"
        self.problems += [f"{name} {problem}" for problem in self._wrong(bound)]

    def _wrong(self, bound: _Bound) -> Iterable[str]:
        pod = bound.pod
        for name in _claim_names(pod):
            claim = self._at(f"{pod['metadata']['namespace']}/{name}", bound.version)
            if claim is None:
                yield f"claim {name} is not there"
                continue
            status = claim.get("status") or {}
            if not status.get("allocation"):
                yield f"claim {name} is not allocated"
            elif pod["metadata"]["uid"] not in {entry["uid"] for entry in status.get("reservedFor") or ()}:
                yield f"claim {name} is not reserved for it"
            waiting, failed = _unready(claim)
            self.figures["devices made ready"] += sum(bool(each.get("bindingConditions")) for each in _results(claim))
            yield from (f"device {'/'.join(device)} of claim {name} is not ready" for device in sorted(waiting))
            yield from (f"device {'/'.join(device)} of claim {name} has failed" for device in sorted(failed))
        yield from self._wrong_mappings(bound)

    def _wrong_mappings(self, bound: _Bound) -> Iterable[str]:
        pod = bound.pod
        status = (pod.get("status") or {}).get("extendedResourceClaimStatus") or {}
        mapped = {
            (entry["containerName"], entry["resourceName"]): entry["requestName"]
            for entry in status.get("requestMappings") or ()
        }
        asked = {
            (container["name"], resource): int(count)
            for container in pod["spec"]["containers"]
            for resource, count in ((container.get("resources") or {}).get("limits") or {}).items()
            if is_served(resource)
        }
        if asked.keys() != mapped.keys():
            yield f"its status maps {sorted(mapped)}, its containers ask for {sorted(asked)}"
        if not status:
            return
        claim = self._at(f"{pod['metadata']['namespace']}/{status['resourceClaimName']}", bound.version)
        if claim is None:
            return
        owners = [owner["uid"] for owner in claim["metadata"].get("ownerReferences") or ()]
        if not _is_made(claim) or owners != [pod["metadata"]["uid"]]:
            yield f"claim {status['resourceClaimName']} was not made for it"
        given = Counter(result["request"] for result in _results(claim))
        for (container, resource), request in sorted(mapped.items()):
            count = asked.get((container, resource), 0)
            if given[request] != count:
                yield f"container {container} asks for {count} {resource}, request {request} got {given[request]}"

    def _see_failure(self, key: str, before: Document | None, after: Document | None) -> None:
        """Count what fails, and what comes after it."""
        failed_before = _unready(before)[1] if before is not None else set()
        failed = _unready(after)[1] if after is not None else set()
        if not failed:
            self._failing.pop(key, None)
        elif key not in self._failing:
            self._failing[key] = self._awake.seconds
        if after is None:
            return
        uid = _wanting(after)
        for device in sorted(failed - failed_before):
            self.figures["failures"] += 1
            counts = self._failed.setdefault(uid, Counter())
            counts[device] += 1
            self._last[uid] = self._last.get(uid, set()) | {device}
            if counts[device] == MOST_FAILURES + 1:
                self.problems.append(
                    f"claim {key} was given device {'/'.join(device)} again after it had failed {MOST_FAILURES} times"
                )
        held = {_device(result) for result in _results(after)}
        if held and uid in self._last and not failed and not _results(before):
            same = held & self._last.pop(uid)
            self.figures["tried again with the same" if same else "tried elsewhere"] += 1

    def _at(self, key: str, version: int) -> Document | None:
        """The claim as it was at that version."""
        for number, claim in reversed(self._claims.get(key, [])):
            if number <= version:
                return claim
        return None


def forgotten(claims: list[Document], pods: list[Document]) -> list[str]:
    """Claims made for extended resources whose pods have ended or are gone."""
    alive = {
        pod["metadata"]["uid"] for pod in pods if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    }
    return [
        f"claim {claim['metadata']['name']}, made for extended resources, outlives its pod"
        for claim in claims
        if _is_made(claim)
        and not any(owner["uid"] in alive for owner in claim["metadata"].get("ownerReferences") or ())
    ]


def _is_made(claim: Document) -> bool:
    annotations = claim["metadata"].get("annotations") or {}
    return bool(annotations.get(EXTENDED_RESOURCE_CLAIM_ANNOTATION) == "true")


def _wanting(claim: Document) -> str:
    """Who goes on wanting devices when some have failed: the claim, or the pod for which another one is made."""
    owners = claim["metadata"].get("ownerReferences") or ()
    return str(owners[0]["uid"] if _is_made(claim) and owners else claim["metadata"]["uid"])


def _claim_names(pod: Document) -> Iterable[str]:
    """The claims that the pod uses; "?" for one that it has not got."""
    status = pod.get("status") or {}
    made = {entry["name"]: entry.get("resourceClaimName") for entry in status.get("resourceClaimStatuses") or ()}
    for entry in pod["spec"].get("resourceClaims") or ():
        yield entry.get("resourceClaimName") or made.get(entry["name"]) or "?"
    if "extendedResourceClaimStatus" in status:
        yield status["extendedResourceClaimStatus"]["resourceClaimName"]


def _results(claim: Document | None) -> list[Document]:
    allocation = ((claim or {}).get("status") or {}).get("allocation") or {}
    return list(allocation.get("devices", {}).get("results") or ())


def _device(entry: Document) -> Device:
    return entry["driver"], entry["pool"], entry["device"]


def _unready(claim: Document) -> tuple[set[Device], set[Device]]:
    """The devices of a claim that wait for a condition, and those with one that says they have failed."""
    told = {
        _device(entry): {each["type"] for each in entry.get("conditions") or () if each["status"] == "True"}
        for entry in (claim.get("status") or {}).get("devices") or ()
    }
    waiting, failed = set(), set()
    for result in _results(claim):
        device = _device(result)
        if not told.get(device, set()) >= set(result.get("bindingConditions") or ()):
            waiting.add(device)
        if told.get(device, set()) & set(result.get("bindingFailureConditions") or ()):
            failed.add(device)
    return waiting, failed
