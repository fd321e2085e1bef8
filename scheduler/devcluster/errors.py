"""Refusals in the form the Kubernetes API gives them: a Status object with code, reason, message and details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Obj = dict[str, Any]


class Named(Protocol):
    """What a refusal says of the resource that it is about. `qualified`: the plural with its group."""

    @property
    def group(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def plural(self) -> str: ...
    @property
    def qualified(self) -> str: ...


class StatusError(Exception):
    """A request the API refuses. `body()` is what goes over the wire.

    Source: metav1.Status in the Kubernetes API conventions.
    """

    def __init__(self, code: int, reason: str, message: str, details: Obj | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def body(self) -> Obj:
        """The Status object for this refusal."""
        status: Obj = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            status["details"] = self.details
        status["code"] = self.code
        return status


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One fault at one field, worded as the API server words it. `reason` is the machine-readable cause."""

    reason: str
    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"

    def cause(self) -> Obj:
        """The entry of details.causes."""
        return {"reason": self.reason, "message": self.text, "field": self.field}


def _shown(value: object) -> str:
    if isinstance(value, str):
        return '"' + value + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        import json  # imported here: only a refusal needs it

        return json.dumps(value, separators=(",", ":"), default=str)
    return "null" if value is None else str(value)


def required(field: str, text: str = "") -> FieldError:
    """A field that must be there and is not."""
    return FieldError(reason="FieldValueRequired", field=field, text="Required value" + (f": {text}" if text else ""))


def invalid(field: str, value: object, text: str) -> FieldError:
    """A value that is not acceptable."""
    return FieldError(reason="FieldValueInvalid", field=field, text=f"Invalid value: {_shown(value)}: {text}")


def mistyped(field: str, value: object, expected: str) -> FieldError:
    """A value of the wrong JSON type, as structural schemas report it."""
    found = "null" if value is None else type(value).__name__
    names = {"str": "string", "bool": "boolean", "int": "integer", "float": "number", "dict": "object", "list": "array"}
    found = names.get(found, found)
    text = f'Invalid value: "{found}": {field} in body must be of type {expected}: "{found}"'
    return FieldError(reason="FieldValueTypeInvalid", field=field, text=text)


def unsupported(field: str, value: object, supported: Sequence[str]) -> FieldError:
    """A value outside an enumeration."""
    names = ", ".join(f'"{name}"' for name in supported)
    text = f"Unsupported value: {_shown(value)}: supported values: {names}"
    return FieldError(reason="FieldValueNotSupported", field=field, text=text)


def forbidden_field(field: str, text: str) -> FieldError:
    """A value that is well formed but not allowed here."""
    return FieldError(reason="FieldValueForbidden", field=field, text=f"Forbidden: {text}")


def duplicate(field: str, value: object) -> FieldError:
    """The second of two entries with one key."""
    return FieldError(reason="FieldValueDuplicate", field=field, text=f"Duplicate value: {_shown(value)}")


def too_many(field: str, count: int, limit: int) -> FieldError:
    """A list longer than the API allows."""
    text = f"Too many: {count}: must have at most {limit} items"
    return FieldError(reason="FieldValueTooMany", field=field, text=text)


def _about(kind: Named, name: str) -> Obj:
    details: Obj = {}
    if name:
        details["name"] = name
    if kind.group:
        details["group"] = kind.group
    details["kind"] = kind.plural
    return details


def not_found(kind: Named, name: str) -> StatusError:
    """404 for an object that is not there."""
    return StatusError(404, "NotFound", f'{kind.qualified} "{name}" not found', _about(kind, name))


def already_exists(kind: Named, name: str) -> StatusError:
    """409 for a create of a name that is taken."""
    return StatusError(409, "AlreadyExists", f'{kind.qualified} "{name}" already exists', _about(kind, name))


def conflict(kind: Named, name: str, text: str, subresource: str = "") -> StatusError:
    """409 for a write that lost a race."""
    what = f"{kind.qualified}/{subresource}" if subresource else kind.qualified
    message = f'Operation cannot be fulfilled on {what} "{name}": {text}'
    return StatusError(409, "Conflict", message, _about(kind, name))


def invalid_object(kind: Named, name: str, faults: Sequence[FieldError]) -> StatusError:
    """422 naming every faulty field."""
    text = str(faults[0]) if len(faults) == 1 else "[" + ", ".join(str(fault) for fault in faults) + "]"
    details: Obj = {}
    if name:
        details["name"] = name
    if kind.group:
        details["group"] = kind.group
    details["kind"] = kind.kind
    details["causes"] = [fault.cause() for fault in faults]
    what = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    return StatusError(422, "Invalid", f'{what} "{name}" is invalid: {text}', details)


def bad_request(message: str) -> StatusError:
    """400 for a request that cannot be read."""
    return StatusError(400, "BadRequest", message)


def forbidden(kind: Named, name: str, text: str) -> StatusError:
    """403 from admission."""
    return StatusError(403, "Forbidden", f'{kind.qualified} "{name}" is forbidden: {text}', _about(kind, name))


def gone(text: str) -> StatusError:
    """410 for a resourceVersion that the watch history no longer covers; the client lists again."""
    return StatusError(410, "Expired", text)


def unsupported_method(kind: Named, action: str) -> StatusError:
    """405 for a verb this resource does not have."""
    return StatusError(405, "MethodNotAllowed", f"{action} is not supported on resources of kind {kind.qualified!r}")
