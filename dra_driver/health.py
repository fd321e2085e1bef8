"""Errors of GPUs -> taints of the devices that they concern. Pure: what is heard and seen goes in, with the time.

A fault stands from when it was heard until it is over:

- an XID (`gpu.nvidia.com/xid`): when the driver, having asked for a recovery action, asks for none any more, or when
  the GPU was lost and answers again, asking for none; else when the GPU answers after a clean window, in which the XID
  was not heard again, and no action is asked for;
- a recovery action that the driver asks for (`gpu.nvidia.com/recovery-action`): when it asks for none, or another;
- a GPU that does not answer (`gpu.nvidia.com/gpu-lost`), or tells no errors (`gpu.nvidia.com/unmonitored`): when it
  does.

What an XID deserves is looked up again at each look, since the action comes after it (`dra_driver.xids`). An error of
one MIG instance concerns the whole GPU, and what can be cut from the same memory slices; its neighbours go on.
Source: NVIDIA's DRA driver for keys and values of the taints; KEP 5055 (device taints).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from dra_driver import xids
from dra_driver.devices import Device, Kind, Taint
from dra_driver.facts import EventKind, GpuEvent, Placement, Recovery

XID_TAINT = "gpu.nvidia.com/xid"
LOST_TAINT = "gpu.nvidia.com/gpu-lost"
UNMONITORED_TAINT = "gpu.nvidia.com/unmonitored"
RECOVERY_TAINT = "gpu.nvidia.com/recovery-action"
KEYS = (XID_TAINT, LOST_TAINT, UNMONITORED_TAINT, RECOVERY_TAINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a fault is: the key of its taint, and `code`: the XID, or the `Recovery`. `placement`: the memory slices
    that it concerns, None for all of the GPU."""

    gpu: str
    key: str
    code: int = 0
    placement: Placement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """How a fault stands: the effect it deserves ("" is none), since when, and when it was last heard of (ms since
    1970)."""

    effect: str
    since_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A look at the GPUs. `recovery`: by UUID, for each that answers; None where the driver tells no action. Of a GPU
    that is neither there nor in `lost` nothing is concluded."""

    recovery: Mapping[str, Recovery | None] = field(default_factory=dict)
    lost: Collection[str] = ()
    unmonitored: Collection[str] = ()


class Health:
    """What stands. `window_ms`: the clean window; `ignored`: XIDs that get no taint."""

    def __init__(self, window_ms: int, ignored: Collection[int] = ()) -> None:
        self._window_ms = window_ms
        self._ignored = frozenset(ignored)
        self._faults: dict[About, Fault] = {}
        self._told: dict[str, Recovery | None] = {}
        self._fresh: set[About] = set()
        """Heard since the last look."""

    @property
    def faults(self) -> Mapping[About, Fault]:
        """All that stands."""
        return dict(self._faults)

    def remember(self, faults: Mapping[About, Fault]) -> None:
        """What stood before: of an earlier `faults`, as a rule before anything is heard."""
        self._faults = {**faults, **self._faults}

    def heard(self, event: GpuEvent, now_ms: int, placement: Placement | None = None) -> None:
        """An event. `placement`: of the instance it names, None for the whole GPU or where nobody knows it."""
        if event.kind is EventKind.RECOVERY and self._told.get(event.gpu) is None:
            self._recovers(event.gpu, _recovery(event.code), now_ms)
        if event.kind is not EventKind.XID or event.code in self._ignored:
            return
        effect = xids.effect(event.code, self._told.get(event.gpu))
        if not effect:
            return
        about = About(gpu=event.gpu, key=XID_TAINT, code=event.code, placement=placement)
        before = self._faults.get(about)
        since = before.since_ms if before and before.effect == effect else now_ms
        last = max(now_ms, before.last_ms) if before else now_ms
        self._faults[about] = Fault(effect=effect, since_ms=since, last_ms=last)
        self._fresh.add(about)

    def look(self, seen: Seen, now_ms: int) -> None:
        """What the GPUs are like now, after all that was heard until then."""
        for gpu in seen.lost:
            self._stand(About(gpu=gpu, key=LOST_TAINT), xids.NO_EXECUTE, now_ms)
        for gpu in sorted(seen.recovery.keys() - set(seen.lost)):
            self._answers(gpu, seen.recovery[gpu], now_ms)
        for gpu in seen.unmonitored:
            self._stand(About(gpu=gpu, key=UNMONITORED_TAINT), xids.NOTE, now_ms)
        for gpu in seen.recovery.keys() - set(seen.unmonitored):
            self._faults.pop(About(gpu=gpu, key=UNMONITORED_TAINT), None)
        for about, fault in list(self._faults.items()):
            if about.key == XID_TAINT and about.gpu in seen.recovery:
                self._judge(about, fault, now_ms)
        self._fresh.clear()

    def taints(self, devices: Iterable[Device]) -> Mapping[str, tuple[Taint, ...]]:
        """By device name, one taint of a key: the strongest effect, since the first fault that deserves it."""
        found = {}
        for device in devices:
            faults = [each for each in self._faults.items() if _concerns(each[0], device)]
            if faults:
                found[device.name] = tuple(_taints(faults))
        return found

    def _answers(self, gpu: str, told: Recovery | None, now_ms: int) -> None:
        returned = self._faults.pop(About(gpu=gpu, key=LOST_TAINT), None) is not None
        self._told[gpu] = told
        if told is not None:  # else what an event has asked for stands until an event says otherwise
            self._recovers(gpu, told, now_ms, returned=returned)

    def _recovers(self, gpu: str, action: Recovery, now_ms: int, *, returned: bool = False) -> None:
        """The driver asks for this action. A stronger or weaker effect is a new taint, another action of the same
        effect is not. `returned`: the GPU was lost."""
        before = [self._faults.pop(about) for about in self._asked(gpu)]
        effect = xids.recovery_effect(action)
        if effect:
            since = min((fault.since_ms for fault in before if fault.effect == effect), default=now_ms)
            about = About(gpu=gpu, key=RECOVERY_TAINT, code=action.value)
            self._faults[about] = Fault(effect=effect, since_ms=since, last_ms=since)
        elif before or returned:
            # Who has recovered is well, but for what was heard since the last look: that may be later.
            for about in [each for each in self._faults if each.gpu == gpu and each.key == XID_TAINT]:
                if about not in self._fresh:
                    del self._faults[about]

    def _asked(self, gpu: str) -> list[About]:
        return [about for about in self._faults if about.gpu == gpu and about.key == RECOVERY_TAINT]

    def _stand(self, about: About, effect: str, now_ms: int) -> None:
        self._faults.setdefault(about, Fault(effect=effect, since_ms=now_ms, last_ms=now_ms))

    def _judge(self, about: About, fault: Fault, now_ms: int) -> None:
        """An XID, by what is known now."""
        held = About(gpu=about.gpu, key=LOST_TAINT) in self._faults or self._asked(about.gpu)
        if about.code in self._ignored or (not held and now_ms - fault.last_ms >= self._window_ms):
            del self._faults[about]
            return
        effect = xids.effect(about.code, self._told[about.gpu])
        if effect != fault.effect:
            self._faults[about] = replace(fault, effect=effect, since_ms=now_ms)


def words(taint: Taint) -> str:
    """What is wrong and what helps, for a reader."""
    match taint.key:
        case key if key == XID_TAINT and taint.value.isdecimal():
            return xids.xid_words(int(taint.value))
        case key if key == RECOVERY_TAINT:
            named = {xids.recovery_name(action): action for action in Recovery}
            return xids.recovery_words(named[taint.value]) if taint.value in named else taint.value
        case key if key == LOST_TAINT:
            return "the GPU does not answer: reset it, or reboot the node"
        case key if key == UNMONITORED_TAINT:
            return "the driver tells no errors of this GPU"
    return f"{taint.key}={taint.value}" if taint.value else taint.key


def _recovery(code: int) -> Recovery:
    """An action that this code does not know is taken for the gravest."""
    return Recovery(code) if code in Recovery.__members__.values() else Recovery.SYSTEM_REBOOT


def _concerns(about: About, device: Device) -> bool:
    if about.gpu != device.gpu:
        return False
    if about.placement is None or device.kind is Kind.GPU:
        return True
    return device.placement is not None and device.placement.overlaps(about.placement)


def _taints(faults: list[tuple[About, Fault]]) -> Iterator[Taint]:
    for key in KEYS:
        of_key = [each for each in faults if each[0].key == key and each[1].effect]
        if not of_key:
            continue
        strongest = max(xids.STRENGTH[fault.effect] for _, fault in of_key)
        about, fault = min(
            (each for each in of_key if xids.STRENGTH[each[1].effect] == strongest),
            key=lambda each: (each[1].since_ms, each[0].code),
        )
        yield Taint(key=key, value=_value(about), effect=fault.effect, since_ms=fault.since_ms)


def _value(about: About) -> str:
    if about.key == XID_TAINT:
        return str(about.code)
    return xids.recovery_name(Recovery(about.code)) if about.key == RECOVERY_TAINT else ""
