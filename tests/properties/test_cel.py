"""Invariants of CEL selectors: agreement with an independent implementation, no surprises, honest fingerprints."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from scheduler.dra.cel.library import WITH_LISTS
from scheduler.dra.cel.selectors import (
    CelCompileError,
    CelDevice,
    CelRuntimeError,
    Quantity,
    Semver,
    cel_device,
    compile_selector,
)
from scheduler.dra.devices import Device, Features, read_slice
from scheduler.dra.verdicts import Failure, verdict
from tests.published import device as published
from tests.published import slice_of

# Outcome of an expression: its value, or how it fails.
REFUSED, FAILED = "refused", "failed"


def outcome(expression: str, device: CelDevice) -> bool | str:
    try:
        selector = compile_selector(expression, list_attributes=True)
    except CelCompileError:
        return REFUSED
    try:
        return selector.matches(device)
    except CelRuntimeError:
        return FAILED


# --- expressions of a known type, a few levels deep; any part may also be an attribute, of the right type or not

Text = st.SearchStrategy[str]


def attribute(name: str) -> str:
    return f'device.attributes["d"].{name}'


def infix(operators: list[str], side: Text, other: Text | None = None) -> Text:
    return st.builds("({} {} {})".format, side, st.sampled_from(operators), side if other is None else other)


@dataclass(frozen=True, slots=True)
class Expressions:
    """Strategies for expressions of each type."""

    ints: Text
    texts: Text
    lists: Text
    bools: Text

    @classmethod
    def simple(cls) -> "Expressions":
        return cls(
            ints=st.integers(-3, 5).map(str)
            | st.sampled_from(["9223372036854775807", attribute("number"), attribute("missing")]),
            texts=st.text("abc", max_size=3).map("'{}'".format)
            | st.sampled_from([attribute("text"), attribute("missing"), attribute("number")]),
            lists=st.lists(st.integers(-1, 3).map("dyn({})".format), min_size=1, max_size=3).map(
                lambda parts: f"[{', '.join(parts)}]"
            )
            | st.just(attribute("list")),
            bools=st.sampled_from(["true", "false", attribute("yes"), attribute("missing")]),
        )

    def deeper(self) -> "Expressions":
        ints, texts, lists, bools = self.ints, self.texts, self.lists, self.bools
        return Expressions(
            ints=ints
            | infix(["+", "-", "*", "/", "%"], ints)
            | st.builds("size({})".format, texts | lists)
            | st.builds("({} ? {} : {})".format, bools, ints, ints)
            | st.builds("{}[{}]".format, lists, st.integers(0, 2))
            | st.builds("{}.indexOf({})".format, texts, texts),
            texts=texts
            | infix(["+"], texts)
            | ints.map("string({})".format)
            | st.builds("{}.substring({})".format, texts, st.integers(0, 3))
            | st.builds("{}.replace({}, {})".format, texts, texts, texts)
            | texts.map('device.attributes["d"].?missing.orValue({})'.format),
            lists=lists
            | infix(["+"], lists)
            | st.builds("{}.filter(x, {} < x)".format, lists, ints)
            | st.builds("{}.map(x, x + {})".format, lists, ints),
            bools=bools
            | infix(["==", "!=", "<", "<=", ">", ">="], ints)
            | infix(["==", "!=", "<", ">="], texts)
            | infix(["==", "!="], lists)
            | infix(["&&", "||"], bools)
            | bools.map("!{}".format)
            | infix(["in"], ints, lists)
            | st.builds("{}.{}(x, x < {})".format, lists, st.sampled_from(["exists", "all", "exists_one"]), ints)
            | st.builds("{}.{}({})".format, texts, st.sampled_from(["contains", "startsWith", "endsWith"]), texts)
            | st.builds("has({})".format, st.sampled_from([attribute("missing"), attribute("text")]))
            | st.builds("cel.bind(y, {}, y == {})".format, ints, ints),
        )


GENERATED = Expressions.simple().deeper().deeper().deeper()

RAW: dict[str, Any] = {"text": "ab", "number": 2, "list": [0, 1, 2], "yes": True}
DEVICE = CelDevice(driver="d", attributes={"d": RAW | {"list": (0, 1, 2)}})


class Oracle:
    """Google's C++ implementation: same language, none of our code. A failure there is a value of type *error*."""

    def __init__(self) -> None:
        cel = pytest.importorskip("cel_expr_python.cel")
        from cel_expr_python.ext import ext_bindings, ext_optional, ext_strings

        extensions = [ext_bindings.ExtBindings(), ext_optional.ExtOptional(), ext_strings.ExtStrings()]
        device = {"device": cel.Type.Map(cel.Type.STRING, cel.Type.DYN)}
        self._env = cel.NewEnv(variables=device, extensions=extensions)
        self._data = {"device": {"attributes": {"d": RAW}}}

    def outcome(self, expression: str) -> bool | str:
        try:
            program = self._env.compile(expression)
        except Exception:  # noqa: BLE001 - the binding raises what it likes
            return REFUSED
        value = program.eval(data=self._data).plain_value()
        return value if isinstance(value, bool) else FAILED


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@settings(max_examples=150, deadline=None)
@given(expression=GENERATED.bools)
@example(expression='(device.attributes["d"].missing == 1) || true')
@example(expression="[dyn(0), dyn(1)].exists(x, 1 / x == 1)")
@example(expression="((9223372036854775807 + 1) == 0) || (1 in [dyn(1)])")
def test_an_independent_implementation_comes_to_the_same_result(oracle: Oracle, expression: str) -> None:
    assert outcome(expression, DEVICE) == oracle.outcome(expression)


