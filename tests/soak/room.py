"""Room that was made: who had to leave, for whom, by what right, how often; and whether those came for whom it was.

Rights and numbers are judged from the pods at every version, by the terms on which gangs run (`tests.soak.rivals`).
Where a pod was gone before it could be told why, the plans say it.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from scheduler.api.crds import POD_GROUP_LABEL
from scheduler.model.plan import Plan
from tests.soak.judge import Awake
from tests.soak.rivals import Terms

Document = dict[str, Any]

MOST_NOMINATED_SECONDS = 30.0
"""How long a pod may stay nominated, in the calm, to a node that nobody is leaving."""
MOST_TIMES, MOST_TIMES_CALM = 4, 2
"""How often a gang may be asked to leave for the same other gang. That one has cause to ask again only when it has lost
the place: its pods fail (three times at most, by their Job), its node or a device does, or a leader fell before it was
bound. In the calm nothing is lost but by pods that fail, and what is free is enough for all."""
MOST_TIMES_AT_ALL_CALM = 4
"""How often a gang may be asked to leave in the calm, for whomever: no gang comes any more, and all have room."""
MOST_ASKED = 60
"""How often one pod may be asked to leave, or whether it might. Whoever was refused comes again when something has
changed, or after `recheck_seconds`: that is some thirty times a minute, for two leaders."""

_TOLD = re.compile(
    r"It was (moved|called back by a queue under its fair share|outranked), to make room for gang (\S+);"
)
_STAGES = {"moved": "consolidate", "outranked": "preempt"}
_OF_THE_SERVER, _FOR_OTHERS = "EvictionByEvictionAPI", "PreemptionByScheduler"
_OF_ITS_OWN = ("GangBelowMinimum", "MaxRuntimeReached")


class Cause(NamedTuple):
    """The stage in which a pod had to leave, and the gang (key) for which; "" for none."""

    stage: str
    beneficiary: str


@dataclass(slots=True, kw_only=True)
class _Pod:
    """What is known of a pod on the server. `reason`, `cause`: why it was evicted; "" and None if it was not, or
    as long as nobody has said it."""

    name: str
    gang: str
    node: str = ""
    nominated: str = ""
    leaving: bool = False
    done: bool = False
    reason: str = ""
    cause: Cause | None = None


@dataclass
class Room:
    """`see` is to get every version of every pod, `planned` every plan. `terms`: by name of a gang. `caps`: how many
    pods of a queue may be on their way out at once, for those queues that say so."""

    terms: Mapping[str, Terms]
    caps: Mapping[str, int]
    awake: Awake
    tell: Callable[[str], None]
    figures: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    _pods: dict[str, _Pod] = field(default_factory=dict)
    _plans: dict[str, dict[Cause, None]] = field(default_factory=dict)
    _times: dict[bool, Counter[tuple[str, str]]] = field(default_factory=lambda: {False: Counter(), True: Counter()})
    _waiting: dict[tuple[str, str], float] = field(default_factory=dict)
    _calm: bool = False

    def planned(self, plan: Plan) -> None:
        """Whom a plan stops, and why."""
        for each in plan.evictions:
            self._plans.setdefault(each.pod_uid, {})[Cause(each.stage, each.beneficiary)] = None

    def calm(self) -> None:
        """From now on nothing fails but pods, and there is room for all."""
        self._calm = True

    def see(self, event: str, pod: Document) -> None:
        """The next version of a pod."""
        meta, status = pod["metadata"], pod.get("status") or {}
        uid, gang = meta["uid"], (meta.get("labels") or {}).get(POD_GROUP_LABEL, "")
        known = self._pods.setdefault(uid, _Pod(name=meta["name"], gang=gang))
        self._see_fate(known, pod["spec"].get("nodeName", ""), status)
        known.done = status.get("phase") in ("Succeeded", "Failed")
        target = _target(status)
        if target is not None:
            self._see_eviction(uid, known, *target)
        known.leaving = bool(meta.get("deletionTimestamp"))
        if event == "DELETED":
            self._gone(uid)

    def look(self) -> None:
        """Note who waits in vain for others to leave. To be called every now and then."""
        left = {pod.node for pod in self._pods.values() if pod.leaving}
        waiting = {
            (uid, pod.nominated)
            for uid, pod in self._pods.items()
            if self._calm and pod.nominated and not (pod.node or pod.leaving or pod.done) and pod.nominated not in left
        }
        now = self.awake.seconds
        self._waiting = {each: self._waiting.get(each, now) for each in sorted(waiting)}
        for (uid, node), since in self._waiting.items():
            if now - since > MOST_NOMINATED_SECONDS:
                self._found(
                    f"pod {self._pods[uid].name} was nominated to {node} for more than {MOST_NOMINATED_SECONDS:g} s"
                    " although nobody was leaving it"
                )

    def asked(self, evictions: Mapping[str, int]) -> None:
        """How often the schedulers asked each pod to leave, at the end."""
        for subject, times in sorted(evictions.items()):
            self.figures["most often asked"] = max(self.figures["most often asked"], times)
            if times > MOST_ASKED:
                self._found(f"{subject} was asked for {times} times, by one replica")

    def settled(self) -> None:
        """Nothing changes any more: judge who is still there, and how often gangs had to leave."""
        for uid in list(self._pods):
            self._gone(uid)
        whole = self._times[False] + self._times[True]
        self._judge_times(whole, MOST_TIMES, "")
        self._judge_times(self._times[True], MOST_TIMES_CALM, ", in the calm")
        at_all: Counter[str] = Counter()
        for (gang, _), pods in self._times[True].items():
            at_all[gang] += pods
        for gang, pods in sorted(at_all.items()):
            if pods > MOST_TIMES_AT_ALL_CALM * self.terms[gang].pods:
                self._found(f"{pods} pods of {gang} had to leave in the calm")
        self.figures["gangs helped"] = len({beneficiary for _, beneficiary in whole})

    # --- what is wrong ------------------------------------------------------------------------------------------------

    def _judge_times(self, counts: Mapping[tuple[str, str], int], most: int, when: str) -> None:
        for (gang, beneficiary), pods in sorted(counts.items()):
            times = -(-pods // self.terms[gang].pods)
            name = f"most often for the same{when}"
            self.figures[name] = max(self.figures[name], times)
            if times > most:
                self._found(f"{gang} made room for {beneficiary} {times} times{when}: {pods} pods")

    def _see_fate(self, known: _Pod, node: str, status: Document) -> None:
        nominated = status.get("nominatedNodeName") or ""
        if nominated and not known.nominated:
            self.figures["nominations"] += 1
        if node and not known.node and known.nominated:
            self.figures["nominations kept" if node == known.nominated else "nominations moved"] += 1
        if known.nominated and not nominated and not node:
            self.figures["nominations taken back"] += 1
        known.node, known.nominated = node, nominated

    def _see_eviction(self, uid: str, known: _Pod, reason: str, message: str) -> None:
        if reason not in (_OF_THE_SERVER, _FOR_OTHERS, *_OF_ITS_OWN):
            return
        if not known.reason:
            self.figures["evictions"] += 1
            self._judge_cap(uid, known)
        known.reason = reason
        if reason == _FOR_OTHERS and known.cause is None:
            told = _TOLD.match(message)
            if told is None:
                self._found(f"pod {known.name} left for others, and was not told for whom: {message!r}")
                return
            known.cause = Cause(_STAGES.get(told[1], "reclaim"), told[2])
            if known.cause not in self._plans.get(uid, ()):
                self._found(f"pod {known.name} was told that it left by {known.cause}, which no plan says")
            self._judge_cause(known, known.cause)

    def _gone(self, uid: str) -> None:
        """The pod is gone, or all is over: nobody will tell it any more why it had to leave."""
        known = self._pods.pop(uid)
        if known.reason != _OF_THE_SERVER:
            return
        self.figures["not told"] += 1
        causes = list(self._plans.get(uid, ()))
        if not causes:
            self._found(f"pod {known.name} was evicted, and no plan says why")
        elif causes[-1].beneficiary:
            self._judge_cause(known, causes[-1])

    def _judge_cause(self, known: _Pod, cause: Cause) -> None:
        """By what right."""
        gang, other = known.gang, cause.beneficiary.rpartition("/")[2]
        self.figures[cause.stage] += 1
        self._times[self._calm][gang, other] += 1
        self.tell(f"{known.name} leaves {known.node} for {other}: {cause.stage}")
        victim, helped = self.terms.get(gang), self.terms.get(other)
        if victim is None or helped is None:
            self._found(f"pod {known.name} left for {cause.beneficiary!r}: one of the two gangs is none of ours")
            return
        wrongs = [
            (other == gang, "is its own gang"),
            (not victim.preemptible, "may not stop it: it is not preemptible"),
            (cause.stage == "preempt" and helped.queue != victim.queue, "is of another queue"),
            (cause.stage == "preempt" and helped.priority <= victim.priority, "is of no higher priority"),
            (cause.stage == "reclaim" and helped.queue == victim.queue, "is of the same queue"),
            (cause.stage == "consolidate" and not helped.preemptible, "is not preemptible itself"),
        ]
        for wrong, words in wrongs:
            if wrong:
                self._found(f"pod {known.name} left by {cause.stage} for {other}, which {words}")

    def _judge_cap(self, uid: str, known: _Pod) -> None:
        """No more of a queue are on their way out than may be, but for their own gang's sake. Before the calm
        the clock jumps: those who leave look then as if they had been stuck for long, and count no more."""
        queue = self.terms[known.gang].queue if known.gang in self.terms else ""
        causes = self._plans.get(uid, ())
        if queue not in self.caps or not any(cause.beneficiary for cause in causes):
            return
        others = [
            pod.name
            for pod in self._pods.values()
            if pod is not known and pod.reason and pod.node and not pod.done and self.terms[pod.gang].queue == queue
        ]
        if len(others) < self.caps[queue]:
            return
        self.figures["beyond a cap"] += 1
        if self._calm:
            self._found(
                f"pod {known.name} of queue {queue} had to leave while {', '.join(sorted(others))} did, and"
                f" {self.caps[queue]} may at once"
            )

    def _found(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def _target(status: Document) -> tuple[str, str] | None:
    """Reason and message of the pod's DisruptionTarget, if that is true."""
    for each in status.get("conditions") or ():
        if each["type"] == "DisruptionTarget" and each["status"] == "True":
            return each.get("reason", ""), each.get("message", "")
    return None
