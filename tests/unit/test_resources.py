from queues.resources import NOTHING, Resources, total


def test_a_name_that_is_absent_has_amount_zero_and_zeros_are_not_kept():
    assert Resources({"gpu": 0, "cpu": 500}) == Resources({"cpu": 500})
    assert Resources({"gpu": 0}) == NOTHING
    assert not Resources({"gpu": 0})
    assert NOTHING["gpu"] == 0


def test_amounts_add_and_subtract_by_name():
    both = Resources({"gpu": 1000, "cpu": 500}) + Resources({"gpu": 500, "memory": 7})
    assert both == Resources({"gpu": 1500, "cpu": 500, "memory": 7})
    assert both - Resources({"gpu": 1500, "cpu": 600}) == Resources({"cpu": -100, "memory": 7})
    assert Resources({"gpu": 250}) * 3 == Resources({"gpu": 750})


def test_names_are_iterated_in_order():
    assert list(Resources({"memory": 1, "cpu": 1, "gpu": 1})) == ["cpu", "gpu", "memory"]


def test_what_is_not_asked_for_does_not_matter_even_if_overdrawn():
    room = Resources({"cpu": -5, "gpu": 1000})
    assert Resources({"gpu": 1000}).lacking_in(room) == ()
    assert Resources({"gpu": 1001, "cpu": 1, "memory": 1}).lacking_in(room) == ("cpu", "gpu", "memory")


def test_at_least_takes_the_larger_amount_of_each():
    assert Resources({"a": 1, "b": 5}).at_least(Resources({"a": 3, "c": 2})) == Resources({"a": 3, "b": 5, "c": 2})


def test_equal_amounts_are_equal_keys_whatever_their_order():
    assert len({Resources({"a": 1, "b": 2}), Resources({"b": 2, "a": 1, "c": 0})}) == 1


def test_total_sums_many():
    assert total(Resources({"gpu": 100}) for _ in range(7)) == Resources({"gpu": 700})
    assert total(()) == NOTHING
