"""Jobs (batch/v1) as kube-controller-manager runs them: parallelism, completions, Indexed, backoffLimit, suspend.

Pods are counted once, by uid, when they end or are marked for deletion (podReplacementPolicy TerminatingOrFailed).
The count lives here and in status, not in a finalizer on the pods: store and controllers end together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

from scheduler.devcluster import kinds
from scheduler.devcluster.access import Api
from scheduler.devcluster.clock import Clock, Timer
from scheduler.devcluster.mirror import Mirror, key_of
from scheduler.devcluster.objects import Obj, field_of, name_of, namespace_of, uid_of, with_condition
from scheduler.devcluster.pods import (
    controller_of,
    from_template,
    is_leaving,
    most_expendable,
    phase,
)
from scheduler.devcluster.roster import Rosters
from scheduler.devcluster.work import Work

INDEX = "batch.kubernetes.io/job-completion-index"
OUR_NAME = "kubernetes.io/job-controller"
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 10.0, 600.0


@dataclass(slots=True)
class Tally:
    """What became of a Job's pods so far. `failures` counts those since the last success, `last_failure` is when."""

    counted: set[str] = field(default_factory=set)
    given_up: set[str] = field(default_factory=set)
    succeeded: int = 0
    failed: int = 0
    indexes: set[int] = field(default_factory=set)
    failures: int = 0
    last_failure: float = 0.0
    retry: Timer | None = None
    deadline: Timer | None = None

    def stop(self) -> None:
        """Cancel its timers."""
        for timer in (self.retry, self.deadline):
            if timer is not None:
                timer.cancel()


