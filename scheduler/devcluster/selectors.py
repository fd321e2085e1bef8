"""Label and field selectors: from their text to a predicate over objects."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from scheduler.devcluster import kinds
from scheduler.devcluster.errors import bad_request
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.objects import Obj, field_of

Matches = Callable[[Obj], bool]
LabelTest = Callable[[dict[str, str]], bool]

_SET = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^\s!=,()]+)\s*(?P<op>==|!=|=)\s*(?P<value>[^\s!=,()]*)$")
_COMPARE = re.compile(r"^(?P<key>[^\s!=,()<>]+)\s*(?P<op>[<>])\s*(?P<value>-?\d+)$")
_EXISTS = re.compile(r"^(?P<not>!?)\s*(?P<key>[^\s!=,()<>]+)$")
_NAME = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)$")

_ANY = ("metadata.name", "metadata.namespace")
_FIELDS: dict[str, tuple[str, ...]] = {
    kinds.POD.key: (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    kinds.EVENT.key: (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    kinds.NODE.key: ("spec.unschedulable",),
    kinds.NAMESPACE.key: ("status.phase",),
    kinds.SLICE.key: ("spec.driver", "spec.pool.name", "spec.nodeName"),
    kinds.JOB.key: ("status.successful",),
    kinds.SECRET.key: ("type",),
    kinds.REPLICA_SET.key: ("status.replicas",),
}
_DEFAULTS = {"spec.unschedulable": "false", "spec.hostNetwork": "false"}


def split_terms(text: str) -> list[str]:
    """The comma-separated terms of a selector; commas inside parentheses do not separate."""
    terms, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            terms.append(text[start:index])
            start = index + 1
    terms.append(text[start:])
    return [term.strip() for term in terms if term.strip()]


def _label_name_is_valid(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    return len(name) <= 63 and bool(_NAME.match(name)) and (not slash or bool(prefix))


def _label_term(term: str) -> LabelTest:
    if found := _SET.match(term):
        key, values = found["key"], frozenset(value.strip() for value in found["values"].split(","))
        if found["op"] == "in":
            return lambda labels: key in labels and labels[key] in values
        return lambda labels: key not in labels or labels[key] not in values
    if found := _EQUAL.match(term):
        key, value = found["key"], found["value"]
        if found["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _COMPARE.match(term):
        key, bound, above = found["key"], int(found["value"]), found["op"] == ">"

        def compared(labels: dict[str, str]) -> bool:
            try:
                number = int(labels.get(key, ""))
            except ValueError:
                return False
            return number > bound if above else number < bound

        return compared
    if found := _EXISTS.match(term):
        key = found["key"]
        if not _label_name_is_valid(key):
            raise bad_request(f"unable to parse requirement: {term!r} is no label key")
        if found["not"]:
            return lambda labels: key not in labels
        return lambda labels: key in labels
    raise bad_request(f"unable to parse requirement: {term!r} is no term of a label selector")


def parse_labels(text: str | None) -> Matches | None:
    """A predicate for a label selector such as `app=web,tier in (a,b),!canary`; None when it selects everything.

    Raises StatusError 400 for text that is no selector.
    """
    tests = [_label_term(term) for term in split_terms(text or "")]
    if not tests:
        return None

    def matches(obj: Obj) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(test(labels) for test in tests)

    return matches


def _requirement(expression: Obj) -> LabelTest:
    key, operator = str(expression["key"]), expression["operator"]
    values = frozenset(expression.get("values") or ())
    if operator == "In":
        return lambda labels: labels.get(key) in values
    if operator == "NotIn":
        return lambda labels: key not in labels or labels[key] not in values
    if operator == "Exists":
        return lambda labels: key in labels
    if operator == "DoesNotExist":
        return lambda labels: key not in labels
    raise bad_request(f"{operator!r} is not a valid label selector operator")


def object_selector(selector: Obj | None) -> Matches:
    """A predicate for a LabelSelector object (matchLabels, matchExpressions).

    None selects nothing, an empty selector everything: metav1.LabelSelector.
    """
    if selector is None:
        return lambda _obj: False
    wanted = dict(selector.get("matchLabels") or {})
    tests = [_requirement(expression) for expression in selector.get("matchExpressions") or ()]

    def matches(obj: Obj) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(labels.get(key) == value for key, value in wanted.items()) and all(test(labels) for test in tests)

    return matches


def _text(value: Any, path: str) -> str:
    if value is None:
        return _DEFAULTS.get(path, "")
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def parse_fields(kind: Kind, text: str | None) -> Matches | None:
    """A predicate for a field selector such as `spec.nodeName=n1,status.phase!=Running`.

    Only the fields that the real API server indexes for the kind are allowed; others raise StatusError 400.
    """
    tests: list[tuple[tuple[str, ...], str, bool, str]] = []
    for term in split_terms(text or ""):
        found = _EQUAL.match(term)
        if found is None:
            raise bad_request(f"invalid field selector {term!r}: use field=value or field!=value")
        path = found["key"]
        known = _ANY + _FIELDS.get(kind.key, ())
        if path not in known:
            raise bad_request(f'field label not supported: "{path}" (for {kind.qualified}: {", ".join(known)})')
        steps = tuple(path.split("."))
        if (kind.key, path) == (kinds.EVENT.key, "source"):
            steps = ("source", "component")
        tests.append((steps, found["value"], found["op"] != "!=", path))
    if not tests:
        return None

    def matches(obj: Obj) -> bool:
        return all((_text(field_of(obj, *steps), path) == value) is wanted for steps, value, wanted, path in tests)

    return matches


def both(first: Matches | None, second: Matches | None) -> Matches | None:
    """Both predicates; None where neither restricts anything."""
    if first is None or second is None:
        return first or second
    return lambda obj: first(obj) and second(obj)