# --- nothing but CelError, whatever is written

TOKENS = st.sampled_from(
    """
    device .driver .attributes [ ] ( ) { } , . .? [? ? : ! - + * / % < <= == != && || in 1 0 2.5 7u 'a' b'\\xff' true
    null x dyn( size( has( .exists(x, .map(x, cel.bind(x, .a ["d"] .matches( .format([ quantity( semver( optional.of(
    type( .or( .orValue( .sort() .join() string( timestamp( duration( .sum() .min() lists.range( .includes( .validate(
    url( ip( .optMap(x, .transformMap(x, y, .sortBy(x, .findAll( .split( .flatten( '9Gi' '1.2.3' '%s' '(' // \" '''
    """.split()  # noqa: SIM905
)


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(TOKENS, max_size=14) | st.lists(st.characters(), max_size=8))
def test_any_text_is_refused_or_gives_a_verdict_or_a_run_time_error(parts: list[str]) -> None:
    for separator in ("", " "):
        assert outcome(separator.join(parts), DEVICE) in (True, False, REFUSED, FAILED)


CALLABLE = sorted(name for name, overloads in WITH_LISTS.items() if name[0].isalpha() and overloads)


@settings(max_examples=300, deadline=None)
@given(
    function=st.sampled_from(CALLABLE),
    arguments=st.lists(GENERATED.ints | GENERATED.texts | GENERATED.lists | GENERATED.bools, min_size=1, max_size=4),
    member=st.booleans(),
)
def test_any_function_on_any_values_stays_within_the_rules(function: str, arguments: list[str], member: bool) -> None:
    values = [f"dyn({argument})" for argument in arguments]
    call = f"{values[0]}.{function}({', '.join(values[1:])})" if member else f"{function}({', '.join(values)})"
    assert outcome(f"{call} == dyn(1)", DEVICE) in (True, False, REFUSED, FAILED)


# --- what callers rely on when they keep verdicts

values = st.sampled_from([{"int": 1}, {"int": 2}, {"bool": True}, {"string": "ab"}, {"string": "1"}, {"ints": [1, 2]}])
devices = st.builds(
    cel_device,
    st.just("d"),
    st.dictionaries(st.sampled_from(["text", "number", "list", "yes", "other", "e/text"]), values, max_size=5),
    st.none(),
)


@settings(max_examples=150, deadline=None)
@given(expression=GENERATED.bools, one=devices, two=devices)
@example(
    expression="'e' in device.attributes",
    one=cel_device("d", {}, None),
    two=cel_device("d", {"e/x": {"int": 1}}, None),
)
def test_devices_of_equal_fingerprint_get_the_same_verdict(expression: str, one: CelDevice, two: CelDevice) -> None:
    selector = compile_selector(expression, list_attributes=True)
    if selector.fingerprint(one) == selector.fingerprint(two):
        assert outcome(expression, one) == outcome(expression, two)
    read = selector.attributes_read
    if read is not None and all(one.attributes[d].get(i) == two.attributes[d].get(i) for d, i in read):
        kinds = [(type(one.attributes[d].get(i)), type(two.attributes[d].get(i))) for d, i in read]
        if all(a is b for a, b in kinds):
            assert selector.fingerprint(one) == selector.fingerprint(two)


