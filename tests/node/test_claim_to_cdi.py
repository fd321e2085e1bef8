"""From a claim, as the API server tells it, to its CDI file: grants, preparing, sharing and CDI together.

What a container gets is read from the file. The GPUs are made up, the MPS daemons are processes.
"""

import json
from pathlib import Path

import jsonschema
import pytest

from dra_driver import cdi
from dra_driver.commands import HostProcesses, Subprocesses
from dra_driver.config import Config
from dra_driver.devices import ClaimRef, Enforcement
from dra_driver.facts import ComputeMode
from dra_driver.fake import FakeGpus
from dra_driver.fake_tools import fake_tools
from dra_driver.grants import ClaimRefused, grants
from dra_driver.host import fake_host
from dra_driver.libraries import Libraries
from dra_driver.mps import Daemons
from dra_driver.node import Hardware, Offered, offer
from dra_driver.prepare import PrepareError
from dra_driver.rooms import rooms
from dra_driver.sharing import Sharer
from tests.node.plants import Plant, _AnyMinor
from tests.node.test_cdi import COMPUTING, SCHEMA
from tests.node.test_grants import claim as document_of
from tests.node.test_grants import opaque_config, result


class Whole(Plant):
    """A plant whose sharing is the real one."""

    def __post_init__(self):
        super().__post_init__()
        tools, commands = fake_tools(self.folder / "bin"), Subprocesses()
        daemons = Daemons(
            self.folder / "mps", disk=self.disk, commands=commands, processes=HostProcesses(), tools=tools
        )
        self.sharer = Sharer(
            self.folder / "sharing", gpus=self.gpus, disk=self.disk, daemons=daemons, commands=commands, tools=tools
        )
        self.served = daemons.devices
        object.__setattr__(self.node, "sharing", self.sharer)

    def _specification(self, uid, devices):
        uuids = sorted({device.gpu for device in devices})
        return cdi.specification(
            uid,
            devices,
            host=_AnyMinor(self.host),
            libraries=Libraries(),
            instances=[each for uuid in uuids for each in self.gpus.instances(uuid)],
            edits=self.sharer.edits(devices),
        )

    def prepared(self, uid, *results, config=()):
        """The claim's devices, and by CDI device name what its file says of them."""
        document = document_of(*results, config=config, uid=uid)
        found = grants(document, "gpu.nvidia.com", "node-1", uid=uid)
        devices = self.preparer.prepare(ClaimRef(namespace="team", name=uid, uid=uid), found)
        written = json.loads((self.folder / "cdi" / cdi.file_name(uid)).read_bytes())
        jsonschema.validate(written, SCHEMA)
        edits = {f"{written['kind']}={each['name']}": each["containerEdits"] for each in written["devices"]}
        assert [name for device in devices for name in device.cdi] == list(edits)
        return devices, list(edits.values())

    def unprepare(self, uid):
        self.preparer.unprepare(ClaimRef(namespace="team", name=uid, uid=uid))


@pytest.fixture
def plant(tmp_path: Path):
    made = Whole(tmp_path / "node").begun()
    yield made
    made.sharer.collect(())


@pytest.fixture
def shared(tmp_path: Path):
    made = Whole(tmp_path / "node", shares=True).begun()
    yield made
    made.sharer.collect(())


def paths(edits):
    return [node["path"] for node in edits["deviceNodes"]]


def env(edits):
    return dict(each.split("=", 1) for each in edits.get("env", []))


def test_a_large_and_a_small_slice_of_one_gpu(plant):
    """The seeds' claim: 3g.40gb and 1g.10gb, of one GPU, each for a container of its own."""
    devices, (large, small) = plant.prepared(
        "seed", result("large-slice", "gpu-0-mig-3g40gb-9-4"), result("small-slice", "gpu-0-mig-1g10gb-19-0")
    )
    assert [device.grant.requests for device in devices] == [("large-slice",), ("small-slice",)]
    assert plant.cut == {"gpu-0": ["1g.10gb@0", "3g.40gb@4"]}
    assert paths(large)[0] == paths(small)[0] == "/dev/nvidia0"
    assert set(paths(large)) & set(paths(small)) == {"/dev/nvidia0", *COMPUTING}
    plant.unprepare("seed")
    assert plant.left == {}


