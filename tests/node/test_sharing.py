"""How several use one device: MPS, time slices, exclusive use, shares of memory; repeated, and ended anywhere.

The daemons are real processes (`fake_tools`), the GPUs are made up.
"""

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from dra_driver import cdi
from dra_driver.cgroups import PodCgroups, pod_cgroups
from dra_driver.commands import MPS_CONTROL, TIMED_OUT, Answer, HostProcesses, Subprocesses, Tools, tools
from dra_driver.devices import ClaimRef, Enforcement, Grant, Kind, Prepared, Settings, Sharing
from dra_driver.disk import Disk
from dra_driver.facts import ComputeMode, Failure, GpuError, Placement
from dra_driver.fake import FakeGpus
from dra_driver.fake_tools import fake_tools
from dra_driver.libraries import Libraries
from dra_driver.mps import Daemons, Limits, ceiling
from dra_driver.prepare import SharingError
from dra_driver.sharing import Sharer, uses_mps
from tests.node.endings import Ended, Ends
from tests.node.test_cdi import SCHEMA, UID, Nodes

GIB, MIB = 1 << 30, 1 << 20
PLAIN, MPS = Settings(), Settings(sharing=Sharing.MPS)
EXCLUSIVE = Settings(sharing=Sharing.EXCLUSIVE)


def slices(length):
    return Settings(sharing=Sharing.TIME_SLICING, time_slice=length)


def claim(name):
    return ClaimRef(namespace="team", name=name, uid=f"uid-{name}")


A, B, C = claim("a"), claim("b"), claim("c")


class Broken:
    """Programs of which one that is named fails."""

    def __init__(self, word):
        self._word = word

    def run(self, argv, *, env, stdin="", seconds=20):
        if self._word in " ".join((*argv, stdin)):
            return Answer(code=3, errors="it is broken\n")
        return Subprocesses().run(argv, env=env, stdin=stdin, seconds=seconds)


class Node:
    """A node with made-up GPUs, and programs and daemons that are real. `start` makes the plugin anew on it."""

    def __init__(self, folder, machine="h100x2", **hardware):
        self.folder = folder
        self.gpus = FakeGpus(machine, **hardware)
        self.tools = fake_tools(folder / "bin")
        self.first, self.second = (*self.gpus.uuids, "")[:2]
        self.cgroups = {}
        self.start()

    def start(self, *, disk=None, commands=None, processes=None, tools=None, dmem=False, gpus=None):
        self.daemons = Daemons(
            self.folder / "plugin" / "mps",
            disk=disk or Disk(),
            commands=commands or Subprocesses(),
            processes=processes or HostProcesses(),
            tools=tools or self.tools,
            shm=self.folder / "shm",
        )
        self.sharer = Sharer(
            self.folder / "plugin",
            gpus=gpus or self.gpus,
            disk=disk or Disk(),
            daemons=self.daemons,
            commands=commands or Subprocesses(),
            tools=tools or self.tools,
            cgroups=lambda claim: self.cgroups.get(claim.uid, ()),
            dmem=dmem,
        )
        return self

    def gpu(self, settings=PLAIN, *, gpu=None, requests=("r",), **share):
        uuid = gpu or self.first
        minor = self.gpus.uuids.index(uuid)
        grant = Grant(requests=requests, pool="n", device=f"gpu-{minor}", settings=settings, **share)
        return Prepared(grant=grant, kind=Kind.GPU, gpu=uuid, minor=minor)

    def mig(self, settings, instance, gpu):
        grant = Grant(requests=("m",), pool="n", device=f"mig-{instance.placement.start}", settings=settings)
        return Prepared(
            grant=grant,
            kind=Kind.MIG,
            gpu=gpu,
            minor=1,
            placement=instance.placement,
            made=True,
            instance=instance.uuid,
        )

    def mode(self, gpu=None):
        return next(each.compute_mode for each in self.gpus.gpus() if each.uuid == (gpu or self.first))

    def time_slice(self):
        path = self.folder / "bin" / "time-slices" / self.first
        return path.read_text().strip() if path.exists() else None

    def told(self, device):
        """What the device's daemon was told, line by line."""
        (log,) = [path for path in self._places() if (path / "device").read_text() == device]
        return (log / "log" / "control.log").read_text().splitlines()

    def pids(self):
        return [int((path / "pipe" / "nvidia-cuda-mps-control.pid").read_text()) for path in self._places()]

    def running(self):
        """Daemons of this node that run, whoever knows of them."""
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdecimal():
                try:
                    words = (path / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.folder / "bin" / MPS_CONTROL).encode() in words and b"--serve" in words:
                    found.append(int(path.name))
        return found

    def kill(self):
        for pid in self.running():
            os.kill(pid, signal.SIGKILL)
        while self.running():
            time.sleep(0.01)

    def left(self):
        """What of the plugin's is left on the disk."""
        roots = (self.folder / "plugin", self.folder / "shm")
        return sorted(
            str(path.relative_to(self.folder)) for root in roots for path in root.rglob("*") if path.is_file()
        )

    def _places(self):
        return sorted(path for path in (self.folder / "plugin" / "mps").iterdir() if (path / "device").exists())


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    yield made
    made.start().sharer.collect(())
    assert made.running() == []


