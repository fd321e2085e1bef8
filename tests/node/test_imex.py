"""IMEX channels of hosts that run IMEX themselves: when one is offered, to whom it is given, and what it brings."""

import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dra_driver import cdi, config, slices
from dra_driver.channels import NOTHING_BESIDE
from dra_driver.checkpoint import Checkpoint
from dra_driver.commands import Subprocesses, Tools
from dra_driver.config import ConfigError
from dra_driver.devices import ClaimRef, Entry, Grant, Inventory, Prepared, Settings
from dra_driver.disk import Disk
from dra_driver.facts import Fabric, FabricState, Gpu
from dra_driver.fake import FakeGpus
from dra_driver.fake_tools import fake_tools
from dra_driver.grants import ClaimRefused
from dra_driver.host import IMEX_CHANNELS, IMEX_SOCKET, Host, fake_host
from dra_driver.imex import TAINT, ChannelWork, HostImex, Offering, State, channel_grants, clique, offered, state
from dra_driver.libraries import Libraries
from dra_driver.prepare import Node, PrepareError, Preparer
from dra_driver.specs import Specs

DRIVER = "compute-domain.nvidia.com"
GPUS = FakeGpus("gb200x2", node="n1").gpus()
CLIQUE = f"{GPUS[0].fabric.cluster}.32766" if GPUS[0].fabric else ""
CONFIG = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "ComputeDomainChannelConfig", "domainID": "cd-1"}


# --- whether there is a channel to give ---


@dataclass
class Site:
    """A host with IMEX and the tool that asks it."""

    folder: Path
    channels: int = 3
    gpus: tuple[Gpu, ...] = GPUS
    host: Host = field(init=False)
    service: HostImex = field(init=False)

    def __post_init__(self) -> None:
        self.host = fake_host(
            self.folder / "host", self.gpus, channels=1, most_channels=self.channels, imex_nodes=["n1"]
        )
        self.service = HostImex(Subprocesses(), fake_tools(self.folder / "tools"), self.socket, IMEX_SOCKET)

    @property
    def socket(self) -> Path:
        """What stands here is what IMEX says of itself."""
        return self.folder / "host" / IMEX_SOCKET.relative_to("/")

    def state(self) -> State:
        return state(self.gpus, self.host, self.service)


def test_a_node_whose_imex_is_ready_offers_channel_0_of_its_clique(tmp_path: Path):
    site = Site(tmp_path)
    assert site.state() == State(clique=CLIQUE)
    (document,) = slices.documents(
        offered(site.state(), 0), slices.Target(node="n1", node_uid="uid", driver=DRIVER, domain=DRIVER)
    )
    assert document["spec"]["devices"] == [
        {"name": "channel-0", "attributes": {"type": {"string": "channel"}, "id": {"int": 0}}, "capacity": {}}
    ]


def test_under_another_name_of_the_driver_the_attributes_are_found_where_they_are_looked_for(tmp_path: Path):
    target = slices.Target(node="n1", node_uid="uid", driver="channels.example.com", domain=DRIVER)
    (document,) = slices.documents(offered(Site(tmp_path).state(), 0), target)
    assert set(document["spec"]["devices"][0]["attributes"]) == {f"{DRIVER}/type", f"{DRIVER}/id"}


@pytest.mark.parametrize("said", ["NOT_READY\n", "WAITING_FOR_PEERS", ""])
def test_imex_that_says_anything_but_ready_is_told_with_its_word(tmp_path: Path, said: str):
    site = Site(tmp_path)
    site.socket.write_text(said)
    found = site.state()
    assert found.clique == CLIQUE
    assert f"the host's IMEX service is {said.strip() or 'silent'}, and not READY" in found.trouble


def test_imex_that_does_not_answer_is_told_with_what_its_configuration_needs(tmp_path: Path):
    site = Site(tmp_path)
    site.socket.unlink()
    assert "IMEX_CMD_UNIX_DOMAIN_PATH=/etc/nvidia-imex/imex_ctrl.sock in its config.cfg" in site.state().trouble
    assert str(tmp_path) not in site.state().trouble.partition("(")[0]  # the host's path, as its operator knows it


