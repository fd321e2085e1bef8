"""Device selectors as a user writes them: what matches, what fails and where, what a verdict depends on."""

import pytest

from scheduler.dra.cel.selectors import (
    CelCompileError,
    CelDevice,
    CelError,
    CelRuntimeError,
    Quantity,
    Semver,
    cel_device,
    compile_selector,
)

DRIVER = "gpu.nvidia.com"
ATTRIBUTES = {
    "type": {"string": "gpu"},
    "productName": {"string": "NVIDIA H100 80GB HBM3"},
    "index": {"int": 3},
    "ready": {"bool": True},
    "driverVersion": {"version": "570.86.15"},
    "links": {"ints": [1, 2]},
    "resource.kubernetes.io/pcieRoot": {"string": "pci0000:17"},
}
H100 = cel_device(DRIVER, ATTRIBUTES, {"memory": {"value": "80Gi"}})


def matches(expression: str, device: CelDevice = H100) -> bool:
    return compile_selector(expression, list_attributes=True).matches(device)


def failure(expression: str, device: CelDevice = H100) -> str:
    with pytest.raises(CelRuntimeError) as caught:
        matches(expression, device)
    return str(caught.value)


def refusal(expression: str, **features: bool) -> str:
    with pytest.raises(CelCompileError) as caught:
        compile_selector(expression, **features)
    return str(caught.value)


@pytest.mark.parametrize(
    "expression",
    [
        'device.driver == "gpu.nvidia.com"',
        'device.attributes["gpu.nvidia.com"].productName.startsWith("NVIDIA H100")',
        'device.attributes["gpu.nvidia.com"]["index"] >= 2',
        'device.attributes["gpu.nvidia.com"].ready',
        'device.attributes["gpu.nvidia.com"].index < 3.5',
        'device.attributes["gpu.nvidia.com"].productName.lowerAscii().matches("^.*h100.*$")',
        'device.attributes["gpu.nvidia.com"].driverVersion.compareTo(semver("555.0.0")) > 0',
        'device.attributes["resource.kubernetes.io"].pcieRoot in ["pci0000:17", "pci0000:2a"]',
        'device.attributes["gpu.nvidia.com"].index in [1, 3]',
        'device.attributes["gpu.nvidia.com"].links.exists(l, l == 2)',
        'device.attributes["gpu.nvidia.com"].links.includes(2)',
        'device.attributes["gpu.nvidia.com"].type.includes("gpu")',
        'device.capacity["gpu.nvidia.com"].memory.compareTo(quantity("40Gi")) >= 0',
        'device.capacity["gpu.nvidia.com"].memory == quantity("81920Mi")',
        'cel.bind(gpu, device.attributes["gpu.nvidia.com"], gpu.type == "gpu" && gpu.index == 3)',
        "!device.allowMultipleAllocations",
        'has(device.attributes["gpu.nvidia.com"].type) && !has(device.attributes["gpu.nvidia.com"].uuid)',
        'device.attributes["gpu.nvidia.com"].?uuid.orValue("none") == "none"',
        'device.attributes["gpu.nvidia.com"].all(name, value, name != "uuid")',
        'dyn(device).driver == "gpu.nvidia.com" && type(device.capacity["gpu.nvidia.com"].memory) != int',
    ],
)
def test_selectors_that_choose_an_h100(expression: str) -> None:
    assert matches(expression)


# Three meanings that are easy to miss


def test_an_unknown_domain_reads_as_an_empty_map() -> None:
    assert matches('device.attributes["none.example.com"].size() == 0')
    assert matches('device.capacity["none.example.com"] == {}')
    assert matches('has(device.attributes.none) && device.attributes[?"none.example.com"].hasValue()')


def test_an_unknown_domain_is_not_in_the_map_of_domains() -> None:
    assert not matches('"none.example.com" in device.attributes')
    assert matches('"gpu.nvidia.com" in device.attributes && device.attributes.size() == 2')
    assert not matches('device.attributes.exists(domain, domain == "none.example.com")')


def test_an_unknown_attribute_is_an_error_and_not_a_mismatch() -> None:
    assert failure('device.attributes["gpu.nvidia.com"].uuid == "x"') == "column 36: no such key: uuid"
    assert failure('device.attributes["none.example.com"]["uuid"] != "x"') == "column 38: no such key: uuid"
    assert failure('sign(device.capacity["gpu.nvidia.com"].cores) > 0').endswith("no such key: cores")


def test_logic_takes_no_notice_of_an_error_when_the_other_side_decides() -> None:
    missing = 'device.attributes["gpu.nvidia.com"].uuid == "x"'
    assert matches(f"{missing} || true")
    assert matches(f"true || {missing}")
    assert not matches(f"{missing} && false")
    assert not matches(f"false && {missing}")
    assert "no such key" in failure(f"{missing} || false")
    assert "no such key" in failure(f"true && {missing}")
    assert matches(f"{missing} || {missing} || true")
    assert failure('device.attributes["d"].a || device.attributes["d"].b') == "column 23: no such key: a"


