"""What is special about a kind when it is written: defaults, admission, fields that reset, validation. One table."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from scheduler.devcluster import errors
from scheduler.devcluster.errors import FieldError, StatusError
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.objects import Obj, name_of


class Lookup(Protocol):
    """What a rule may ask the store."""

    def now(self) -> str:
        """The time, RFC 3339."""
        ...

    def find(self, kind: Kind, namespace: str, name: str) -> Obj | None:
        """An object, or None."""
        ...

    def all(self, kind: Kind) -> list[Obj]:
        """All objects of a kind, by namespace and name."""
        ...


def _same(obj: Obj) -> Obj:
    return obj


def _admit(_obj: Obj, _lookup: Lookup) -> None:
    return None


def _unstamped(obj: Obj, _now: str) -> Obj:
    return obj


def _no_faults(_obj: Obj) -> list[FieldError]:
    return []


def _no_changes(_old: Obj, _new: Obj, _subresource: str | None) -> list[FieldError]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules of one kind, in the order they are applied.

    `defaults` fills in fields on every write (it must be cheap and give the object itself when nothing is missing);
    `begin` completes a new object and may refuse it (admission); `stamp` adds the time of the write where the API
    records it; `check` lists faults of the object, `check_change` of the step from one version to the next.
    """

    defaults: Callable[[Obj], Obj] = _same
    begin: Callable[[Obj, Lookup], Obj] | None = None
    stamp: Callable[[Obj, str], Obj] = _unstamped
    admit: Callable[[Obj, Lookup], None] = _admit
    check: Callable[[Obj], list[FieldError]] = _no_faults
    check_change: Callable[[Obj, Obj, str | None], list[FieldError]] = _no_changes
    keeps_status_on_create: bool = False
    status_write_keeps_meta: bool = True


PLAIN = Rules()

_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
_LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_QUALIFIED = re.compile(r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")

_KEY_TEXT = "name part must consist of alphanumeric characters, '-', '_' or '.'"
SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)


def is_subdomain(text: object) -> bool:
    """A DNS subdomain (RFC 1123), at most 253 characters."""
    return isinstance(text, str) and len(text) <= 253 and _SUBDOMAIN.match(text) is not None


def is_label(text: object) -> bool:
    """A DNS label (RFC 1123), at most 63 characters."""
    return isinstance(text, str) and len(text) <= 63 and _LABEL.match(text) is not None


def _free_names(kind: Kind) -> bool:
    return kind.group == "rbac.authorization.k8s.io"  # "system:node" and the like


def check_meta(kind: Kind, obj: Obj) -> list[FieldError]:
    """Faults of the metadata: name, labels, annotations."""
    meta = obj["metadata"]
    faults = []
    name = meta.get("name")
    if not name:
        faults.append(errors.required("metadata.name", "name or generateName is required"))
    elif not isinstance(name, str) or not (is_subdomain(name) or _free_names(kind)):
        faults.append(errors.invalid("metadata.name", name, SUBDOMAIN_TEXT))
    elif kind.kind in ("Namespace", "Service") and not kind.group and not is_label(name):
        faults.append(errors.invalid("metadata.name", name, LABEL_TEXT))
    for field in ("labels", "annotations"):
        entries = meta.get(field)
        if entries is None:
            continue
        if not isinstance(entries, dict):
            faults.append(errors.invalid(f"metadata.{field}", entries, "must be a map of strings"))
            continue
        for key, value in entries.items():
            if not _QUALIFIED.match(key):
                faults.append(errors.invalid(f"metadata.{field}", key, _KEY_TEXT))
            if not isinstance(value, str):
                faults.append(errors.invalid(f"metadata.{field}.{key}", value, "must be a string"))
            elif field == "labels" and (len(value) > 63 or not _LABEL_VALUE.match(value)):
                text = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"
                faults.append(errors.invalid("metadata.labels", value, text))
    for index, owner in enumerate(meta.get("ownerReferences") or ()):
        faults.extend(
            errors.required(f"metadata.ownerReferences[{index}].{field}", "must not be empty")
            for field in ("apiVersion", "kind", "name", "uid")
            if not owner.get(field)
        )
    return faults


def refuse(kind: Kind, obj: Obj, faults: list[FieldError]) -> StatusError:
    """The 422 for these faults."""
    return errors.invalid_object(kind, name_of(obj), faults)
