"""Invariants of `divide`, of past use, of the limits, and of the order of service, on made-up queue trees."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from queues.fair_share import divide, usable
from queues.limits import may_start
from queues.ordering import Picker, Waiting
from queues.resources import NOTHING, Resources
from queues.tree import Queue, QueueResource, QueueTree
from queues.usage import CLUSTER, NO_USAGE, Usage, later

NAMES = tuple("abcdefgh")
thousandths = st.integers(0, 20).map(lambda count: count * 1000) | st.integers(0, 20_000)
rules = st.builds(QueueResource, quota=thousandths, limit=st.none() | thousandths, weight=st.integers(0, 5))
amounts = st.fixed_dictionaries({"gpu": thousandths, "cpu": thousandths}).map(Resources)


@st.composite
def forests(draw: st.DrawFn) -> list[Queue]:
    """Up to eight queues; a queue's parent comes before it by name, or is missing altogether now and then."""
    queues = []
    for place, name in enumerate(NAMES[: draw(st.integers(1, len(NAMES)))]):
        queues.append(
            Queue(
                name=name,
                parent=draw(st.none() | st.sampled_from((*NAMES[:place], "gone"))),
                priority=draw(st.sampled_from((100, 200))),
                resources=draw(st.dictionaries(st.sampled_from(("gpu", "cpu")), rules)),
                created_ms=draw(st.integers(0, 2)),
            )
        )
    return queues


asks = st.dictionaries(st.sampled_from(NAMES), amounts)
parts = st.integers(0, CLUSTER)
pasts = st.dictionaries(st.sampled_from(NAMES), st.fixed_dictionaries({"gpu": parts, "cpu": parts}))
strengths = st.sampled_from((Fraction(0), Fraction(1, 3), Fraction(1), Fraction(20)))
usages = st.builds(Usage, parts=pasts, strength=strengths) | st.just(NO_USAGE)


@given(forests(), asks, amounts, usages)
@settings(max_examples=200, deadline=None)
def test_shares_keep_to_the_pool_the_quotas_the_limits_and_the_asks_whatever_was_used(queues, asked, pool, usage):
    tree = QueueTree.of(queues)
    shares = divide(pool, tree, asked, usage)
    useful = usable(tree, asked)
    assert set(shares) == set(tree.queues)
    for parent in (None, *tree.children):
        siblings = tree.children.get(parent, ())
        whole = pool if parent is None else shares[parent]
        for resource in ("gpu", "cpu"):
            given_out = sum(shares[name][resource] for name in siblings)
            quotas = sum(min(tree.queues[name][resource].quota, useful[name][resource]) for name in siblings)
            wanted = sum(useful[name][resource] for name in siblings)
            assert given_out <= max(whole[resource], quotas)
            if all(tree.queues[name][resource].weight for name in siblings):
                assert given_out == max(min(whole[resource], wanted), quotas)
            for name in siblings:
                share, queue = shares[name][resource], tree.queues[name]
                assert min(queue[resource].quota, useful[name][resource]) <= share <= useful[name][resource]
                limit = queue[resource].limit
                assert limit is None or share <= limit
                if name in tree.leaves:
                    assert share <= asked.get(name, NOTHING)[resource]


@given(forests(), asks, amounts, usages, st.randoms())
@settings(max_examples=60, deadline=None)
def test_shares_do_not_depend_on_the_order_of_the_queues(queues, asked, pool, usage, rng):
    shares = divide(pool, QueueTree.of(queues), asked, usage)
    shuffled = list(queues)
    rng.shuffle(shuffled)
    other = Usage(parts=dict(reversed(usage.parts.items())), strength=usage.strength)
    again = divide(pool, QueueTree.of(shuffled), dict(reversed(asked.items())), other)
    assert list(again.items()) == list(shares.items())