def test_quantifiers_take_errors_as_logic_does_and_exists_one_does_not() -> None:
    assert matches("[0, 1].exists(x, 1 / x == 1)")
    assert not matches("[0, 2].all(x, 1 / x == 1)")
    assert "division by zero" in failure("[0, 2].exists(x, 1 / x == 1)")
    assert "division by zero" in failure("[0, 1].exists_one(x, 1 / x == 1)")


# Errors name the column


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("devices.driver == 'x'", "column 1: undeclared reference to 'devices'"),
        ("device.driver.frobnicate()", "column 15: undeclared reference to 'frobnicate'"),
        ("true && device.model == 'x'", "column 15: undefined field 'model'"),
        ("device.driver > 3", "column 15: found no matching overload for '_>_' applied to '(string, int)'"),
        ("device.driver.startsWith(1)", "found no matching overload for 'startsWith' applied to 'string.(int)'"),
        ("device.driver && true", "found no matching overload for '_&&_' applied to '(string, bool)'"),
        ("1", "must evaluate to bool or the unknown type, not int"),
        ("device.attributes", "must evaluate to bool or the unknown type, not map(string, map(string, any))"),
        ("?!", "column 1: Syntax error: unexpected '?'"),
        ("device.driver ==", "column 17: Syntax error: unexpected end of the expression"),
        ("device.driver == 'x", "column 18: Syntax error: a string literal is not closed"),
        ("device.driver = 'x'", "column 15: Syntax error: token recognition error at: '='"),
        ("true\n&& foo", "column 9: undeclared reference to 'foo'"),
        ("for == 1", "column 1: reserved identifier: for"),
        ("device.driver.matches('(?=a)')", "invalid matches argument"),
        ("timestamp('yesterday') > timestamp(0)", "invalid timestamp argument"),
        ("device.driver in ['a', 1]", "column 24: expected type 'string' but found 'int'"),
        ("has(device)", "column 1: invalid argument to has() macro"),
        ("[1].all(1, true)", "column 9: argument must be a simple name"),
        ("9223372036854775808 > 0", "column 1: invalid int literal: 9223372036854775808"),
        ("'\\q' == ''", "invalid escape sequence"),
        ("'\ud800' == ''", "column 2: the expression is not valid Unicode text"),
    ],
)
def test_what_does_not_compile_is_refused_with_its_place(expression: str, message: str) -> None:
    assert message in refusal(expression)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ('device.attributes["gpu.nvidia.com"].type > 3', "column 42: no such overload: _>_(string, int)"),
        ('device.attributes["gpu.nvidia.com"].type.exists(x, x == "a")', "got 'types.String', expected iterable type"),
        ('device.attributes["gpu.nvidia.com"].links[7] == 1', "column 42: index out of bounds: 7"),
        ('device.attributes["gpu.nvidia.com"].index', "CEL result of type int could not be converted to bool"),
        ('device.attributes["gpu.nvidia.com"].index ? true : false', "no such overload: _?_:_(int)"),
        ('device.attributes["gpu.nvidia.com"].driverVersion == "570.86.15"', "no such overload: _==_"),
        ('device.capacity["gpu.nvidia.com"].memory.isLessThan(quantity("9Q"))', "quantities must match a number"),
        ('device.attributes["gpu.nvidia.com"].type.matches("a{2000}" + device.driver)', "invalid regular expression"),
        ("9223372036854775807 + 1 > 0", "column 21: integer overflow"),
    ],
)
def test_what_fails_at_run_time_says_why_and_where(expression: str, message: str) -> None:
    assert message in failure(expression)


def test_comparing_a_version_with_a_text_is_an_error_while_the_other_way_round_is_false() -> None:
    version = 'device.attributes["gpu.nvidia.com"].driverVersion'
    assert "no such overload" in failure(f'{version} == "570.86.15"')
    assert not matches(f'"570.86.15" == {version}')
    assert not matches(f'{version} in ["570.86.15"]')


# Feature gates of the API server


def test_without_list_attributes_an_attribute_is_no_range_for_a_macro_and_includes_is_unknown() -> None:
    ids = 'device.attributes["d"].ids'
    assert "cannot be range of a comprehension" in refusal(f"{ids}.exists(id, id == 1)", list_attributes=False)
    assert "undeclared reference to 'includes'" in refusal(f"{ids}.includes(1)", list_attributes=False)
    assert "not dyn" in refusal("dyn(true)", list_attributes=False)
    device = cel_device("d", {"ids": {"ints": [1, 2]}}, None)
    assert compile_selector(f"{ids}.size() == 2", list_attributes=False).matches(device)


def test_without_consumable_capacity_a_device_does_not_say_whether_it_is_shared() -> None:
    assert "undefined field" in refusal("device.allowMultipleAllocations", consumable_capacity=False)
    shared = cel_device("d", None, None, allow_multiple_allocations=True)
    assert compile_selector("device.allowMultipleAllocations").matches(shared)


# Devices


