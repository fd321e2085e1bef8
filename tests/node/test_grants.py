"""A claim as the API server tells it -> what of this node's devices was granted to it."""

import copy

import pytest

from dra_driver.devices import Grant, Settings, Sharing
from dra_driver.grants import ClaimRefused, NotHere, grants, pods

DRIVER, NODE = "gpu.nvidia.com", "node-1"
GIB = 1 << 30


def result(request, device, **more):
    return {"request": request, "driver": DRIVER, "pool": NODE, "device": device, **more}


def claim(*results, config=(), uid="uid-1", **allocation):
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"namespace": "team", "name": "pair", "uid": uid, "finalizers": ["x"]},
        "spec": {"devices": {"requests": [{"name": "large", "exactly": {"deviceClassName": "mig.nvidia.com"}}]}},
        "status": {"allocation": {"devices": {"results": list(results), "config": list(config)}, **allocation}},
    }


def opaque_config(kind, source="FromClaim", requests=None, driver=DRIVER, **body):
    parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": kind, **body}
    return {"source": source, "requests": requests, "opaque": {"driver": driver, "parameters": parameters}}


def refusal(document, **more):
    with pytest.raises(ClaimRefused) as caught:
        grants(document, DRIVER, NODE, **more)
    return str(caught.value)


def test_two_instances_of_one_gpu_are_two_grants_in_the_order_of_the_results():
    given = grants(
        claim(result("large-slice", "gpu-0-mig-3g40gb-9-0"), result("small-slice", "gpu-0-mig-1g10gb-19-4")),
        DRIVER,
        NODE,
    )
    assert given == (
        Grant(requests=("large-slice",), pool=NODE, device="gpu-0-mig-3g40gb-9-0"),
        Grant(requests=("small-slice",), pool=NODE, device="gpu-0-mig-1g10gb-19-4"),
    )


def test_a_sub_request_is_told_by_its_main_request():
    (given,) = grants(claim(result("any/big", "gpu-3")), DRIVER, NODE)
    assert given.requests == ("any",)


def test_devices_of_other_drivers_are_theirs():
    nic = {"request": "nic", "driver": "dra.net", "pool": NODE, "device": "eth0"}
    assert [grant.device for grant in grants(claim(nic, result("gpu", "gpu-1"), nic), DRIVER, NODE)] == ["gpu-1"]


def test_two_shares_of_one_gpu_stay_two_with_their_own_amounts():
    given = grants(
        claim(
            result("a", "gpu-0", shareID="s1", consumedCapacity={"memory": "10Gi", "cores": "25"}),
            result("b", "gpu-0", shareID="s2", consumedCapacity={"gpu.nvidia.com/memory": "20Gi"}),
        ),
        DRIVER,
        NODE,
    )
    assert [(grant.share_id, grant.memory_bytes, grant.cores_percent) for grant in given] == [
        ("s1", 10 * GIB, 25),
        ("s2", 20 * GIB, None),
    ]


def test_a_share_may_be_of_none_and_of_all():
    edge = {"memory": "0", "cores": "100"}
    (given,) = grants(claim(result("a", "gpu-0", shareID="s", consumedCapacity=edge)), DRIVER, NODE)
    assert (given.memory_bytes, given.cores_percent) == (0, 100)


def test_devices_are_named_by_uuid_in_a_config_where_they_have_one():
    limits = {"GPU-b": "2Gi", "0": "1Gi"}
    config = opaque_config(
        "GpuConfig", sharing={"strategy": "MPS", "mpsConfig": {"defaultPerDevicePinnedMemoryLimit": limits}}
    )
    document = claim(result("a", "gpu-0"), result("b", "gpu-1"), config=[config])
    given = grants(document, DRIVER, NODE, uuids={"gpu-0": "GPU-a", "gpu-1": "GPU-b"})
    assert [grant.settings.memory_bytes for grant in given] == [GIB, 2 * GIB]
    assert "the key 'GPU-b'" in refusal(document)


def test_fields_that_the_api_leaves_out_are_as_empty():
    document = claim(result("a", "gpu-0"))
    document["status"]["allocation"]["devices"].pop("config")
    assert len(grants(document, DRIVER, NODE)) == 1
    document["status"]["allocation"]["devices"].pop("results")
    assert "its devices are of no driver, none of gpu.nvidia.com" in refusal(document)
    document["metadata"].pop("uid")
    assert "its UID is missing, and uid-1 was asked for" in refusal(document, uid="uid-1")


def test_who_looks_on_gets_no_share_and_no_config_and_is_told_once_for_all_his_requests():
    given = grants(
        claim(
            result("watch", "gpu-0", adminAccess=True, consumedCapacity={"memory": "80Gi"}),
            result("use", "gpu-0"),
            result("look", "gpu-0", adminAccess=True),
            config=[opaque_config("GpuConfig", sharing={"strategy": "MPS"})],
        ),
        DRIVER,
        NODE,
    )
    assert given == (
        Grant(requests=("watch", "look"), pool=NODE, device="gpu-0", admin=True),
        Grant(requests=("use",), pool=NODE, device="gpu-0", settings=Settings(sharing=Sharing.MPS)),
    )


