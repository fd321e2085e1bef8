"""Every reason read aloud: with none, one and two of whatever it counts it is a sentence with a cause, and its cure one
that says what to do."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest

from queues import reasons as queues
from scheduler.commit import outcome
from scheduler.model import reasons as model
from scheduler.model.no_room import Hindrance, Keeper, Kept, NoRoom
from scheduler.model.reasons import GangDoesNotFit, Holding, NodeCount, NoNodeFits, Reason, Scattered, WaitingForPods

REASONS = sorted(
    {
        kind
        for module in (queues, model, outcome)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if hasattr(kind, "code") and not inspect.isabstract(kind) and kind is not Reason
    },
    key=lambda kind: kind.__name__,
)

WORDS = {
    "resource": "gpu",
    "field": "spec.queue",
    "remedy": "Correct it.",
    "problem": "is not there",
    "why": "its parent does not exist",
    "cause": "has too little free memory",
}
THOUSANDTHS = ("asked", "allocated", "limit", "quota")

WRONG = {
    "one of many": r"\b1 (\w+ )?(pods|nodes|devices|claims|GPUs|CPUs|gangs|queues)\b",
    "many of one": r"\b(0|[2-9]|\d\d+) (more )?(pod|node|device|claim|GPU|CPU|gang|queue)\b",
    "a zero that is no amount": r"\b0 (more )?(pods|nodes|devices|claims)\b",
    "one are": r"\b1 (\w+ )?(are|have|do|were)\b",
    "thousandths": r"\d+m\b",
    "nothing where something should be": r"None|\(\)|  |: \.|, \.| ,|\.\.|: ,",
}


def value(name: str, kind: Any, count: int) -> Any:
    if kind is int:
        return count * 1000 if name in THOUSANDTHS else count
    if kind == int | None:
        return count or None
    if kind is bool:
        return bool(count)
    if kind is str:
        return WORDS.get(name, f"some-{name}")
    if kind == tuple[NodeCount, ...]:
        return tuple(NodeCount(nodes=number, cause=WORDS["cause"]) for number in (1, 2)[:count])
    if kind == Scattered | None:
        return Scattered(resource="gpu", asked=4, free=16, nodes=8, most=count) if count else None
    if kind == tuple[NoRoom, ...]:
        kept = tuple(Kept(pods=count, by=by, name="some-name", until_ms=0) for by in Keeper)
        made = (NoRoom(stage="preempt", why=why, queue="q", may_go=count, kept=kept, until_ms=0) for why in Hindrance)
        return tuple(made) if count else ()
    if kind is Holding:
        pods = tuple((f"team/p{number}", "") for number in range(count))
        return Holding(claim=f"team/{name}", uid="", pods=pods)
    if kind == tuple[str, ...]:
        return ("left", "right")[: max(count, 1)]  # children of a queue that has some
    raise AssertionError(f"a reason has a field of a kind that is not read here: {name}: {kind}")


def made(kind: type, count: int) -> Reason:
    hints = get_type_hints(kind)
    fields = {field.name: value(field.name, hints[field.name], count) for field in dataclasses.fields(kind)}
    reason = kind(**fields)
    assert isinstance(reason, Reason)
    return reason


def sentences() -> Iterator[Any]:
    for kind in REASONS:
        for count in (0, 1, 2):
            yield pytest.param(made(kind, count), id=f"{kind.__name__}-{count}")


@pytest.mark.parametrize("reason", list(sentences()))
def test_the_message_and_the_cure_are_sentences(reason: Reason) -> None:
    for text in (reason.message, reason.cure):
        assert text.endswith(".")
        for what, pattern in WRONG.items():
            assert re.search(pattern, text) is None, f"{what}: {text}"
    assert reason.cure[0].isupper()
    assert reason.message[0].isupper() or reason.message.startswith("some-")


def test_every_reason_is_read() -> None:
    assert {"OverLimit", "GangDoesNotFit", "WaitingForClaims", "BindFailed"} <= {kind.__name__ for kind in REASONS}


def test_one_node_has_and_several_have() -> None:
    one, two = (NodeCount(nodes=nodes, cause="does not match the node selector") for nodes in (1, 2))
    assert (str(one), str(two)) == ("1 node does not match the node selector", "2 nodes do not match the node selector")


def test_a_pod_alone_is_not_told_of_at_once() -> None:
    lonely = GangDoesNotFit(gang="team/a", needed=1, placeable=0)
    assert lonely.message == "team/a needs room for 1 pod and there is room for none."
    assert lonely.cure == "Free room for 1 more pod, or add nodes."


def test_a_gang_that_must_stay_together_may_be_let_go_further_apart() -> None:
    bound = GangDoesNotFit(gang="team/a", needed=3, placeable=2, domain="z/r1")
    assert bound.cure == "Free room for 1 more pod there, add nodes, or relax the topology constraint."


def test_why_no_room_was_made_is_one_sentence_and_what_would_help_is_among_the_cures() -> None:
    hindered = (
        NoRoom(stage="consolidate", why=Hindrance.NO_OTHER_PLACE, queue="q", may_go=9),
        NoRoom(stage="reclaim", why=Hindrance.QUEUE_AT_SHARE, queue="q"),
        NoRoom(stage="preempt", why=Hindrance.NOT_ENOUGH, may_go=8, kept=(Kept(pods=24, by=Keeper.PRIORITY),)),
    )
    waits = GangDoesNotFit(gang="team/a", needed=1, placeable=0, no_room=hindered)
    assert waits.message.endswith(
        " No room could be made: consolidate: 9 pods may be moved, and those in the way have no other place; "
        "reclaim: Queue q would be above its share with it; "
        "preempt: 8 pods may go, which leaves no place that is large enough (24 are of the same or a higher priority)."
    )
    assert waits.cure == (
        "Free room for 1 more pod, add nodes, give it a higher priority, or raise the quota of Queue q."
    )


def test_what_an_empty_node_lacks_it_lacks_altogether() -> None:
    causes = (NodeCount(nodes=2, cause="has too few free nvidia.com/gpu"),)
    assert NoNodeFits(pod="a/b", causes=causes).message == (
        "Pod a/b fits no node even when empty: 2 nodes have too few nvidia.com/gpu."
    )
    assert NoNodeFits(pod="a/b", causes=()).message == "Pod a/b fits no node even when empty: there are no nodes."


@pytest.mark.parametrize(
    ("present", "gated", "cure"),
    [
        (6, 0, "Create 2 more pods, or lower the minimum (minMember)."),
        (8, 1, "Remove the scheduling gates, or lower the minimum (minMember)."),
        (7, 2, "Create 1 more pod and remove the scheduling gates, or lower the minimum (minMember)."),
    ],
)
def test_who_waits_for_pods_is_told_which_are_missing(present: int, gated: int, cure: str) -> None:
    assert WaitingForPods(gang="team/a", needed=8, present=present, gated=gated).cure == cure
