"""What only a machine that is made up has: its shapes, the law of its geometry, and hardware that outlives who asks."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dra_driver import counters
from dra_driver.boards import Board, boards, shape
from dra_driver.facts import (
    ComputeMode,
    EventKind,
    Fabric,
    FabricState,
    Failure,
    GpuError,
    GpuEvent,
    Mig,
    MigInstance,
    MigProfile,
    Placement,
    Recovery,
)
from dra_driver.fake import FakeGpus
from dra_driver.readings import profile_name

VECTORS = json.loads(Path(__file__).with_name("mig_vectors.json").read_text())["vectors"]
PARTS = {name: board for name, board in boards().items() if board.profiles}


def cuttable(board: str) -> tuple[FakeGpus, str]:
    """A machine of one such board, in MIG mode, and its GPU."""
    fake = FakeGpus(f"{board}x1")
    (gpu,) = fake.uuids
    fake.set_mig(gpu, True)
    fake.reset(gpu)
    if not fake.gpus()[0].mig.on:  # type: ignore[union-attr]
        fake.set_mig(gpu, True)
    return fake, gpu


def try_to_make(fake: FakeGpus, gpu: str, profile: MigProfile, place: Placement) -> MigInstance | None:
    try:
        return fake.create_instance(gpu, profile.id, place)
    except GpuError as error:
        if error.failure is not Failure.INSUFFICIENT_RESOURCES:
            raise
        return None


def fits(fake: FakeGpus, gpu: str, wanted: list[MigProfile]) -> bool:
    """Whether all can be made, whichever placements that takes."""
    if not wanted:
        return True
    for place in wanted[0].placements:
        instance = try_to_make(fake, gpu, wanted[0], place)
        if instance is not None:
            found = fits(fake, gpu, wanted[1:])
            fake.destroy_instance(instance)
            if found:
                return True
    return False


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['board']} {vector['profiles']}")
def test_sets_of_instances_fit_as_nvidia_says(vector: Mapping[str, object]) -> None:
    fake, gpu = cuttable(str(vector["board"]))
    by_name = {profile.name: profile for profile in PARTS[str(vector["board"])].profiles}
    counts = vector["profiles"]
    assert isinstance(counts, dict)
    wanted = [by_name[name] for name, count in counts.items() for _ in range(count)]
    assert fits(fake, gpu, sorted(wanted, key=lambda profile: len(profile.placements))) is vector["fits"]
    assert fake.instances(gpu) == ()


def test_all_vectors_are_here() -> None:
    assert len(VECTORS) == 31
    assert {vector["board"] for vector in VECTORS} == set(PARTS) - {"a100"}  # cut as h100 is


def layouts(board: str, kinds: set[tuple[int, int]]) -> int:
    """In how many ways a GPU can be cut until nothing more fits, by kinds of (compute slices, memory slices)."""
    fake, gpu = cuttable(board)
    every = [
        (profile, place)
        for profile in PARTS[board].profiles
        for place in profile.placements
        if (profile.slices, profile.memory_slices) in kinds and "+" not in profile.name
    ]
    full: set[frozenset[tuple[int, Placement]]] = set()
    seen: set[frozenset[tuple[int, Placement]]] = set()

    def cut(there: frozenset[tuple[int, Placement]]) -> None:
        if there in seen:
            return
        seen.add(there)
        grown = False
        for profile, place in every:
            instance = try_to_make(fake, gpu, profile, place)
            if instance is not None:
                grown = True
                cut(there | {(profile.id, place)})
                fake.destroy_instance(instance)
        if not grown:
            full.add(there)

    cut(frozenset())
    return len(full)


@pytest.mark.parametrize(
    ("board", "kinds", "ways"),
    [
        ("a100-40", {(1, 1), (2, 2), (3, 4), (4, 4), (7, 8)}, 19),
        ("h100", {(1, 1), (2, 2), (3, 4), (4, 4), (7, 8)}, 19),
        ("a30", {(1, 1), (2, 2), (4, 4)}, 5),
        ("h100", {(1, 1), (1, 2), (2, 2), (3, 4), (4, 4), (7, 8)}, 78),
    ],
)
def test_a_board_can_be_cut_in_as_many_ways_as_were_counted_by_hand(
    board: str, kinds: set[tuple[int, int]], ways: int
) -> None:
    assert layouts(board, kinds) == ways


def test_one_instance_with_all_media_engines_tolerates_none_that_has_any() -> None:
    fake, gpu = cuttable("rtx-pro-6000")
    by_name = {profile.name: profile for profile in PARTS["rtx-pro-6000"].profiles}
    fake.create_instance(gpu, by_name["1g.24gb+me.all"].id, Placement(start=0, size=1))
    assert try_to_make(fake, gpu, by_name["1g.24gb"], Placement(start=1, size=1)) is None
    assert try_to_make(fake, gpu, by_name["1g.24gb-me"], Placement(start=1, size=1)) is not None


def test_two_kinds_of_instance_with_media_extensions_share_one_accelerator() -> None:
    fake, gpu = cuttable("a30")
    by_name = {profile.name: profile for profile in PARTS["a30"].profiles}
    fake.create_instance(gpu, by_name["1g.6gb+me"].id, Placement(start=0, size=1))
    assert try_to_make(fake, gpu, by_name["2g.12gb+me"], Placement(start=2, size=2)) is None
    assert try_to_make(fake, gpu, by_name["2g.12gb"], Placement(start=2, size=2)) is not None


Parts = list[tuple[MigProfile, Placement]]


@st.composite
def machines_and_parts(draw: st.DrawFn) -> tuple[Board, Parts]:
    board = PARTS[draw(st.sampled_from(sorted(PARTS)))]
    every = [(profile, place) for profile in board.profiles for place in profile.placements]
    return board, draw(st.lists(st.sampled_from(every), max_size=9))


def admitted(mig: Mig, parts: Parts) -> bool:
    """Whether the GPU's shared counters have enough for all of them together."""
    drawn: Counter[str] = Counter()
    for profile, place in parts:
        drawn.update(counters.drawn(mig, profile, place))
    return counters.fits(drawn, counters.total(mig))


