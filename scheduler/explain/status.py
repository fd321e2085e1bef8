"""Reports -> what is to be written: statuses, conditions and Events, as values; only what changed.

The first word about an object is compared with what its status says already, later ones with what was said last, so a
restart repeats nothing. A new reason is said at once; new numbers for the same reason are said now and then. A status
that the server refuses is tried again after pauses that grow; its Event is not repeated.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from scheduler.api import core, kinds
from scheduler.api.changes import Change
from scheduler.api.crds import BELOW_MINIMUM
from scheduler.api.kinds import Document, Kind
from scheduler.api.meta import Wire
from scheduler.explain import documents
from scheduler.explain.documents import Said
from scheduler.explain.events import Regarding, event, rfc3339
from scheduler.explain.patches import condition_as_said, outcomes, part_said, replacing, with_times
from scheduler.explain.why import SETTLING_MS, GangReport, PlacedPod, Reports, StoppedPod, sentence
from scheduler.model.endings import OVERTIME, STALE
from scheduler.model.plan import QueueReport, Verdict
from scheduler.model.reasons import Reason
from scheduler.model.snapshot import SetAside

# How often numbers are renewed while the reason stays: pods are many, and their owner says the same.
_FAILED = "FailedScheduling"
_CALM_MS = 1_000
_CALM_PODS_MS = 10_000
_CALM_USAGE_MS = 60_000
# Until a refused status is tried again: doubles from the first to the last.
_FIRST_PAUSE_MS = 2_000
_LAST_PAUSE_MS = 60_000
# Said about a PodGroup of scheduling.k8s.io once, and never taken back.
_FOR_EVER = [("PodGroupInitiallyScheduled", "True")]

_OWNERS: Mapping[str, Kind] = {kind.kind: kind for kind in kinds.OWNERS}
_SET_ASIDE: Mapping[str, tuple[Kind, ...]] = {
    "Pod": (kinds.POD,),
    "PodGroup": tuple(kind for kind, _ in documents.POD_GROUPS),
    "Queue": (kinds.QUEUE, kinds.KAI_QUEUE, kinds.SEED_QUEUE),
    "Topology": (kinds.TOPOLOGY, kinds.KAI_TOPOLOGY),
    "Node": (kinds.NODE,),
    "ResourceClaim": (kinds.RESOURCE_CLAIM,),
    "ResourceSlice": (kinds.RESOURCE_SLICE,),
    "DeviceClass": (kinds.DEVICE_CLASS,),
    **{name: (kind,) for name, kind in _OWNERS.items()},
}


class Observed(Protocol):
    """The newest objects, as the watches told them (`scheduler.state.cluster.ClusterState`)."""

    def keys(self, kind: Kind) -> Iterable[str]: ...
    def object(self, kind: Kind, key: str) -> Wire | None:
        """The object, with our own writes that are under way counted as done."""
        ...

    def change(self, kind: Kind, key: str) -> Change | None:
        """The object as it was told."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusWrite:
    """One write. `how`: a patch of the status of `kind` `key` ("merge", "strategic"), or "create": `body` is a new
    Event. A patch carries the uid, so that a namesake made since is refused by the server (409), which is well."""

    kind: Kind
    key: str
    uid: str
    body: Mapping[str, Any]
    how: Literal["merge", "strategic", "create"]


@dataclass(slots=True, kw_only=True)
class _Told:
    """What was said last about an object, and when a write of it was last tried."""

    said: Said
    at_ms: int
    refused: bool = False
    """The server has not got it."""

    pause_ms: int = 0
    """Between the last try and the next, if it is refused."""

    again: bool = False
    """It was said soon after something else was."""


_Subject = tuple[str, str, str]

_STOPPED: Mapping[str, tuple[str, Literal["Normal", "Warning"]]] = {
    "consolidate": ("Moved", "Normal"),
    "reclaim": ("Reclaimed", "Normal"),
    "preempt": ("Preempted", "Normal"),
    STALE: ("GangBelowMinimum", "Warning"),
    OVERTIME: ("MaxRuntimeReached", "Warning"),
}
"""What Events call it when a stage stops a pod."""
_STOPPED_GANG: Mapping[str, tuple[str, str]] = {
    STALE: ("GangBelowMinimum", "Too few of its pods ran for longer than its grace: the others are stopped."),
    OVERTIME: ("MaxRuntimeReached", "It ran for as long as it may: its pods are stopped."),
}


