"""Counts and amounts in words, for sentences that people read: "1 pod", "no pods", "8 GPUs", "16Gi of memory"."""

from fractions import Fraction

from queues.measures import measure

_BINARY = ((5, "Pi"), (4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki"))


def counted(count: int, one: str, many: str = "") -> str:
    """So many of something: `one` is the noun, with its verb if need be ("pod is"), `many` its plural ("pods are"), by
    default with an s. None of something is plural as well."""
    if count == 1:
        return f"1 {one}"
    return f"{count or 'no'} {many or one + 's'}"


def span(milliseconds: int) -> str:
    """A duration as people write it, to the second: "1h30m", "45s"."""
    seconds = milliseconds // 1000
    parts = ((seconds // 3600, "h"), (seconds % 3600 // 60, "m"), (seconds % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


def amount(resource: str, value: int) -> str:
    """An amount of a queue resource, from house units to what people write: "8 GPUs", "0.5 CPUs", "16Gi of memory"."""
    if resource in ("gpu", "cpu"):
        return _measured(value, resource.upper())
    if resource.startswith("deviceclass/"):
        of = resource.removeprefix("deviceclass/")
        return _measured(value, f"device of class {of}", f"devices of class {of}")
    if resource == "memory" or resource.endswith("storage"):
        return f"{_bytes(value)} of {resource}"
    measured = measure(resource)
    if measured is not None:
        much = _bytes(value) if measured.amount == "memory" else f"{value}"
        return f"{much} of {measured.amount} on devices of class {measured.device_class}"
    return f"{value} {resource}"


def portion(resource: str, there: int, asked: int) -> str:
    """How much there is at best of what is asked for, in house units, without naming what counts are of: "at most 32 of
    the 64 CPUs asked for", "none of the 8 asked for"."""
    if resource == "cpu":
        most, all_ = _number(there), amount(resource, asked)
    elif resource == "memory" or resource.endswith("storage") or resource.startswith("hugepages-"):
        most, all_ = _bytes(there), _bytes(asked)
        if most == all_:  # they differ by less than is told
            most, all_ = counted(there, "byte"), f"{asked}"
    else:
        most, all_ = str(there), str(asked)
    if there <= 0:
        return "1 is asked for and there is none" if all_ == "1" else f"none of the {all_} asked for"
    return f"at most {most} of the {all_} asked for"


def _measured(thousandths: int, one: str, many: str = "") -> str:
    """Zero is a number here, for limits may be zero."""
    if thousandths == 1000:
        return f"1 {one}"
    return f"{_number(thousandths)} {many or one + 's'}"


def _number(thousandths: int) -> str:
    whole, rest = divmod(abs(thousandths), 1000)
    sign = "-" if thousandths < 0 else ""
    decimals = f".{rest:03d}".rstrip("0") if rest else ""
    return f"{sign}{whole}{decimals}"


def _bytes(value: int) -> str:
    """In the largest unit in which it is whole; if it is whole in none, to the hundredth of the largest it fills."""
    for power, suffix in _BINARY:
        if value and value % 1024**power == 0:
            return f"{value // 1024**power}{suffix}"
    for power, suffix in _BINARY:
        if abs(value) >= 1024**power:
            return f"{float(round(Fraction(value, 1024**power), 2)):g}{suffix}"
    return counted(value, "byte") if value else "0 bytes"