def test_a_device_that_is_nobody_elses_and_asks_for_nothing_has_nothing_done_to_it(node):
    device = node.gpu()
    assert node.sharer.apply(A, device, ()) is device
    node.sharer.undo(A, device, ())
    assert node.left() == []
    assert node.sharer.edits([device]) == (cdi.Edits(),)


def test_one_daemon_serves_all_claims_of_a_gpu_and_goes_with_the_last(node):
    first = node.sharer.apply(A, node.gpu(MPS), ())
    (pid,) = node.pids()
    second = node.sharer.apply(B, node.gpu(MPS), (first,))
    assert node.pids() == node.running() == [pid]
    assert node.mode() is ComputeMode.EXCLUSIVE_PROCESS
    node.sharer.undo(A, first, (second,))
    assert node.running() == [pid]
    assert node.mode() is ComputeMode.EXCLUSIVE_PROCESS
    node.sharer.undo(B, second, ())
    assert node.running() == []
    assert node.mode() is ComputeMode.DEFAULT
    assert node.left() == []


def test_what_is_repeated_changes_nothing(node):
    device = node.sharer.apply(A, node.gpu(MPS), ())
    pids, told = node.pids(), node.told(node.first)
    assert node.sharer.apply(A, device, ()) == device
    assert node.pids() == pids
    assert node.told(node.first)[: len(told)] == told
    assert not [line for line in node.told(node.first) if line.startswith("started")][1:]
    for _ in range(2):
        node.sharer.undo(A, device, ())
        assert (node.running(), node.left()) == ([], [])


def test_two_shares_of_one_gpu_have_each_their_limits_and_the_daemon_the_larger(node):
    small = node.sharer.apply(A, node.gpu(memory_bytes=10 * GIB, cores_percent=25), ())
    large = node.sharer.apply(B, node.gpu(memory_bytes=20 * GIB, cores_percent=60), (small,))
    assert (small.enforcement, large.enforcement) == (Enforcement.MPS, Enforcement.MPS)
    (edits,), (others,) = node.sharer.edits([small]), node.sharer.edits([large])
    assert edits.env == {
        "CUDA_MPS_PIPE_DIRECTORY": "/tmp/nvidia-mps",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=10240M",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "25",
    }
    assert others.env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=20480M"
    assert edits.mounts == others.mounts
    assert [mount.container for mount in edits.mounts] == ["/tmp/nvidia-mps", "/dev/shm"]
    assert all(Path(mount.host).is_dir() for mount in edits.mounts)
    assert node.told(node.first)[0] == f"started {node.first} -M"
    assert node.told(node.first)[-2:] == [
        "set_default_active_thread_percentage 60",
        f"set_default_device_pinned_mem_limit {node.first} 20480M",
    ]
    node.sharer.undo(B, large, (small,))
    assert node.told(node.first)[-1] == f"set_default_device_pinned_mem_limit {node.first} 10240M"


def test_servers_that_run_are_told_of_new_limits(node):
    first = node.sharer.apply(A, node.gpu(memory_bytes=10 * GIB), ())
    (edits,) = node.sharer.edits([first])
    (Path(edits.mounts[0].host) / "servers").write_text("4711\n4712\n")
    node.sharer.apply(B, node.gpu(memory_bytes=30 * GIB), (first,))
    assert node.told(node.first)[-6:] == [
        "set_default_active_thread_percentage 100",
        "set_active_thread_percentage 4711 100",
        "set_active_thread_percentage 4712 100",
        f"set_default_device_pinned_mem_limit {node.first} 30720M",
        f"set_device_pinned_mem_limit 4711 {node.first} 30720M",
        f"set_device_pinned_mem_limit 4712 {node.first} 30720M",
    ]