def test_without_its_tool_imex_is_not_taken_for_ready():
    service = HostImex(Subprocesses(), Tools(), Path("/nowhere"), IMEX_SOCKET)
    assert "install NVIDIA's package nvidia-imex" in service.trouble()


def with_fabric(gpu: Gpu, **changes: Any) -> Gpu:
    return replace(
        gpu, fabric=replace(gpu.fabric or Fabric(state=FabricState.COMPLETED, cluster="", clique=0), **changes)
    )


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ((), "no GPU answers"),
        ((GPUS[0], replace(GPUS[1], fabric=None)), f"GPU {GPUS[1].uuid} is in no NVLink fabric that spans nodes"),
        ((with_fabric(GPUS[0], cluster=""),), "is in no NVLink fabric that spans nodes"),
        ((with_fabric(GPUS[0], state=FabricState.IN_PROGRESS),), "has not joined its NVLink fabric yet"),
        ((GPUS[0], with_fabric(GPUS[1], clique=7)), "are in different cliques"),
    ],
)
def test_without_one_clique_no_channel_is_offered(tmp_path: Path, gpus: tuple[Gpu, ...], words: str):
    where, why_not = clique(gpus)
    assert (where, words in why_not) == ("", True)
    found = offered(Site(tmp_path, gpus=gpus).state(), 0)
    assert found.devices == ()
    assert words in found.refused[0][1]


def test_without_channels_in_the_driver_none_is_offered(tmp_path: Path):
    site = Site(tmp_path)
    (site.host.proc / "devices").write_text("Character devices:\n195 nvidia\n")
    found = offered(site.state(), 0)
    assert found.devices == ()
    assert f"has no line for {IMEX_CHANNELS}" in found.refused[0][1]


def test_a_channel_that_cannot_be_given_is_kept_from_new_pods_since_the_trouble_began():
    states = [State(clique="c"), State(clique="c", trouble="one"), State(clique="c", trouble="two"), State(clique="c")]
    looks, clock = iter(states), iter((1000, 2000))
    offering = Offering(lambda: next(looks), lambda: next(clock))
    seen = []
    for _ in states:
        offering.look()
        (channel,) = offering.inventory.devices
        seen.append([(taint.key, taint.effect, taint.since_ms) for taint in channel.taints])
    assert seen == [[], [(TAINT, "NoSchedule", 1000)], [(TAINT, "NoSchedule", 1000)], []]


def test_a_fabric_that_is_not_well_is_trouble_and_no_other_fabric(tmp_path: Path):
    site = Site(tmp_path, gpus=(GPUS[0], with_fabric(GPUS[1], healthy=False)))
    assert site.state().clique == CLIQUE
    assert f"GPU {GPUS[1].uuid} is not well in its NVLink fabric" in site.state().trouble


# --- what a claim was given ---


def claimed(*results: dict[str, Any], configs: tuple[dict[str, Any], ...] = (CONFIG,)) -> dict[str, Any]:
    """A claim with these results of our driver (channel-0 if none are said), and its configs."""
    found = [{"request": "channel", "driver": DRIVER, "pool": "n1", "device": "channel-0", **each} for each in results]
    allocation = {
        "results": found or [{"request": "channel", "driver": DRIVER, "pool": "n1", "device": "channel-0"}],
        "config": [{"source": "FromClaim", "opaque": {"driver": DRIVER, "parameters": each}} for each in configs],
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": "a", "namespace": "team", "uid": "uid-a"},
        "spec": {},
        "status": {"allocation": {"devices": allocation}},
    }