def test_configs_go_by_the_request_that_they_name_and_not_to_a_name_that_only_begins_alike():
    slices = {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}}
    given = grants(
        claim(
            result("train/big", "gpu-0"),
            result("trainer", "gpu-1"),
            config=[opaque_config("GpuConfig", requests=["train"], sharing=slices)],
        ),
        DRIVER,
        NODE,
    )
    assert [grant.settings for grant in given] == [Settings(sharing=Sharing.TIME_SLICING, time_slice=3), Settings()]


def test_the_kind_of_a_device_is_read_from_its_name():
    assert "gpu-0-mig-1g10gb-19-0" in refusal(claim(result("x", "gpu-0-mig-1g10gb-19-0-7x")))
    config = opaque_config("GpuConfig", requests=["m"], sharing={"strategy": "MPS"})
    text = refusal(claim(result("m", "gpu-0-mig-1g10gb-19-0"), config=[config]))
    assert text == (
        "claim team/pair: config 0 (FromClaim): GpuConfig names request m, which was given a device of type mig, and "
        "is for type gpu; name other requests in it, or use the kind of config for mig"
    )


def test_a_claim_that_is_not_allocated_is_refused():
    document = claim()
    del document["status"]["allocation"]
    assert refusal(document) == (
        "claim team/pair: nothing is allocated to it; it is prepared after a scheduler has allocated devices"
    )
    del document["status"]
    assert "nothing is allocated" in refusal(document)


def test_a_claim_of_another_driver_only_is_refused_by_its_name():
    nic = {"request": "nic", "driver": "dra.net", "pool": NODE, "device": "eth0"}
    assert refusal(claim(nic)) == (
        "claim team/pair: its devices are of dra.net, none of gpu.nvidia.com; that driver has to prepare them"
    )


def test_devices_of_another_node_are_refused_even_beside_ours():
    other = {**result("b", "gpu-1"), "pool": "node-2"}
    assert "devices of pool node-2 are allocated to it, and this node's pool is node-1" in refusal(
        claim(result("a", "gpu-0"), other)
    )


def test_a_claim_of_whose_devices_none_is_here_is_told_from_one_that_cannot_be_read():
    there = {**result("a", "gpu-0"), "pool": "node-2"}
    nic = {"request": "nic", "driver": "dra.net", "pool": NODE, "device": "eth0"}
    for elsewhere in (claim(there), claim(nic), claim(there, nic)):
        with pytest.raises(NotHere):
            grants(elsewhere, DRIVER, NODE)
    for unreadable in (claim(result("a", "mystery")), claim(result("b", "gpu-1"), there)):
        with pytest.raises(ClaimRefused) as caught:
            grants(unreadable, DRIVER, NODE)
        assert not isinstance(caught.value, NotHere)


def test_parameters_nested_without_end_are_refused():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    document = claim(result("a", "gpu-0"), config=[opaque_config("GpuConfig", driver="dra.net", deep=nested)])
    assert "claim team/pair: cannot be read" in refusal(document)
    with pytest.raises(ClaimRefused):
        pods(document)


def test_a_claim_made_anew_under_the_same_name_is_refused():
    assert "its UID is uid-1, and uid-0 was asked for" in refusal(claim(result("a", "gpu-0")), uid="uid-0")
    assert len(grants(claim(result("a", "gpu-0")), DRIVER, NODE, uid="uid-1")) == 1


def test_the_pods_that_a_claim_is_reserved_for():
    document = claim(result("a", "gpu-0"))
    assert pods(document) == ()
    document["status"]["reservedFor"] = [
        {"resource": "pods", "name": "p", "uid": "1"},
        {"apiGroup": "scheduling.k8s.io", "resource": "podgroups", "name": "g", "uid": "2"},
        {"apiGroup": "example.com", "resource": "pods", "name": "h", "uid": "4"},
        {"resource": "nodes", "name": "n", "uid": "5"},
        {"resource": "pods", "name": "q", "uid": "3"},
    ]
    assert pods(document) == ("1", "3")


@pytest.mark.parametrize("share", [{}, {"shareID": "s1"}])
def test_a_device_that_is_given_twice_is_refused(share):
    text = refusal(claim(result("a", "gpu-0", **share), result("b", "gpu-0", **share)))
    assert "is allocated to it twice, for requests a and b" in text


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("status", "allocation", "devices", "results"), "gpu-0", "Expected `array"),
        (("status", "allocation", "devices", "results", 0, "device"), 7, "Expected `str`"),
        (("metadata",), None, "claim /: cannot be read"),
        (
            ("status", "allocation", "devices", "results", 0, "consumedCapacity"),
            {"memory": "ten"},
            "'ten' is not a quant",
        ),
        (("status", "allocation", "devices", "results", 0, "consumedCapacity"), {"cores": "101"}, "from 0 to 100"),
        (("status", "allocation", "devices", "results", 0, "consumedCapacity"), {"memory": "-1"}, "0 or more"),
        (("status", "allocation", "devices", "results", 0, "device"), "card0", "'card0' of request a is none"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_field(path, value, words):
    document = copy.deepcopy(claim(result("a", "gpu-0")))
    part = document
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    assert words in refusal(document)
