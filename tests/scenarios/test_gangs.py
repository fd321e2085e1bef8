"""Gangs: whole or not at all, then growing."""

from dataclasses import replace

from scheduler.model.plan import Plan, Verdict
from scheduler.model.reasons import GangDoesNotFit, NoNodeFits, WaitingForClaims, WaitingForPods
from scheduler.model.workloads import PodClaim
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import World, ask, claim, cluster, gang, gang_of, node, pod, sub_group, world


def decide(made: World) -> Plan:
    """The plan, which the independent check accepts."""
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def placed(decided: Plan, name: str) -> dict[str, str]:
    """Pod -> node of one gang, names only."""
    return {p.pod.rpartition("/")[2]: p.node for p in decided.placements if p.gang == f"default/{name}"}


def verdict(decided: Plan, name: str) -> Verdict:
    return next(decision.verdict for decision in decided.gangs if decision.gang == f"default/{name}")


def test_a_gang_that_does_not_fit_whole_takes_nothing() -> None:
    decided = decide(cluster(nodes=2, gpus=8) + gang("train", pods=3, gpus=8))
    assert decided.placements == ()
    reason = decided.why("train")
    assert isinstance(reason, GangDoesNotFit)
    assert (reason.needed, reason.placeable) == (3, 2)
    assert reason.message == (
        "default/train needs room for 3 pods at once and there is room for 2: for one more, 2 nodes have too few free "
        "nvidia.com/gpu: none of the 8 asked for."
    )


def test_sixty_four_pods_wait_while_there_is_room_for_sixty_three_and_start_with_one_node_more() -> None:
    train = gang("train", pods=64, claims={"gpus": ask(8)})
    short = decide(cluster(nodes=63, gpus=8, dra=True) + train)
    assert short.placements == ()
    reason = short.why("train")
    assert isinstance(reason, GangDoesNotFit)
    assert (reason.needed, reason.placeable, reason.proved) == (64, 63, True)
    assert reason.message == (
        "default/train needs room for 64 pods at once and there is room for 63: for one more, 63 nodes have too few "
        "free devices of class gpu.nvidia.com: none of the 8 asked for."
    )
    assert reason.cure == "Free room for 1 more pod, or add nodes."
    assert len(set(placed(decide(cluster(nodes=64, gpus=8, dra=True) + train), "train").values())) == 64


def test_a_gang_that_waits_does_not_stop_those_behind_it() -> None:
    made = cluster(nodes=2, gpus=8) + gang("big", pods=3, gpus=8, priority=1) + gang("small", pods=2, gpus=4)
    decided = decide(made)
    assert verdict(decided, "big") is Verdict.PENDING
    assert len(placed(decided, "small")) == 2


def test_an_elastic_gang_starts_with_its_minimum_and_grows_as_far_as_there_is_room() -> None:
    """Source: KAI docs, elastic workloads."""
    decided = decide(cluster(nodes=3, gpus=2) + gang("serve", pods=8, gpus=1, minimum=4))
    assert len(placed(decided, "serve")) == 6
    assert verdict(decided, "serve") is Verdict.PLACED
    reason = decided.why("serve")
    assert isinstance(reason, GangDoesNotFit)
    assert (reason.needed, reason.placeable) == (1, 0)


def test_gangs_that_have_just_their_minimum_grow_before_those_that_have_more() -> None:
    """Source: KAI job order, elastic."""
    made = cluster(nodes=1, gpus=5) + gang("a", pods=4, gpus=1, minimum=1) + gang("b", pods=4, gpus=1, minimum=1)
    decided = decide(made)
    assert (len(placed(decided, "a")), len(placed(decided, "b"))) == (3, 2)


def test_of_sub_groups_that_have_their_minimum_the_one_least_beyond_it_grows_first() -> None:
    """Source: KAI sub-group order."""
    groups = (sub_group("a", 1), sub_group("b", 2))
    pods = [pod(f"a-{n}", gpus=1, sub_group="a") for n in range(4)]
    pods += [pod(f"b-{n}", gpus=1, sub_group="b") for n in range(6)]
    decided = decide(cluster(nodes=1, gpus=6) + gang_of("train", pods, sub_groups=groups))
    names = sorted(placed(decided, "train"))
    assert names == ["a-0", "a-1", "b-0", "b-1", "b-2", "b-3"]