class Teller:
    """Remembers what was said. One per leader; `scheduler_name` is ours: pods of others are never written to."""

    def __init__(self, observed: Observed, *, scheduler_name: str = "tutti") -> None:
        self._observed = observed
        self._scheduler_name = scheduler_name
        self._told: dict[_Subject, _Told] = {}
        self._said: dict[str, GangReport] = {}
        """Reports of which nothing is left to say."""

        self._scores: dict[str, int | None] = {}
        self._placed: dict[str, dict[str, PlacedPod]] = {}
        """Pods placed and not yet seen on their node, by gang and uid."""

        self.due_ms: int | None = None
        """When something new, held back for calm, may be said; None if there is nothing."""

        self._reports: Reports | None = None

    def status_writes(self, reports: Reports) -> tuple[StatusWrite, ...]:
        """What `reports` says that was not said before: per object its status, then its Event."""
        self._reports = reports
        for gang in reports.gangs:
            self._note(gang)
        return self._writes(reports)

    def news(self, now_ms: int) -> tuple[StatusWrite, ...]:
        """What of the last reports has come to pass since and was not said: pods were seen on their nodes.

        What waits for a report to be made anew goes on waiting for the same time."""
        if self._reports is None:
            return ()
        due_ms = self.due_ms
        writes = self._writes(replace(self._reports, now_ms=now_ms))
        self.due_ms = min((each for each in (due_ms, self.due_ms) if each is not None), default=None)
        return writes

    def _writes(self, reports: Reports) -> tuple[StatusWrite, ...]:
        turn = _Turn(self._observed, self._told, reports.now_ms, self._scheduler_name)
        writes = [*self._seen_on_their_nodes(turn)]
        for gang in reports.gangs:
            said = self._said.get(gang.gang)
            if said is gang or said == gang:  # of most gangs it is the same object: what runs is told again
                turn.keep(gang)
                continue
            waits = turn.waits
            writes += self._gang(gang, turn)
            if turn.waits > waits or gang.gang in self._placed:
                self._said.pop(gang.gang, None)
            else:
                self._said[gang.gang] = gang
        for queue in reports.queues:
            writes += _queue(queue, turn)
        for claim in reports.claims:
            regarding = Regarding(kind=kinds.RESOURCE_CLAIM, key=claim.claim, uid=claim.uid)
            writes += turn.only_event(regarding, claim.reason, _FAILED)
        for aside in reports.set_aside:
            writes += _set_aside(aside, turn)
        for key in sorted(self._observed.keys(kinds.POD_GROUP)):
            writes += _without_pods(key, turn)
        self._told, self.due_ms = turn.told, turn.due_ms
        present = {gang.gang for gang in reports.gangs}
        self._scores = {gang: score for gang, score in self._scores.items() if gang in present}
        self._said = {gang: report for gang, report in self._said.items() if gang in present}
        return tuple(writes)

    def stopped(self, pods: Iterable[StoppedPod], now_ms: int) -> tuple[StatusWrite, ...]:
        """Events for pods that were stopped, and for the objects that stand for the gangs that end for their own sake:
        the pods will soon be gone."""
        turn = _Turn(self._observed, {}, now_ms, self._scheduler_name)
        reports = {report.gang: report for report in self._reports.gangs} if self._reports is not None else {}
        writes: list[StatusWrite] = []
        gangs: dict[str, StoppedPod] = {}
        for pod in pods:
            reason, type_ = _STOPPED[pod.stage]
            writes.append(turn.event(Regarding(kind=kinds.POD, key=pod.key, uid=pod.uid), reason, pod.why, type_))
            if pod.stage in (STALE, OVERTIME):
                gangs.setdefault(pod.gang, pod)
        for gang, pod in gangs.items():
            owner = turn.owner_of(reports[gang]) if gang in reports else None
            if owner is not None:
                regarding = Regarding(kind=owner[0], key=_key_of(reports[gang].owner), uid=reports[gang].uid)
                writes.append(turn.event(regarding, *_STOPPED_GANG[pod.stage], "Warning"))
        return tuple(writes)

    def unsaid(self, write: StatusWrite) -> None:
        """The server refused a write. A status is made again after a pause; an Event is not."""
        told = self._told.get((write.kind.plural, write.key, write.uid))
        if told is None or write.how == "create":
            return
        self._said.clear()
        told.refused = True
        told.pause_ms = min(max(2 * told.pause_ms, _FIRST_PAUSE_MS), _LAST_PAUSE_MS)
        due_ms = told.at_ms + told.pause_ms
        self.due_ms = due_ms if self.due_ms is None else min(self.due_ms, due_ms)

    def _note(self, report: GangReport) -> None:
        """Pods that were placed now are looked out for."""
        if report.verdict is Verdict.PLACED:
            self._placed.setdefault(report.gang, {}).update((pod.uid, pod) for pod in report.placements)
            self._scores[report.gang] = report.score
        if report.verdict in (Verdict.PENDING, Verdict.REFUSED):
            self._placed.pop(report.gang, None)

    def _gang(self, report: GangReport, turn: "_Turn") -> Iterator[StatusWrite]:
        if report.gang in self._placed:
            turn.keep(report)
            return
        if report.bound and report.score is None:
            report = replace(report, score=self._scores.get(report.gang))
        owner = turn.owner_of(report)
        if owner is not None:
            kind, say = owner
            regarding = Regarding(kind=kind, key=_key_of(report.owner), uid=report.uid)
            if say is not None:
                yield from turn.status(regarding, say(report), report.reason, _FAILED)
            elif report.reason is not None:
                yield from turn.only_event(regarding, report.reason, _FAILED)
            if report.below_since_ms is not None and report.ends_at_ms is not None:
                yield from turn.warning_of_end(regarding, report.below_since_ms, report.ends_at_ms)
        if report.reason is None:
            return
        if report.settling:
            turn.wait_until(turn.now_ms + SETTLING_MS)
            return
        said = documents.pod(report.reason)
        for pod in report.waiting:
            regarding = Regarding(kind=kinds.POD, key=pod.key, uid=pod.uid)
            yield from turn.status(regarding, said, report.reason, _FAILED)

    def _seen_on_their_nodes(self, turn: "_Turn") -> Iterator[StatusWrite]:
        """An Event for every pod that we placed and that is on its node now. Pods that vanished are forgotten."""
        for gang, placed in list(self._placed.items()):
            for uid, pod in list(placed.items()):
                told = self._observed.change(kinds.POD, pod.key)
                found = told.object if told is not None else None
                if isinstance(found, core.Pod) and found.metadata.uid == uid and not found.spec.node_name:
                    continue
                del placed[uid]
                if isinstance(found, core.Pod) and found.metadata.uid == uid and found.spec.node_name == pod.node:
                    regarding = Regarding(kind=kinds.POD, key=pod.key, uid=uid)
                    yield turn.event(regarding, "Scheduled", f"{pod.key} is placed on {pod.node}.", "Normal")
            if not placed:
                del self._placed[gang]