@given(machines_and_parts(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_what_the_counters_admit_can_be_made_in_any_order_and_nothing_else_can(
    case: tuple[Board, Parts], random: object
) -> None:
    board, parts = case
    order = list(parts)
    random.shuffle(order)  # type: ignore[attr-defined]
    fake, gpu = cuttable(board.name)
    made = [try_to_make(fake, gpu, profile, place) for profile, place in order]
    mig = fake.gpus()[0].mig
    assert mig is not None
    assert all(made) is admitted(mig, parts)


@given(st.sampled_from(sorted(PARTS)), st.lists(st.tuples(st.booleans(), st.integers(0, 999)), max_size=25))
@settings(max_examples=100, deadline=None)
def test_whatever_is_made_and_destroyed_no_slice_is_given_twice(name: str, acts: list[tuple[bool, int]]) -> None:
    fake, gpu = cuttable(name)
    every = [(profile, place) for profile in PARTS[name].profiles for place in profile.placements]
    ever: list[str] = []
    for make, pick in acts:
        there = fake.instances(gpu)
        if make:
            made = try_to_make(fake, gpu, *every[pick % len(every)])
            ever += [made.uuid] if made else []
        elif there:
            fake.destroy_instance(there[pick % len(there)])
        there = fake.instances(gpu)
        for one, other in itertools.combinations(there, 2):
            assert not one.placement.overlaps(other.placement)
            assert one.id != other.id
        assert sum("+me" in one.profile for one in there) <= 1
    assert len(ever) == len(set(ever))


@pytest.mark.parametrize("text", ["", "h100", "x8", "h100x0", "h100x33", "v100x8", "h100x8+", "h100 x8", "h100x-1"])
def test_a_machine_that_is_none_is_refused_with_the_boards_there_are(text: str) -> None:
    with pytest.raises(ValueError, match=r"Fake machine .*(h100x8|32 at most)"):
        FakeGpus(text)


def test_machines_of_several_boards() -> None:
    assert [board.name for board in shape("a100-40x2+t4x1")] == ["a100-40", "a100-40", "t4"]
    assert len({gpu.pci_bus for gpu in FakeGpus("h100x32").gpus()}) == 32


@pytest.mark.parametrize("board", sorted(PARTS))
def test_every_profile_of_every_board_is_named_by_the_rule(board: str) -> None:
    whole = PARTS[board]
    slices = max(profile.memory_slices for profile in whole.profiles)
    enumerators = {"+me": 7, "+gfx": 10, "-me": 13, "+me.all": 15}
    for profile in whole.profiles:
        enumerator = enumerators.get(profile.name.partition("gb")[2], 0)
        told = profile_name("", enumerator, profile.slices, profile.memory_slices, slices, whole.memory_bytes)
        assert told == profile.name


def test_nodes_differ_and_each_is_the_same_at_every_start() -> None:
    one, again, other = FakeGpus(node="n1"), FakeGpus(node="n1"), FakeGpus(node="n2")
    assert one.gpus() == again.gpus()
    assert not set(one.uuids) & set(other.uuids)
    assert {gpu.serial for gpu in one.gpus()}.isdisjoint(gpu.serial for gpu in other.gpus())


def test_gb200_nodes_of_one_rack_share_a_fabric_and_stand_in_trays() -> None:
    near, far = FakeGpus("gb200x4", node="gpu-14"), FakeGpus("gb200x4", node="gpu-3")
    elsewhere = FakeGpus("gb200x4", node="gpu-14", rack="rack-2")
    fabrics = [fake.gpus()[0].fabric for fake in (near, far, elsewhere)]
    assert fabrics[0] == fabrics[1]
    assert fabrics[0] is not None
    assert fabrics[2] is not None
    assert fabrics[0].cluster != fabrics[2].cluster
    places = [fake.gpus()[0].rack for fake in (near, far)]
    assert [(place.slot, place.tray) for place in places if place] == [(24, 14), (4, 3)]


def test_hgx_ends_its_fabric_at_the_node_and_bridged_boards_know_their_neighbour() -> None:
    fabric = FakeGpus("h100x8").gpus()[7].fabric
    assert fabric == Fabric(state=FabricState.COMPLETED, cluster="", clique=0)
    bridged = FakeGpus("a30x3").gpus()
    assert [dict(gpu.links) for gpu in bridged] == [{bridged[1].pci_bus: 4}, {bridged[0].pci_bus: 4}, {}]


def test_facts_can_be_altered() -> None:
    fake = FakeGpus("gb200x4")
    fake.alter(1, fabric=Fabric(state=FabricState.IN_PROGRESS, cluster="", clique=0), ecc=None)
    assert [gpu.fabric.state.name for gpu in fake.gpus() if gpu.fabric] == [
        "COMPLETED",
        "IN_PROGRESS",
        "COMPLETED",
        "COMPLETED",
    ]
    assert fake.gpus()[1].ecc is None


def test_a_reboot_leaves_no_instance_and_the_mode_where_the_board_keeps_it() -> None:
    fake = FakeGpus("h100x1+a100x1")
    h100, a100 = fake.uuids
    boot = fake.boot_id
    for gpu in (h100, a100):
        fake.set_mig(gpu, True)
    fake.create_instance(h100, 9, Placement(start=0, size=4))
    fake.set_compute_mode(a100, ComputeMode.EXCLUSIVE_PROCESS)
    fake.ail(a100, Recovery.NODE_REBOOT)
    fake.reboot()
    modes = [gpu.mig and (gpu.mig.on, gpu.mig.pending, gpu.mig.instances) for gpu in fake.gpus()]
    assert modes == [(False, False, ()), (True, True, ())]
    assert fake.gpus()[1].compute_mode is ComputeMode.DEFAULT
    assert fake.recovery(a100) is Recovery.NONE
    assert fake.boot_id != boot


def test_a_gpu_in_use_is_not_reset() -> None:
    fake = FakeGpus("a100x1")
    fake.use(fake.uuids[0], 5)
    with pytest.raises(GpuError, match="in use"):
        fake.reset(fake.uuids[0])


def test_processes_respect_the_compute_mode_and_the_mig_mode() -> None:
    fake = FakeGpus("h100x2")
    whole, cut = fake.uuids
    fake.set_compute_mode(whole, ComputeMode.EXCLUSIVE_PROCESS)
    fake.use(whole, 1)
    with pytest.raises(GpuError, match="exclusive_process"):
        fake.use(whole, 2)
    fake.set_mig(cut, True)
    with pytest.raises(GpuError, match="in MIG mode"):
        fake.use(cut, 3)


def test_memory_limits_are_kept_by_cgroup_and_lifted() -> None:
    fake = FakeGpus("h100x1", memory_limits=True)
    (gpu,) = fake.uuids
    assert fake.gpus()[0].memory_limits
    fake.limit_memory(gpu, "/sys/fs/cgroup/a", 10 << 30)
    fake.limit_memory(gpu, "/sys/fs/cgroup/b", 20 << 30)
    fake.limit_memory(gpu, "/sys/fs/cgroup/a", None)
    assert fake.limits(gpu) == {"/sys/fs/cgroup/b": 20 << 30}
    for cgroup, amount in (("relative", 1), ("/a", 0)):
        with pytest.raises(GpuError, match="invalid argument"):
            fake.limit_memory(gpu, cgroup, amount)


def test_a_mode_change_may_move_the_minor_number() -> None:
    fake = FakeGpus("h100x2", moving_minors=True)
    fake.set_mig(fake.uuids[0], True)
    assert [gpu.minor for gpu in fake.gpus()] == [2, 1]


def test_a_refusal_of_one_gpu_is_not_one_of_another_and_lasts_until_it_is_lifted() -> None:
    fake = FakeGpus("h100x2")
    first, second = fake.uuids
    fake.refuse("recovery", Failure.TIMEOUT, first, once=False)
    assert fake.recovery(second) is Recovery.NONE
    for _ in range(2):
        with pytest.raises(GpuError, match="timeout"):
            fake.recovery(first)
    fake.allow("recovery")
    assert fake.recovery(first) is Recovery.NONE
    with pytest.raises(ValueError, match="no such call"):
        fake.refuse("recover", Failure.TIMEOUT)


def test_hardware_in_a_file_is_found_again_and_seen_by_all(tmp_path: Path) -> None:
    state = tmp_path / "hardware.json"
    one = FakeGpus("h100x2", state=state)
    other = FakeGpus("h100x2", state=state)
    gpu = one.uuids[1]
    one.set_mig(gpu, True)
    instance = one.create_instance(gpu, 9, Placement(start=4, size=4))
    other.use(instance.uuid, 77)
    assert other.instances(gpu) == (instance,)
    with pytest.raises(GpuError, match="in use"):
        one.destroy_instance(instance)
    assert FakeGpus("h100x2", state=state).gpus() == one.gpus()
    with pytest.raises(ValueError, match="it is of h100x2 on node 'node-1', not of h100x8"):
        FakeGpus("h100x8", state=state)


def test_an_event_that_another_process_tells_is_heard(tmp_path: Path) -> None:
    state = tmp_path / "hardware.json"
    plugin, hands = FakeGpus("h100x1", state=state), FakeGpus("h100x1", state=state)
    heard: list[GpuEvent | None] = []
    waiting = threading.Thread(target=lambda: heard.append(plugin.wait(30_000)))
    waiting.start()
    event = GpuEvent(gpu=plugin.uuids[0], kind=EventKind.XID, code=31)
    hands.inject(event)
    waiting.join(20)
    assert heard == [event]


def test_who_listens_too_late_hears_the_newest_events() -> None:
    fake = FakeGpus("h100x1")
    for code in range(300):
        fake.inject(GpuEvent(gpu=fake.uuids[0], kind=EventKind.XID, code=code))
    heard = [event.code for event in iter(lambda: fake.wait(0), None) if event is not None]
    assert heard == list(range(44, 300))


KILLED = """
import os, signal, sys
from pathlib import Path
from dra_driver.facts import Placement
from dra_driver.fake import FakeGpus

def step(name):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

fake = FakeGpus("h100x1", state=Path(sys.argv[1]), step=step)
gpu = fake.uuids[0]
fake.set_mig(gpu, True)
fake.destroy_instance(fake.create_instance(gpu, 9, Placement(start=4, size=4)))
"""


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("mig-mode", []),
        ("gpu-instance-made", [None]),
        ("compute-instance-made", [0]),
        ("compute-instance-destroyed", [None]),
        ("gpu-instance-destroyed", []),
    ],
)
def test_who_is_killed_leaves_the_hardware_as_it_was_just_then(
    tmp_path: Path, step: str, left: list[int | None]
) -> None:
    state = tmp_path / "hardware.json"
    root = str(Path(__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(state), step], env={**os.environ, "PYTHONPATH": root}, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    fake = FakeGpus("h100x1", state=state)
    (gpu,) = fake.uuids
    assert [instance.compute_id for instance in fake.instances(gpu)] == left
    for instance in fake.instances(gpu):
        fake.destroy_instance(instance)
    assert fake.instances(gpu) == ()