def test_a_limit_is_lifted_by_telling_the_whole_memory_and_a_fresh_daemon_is_told_of_none(node):
    limited = node.sharer.apply(A, node.gpu(memory_bytes=GIB), ())
    node.sharer.apply(B, node.gpu(MPS, cores_percent=10), (limited,))
    whole = node.gpus.gpus()[0].memory_bytes // MIB
    assert node.told(node.first)[-1] == f"set_default_device_pinned_mem_limit {node.first} {whole}M"
    node.sharer.apply(C, node.gpu(MPS, gpu=node.second), ())
    assert node.told(node.second) == [f"started {node.second}", "set_default_active_thread_percentage 100"]


def test_a_client_without_a_limit_lifts_the_daemons():
    assert ceiling([Limits(memory_bytes=3), Limits(memory_bytes=5, threads_percent=10)]) == Limits(memory_bytes=5)
    assert ceiling([Limits(memory_bytes=3), Limits(threads_percent=10)]) == Limits()
    assert ceiling([]) == Limits()


def test_a_config_may_lower_a_share_and_not_raise_it(node):
    settings = Settings(sharing=Sharing.MPS, memory_bytes=4 * GIB, threads_percent=90)
    device = node.sharer.apply(A, node.gpu(settings, memory_bytes=10 * GIB, cores_percent=50), ())
    env = node.sharer.edits([device])[0].env
    assert env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=4096M"
    assert env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "50"


def test_a_daemon_that_died_is_started_anew_while_claims_need_it(node):
    device = node.sharer.apply(A, node.gpu(MPS), ())
    (pid,) = node.pids()
    node.kill()
    assert node.running() == []
    node.sharer.apply(A, device, ())
    assert len(node.running()) == 1
    assert node.running() != [pid]


def test_collecting_starts_a_dead_daemon_anew_and_tells_one_that_does_not_start(node):
    device = node.sharer.apply(A, node.gpu(MPS), ())
    assert node.sharer.collect(((A, device),)) == ()
    node.kill()
    node.start(commands=Broken("-d"))
    (words,) = node.sharer.collect(((A, device),))
    assert words.startswith(f"MPS on {node.first}: the daemon does not start (exit status 3: it is broken)")
    assert node.start().sharer.collect(((A, device),)) == (f"dead MPS daemon of {node.first}, started anew",)
    assert len(node.running()) == 1
    node.gpus.lose(node.first)
    node.kill()
    assert node.sharer.collect(((A, device),)) == ()


def test_a_daemon_that_does_not_answer_is_ended_before_another_is_started(node):
    device = node.sharer.apply(A, node.gpu(MPS), ())
    (pid,) = node.pids()
    (edits,) = node.sharer.edits([device])
    (Path(edits.mounts[0].host) / "control").unlink()
    node.sharer.apply(A, device, ())
    assert len(node.running()) == 1
    assert node.running() != [pid]


def test_what_clients_have_put_into_the_folder_of_a_daemon_is_not_opened_by_the_next(node, tmp_path):
    device = node.sharer.apply(A, node.gpu(MPS), ())
    (edits,) = node.sharer.edits([device])
    pipe = Path(edits.mounts[0].host)
    inode = pipe.stat().st_ino
    node.kill()
    precious = tmp_path / "precious"
    precious.write_text("not to be written")
    for name in ("nvidia-cuda-mps-control.pid", "log"):
        (pipe / name).unlink(missing_ok=True)
        (pipe / name).symlink_to(precious)
    (pipe / "folder").mkdir()
    (pipe / "folder" / "link").symlink_to(precious)
    node.sharer.apply(A, device, ())
    assert len(node.running()) == 1
    assert precious.read_text() == "not to be written"
    assert not (pipe / "folder").exists()
    assert pipe.stat().st_ino == inode, "it is mounted in the containers of those who use it"


class Hanging(Subprocesses):
    """A daemon that starts, and never answers. `seconds`: how long we were kept waiting."""

    seconds = 0.0

    def run(self, argv, *, env, stdin="", seconds=20):
        del env, stdin
        if "-d" in argv:
            return Answer(code=0)
        self.seconds += seconds
        return Answer(code=TIMED_OUT)


def test_a_daemon_that_hangs_keeps_nobody_waiting_for_long(node):
    commands = Hanging()
    node.start(commands=commands)
    with pytest.raises(SharingError, match="has started and does not answer"):
        node.sharer.apply(A, node.gpu(MPS), ())
    assert commands.seconds <= 40


def test_the_daemon_outlives_the_plugin_and_is_found_again(node):
    device = node.sharer.apply(A, node.gpu(MPS), ())
    pids = node.running()
    node.start()
    node.sharer.apply(A, device, ())
    assert node.running() == pids
    node.start().sharer.undo(A, device, ())
    assert node.running() == []