def test_a_channel_is_for_the_domain_of_its_config():
    (one,) = channel_grants(claimed(), DRIVER, "n1")
    assert (one.device, one.requests, one.settings) == ("channel-0", ("channel",), Settings(domain="cd-1"))
    (every,) = channel_grants(claimed(configs=({**CONFIG, "allocationMode": "All"},)), DRIVER, "n1")
    assert every.settings == Settings(domain="cd-1", every_channel=True)


DAEMON = {**CONFIG, "kind": "ComputeDomainDaemonConfig"}
GPU_CONFIG = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig"}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (claimed({"device": "daemon-0"}, configs=(DAEMON,)), "an IMEX daemon is asked for, and there are none here"),
        (claimed(configs=(CONFIG, DAEMON)), "an IMEX daemon is asked for, and there are none here"),
        (claimed({"device": "gpu-0"}), "device gpu-0 is no channel"),
        (claimed({"adminAccess": True}), "adminAccess to channel-0: who has a channel can write"),
        (claimed(configs=()), "no config says which ComputeDomain channel-0 is for"),
        (claimed(configs=(GPU_CONFIG,)), "no config says which ComputeDomain channel-0 is for"),
        (claimed(configs=({**CONFIG, "domainID": ""},)), "domainID is missing or empty"),
        (claimed(configs=({**CONFIG, "allocationMode": "Some"},)), 'allocationMode is "Some"; write Single or All'),
        (claimed({}, {}), "is allocated to it twice"),
        (claimed({"driver": "gpu.nvidia.com"}), "none of compute-domain.nvidia.com"),
        ({"metadata": {"name": "a", "namespace": "team"}, "status": None}, "claim team/a: "),
    ],
)
def test_what_is_no_channel_for_a_domain_is_refused(document: dict[str, Any], words: str):
    with pytest.raises(ClaimRefused) as refused:
        channel_grants(document, DRIVER, "n1")
    assert "team/a" in str(refused.value)
    assert words in str(refused.value)


# --- preparing ---


class Bench:
    """A node that serves channels; built anew over the same folder it is the plugin after a restart."""

    def __init__(self, site: Site, boot: str = "boot-1") -> None:
        self.site = site
        disk = Disk()
        self.checkpoint = Checkpoint(site.folder / "plugin", disk)
        self.offering = Offering(site.state, lambda: 0)
        specification = partial(self._specification)
        self.specs = Specs(site.folder / "cdi", disk, specification, DRIVER)
        node = Node(
            gpus=FakeGpus("gb200x2", node="n1"),
            checkpoint=self.checkpoint,
            specs=self.specs,
            sharing=NOTHING_BESIDE,
            inventory=self._inventory,
            boot=lambda: boot,
        )
        if self.checkpoint.load().lost:
            self.checkpoint.rebuild(())
        self.work = ChannelWork(Preparer(node), self.offering)

    def prepare(self, name: str, domain: str = "cd-1", **settings: Any) -> tuple[Prepared, ...]:
        grant = Grant(
            requests=("channel",), pool="n1", device="channel-0", settings=Settings(domain=domain, **settings)
        )
        return self.work.prepare(reference(name), (grant,))

    def unprepare(self, name: str) -> None:
        self.work.unprepare(reference(name))

    def nodes(self, name: str) -> list[tuple[str, int, int]]:
        (file,) = (self.site.folder / "cdi").glob(f"*{reference(name).uid}.json")
        document = json.loads(file.read_text())
        assert document["kind"] == f"k8s.{DRIVER}/claim"
        assert "mounts" not in document["containerEdits"]  # the libraries are the GPUs' claim's
        (device,) = document["devices"]
        return [(each["path"], each["major"], each["minor"]) for each in device["containerEdits"]["deviceNodes"]]

    @property
    def entries(self) -> tuple[Entry, ...]:
        return self.checkpoint.load().entries

    def _inventory(self) -> Inventory:
        return self.offering.inventory

    def _specification(self, uid: str, devices: tuple[Prepared, ...]) -> dict[str, object]:
        return cdi.specification(uid, devices, host=self.site.host, libraries=Libraries(), driver=DRIVER)


