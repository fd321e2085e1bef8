"""A hostile selector ends in an error, soon: length, nesting and the step budget. None of these hangs or crashes."""

import pytest

from scheduler.dra.cel.cost import COST_LIMIT, MAX_DEPTH, MAX_LENGTH, weight
from scheduler.dra.cel.selectors import CelCompileError, CelDevice, CelError, CelRuntimeError, compile_selector

DEVICE = CelDevice(driver="driver.example.com", attributes={"d": {"list": tuple(range(48)), "text": "a" * 64}})


def verdict(expression: str) -> bool:
    return compile_selector(expression, list_attributes=True).matches(DEVICE)


def bindings(first: str, step: str, last: str, times: int = 30) -> str:
    """A chain of cel.bind: `first`, then `step` of the one before (`{}`) again and again, then `last`."""
    inner = "".join(f"cel.bind(a{i + 1}, {step.replace('$', f'a{i}')}, " for i in range(times))
    return f"cel.bind(a0, {first}, {inner}{last.replace('$', f'a{times}')}" + ")" * (times + 1)


def test_an_expression_may_have_10_kibibytes() -> None:
    fitting = '"' + "a" * (MAX_LENGTH - len('"" != ""')) + '" != ""'
    assert len(fitting) == MAX_LENGTH
    assert verdict(fitting)
    with pytest.raises(CelCompileError, match="10241 bytes"):
        verdict(fitting + " ")
    with pytest.raises(CelCompileError, match="more than the 10240"):
        verdict('"' + "é" * 6000 + '" != ""')


@pytest.mark.parametrize(
    "nested",
    [
        lambda n: "(" * n + "true" + ")" * n,
        lambda n: "[" * n + "1" + "]" * n + ".size() == 1",
        lambda n: "{1: " * n + "1" + "}" * n + ".size() == 1",
        lambda n: "dyn(" * n + "true" + ")" * n,
        lambda n: "!(" * n + "true" + ")" * n,
        lambda n: "false ? true : " * n + "true",
        lambda n: "+".join(["1"] * n) + " > 0",
        lambda n: "device.driver" + ".trim()" * n + " != ''",
        lambda n: "(false || true && " * n + "true" + ")" * n,
        lambda n: bindings("1", "$ + 1", "$ > 0", n),
        lambda n: "".join(f"[1].all(x{i}, " for i in range(n)) + "true" + ")" * n,
    ],
)
def test_nesting_is_bounded(nested: object) -> None:
    assert callable(nested)
    verdict(nested(10))
    with pytest.raises(CelCompileError, match=f"nested deeper than {MAX_DEPTH} levels|bytes, more than"):
        verdict(nested(600))


def test_unclosed_brackets_end_at_the_bound_too() -> None:
    with pytest.raises(CelCompileError, match="nested deeper"):
        verdict("(" * 10_000)


@pytest.mark.parametrize(
    "expression",
    [
        "lists.range(9223372036854775807).size() > 0",
        "lists.range(2000).all(x, lists.range(2000).all(y, x + y >= 0))",
        "".join(f"device.attributes['d'].list.all(x{i}, " for i in range(8)) + "true" + ")" * 8,
        bindings("device.driver", "$ + $", "$.size() > 0"),
        bindings("device.driver", "$.replace('e', $)", "$.size() > 0"),
        bindings("device.driver", "[$, $].join($)", "$.size() > 0"),
        bindings("[device.driver]", "[$, $]", "$ == $"),
        bindings("dyn([device.driver])", "dyn([$, $])", "$ in $"),
        bindings("dyn([device.driver])", "dyn([$, $])", "sets.equivalent($, $)"),
        bindings("dyn([device.driver])", "dyn([$, $])", "$.distinct().size() > 0"),
        bindings("dyn([device.driver])", "dyn([$, $])", "$.flatten(1000).size() > 0"),
        bindings("dyn([device.driver])", "dyn([$, $])", "'%s'.format([$]) != ''"),
        bindings("{device.driver: 1}", "{'a': $, 'b': $}", "$ == $"),
        "lists.range(100000).map(x, 'a').join('b').split('').map(x, x + x + x).size() > 0",
        "lists.range(5000).map(x, -x).distinct().size() > 0",
        "lists.range(100000).all(x, device.attributes['d'].text.matches('(a|b)*(a|c)*$'))",
    ],
)
def test_the_step_budget_ends_what_would_take_too_long(expression: str) -> None:
    with pytest.raises(CelRuntimeError, match="actual cost limit exceeded"):
        verdict(expression)


def test_an_error_of_the_budget_is_never_absorbed() -> None:
    bomb = "lists.range(2000).all(x, lists.range(2000).all(y, x + y >= 0))"
    with pytest.raises(CelRuntimeError, match="actual cost limit exceeded"):
        verdict(f"{bomb} || true")
    with pytest.raises(CelRuntimeError, match="actual cost limit exceeded"):
        verdict(f"[1, 2].exists(x, {bomb} || x == 2)")


def test_each_evaluation_has_its_own_budget() -> None:
    selector = compile_selector(
        "lists.range(300).all(x, device.attributes['d'].list.all(y, x + y >= 0))", list_attributes=True
    )
    assert [selector.matches(DEVICE) for _ in range(5)] == [True] * 5


def test_what_a_selector_may_reasonably_do_is_far_below_the_limit() -> None:
    assert verdict("device.attributes['d'].list.all(x, device.attributes['d'].list.exists(y, y == x))")
    assert verdict("lists.range(1000).map(x, x * 2).filter(x, x % 3 == 0).size() == 334")


@pytest.mark.parametrize(
    "expression",
    [
        "int('" + "9" * 5000 + "') > 0",
        "double('" + "9" * 5000 + "x') > 0.0",
        "quantity('1e999999999').isInteger()",
        "'%.1000000f'.format([1.0]) == ''",
        bindings("device.driver", "[" * 30 + "dyn($)" + "]" * 30, "$ == $", 40),
    ],
)
def test_sizes_that_would_hurt_are_refused(expression: str) -> None:
    with pytest.raises(CelError):
        verdict(expression)


def test_counting_stops_at_the_limit_however_often_parts_are_shared() -> None:
    value: tuple[object, ...] = ("x",)
    for _ in range(60):
        value = (value, value)
    assert COST_LIMIT < weight(value) < 2 * COST_LIMIT
    assert weight("a" * 100, (1, 2), {"k": "v"}) < 30
