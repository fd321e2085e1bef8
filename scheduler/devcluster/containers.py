"""The status of a pod as its kubelet reports it: starting, running, restarting, ended."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.devcluster.objects import Obj

FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 10.0, 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When and where a status is reported. `restarts`: how often the containers were started again."""

    now: str
    started: str
    restarts: int = 0


def running(pod: Obj, moment: Moment, host: str, address: str) -> Obj:
    """All containers run and are ready."""
    state = {"running": {"startedAt": moment.now}}
    return {
        "phase": "Running",
        "startTime": moment.started,
        "hostIP": host,
        "hostIPs": [{"ip": host}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": _conditions(moment.now, ready=True),
        **_statuses(pod, state, moment, ready=True),
    }


def backing_off(pod: Obj, moment: Moment, exit_code: int, seconds: float) -> Obj:
    """The containers ended and will be started again in a while."""
    text = f"back-off {seconds:.0f}s restarting failed containers of pod {pod['metadata']['name']}"
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": text}}
    last = {"terminated": _terminated(moment, exit_code)}
    return {
        "phase": "Running",
        "conditions": _conditions(moment.now, ready=False),
        **_statuses(pod, state, moment, ready=False, last=last),
    }


def ended(pod: Obj, moment: Moment, exit_code: int) -> Obj:
    """The containers ended for good."""
    state = {"terminated": _terminated(moment, exit_code)}
    reason = "PodCompleted" if exit_code == 0 else ""
    return {
        "phase": "Succeeded" if exit_code == 0 else "Failed",
        "conditions": _conditions(moment.now, ready=False, reason=reason),
        **_statuses(pod, state, moment, ready=False),
    }


def backoff_seconds(restarts: int) -> float:
    """How long a kubelet waits before the next start: 10 s, doubled with each, at most 5 min."""
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** min(restarts, 10), LAST_BACKOFF_SECONDS)


def _terminated(moment: Moment, exit_code: int) -> Obj:
    reason = "Completed" if exit_code == 0 else "Error"
    return {"exitCode": exit_code, "reason": reason, "startedAt": moment.started, "finishedAt": moment.now}


def _conditions(now: str, *, ready: bool, reason: str = "") -> list[Obj]:
    """Those a kubelet owns, to be merged by type: PodScheduled stays as it is."""
    whole = {"status": "True", "lastTransitionTime": now}
    why = None if ready else reason or "ContainersNotReady"  # None takes an earlier reason away
    part = {"status": "True" if ready else "False", "reason": why, "lastTransitionTime": now}
    conditions = [{"type": name, **whole} for name in ("PodReadyToStartContainers", "Initialized")]
    return conditions + [{"type": name, **part} for name in ("ContainersReady", "Ready")]


def _statuses(pod: Obj, state: Obj, moment: Moment, *, ready: bool, last: Obj | None = None) -> Obj:
    spec = pod["spec"]
    fields: Obj = {
        "containerStatuses": [
            _status(container, state, moment.restarts, ready=ready, last=last) for container in spec["containers"]
        ]
    }
    if spec.get("initContainers"):
        done = {"terminated": {**_terminated(moment, 0), "finishedAt": moment.started}}
        fields["initContainerStatuses"] = [
            _status(container, state, moment.restarts, ready=ready, last=last)
            if container.get("restartPolicy") == "Always"
            else _status(container, done, 0, ready=True, last=None)
            for container in spec["initContainers"]
        ]
    return fields


def _status(container: Obj, state: Obj, restarts: int, *, ready: bool, last: Obj | None) -> Obj:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": f"simulated://{container['image']}",
        "ready": ready,
        "started": "running" in state,
        "restartCount": restarts,
        "state": state,
        "lastState": last or {},
    }