class JobControl:
    """Keeps each Job's pods and status."""

    def __init__(self, api: Api, clock: Clock, jobs: Mirror, pods: Mirror, rosters: Rosters) -> None:
        self._api, self._clock, self._jobs, self._pods, self._rosters = api, clock, jobs, pods, rosters
        self._tallies: dict[str, Tally] = {}
        self.work = Work("job", self._sync)
        jobs.listen(self._job_changed)
        pods.listen(self._pod_changed)

    def _job_changed(self, before: Obj | None, after: Obj | None) -> None:
        if after is not None:
            self.work.add(key_of(after))
        if before is not None and (after is None or uid_of(after) != uid_of(before)):
            tally = self._tallies.pop(uid_of(before), None)
            if tally is not None:
                tally.stop()

    def _pod_changed(self, before: Obj | None, after: Obj | None) -> None:
        pod = after if after is not None else before
        assert pod is not None
        owner = controller_of(pod)
        if owner is None or owner["kind"] != "Job":
            return
        key = f"{namespace_of(pod)}/{owner['name']}"
        job, tally = self._jobs.get(key), self._tallies.get(owner["uid"])
        if job is not None and tally is not None and finished(job) is None:
            self._count(job, tally, pod, gone=after is None)
        self.work.add(key)

    def _tally(self, job: Obj) -> Tally:
        """The Job's tally; begun with what its status says when this controller has not seen it before."""
        tally = self._tallies.get(uid_of(job))
        if tally is None:
            tally = self._tallies[uid_of(job)] = Tally()
            status = job.get("status") or {}
            for pod in self._pods.under("controller", uid_of(job)) if finished(job) is None else ():
                self._count(job, tally, pod)
            tally.succeeded = max(tally.succeeded, int(status.get("succeeded") or 0))
            tally.failed = max(tally.failed, int(status.get("failed") or 0))
            tally.indexes |= parse_indexes(status.get("completedIndexes") or "")
        return tally

    def _count(self, job: Obj, tally: Tally, pod: Obj, *, gone: bool = False) -> None:
        """Count a pod that ended, once."""
        uid = uid_of(pod)
        if uid in tally.counted:
            if gone:
                tally.counted.discard(uid)
                tally.given_up.discard(uid)
            return
        if phase(pod) == "Succeeded":
            tally.failures = 0
            index = index_of(pod) if _is_indexed(job) else None
            if index is None or index not in tally.indexes:
                tally.succeeded += 1
            if index is not None:
                tally.indexes.add(index)
        elif uid in tally.given_up or not (phase(pod) == "Failed" or is_leaving(pod) or gone):
            if gone:
                tally.given_up.discard(uid)
            return
        elif not _is_ignored(job, pod):
            tally.failed += 1
            tally.failures += 1
            tally.last_failure = self._clock.time()
        if not gone:
            tally.counted.add(uid)

    async def _sync(self, key: str) -> None:
        job = self._jobs.get(key)
        if job is None or is_leaving(job) or (job["spec"].get("managedBy") or OUR_NAME) != OUR_NAME:
            return
        tally = self._tally(job)
        status = self._started(job, tally)
        verdict = finished(job) or self._verdict(job, tally)
        if verdict is not None:
            tally.stop()
        if verdict is not None or job["spec"].get("suspend"):
            await self._give_up(tally, self._active(job))
        else:
            await self._adjust(job, tally)
        await self._write(job, self._status(job, status, tally, verdict))

    def _active(self, job: Obj) -> list[Obj]:
        return list(self._rosters.of(uid_of(job)).active.values())

    # --- pods -----------------------------------------------------------------------------------------------------

    async def _give_up(self, tally: Tally, pods: list[Obj]) -> None:
        for pod in pods:
            tally.given_up.add(uid_of(pod))
            await self._pods.remove(pod)

    async def _adjust(self, job: Obj, tally: Tally) -> None:
        """As many pods as the Job wants now."""
        spec, active = job["spec"], len(self._rosters.of(uid_of(job)).active)
        completions, parallelism = spec.get("completions"), int(spec["parallelism"])
        if completions is not None:
            wanted = max(0, min(parallelism, completions - tally.succeeded))
        else:
            wanted = active if tally.succeeded else parallelism
        if active > wanted:
            await self._give_up(tally, most_expendable(self._active(job))[: active - wanted])
        elif active < wanted:
            pause = self._pause(tally)
            if pause > 0:
                if tally.retry is not None:
                    tally.retry.cancel()
                tally.retry = self._clock.call_later(pause, lambda: self.work.add(key_of(job)))
                return
            for index in self._next_indexes(job, tally, wanted - active):
                await self._pods.create(pod_of(job, index))

    def _next_indexes(self, job: Obj, tally: Tally, missing: int) -> list[int | None]:
        if job["spec"].get("completionMode") != "Indexed":
            return [None] * missing
        used = {index_of(pod) for pod in self._active(job)} | tally.indexes
        free = (index for index in range(job["spec"]["completions"]) if index not in used)
        return list(islice(free, missing))

    def _pause(self, tally: Tally) -> float:
        """Seconds until the next pod may be made: 10 s after a failure, doubled with each, at most 10 min."""
        if not tally.failures:
            return 0.0
        pause = min(FIRST_RETRY_SECONDS * 2.0 ** min(tally.failures - 1, 10), LAST_RETRY_SECONDS)
        return tally.last_failure + pause - self._clock.time()

    # --- status ---------------------------------------------------------------------------------------------------

    def _started(self, job: Obj, tally: Tally) -> Obj:
        """The status with startTime as suspension wants it; the deadline runs from there."""
        status = dict(job.get("status") or {})
        if finished(job) is not None:
            return status
        if job["spec"].get("suspend"):
            status.pop("startTime", None)
            if tally.deadline is not None:
                tally.deadline.cancel()
                tally.deadline = None
        elif "startTime" not in status:
            status["startTime"] = self._api.now()
        seconds = job["spec"].get("activeDeadlineSeconds")
        if seconds is not None and tally.deadline is None and not job["spec"].get("suspend"):
            tally.deadline = self._clock.call_later(seconds, lambda: self._deadline_passed(job, tally))
        return status

    def _deadline_passed(self, job: Obj, tally: Tally) -> None:
        tally.deadline = _PASSED
        self.work.add(key_of(job))

    def _verdict(self, job: Obj, tally: Tally) -> Obj | None:
        """The final condition the Job has come to, None while it goes on."""
        spec, roster = job["spec"], self._rosters.of(uid_of(job))
        restarts = roster.restarts if spec["template"]["spec"]["restartPolicy"] != "Never" else 0
        limit = spec["backoffLimit"]
        if tally.failed > limit or (restarts > 0 and restarts >= limit):
            text = "Job has reached the specified backoff limit"
            return {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": text}
        if tally.deadline is _PASSED:
            text = "Job was active longer than specified deadline"
            return {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": text}
        completions = spec.get("completions")
        complete = (
            tally.succeeded >= completions if completions is not None else tally.succeeded > 0 and not roster.active
        )
        if complete and not spec.get("suspend"):
            text = "Reached expected number of succeeded pods"
            return {"type": "Complete", "status": "True", "reason": "CompletionsReached", "message": text}
        return None

    def _status(self, job: Obj, status: Obj, tally: Tally, verdict: Obj | None) -> Obj:
        now, roster = self._api.now(), self._rosters.of(uid_of(job))
        counts = {
            "active": len(roster.active),
            "ready": roster.ready,
            "terminating": roster.leaving,
            "succeeded": tally.succeeded,
            "failed": tally.failed,
        }
        keep_zero = ("ready", "terminating")
        status = {key: value for key, value in status.items() if key not in counts}
        status |= {key: value for key, value in counts.items() if value or key in keep_zero}
        status.setdefault("uncountedTerminatedPods", {})
        if _is_indexed(job) and tally.indexes:
            status["completedIndexes"] = format_indexes(tally.indexes)
        changed = {**job, "status": status}
        if verdict is not None and finished(job) is None:
            early = "SuccessCriteriaMet" if verdict["type"] == "Complete" else "FailureTarget"
            changed = with_condition(changed, {**verdict, "type": early}, now)
            changed = with_condition(changed, verdict, now)
            if verdict["type"] == "Complete":
                changed["status"]["completionTime"] = now
        elif verdict is None:
            changed = _with_suspension(changed, bool(job["spec"].get("suspend")), now)
        result: Obj = changed["status"]
        return result

    async def _write(self, job: Obj, status: Obj) -> None:
        if status != (job.get("status") or {}):
            await self._jobs.update({**job, "status": status}, subresource="status")


class _Passed:
    def cancel(self) -> None:
        return None


_PASSED = _Passed()


def finished(job: Obj) -> Obj | None:
    """The Complete or Failed condition, None while the Job goes on."""
    for condition in field_of(job, "status", "conditions") or ():
        if condition.get("type") in ("Complete", "Failed") and condition.get("status") == "True":
            found: Obj = condition
            return found
    return None


def pod_of(job: Obj, index: int | None) -> Obj:
    """A new pod of the Job; `index` for Indexed ones."""
    name, template = name_of(job), job["spec"]["template"]
    if index is None:
        return from_template(job, kinds.JOB, template, generateName=f"{name}-")
    marks = {INDEX: str(index)}
    pod = from_template(job, kinds.JOB, template, generateName=f"{name}-{index}-", labels=marks, annotations=marks)
    variable = {"name": "JOB_COMPLETION_INDEX", "value": str(index)}
    spec = {**pod["spec"], "hostname": f"{name}-{index}"}
    for containers in ("containers", "initContainers"):
        if spec.get(containers):
            spec[containers] = [{**entry, "env": [*(entry.get("env") or ()), variable]} for entry in spec[containers]]
    return {**pod, "spec": spec}


def _is_ignored(job: Obj, pod: Obj) -> bool:
    """Whether the Job's podFailurePolicy does not count the pod's failure, by its conditions: the first rule that fits
    decides. Of the actions only Ignore and Count are known here, and no exit codes."""
    conditions = {(each.get("type"), each.get("status")) for each in field_of(pod, "status", "conditions") or ()}
    for rule in field_of(job, "spec", "podFailurePolicy", "rules") or ():
        if any((each["type"], each.get("status", "True")) in conditions for each in rule.get("onPodConditions") or ()):
            return bool(rule["action"] == "Ignore")
    return False


def index_of(pod: Obj) -> int | None:
    """The completion index of a pod of an Indexed Job."""
    text = (pod["metadata"].get("annotations") or {}).get(INDEX, "")
    return int(text) if text.isdigit() else None


def format_indexes(indexes: set[int]) -> str:
    """{0, 1, 2, 5} is "0-2,5"."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse_indexes(text: str) -> set[int]:
    """ "0-2,5" is {0, 1, 2, 5}."""
    indexes: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        indexes.update(range(int(first), int(last or first) + 1))
    return indexes


def _is_indexed(job: Obj) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def _with_suspension(job: Obj, suspended: bool, now: str) -> Obj:
    """The Suspended condition: set while suspended, turned False on resuming, absent where it never was."""
    known = any(entry.get("type") == "Suspended" for entry in field_of(job, "status", "conditions") or ())
    if suspended:
        state = {"status": "True", "reason": "JobSuspended", "message": "Job suspended"}
        return with_condition(job, {"type": "Suspended", **state}, now)
    if known:
        state = {"status": "False", "reason": "JobResumed", "message": "Job resumed"}
        return with_condition(job, {"type": "Suspended", **state}, now)
    return job