@dataclass(frozen=True, slots=True)
class Lookups:
    """Ways to one attribute: names that are written, computed, bound, folded over or asked for optionally."""

    domains: Text
    bools: Text

    @classmethod
    def simple(cls) -> "Lookups":
        written = st.sampled_from(['"d"', '"e"'])
        computed = st.sampled_from(['("d" + "")', "device.driver", 'device.attributes["d"].?text.orValue("e")'])
        keys = written | computed | st.builds("(device.allowMultipleAllocations ? {} : {})".format, written, computed)
        whole = st.sampled_from(
            ["device.attributes", "[device][0].attributes", 'device["attributes"]', '{"k": device}["k"].attributes']
        )
        domains = (
            st.builds("{}[{}]".format, whole, keys)
            | st.builds("cel.bind(k, {}, device.attributes[k])".format, keys)
            | st.builds("cel.bind(m, {}, m[{}])".format, whole, keys)
            | st.builds("{}[?{}].orValue(device.attributes[{}])".format, whole, keys, keys)
            | st.sampled_from(["device.attributes.d", "[device.attributes.d][0]", "device.capacity[device.driver]"])
        )
        return cls(domains=domains, bools=keys.map("{} in device.attributes".format))

    def deeper(self) -> "Lookups":
        domains, bools = self.domains, self.bools
        names = st.sampled_from(['"number"', '"num" + "ber"', 'device.attributes["d"].?text.orValue("number")'])
        found = (
            st.builds("{}.{}".format, domains, st.sampled_from(["number", "?number.orValue(1)", "list[0]"]))
            | st.builds("{}[{}]".format, domains, names)
            | st.builds("{}[?{}].orValue(2)".format, domains, names)
            | st.builds("optional.of({}).optMap(o, o.number).orValue(1)".format, domains)
        )
        asked = (
            st.builds("{} == {}".format, found, st.integers(1, 2))
            | st.builds("{} in {}".format, names, domains)
            | domains.map("has({}.number)".format)
            | domains.map("{}.exists(n, n == 'number')".format)
            | domains.map("{}.exists(n, device.attributes.d[n] == 1)".format)
            | domains.map("size({}) > 1".format)
            | st.builds("[{}, 1].exists(x, x == 2)".format, found)
            | st.builds("cel.bind(unused, {}, {})".format, found, bools)
            | bools.map("['d', 'e'].exists(k, device.attributes[k].?number.orValue(1) == 2 && {})".format)
        )
        return Lookups(domains=domains, bools=bools | asked | infix(["&&", "||"], asked) | asked.map("!({})".format))


LOOKUPS = Lookups.simple().deeper().deeper()


@st.composite
def published_devices(draw: st.DrawFn) -> list[Device]:
    options: dict[str, st.SearchStrategy[Any]] = {
        name: st.sampled_from([1, 2]) for name in ("number", "e/number", "d/number")
    }
    options |= {"text": st.sampled_from(["number", "e"]), "list": st.sampled_from([("a",), ("b", "c")])}
    made: list[Device] = []
    for _ in range(draw(st.integers(2, 6))):
        capacity = draw(st.none() | st.just({"number": "1"}))
        its = published(
            "x", draw(st.fixed_dictionaries({}, optional=options)), capacity=capacity, shared=draw(st.booleans())
        )
        made += read_slice(slice_of("n1", its, driver=draw(st.sampled_from(["d", "e"])))).devices
    return made


@settings(max_examples=300, deadline=None)
@given(expression=LOOKUPS.bools, devices=published_devices())
@example(
    expression="device.attributes[device.driver].number == 1",
    devices=[
        device
        for n in (2, 1)
        for device in read_slice(slice_of("n1", published("x", {"number": n}), driver="d")).devices
    ],
)
def test_a_verdict_that_was_kept_is_the_one_that_a_new_look_gives(expression: str, devices: list[Device]) -> None:
    try:
        selector = compile_selector(expression, list_attributes=True)
    except CelCompileError:
        assume(False)
    for device in devices:
        told = device.published
        seen = cel_device(
            device.id.driver,
            {name: msgspec.to_builtins(value) for name, value in (told.attributes or {}).items()},
            {name: msgspec.to_builtins(value) for name, value in (told.capacity or {}).items()},
            told.allow_multiple_allocations,
        )
        kept = verdict((expression,), device, Features())
        try:
            assert kept == selector.matches(seen)
        except CelRuntimeError:
            assert isinstance(kept, Failure)


# --- amounts and versions

SUFFIXES = {"": 0, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12}


@given(st.integers(-(10**15), 10**15), st.integers(0, 999), st.sampled_from(sorted(SUFFIXES)))
def test_a_quantity_is_the_number_it_is_written_as(whole: int, thousandths: int, suffix: str) -> None:
    text = f"{whole}.{thousandths:03d}{suffix}"
    exact = (abs(whole) + Fraction(thousandths, 1000)) * Fraction(10) ** SUFFIXES[suffix] * 10**9
    assert exact.denominator == 1
    assert Quantity.parse(text).nanos == (-exact if whole < 0 else exact)


identifiers = st.lists(st.integers(0, 20).map(str) | st.sampled_from(["a", "b", "rc", "0a"]), max_size=3)
versions = st.builds(
    lambda numbers, pre: ".".join(map(str, numbers)) + ("-" + ".".join(pre) if pre else ""),
    st.tuples(*[st.integers(0, 3)] * 3),
    identifiers,
)


@given(versions, versions, versions)
def test_versions_are_totally_ordered(a: str, b: str, c: str) -> None:
    x, y, z = map(Semver.parse, (a, b, c))
    assert (x < y) + (x == y) + (x > y) == 1
    assert not (x < y and y < z) or x < z
    assert (x == y) == (a == b)