def test_a_daemon_has_a_shm_of_its_own_that_nothing_is_left_of(node):
    """As root, where the kernel lets a mount namespace be made; what clients mount is what their daemon sees."""
    probe = Subprocesses().run(["unshare", "--mount", "true"], env={})
    if probe.code != 0:
        pytest.skip(f"no mount namespaces here: {probe.words}")
    node.start(tools=replace(node.tools, own_shm=True))
    device = node.sharer.apply(A, node.gpu(MPS), ())
    (pid,) = node.running()
    shared = Path(node.sharer.edits([device])[0].mounts[1].host)
    (shared / "seen").write_text("by both")
    assert Path(f"/proc/{pid}/root/dev/shm/seen").read_text() == "by both"
    assert not Path("/dev/shm/seen").exists()
    node.sharer.undo(A, device, ())
    assert str(shared) not in Path("/proc/self/mountinfo").read_text()
    assert node.left() == []


def test_mps_on_one_gpu_and_on_an_instance_of_another_at_once(node):
    """What excludes itself at NVIDIA: MPS with MIG that is made on demand, and MPS on instances."""
    node.gpus.set_mig(node.second, True)
    profile = next(p for g in node.gpus.gpus() if g.uuid == node.second for p in g.mig.profiles if p.name == "3g.40gb")
    made = node.gpus.create_instance(node.second, profile.id, Placement(start=4, size=4))
    whole = node.sharer.apply(A, node.gpu(MPS), ())
    part = node.sharer.apply(A, node.mig(MPS, made, node.second), ())
    assert sorted(node.daemons.devices()) == sorted([node.first, made.uuid])
    assert node.told(made.uuid)[0] == f"started {made.uuid}"
    assert node.mode(node.second) is ComputeMode.DEFAULT
    node.sharer.undo(A, part, ())
    assert node.daemons.devices() == (node.first,)
    node.sharer.undo(A, whole, ())
    assert node.left() == []


def test_plain_use_of_a_shared_gpu_opens_it_to_all_and_closes_it_again(node):
    mps = node.sharer.apply(A, node.gpu(MPS, memory_bytes=GIB), ())
    plain = node.sharer.apply(B, node.gpu(slices(0), memory_bytes=GIB), (mps,))
    assert plain.enforcement is Enforcement.NONE
    assert node.mode() is ComputeMode.DEFAULT
    node.sharer.undo(B, plain, (mps,))
    assert node.mode() is ComputeMode.EXCLUSIVE_PROCESS


def test_a_gpu_gets_back_the_mode_that_it_had(node):
    node.gpus.set_compute_mode(node.first, ComputeMode.EXCLUSIVE_PROCESS)
    device = node.sharer.apply(A, node.gpu(EXCLUSIVE), ())
    node.sharer.undo(A, device, ())
    assert node.mode() is ComputeMode.EXCLUSIVE_PROCESS
    assert node.left() == []


def test_exclusive_use_is_for_one(node):
    alone = node.sharer.apply(A, node.gpu(EXCLUSIVE), ())
    assert node.mode() is ComputeMode.EXCLUSIVE_PROCESS
    assert not uses_mps(alone)
    with pytest.raises(
        SharingError, match="Device gpu-0: exclusive use of it is asked for while others have a part of it"
    ):
        node.sharer.apply(B, node.gpu(memory_bytes=GIB), (alone,))
    with pytest.raises(SharingError, match="exclusive use and a share of it contradict each other"):
        node.sharer.apply(B, node.gpu(EXCLUSIVE, memory_bytes=GIB), ())


def test_the_longest_time_slice_of_who_is_there_counts_and_none_is_the_drivers(node):
    short = node.sharer.apply(A, node.gpu(slices(1)), ())
    assert node.time_slice() == "1"
    long = node.sharer.apply(B, node.gpu(slices(3)), (short,))
    node.sharer.apply(A, short, (long,))
    assert node.time_slice() == "3"
    node.sharer.undo(B, long, (short,))
    assert node.time_slice() == "1"
    node.sharer.undo(A, short, ())
    assert node.time_slice() == "0"
    assert node.mode() is ComputeMode.DEFAULT


def test_who_looks_on_changes_nothing(node):
    device = node.gpu(MPS, admin=True)
    assert node.sharer.apply(A, device, ()) is device
    assert node.sharer.edits([device]) == (cdi.Edits(),)
    assert node.left() == []


def test_onlookers_are_no_users(node):
    device = node.sharer.apply(A, node.gpu(MPS), ())
    node.sharer.undo(A, device, (node.gpu(MPS, admin=True),))
    assert node.left() == []


