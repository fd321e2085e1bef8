"""Extended resources served by device classes: the claim that is made for a pod."""

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.api.dra import DeviceClass
from scheduler.dra.extended import ExtendedClaim, class_of, classes_by_resource, extended_claim
from scheduler.model.workloads import ContainerAsk, Pod
from tests.published import CLASSES, DRIVER, device_class, node

GPU = "nvidia.com/gpu"


def container(
    name: str, index: int, count: int, *, init: bool = False, sidecar: bool = False, resource: str = GPU
) -> ContainerAsk:
    return ContainerAsk(name=name, index=index, requests={resource: count}, init=init, sidecar=sidecar)


def made(*containers: ContainerAsk, **allocatable: int) -> ExtendedClaim | None:
    pod = Pod(key="ns/p", uid="u", extended=containers)
    return extended_claim(pod, CLASSES, classes_by_resource(CLASSES), node("n1", **allocatable))


def requests(claim: ExtendedClaim | None) -> list[tuple[str, str, int | None]]:
    assert claim is not None
    return [
        (r.name, r.exactly.device_class_name, r.exactly.count) for r in claim.spec.devices.requests or () if r.exactly
    ]


def mappings(claim: ExtendedClaim | None) -> list[tuple[str, str]]:
    assert claim is not None
    return [(m.container, m.request) for m in claim.mappings]


def test_each_container_gets_a_request_of_its_own():
    claim = made(container("a", 0, 2), container("b", 1, 1))
    assert requests(claim) == [("container-0-request-0", DRIVER, 2), ("container-1-request-0", DRIVER, 1)]
    assert mappings(claim) == [("a", "container-0-request-0"), ("b", "container-1-request-0")]


def test_a_node_with_a_device_plugin_serves_the_pod_the_old_way():
    assert made(container("a", 0, 2), gpus=8) is None
    assert made(container("a", 0, 2), gpus=0) is not None


def test_a_resource_that_no_class_serves_is_not_for_a_claim():
    assert made(container("a", 0, 1, resource="example.com/fpga")) is None


def test_an_init_container_uses_devices_of_later_ones():
    claim = made(container("prepare", 0, 3, init=True), container("train", 1, 2))
    assert requests(claim) == [("container-0-request-0", DRIVER, 1), ("container-1-request-0", DRIVER, 2)]
    assert sorted(mappings(claim)) == [
        ("prepare", "container-0-request-0"),
        ("prepare", "container-1-request-0"),
        ("train", "container-1-request-0"),
    ]


def test_a_sidecar_keeps_its_devices():
    claim = made(container("side", 0, 1, init=True, sidecar=True), container("train", 1, 1))
    assert len(requests(claim)) == 2


def test_an_init_container_that_needs_no_more_than_later_ones_asks_for_nothing_itself():
    """It is given a whole request of theirs: requests are not divided. Source: kube-scheduler 1.36."""
    claim = made(container("prepare", 0, 1, init=True), container("train", 1, 3))
    assert requests(claim) == [("container-1-request-0", DRIVER, 3)]
    assert sorted(mappings(claim)) == [("prepare", "container-1-request-0"), ("train", "container-1-request-0")]


def test_an_init_container_takes_no_more_requests_of_later_ones_than_it_needs():
    claim = made(container("prepare", 0, 2, init=True), container("a", 1, 2), container("b", 2, 2))
    assert [request for name, request in mappings(claim) if name == "prepare"] == ["container-1-request-0"]


def test_init_containers_share_what_they_ask_for_themselves_for_they_run_one_by_one():
    claim = made(container("fetch", 0, 3, init=True), container("warm", 1, 4, init=True), container("train", 2, 1))
    assert requests(claim) == [("container-1-request-0", DRIVER, 3), ("container-2-request-0", DRIVER, 1)]
    assert sorted(mappings(claim)) == [
        ("fetch", "container-1-request-0"),
        ("fetch", "container-2-request-0"),
        ("train", "container-2-request-0"),
        ("warm", "container-1-request-0"),
        ("warm", "container-2-request-0"),
    ]


def test_a_sidecar_that_started_before_lends_nothing_and_one_that_starts_after_does():
    before = made(container("side", 0, 2, init=True, sidecar=True), container("prepare", 1, 1, init=True))
    after = made(container("prepare", 0, 1, init=True), container("side", 1, 2, init=True, sidecar=True))
    assert [count for _, _, count in requests(before)] == [2, 1]
    assert [count for _, _, count in requests(after)] == [2]


@settings(max_examples=100)
@given(
    inits=st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=4),
    mains=st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_the_claim_asks_for_as_many_as_kubernetes_counts_for_the_pod(
    inits: list[tuple[int, bool]], mains: list[int]
) -> None:
    """At most at one time: while an init container runs, it and the sidecars before it; then sidecars and the others.
    Source: KEP 753, resources of pods with sidecars."""
    containers, sidecars, peak = [], 0, 0
    for index, (count, sidecar) in enumerate(inits):
        containers.append(container(f"i{index}", index, count, init=True, sidecar=sidecar))
        peak = max(peak, sidecars + count)
        sidecars += count if sidecar else 0
    containers += [container(f"c{index}", len(inits) + index, count) for index, count in enumerate(mains)]
    asked = requests(made(*containers))
    assert sum(count or 0 for _, _, count in asked) == max(peak, sidecars + sum(mains))


def test_the_newest_class_serves_then_the_first_by_name():
    classes: dict[str, DeviceClass] = {
        name: device_class(name, resource=GPU, created=created)
        for name, created in (
            ("b", "2026-02-01T00:00:00Z"),
            ("a", "2026-02-01T00:00:00Z"),
            ("c", "2026-01-01T00:00:00Z"),
        )
    }
    assert classes_by_resource(classes) == {GPU: "a"}


def test_every_class_has_an_implicit_resource():
    assert class_of("deviceclass.resource.kubernetes.io/nic", CLASSES, {}) == "nic"
    assert class_of("deviceclass.resource.kubernetes.io/none", CLASSES, {}) is None
