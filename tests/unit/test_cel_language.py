"""Core CEL: operators, literals, conversions, macros and optional values, each as an expression that must hold."""

import pytest

from scheduler.dra.cel.selectors import CelCompileError, CelDevice, CelRuntimeError, compile_selector

DEVICE = CelDevice(driver="d", attributes={"d": {"text": "abc", "one": 1, "list": (1, 2), "yes": True}})
TEXT, ONE, LIST = (f'device.attributes["d"].{name}' for name in ("text", "one", "list"))


def holds(expression: str) -> bool:
    return compile_selector(expression, list_attributes=True).matches(DEVICE)


@pytest.mark.parametrize(
    "expression",
    [
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && 10 - 2 - 3 == 5",
        "-7 / 2 == -3 && -7 % 2 == -1 && 7 % -2 == 1",
        "--5 == 5 && -(-5) == 5 && !!true",
        "0x10 == 16 && 1e3 == 1000.0 && .5 == 0.5 && 5u - 3u == 2u",
        "1 < 2.0 && 1u < 2 && 2.5 > 2u && -1 < 0u && !(1.0 < 1u)",
        "1.0 / 0.0 > 1e308 && 0.0 / 0.0 != 0.0 / 0.0",
        '"a" + "b" == "ab" && b"a" + b"b" == b"ab" && [1] + [2] == [1, 2]',
        '"a" < "b" && b"a" < b"b" && false < true',
        "true || false && false",
        "dyn(1) == 1.0 && dyn(1u) == 1 && dyn([1]) == [1.0] && dyn(1) != true && dyn(1) != '1'",
        "dyn(null) == null && dyn(null) != 0",
        "{'a': 1}.a == 1 && {1: 2}[1] == 2 && {true: 1}[true] == 1 && {1: 2}[dyn(1.0)] == 2",
        "!(1 in {2: true}) && !(dyn(1) in {true: 1}) && 'a' in {'a': 1}",
        "[1, 2, 3][1] == 2 && [1, 2][dyn(1u)] == 2 && [1, 2][dyn(1.0)] == 2",
        "(true ? 1 : 2) == 1 && (false ? 1 : true ? 2 : 3) == 2",
        "true ? true : 1 / 0 == 1",
        "{'a': 1, 'b': 2} == {'b': 2, 'a': 1} && {'a': 1} != {'a': 2} && [1] != [1, 2]",
        r""""\u00e9\x41\101\n" == "éAA\n" && r"\n" == "\\n" && b"\xff\101".size() == 2""",
        '''"""a"b""" == 'a"b' && \'\'\'it's\'\'\' == "it's"''',
        "1 == 1 // a comment",
        ".device.driver == 'd'",
    ],
)
def test_operators_and_literals(expression: str) -> None:
    assert holds(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "1 / 0 == 1",
        "1 % 0 == 1",
        "1u - 2u == 0u",
        "9223372036854775807 * 2 == 1",
        "-(-9223372036854775807 - 1) == 1",
        "(-9223372036854775807 - 1) % -1 == 0",
        "int('1_000') == 1000",
        "double('1__0') == 10.0",
        "double('1_.0') == 1.0",
        "int(' 1') == 1",
        "int(1e19) == 1",
        "uint(-1) == 1u",
        "double('1e999') > 1.0",
        "bool('yes')",
        "string(b'\\xff') == ''",
        "dyn('a') < 1",
        "double('NaN') < dyn(1)",
        f"{TEXT} + 1 == 2",
        f"{LIST}[?'a'].hasValue()",
        "{dyn(1.5): 1}[dyn([1])] == 1",
        "optional.none().value() == 1",
        "timestamp(999999999999) > timestamp(0)",
        "duration('200000h') + duration('2500000h') > duration('0')",
    ],
)
def test_what_has_no_value(expression: str) -> None:
    with pytest.raises(CelRuntimeError):
        holds(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "1 == 'a'",
        "1 == 1.0",
        "'a' + 1 == 2",
        "[1] < [2]",
        "[1, 'a'] == []",
        "{1: 'a', 1u: 'b'}.size() == 2",
        "{[1]: 2}.size() == 1",
        "1 ? true : false",
        "-'a' == 'a'",
        "!1",
        "[1].map(x, x > 'a') == []",
        "[1].filter(x, x) == []",
        "(1).exists(x, true)",
        "[1].exists(x, y, 1)",
        "[1].transformMapEntry(i, v, i) == {}",
        "[1].all(x, x, true)",
        "(1).optMap(x, x).hasValue()",
        "[?1] == [1]",
        "type(1) == int && Foo{a: 1} == 1",
        "x.y.z",
    ],
)
def test_what_no_type_fits(expression: str) -> None:
    with pytest.raises(CelCompileError):
        holds(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "int('-12') == -12 && int(1.9) == 1 && int(-1.9) == -1 && int(5u) == 5",
        "uint('5') == 5u && uint(5.5) == 5u && uint(5) == 5u",
        "double('1.5') == 1.5 && double('1_0.2_5e1_0') == 10.25e10 && double(2) == 2.0 && double('Infinity') > 1.0",
        "string(1.5) == '1.5' && string(1e6) == '1e+06' && string(100000.0) == '100000' && string(1e-5) == '1e-05'",
        "string(1.0) == '1' && string(-0.0) == '-0' && string(123456789.0) == '1.23456789e+08' && string(5u) == '5'",
        "string(true) == 'true' && string(b'abc') == 'abc' && bytes('é').size() == 2 && size('é') == 1",
        "bool('t') && !bool('FALSE') && bool(true)",
        "type(1) == int && type('a') == string && type(dyn([])) == list && type(type(1)) == type",
        "type(timestamp(0)) == google.protobuf.Timestamp && type(ip('::1')) == net.IP",
        f"type({ONE}) == int && type({TEXT}) == string",
    ],
)
def test_conversions_and_types(expression: str) -> None:
    assert holds(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "[1, 2, 3].exists(x, x > 2) && ![1].exists(x, x > 2) && ![].exists(x, true)",
        "[1, 2].all(x, x > 0) && [].all(x, false)",
        "[1, 2, 3].exists_one(x, x == 2) && ![1, 1].exists_one(x, x == 1)",
        "[1, 2, 3].map(x, x * 2) == [2, 4, 6] && [1, 2].map(x, x > 1, x * 2) == [4]",
        "[1, 2, 3].filter(x, x > 1) == [2, 3]",
        "{'a': 1, 'b': 2}.exists(k, k == 'b') && {'a': 1, 'b': 2}.map(k, k) == ['a', 'b']",
        "{true: 1}.all(k, k)",
        "[1, 2, 4].exists(i, v, v == 4 && i == 2) && {'a': 'b'}.all(k, v, k != v)",
        "[1, 1, 2].existsOne(i, v, i == 2 && v == 2) && [5].exists_one(i, v, i == 0)",
        "[1, 2, 3].transformList(i, v, i * v + v) == [1, 4, 9]",
        "[1, 2, 3].transformList(i, v, i % 2 == 0, v) == [1, 3]",
        "[1, 2].transformMap(i, v, v * v) == {0: 1, 1: 4}",
        "{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v) == {'b': 2}",
        "{'a': 'x'}.transformMapEntry(k, v, {v: k}) == {'x': 'a'}",
        "['foo', 'ba', 'b'].sortBy(s, s.size()) == ['b', 'ba', 'foo']",
        "[[1, 2], [3]].map(x, x.map(y, y + x.size())) == [[3, 4], [4]]",
        "cel.bind(x, [1, 2], x.exists(y, y == 2)) && cel.bind(x, 1, cel.bind(x, x + 1, x) == 2 && x == 1)",
        "cel.bind(device, {'driver': 'other'}, device.driver == 'other') && device.driver == 'd'",
        f"{LIST}.exists(x, x == 2) && device.attributes.exists(domain, domain == 'd')",
    ],
)
def test_macros(expression: str) -> None:
    assert holds(expression)