def test_four_profiles_on_one_gpu(plant):
    names = ("3g40gb-9-4", "2g20gb-14-0", "1g10gb-19-2", "1g10gb-me-20-3")
    devices, edits = plant.prepared(
        "four",
        *(result(f"r{number}", f"gpu-0-mig-{name}") for number, name in enumerate(names)),
    )
    assert plant.cut == {"gpu-0": ["2g.20gb@0", "1g.10gb@2", "1g.10gb+me@3", "3g.40gb@4"]}
    assert [device.profile for device in devices] == ["3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb+me"]
    assert len({path for each in edits for path in paths(each)}) == 1 + len(COMPUTING) + 4 * 2
    plant.unprepare("four")
    assert plant.left == {}


def test_shares_of_ten_and_twenty_gibibytes_of_one_gpu(shared):
    (small,), (small_edits,) = shared.prepared(
        "small", result("r", "gpu-1", shareID="s1", consumedCapacity={"memory": "10Gi"})
    )
    (large,), (large_edits,) = shared.prepared(
        "large", result("r", "gpu-1", shareID="s2", consumedCapacity={"memory": "20Gi"})
    )
    assert (small.enforcement, large.enforcement) == (Enforcement.MPS, Enforcement.MPS)
    assert env(small_edits)["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=10240M"
    assert env(large_edits)["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=20480M"
    assert small_edits["mounts"] == large_edits["mounts"]
    assert shared.served() == (shared.gpus.uuids[1],)
    shared.unprepare("small")
    assert shared.served() == (shared.gpus.uuids[1],)
    shared.unprepare("large")
    assert (shared.served(), shared.left) == ((), {})


def test_as_the_plugin_is_joined_a_share_is_kept_in_the_cgroup_of_the_claims_pod(folder):
    config = Config(
        fake="h100x1",
        node_name="node-1",
        plugin_dir=folder / "plugin",
        cdi_dir=folder / "cdi",
        kubelet_dir=folder,
        shared_gpus=("all",),
    )
    gpus = FakeGpus("h100x1", memory_limits=True)
    host = fake_host(folder / "host", gpus.gpus(), dmem=True)
    found = Hardware(gpus=gpus, host=host, libraries=Libraries())
    offered = Offered("node-1", found, offer(config, found))
    joined = rooms(config, found, lambda: offered.look(()))
    joined.checkpoint.rebuild(())
    pod = host.sys / "fs/cgroup/kubepods/podp-1"
    pod.mkdir(parents=True)
    document = document_of(result("r", "gpu-0", shareID="s1", consumedCapacity={"memory": "10Gi"}))
    document["status"]["reservedFor"] = [{"resource": "pods", "name": "p", "uid": "p-1"}]
    joined.cgroups.seen(document)
    claim = ClaimRef(namespace="team", name="pair", uid="uid-1")
    (device,) = joined.preparer.prepare(claim, grants(document, "gpu.nvidia.com", "node-1"))
    assert device.enforcement is Enforcement.DMEM
    assert gpus.limits(gpus.uuids[0]) == {str(pod): 10 << 30}
    joined.preparer.unprepare(claim)
    assert gpus.limits(gpus.uuids[0]) == {}


@pytest.mark.parametrize("switched_off", [True, False], ids=["switched off", "no program"])
def test_what_is_published_of_keeping_shares_is_what_is_done_where_there_is_no_mps(folder, switched_off):
    config = Config(
        fake="h100x1" if switched_off else None,
        node_name="node-1",
        plugin_dir=folder / "plugin",
        cdi_dir=folder / "cdi",
        kubelet_dir=folder,
        shared_gpus=("all",),
        mps=not switched_off,
    )
    gpus = FakeGpus("h100x1")
    found = Hardware(gpus=gpus, host=fake_host(folder / "host", gpus.gpus()), libraries=Libraries())
    offered = Offered("node-1", found, offer(config, found))
    joined = rooms(config, found, lambda: offered.look(()))
    joined.checkpoint.rebuild(())
    claim = ClaimRef(namespace="team", name="pair", uid="uid-1")
    share = result("r", "gpu-0", shareID="s1", consumedCapacity={"memory": "10Gi"})
    (device,) = joined.preparer.prepare(claim, grants(document_of(share), "gpu.nvidia.com", "node-1"))
    (published,) = offered.inventory.devices
    assert published.attributes["memoryEnforcement"] == "none"
    assert device.enforcement is Enforcement.NONE
    joined.preparer.unprepare(claim)
    asked = document_of(share, config=[opaque_config("GpuConfig", sharing={"strategy": "MPS"})])
    with pytest.raises(PrepareError, match="the setting mps is off"):
        joined.preparer.prepare(claim, grants(asked, "gpu.nvidia.com", "node-1"))


def test_mps_on_one_gpu_while_another_is_cut_on_demand(plant):
    mps = {"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": 40}}
    _, (whole, part) = plant.prepared(
        "both",
        result("mps", "gpu-1"),
        result("part", "gpu-0-mig-1g10gb-19-4"),
        config=[opaque_config("GpuConfig", source="FromClass", requests=["mps"], sharing=mps)],
    )
    assert env(whole)["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "40"
    assert env(part) == {}
    modes = [gpu.compute_mode for gpu in plant.gpus.gpus()]
    assert modes == [ComputeMode.DEFAULT, ComputeMode.EXCLUSIVE_PROCESS]
    plant.unprepare("both")
    assert (plant.served(), plant.left) == ((), {})


def test_mps_on_an_instance_that_was_made_for_it(plant):
    config = opaque_config("MigDeviceConfig", sharing={"strategy": "MPS"})
    (device,), (edits,) = plant.prepared("part", result("m", "gpu-0-mig-3g40gb-9-0"), config=[config])
    assert plant.served() == (device.instance,)
    assert env(edits) == {"CUDA_MPS_PIPE_DIRECTORY": "/tmp/nvidia-mps"}
    plant.unprepare("part")
    assert (plant.served(), plant.left) == ((), {})


def test_a_claim_that_only_looks_on_has_the_nodes_and_nothing_is_set(plant):
    config = opaque_config("GpuConfig", sharing={"strategy": "MPS"})
    plant.prepared("user", result("r", "gpu-0"), config=[config])
    before = plant.served()
    _, (edits,) = plant.prepared("watch", result("w", "gpu-0", adminAccess=True), config=[config])
    assert set(edits) == {"deviceNodes"}
    plant.unprepare("watch")
    assert plant.served() == before


class Counted(FakeGpus):
    """Counts how often a GPU was read."""

    read = 0

    def gpus(self):
        found = super().gpus()
        self.read += len(found)
        return found

    def gpu(self, gpu):
        self.read += 1
        return super().gpu(gpu)


@pytest.mark.parametrize(
    ("given", "reads"),
    [
        (["gpu-5"], 1),
        ([f"gpu-{number}" for number in range(8)], 8),
        (["gpu-5-mig-1g10gb-19-0"], 2),  # again after its mode was changed, which may move its minor number
        ([f"gpu-5-mig-1g10gb-19-{start}" for start in range(7)], 2),
    ],
    ids=["one GPU", "eight GPUs", "an instance", "seven instances of one GPU"],
)
def test_a_prepare_reads_each_of_its_gpus_once_and_no_other(folder, given, reads):
    """To read one takes NVML a hundred calls, and to read eight under the node's lock a second and more."""
    config = Config(
        fake="h100x8",
        node_name="node-1",
        plugin_dir=folder / "plugin",
        cdi_dir=folder / "cdi",
        kubelet_dir=folder,
        dynamic_mig=True,
    )
    gpus = Counted("h100x8")
    host = fake_host(folder / "host", gpus.gpus())
    found = Hardware(gpus=gpus, host=host, libraries=Libraries())
    offered = Offered("node-1", found, offer(config, found))
    offered.look(())
    joined = rooms(config, found, lambda: offered.inventory)
    joined.checkpoint.rebuild(())
    claim = ClaimRef(namespace="team", name="a", uid="uid-1")
    wanted = grants(document_of(*(result("r", name) for name in given)), "gpu.nvidia.com", "node-1")

    def counted(do, *arguments):
        gpus.read = 0
        do(*arguments)
        return gpus.read

    assert counted(joined.preparer.prepare, claim, wanted) == reads
    assert counted(joined.preparer.prepare, claim, wanted) <= reads
    assert counted(joined.preparer.unprepare, claim) <= reads


def test_two_gpus_by_mps_in_one_request_are_refused_and_nothing_is_left(plant):
    config = opaque_config("GpuConfig", sharing={"strategy": "MPS"})
    with pytest.raises(PrepareError, match="no container can be the client of two daemons"):
        plant.prepared("two", result("r", "gpu-0"), result("r", "gpu-1"), config=[config])
    assert (plant.served(), plant.left) == ((), {})


def test_a_bad_config_is_refused_before_anything_is_changed(plant):
    with pytest.raises(ClaimRefused, match=r'sharing.strategy is "mps"; write TimeSlicing or MPS'):
        plant.prepared("bad", result("r", "gpu-0"), config=[opaque_config("GpuConfig", sharing={"strategy": "mps"})])
    assert plant.left == {}