def test_what_a_gang_has_beyond_its_minimum_leaves_room_for_the_minimum_of_others() -> None:
    """The minimum of every gang goes before anybody's surplus. Source: KAI job order, elastic."""
    made = cluster(nodes=1, gpus=6) + gang("first", pods=6, gpus=1, minimum=2) + gang("second", pods=3, gpus=1)
    decided = decide(made)
    assert len(placed(decided, "second")) == 3
    assert len(placed(decided, "first")) == 3


def test_a_gang_half_bound_by_a_crash_gets_the_rest_and_counts_nobody_twice() -> None:
    made = cluster(nodes=2, gpus=4) + gang("train", pods=4, gpus=2, on=["node-0", "node-0"])
    decided = decide(made)
    assert placed(decided, "train") == {"train-2": "node-1", "train-3": "node-1"}
    (decision,) = decided.gangs
    assert (decision.bound, decision.placed, decision.needed) == (2, 2, 4)


def test_a_whole_gang_that_runs_is_left_alone() -> None:
    decided = decide(cluster(nodes=1, gpus=4) + gang("train", pods=2, gpus=2, on=["node-0", "node-0"]))
    assert decided.placements == ()
    assert verdict(decided, "train") is Verdict.RUNNING
    assert decided.why("train") is None


def test_pods_behind_a_gate_hold_their_gang_back() -> None:
    """Source: KAI, scheduling gates."""
    pods = [pod("train-0", gpus=1), pod("train-1", gpus=1, gated=True)]
    reason = decide(cluster(nodes=1, gpus=4) + gang_of("train", pods)).why("train")
    assert reason == WaitingForPods(gang="default/train", needed=2, present=2, gated=1)


def test_a_pod_that_leaves_is_replaced_before_its_gang_counts_as_whole() -> None:
    pods = [pod("train-0", gpus=1, on="node-0"), pod("train-1", gpus=1, on="node-0", terminating=True)]
    waiting = decide(cluster(nodes=1, gpus=4) + gang_of("train", pods))
    assert isinstance(waiting.why("train"), WaitingForPods)
    replaced = decide(cluster(nodes=1, gpus=4) + gang_of("train", [*pods, pod("train-2", gpus=1)], minimum=2))
    assert placed(replaced, "train") == {"train-2": "node-0"}


def test_pods_that_have_ended_well_count_towards_the_minimum() -> None:
    """A Job of four with parallelism 4, two of them done: the last two need not wait for more."""
    made = cluster(nodes=1, gpus=2) + gang_of(
        "job", [pod("job-2", gpus=1), pod("job-3", gpus=1)], minimum=4, succeeded=2
    )
    assert len(placed(decide(made), "job")) == 2


def test_a_gang_whose_claims_are_not_made_yet_waits_for_them() -> None:
    lonely = pod("train-0", claims={})
    pods = [replace(lonely, claims=(PodClaim(name="gpu", claim=None, from_template=True),))]
    reason = decide(cluster(nodes=1, gpus=4, dra=True) + gang_of("train", pods)).why("train")
    assert isinstance(reason, WaitingForClaims)
    assert reason.message == "Pod default/train-0: ResourceClaim gpu has not been made from its template yet."


def test_a_claim_of_another_pod_is_not_used() -> None:
    """A claim of the same name left by an earlier pod belongs to that pod. Source: KEP 4381."""
    made = cluster(nodes=1, gpus=4, dra=True) + gang("train", pods=1, claims={"gpu": ask(1)})
    stale = {key: replace(claim, owner_uid="pod-of-yesterday") for key, claim in made.claims.items()}
    reason = decide(replace(made, claims=stale)).why("train")
    assert isinstance(reason, WaitingForClaims)
    assert reason.problem == "belongs to another pod"


def test_a_pod_that_no_node_could_ever_take_says_so() -> None:
    made = cluster(nodes=2, gpus=4) + node("big", gpus=8, labels={"pool": "b"}) + gang("train", pods=1, gpus=16)
    decided = decide(made)
    reason = decided.why("train")
    assert isinstance(reason, NoNodeFits)
    assert verdict(decided, "train") is Verdict.REFUSED
    assert reason.message == (
        "Pod default/train-0 fits no node even when empty: 3 nodes have too few nvidia.com/gpu: at most 8 of the 16 "
        "asked for."
    )


def test_a_pod_that_no_node_could_ever_take_refuses_only_a_gang_that_cannot_do_without_it() -> None:
    busy = cluster(nodes=1, gpus=2) + gang("runs", pods=1, gpus=2, on=["node-0"])
    pods = [pod("g-0", gpus=16), pod("g-1", gpus=1)]
    assert verdict(decide(busy + gang_of("g", pods, minimum=1)), "g") is Verdict.PENDING
    assert verdict(decide(busy + gang_of("g", pods, minimum=2)), "g") is Verdict.REFUSED


