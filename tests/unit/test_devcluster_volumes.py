"""Volumes in the embedded cluster: bound, provisioned, given up, and waited for by kubelets."""

from __future__ import annotations

from scheduler.devcluster import kinds
from scheduler.devcluster.objects import Obj
from scheduler.devcluster.provisioner import OUTCOME, REACH
from scheduler.devcluster.volumes import BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE
from tests.storage import HOST, local_class, mount, scratch, storage_class, volume, volume_claim
from tests.worlds import Bench, pod, workload, world

CPU = "cpu-000"


def plain(document: Obj) -> Obj:
    """As a user writes it: without uid and status."""
    meta = {key: value for key, value in document["metadata"].items() if key != "uid"}
    if "namespace" in meta:
        meta["namespace"] = "default"
    return {key: value for key, value in document.items() if key != "status"} | {"metadata": meta}


def asked(name: str, **fields: object) -> Obj:
    return plain(volume_claim(name, **fields))  # type: ignore[arg-type]


def using(name: str, *volumes: Obj, node: str | None = None) -> Obj:
    made = pod(name)
    made["spec"] = {**made["spec"], "volumes": list(volumes), **({"nodeName": node} if node else {})}
    return made


def holding(w: Bench, name: str) -> tuple[str, str]:
    """The phase of a claim, and its volume."""
    claim = w.get(kinds.VOLUME_CLAIM, name)
    return claim["status"]["phase"], claim["spec"].get("volumeName", "")


async def test_a_claim_whose_class_binds_at_once_gets_the_smallest_volume_that_fits():
    async with world() as w:
        w.apply(
            plain(storage_class("now", "kubernetes.io/no-provisioner", waits=False)),
            plain(volume("large", cls="now", size="9Gi")),
            plain(volume("fits", cls="now", size="5Gi")),
            plain(volume("small", cls="now", size="1Gi")),
            asked("c", cls="now", size="4Gi"),
        )
        await w.settled()
        assert holding(w, "c") == ("Bound", "fits")
        claim, bound = w.get(kinds.VOLUME_CLAIM, "c"), w.get(kinds.VOLUME, "fits")
        assert {BIND_COMPLETED, BOUND_BY_CONTROLLER} <= claim["metadata"]["annotations"].keys()
        assert bound["status"]["phase"] == "Bound"
        assert bound["spec"]["claimRef"]["uid"] == claim["metadata"]["uid"]