class _Turn:
    """One call of `status_writes`: builds what is remembered next from what was."""

    def __init__(self, observed: Observed, before: dict[_Subject, _Told], now_ms: int, component: str) -> None:
        self._observed = observed
        self._before = before
        self.now_ms = now_ms
        self._component = component
        self.told: dict[_Subject, _Told] = {}
        self._left_alone: set[_Subject] = set()
        self.due_ms: int | None = None
        self.waits = 0

    def is_told(self, regarding: Regarding) -> bool:
        """Whether something was said about the object in this turn, or what was said before stands."""
        subject = (regarding.kind.plural, regarding.key, regarding.uid)
        return subject in self.told or subject in self._left_alone

    def keep(self, report: GangReport) -> None:
        """Nothing is said about this gang now; what was said stands."""
        owner = self.owner_of(report)
        if owner is not None:
            self._keep((owner[0].plural, _key_of(report.owner), report.uid))
            self._keep((_end_of(owner[0]), _key_of(report.owner), report.uid))
        for pod in report.waiting:
            self._keep((kinds.POD.plural, pod.key, pod.uid))

    def owner_of(self, report: GangReport) -> tuple[Kind, Any] | None:
        """The kind of the object that stands for the gang, and what its status can say; None for a pod alone."""
        name = report.owner.partition("/")[0]
        if name != "PodGroup":
            return (_OWNERS[name], None) if name in _OWNERS else None
        key = _key_of(report.owner)
        there = [(kind, say) for kind, say in documents.POD_GROUPS if self._observed.object(kind, key) is not None]
        ours = [pair for pair in there if self.uid_of(pair[0], key) == report.uid]
        return next(iter(ours or there), None)

    def status(self, regarding: Regarding, said: Said, reason: Reason | None, token: str) -> Iterator[StatusWrite]:
        """The status, if it says something new; and an Event, if the reason is new."""
        subject = (regarding.kind.plural, regarding.key, regarding.uid)
        if subject in self.told:
            return
        last = self._before.get(subject)
        if regarding.kind is kinds.POD_GROUP:
            before = (last.said,) if last is not None else ()
            said = documents.taking_back(said, self._status_of(regarding), *before)
        refused = last is not None and last.refused
        if last is not None and not refused and self._as_told(last, said):
            self._keep(subject)
            return
        code = documents.code_of(said)
        if last is not None and refused and self.now_ms < last.at_ms + last.pause_ms:
            self.told[subject] = replace(last, said=said)
            self.wait_until(last.at_ms + last.pause_ms)
            if reason is not None and code and documents.code_of(last.said) != code:
                yield self.event(regarding, token, sentence(reason), "Warning")
            return
        observed = self._status_of(regarding)
        known = last.said if last is not None and not refused else part_said(observed, said)
        final = regarding.kind is kinds.NATIVE_POD_GROUP and outcomes(known) == _FOR_EVER
        if known == said or final:
            self._remember(subject, said, 0)
            return
        if documents.without_usage(known) == documents.without_usage(said) and not documents.usage_moved(known, said):
            self._remember(subject, known, 0)
            return
        calm = _CALM_PODS_MS if regarding.kind is kinds.POD else _CALM_MS
        renewed = documents.code_of(known) == code and outcomes(known) == outcomes(said)
        soon = renewed and last is not None and not refused and self.now_ms - last.at_ms < calm
        # What a queue has in use rises with a placement and falls again at once if its commit fails: that cannot wait.
        if soon and last is not None and (last.again or regarding.kind is not kinds.QUEUE):
            self._keep(subject)
            self.wait_until(last.at_ms + calm)
            return
        self._remember(subject, said, self.now_ms, last.pause_ms if last is not None else 0)
        self.told[subject].again = soon
        yield StatusWrite(
            kind=regarding.kind,
            key=regarding.key,
            uid=regarding.uid,
            body={"metadata": {"uid": regarding.uid}, "status": self._timed(said, observed, known)},
            how="strategic" if regarding.kind is kinds.POD else "merge",
        )
        heard = known if last is None else last.said
        if reason is not None and code and documents.code_of(heard) != code:
            yield self.event(regarding, token, sentence(reason), "Warning")

    def _as_told(self, last: _Told, said: Said) -> bool:
        """Whether it is what was said last; past use, which changes all the time, is said now and then, or with
        anything else."""
        if last.said == said:
            return True
        if documents.without_usage(last.said) != documents.without_usage(said):
            return False
        return self.now_ms - last.at_ms < _CALM_USAGE_MS or not documents.usage_moved(last.said, said)

    def only_event(self, regarding: Regarding, reason: Reason, token: str) -> Iterator[StatusWrite]:
        """An Event, if the reason is new, for objects whose status has no place for it."""
        subject = (regarding.kind.plural, regarding.key, regarding.uid)
        if subject in self.told:
            return
        last = self._before.get(subject)
        self._remember(subject, {"reason": {"code": reason.code}}, self.now_ms)
        if last is None or documents.code_of(last.said) != reason.code:
            yield self.event(regarding, token, sentence(reason), "Warning")

    def warning_of_end(self, regarding: Regarding, since_ms: int, ends_at_ms: int) -> Iterator[StatusWrite]:
        """An Event, once for each time that a gang falls below its minimum."""
        subject = (_end_of(regarding.kind), regarding.key, regarding.uid)
        said: Said = {"since": since_ms, "until": ends_at_ms}
        last = self._before.get(subject)
        self._remember(subject, said, self.now_ms)
        if last is None and documents.short_as_shown(self._status_of(regarding)):
            return  # before a restart
        if last is None or last.said != said:
            note = f"Fewer of its pods run than must run together; at {rfc3339(ends_at_ms)} the others are stopped."
            yield self.event(regarding, BELOW_MINIMUM, note, "Warning")

    def wait_until(self, ms: int) -> None:
        """There will be something to say then."""
        self.waits += 1
        self.due_ms = ms if self.due_ms is None else min(self.due_ms, ms)

    def is_ours(self, key: str) -> bool:
        """Whether the pod is there, can be read and names our scheduler."""
        pod = self._observed.object(kinds.POD, key)
        return isinstance(pod, core.Pod) and pod.spec.scheduler_name == self._component

    def event(self, regarding: Regarding, reason: str, note: str, type_: Literal["Normal", "Warning"]) -> StatusWrite:
        body = event(regarding, reason=reason, note=note, now_ms=self.now_ms, component=self._component, type_=type_)
        name = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
        return StatusWrite(kind=kinds.EVENT, key=name, uid="", body=body, how="create")

    def _keep(self, subject: _Subject) -> None:
        self._left_alone.add(subject)
        if subject in self._before:
            self.told[subject] = self._before[subject]

    def _remember(self, subject: _Subject, said: Said, at_ms: int, pause_ms: int = 0) -> None:
        self.told[subject] = _Told(said=said, at_ms=at_ms, pause_ms=pause_ms)

    def document(self, kind: Kind, key: str) -> Document | None:
        found = self._observed.object(kind, key)
        return found if isinstance(found, Document) else None

    def uid_of(self, kind: Kind, key: str) -> str:
        found = self._observed.object(kind, key)
        return str(getattr(getattr(found, "metadata", None), "uid", ""))

    def _status_of(self, regarding: Regarding) -> Mapping[str, Any]:
        """The status that the object shows, as far as it concerns us."""
        found = self._observed.object(regarding.kind, regarding.key)
        if isinstance(found, Document):
            return found.status
        if isinstance(found, core.Pod):
            # The patch of a pod merges conditions by type: those of others are no business of ours.
            ours = [each for each in found.status.conditions or () if each.type == "PodScheduled"]
            return {"conditions": [condition_as_said(each) for each in ours]}
        return {}

    def _timed(self, said: Said, observed: Mapping[str, Any], known: Said) -> Said:
        """What is said, as a patch with times: a condition keeps the time of its last transition."""
        now = rfc3339(self.now_ms)
        timed = {field: replacing(value, observed.get(field), known.get(field)) for field, value in said.items()}
        if isinstance(said.get("reason"), Mapping):
            timed["reason"]["decidedAt"] = now
        for field in ("conditions", "schedulingConditions"):
            if field in said:
                timed[field] = with_times(said[field], observed.get(field), now)
        return timed