def test_a_container_cannot_be_the_client_of_two_daemons(node):
    pair = [node.gpu(MPS), node.gpu(MPS, gpu=node.second)]
    with pytest.raises(
        SharingError, match=r"Request r: its devices .* are used by MPS, and no container can be the client"
    ):
        node.sharer.edits(pair)
    apart = node.sharer.edits([node.gpu(MPS), node.gpu(MPS, gpu=node.second, requests=("s",))])
    assert len({edits.mounts for edits in apart}) == 2


def test_what_is_used_by_mps_and_what_is_not_need_requests_of_their_own(node):
    """A client of a daemon sees no GPU but the daemon's."""
    served, beside = node.gpu(MPS), node.gpu(gpu=node.second)
    with pytest.raises(
        SharingError, match=r"Request r: its device GPU-.* is used by MPS and gpu-1 is not, .*; ask for .* of its own"
    ):
        node.sharer.edits([beside, served])
    alone, plain = node.sharer.edits([served, node.gpu(gpu=node.second, requests=("s",))])
    assert (bool(alone.env), plain) == (True, cdi.Edits())
    # NVML, with which an onlooker looks, asks no daemon.
    assert node.sharer.edits([served, node.gpu(gpu=node.second, admin=True)])[1] == cdi.Edits()


# --- shares of memory by cgroup ---


@pytest.fixture
def dmem(tmp_path):
    made = Node(tmp_path, memory_limits=True).start(dmem=True)
    made.cgroups = {A.uid: ("/sys/fs/cgroup/pod-1",), B.uid: ("/sys/fs/cgroup/pod-1", "/sys/fs/cgroup/pod-2")}
    yield made
    made.start().sharer.collect(())
    assert made.running() == []


def test_the_strongest_that_the_node_has_keeps_a_share(dmem):
    first = dmem.sharer.apply(A, dmem.gpu(memory_bytes=10 * GIB), ())
    assert first.enforcement is Enforcement.DMEM
    second = dmem.sharer.apply(B, dmem.gpu(memory_bytes=20 * GIB), (first,))
    assert dmem.gpus.limits(dmem.first) == {"/sys/fs/cgroup/pod-1": 30 * GIB, "/sys/fs/cgroup/pod-2": 20 * GIB}
    assert dmem.running() == []
    assert dmem.mode() is ComputeMode.DEFAULT
    dmem.sharer.undo(A, first, (second,))
    assert dmem.gpus.limits(dmem.first) == {"/sys/fs/cgroup/pod-1": 20 * GIB, "/sys/fs/cgroup/pod-2": 20 * GIB}
    dmem.sharer.undo(B, second, ())
    assert dmem.gpus.limits(dmem.first) == {}
    assert dmem.left() == []


def test_a_pod_that_comes_to_a_claim_later_is_held_to_its_share_when_it_is_next_collected(dmem):
    share = dmem.sharer.apply(A, dmem.gpu(memory_bytes=10 * GIB), ())
    dmem.cgroups[A.uid] += ("/sys/fs/cgroup/pod-9",)
    assert dmem.sharer.collect(((A, share),)) == ()
    assert dmem.gpus.limits(dmem.first) == {"/sys/fs/cgroup/pod-1": 10 * GIB, "/sys/fs/cgroup/pod-9": 10 * GIB}
    dmem.sharer.undo(A, share, ())
    assert dmem.gpus.limits(dmem.first) == {}


def test_where_the_pods_cgroup_is_not_known_or_threads_are_counted_mps_keeps_the_share(dmem):
    assert dmem.sharer.apply(C, dmem.gpu(memory_bytes=GIB), ()).enforcement is Enforcement.MPS
    both = dmem.gpu(memory_bytes=GIB, cores_percent=10, gpu=dmem.second)
    assert dmem.sharer.apply(A, both, ()).enforcement is Enforcement.MPS


def test_a_share_of_no_memory_is_held_to_next_to_none_and_a_share_of_threads_alone_is_none_of_memory(dmem):
    nothing = dmem.sharer.apply(A, dmem.gpu(memory_bytes=0), ())
    assert nothing.enforcement is Enforcement.DMEM
    assert dmem.gpus.limits(dmem.first) == {"/sys/fs/cgroup/pod-1": MIB}
    dmem.start(dmem=True, tools=Tools())
    threads = dmem.sharer.apply(A, dmem.gpu(cores_percent=10, gpu=dmem.second), ())
    assert threads.enforcement is Enforcement.NONE


def test_a_cgroup_that_went_with_its_pod_is_no_error(dmem):
    device = dmem.sharer.apply(A, dmem.gpu(memory_bytes=GIB), ())
    dmem.gpus.refuse("limit_memory", Failure.NOT_FOUND)
    dmem.sharer.undo(A, device, ())
    assert dmem.left() == []


