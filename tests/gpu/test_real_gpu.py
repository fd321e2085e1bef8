"""What NVML tells of the GPUs of this machine. Read only: no test here changes a setting of a card."""

import os
import re
from collections.abc import Iterator

import pytest

from dra_driver.facts import FabricState, Gpu, GpuError
from dra_driver.nvml import Nvml
from dra_driver.readings import ARCHITECTURES, profile_name


def missing() -> str:
    """Why there is no GPU to look at; empty where there is one."""
    try:
        session = Nvml()
    except GpuError as error:
        return str(error)
    try:
        return "" if session.gpus() else "the driver tells of none"
    finally:
        session.close()


if reason := missing():
    pytest.skip(f"no GPU: {reason}", allow_module_level=True)


@pytest.fixture(scope="module")
def nvml() -> Iterator[Nvml]:
    session = Nvml()
    yield session
    session.close()


@pytest.fixture(scope="module")
def gpus(nvml: Nvml) -> tuple[Gpu, ...]:
    return nvml.gpus()


def test_the_driver_tells_its_versions(nvml: Nvml) -> None:
    driver = nvml.driver()
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", driver.version)
    assert driver.cuda >= (11, 0)


def test_every_gpu_is_told_whole(gpus: tuple[Gpu, ...]) -> None:
    for gpu in gpus:
        assert re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", gpu.uuid)
        assert re.fullmatch(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", gpu.pci_bus)
        assert gpu.product
        assert gpu.architecture in ARCHITECTURES.values()
        assert gpu.compute_capability >= (3, 5)
        assert gpu.memory_bytes is None or gpu.memory_bytes > 1 << 30
        assert gpu.addressing_mode in ("", "None", "HMM", "ATS")
    assert (
        len({gpu.uuid for gpu in gpus})
        == len({gpu.minor for gpu in gpus})
        == len({gpu.pci_bus for gpu in gpus})
        == len(gpus)
    )


def test_each_gpu_has_its_device_file(gpus: tuple[Gpu, ...]) -> None:
    for gpu in gpus:
        assert os.path.exists(f"/dev/nvidia{gpu.minor}")


def test_two_readings_agree(nvml: Nvml, gpus: tuple[Gpu, ...]) -> None:
    assert nvml.gpus() == gpus
    assert nvml.lost() == ()


def test_links_lead_to_switches_or_to_gpus(gpus: tuple[Gpu, ...]) -> None:
    for gpu in gpus:
        for far, count in gpu.links.items():
            assert far == "switch" or re.fullmatch(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", far)
            assert 1 <= count <= 36
            assert far != gpu.pci_bus


def test_a_fabric_that_is_joined_is_told(gpus: tuple[Gpu, ...]) -> None:
    for gpu in gpus:
        if gpu.fabric is not None and gpu.fabric.cluster:
            assert gpu.fabric.state is FabricState.COMPLETED


def test_mig_profiles_follow_the_geometry_that_the_model_has(gpus: tuple[Gpu, ...]) -> None:
    for gpu in gpus:
        if gpu.mig is None or gpu.virtual:
            continue
        assert gpu.mig.profiles
        whole = max(profile.memory_slices for profile in gpu.mig.profiles)
        for profile in gpu.mig.profiles:
            assert {place.size for place in profile.placements} == {profile.memory_slices}
            assert all(place.start + place.size <= whole for place in profile.placements)
            assert 1 <= profile.most <= len(profile.placements)
            assert gpu.memory_bytes is None or profile.memory_bytes <= gpu.memory_bytes
            plain = profile_name("", 0, profile.slices, profile.memory_slices, whole, gpu.memory_bytes or 0)
            assert gpu.memory_bytes is None or re.split(r"[+-]", profile.name)[0] == plain
        if not gpu.mig.on:
            assert gpu.mig.instances == ()


def test_usage_and_processes_are_told(nvml: Nvml, gpus: tuple[Gpu, ...]) -> None:
    for gpu in gpus:
        usage = nvml.usage(gpu.uuid)
        assert usage.memory_bytes == gpu.memory_bytes
        assert usage.busy is None or 0 <= usage.busy <= 1000
        assert usage.celsius is None or 0 < usage.celsius < 120
        assert usage.power_milliwatts is None or usage.power_milliwatts > 0
        assert all(process.pid > 0 for process in nvml.processes(gpu.uuid))


def test_the_recovery_action_is_told_or_is_not_supported(nvml: Nvml, gpus: tuple[Gpu, ...]) -> None:
    for gpu in gpus:
        nvml.recovery(gpu.uuid)


def test_events_can_be_waited_for(nvml: Nvml) -> None:
    nvml.wait(50)  # whatever comes, or nothing: that registering and waiting are not refused is what counts
