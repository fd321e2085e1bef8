"""The ledger: what is free, in which state, and what a fork is."""

from dataclasses import replace

import pytest

from queues.resources import Resources
from queues.tree import Queue, QueueTree
from scheduler.dra.allocate import Allocated, Ask, allocate
from scheduler.dra.pools import Inventory
from scheduler.model.errors import InvariantError
from scheduler.model.workloads import Claim
from scheduler.plan.ground.ledger import Grant, Ledger
from tests.builders import (
    World,
    ask,
    claim,
    cluster,
    device_class,
    devices,
    divided_gpu,
    everywhere,
    gpu,
    gpu_class,
    node,
    pod,
    running,
)


def ledger_of(made: World) -> Ledger:
    inventory = Inventory.of(made.slices, made.classes)
    return Ledger.of(made.nodes, inventory, pods=made.pods, claims=made.claims.values())


def grant(ledger: Ledger, on: str, wanted: Claim | None = None, **more: object) -> Grant:
    """What a pod with one claim gets there."""
    made = pod("p", **more)  # type: ignore[arg-type]
    if wanted is None:
        return Grant(pod=made, node=on, requests=made.requests)
    answer = allocate(ledger.nodes[on], [Ask(claim=wanted)], ledger.inventory, ledger.in_use)
    assert isinstance(answer, Allocated)
    given = ((wanted, answer.allocations[0]),)
    return Grant(pod=made, node=on, requests=made.requests, allocated=given, joins=(wanted.key,))


def test_everybodys_pods_count_whoever_scheduled_them_until_they_are_done() -> None:
    made = cluster(nodes=1, gpus=4, cpu=8) + running("daemon", on="node-0", cpu=1)
    made += running("ended", on="node-0", cpu=2)
    done = made.pods[1]
    made = replace(made, pods=(made.pods[0], replace(done, phase="Succeeded")))
    assert ledger_of(made).free("node-0")["cpu"] == 7000


def test_a_claim_counts_its_consumers_also_while_it_holds_no_devices() -> None:
    made = cluster(nodes=1, gpus=2, dra=True) + claim("c", ask(1))
    (open_,) = made.claims.values()
    made = replace(made, claims={open_.key: replace(open_, reserved_for=("one", "two"))})
    ledger = ledger_of(made)
    assert ledger.consumers(open_.key) == {"one", "two"}
    assert ledger.held(open_.key) is None


def test_taking_and_giving_back_ends_where_it_began() -> None:
    ledger = ledger_of(cluster(nodes=2, gpus=2, dra=True) + claim("c", ask(1)))
    (wanted,) = claim("c", ask(1)).claims.values()
    before = ledger.state("node-0"), ledger.gpus("node-0"), ledger.free("node-0")
    given = grant(ledger, "node-0", wanted, ports=[80])
    ledger.take(given)
    assert ledger.gpus("node-0") == 1000
    assert ledger.held("default/c") is not None
    assert ledger.consumers("default/c") == {"pod-default/p"}
    assert ledger.state("node-0") != before[0]
    assert len(ledger.ports("node-0")) == 1
    ledger.give_back(given)
    assert (ledger.state("node-0"), ledger.gpus("node-0"), ledger.free("node-0")) == before
    assert ledger.held("default/c") is None


def test_equal_nodes_are_in_equal_state_whichever_of_their_devices_is_taken() -> None:
    made = cluster(nodes=3, gpus=2, dra=True)
    ledger = ledger_of(made)
    assert ledger.state("node-0") == ledger.state("node-1")
    for number, name in enumerate(("node-0", "node-1")):
        (wanted,) = claim(f"c{number}", ask(1)).claims.values()
        ledger.take(grant(ledger, name, wanted))
    assert ledger.state("node-0") == ledger.state("node-1") != ledger.state("node-2")


def test_a_fork_is_not_felt_by_what_it_was_forked_from() -> None:
    ledger = ledger_of(cluster(nodes=1, gpus=2, dra=True))
    fork = ledger.fork()
    (wanted,) = claim("c", ask(2)).claims.values()
    fork.take(grant(fork, "node-0", wanted, cpu=3))
    assert (fork.gpus("node-0"), ledger.gpus("node-0")) == (0, 2000)
    assert ledger.free("node-0")["cpu"] - fork.free("node-0")["cpu"] == 3000
    assert ledger.held("default/c") is None


def test_a_claim_that_holds_devices_is_never_given_others() -> None:
    ledger = ledger_of(cluster(nodes=1, gpus=2, dra=True))
    (wanted,) = claim("c", ask(1)).claims.values()
    given = grant(ledger, "node-0", wanted)
    ledger.take(given)
    with pytest.raises(InvariantError, match="default/c holds devices already"):
        ledger.take(given)


def test_a_gpu_of_which_a_part_is_taken_is_worth_what_is_left() -> None:
    parts, counters = divided_gpu(0)
    made = node("n") + devices("n", parts, [counters])
    ledger = ledger_of(made + cluster(nodes=1, dra=True))
    assert ledger.gpus("n") == 1000
    assert ledger.untouched("n")
    half = ask(1, of="mig")
    with_class = made + gpu_class("mig", kind="mig")
    ledger = ledger_of(with_class)
    (wanted,) = claim("c", half).claims.values()
    ledger.take(grant(ledger, "n", wanted))
    assert ledger.gpus("n") == 1000 - 3000 // 7
    assert not ledger.untouched("n")


def test_taking_a_device_that_many_nodes_reach_changes_all_of_them() -> None:
    made = cluster(nodes=3, gpus=1, dra=True) + everywhere("channels", [gpu(0)], "fabric")
    made += device_class("fabric", 'device.driver == "fabric"')
    ledger = ledger_of(made)
    (wanted,) = claim("c", ask(1, of="fabric")).claims.values()
    ledger.take(grant(ledger, "node-1", wanted))
    assert sorted(set(ledger.changes)) == ["node-0", "node-1", "node-2"]


def test_a_charge_is_felt_at_every_queue_above() -> None:
    tree = QueueTree.of([Queue(name="all"), Queue(name="team", parent="all"), Queue(name="red", parent="team")])
    ledger = ledger_of(cluster())
    ledger.charge(tree, "red", Resources({"gpu": 3000}), preemptible=True)
    ledger.charge(tree, "red", Resources({"gpu": 1000}), preemptible=False)
    assert [ledger.allocated[name]["gpu"] for name in ("all", "team", "red")] == [4000, 4000, 4000]
    assert ledger.nonpreemptible["all"]["gpu"] == 1000
