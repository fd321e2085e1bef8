"""The life of a pod on its simulated node: admitted, claims prepared, started, restarted, ended, deleted.

Annotations on a pod say how it behaves: `run-seconds` (cluster time until its containers end; absent: `Habits`) and
`exit-code`, both under devcluster.tutti.scheduler/.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from scheduler.devcluster import containers, kinds
from scheduler.devcluster.access import STRATEGIC_PATCH, Api, StatusError
from scheduler.devcluster.clock import Clock, Timer
from scheduler.devcluster.containers import Moment, backoff_seconds
from scheduler.devcluster.mirror import Mirror, key_of
from scheduler.devcluster.objects import Obj, field_of, name_of, namespace_of, uid_of
from scheduler.devcluster.pods import controller_of, is_done, is_leaving, phase
from scheduler.devcluster.prepare import Catalogue, Fault, Problem
from scheduler.devcluster.reports import Reports
from scheduler.devcluster.shelf import Shelf
from scheduler.devcluster.station import Station, Tenancy, claims_of, missing

RUN_SECONDS = "devcluster.tutti.scheduler/run-seconds"
EXIT_CODE = "devcluster.tutti.scheduler/exit-code"
_KILLED = 137


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How pods behave that do not say it themselves, in seconds of cluster time; None: they run until deleted.

    `start_seconds` is how long containers take to start, `stop_seconds` how long they take to end when their pod is
    deleted (never longer than its grace period).
    """

    run_seconds: float | None = None
    job_run_seconds: float | None = None
    start_seconds: float = 0.0
    stop_seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class Run:
    """A pod on its node. `state`: admitted, starting, running, stopping; `due`: the time of the state is over."""

    key: str
    node: str
    tenancy: Tenancy
    state: str = "admitted"
    due: bool = False
    restarts: int = 0
    started_at: str = ""
    timer: Timer | None = None
    told: str = ""

    def stop_timer(self) -> None:
        """Nothing becomes due any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Kubelets:
    """The kubelets of all nodes. `look(key)` has a pod synced again; `stock_of(node)` are the devices of a node."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        habits: Habits,
        *,
        pods: Mirror,
        claims: Mirror,
        shelf: Shelf,
        stock_of: Callable[[Obj], Catalogue],
        look: Callable[[str], None],
    ) -> None:
        self._api, self._clock, self._habits = api, clock, habits
        self._pods, self._claims, self._stock_of, self._look = pods, claims, stock_of, look
        self._shelf = shelf
        self._reports = Reports(api, "kubelet")
        self._runs: dict[str, Run] = {}
        self._addresses = 0
        self.stations: dict[str, Station] = {}
        self.refusals: Counter[str] = Counter()

    def wake_waiting(self, keys: list[str]) -> None:
        """Look again at those of these pods that wait for their claims."""
        for key in keys:
            run = self._runs.get(key)
            if run is not None and run.state == "admitted":
                self._look(key)

    def drop_gone(self, key: str, pod: Obj | None) -> None:
        """End what is left of a pod that was deleted by force, replaced, or ended by another hand."""
        run = self._runs.get(key)
        if run is not None and (pod is None or uid_of(pod) != run.tenancy.pod_uid or is_done(pod)):
            self._end(run)

    def lose(self, key: str) -> None:
        """The node went away under the pod."""
        run = self._runs.get(key)
        if run is not None:
            self._end(run)

    def stop(self) -> None:
        """Nothing becomes due any more."""
        for run in self._runs.values():
            run.stop_timer()

    async def sync(self, pod: Obj, node: Obj) -> None:
        """Bring a bound pod as far as it comes now."""
        run = self._runs.get(key_of(pod))
        if is_leaving(pod):
            await self._leave(pod, run)
            return
        if is_done(pod):
            return
        if run is None:
            run = await self._admit(pod, node)
        if run is not None and run.state == "admitted" and await self._prepare(pod, node, run):
            self._begin(pod, run)
        if run is not None and run.due:
            if run.state == "starting":
                await self._start(pod, node, run)
            elif run.state == "running":
                await self._exit(pod, run)

    # --- states ---------------------------------------------------------------------------------------------------

    def _begin(self, pod: Obj, run: Run) -> None:
        """All is prepared: the containers start."""
        if phase(pod) == "Running":  # it ran before this kubelet began to look
            run.state = "running"
            self._set_end(pod, run)
            return
        run.state, run.due = "starting", self._habits.start_seconds <= 0
        if not run.due:
            self._set_due(run, self._habits.start_seconds)

    def _set_due(self, run: Run, seconds: float) -> None:
        """The state's time is over after these seconds, at once for 0."""
        run.stop_timer()
        run.due = seconds <= 0
        if run.due:
            self._look(run.key)
            return

        def due() -> None:
            run.due, run.timer = True, None
            self._look(run.key)

        run.timer = self._clock.call_later(seconds, due)

    def _set_end(self, pod: Obj, run: Run) -> None:
        run.due = False
        seconds = self._run_seconds(pod)
        if seconds is not None:
            self._set_due(run, seconds)

    async def _admit(self, pod: Obj, node: Obj) -> Run | None:
        station = self.stations.setdefault(name_of(node), Station())
        refused = station.admit(pod, node) if phase(pod) != "Running" else None
        if refused is not None:
            self.refusals[refused.reason] += 1
            await self._reports.warn(pod, refused.reason, refused.message)
            status = {"phase": "Failed", "reason": refused.reason, "message": refused.message}
            await self._patch(pod, {**status, "startTime": self._api.now()})
            return None
        run = Run(key=key_of(pod), node=name_of(node), tenancy=station.take(pod))
        self._runs[run.key] = run
        return run

    async def _start(self, pod: Obj, node: Obj, run: Run) -> None:
        run.started_at = self._api.now()
        first = field_of(pod, "status", "startTime") or run.started_at
        moment = Moment(now=run.started_at, started=first, restarts=run.restarts)
        await self._patch(pod, containers.running(pod, moment, _host(node), self._address(pod)))
        run.state = "running"
        self._set_end(pod, run)

    async def _exit(self, pod: Obj, run: Run) -> None:
        """The containers ended: again from the start, or for good, as the restart policy has it."""
        code, policy = _exit_code(pod), pod["spec"].get("restartPolicy", "Always")
        moment = Moment(now=self._api.now(), started=run.started_at, restarts=run.restarts)
        if policy == "Never" or (policy == "OnFailure" and code == 0):
            self._give_back(run)  # a kubelet gives devices back before it reports the end
            await self._patch(pod, containers.ended(pod, moment, code))
            self._end(run)
            return
        pause = backoff_seconds(run.restarts - 1) if run.restarts else 0.0  # the first restart does not wait
        if pause:
            await self._patch(pod, containers.backing_off(pod, moment, code, pause))
        run.restarts += 1
        run.state = "starting"
        self._set_due(run, pause)

    async def _leave(self, pod: Obj, run: Run | None) -> None:
        """A deleted pod: its containers end, its devices go back, then it goes."""
        if run is not None and run.state == "running" and self._habits.stop_seconds > 0:
            run.state = "stopping"
            grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            self._set_due(run, min(self._habits.stop_seconds, grace))
        if run is not None and run.state == "stopping" and not run.due:
            return
        if run is not None:
            self._give_back(run)
        if pod["metadata"].get("finalizers") and not is_done(pod):  # its end will be seen
            started = run.started_at if run is not None else ""
            moment = Moment(now=self._api.now(), started=started or self._api.now())
            pod = await self._patch(pod, containers.ended(pod, moment, _KILLED))
        if run is not None:
            self._end(run)
        if pod["metadata"].get("deletionGracePeriodSeconds") or not pod["metadata"].get("finalizers"):
            await self._pods.remove(pod, grace_seconds=0)

    # --- devices --------------------------------------------------------------------------------------------------

    async def _prepare(self, pod: Obj, node: Obj, run: Run) -> bool:
        """Volumes bound and all claims of the pod prepared; False when it has to wait or was refused."""
        unmounted = self._shelf.missing(pod, node)
        if unmounted:
            text = f"MountVolume.SetUp failed: {unmounted}"
            if run.told != text:
                self.refusals["FailedMount"] += 1
            await self._tell(pod, run, text, reason="FailedMount")
            return False
        station = self.stations[run.node]
        if station.stock is None:
            station.stock = self._stock_of(node)
        for name, claim_name in claims_of(pod):
            claim = await self._usable_claim(pod, name, claim_name)
            if isinstance(claim, str):
                await self._tell(pod, run, claim)
                return False
            problem = station.prepare(run.tenancy, claim)
            if problem is not None:
                await self._cannot_prepare(pod, run, problem)
                return False
        return True

    async def _usable_claim(self, pod: Obj, name: str, claim_name: str) -> Obj | str:
        """The claim, allocated and reserved for this pod; or what is missing, in a sentence."""
        if not claim_name:
            return f"claim {name} of the pod has not been made from its template yet"
        claim = self._claims.get(f"{namespace_of(pod)}/{claim_name}")
        if claim is None or missing(pod, claim):
            try:  # the mirror may be behind the binding
                claim = await self._api.get(kinds.CLAIM, namespace_of(pod), claim_name)
            except StatusError as error:
                if error.code != 404:
                    raise
                return f"resourceclaim {namespace_of(pod)}/{claim_name} does not exist"
        return missing(pod, claim) or claim

    async def _cannot_prepare(self, pod: Obj, run: Run, problem: Problem) -> None:
        if problem.fault is Fault.FOREIGN:  # as a real kubelet: it tries again until the device appears
            if run.told != problem.message:
                self.refusals[problem.fault.value] += 1
            await self._tell(pod, run, problem.message)
            return
        self.refusals[problem.fault.value] += 1
        await self._reports.warn(pod, "FailedPrepareDynamicResources", problem.message)
        message = f"Pod was rejected: {problem.message}"
        await self._patch(pod, {"phase": "Failed", "reason": "DoubleAllocation", "message": message})
        self._end(run)

    async def _tell(self, pod: Obj, run: Run, message: str, *, reason: str = "FailedPrepareDynamicResources") -> None:
        """A pod that cannot start yet says why, once for each reason."""
        if run.told != message:
            run.told = message
            await self._reports.warn(pod, reason, message)

    # --- small things ---------------------------------------------------------------------------------------------

    def _give_back(self, run: Run) -> None:
        run.stop_timer()
        self.stations[run.node].give_back(run.tenancy)

    def _end(self, run: Run) -> None:
        self._give_back(run)
        if self._runs.get(run.key) is run:
            del self._runs[run.key]

    async def _patch(self, pod: Obj, status: Obj) -> Obj:
        return await self._pods.patch(pod, {"status": status}, how=STRATEGIC_PATCH, subresource="status")

    def _address(self, pod: Obj) -> str:
        known = field_of(pod, "status", "podIP")
        if known:
            return str(known)
        self._addresses += 1
        high, low = divmod(self._addresses, 254)
        return f"10.{128 + high // 256 % 64}.{high % 256}.{low + 1}"

    def _run_seconds(self, pod: Obj) -> float | None:
        text = (pod["metadata"].get("annotations") or {}).get(RUN_SECONDS)
        if text is not None:
            return _seconds(text)
        owner = controller_of(pod)
        of_job = owner is not None and owner["kind"] == "Job"
        return self._habits.job_run_seconds if of_job else self._habits.run_seconds


def _seconds(text: str) -> float | None:
    """Seconds in an annotation; what is no such number means "for ever", as does "inf"."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _exit_code(pod: Obj) -> int:
    text = (pod["metadata"].get("annotations") or {}).get(EXIT_CODE, "0")
    return int(text) if text.isascii() and text.isdigit() else 0


def _host(node: Obj) -> str:
    for entry in field_of(node, "status", "addresses") or ():
        if entry.get("type") == "InternalIP":
            return str(entry["address"])
    return ""