def _queue(report: QueueReport, turn: _Turn) -> Iterator[StatusWrite]:
    uid = turn.uid_of(kinds.QUEUE, report.name)
    if uid:
        regarding = Regarding(kind=kinds.QUEUE, key=report.name, uid=uid)
        token = report.problem.code if report.problem is not None else ""
        yield from turn.status(regarding, documents.queue(report), report.problem, token)


def _without_pods(key: str, turn: _Turn) -> Iterator[StatusWrite]:
    """A PodGroup of ours that no gang stands for. A young one may still get its pods."""
    found = turn.document(kinds.POD_GROUP, key)
    if found is None:
        return
    regarding = Regarding(kind=kinds.POD_GROUP, key=key, uid=found.metadata.uid)
    if turn.is_told(regarding):
        return
    created = found.metadata.creation_timestamp
    if created is not None and not found.status and created > rfc3339(turn.now_ms - SETTLING_MS):
        turn.wait_until(turn.now_ms + SETTLING_MS)
        return
    yield from turn.status(regarding, documents.pod_group_without_pods(), None, _FAILED)


def _set_aside(aside: SetAside, turn: _Turn) -> Iterator[StatusWrite]:
    name, _, key = aside.object.partition("/")
    candidates = _SET_ASIDE.get(name, ())
    kind = next((kind for kind in candidates if turn.uid_of(kind, key) == aside.uid), next(iter(candidates), None))
    if kind is None or (kind is kinds.POD and not turn.is_ours(key)):
        return
    regarding = Regarding(kind=kind, key=key, uid=aside.uid)
    reason, token = aside.reason, aside.reason.code
    if kind is kinds.QUEUE:
        yield from turn.status(regarding, documents.refused_queue(reason), reason, token)
    elif kind is kinds.POD_GROUP:
        yield from turn.status(regarding, documents.refused_pod_group(reason), reason, token)
    elif kind is kinds.POD:
        yield from turn.status(regarding, documents.pod(reason), reason, token)
    else:
        yield from turn.only_event(regarding, reason, token)


def _end_of(kind: Kind) -> str:
    """What is told of the end of gangs that such objects stand for is remembered apart."""
    return f"{kind.plural}/end"


def _key_of(owner: str) -> str:
    return owner.partition("/")[2]