def test_a_gang_starts_without_pods_that_could_never_run_if_others_make_up_its_minimum() -> None:
    made = cluster(nodes=1, gpus=2).under(solver_enabled=False)
    pods = [pod("g-0", gpus=16), pod("g-1", gpus=1), pod("g-2", cpu=1)]
    assert set(placed(decide(made + gang_of("g", pods, minimum=2)), "g")) == {"g-1", "g-2"}


def test_a_pod_that_could_never_run_does_not_hold_up_those_that_share_a_claim_with_it() -> None:
    made = cluster(nodes=1, gpus=1, dra=True) + claim("shared", ask(1))
    pods = [pod("g-0", cpu=99, claims={"gpu": "shared"}), pod("g-1", claims={"gpu": "shared"}), pod("g-2")]
    assert set(placed(decide(made + gang_of("g", pods, minimum=2)), "g")) == {"g-1", "g-2"}


def test_of_sub_groups_that_could_never_start_only_those_that_are_needed_refuse_their_gang() -> None:
    busy = cluster(nodes=1, gpus=2) + gang("runs", pods=1, gpus=2, on=["node-0"])
    pods = [pod("a-0", gpus=16, sub_group="a"), pod("b-0", gpus=1, sub_group="b"), pod("c-0", gpus=9, sub_group="c")]
    groups = tuple(sub_group(name, 1) for name in "abc")
    one = decide(busy + gang_of("g", pods, sub_groups=groups, min_sub_group=1))
    assert verdict(one, "g") is Verdict.PENDING
    reason = decide(busy + gang_of("g", pods, sub_groups=groups, min_sub_group=2)).why("g")
    assert isinstance(reason, NoNodeFits)
    assert reason.pod == "default/a-0"


def test_of_optional_sub_groups_as_many_start_as_are_needed_and_more_if_they_fit() -> None:
    """minSubGroup 2 of 3, each of 2 pods with 2 GPUs; room for two of them. Source: KAI docs, sub-groups."""
    pods = [pod(f"w{group}-{i}", gpus=2, sub_group=f"g{group}") for group in range(3) for i in range(2)]
    groups = [sub_group(f"g{group}", 2) for group in range(3)]
    whole = gang_of("world", pods, sub_groups=tuple(groups), min_sub_group=2)
    queue = cluster(nodes=2, gpus=4)
    assert sorted(placed(decide(queue + whole), "world")) == ["w0-0", "w0-1", "w1-0", "w1-1"]
    assert len(placed(decide(cluster(nodes=3, gpus=4) + whole), "world")) == 6
    assert decide(cluster(nodes=1, gpus=4) + whole).placements == ()


def test_gangs_of_one_name_in_two_namespaces_are_two_gangs() -> None:
    made = cluster(nodes=1, gpus=2) + gang("a/train", pods=1, gpus=1) + gang("b/train", pods=1, gpus=1)
    assert [p.gang for p in decide(made).placements] == ["a/train", "b/train"]


def test_without_nodes_everybody_is_told_so() -> None:
    decided = decide(world(queues=cluster().queues) + gang("train", pods=2))
    reason = decided.why("train")
    assert isinstance(reason, NoNodeFits)
    assert "there are no nodes" in reason.message


def test_a_second_run_of_a_gang_needs_its_whole_minimum_again() -> None:
    """Pods that succeeded belong to the run before, unless others of the same run are still on nodes."""
    waiting = [pod(f"new-{number}") for number in range(4)]
    made = cluster(nodes=1, cpu=2)
    anew = decide(made + gang_of("train", waiting, minimum=4, succeeded=4))
    assert placed(anew, "train") == {}
    assert anew.why("train").needed == 4
    same = decide(made + gang_of("train", [pod("ran", on="node-0"), *waiting], minimum=4, succeeded=3))
    assert len(placed(same, "train")) == 1


def test_the_rest_of_a_run_may_be_fewer_pods_than_the_minimum() -> None:
    rest = [pod("retried-0"), pod("retried-1")]
    decided = decide(cluster(nodes=1, cpu=2) + gang_of("train", rest, minimum=4, succeeded=2))
    assert len(placed(decided, "train")) == 2
    assert verdict(decided, "train") is Verdict.PLACED
