"""Node labels as GPU Feature Discovery writes them, and how they come and go."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dra_driver.facts import Driver, FabricState, Gpu, Placement
from dra_driver.labels import MARK, PREFIX, THEIRS, LabelsTaken, labels, patch
from tests.node.offers import DRIVER, cut, gpus


def said(known: list[Gpu], driver: Driver = DRIVER, **more: Any) -> dict[str, str]:
    """Labels without their prefix."""
    return {key.removeprefix("nvidia.com/"): value for key, value in labels(known, driver, **more).items()}


def test_eight_h100_are_labelled_as_there() -> None:
    assert said(list(gpus("h100x8")), machine="DGXH100") == {
        "cuda.driver-version.full": "580.126.20",
        "cuda.driver-version.major": "580",
        "cuda.driver-version.minor": "126",
        "cuda.driver-version.revision": "20",
        "cuda.driver.major": "580",
        "cuda.driver.minor": "126",
        "cuda.driver.rev": "20",
        "cuda.runtime-version.full": "13.0",
        "cuda.runtime-version.major": "13",
        "cuda.runtime-version.minor": "0",
        "cuda.runtime.major": "13",
        "cuda.runtime.minor": "0",
        "gpu.compute.major": "9",
        "gpu.compute.minor": "0",
        "gpu.count": "8",
        "gpu.family": "hopper",
        "gpu.machine": "DGXH100",
        "gpu.memory": "81559",
        "gpu.product": "NVIDIA-H100-80GB-HBM3",
        "gpu.replicas": "1",
        "gpu.sharing-strategy": "none",
        "mig.capable": "true",
        "mig.strategy": "none",
        "mps.capable": "true",
        "vgpu.present": "false",
    }


def test_a_node_without_a_gpu_has_no_labels() -> None:
    assert labels([], DRIVER) == {}


def test_the_order_of_the_gpus_makes_no_difference_and_the_first_stands_for_all() -> None:
    known = list(gpus("h100x1+t4x2"))
    assert labels(known, DRIVER) == labels(reversed(known), DRIVER)
    assert said(known)["gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    assert said(known)["gpu.count"] == "3"


def test_a_t4_can_neither_be_cut_nor_does_it_know_its_machine() -> None:
    found = said(list(gpus("t4x1")))
    assert (found["mig.capable"], found["gpu.family"]) == ("false", "turing")
    assert "gpu.machine" not in found
    assert "gpu.clique" not in found


def test_the_clique_is_told_when_all_gpus_have_joined_the_same() -> None:
    known = list(gpus("gb200x4"))
    fabric = known[0].fabric
    assert fabric is not None
    assert said(known)["gpu.clique"] == f"{fabric.cluster}.32766"
    for other in (
        replace(fabric, clique=1),
        replace(fabric, state=FabricState.IN_PROGRESS),
        None,
    ):
        assert "gpu.clique" not in said([*known[:3], replace(known[3], fabric=other)])
    assert "gpu.clique" not in said(list(gpus("h100x8"))), "a fabric that ends at the node has no name"


def test_instances_of_an_operator_are_told_and_those_made_for_claims_are_not() -> None:
    first, second = gpus("h100x2")
    known = [cut(first, ("3g.40gb", 0), ("1g.10gb", 4), ("1g.10gb+me", 5)), cut(second, ("3g.40gb", 4))]
    found = said(known)
    assert found["mig.strategy"] == "mixed"
    assert found["mig-3g.40gb.count"] == "2"
    assert found["mig-3g.40gb.memory"] == "40448"
    assert found["mig-3g.40gb.product"] == "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb"
    assert found["mig-3g.40gb.slices.gi"] == "3"
    assert found["mig-1g.10gb.me.engines.ofa"] == "1"
    ours = {(gpu.uuid, each.placement) for gpu in known if gpu.mig for each in gpu.mig.instances}
    assert not [key for key in said(known, owned=ours) if key.startswith("mig-")]
    kept = said(known, owned={(second.uuid, Placement(start=4, size=4))})
    assert kept["mig-3g.40gb.count"] == "1"


@given(st.text(max_size=80), st.text(alphabet="0123456789.", max_size=20), st.text(max_size=20))
def test_every_value_is_one_that_the_api_takes(product: str, version: str, machine: str) -> None:
    (gpu,) = gpus("a100x1")
    found = labels([replace(gpu, product=product)], Driver(version=version, cuda=(13, 0)), machine=machine)
    for value in found.values():
        assert 0 < len(value) <= 63
        assert value[0].isalnum()
        assert value[-1].isalnum()
        assert value.isascii()


# --- how they come and go ---


def test_the_role_for_labels_allows_no_more_than_reading_and_patching_nodes_and_its_policy_knows_our_mark() -> None:
    text = (Path(__file__).parents[2] / "deploy" / "dra-driver-labels.yaml").read_text()
    documents = {each["kind"]: each for each in yaml.safe_load_all(text)}
    verbs = ["get", "list", "watch", "patch"]
    assert documents["ClusterRole"]["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": verbs}]
    said = [each["expression"] for each in documents["ValidatingAdmissionPolicy"]["spec"]["validations"]]
    assert sum(f'"{MARK}"' in each for each in said) == 1
    assert sum(f'"{PREFIX}"' in each for each in said) == 1


WANTED = {"nvidia.com/gpu.count": "8", "nvidia.com/gpu.family": "hopper"}


def node(labels: dict[str, str] | None = None, mark: str | None = None) -> dict[str, Any]:
    annotations = {"example.com/other": "x", **({MARK: mark} if mark is not None else {})}
    return {"metadata": {"name": "n1", "labels": {"zone": "a", **(labels or {})}, "annotations": annotations}}


def test_a_fresh_node_gets_them_and_the_mark_of_whose_they_are() -> None:
    assert patch(node(), WANTED) == {
        "metadata": {"labels": WANTED, "annotations": {MARK: "gpu.count,gpu.family"}},
    }
    assert patch({"metadata": {"name": "n1"}}, WANTED) == patch(node(), WANTED)


def test_nothing_is_written_where_nothing_changes() -> None:
    assert patch(node(WANTED, "gpu.count,gpu.family"), WANTED) == {}
    assert patch(node(), {}) == {}


def test_what_changes_is_written_and_what_is_no_longer_true_is_taken_away() -> None:
    present = {"nvidia.com/gpu.count": "7", "nvidia.com/gpu.family": "hopper", "nvidia.com/gpu.clique": "c.1"}
    assert patch(node(present, "gpu.clique,gpu.count,gpu.family"), WANTED) == {
        "metadata": {
            "labels": {"nvidia.com/gpu.count": "8", "nvidia.com/gpu.clique": None},
            "annotations": {MARK: "gpu.count,gpu.family"},
        }
    }


def test_switched_off_ours_are_taken_away_and_others_stay() -> None:
    present = {**WANTED, "nvidia.com/gpu.present": "true"}
    assert patch(node(present, "gpu.count,gpu.family"), {}) == {
        "metadata": {
            "labels": {"nvidia.com/gpu.count": None, "nvidia.com/gpu.family": None},
            "annotations": {MARK: None},
        }
    }
    assert patch(node(present), {}) == {}, "what GPU Feature Discovery has written is not ours to take away"


def test_beside_gpu_feature_discovery_nothing_is_written() -> None:
    with pytest.raises(LabelsTaken, match=r"Node n1: GPU Feature Discovery labels it already.*leave node_labels off"):
        patch(node({THEIRS: "1"}), WANTED)
    assert patch(node({THEIRS: "1"}), {}) == {}