async def test_a_claim_waits_for_its_first_consumer_then_gets_a_volume_for_its_node():
    async with world({"cpu": 1}) as w:
        w.apply(plain(storage_class(parameters={REACH: HOST})), asked("c"))
        await w.settled()
        assert holding(w, "c") == ("Pending", "")
        w.change(kinds.VOLUME_CLAIM, "c", {"metadata": {"annotations": {SELECTED_NODE: CPU}}})
        await w.settled()
        phase, name = holding(w, "c")
        assert phase == "Bound"
        terms = w.get(kinds.VOLUME, name)["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        assert terms == [{"matchExpressions": [{"key": HOST, "operator": "In", "values": [CPU]}]}]


async def test_a_volume_that_cannot_be_made_for_a_node_takes_the_node_from_the_claim():
    async with world({"cpu": 1}) as w:
        w.apply(plain(storage_class(parameters={OUTCOME: "refused"})), asked("c", node=CPU))
        await w.settled()
        assert holding(w, "c") == ("Pending", "")
        assert SELECTED_NODE not in (w.get(kinds.VOLUME_CLAIM, "c")["metadata"].get("annotations") or {})


async def test_a_claim_that_waits_takes_a_volume_made_by_hand_only_if_that_names_it():
    async with world({"cpu": 1}) as w:
        w.apply(plain(local_class()), plain(volume("v", nodes=[CPU])), asked("c", cls="local", node=CPU))
        await w.settled()
        assert holding(w, "c") == ("Pending", "")
        uid = w.get(kinds.VOLUME_CLAIM, "c")["metadata"]["uid"]
        reference = {"kind": "PersistentVolumeClaim", "namespace": "default", "name": "c", "uid": uid}
        w.change(kinds.VOLUME, "v", {"spec": {"claimRef": reference}})
        await w.settled()
        assert holding(w, "c") == ("Bound", "v")


async def test_a_pod_gets_a_claim_for_its_ephemeral_volume_and_takes_it_along():
    async with world() as w:
        w.apply(plain(storage_class(waits=False)), using("p", scratch()))
        await w.settled()
        phase, name = holding(w, "p-scratch")
        assert phase == "Bound"
        w.delete(kinds.POD, "p")
        await w.settled()
        assert w.find(kinds.VOLUME_CLAIM, "p-scratch") is None
        assert w.find(kinds.VOLUME, name) is None


async def test_pods_of_a_stateful_set_find_their_claims_again():
    async with world({"cpu": 1}) as w:
        template = {"metadata": {"name": "data"}, "spec": volume_claim("any")["spec"]}
        made = workload("StatefulSet", "db", serviceName="db", volumeClaimTemplates=[template])
        w.apply(plain(storage_class(waits=False)), made)
        await w.settled()
        (mounted,) = w.pod("db-0")["spec"]["volumes"]
        assert mounted == {"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}
        before = holding(w, "data-db-0")
        assert before[0] == "Bound"
        w.delete(kinds.POD, "db-0")
        await w.settled()
        assert w.find(kinds.POD, "db-0") is not None
        assert holding(w, "data-db-0") == before


async def test_a_volume_made_by_hand_is_released_when_its_claim_goes():
    async with world() as w:
        by_hand = plain(storage_class("now", "kubernetes.io/no-provisioner", waits=False))
        w.apply(by_hand, plain(volume("v", cls="now")), asked("c", cls="now"))
        await w.settled()
        w.delete(kinds.VOLUME_CLAIM, "c")
        await w.settled()
        assert w.get(kinds.VOLUME, "v")["status"]["phase"] == "Released"


async def test_a_claim_whose_volume_is_gone_is_lost():
    async with world() as w:
        w.apply(plain(storage_class(waits=False)), asked("c"))
        await w.settled()
        name = holding(w, "c")[1]
        w.delete(kinds.VOLUME, name)
        await w.settled()
        assert holding(w, "c")[0] == "Bound"
        w.change(kinds.VOLUME, name, {"metadata": {"finalizers": None}})
        await w.settled()
        assert holding(w, "c")[0] == "Lost"


async def test_a_claim_in_use_goes_when_its_pod_has_gone_and_its_volume_after_it():
    async with world({"cpu": 1}) as w:
        w.apply(plain(storage_class(waits=False)), asked("c"))
        await w.settled()
        w.apply(using("p", *mount("c"), node=CPU))
        await w.settled()
        name = holding(w, "c")[1]
        w.delete(kinds.VOLUME_CLAIM, "c")
        await w.settled()
        assert holding(w, "c")[0] == "Bound"
        w.delete(kinds.POD, "p")
        await w.settled()
        assert w.find(kinds.VOLUME_CLAIM, "c") is None
        assert w.find(kinds.VOLUME, name) is None


async def test_a_kubelet_does_not_start_a_pod_before_its_claim_is_bound():
    async with world({"cpu": 1}) as w:
        w.apply(plain(storage_class()), asked("c"), using("p", *mount("c"), node=CPU))
        await w.settled()
        assert w.pod("p")["status"]["phase"] == "Pending"
        assert w.nodes.refusals["FailedMount"] == 1
        w.change(kinds.VOLUME_CLAIM, "c", {"metadata": {"annotations": {SELECTED_NODE: CPU}}})
        await w.settled()
        assert w.pod("p")["status"]["phase"] == "Running"