def test_two_entries_of_one_key_cannot_be_transformed_into_a_map() -> None:
    with pytest.raises(CelRuntimeError, match="key x already exists"):
        holds("{'a': 'x', 'b': 'x'}.transformMapEntry(k, v, {v: k}) == {}")


@pytest.mark.parametrize(
    "expression",
    [
        "optional.of(1).value() == 1 && optional.of(1).hasValue() && !optional.none().hasValue()",
        "!optional.ofNonZeroValue(0).hasValue() && !optional.ofNonZeroValue('').hasValue()",
        "optional.ofNonZeroValue([1]).hasValue() && optional.of(0).hasValue()",
        "optional.none().orValue(2) == 2 && optional.none().or(optional.of(3)).value() == 3",
        "optional.of(1).orValue(1 / 0) == 1",
        "optional.of(1).optMap(x, x + 1).value() == 2 && !optional.none().optMap(x, 1 / 0).hasValue()",
        "optional.of(1).optFlatMap(x, optional.of(x + 1)) == optional.of(2)",
        "[?optional.none(), ?optional.of(1), 2] == [1, 2]",
        "{?'a': optional.none(), ?'b': optional.of(1)} == {'b': 1}",
        f"device.attributes['d'].?text.hasValue() && {LIST}[?1].value() == 2 && !{LIST}[?9].hasValue()",
        "{'a': {'b': 1}}.?a.b.value() == 1 && !{'a': {'b': 1}}.?c.b.hasValue() && {'a': [5]}.?a[0].value() == 5",
        "[1, 2].first().value() == 1 && [1, 2].last().value() == 2 && ![].first().hasValue()",
        "[optional.of(1), optional.none()].unwrapOpt() == [1] && optional.unwrap([optional.of(2)]) == [2]",
        "optional.none() == optional.none() && optional.of(1) != optional.of(2)",
    ],
)
def test_optional_values(expression: str) -> None:
    assert holds(expression)


def test_a_long_chain_of_terms_is_not_deep() -> None:
    assert holds(" || ".join(["false"] * 1000 + ["true"]))
    assert holds(" && ".join(["true"] * 1000))


def test_names_of_chained_macros_do_not_leak() -> None:
    with pytest.raises(CelCompileError, match="undeclared reference to 'x'"):
        holds("[1].all(x, x == 1) && x == 1")
