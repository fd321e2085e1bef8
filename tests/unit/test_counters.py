"""What is taken of devices, shares and counters; what a share takes of capacity."""

import pytest

from scheduler.api import dra
from scheduler.dra.allocate import Allocated, NoRoom
from scheduler.dra.capacity import consumed, taken_by, violates
from scheduler.dra.counters import InUse
from scheduler.dra.devices import Capacity, DeviceId, Policy, amount, written
from scheduler.dra.pools import Inventory
from scheduler.model.workloads import Claim
from tests.published import (
    CLASSES,
    DRIVER,
    ask,
    boards,
    claim,
    device,
    gpu,
    inventory,
    mig_node,
    names,
    node,
    profile,
    request,
    slice_of,
)

N1, N2 = node("n1"), node("n2")


def holding(
    *devices: str, pool: str = "n1", share: str | None = None, memory: str | None = None, **more: object
) -> dra.AllocationResult:
    results = tuple(
        dra.DeviceRequestAllocationResult(
            request="r",
            driver=DRIVER,
            pool=pool,
            device=name,
            share_id=share,
            consumed_capacity={"memory": memory} if memory else None,
            **more,  # type: ignore[arg-type]
        )
        for name in devices
    )
    return dra.AllocationResult(devices=dra.DeviceAllocationResult(results=results))


def allocated(allocation: dra.AllocationResult) -> Claim:
    return Claim(key="ns/held", uid="held", spec=dra.ResourceClaimSpec(), allocation=allocation)


def gpus(count: int = 4) -> Inventory:
    return inventory(
        slice_of("n1", *(gpu(i) for i in range(count))), slice_of("n2", *(gpu(i, node="n2") for i in range(count)))
    )


def test_an_allocated_claim_takes_its_devices():
    found = gpus(2)
    in_use = InUse.of([allocated(holding("gpu-0"))], found)
    assert in_use.is_taken(DeviceId(DRIVER, "n1", "gpu-0"))
    assert not in_use.is_taken(DeviceId(DRIVER, "n2", "gpu-0"))
    assert names(ask(found, claim("c"), in_use=in_use)) == [["gpu-1"]]


def test_a_device_that_no_slice_lists_stays_in_use_and_is_when_it_comes_back():
    """A kubelet that starts deletes the slices of its node; the pods of the node go on running."""
    held = [allocated(holding("gpu-0", "gpu-9"))]
    gone = inventory(slice_of("n1", gpu(1)))
    in_use = InUse.of(held, gone)
    assert in_use.is_taken(DeviceId(DRIVER, "n1", "gpu-0"))
    assert names(ask(gone, claim("c"), in_use=in_use)) == [["gpu-1"]]
    back = gpus(2)
    assert names(ask(back, claim("c"), in_use=InUse.of(held, back))) == [["gpu-1"]]
    assert isinstance(ask(back, claim("c", request("r", count=2)), in_use=InUse.of(held, back)), NoRoom)


def test_admin_access_takes_nothing():
    found = gpus(1)
    in_use = InUse.of([allocated(holding("gpu-0", admin_access=True))], found)
    assert in_use.signature(N1) == InUse(found).signature(N1)
    assert names(ask(found, claim("c"), in_use=in_use)) == [["gpu-0"]]


def test_a_fork_goes_its_own_way():
    found = gpus()
    in_use = InUse.of([allocated(holding("gpu-0"))], found)
    fork = in_use.fork()
    fork.take(holding("gpu-1"))
    in_use.take(holding("gpu-2"))
    assert [fork.is_taken(DeviceId(DRIVER, "n1", f"gpu-{n}")) for n in range(4)] == [True, True, False, False]
    assert [in_use.is_taken(DeviceId(DRIVER, "n1", f"gpu-{n}")) for n in range(4)] == [True, False, True, False]


def test_a_device_held_twice_stays_taken_until_both_give_it_back():
    in_use = InUse(gpus())
    in_use.take(holding("gpu-0"))
    in_use.take(holding("gpu-0"))
    in_use.give_back(holding("gpu-0"))
    assert in_use.is_taken(DeviceId(DRIVER, "n1", "gpu-0"))
    in_use.give_back(holding("gpu-0"))
    assert not in_use.is_taken(DeviceId(DRIVER, "n1", "gpu-0"))