def test_limits_that_cannot_be_lifted_stay_noted(dmem):
    device = dmem.sharer.apply(A, dmem.gpu(memory_bytes=GIB), ())
    dmem.gpus.refuse("limit_memory", Failure.UNKNOWN)
    with pytest.raises(GpuError):
        dmem.sharer.undo(A, device, ())
    assert dmem.left() == [f"plugin/limits/{A.uid}-gpu-0"]
    dmem.sharer.undo(A, device, ())
    assert dmem.left() == []


def test_what_a_node_offers_is_told_as_it_is(dmem):
    h100 = dmem.gpus.gpus()[0]
    assert dmem.sharer.offered(h100) is Enforcement.DMEM
    assert dmem.start().sharer.offered(h100) is Enforcement.MPS
    assert dmem.start(tools=Tools()).sharer.offered(h100) is Enforcement.NONE
    unkept = dmem.start(tools=Tools()).sharer.apply(A, dmem.gpu(memory_bytes=GIB), ())
    assert unkept.enforcement is Enforcement.NONE
    assert dmem.sharer.edits([unkept]) == (cdi.Edits(),)


def test_the_cgroups_of_pods_are_found_under_either_driver_of_the_kubelet(tmp_path):
    uid = "aa-bb-cc"
    names = (
        "kubepods.slice/kubepods-podaa_bb_cc.slice",
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podaa_bb_cc.slice",
        "kubepods/podaa-bb-cc",
        "kubepods/besteffort/podaa-bb-cc",
    )
    assert pod_cgroups(tmp_path, [uid]) == ()
    for name in names:
        folder = tmp_path / "fs" / "cgroup" / name
        folder.mkdir(parents=True)
        assert pod_cgroups(tmp_path, ["other", uid]) == (f"{tmp_path}/fs/cgroup/{name}",)
        folder.rmdir()


def test_the_cgroups_of_a_claim_are_those_of_the_pods_that_it_was_last_reserved_for(tmp_path):
    for pod in ("p1", "p2"):
        (tmp_path / "fs" / "cgroup" / "kubepods" / f"pod{pod}").mkdir(parents=True)
    cgroups = PodCgroups(tmp_path)
    assert cgroups(A) == ()
    for pod in ("p1", "p2"):
        reserved = [{"resource": "pods", "name": pod, "uid": pod}]
        cgroups.seen({"metadata": {"uid": A.uid}, "spec": {}, "status": {"reservedFor": reserved}})
        assert cgroups(A) == (f"{tmp_path}/fs/cgroup/kubepods/pod{pod}",)
    for number in range(2000):
        cgroups.seen({"metadata": {"uid": f"other-{number}"}, "spec": {}})
    assert cgroups(A) == ()


# --- what goes wrong ---


def test_mps_without_its_program_is_refused_in_words(node):
    node.start(tools=Tools())
    with pytest.raises(SharingError, match="Device gpu-0: MPS is asked for, and nvidia-cuda-mps-control is not below"):
        node.sharer.apply(A, node.gpu(MPS), ())
    with pytest.raises(SharingError, match="its time slice is set by nvidia-smi, which is not below the driver's root"):
        node.sharer.apply(A, node.gpu(slices(2)), ())
    assert node.left() == []


def test_mps_on_a_gpu_older_than_volta_is_refused_in_words(node):
    node.gpus.alter(0, compute_capability=(6, 1))
    with pytest.raises(SharingError, match=r"its compute capability 6\.1 is below 7\.0; choose another node"):
        node.sharer.apply(A, node.gpu(MPS), ())


@pytest.mark.parametrize(
    ("word", "settings", "words"),
    [
        ("-d", MPS, r"the daemon does not start \(exit status 3: it is broken\); see .*control.log"),
        ("set_default_active", MPS, r"does not take 'set_default_active_thread_percentage 100' \(exit status 3"),
        ("compute-policy", slices(2), r"its time slice is not set \(exit status 3: it is broken\); it is tried again"),
    ],
)
def test_a_program_that_fails_is_told_with_what_it_said(node, word, settings, words):
    node.start(commands=Broken(word))
    with pytest.raises(SharingError, match=words):
        node.sharer.apply(A, node.gpu(settings), ())
    node.start()
    node.sharer.undo(A, node.gpu(settings), ())
    assert (node.left(), node.running(), node.mode()) == ([], [], ComputeMode.DEFAULT)


class Deaf(HostProcesses):
    """Processes that do not end."""

    def end(self, programs, variable, seconds):
        del seconds
        return self.find(programs, variable)


