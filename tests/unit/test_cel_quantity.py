"""Quantities are exact and compare by amount; versions order by semantic version precedence."""

from itertools import pairwise

import pytest

from scheduler.dra.cel.selectors import (
    CelCompileError,
    CelDevice,
    CelRuntimeError,
    Quantity,
    Semver,
    cel_device,
    compile_selector,
)

NANO = 1_000_000_000


def holds(expression: str) -> bool:
    return compile_selector(expression, list_attributes=True).matches(CelDevice(driver="d"))


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("0", 0),
        ("12", 12 * NANO),
        ("+1.5", 1_500_000_000),
        ("-1.5", -1_500_000_000),
        (".5", NANO // 2),
        ("5.", 5 * NANO),
        ("100m", NANO // 10),
        ("1u", 1000),
        ("1n", 1),
        ("0.1n", 1),
        ("-0.1n", -1),
        ("1k", 1000 * NANO),
        ("1Ki", 1024 * NANO),
        ("1.5Gi", 3 * (1 << 29) * NANO),
        ("80Gi", 80 * (1 << 30) * NANO),
        ("1E", 10**18 * NANO),
        ("1e3", 1000 * NANO),
        ("1E-3", NANO // 1000),
        ("9999999999999999999999G", 9999999999999999999999 * 10**9 * NANO),
        ("1000Ei", ((1 << 63) - 1) * NANO),
        ("1e1000", 10**1000 * NANO),
        ("1e-1000", 1),
    ],
)
def test_every_notation_of_a_quantity(text: str, nanos: int) -> None:
    assert Quantity.parse(text).nanos == nanos


@pytest.mark.parametrize(
    "text", ["", ".", "Mi", "200K", "10Mo", "1,3G", "1 Gi", "1e", "--1", "1e99999", "0x10", "٣", "1" * 600]
)
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(CelRuntimeError):
        Quantity.parse(text)
    assert holds(f"!isQuantity('{text}')")


@pytest.mark.parametrize(
    "expression",
    [
        "quantity('200M') == quantity('0.2G')",
        "quantity('2000k') == quantity('0.002G')",
        "quantity('200M') != quantity('0.3G')",
        "quantity('50M').isLessThan(quantity('50Mi')) && quantity('150Mi').isGreaterThan(quantity('100Mi'))",
        "quantity('200M').compareTo(quantity('0.2G')) == 0 && quantity('50M').compareTo(quantity('50Mi')) == -1",
        "quantity('50k').add(quantity('20')) == quantity('50.02k') && quantity('50k').add(20) == quantity('50020')",
        "quantity('50k').sub(quantity('20')) == quantity('49.98k')",
        "quantity('50k').sub(20).sub(-20).asInteger() == 50000",
        "quantity('1').sub(quantity('100m')).compareTo(quantity('900m')) == 0",
        "quantity('50k').isInteger()",
        "!quantity('1.5').isInteger()",
        "!quantity('9999999999999999999999G').isInteger()",
        "quantity('50.703k').asApproximateFloat() == 50703.0",
        "sign(quantity('-1m')) == -1 && sign(quantity('0')) == 0 && sign(quantity('1')) == 1",
        "[quantity('9999999999999999999999999')].all(x, x.add(quantity('1')).compareTo(x.add(quantity('2'))) == -1)",
        "isQuantity('1.3Gi') && !isQuantity('Three')",
    ],
)
def test_quantity_functions(expression: str) -> None:
    assert holds(expression)


# What Kubernetes keeps as 64 bits without a part below one; for the others the amount may be whole all the same.
INTEGERS = ["0", "2", "-7", "+20", "1.", "1e3", "1E", "9E", "15Ti", "80Gi", "123456789012345678"]
NO_INTEGERS = ["1.5", "2000m", "1.0", "0m", "1.0Gi", "1.5Gi", "999Ti", "1Ei", "10E", "9223372036854775807"]
NO_INTEGERS += ["9999999999999999999999G"]


@pytest.mark.parametrize("text", INTEGERS)
def test_what_is_kept_as_a_whole_number_of_64_bits_can_become_an_integer(text: str) -> None:
    assert holds(f"quantity('{text}').isInteger()")
    assert holds(f"quantity('{text}') == quantity(string(quantity('{text}').asInteger()))")


@pytest.mark.parametrize("text", NO_INTEGERS)
def test_what_is_kept_otherwise_cannot_though_its_amount_be_whole(text: str) -> None:
    assert holds(f"!quantity('{text}').isInteger()")
    with pytest.raises(CelRuntimeError, match="cannot convert value to integer"):
        holds(f"quantity('{text}').asInteger() > 0")


@pytest.mark.parametrize(
    ("sum_of", "whole"),
    [
        ("quantity('2000m').add(1)", False),
        ("quantity('1').add(quantity('0m'))", True),
        ("quantity('0m').add(1)", True),
        ("quantity('0').add(quantity('0m'))", True),
        ("quantity('0m').add(quantity('0'))", False),
        ("quantity('1k').sub(quantity('1000'))", True),
        ("quantity('100Mi').sub(quantity('0.5Mi'))", False),
        ("quantity('9E').add(quantity('9E'))", False),
        ("quantity('9E').sub(quantity('9E')).add(5)", True),
    ],
)
def test_a_sum_is_kept_as_its_finer_part_is(sum_of: str, whole: bool) -> None:
    assert holds(f"{sum_of}.isInteger() == {str(whole).lower()}")


def test_the_sign_of_a_quantity_is_asked_for_by_a_function_only() -> None:
    with pytest.raises(CelCompileError):
        holds("quantity('1').sign() == 1")


def test_a_kept_verdict_tells_equal_quantities_of_different_form_apart() -> None:
    selector = compile_selector("device.capacity['d'].memory.isInteger()", list_attributes=True)
    devices = [cel_device("d", {}, {"memory": {"value": text}}) for text in ("2", "2000m")]
    assert [selector.matches(device) for device in devices] == [True, False]
    assert selector.fingerprint(devices[0]) != selector.fingerprint(devices[1])


def test_precedence_of_semantic_versions() -> None:
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"]
    ordered += ["1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0-0", "2.0.0"]
    versions = [Semver.parse(text) for text in ordered]
    assert all(a < b and not b < a for a, b in pairwise(versions))


def test_build_metadata_takes_no_part_but_is_kept_as_written() -> None:
    assert Semver.parse("1.2.3+a") == Semver.parse("1.2.3+b")
    assert hash(Semver.parse("1.2.3+a")) == hash(Semver.parse("1.2.3"))
    assert Semver.parse("1.2.3+a").text == "1.2.3+a"


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "v1.2.3", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3-a..b", "1.2.3+", "1.2.3.4", "1.2.x"]
)
def test_what_is_no_semantic_version(text: str) -> None:
    with pytest.raises(CelRuntimeError):
        Semver.parse(text)
    assert holds(f"!isSemver('{text}')")


@pytest.mark.parametrize(
    "expression",
    [
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0').isGreaterThan(semver('1.0.0-rc.1'))",
        "semver('1.2.3').compareTo(semver('1.2.3')) == 0 && semver('1.2.3').compareTo(semver('2.0.0')) == -1",
        "semver('570.86.15').major() == 570 && semver('570.86.15').minor() == 86 && semver('570.86.15').patch() == 15",
        "semver('v1.0', true) == semver('1.0.0')",
        "semver('01.01.01', true) == semver('1.1.1')",
        "isSemver('v1', true)",
        "semver('v1.2.3-rc.1', true).isLessThan(semver('1.2.3')) && !isSemver('1.0-rc', true) && !isSemver('v1.0')",
        "semver('00.0.0', true).major() == 0",
    ],
)
def test_semver_functions(expression: str) -> None:
    assert holds(expression)