def test_a_bare_name_belongs_to_the_driver_and_a_full_name_goes_before_it() -> None:
    device = cel_device("d", {"x": {"int": 1}, "d/x": {"int": 2}, "y": {"int": 3}, "other/x": {"int": 4}}, None)
    assert device.attributes == {"d": {"x": 2, "y": 3}, "other": {"x": 4}}
    assert cel_device("d", {"d/x": {"int": 2}, "x": {"int": 1}}, None).attributes == {"d": {"x": 2}}


def test_every_kind_of_attribute_has_its_value_and_an_unknown_kind_is_left_out() -> None:
    raw = {
        "a": {"int": 0},
        "b": {"bool": False},
        "c": {"string": ""},
        "d": {"version": "1.2.3"},
        "e": {"strings": ["x", "y"]},
        "f": {"versions": ["1.0.0"]},
        "g": {"newKind": 1},
        "h": {},
    }
    device = cel_device("drv", raw, {"memory": {"value": "1Gi"}, "slots": {"value": 4}})
    assert device.attributes["drv"] == {
        "a": 0,
        "b": False,
        "c": "",
        "d": Semver.parse("1.2.3"),
        "e": ("x", "y"),
        "f": (Semver.parse("1.0.0"),),
    }
    assert device.capacity["drv"] == {"memory": Quantity.of(1 << 30), "slots": Quantity.of(4)}


@pytest.mark.parametrize(
    ("attributes", "capacity", "named"),
    [
        ({"v": {"version": "1.2"}}, None, "v"),
        ({"n": {"int": 1 << 63}}, None, "n"),
        ({"n": {"int": True}}, None, "n"),
        ({"l": {"strings": ["a", 1]}}, None, "l"),
        (None, {"memory": {"value": "80GB"}}, "memory"),
    ],
)
def test_a_value_that_is_not_of_its_kind_is_named(attributes: dict, capacity: dict, named: str) -> None:
    with pytest.raises(CelError, match=f"attribute or capacity {named}: "):
        cel_device("d", attributes, capacity)


# What a verdict depends on


@pytest.mark.parametrize(
    ("expression", "read"),
    [
        ('device.attributes["d"].a == 1 && sign(device.capacity["d"].b) > 0', {("d", "a"), ("d", "b")}),
        ('device.attributes["d"]["a"] == 1', {("d", "a")}),
        ('has(device.attributes["d"].a) || "b" in device.attributes["d"]', {("d", "a"), ("d", "b")}),
        ('device.attributes["d"].?a.orValue(1) == 1', {("d", "a")}),
        ('cel.bind(g, device.attributes["d"], g.a == g.b)', {("d", "a"), ("d", "b")}),
        ('device.attributes["d"].l.exists(x, x == device.attributes["d"].m)', {("d", "l"), ("d", "m")}),
        ('device.driver == "d" && device.allowMultipleAllocations', set()),
        ('device.attributes["d"].exists(name, name == "a")', None),
        ('device.attributes["d"][device.driver] == 1', None),
        ("device.attributes[device.driver].a == 1", None),
        ('device.attributes["d"].size() == 0', None),
        ('"d" in device.attributes', None),
        ("cel.bind(all, device, all.driver == device.driver)", set()),
        ("[device].size() == 1", None),
        ("dyn(device).driver == 'd'", None),
    ],
)
def test_attributes_read_are_found_from_the_syntax(expression: str, read: set[tuple[str, str]] | None) -> None:
    assert compile_selector(expression, list_attributes=True).attributes_read == read


def test_devices_that_differ_in_what_a_selector_does_not_read_have_one_fingerprint() -> None:
    selector = compile_selector('device.attributes["d"].model == "H100" && device.capacity["d"].?memory.hasValue()')

    def fingerprint(attributes: dict[str, dict], capacity: dict[str, dict] | None = None) -> object:
        return selector.fingerprint(cel_device("d", attributes, capacity))

    h100 = {"model": {"string": "H100"}}
    assert fingerprint(h100 | {"uuid": {"string": "1"}}) == fingerprint(h100 | {"uuid": {"string": "2"}})
    assert fingerprint(h100) != fingerprint({"model": {"string": "H200"}})
    assert fingerprint(h100) != fingerprint(h100, {"memory": {"value": "1"}})
    assert fingerprint({"model": {"int": 1}}) != fingerprint({"model": {"bool": True}})
    assert fingerprint({"model": {"ints": [1]}}) != fingerprint({"model": {"bools": [True]}})


@pytest.mark.parametrize(
    "expression", ['device.attributes["d"].size() == 1', '"e" in device.attributes', "dyn(device).driver == 'd'"]
)
def test_a_fingerprint_tells_devices_apart_also_where_no_single_attribute_is_named(expression: str) -> None:
    selector = compile_selector(expression, list_attributes=True)
    one = cel_device("d", {"a": {"int": 1}}, None)
    two = cel_device("d", {"a": {"int": 1}, "e/b": {"int": 1}, "c": {"int": 2}}, None)
    assert selector.fingerprint(one) != selector.fingerprint(two)
    assert selector.fingerprint(one) == selector.fingerprint(cel_device("d", {"a": {"int": 1}}, None))


def test_an_expression_is_compiled_once() -> None:
    assert compile_selector("device.driver == 'once'") is compile_selector("device.driver == 'once'")