def test_a_daemon_that_does_not_end_is_told_and_its_remains_are_kept(node):
    device = node.sharer.apply(A, node.gpu(MPS), ())
    node.start(processes=Deaf(), commands=Broken("quit"))
    with pytest.raises(SharingError, match=r"process [0-9]+ of its daemon does not end; it hangs in the driver"):
        node.sharer.undo(A, device, ())
    assert node.daemons.devices() == (node.first,)
    node.start().sharer.undo(A, device, ())
    assert node.left() == []


def test_a_lost_gpu_gives_its_daemon_back_and_says_that_it_is_lost(node):
    device = node.sharer.apply(A, node.gpu(MPS), ())
    node.gpus.lose(node.first)
    with pytest.raises(GpuError) as caught:
        node.sharer.undo(A, device, ())
    assert caught.value.failure is Failure.GPU_IS_LOST
    assert node.running() == []
    node.gpus.find(node.first)
    node.sharer.undo(A, device, ())
    assert node.left() == []


def test_a_program_that_is_not_there_or_takes_too_long_says_so():
    commands = Subprocesses()
    assert commands.run(["/no/such/program"], env={}) == Answer(
        code=127, errors="/no/such/program: No such file or directory"
    )
    assert commands.run(["sleep", "60"], env={}, seconds=0.05).code == 124
    answer = commands.run(["sh", "-c", "cat; echo $WORD >&2; exit 5"], env={"WORD": "w"}, stdin="said")
    assert (answer.code, answer.output, answer.errors) == (5, "said", "w\n")


