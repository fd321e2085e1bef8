"""Why no room was made for a gang that waits: stage by stage, as values. `GangDoesNotFit` carries them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from queues.words import counted
from scheduler.model.times import rfc3339


class Hindrance(StrEnum):
    """What kept a stage from making room. Stable tokens."""

    NOT_PREEMPTIBLE = "NotPreemptible"
    """The gang is not preemptible, and nobody is moved for such."""
    TOO_EARLY = "TooEarly"
    """Its preemption delay is not over."""
    QUEUE_AT_SHARE = "QueueAtShare"
    """With it its queue would be above its fair share, or its quota if the gang is not preemptible."""
    NOBODY_MAY_GO = "NobodyMayGo"
    """There is no pod that may be stopped for it, not even one."""
    NOT_ENOUGH = "NotEnough"
    """Some may be stopped, and whoever of them are, the gang has no place."""
    TOO_LITTLE_FREE = "TooLittleFree"
    """All GPUs that are free, wherever they are, are fewer than it asks for: moving others brings no more."""
    NO_OTHER_PLACE = "NoOtherPlace"
    """Some may be moved, and none of those in the way have a place elsewhere."""
    SEARCH_ENDED = "SearchEnded"
    """The search ended by its budget before it knew."""


class Keeper(StrEnum):
    """What keeps a running pod from being stopped. Stable tokens."""

    NOT_PREEMPTIBLE = "NotPreemptible"
    PRIORITY = "Priority"
    SHARE = "Share"
    MIN_RUNTIME = "MinRuntime"
    JUST_STARTED = "JustStarted"
    DISRUPTION_BUDGET = "DisruptionBudget"
    SEVERAL_BUDGETS = "SeveralBudgets"
    EVICTION_CAP = "EvictionCap"
    REFUSED = "Refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """So many running `pods` may not be stopped. `by`: what keeps them; `name`: the budget, or the queue, if one does;
    `until_ms`: when that ends, if it is known."""

    pods: int
    by: Keeper
    name: str = ""
    until_ms: int | None = None

    def __str__(self) -> str:
        are = counted(self.pods, "is", "are")
        match self.by:
            case Keeper.NOT_PREEMPTIBLE:
                return f"{are} not preemptible"
            case Keeper.PRIORITY:
                return f"{are} of the same or a higher priority"
            case Keeper.SHARE:
                return f"{are} within the share of {self.name}" if self.name else f"{are} within the share of the queue"
            case Keeper.MIN_RUNTIME:
                return f"{are} within the least runtime, until {rfc3339(self.until_ms or 0)}"
            case Keeper.JUST_STARTED:
                return f"{are} not moved before {rfc3339(self.until_ms or 0)}, having just started"
            case Keeper.DISRUPTION_BUDGET:
                return f"{are} kept by PodDisruptionBudget {self.name}"
            case Keeper.SEVERAL_BUDGETS:
                return f"{are} kept by several PodDisruptionBudgets at once ({self.name})"
            case Keeper.EVICTION_CAP:
                return f"{are} kept by maxConcurrentEvictions of Queue {self.name}"
            case Keeper.REFUSED:
                return f"{self.pods} the server refused to evict just now"

    @property
    def cure(self) -> str:
        match self.by:
            case Keeper.NOT_PREEMPTIBLE:
                return "end work that is not preemptible"
            case Keeper.PRIORITY:
                return "give it a higher priority"
            case Keeper.SHARE:
                return "give its queue a larger share"
            case Keeper.MIN_RUNTIME | Keeper.JUST_STARTED:
                return f"wait until {rfc3339(self.until_ms or 0)}"
            case Keeper.DISRUPTION_BUDGET:
                return f"let PodDisruptionBudget {self.name} allow more disruptions"
            case Keeper.SEVERAL_BUDGETS:
                return "leave one PodDisruptionBudget over each pod"
            case Keeper.EVICTION_CAP:
                return f"raise maxConcurrentEvictions of Queue {self.name}"
            case Keeper.REFUSED:
                return "look at the scheduler's log for what the server said"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoRoom:
    """Why one stage made no room. `may_go`: pods that may be stopped, each by itself; `kept`: those that may not, most
    first; `queue`: of the gang; `until_ms`: of TOO_EARLY."""

    stage: str
    why: Hindrance
    queue: str = ""
    may_go: int = 0
    kept: tuple[Kept, ...] = ()
    until_ms: int | None = None

    @property
    def said(self) -> str:
        """Why, without the stage."""
        kept = f" ({', '.join(map(str, self.kept))})" if self.kept else ""
        pods = counted(self.may_go, "pod")
        match self.why:
            case Hindrance.NOT_PREEMPTIBLE:
                said = "nobody is moved for what is not preemptible itself"
            case Hindrance.TOO_EARLY:
                said = f"nobody goes for it before {rfc3339(self.until_ms or 0)}"
            case Hindrance.QUEUE_AT_SHARE:
                said = f"Queue {self.queue} would be above its share with it"
            case Hindrance.NOBODY_MAY_GO:
                said = f"there is no pod that may go for it{kept}"
            case Hindrance.NOT_ENOUGH:
                said = f"{pods} may go, which leaves no place that is large enough{kept}"
            case Hindrance.TOO_LITTLE_FREE:
                said = "fewer GPUs are free in all than it asks for"
            case Hindrance.NO_OTHER_PLACE:
                said = f"{pods} may be moved, and those in the way have no other place{kept}"
            case Hindrance.SEARCH_ENDED:
                said = f"{pods} may go, and the search among them ended by its budget before it knew{kept}"
        return said

    @property
    def cure(self) -> str:
        """What would help most, "" if nothing that is about this alone."""
        match self.why:
            case Hindrance.NOT_PREEMPTIBLE:
                return "make it preemptible"
            case Hindrance.TOO_EARLY:
                return f"wait until {rfc3339(self.until_ms or 0)}"
            case Hindrance.QUEUE_AT_SHARE:
                return f"raise the quota of Queue {self.queue}"
            case Hindrance.SEARCH_ENDED:
                return "give the search more time (solver_deterministic_seconds)"
            case Hindrance.NO_OTHER_PLACE | Hindrance.TOO_LITTLE_FREE:
                return ""
            case Hindrance.NOBODY_MAY_GO | Hindrance.NOT_ENOUGH:
                return self.kept[0].cure if self.kept else ""


def told(hindered: Sequence[NoRoom]) -> str:
    """One sentence for all stages, "" if nobody runs who could make way at all."""
    stages: dict[str, list[str]] = {}
    for each in hindered:
        stages.setdefault(each.said, []).append(each.stage)
    if all(each.why is Hindrance.NOBODY_MAY_GO and not each.kept for each in hindered):
        return ""
    parts = [f"{', '.join(names)}: {said}" for said, names in stages.items()]
    return f"No room could be made: {'; '.join(parts)}."


def cures(hindered: Sequence[NoRoom]) -> list[str]:
    """What would help, each once, that of the last stage first: it stops the most."""
    return list(dict.fromkeys(each.cure for each in reversed(hindered) if each.cure))
