"""Opaque configs of a claim and its class -> Settings: every field right and wrong, read aloud, and which one wins."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dra_driver import opaque
from dra_driver.devices import Kind, Settings, Sharing
from dra_driver.opaque import ConfigRefused, Place
from scheduler.api.dra import DeviceAllocationConfiguration, OpaqueDeviceConfiguration

DRIVER = "gpu.nvidia.com"
MIB, GIB = 1 << 20, 1 << 30


def nvidia(kind, **body):
    return {"apiVersion": "resource.nvidia.com/v1beta1", "kind": kind, **body}


def ours(**body):
    return {"apiVersion": "tutti.scheduler/v1alpha1", "kind": "DeviceConfig", **body}


def mps(**config):
    return {"strategy": "MPS", "mpsConfig": config}


def entry(document, source="FromClaim", requests=None, driver=DRIVER):
    raw = msgspec.Raw(document if isinstance(document, bytes) else json.dumps(document).encode())
    return DeviceAllocationConfiguration(
        source=source, requests=requests, opaque=OpaqueDeviceConfiguration(driver=driver, parameters=raw)
    )


def settings(*entries, kind=Kind.GPU, request="gpu", **more):
    place = Place(request=request, kind=kind, **more)
    return opaque.settings(opaque.configs(entries, DRIVER), place, (place,))


def refusal(document, kind=Kind.GPU):
    with pytest.raises(ConfigRefused) as caught:
        settings(entry(document), kind=kind)
    return str(caught.value)


def test_without_a_config_a_device_is_used_as_it_is():
    assert settings() == Settings()


@pytest.mark.parametrize(("interval", "slice_"), [("Default", 0), ("Short", 1), ("Medium", 2), ("Long", 3)])
def test_a_time_slice_is_one_of_four(interval, slice_):
    sharing = {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": interval}}
    expected = Settings(sharing=Sharing.TIME_SLICING, time_slice=slice_)
    assert settings(entry(nvidia("GpuConfig", sharing=sharing))) == expected
    assert settings(entry(ours(sharing={"strategy": "TimeSlicing", "interval": interval}))) == expected


@pytest.mark.parametrize(
    ("sharing", "expected"),
    [
        ({"strategy": "TimeSlicing"}, Settings(sharing=Sharing.TIME_SLICING)),
        ({"strategy": "TimeSlicing", "mpsConfig": None}, Settings(sharing=Sharing.TIME_SLICING)),
        ({"strategy": "MPS"}, Settings(sharing=Sharing.MPS)),
        (mps(defaultActiveThreadPercentage=50), Settings(sharing=Sharing.MPS, threads_percent=50)),
        (mps(defaultActiveThreadPercentage=0), Settings(sharing=Sharing.MPS)),
        (mps(defaultPinnedDeviceMemoryLimit="10Gi"), Settings(sharing=Sharing.MPS, memory_bytes=10 * GIB)),
        # Whole MiB, rounded down: 10 GB are 9536.74 MiB.
        (mps(defaultPinnedDeviceMemoryLimit="10G"), Settings(sharing=Sharing.MPS, memory_bytes=9536 * MIB)),
        (mps(multiUser=True), Settings(sharing=Sharing.MPS, multi_user=True)),
        (None, Settings()),
    ],
)
def test_nvidias_sharing_block(sharing, expected):
    assert settings(entry(nvidia("GpuConfig", sharing=sharing))) == expected
    assert settings(entry(nvidia("MigDeviceConfig", sharing=sharing)), kind=Kind.MIG) == expected


def test_our_own_kind_knows_exclusive_use_and_limits():
    assert settings(entry(ours(sharing={"strategy": "Exclusive"}))) == Settings(sharing=Sharing.EXCLUSIVE)
    limits = {"threadsPercent": 30, "memory": "20Gi"}
    expected = Settings(sharing=Sharing.MPS, threads_percent=30, memory_bytes=20 * GIB, multi_user=True)
    document = ours(sharing={"strategy": "MPS", "multiUser": True}, limits=limits)
    assert settings(entry(document)) == expected
    assert settings(entry(document), kind=Kind.MIG) == expected


def test_an_imex_channel_is_for_a_domain():
    document = nvidia("ComputeDomainChannelConfig", domainID="cd-1", allocationMode="All")
    assert settings(entry(document), kind=Kind.CHANNEL) == Settings(domain="cd-1", every_channel=True)
    document = nvidia("ComputeDomainChannelConfig", domainID="cd-1")
    assert settings(entry(document), kind=Kind.CHANNEL) == Settings(domain="cd-1")


PREFIX = "config 0 (FromClaim): "
GPU_FIELDS = "mpsConfig, strategy, timeSlicingConfig"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"{", "parameters are no JSON (Input data was truncated); write a JSON object"),
        ([], "parameters are []; write an object with apiVersion and kind"),
        (
            {"kind": "GpuConfig"},
            'apiVersion null, kind "GpuConfig" is not known; known are GpuConfig (resource.nvidia.com/',
        ),
        (
            {**nvidia("GpuConfig"), "apiVersion": "gpu.nvidia.com/v1alpha1"},
            'apiVersion "gpu.nvidia.com/v1alpha1", kind',
        ),
        (nvidia("GPUConfig"), 'kind "GPUConfig" is not known'),
        ({**nvidia("GpuConfig"), "kind": ["GpuConfig"]}, 'kind ["GpuConfig"] is not known'),
        (nvidia("GpuConfig", spec={}), "GpuConfig: spec is not a field; it has apiVersion, kind, sharing"),
        (nvidia("GpuConfig", sharing=[]), f"GpuConfig: sharing is []; write an object with {GPU_FIELDS}"),
        (nvidia("GpuConfig", sharing={}), "GpuConfig: sharing.strategy is missing; write TimeSlicing or MPS"),
        (nvidia("GpuConfig", sharing={"strategy": "mps"}), 'sharing.strategy is "mps"; write TimeSlicing or MPS'),
        (
            nvidia("GpuConfig", sharing={"Strategy": "MPS"}),
            f"sharing.Strategy is not a field; sharing has {GPU_FIELDS}",
        ),
        (
            nvidia("GpuConfig", sharing={"strategy": "MPS", "timeSlicingConfig": {}}),
            "sharing.timeSlicingConfig does not belong to strategy MPS; remove it, or change the strategy",
        ),
        (
            nvidia("GpuConfig", sharing={"strategy": "TimeSlicing", "mpsConfig": {}}),
            "sharing.mpsConfig does not belong to strategy TimeSlicing; remove it, or change the strategy",
        ),
        (
            nvidia("GpuConfig", sharing={"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": 2}}),
            "sharing.timeSlicingConfig.interval is 2; write Default, Short, Medium or Long",
        ),
        (
            nvidia("GpuConfig", sharing=mps(defaultActiveThreadPercentage=101)),
            "sharing.mpsConfig.defaultActiveThreadPercentage is 101; write a whole number from 0 to 100",
        ),
        (
            nvidia("GpuConfig", sharing=mps(defaultActiveThreadPercentage=True)),
            "Percentage is true; write a whole number",
        ),
        (
            nvidia("GpuConfig", sharing=mps(defaultActiveThreadPercentage="50")),
            'Percentage is "50"; write a whole number',
        ),
        (
            nvidia("GpuConfig", sharing=mps(defaultActiveThreadPercentage=50.5)),
            "Percentage is 50.5; write a whole number",
        ),
        (
            nvidia("GpuConfig", sharing=mps(defaultPinnedDeviceMemoryLimit="ten")),
            'sharing.mpsConfig.defaultPinnedDeviceMemoryLimit is "ten"; write a quantity of memory, such as 10Gi',
        ),
        (nvidia("GpuConfig", sharing=mps(defaultPinnedDeviceMemoryLimit="1023Ki")), 'is "1023Ki"; write 1Mi or more'),
        (nvidia("GpuConfig", sharing=mps(defaultPinnedDeviceMemoryLimit=True)), "is true; write a quantity of memory"),
        (nvidia("GpuConfig", sharing=mps(multiUser="yes")), 'mpsConfig.multiUser is "yes"; write true or false'),
        (
            nvidia("GpuConfig", sharing=mps(defaultPerDevicePinnedMemoryLimit=["1Gi"])),
            'defaultPerDevicePinnedMemoryLimit is ["1Gi"]; write an object: index or UUID of a device -> quantity of',
        ),
        (
            nvidia("GpuConfig", sharing=mps(defaultPerDevicePinnedMemoryLimit={"0": "x"})),
            'sharing.mpsConfig.defaultPerDevicePinnedMemoryLimit[0] is "x"; write a quantity of memory',
        ),
        (
            nvidia("ComputeDomainChannelConfig", domainID=""),
            "domainID is missing or empty; write the UID of a ComputeDom",
        ),
        (nvidia("ComputeDomainChannelConfig", domainID=3), "domainID is 3; write a text"),
        (
            nvidia("ComputeDomainChannelConfig", domainID="c", allocationMode="Some"),
            'allocationMode is "Some"; write Single or All',
        ),
        (nvidia("ComputeDomainDaemonConfig"), "domainID is missing or empty"),
        (
            nvidia("VfioDeviceConfig", iommu={"backendPolicy": "Any"}),
            'iommu.backendPolicy is "Any"; write LegacyOnly or',
        ),
        (nvidia("VfioDeviceConfig", iommu={"enableAPIDevice": 1}), "iommu.enableAPIDevice is 1; write true or false"),
        (ours(sharing={"strategy": "Alone"}), 'sharing.strategy is "Alone"; write None, TimeSlicing, MPS or Exclusive'),
        (ours(sharing={"interval": "Long"}), "sharing.interval is for strategy TimeSlicing; remove it, or change the"),
        (
            ours(limits={"memory": "1Gi"}),
            "limits.memory is kept by MPS alone; write sharing.strategy MPS, or remove it",
        ),
        (ours(limits={"threadsPercent": 0}), "limits.threadsPercent is 0; write a whole number from 1 to 100"),
        (ours(limits={"cores": 2}), "limits.cores is not a field; limits has memory, threadsPercent"),
    ],
)
def test_what_is_wrong_is_refused_with_field_cause_and_cure(document, words):
    text = refusal(document)
    assert text.startswith(PREFIX)
    assert words in text


def test_a_time_slice_is_no_matter_of_an_instance():
    sharing = {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}}
    assert "sharing.timeSlicingConfig is not a field; sharing has mpsConfig, strategy" in refusal(
        nvidia("MigDeviceConfig", sharing=sharing)
    )


def test_parameters_larger_than_the_api_allows_are_refused():
    padding = b" " * (10 * 1024 - len(json.dumps(nvidia("GpuConfig"))))
    most = json.dumps(nvidia("GpuConfig")).encode() + padding
    assert settings(entry(most)) == Settings()
    assert "parameters of 10241 bytes; at most 10240 are allowed" in refusal(most + b" ")


LONG = nvidia("GpuConfig", sharing={"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}})
SHORT = nvidia("GpuConfig", sharing={"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Short"}})
MPS = nvidia("GpuConfig", sharing=mps(defaultActiveThreadPercentage=40))
MIG_MPS = nvidia("MigDeviceConfig", sharing=mps(multiUser=True))


def test_the_claim_is_stronger_than_the_class_wherever_it_stands_and_the_last_is_stronger_than_the_first():
    assert settings(entry(LONG), entry(MPS, source="FromClass")).time_slice == 3
    assert settings(entry(MPS), entry(LONG), entry(SHORT)).time_slice == 1
    assert settings(entry(LONG, source="FromClass"), entry(MPS)) == Settings(sharing=Sharing.MPS, threads_percent=40)


def test_a_config_takes_effect_whole():
    strong = entry(nvidia("GpuConfig", sharing={"strategy": "MPS"}))
    assert settings(entry(MPS, source="FromClass"), strong) == Settings(sharing=Sharing.MPS)


def test_a_config_without_requests_passes_by_devices_that_it_is_not_for():
    both = (entry(MIG_MPS), entry(LONG))
    assert settings(*both).time_slice == 3
    assert settings(*both, kind=Kind.MIG).multi_user
    assert settings(*both, kind=Kind.CHANNEL) == Settings()


def test_exclusive_use_is_for_whole_gpus():
    exclusive = ours(sharing={"strategy": "Exclusive"})
    assert settings(entry(exclusive), kind=Kind.MIG) == Settings()
    with pytest.raises(
        ConfigRefused, match="names request gpu, which was given a device of type mig, and is for type gpu"
    ):
        settings(entry(exclusive, requests=("gpu",)), kind=Kind.MIG)


def test_a_config_goes_to_the_request_that_it_names_and_to_its_sub_requests():
    assert settings(entry(LONG, requests=("gpu",)), request="gpu/big").time_slice == 3
    assert settings(entry(LONG, requests=("gpu/big",)), request="gpu/big").time_slice == 3
    assert settings(entry(LONG, requests=("gpu/big",)), request="gpu/small") == Settings()
    assert settings(entry(LONG, requests=("gp",)), request="gpu") == Settings()


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (
            nvidia("VfioDeviceConfig", iommu={"backendPolicy": "LegacyOnly"}),
            "passthrough of a GPU to a virtual machine",
        ),
        (nvidia("ComputeDomainDaemonConfig", domainID="cd-1"), "start nvidia-imex on the host"),
    ],
)
def test_what_is_understood_and_not_served_is_refused_where_it_is_asked_for(document, words):
    assert settings(entry(document)) == Settings()
    with pytest.raises(ConfigRefused, match=words):
        settings(entry(document, requests=("gpu",)))


def test_a_bad_config_is_refused_also_where_a_stronger_one_would_win():
    with pytest.raises(ConfigRefused, match=r"config 0 \(FromClass\): GpuConfig: sharing.strategy"):
        settings(entry(nvidia("GpuConfig", sharing={}), source="FromClass"), entry(LONG))


def test_configs_of_other_drivers_are_not_ours_to_read():
    assert settings(entry(b"7", driver="dra.net")) == Settings()


def test_a_source_that_we_do_not_know_is_refused():
    with pytest.raises(ConfigRefused, match="source 'FromNode' is not known; it is FromClass or FromClaim"):
        settings(entry(LONG, source="FromNode"))


def limits_of(limits, places):
    config = nvidia(
        "GpuConfig",
        sharing=mps(defaultPinnedDeviceMemoryLimit="1Gi", defaultPerDevicePinnedMemoryLimit=limits),
    )
    found = opaque.configs([entry(config)], DRIVER)
    return [opaque.settings(found, place, places).memory_bytes for place in places]


def test_limits_by_device_count_the_devices_that_the_config_is_for():
    places = (
        Place(request="m", kind=Kind.MIG, index=0, uuid="MIG-a"),
        Place(request="g", kind=Kind.GPU, index=1, uuid="GPU-a"),
        Place(request="g", kind=Kind.GPU, index=2, uuid="GPU-b"),
        Place(request="h", kind=Kind.GPU, index=3),
    )
    assert limits_of({"1": "2Gi", "GPU-a": "3Gi"}, places) == [None, 3 * GIB, 2 * GIB, GIB]
    for key in ("3", "-1", "GPU-z", "MIG-a"):
        with pytest.raises(ConfigRefused, match=f"the key '{key}', and the config is for 3 device.* from 0 to 2"):
            limits_of({key: "2Gi"}, places)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 200) | st.text(max_size=8),
        lambda parts: (
            st.lists(parts, max_size=3)
            | st.dictionaries(
                st.sampled_from(["sharing", "strategy", "mpsConfig", "limits", "x", ""]), parts, max_size=4
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["GpuConfig", "MigDeviceConfig", "VfioDeviceConfig", "ComputeDomainChannelConfig", "DeviceConfig"]),
)
def test_whatever_is_written_is_read_or_refused_in_words(body, kind):
    document = ours() if kind == "DeviceConfig" else nvidia(kind)
    document |= body if isinstance(body, dict) else {"sharing": body}
    words = PREFIX
    try:
        settings(entry(document))
    except ConfigRefused as refused:
        words = str(refused)
    assert words.startswith(PREFIX)