def test_nodes_with_as_many_equal_devices_taken_are_in_one_state():
    one, two = InUse(gpus()), InUse(gpus())
    one.take(holding("gpu-0"))
    two.take(holding("gpu-1", pool="n2"))
    assert one.signature(N1) == two.signature(N2) != one.signature(N2)


def test_devices_on_different_links_are_not_in_one_state():
    def pairs(name: str) -> dra.ResourceSlice:
        return slice_of(name, *(gpu(i, node=name, nvlinkDomain=f"{name}-{i // 2}") for i in range(4)))

    found = inventory(pairs("n1"), pairs("n2"))
    in_use = InUse(found)
    in_use.take(holding("gpu-0", "gpu-1"))
    in_use.take(holding("gpu-0", "gpu-2", pool="n2"))
    assert found.shape(N1) == found.shape(N2)
    assert in_use.signature(N1) != in_use.signature(N2)


def test_partitions_in_use_leave_the_rest_of_their_board():
    found = inventory(*mig_node())
    in_use = InUse(found)
    in_use.take(holding("gpu-0-mig-3g40gb-0"))
    answer = ask(found, claim("c", request("r", profile("3g.40gb"), of="mig.nvidia.com")), in_use=in_use)
    assert names(answer) == [["gpu-0-mig-3g40gb-4"]]
    assert isinstance(
        ask(found, claim("c", request("r", profile("7g.80gb"), of="mig.nvidia.com")), in_use=in_use), NoRoom
    )
    in_use.give_back(holding("gpu-0-mig-3g40gb-0"))
    assert isinstance(
        ask(found, claim("c", request("r", profile("7g.80gb"), of="mig.nvidia.com")), in_use=in_use), Allocated
    )


def test_devices_that_other_nodes_hold_draw_on_the_same_counters():
    part = {"board-0": {f"memory-slice-{s}": 1 for s in range(8)}}
    found = inventory(
        slice_of("n1", device("here", consumes=part), pool="p", name="a", of=3),
        slice_of("n2", device("there", consumes=part), pool="p", name="b", of=3),
        slice_of("n2", pool="p", name="c", of=3, sets=boards(0)),
    )
    in_use = InUse.of([allocated(holding("there", pool="p"))], found)
    assert in_use.signature(N1) != InUse(found).signature(N1)
    assert isinstance(ask(found, claim("c", request("r", of="any")), in_use=in_use), NoRoom)


def divided(*parts: str) -> list[dra.ResourceSlice]:
    """Two boards of eight slices; each whole, and of the first these quarters."""
    takes = {f"memory-slice-{s}": 1 for s in range(8)}
    listed = [device(f"gpu-{n}", {"name": f"gpu-{n}"}, consumes={f"board-{n}": takes}) for n in range(2)]
    listed += [device(part, {"name": part}, consumes=quarter(part)) for part in parts]
    return [slice_of("n1", *listed, of=2), slice_of("n1", of=2, sets=boards(0, 1))]


def quarter(name: str) -> dict[str, dict[str, int]]:
    first = 2 * int(name.rpartition("-")[2])
    return {"board-0": {f"memory-slice-{first + s}": 1 for s in range(2)}}


def left(found: Inventory, in_use: InUse) -> list[str]:
    """What can still be given, each by itself."""
    free = []
    for each in found.devices_on(N1):
        asked = claim("c", request("r", f"device.attributes['{DRIVER}'].name == '{each.id.name}'", of="any"))
        if isinstance(ask(found, asked, in_use=in_use), Allocated):
            free.append(each.id.name)
    return free


def test_a_partition_that_no_slice_lists_draws_on_its_board_what_it_drew_before():
    """Source: kubernetes/kubernetes#140802, where the whole board is given away below it."""
    held = [allocated(holding("gpu-0-q-0"))]
    listed = inventory(*divided("gpu-0-q-0", "gpu-0-q-1"))
    assert left(listed, InUse.of(held, listed)) == ["gpu-1", "gpu-0-q-1"]
    published = listed.device(DeviceId(DRIVER, "n1", "gpu-0-q-0")).published
    gone = Inventory.of(divided("gpu-0-q-1"), CLASSES, withdrawn={(DRIVER, "n1", "gpu-0-q-0"): published})
    assert left(gone, InUse.of(held, gone)) == ["gpu-1", "gpu-0-q-1"]
    assert InUse.of(held, gone).signature(N1) != InUse(gone).signature(N1)


