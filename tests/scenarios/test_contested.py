"""Other resources that somebody asks for much of keep nobody from taking back the devices that are his.

Source: Ghodsi et al., Dominant Resource Fairness (NSDI 2011); KAI docs (reclaim).
"""

import pytest

from queues.tree import QueueResource
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import World, cluster, gang, queue

STAGES = ("allocate", "consolidate", "reclaim", "preempt")


def cpus(quota: int) -> QueueResource:
    return QueueResource(quota=quota * 1000)


def all_gpus_of_red(cpu: QueueResource | None = None) -> World:
    """Red has all 8 GPUs, with 4 of 64 CPUs each, of a quota of 4; blue has none of its own 4."""
    made = cluster(gpus=8, cpu=64) + queue("red", quota=4, cpu=cpu or QueueResource()) + queue("blue", quota=4)
    for number in range(8):
        made += gang(f"r{number}", gpus=1, cpu=4, queue="red", on=["node-0"])
    return made


def stopped(made: World) -> list[str]:
    made = made.under(stages=STAGES)
    decided = plan(made)
    assert check(made, decided) == ()
    return sorted(eviction.pod.partition("/")[2] for eviction in decided.evictions)


@pytest.mark.parametrize("hungry", ["red", "green", "blue"])
@pytest.mark.parametrize("priority", [100, 200])
def test_a_pod_that_waits_for_many_cpus_shields_no_gpus(hungry: str, priority: int) -> None:
    """Red is within its share of the CPUs then; and to a green of higher priority blue's own share of them is lost."""
    made = all_gpus_of_red() + queue("green", priority=priority)
    for number in range(4):
        made += gang(f"b{number}", gpus=1, cpu=4, queue="blue")
    assert len(stopped(made + gang("hungry", cpu=63, queue=hungry))) == 4


def test_of_cpus_that_go_along_the_quota_stays() -> None:
    """32 CPUs are red's, and 20 of them its quota: three pods with 4 each may go, and a fourth may not."""
    made = all_gpus_of_red(cpu=cpus(20)) + gang("hungry", cpu=63, queue="red")
    assert len(stopped(made + gang("b", pods=3, gpus=1, cpu=4, queue="blue"))) == 3
    assert stopped(made + gang("b", pods=4, gpus=1, cpu=4, queue="blue")) == []


def test_gpus_do_not_go_below_the_share_whatever_cpus_go_along() -> None:
    made = all_gpus_of_red() + gang("hungry", cpu=63, queue="red")
    assert stopped(made + gang("b", pods=5, gpus=1, cpu=4, queue="blue")) == []


def test_work_without_gpus_goes_along_with_nobody() -> None:
    """Blue lacks CPUs, and red, within its share of them, has some without GPUs; they would be claimed back at once."""
    made = cluster(gpus=8, cpu=24) + queue("red", quota=4, cpu=QueueResource(weight=3)) + queue("blue", quota=4)
    for number in range(8):
        made += gang(f"r{number}", gpus=1, cpu=1, queue="red", on=["node-0"])
    made += gang("service", cpu=10, queue="red", on=["node-0"]) + gang("hungry", cpu=23, queue="red")
    assert len(stopped(made + gang("b", gpus=4, cpu=10, queue="blue"))) == 4
    assert stopped(made + gang("b", gpus=4, cpu=12, queue="blue")) == []


def test_memory_shields_no_cpus_among_those_who_have_no_gpus() -> None:
    made = cluster(cpu=8, memory="80Gi") + queue("red", cpu=cpus(2)) + queue("blue", cpu=cpus(4))
    for number in range(8):
        made += gang(f"r{number}", cpu=1, memory="1Gi", queue="red", on=["node-0"])
    made += gang("hungry", cpu=1, memory="79Gi", queue="red")
    assert len(stopped(made + gang("b", cpu=4, memory="4Gi", queue="blue"))) == 4