def reference(name: str) -> ClaimRef:
    return ClaimRef(namespace="team", name=name, uid=f"uid-{name}")


def channel_node(number: int) -> tuple[str, int, int]:
    return f"/dev/{IMEX_CHANNELS}/channel{number}", 507, number


def test_a_claim_has_channel_0_until_it_is_given_back(tmp_path: Path):
    bench = Bench(Site(tmp_path))
    (device,) = bench.prepare("a")
    assert device.cdi == (f"k8s.{DRIVER}/claim=uid-a-channel-0",)
    assert bench.nodes("a") == [channel_node(0)]
    assert Bench(bench.site).prepare("a") == (device,)
    for _ in range(2):
        bench.unprepare("a")
        assert bench.entries == ()
        assert list((tmp_path / "cdi").iterdir()) == []


def test_with_all_channels_the_containers_see_as_many_as_the_driver_has(tmp_path: Path):
    bench = Bench(Site(tmp_path, channels=2048))
    bench.prepare("a", every_channel=True)
    assert bench.nodes("a") == [channel_node(number) for number in range(2048)]


def test_a_second_domain_is_refused_while_the_node_is_in_the_first(tmp_path: Path):
    bench = Bench(Site(tmp_path))
    bench.prepare("a")
    with pytest.raises(
        PrepareError, match="it is for ComputeDomain cd-2, and this node is in ComputeDomain cd-1"
    ) as no:
        bench.prepare("b", "cd-2")
    assert "as long as claim team/a holds channel-0" in str(no.value)
    assert [entry.claim.name for entry in bench.entries] == ["a"]
    bench.unprepare("a")
    assert len(bench.prepare("b", "cd-2")) == 1


def test_another_claim_of_the_same_domain_waits_for_the_one_channel(tmp_path: Path):
    bench = Bench(Site(tmp_path))
    bench.prepare("a")
    with pytest.raises(PrepareError, match="claim team/a holds channel-0"):
        bench.prepare("b")


def test_while_imex_is_not_ready_no_container_starts_with_a_channel_and_it_can_be_given_back(tmp_path: Path):
    bench = Bench(Site(tmp_path))
    bench.site.socket.write_text("INITIALIZING\n")
    with pytest.raises(PrepareError, match="Claim team/a: not prepared: the host's IMEX service is INITIALIZING"):
        bench.prepare("a")
    assert bench.entries == ()
    bench.site.socket.write_text("READY\n")
    bench.prepare("a")
    bench.site.socket.write_text("SHUTTING_DOWN\n")
    with pytest.raises(PrepareError, match="SHUTTING_DOWN"):
        bench.prepare("a")
    assert bench.nodes("a") == [channel_node(0)]  # who runs, runs on
    bench.unprepare("a")
    assert bench.entries == ()


# --- settings ---


@pytest.mark.parametrize(
    ("written", "read"), [("on", "on"), (True, "on"), ("off", "off"), (False, "off"), ("auto", "auto")]
)
def test_the_switch_may_be_written_as_yaml_reads_it(written: object, read: str):
    assert config.load(flags={"imex": written}, environment={}).imex == read


def test_channels_are_not_served_unasked():
    assert config.load(environment={}).imex == "off"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"imex": "yes"}, "--set imex: 'yes' cannot be used"),
        ({"imex_driver": "gpu.nvidia.com"}, "'gpu.nvidia.com' is the GPUs' driver, too; use two names"),
        ({"imex_driver": "Channels"}, "is no DNS name"),
        ({"imex_socket": "imex.sock"}, "is relative"),
        ({"fake_rack": "r1"}, "belongs to a machine that is made up"),
    ],
)
def test_settings_that_cannot_be_used_stop_the_start(flags: dict[str, object], words: str):
    with pytest.raises(ConfigError, match=r"imex|fake_rack") as refused:
        config.load(flags=flags, environment={})
    assert words in str(refused.value)