def test_of_a_partition_whose_draw_nobody_remembers_the_board_is_taken_that_it_is_named_after():
    gone = inventory(*divided("gpu-0-q-1"))
    in_use = InUse.of([allocated(holding("gpu-0-q-0", "gpu-0-q-3"))], gone)
    assert left(gone, in_use) == ["gpu-1"]
    in_use.give_back(holding("gpu-0-q-0", "gpu-0-q-3"))
    assert left(gone, in_use) == ["gpu-0", "gpu-1", "gpu-0-q-1"]
    for stranger in ("gpu", "gpu-", "other-0-q", "gpu-00-q-0"):
        assert left(gone, InUse.of([allocated(holding(stranger))], gone)) == ["gpu-0", "gpu-1", "gpu-0-q-1"]


def test_shares_add_up_and_a_counter_is_drawn_on_once():
    whole = {"board-0": {f"memory-slice-{s}": 1 for s in range(8)}}
    shared = device("a", capacity={"memory": "8Gi"}, shared=True, consumes=whole)
    found = inventory(slice_of("n1", shared, of=2), slice_of("n1", of=2, sets=boards(0)))
    in_use = InUse(found)
    for share in ("x", "y"):
        in_use.take(holding("a", share=share, memory="3Gi"))
    assert isinstance(ask(found, claim("c", request("r", of="any", capacity={"memory": "3Gi"})), in_use=in_use), NoRoom)
    assert names(ask(found, claim("c", request("r", of="any", capacity={"memory": "2Gi"})), in_use=in_use)) == [["a"]]
    for share in ("x", "y"):
        in_use.give_back(holding("a", share=share, memory="3Gi"))
    assert in_use.signature(N1) == InUse(found).signature(N1)


def test_a_share_whose_amounts_cannot_be_read_takes_the_whole_device():
    found = inventory(slice_of("n1", device("a", capacity={"memory": "8Gi"}, shared=True)))
    in_use = InUse.of([allocated(holding("a", share="x", memory="much"))], found)
    assert isinstance(ask(found, claim("c", request("r", of="any", capacity={"memory": "1Gi"})), in_use=in_use), NoRoom)


GIB = 1 << 30


@pytest.mark.parametrize(
    ("requested", "policy", "takes"),
    [
        (None, None, 8),
        (None, Policy(default=2), 2),
        (3, None, 3),
        (1, Policy(minimum=2), 2),
        (3, Policy(minimum=1, step=4), 5),
        (5, Policy(minimum=1, step=4), 5),
        (3, Policy(valid_values=(2, 4, 8)), 4),
        (9, Policy(valid_values=(2, 4, 8)), 9),
    ],
)
def test_what_is_asked_is_rounded_up_to_what_the_policy_allows(
    requested: int | None, policy: Policy | None, takes: int
):
    assert consumed(requested, Capacity(value=8, policy=policy)) == takes


@pytest.mark.parametrize(
    ("taken", "policy", "forbidden"),
    [
        (5, None, False),
        (5, Policy(default=5, minimum=1, maximum=4), False),
        (5, Policy(minimum=1, maximum=4), True),
        (4, Policy(minimum=1, step=2), True),
        (5, Policy(minimum=1, step=2), False),
        (9, Policy(valid_values=(2, 8)), True),
    ],
)
def test_some_amounts_are_forbidden(taken: int, policy: Policy | None, forbidden: bool):
    assert violates(taken, policy) is forbidden


def test_a_device_without_the_capacity_asked_for_cannot_serve():
    read = inventory(slice_of("n1", device("a", capacity={"memory": "8Gi", "shares": "4"}))).devices_on(N1)[0]
    assert taken_by({"cores": 1}, read) is None
    assert taken_by({"memory": 9 * GIB}, read) is None
    assert taken_by({"memory": 2 * GIB}, read) == (("memory", 2 * GIB), ("shares", 4))


def test_amounts_are_exact_and_written_as_kubernetes_does():
    assert amount("80Gi") == 80 * GIB
    assert written(amount("80Gi")) == "80Gi"
    assert written(amount("1500m")) == "1500m"
    assert written(amount("0.3")) == "300m"
    assert amount("0.1") + amount("0.2") == amount("0.3")
