"""Errors of GPUs become taints, with the effect that they deserve, and are gone when they are over."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dra_driver.devices import Device, Inventory, Kind, Taint
from dra_driver.disk import Disk
from dra_driver.facts import EventKind, Failure, GpuEvent, MigProfile, Placement, Recovery
from dra_driver.fake import FakeGpus
from dra_driver.health import Health, Seen, words
from dra_driver.monitor import Monitor
from dra_driver.xids import APPLICATION, effect, xid_words
from tests.node.endings import Refuses
from tests.node.offers import DYNAMIC, cut, device, gpus, offered

WINDOW = 600_000
START = 1_700_000_000_000
GPU, OTHER = "GPU-a", "GPU-b"
XID, LOST, UNMONITORED, RECOVERY = (
    f"gpu.nvidia.com/{name}" for name in ("xid", "gpu-lost", "unmonitored", "recovery-action")
)
GSP, DOUBLE_BIT, REMAPPED, UNKNOWN = 119, 48, 63, 4242
WHOLE = (Device(name="gpu-0", kind=Kind.GPU, gpu=GPU), Device(name="gpu-1", kind=Kind.GPU, gpu=OTHER))


def xid(code: int, gpu: str = GPU, instance: int | None = None) -> GpuEvent:
    return GpuEvent(gpu=gpu, kind=EventKind.XID, code=code, instance=instance)


def asked(action: Recovery | int, gpu: str = GPU) -> GpuEvent:
    return GpuEvent(gpu=gpu, kind=EventKind.RECOVERY, code=int(action))


def seen(told: Recovery | None = Recovery.NONE, *, lost: bool = False, unmonitored: bool = False) -> Seen:
    """A look at one GPU that tells this action, or does not answer; the other is well."""
    recovery = {OTHER: Recovery.NONE} | ({} if lost else {GPU: told})
    return Seen(recovery=recovery, lost=(GPU,) if lost else (), unmonitored=(GPU,) if unmonitored else ())


def taints(health: Health, name: str = "gpu-0") -> dict[str, tuple[str, str]]:
    """Value and effect by key."""
    found = health.taints(WHOLE).get(name, ())
    assert len({taint.key for taint in found}) == len(found)
    return {taint.key: (taint.value, taint.effect) for taint in found}


def sick(*codes: int, told: Recovery | None = None) -> Health:
    """After a look that found these XIDs, of a driver that tells this action."""
    health = Health(WINDOW)
    for code in codes:
        health.heard(xid(code), START)
    health.look(seen(told), START)
    return health


# --- what an error deserves ---


@pytest.mark.parametrize(
    ("code", "deserved"),
    [
        *((code, "NoExecute") for code in (46, 62, 79, 95, GSP, 120, 140, 158)),
        *((code, "NoSchedule") for code in (DOUBLE_BIT, 64, 74, 94, UNKNOWN)),
        *((code, "None") for code in (REMAPPED, 92, 154)),
    ],
)
def test_where_the_driver_tells_no_recovery_action_the_table_decides(code: int, deserved: str) -> None:
    assert taints(sick(code)) == {XID: (str(code), deserved)}
    assert taints(sick(code), "gpu-1") == {}


@pytest.mark.parametrize("code", [13, 31, 43, 45, 68, 109])
@pytest.mark.parametrize("told", [None, Recovery.NONE])
def test_an_error_of_an_application_is_no_fault_of_the_gpu(code: int, told: Recovery | None) -> None:
    assert sick(code, told=told).taints(WHOLE) == {}
    assert xid_words(code) != f"XID {code}"


@pytest.mark.parametrize(
    ("action", "value", "deserved"),
    [
        (Recovery.GPU_RESET, "gpu-reset", "NoExecute"),
        (Recovery.NODE_REBOOT, "node-reboot", "NoExecute"),
        (Recovery.DRAIN_P2P, "drain-p2p", "NoSchedule"),
        (Recovery.DRAIN_AND_RESET, "drain-and-reset", "NoSchedule"),
        (Recovery.RECOVER_IMEX_DOMAIN, "recover-imex-domain", "NoSchedule"),
        (Recovery.BUS_RESET, "bus-reset", "NoExecute"),
        (Recovery.SYSTEM_REBOOT, "system-reboot", "NoExecute"),
    ],
)
def test_what_the_driver_asks_for_decides_without_any_xid(action: Recovery, value: str, deserved: str) -> None:
    assert taints(sick(told=action)) == {RECOVERY: (value, deserved)}


def test_an_xid_that_the_driver_takes_into_its_action_is_judged_by_the_action() -> None:
    assert taints(sick(DOUBLE_BIT, told=Recovery.NONE)) == {XID: ("48", "None")}
    assert taints(sick(DOUBLE_BIT, told=Recovery.DRAIN_AND_RESET)) == {
        XID: ("48", "NoSchedule"),
        RECOVERY: ("drain-and-reset", "NoSchedule"),
    }
    assert taints(sick(GSP, told=Recovery.NONE)) == {XID: ("119", "NoExecute")}


@pytest.mark.parametrize("code", [171, 172])
def test_what_comes_with_a_double_bit_error_is_judged_with_it(code: int) -> None:
    assert (effect(code, None), effect(code, Recovery.NONE)) == ("NoSchedule", "None")


def test_an_error_heard_again_after_a_restart_stands_anew_if_it_deserves_more() -> None:
    health = Health(WINDOW)
    health.remember(sick(DOUBLE_BIT, told=Recovery.NONE).faults)
    health.heard(xid(DOUBLE_BIT), START + 5)
    ((taint,),) = health.taints(WHOLE).values()
    assert (taint.effect, taint.since_ms) == ("NoSchedule", START + 5)


def test_a_gpu_off_the_bus_is_not_believed_when_it_says_that_it_is_well() -> None:
    assert effect(79, Recovery.NONE) == "NoExecute"


def test_the_action_that_comes_after_the_xid_decides_then() -> None:
    health = sick(95, told=Recovery.NONE)
    health.look(seen(Recovery.GPU_RESET), START + 500)
    (first, second) = health.taints(WHOLE)["gpu-0"]
    assert (first.key, first.effect, first.since_ms) == (XID, "NoExecute", START + 500)
    assert (second.key, second.value, second.since_ms) == (RECOVERY, "gpu-reset", START + 500)


def test_an_action_that_is_not_known_is_taken_for_the_gravest() -> None:
    health = Health(WINDOW)
    health.heard(asked(99), START)
    assert taints(health) == {RECOVERY: ("system-reboot", "NoExecute")}


def test_a_lost_gpu_executes_nothing_and_one_that_tells_no_errors_is_only_marked() -> None:
    health = Health(WINDOW)
    health.look(seen(lost=True), START)
    assert taints(health) == {LOST: ("", "NoExecute")}
    health = Health(WINDOW)
    health.look(seen(unmonitored=True), START)
    assert taints(health) == {UNMONITORED: ("", "None")}
    health.look(seen(), START)
    assert taints(health) == {}


def test_xids_that_the_operator_ignores_have_no_taint_not_even_one_from_before() -> None:
    health = Health(WINDOW, (UNKNOWN, 74))
    health.remember(sick(GSP, UNKNOWN).faults)
    health.heard(xid(74), START)
    health.look(seen(None), START)
    assert taints(health) == {XID: ("119", "NoExecute")}


def test_corrected_errors_and_changes_of_mig_are_no_faults() -> None:
    health = Health(WINDOW)
    for kind in (EventKind.SINGLE_BIT_ECC, EventKind.MIG_CHANGED):
        health.heard(GpuEvent(gpu=GPU, kind=kind), START)
    health.look(seen(), START)
    assert health.faults == {}


# --- one taint of a key, since when it stands ---


def test_of_several_xids_the_strongest_is_shown_since_it_was_first_heard() -> None:
    health = Health(WINDOW)
    for after, code in ((0, REMAPPED), (1, 74), (2, GSP), (3, 79), (4, GSP)):
        health.heard(xid(code), START + after)
    assert health.taints(WHOLE)["gpu-0"] == (Taint(key=XID, value="119", effect="NoExecute", since_ms=START + 2),)


def test_the_taint_keeps_its_time_however_often_the_error_comes() -> None:
    health = sick(GSP)
    for minute in range(1, 30):
        health.heard(xid(GSP), START + minute * 60_000)
        health.look(seen(None), START + minute * 60_000)
    ((taint,),) = health.taints(WHOLE).values()
    assert taint.since_ms == START


def test_another_action_of_the_same_effect_is_no_new_taint_and_a_stronger_one_is() -> None:
    health = sick(told=Recovery.DRAIN_P2P)
    health.look(seen(Recovery.DRAIN_AND_RESET), START + 1)
    ((taint,),) = health.taints(WHOLE).values()
    assert (taint.value, taint.since_ms) == ("drain-and-reset", START)
    health.look(seen(Recovery.GPU_RESET), START + 2)
    ((taint,),) = health.taints(WHOLE).values()
    assert (taint.value, taint.effect, taint.since_ms) == ("gpu-reset", "NoExecute", START + 2)


# --- when it is over ---


def test_an_xid_is_over_after_a_clean_window_and_not_a_moment_before() -> None:
    health = sick(GSP)
    health.heard(xid(GSP), START + 1000)
    health.look(seen(None), START + 1000 + WINDOW - 1)
    assert taints(health) == {XID: ("119", "NoExecute")}
    health.look(seen(None), START + 1000 + WINDOW)
    assert health.faults == {}


def test_each_xid_has_its_own_window() -> None:
    health = sick(GSP)
    health.heard(xid(74), START + 1000)
    health.look(seen(None), START + WINDOW)
    assert taints(health) == {XID: ("74", "NoSchedule")}


def test_when_the_driver_says_that_the_recovery_is_done_all_is_over_at_once() -> None:
    health = sick(GSP, DOUBLE_BIT, told=Recovery.GPU_RESET)
    health.look(seen(Recovery.NONE), START + 5000)
    assert health.faults == {}


def test_what_was_heard_since_the_last_look_outlives_the_recovery() -> None:
    health = sick(GSP, told=Recovery.GPU_RESET)
    health.heard(xid(74), START + 5000)
    health.heard(xid(46), START + 5000)
    health.look(seen(Recovery.NONE), START + 5000)
    assert taints(health) == {XID: ("46", "NoExecute")}
    health.look(seen(Recovery.NONE), START + 6000)
    assert taints(health) == {XID: ("46", "NoExecute")}


def test_where_only_events_tell_the_action_they_begin_and_end_it() -> None:
    health = sick(GSP)
    health.heard(asked(Recovery.GPU_RESET), START)
    health.look(seen(None), START + WINDOW)
    assert taints(health) == {XID: ("119", "NoExecute"), RECOVERY: ("gpu-reset", "NoExecute")}
    health.heard(asked(Recovery.NONE), START + WINDOW)
    assert health.faults == {}


def test_an_event_does_not_contradict_what_the_driver_tells_when_it_is_asked() -> None:
    health = sick(GSP, told=Recovery.GPU_RESET)
    health.heard(asked(Recovery.NONE), START + 1)
    assert taints(health)[RECOVERY] == ("gpu-reset", "NoExecute")


def test_a_gpu_that_is_found_again_and_asks_for_nothing_is_well() -> None:
    health = Health(WINDOW)
    health.heard(xid(79), START)
    health.look(seen(lost=True), START)
    health.look(seen(lost=True), START + 10 * WINDOW)
    assert taints(health) == {XID: ("79", "NoExecute"), LOST: ("", "NoExecute")}
    health.heard(xid(74), START + 10 * WINDOW)
    health.look(seen(lost=True), START + 10 * WINDOW)
    health.look(seen(Recovery.NONE), START + 10 * WINDOW + 1)
    assert health.faults == {}


def test_one_found_again_that_cannot_tell_waits_for_its_window() -> None:
    health = Health(WINDOW)
    health.heard(xid(79), START)
    health.look(seen(lost=True), START)
    health.look(seen(None), START + 1000)
    assert taints(health) == {XID: ("79", "NoExecute")}


def test_of_a_gpu_that_could_not_be_asked_nothing_is_concluded() -> None:
    health = sick(GSP, told=Recovery.GPU_RESET)
    health.look(Seen(), START + 10 * WINDOW)
    assert taints(health) == {XID: ("119", "NoExecute"), RECOVERY: ("gpu-reset", "NoExecute")}


# --- instances ---


def test_an_error_of_one_instance_concerns_its_slices_and_the_whole_gpu() -> None:
    (gpu,) = gpus("h100x1")
    found = offered([gpu], DYNAMIC)
    health = Health(WINDOW)
    health.heard(xid(GSP, gpu.uuid, 1), START, Placement(start=4, size=2))
    tainted = health.taints(found.devices)
    assert set(tainted) == {
        "gpu-0",
        "gpu-0-mig-1g10gb-19-4",
        "gpu-0-mig-1g10gb-19-5",
        "gpu-0-mig-1g10gb-me-20-4",
        "gpu-0-mig-1g10gb-me-20-5",
        "gpu-0-mig-1g20gb-15-4",
        "gpu-0-mig-2g20gb-14-4",
        "gpu-0-mig-3g40gb-9-4",
        "gpu-0-mig-7g80gb-0-0",
    }


def test_a_neighbour_of_an_operators_instance_goes_on() -> None:
    gpu = cut(gpus("h100x1")[0], ("3g.40gb", 0), ("3g.40gb", 4))
    found = offered([gpu])
    health = Health(WINDOW)
    health.heard(xid(GSP, gpu.uuid, 2), START, Placement(start=4, size=4))
    assert set(health.taints(found.devices)) == {"gpu-0-mig-3g40gb-9-4"}
    assert device(found, "gpu-0-mig-3g40gb-9-0").placement == Placement(start=0, size=4)


# --- properties ---

CODES = st.sampled_from([GSP, DOUBLE_BIT, REMAPPED, 74, 79, 94, 95, UNKNOWN, 13, 31])
PLACES = st.sampled_from([None, Placement(start=0, size=4), Placement(start=4, size=4)])
PARTS = tuple(
    Device(name=f"part-{start}", kind=Kind.MIG, gpu=GPU, placement=Placement(start=start, size=2)) for start in (0, 4)
)


@given(st.lists(st.tuples(CODES, PLACES), max_size=8), st.randoms(), st.sampled_from([None, *Recovery]))
def test_in_which_order_xids_are_heard_between_two_looks_makes_no_difference(
    events: list[tuple[int, Placement | None]], random: object, told: Recovery | None
) -> None:
    shuffled = list(events)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    results = []
    for each in (events, shuffled):
        health = Health(WINDOW)
        for code, place in each:
            health.heard(xid(code), START, place)
        health.look(seen(told), START)
        results.append(health.taints((*WHOLE, *PARTS)))
    assert results[0] == results[1]


STEPS = st.one_of(
    st.tuples(st.just("xid"), CODES),
    st.tuples(st.just("told"), st.sampled_from([None, *Recovery])),
    st.tuples(st.just("lost"), st.booleans()),
    st.tuples(st.just("wait"), st.integers(1, 2 * WINDOW)),
)


@given(st.lists(STEPS, max_size=25))
def test_a_taint_never_clears_while_its_cause_stands_and_always_does_after(steps: list[tuple[str, object]]) -> None:
    health, now = Health(WINDOW), START
    told: Recovery | None = Recovery.NONE
    lost = False
    for step, value in steps:
        now += 1
        match step, value:
            case "xid", int(code):
                health.heard(xid(code), now)
            case "told", _:
                told = value  # type: ignore[assignment]
            case "lost", bool():
                lost = value
            case "wait", int(spent):
                now += spent
        before = taints(health)
        health.look(seen(told, lost=lost), now)
        after = taints(health)
        if lost:
            assert after[LOST][1] == "NoExecute"
            assert (XID in after) == (XID in before)
        else:
            assert LOST not in after
            if told is not None:
                assert (RECOVERY in after) == (told is not Recovery.NONE)
            if told not in (None, Recovery.NONE):
                assert (XID in after) == (XID in before)
        if step == "xid" and value not in APPLICATION:
            assert XID in after, "an error of this very moment is shown"
    health.look(seen(Recovery.NONE), now + WINDOW)
    assert health.faults == {}


@given(st.lists(st.tuples(CODES, PLACES), max_size=8))
def test_no_device_has_two_taints_of_a_key(events: list[tuple[int, Placement | None]]) -> None:
    health = Health(WINDOW)
    for number, (code, place) in enumerate(events):
        health.heard(xid(code), START + number, place)
    for found in health.taints((*WHOLE, *PARTS)).values():
        assert len({taint.key for taint in found}) == len(found)


# --- with the hardware, and over a restart ---


class Bench:
    """A made-up machine that is watched; `again` is a new plugin on the same disk."""

    def __init__(self, folder: Path) -> None:
        self.fake, self.folder, self.boot, self.disk = FakeGpus("h100x2"), folder, "boot-1", Disk()
        self.now = START
        self.monitor = self.again()

    def again(self) -> Monitor:
        self.monitor = Monitor(self.fake, self.disk, self.folder, lambda: self.boot, window_ms=WINDOW)
        return self.monitor

    def look(self) -> dict[str, dict[str, tuple[str, str]]]:
        """All events, one look, and the taints by device."""
        events = []
        while (event := self.fake.wait(0)) is not None:
            events.append(event)
        self.monitor.hear(events, self.now)
        self.monitor.look([gpu.uuid for gpu in self.fake.gpus()], self.fake.lost(), self.now)
        found = self.monitor.taints(self.inventory.devices)
        return {name: {each.key: (each.value, each.effect) for each in told} for name, told in found.items()}

    @property
    def inventory(self) -> Inventory:
        """All that the machine can offer, whatever has become of it."""
        return offered(FakeGpus("h100x2").gpus(), DYNAMIC)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_reset_ends_what_the_driver_asked_it_for(bench: Bench) -> None:
    first = bench.fake.uuids[0]
    bench.fake.inject(xid(GSP, first))
    bench.fake.ail(first, Recovery.GPU_RESET)
    found = bench.look()
    assert len(found) == 26
    assert found["gpu-0"] == {XID: ("119", "NoExecute"), RECOVERY: ("gpu-reset", "NoExecute")}
    bench.fake.reset(first)
    assert bench.look() == {}


def test_an_xid_of_an_instance_is_found_by_its_number(bench: Bench) -> None:
    first = bench.fake.uuids[0]
    bench.fake.set_mig(first, True)
    profile = _profile(bench.fake, "3g.40gb")
    bench.fake.create_instance(first, profile.id, Placement(start=0, size=4))
    made = bench.fake.create_instance(first, profile.id, Placement(start=4, size=4))
    bench.fake.inject(xid(GSP, first, made.id))
    found = bench.look()
    assert {"gpu-0", "gpu-0-mig-3g40gb-9-4"} <= found.keys()
    assert "gpu-0-mig-3g40gb-9-0" not in found


def test_one_of_an_instance_that_is_gone_concerns_all_of_the_gpu(bench: Bench) -> None:
    bench.fake.inject(xid(GSP, bench.fake.uuids[1], 7))
    assert len(bench.look()) == 26


def _profile(fake: FakeGpus, name: str) -> MigProfile:
    mig = fake.gpus()[0].mig
    assert mig is not None
    return next(profile for profile in mig.profiles if profile.name == name)


def test_a_gpu_that_wants_a_reset_and_says_so_by_refusing_gets_the_taint(bench: Bench) -> None:
    bench.fake.refuse("recovery", Failure.RESET_REQUIRED, bench.fake.uuids[0], once=False)
    assert bench.look()["gpu-0"] == {RECOVERY: ("gpu-reset", "NoExecute")}


def test_a_gpu_that_is_lost_while_it_is_asked_is_lost(bench: Bench) -> None:
    bench.fake.refuse("recovery", Failure.GPU_IS_LOST, bench.fake.uuids[0])
    assert bench.look()["gpu-0"] == {LOST: ("", "NoExecute")}
    assert bench.look() == {}


def test_a_refusal_that_says_nothing_changes_nothing(bench: Bench) -> None:
    bench.fake.ail(bench.fake.uuids[0], Recovery.GPU_RESET)
    before = bench.look()
    bench.fake.refuse("recovery", Failure.UNKNOWN, bench.fake.uuids[0])
    assert bench.look() == before


def test_gpus_without_events_are_marked(bench: Bench) -> None:
    bench.fake.mute(bench.fake.uuids[0])
    bench.fake.inject(xid(GSP, bench.fake.uuids[0]))
    assert bench.look()["gpu-0"] == {UNMONITORED: ("", "None")}


def test_what_stands_outlives_the_plugin_with_its_time(bench: Bench) -> None:
    bench.fake.inject(xid(GSP, bench.fake.uuids[0]))
    before = bench.look()
    first = bench.monitor.taints(bench.inventory.devices)
    bench.again()
    bench.now += WINDOW - 1
    assert bench.look() == before
    assert bench.monitor.taints(bench.inventory.devices) == first
    bench.now += 1
    assert bench.look() == {}
    assert json.loads((bench.folder / "health.json").read_text())["faults"] == []


def test_a_recovery_that_ends_while_nobody_looks_ends_the_xids_too(bench: Bench) -> None:
    first = bench.fake.uuids[0]
    bench.fake.inject(xid(GSP, first))
    bench.fake.ail(first, Recovery.GPU_RESET)
    bench.look()
    bench.again()
    bench.fake.reset(first)
    assert bench.look() == {}


def test_a_reboot_ends_it(bench: Bench) -> None:
    bench.fake.inject(xid(GSP, bench.fake.uuids[0]))
    bench.look()
    bench.fake.reboot()
    bench.boot = "boot-2"
    bench.again()
    assert bench.look() == {}


@pytest.mark.parametrize(
    "damage", [lambda text: text[:40], lambda _: "", lambda _: "[]", lambda text: text.replace("1", '"x"', 1)]
)
def test_a_damaged_file_is_begun_anew(bench: Bench, damage: Callable[[str], str]) -> None:
    bench.fake.inject(xid(GSP, bench.fake.uuids[0]))
    bench.look()
    path = bench.folder / "health.json"
    path.write_text(damage(path.read_text()))
    bench.again()
    assert bench.look() == {}
    bench.fake.inject(xid(74, bench.fake.uuids[0]))
    assert bench.look()["gpu-0"] == {XID: ("74", "None")}


def test_nothing_is_written_while_nothing_changes(bench: Bench) -> None:
    bench.fake.ail(bench.fake.uuids[0], Recovery.GPU_RESET)
    bench.fake.lose(bench.fake.uuids[1])
    bench.look()
    written = (bench.folder / "health.json").stat().st_ino
    for _ in range(3):
        bench.now += 60_000
        bench.look()
    assert (bench.folder / "health.json").stat().st_ino == written


def test_a_disk_that_refuses_hides_nothing_and_is_written_later(bench: Bench) -> None:
    bench.disk = full = Refuses("write", errno.ENOSPC)
    bench.again()
    bench.fake.inject(xid(GSP, bench.fake.uuids[0]))
    assert bench.look()["gpu-0"] == {XID: ("119", "NoExecute")}
    full.step = ""
    bench.look()
    bench.again()
    assert bench.look()["gpu-0"] == {XID: ("119", "NoExecute")}


def test_words_say_what_is_wrong_and_what_helps() -> None:
    def said(key: str, value: str = "") -> str:
        return words(Taint(key=key, value=value, effect="NoExecute", since_ms=0))

    assert said(XID, "119") == "XID 119 (the GPU's system processor (GSP) does not answer)"
    assert said(XID, "4242") == "XID 4242"
    assert said(RECOVERY, "node-reboot") == "the node needs a reboot"
    assert said(LOST) == "the GPU does not answer: reset it, or reboot the node"
    assert said("example.com/other", "x") == "example.com/other=x"