def test_a_process_is_known_by_its_program_and_what_it_was_started_with():
    processes = HostProcesses()
    child = subprocess.Popen(
        ["cat"], env={"PATH": os.environ["PATH"], "MARK": "mine-1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        child.stdin.write(b"there\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"there\n"
        assert processes.find(["cat"], "MARK=mine-1") == (child.pid,)
        assert processes.find(["sleep", "cat"], "MARK=mine-1") == (child.pid,)
        for programs, variable in ((["sleep"], "MARK=mine-1"), (["cat"], "MARK=mine"), (["cat"], "ARK=mine-1")):
            assert processes.find(programs, variable) == ()
        # Nobody has waited for it yet: it has ended all the same.
        assert processes.end(["cat"], "MARK=mine-1", 5) == ()
    finally:
        child.kill()
        child.communicate()


def test_a_process_that_does_not_listen_is_made_to_end():
    script = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    child = subprocess.Popen(
        ["sh", "-c", script, "stubborn"], env={"PATH": os.environ["PATH"], "MARK": "mine-2"}, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout.readline() == b"ready\n"
        assert HostProcesses().end(["sh"], "MARK=mine-2", 0.2) == ()
    finally:
        child.kill()
        child.communicate()


def test_below_another_root_the_drivers_libraries_are_loaded_by_path():
    found = Libraries(
        libraries=("/usr/lib/x/libcuda.so.580.1", "/usr/lib/x/libnvidia-ml.so.580.1", "/usr/lib/x/libnvcuvid.so.580.1"),
        programs=("/usr/bin/nvidia-smi", "/usr/bin/nvidia-cuda-mps-control"),
    )
    below = tools("/driver-root", found)
    assert below.smi == "/driver-root/usr/bin/nvidia-smi"
    assert (
        below.env["LD_PRELOAD"]
        == "/driver-root/usr/lib/x/libcuda.so.580.1:/driver-root/usr/lib/x/libnvidia-ml.so.580.1"
    )
    assert below.env["PATH"].startswith("/driver-root/usr/bin:")
    assert tools("/", found) == Tools(mps_control="/usr/bin/nvidia-cuda-mps-control", smi="/usr/bin/nvidia-smi")
    assert tools("/", Libraries()) == Tools()


# --- the end, anywhere ---


class Course(Ends):
    """Ends before its n-th step of disk, hardware or programs."""

    def step(self, name):
        self.change(name, Path(), lambda: None)


class Stepping:
    """Programs that count as steps, before and after each."""

    def __init__(self, course):
        self._course = course

    def run(self, argv, **more):
        self._course.step("before " + argv[0])
        answer = Subprocesses().run(argv, **more)
        self._course.step("after " + argv[0])
        return answer


class SteppingGpus:
    """GPUs whose every change counts as a step."""

    def __init__(self, gpus, course):
        self._gpus, self._course = gpus, course

    def __getattr__(self, name):
        call = getattr(self._gpus, name)
        if name not in ("set_compute_mode", "limit_memory"):
            return call

        def stepped(*args):
            self._course.step("before " + name)
            call(*args)
            self._course.step("after " + name)

        return stepped


def lived(node, course, *, dmem=False):
    """The plugin, started on the node; it ends at the course's step."""
    return node.start(disk=course, commands=Stepping(course), gpus=SteppingGpus(node.gpus, course), dmem=dmem).sharer


COURSES = {
    "mps": (lambda node: node.gpu(MPS), lambda node: node.gpu(MPS, memory_bytes=4 * GIB)),
    "slices": (lambda node: node.gpu(slices(2)), lambda node: node.gpu(slices(1))),
    "dmem": (lambda node: node.gpu(memory_bytes=GIB), lambda node: node.gpu(memory_bytes=2 * GIB)),
    "exclusive": (lambda node: node.gpu(EXCLUSIVE), None),
}


@pytest.mark.parametrize("name", COURSES)
def test_ended_anywhere_what_comes_after_is_the_same_and_nothing_is_left(tmp_path, name):
    """One run for each step: the plugin ends there, starts again, and does what was asked; then all is given back."""
    mine, other = COURSES[name]
    dmem = name == "dmem"
    before, expected = 0, None
    while True:
        before += 1
        node = Node(tmp_path / str(before), memory_limits=dmem)
        node.cgroups = {A.uid: ("/cg/a",), B.uid: ("/cg/b",)}
        beside = (node.start(dmem=dmem).sharer.apply(B, other(node), ()),) if other else ()
        course = Course(before)
        device, ended = mine(node), False
        try:
            device = lived(node, course, dmem=dmem).apply(A, device, beside)
            lived(node, course, dmem=dmem).undo(A, device, beside)
        except Ended:
            ended = True
        again = node.start(dmem=dmem).sharer
        device = again.apply(A, mine(node), beside)
        state = (device.enforcement, node.mode(), node.time_slice(), len(node.running()), node.gpus.limits(node.first))
        expected = expected or state
        assert state == expected
        again.undo(A, device, beside)
        for each in beside:
            again.undo(B, each, ())
        swept = (node.left(), node.running(), node.mode(), node.gpus.limits(node.first))
        assert swept == ([], [], ComputeMode.DEFAULT, {})
        if not ended:
            assert before > 2
            return


def test_ended_anywhere_while_it_gives_back_collecting_finds_the_rest(tmp_path):
    before = 0
    while True:
        before += 1
        node = Node(tmp_path / str(before))
        device = node.sharer.apply(A, node.gpu(MPS), ())
        course = Course(before)
        try:
            lived(node, course).undo(A, device, ())
            ended = False
        except Ended:
            ended = True
        node.start().sharer.collect(())
        assert (node.left(), node.running(), node.mode()) == ([], [], ComputeMode.DEFAULT)
        if not ended:
            assert before > 5
            return


def test_ended_anywhere_while_it_begins_collecting_finds_the_rest(tmp_path):
    before = 0
    while True:
        before += 1
        node = Node(tmp_path / str(before), memory_limits=True)
        node.cgroups = {B.uid: ("/cg/b",)}
        course = Course(before)
        try:
            sharer = lived(node, course, dmem=True)
            sharer.apply(A, node.gpu(MPS), ())
            sharer.apply(B, node.gpu(memory_bytes=GIB, gpu=node.second), ())
            ended = False
        except Ended:
            ended = True
        node.start().sharer.collect(())
        left = (node.left(), node.running(), node.mode(), node.gpus.limits(node.second))
        assert left == ([], [], ComputeMode.DEFAULT, {})
        if not ended:
            assert before > 20
            return


def test_collecting_leaves_what_is_kept_and_tells_what_it_ended(dmem):
    kept = dmem.sharer.apply(C, dmem.gpu(MPS), ())
    dmem.sharer.apply(B, dmem.gpu(memory_bytes=GIB, gpu=dmem.second), ())
    dmem.sharer.apply(A, dmem.gpu(EXCLUSIVE, gpu=dmem.second), ())
    pids = dmem.running()
    assert dmem.sharer.collect(((C, kept),)) == (
        f"compute mode of {dmem.second}",
        f"memory limits of {B.uid}-gpu-1",
    )
    assert dmem.running() == pids
    assert dmem.mode() is ComputeMode.EXCLUSIVE_PROCESS
    assert dmem.sharer.collect(()) == (f"MPS daemon of {dmem.first}", f"compute mode of {dmem.first}")


def test_the_edits_make_a_valid_specification(node):
    device = node.sharer.apply(A, node.gpu(MPS), ())
    document = cdi.specification(UID, [device], host=Nodes(), libraries=Libraries(), edits=node.sharer.edits([device]))
    jsonschema.validate(document, SCHEMA)
    (only,) = document["devices"]
    assert only["containerEdits"]["env"] == ["CUDA_MPS_PIPE_DIRECTORY=/tmp/nvidia-mps"]