@given(
    st.lists(st.tuples(st.integers(1, 5), thousandths), min_size=2, max_size=6),
    st.data(),
    thousandths,
    st.sampled_from((Fraction(1, 3), Fraction(1), Fraction(5))),
)
@settings(max_examples=200, deadline=None)
def test_who_has_used_more_is_never_given_more_and_the_others_are_never_given_less(rows, data, pool, strength):
    names = NAMES[: len(rows)]
    tree = QueueTree.of(
        Queue(name=name, resources={"cpu": QueueResource(weight=weight)})
        for name, (weight, _) in zip(names, rows, strict=True)
    )
    asked = {name: Resources({"cpu": ask}) for name, (_, ask) in zip(names, rows, strict=True)}
    # Together they have used no more than there was.
    past = {name: data.draw(st.integers(0, CLUSTER // (2 * len(rows)))) for name in names}
    more = past["a"] + data.draw(st.integers(0, CLUSTER // 2))

    def shares(first: int) -> dict[str, int]:
        used = {name: {"cpu": first if name == "a" else part} for name, part in past.items()}
        divided = divide(Resources({"cpu": pool}), tree, asked, Usage(parts=used, strength=strength))
        return {name: divided[name]["cpu"] for name in names}

    before, after = shares(past["a"]), shares(more)
    # What cannot be split goes by the largest fraction, so that one unit may fall either way.
    assert after["a"] <= before["a"] + 1
    assert all(after[name] >= before[name] - len(names) for name in names[1:])


@given(
    st.lists(st.tuples(st.integers(-(10**7), 10**7), st.integers(0, CLUSTER)), max_size=20),
    st.integers(1, 10**12),
)
@settings(max_examples=100, deadline=None)
def test_past_use_stays_between_nothing_and_all_there_is_whatever_the_clock_does(steps, half_life):
    past: dict[str, int] = {}
    for elapsed, standing in steps:
        before = past.get("gpu", 0)
        past = later(past, {"gpu": standing}, elapsed, half_life)
        after = past.get("gpu", 0)
        assert min(before, standing) - 1 <= after <= max(before, standing)
        assert elapsed > 0 or after == before


@given(forests(), amounts)
@settings(max_examples=60, deadline=None)
def test_a_queue_that_asks_for_more_never_gets_less(queues, pool):
    tree = QueueTree.of(queues)
    modest = dict.fromkeys(tree.leaves, Resources({"gpu": 2000, "cpu": 700}))
    for name in tree.leaves:
        before = divide(pool, tree, modest)[name]
        after = divide(pool, tree, {**modest, name: modest[name] + Resources({"gpu": 3000, "cpu": 1})})[name]
        assert all(before[resource] <= after[resource] for resource in ("gpu", "cpu"))


@given(forests(), st.lists(st.tuples(st.sampled_from(NAMES), amounts, st.booleans()), max_size=12))
@settings(max_examples=100, deadline=None)
def test_what_may_start_never_takes_any_queue_past_its_limit_or_its_protected_part_past_the_quota(queues, arrivals):
    tree = QueueTree.of(queues)
    held: dict[str, Resources] = {}
    protected: dict[str, Resources] = {}
    for name, asked, preemptible in arrivals:
        if name not in tree.leaves:
            continue
        refused = may_start(tree, name, asked, tree.roll_up(held), tree.roll_up(protected), preemptible)
        if refused is None:
            held[name] = held.get(name, NOTHING) + asked
            if not preemptible:
                protected[name] = protected.get(name, NOTHING) + asked
    for name, amount in tree.roll_up(held).items():
        for resource in ("gpu", "cpu"):
            limit = tree.queues[name][resource].limit
            assert limit is None or amount[resource] <= limit
    for name, amount in tree.roll_up(protected).items():
        assert amount["gpu"] <= tree.queues[name]["gpu"].quota or not amount["gpu"]


@given(forests(), st.lists(st.tuples(st.sampled_from(NAMES), amounts, st.integers(0, 2)), max_size=15), st.randoms())
@settings(max_examples=60, deadline=None)
def test_everybody_is_served_once_and_in_the_same_order_whatever_the_input_order(queues, gangs, rng):
    tree = QueueTree.of(queues)
    waiting = [
        Waiting(key=f"x/{place}", queue=name, asked=asked, created_ms=age)
        for place, (name, asked, age) in enumerate(gangs)
        if name in tree.leaves
    ]
    shares = divide(Resources({"gpu": 9000, "cpu": 9000}), tree, {})

    def order() -> list[str]:
        picker = Picker(tree, waiting, shares, {})
        served = []
        while (gang := picker.next()) is not None:
            served.append(gang.key)
            if len(served) % 2:
                picker.charge(gang.queue, gang.asked)
        return served

    first = order()
    assert sorted(first) == sorted(gang.key for gang in waiting)
    rng.shuffle(waiting)
    assert order() == first
