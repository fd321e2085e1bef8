"""What the files of a host tell, read from trees that are written here."""

from pathlib import Path

import pytest

from dra_driver.facts import Gpu, Mig
from dra_driver.host import IMEX_CHANNELS, MIG_CAPS, Host, HostError, Place, fake_host


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def pci_device(root: Path, bus: str, way: str, numa: str = "0") -> None:
    """A device at the end of this way below /sys/devices."""
    write(root / "sys/devices" / way / bus / "numa_node", f"{numa}\n")
    link = root / "sys/bus/pci/devices" / bus
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(Path("../../../devices") / way / bus)


def gpu(number: int, *, mig: bool = True) -> Gpu:
    return Gpu(
        index=number,
        minor=number,
        uuid=f"GPU-{number}",
        product="NVIDIA H100",
        architecture="Hopper",
        compute_capability=(9, 0),
        memory_bytes=1,
        pci_bus=f"0000:{0x19 + 0x10 * number:02x}:00.0",
        mig=Mig(on=False, pending=False, on_demand=True, profiles=()) if mig else None,
    )


def test_the_pcie_root_is_where_the_way_to_the_device_begins(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:65:00.0", "pci0000:64/0000:64:01.0", numa="1")
    assert Host(tmp_path).place("0000:65:00.0") == Place(pcie_root="pci0000:64", numa=1)


def test_a_pcie_root_below_another_bus_is_found(tmp_path: Path) -> None:
    pci_device(tmp_path, "0001:00:00.0", "LNXSYSTM:00/LNXSYBUS:00/VMBUS:01/47505500-0001/pci0001:00")
    assert Host(tmp_path).place("0001:00:00.0").pcie_root == "pci0001:00"


def test_a_numa_node_of_minus_one_is_none(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:65:00.0", "pci0000:64", numa="-1")
    assert Host(tmp_path).place("0000:65:00.0") == Place(pcie_root="pci0000:64", numa=None)


def test_a_device_that_is_gone_has_no_place(tmp_path: Path) -> None:
    assert Host(tmp_path).place("0000:65:00.0") == Place()


def test_capabilities_are_read_where_the_driver_shows_them(tmp_path: Path) -> None:
    instance = tmp_path / "proc/driver/nvidia/capabilities/gpu2/mig/gi9"
    write(instance / "access", "DeviceFileMinor: 354\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
    write(instance / "ci0/access", "DeviceFileMinor: 355\n")
    host = Host(tmp_path)
    assert (host.gpu_capability(2, 9), host.compute_capability(2, 9, 0)) == (354, 355)


@pytest.mark.parametrize("text", [None, "", "DeviceFileMode: 292\n", "DeviceFileMinor: many\n"])
def test_a_capability_that_cannot_be_read_is_an_error_that_names_the_file(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "proc/driver/nvidia/capabilities/gpu0/mig/gi1/access"
    if text is not None:
        write(path, text)
    with pytest.raises(HostError, match=str(path)):
        Host(tmp_path).gpu_capability(0, 1)


def test_majors_are_those_of_character_devices(tmp_path: Path) -> None:
    lines = "Character devices:\n195 nvidia\n195 nvidiactl\n508 nvidia-caps\n\nBlock devices:\n  8 sd\n259 blkext\n"
    write(tmp_path / "proc/devices", lines)
    host = Host(tmp_path)
    assert host.majors() == {"nvidia": 195, "nvidiactl": 195, "nvidia-caps": 508}
    assert host.major(MIG_CAPS) == 508
    with pytest.raises(HostError, match=f"no line for {IMEX_CHANNELS}"):
        host.major(IMEX_CHANNELS)


def test_a_host_without_its_proc_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="mount the host's /proc"):
        Host(tmp_path).majors()
    with pytest.raises(HostError, match="mount the host's /proc"):
        Host(tmp_path).boot_id()


def test_proc_sys_and_dev_may_be_elsewhere_than_the_root(tmp_path: Path) -> None:
    write(tmp_path / "p/sys/kernel/random/boot_id", "b\n")
    write(tmp_path / "s/fs/cgroup/cgroup.controllers", "memory dmem\n")
    write(tmp_path / f"d/{IMEX_CHANNELS}/channel0", "")
    host = Host(tmp_path / "r", proc=tmp_path / "p", sys=tmp_path / "s", dev=tmp_path / "d")
    assert (host.boot_id(), host.dmem(), host.imex_channels()) == ("b", True, (0,))


def test_the_kernel_that_accounts_for_device_memory_says_so(tmp_path: Path) -> None:
    assert not Host(tmp_path).dmem()
    write(tmp_path / "sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc\n")
    assert not Host(tmp_path).dmem()


def test_imex_is_there_when_its_service_runs_and_only_then(tmp_path: Path) -> None:
    host = fake_host(tmp_path, [gpu(0)], channels=3)
    write(tmp_path / "etc/nvidia-imex/nodes_config.cfg", "10.0.0.1\n# the second\n\n10.0.0.2 # there\n")
    assert host.imex() is None
    write(tmp_path / "proc/815/comm", "nvidia-imex\n")
    running = host.imex()
    assert running is not None
    assert running.nodes == ("10.0.0.1", "10.0.0.2")
    assert running.channels == (0, 1, 2)
    assert host.most_channels() == 3


def test_channels_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (0, 10, 2):
        write(tmp_path / f"dev/{IMEX_CHANNELS}/channel{number}", "")
    assert Host(tmp_path).imex_channels() == (0, 2, 10)


def test_graphics_nodes_of_a_gpu(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:65:00.0", "pci0000:64")
    for name in ("renderD128", "card1"):
        (tmp_path / "sys/devices/pci0000:64/0000:65:00.0/drm" / name).mkdir(parents=True)
    assert Host(tmp_path).drm_nodes("0000:65:00.0") == ("dri/card1", "dri/renderD128")
    assert Host(tmp_path).drm_nodes("0000:66:00.0") == ()


def test_a_host_that_is_made_up_answers_as_a_real_one(tmp_path: Path) -> None:
    gpus = [gpu(0), gpu(1), gpu(2, mig=False)]
    host = fake_host(tmp_path, gpus, dmem=True, imex_nodes=["10.0.0.1"], channels=1)
    facts = host.facts(each.pci_bus for each in gpus)
    assert facts.dmem
    assert [facts.places[each.pci_bus] for each in gpus] == [
        Place(pcie_root="pci0000:18", numa=0),
        Place(pcie_root="pci0000:28", numa=0),
        Place(pcie_root="pci0000:38", numa=1),
    ]
    assert host.boot_id()
    assert host.major(MIG_CAPS) != host.major(IMEX_CHANNELS)
    running = host.imex()
    assert running is not None
    assert running.nodes == ("10.0.0.1",)


def test_no_two_capabilities_of_a_made_up_host_are_the_same(tmp_path: Path) -> None:
    host = fake_host(tmp_path, [gpu(0), gpu(1)])
    minors = [host.gpu_capability(minor, instance) for minor in (0, 1) for instance in range(15)]
    minors += [host.compute_capability(minor, instance, 0) for minor in (0, 1) for instance in range(15)]
    assert len(set(minors)) == 60
    assert host.gpu_capability(0, 0) == 3
    assert all((host.dev / MIG_CAPS / f"nvidia-cap{minor}").exists() for minor in minors)


def test_a_made_up_host_is_written_twice_without_harm(tmp_path: Path) -> None:
    fake_host(tmp_path, [gpu(0)], boot_id="first")
    assert fake_host(tmp_path, [gpu(0)], boot_id="second").boot_id() == "second"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n"
            "GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)\n",
            "535.129.03",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.95  Release Build  (dvs-builder)\n", "580.95"),
        ("NVRM version: unknown\nGCC version:  gcc version 133.4.0\n", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_the_version_of_the_driver_is_read_where_the_kernel_tells_it(tmp_path: Path, text: str | None, version: str):
    path = tmp_path / "proc/driver/nvidia/version"
    path.parent.mkdir(parents=True)
    if text is not None:
        path.write_text(text)
    assert Host(tmp_path).driver_version() == version
