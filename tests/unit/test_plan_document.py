"""The Plan's JSON: keys, quantities and times as the contract says."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest
from msgspec import structs

from scheduler.api.dra import DeviceAllocationConfiguration, OpaqueDeviceConfiguration
from scheduler.model.plan import Eviction
from scheduler.model.plan_document import to_json
from scheduler.model.reasons import Unreadable
from scheduler.model.snapshot import SetAside
from scheduler.model.times import rfc3339
from scheduler.plan.planner import plan
from tests.builders import NOW_MS, ask, cluster, gang, queue


def test_every_promised_key_is_there() -> None:
    made = cluster(nodes=1, gpus=2, dra=True) + queue("red", quota=0.5, limit=2) + gang("a", claims={"gpu": ask(1)})
    document = to_json(plan(made + gang("b", pods=2, claims={"gpu": ask(2)}, queue="red")))
    assert list(document) == [
        "now",
        "placements",
        "evictions",
        "promises",
        "reserved",
        "gangs",
        "queues",
        "solver",
        "setAside",
    ]
    (placement,) = document["placements"]
    assert (placement["pod"], placement["node"], placement["gang"]) == ("default/a-0", "node-0", "default/a")
    (part,) = placement["claims"]
    assert part["name"] == "gpu"
    assert part["allocation"]["devices"]["results"][0]["device"] == "gpu-0"
    red = next(report for report in document["queues"] if report["name"] == "red")
    assert (red["quota"], red["limit"], red["allocated"]) == ({"gpu": "500m"}, {"gpu": "2"}, {})
    assert red["requested"] == {"cpu": "2", "deviceclass/gpu.nvidia.com": "4", "gpu": "4", "memory": "2Gi"}
    waiting = next(gang_ for gang_ in document["gangs"] if gang_["name"] == "default/b")
    assert waiting["verdict"] == "Refused"
    assert waiting["reason"]["code"] == "OverLimit"
    assert waiting["reason"]["details"] == {
        "queue": "red", "resource": "gpu", "asked": 4000, "allocated": 0, "limit": 2000
    }  # fmt: skip
    assert waiting["remedy"].startswith("Raise spec.resources.gpu.limit")
    assert document["solver"] == {"status": "greedy", "gap": 0.0, "seconds": 0.0}


def test_it_is_plain_json() -> None:
    made = cluster(nodes=1, gpus=1) + gang("a", pods=3, gpus=1)
    aside = SetAside(
        object="Pod/default/x",
        uid="1",
        reason=Unreadable(object="Pod x", field="spec", problem="is odd", remedy="Mend it."),
    )
    decided = replace(plan(made), set_aside=(aside,))
    document = msgspec.json.decode(msgspec.json.encode(to_json(decided)))
    assert document["setAside"][0]["remedy"] == "Mend it."
    causes = document["gangs"][0]["reason"]["details"]["causes"]
    assert causes == [{"nodes": 1, "cause": "has too few free nvidia.com/gpu: 1 is asked for and there is none"}]


def test_an_eviction_tells_its_cost_in_gpu_seconds() -> None:
    leaving = Eviction(pod="a/p", pod_uid="1", stage="reclaim", beneficiary="a/g", cost=1500)
    document = to_json(replace(plan(cluster()), evictions=(leaving,)))
    assert document["evictions"] == [{"pod": "a/p", "stage": "reclaim", "beneficiary": "a/g", "cost": "1500m"}]


@pytest.mark.parametrize("moment", [0, 951_782_399_999, 951_782_400_000, 1_709_164_800_001, 4_102_444_799_000, NOW_MS])
def test_times_are_those_of_the_calendar(moment: int) -> None:
    text = datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="milliseconds")
    assert rfc3339(moment) == text.replace("+00:00", "Z")


def test_opaque_parameters_of_a_driver_are_values_too() -> None:
    sharing = OpaqueDeviceConfiguration(driver="gpu.x", parameters=msgspec.Raw(b'{"sharing": {"strategy": "MPS"}}'))
    config = (DeviceAllocationConfiguration(source="FromClass", opaque=sharing),)
    decided = plan(cluster(nodes=1, gpus=1, dra=True) + gang("a", claims={"gpu": ask(1)}))
    (placement,) = decided.placements
    (part,) = placement.claims
    allocation = structs.replace(part.allocation, devices=structs.replace(part.allocation.devices, config=config))
    configured = replace(placement, claims=(replace(part, allocation=allocation),))
    document = json.loads(json.dumps(to_json(replace(decided, placements=(configured,)))))
    (shown,) = document["placements"][0]["claims"][0]["allocation"]["devices"]["config"]
    assert shown["opaque"] == {"driver": "gpu.x", "parameters": {"sharing": {"strategy": "MPS"}}}
