"""Server-side tables: what `kubectl get` prints.

Source: meta.k8s.io/v1 Table; the columns of built-in kinds lie in `columns`, those of custom resources in the kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from scheduler.devcluster.columns import Cell, columns_of, human_duration
from scheduler.devcluster.jsonpath import compile_path
from scheduler.devcluster.kinds import Kind, PrinterColumn
from scheduler.devcluster.objects import Obj, encode, parse_time


def _custom_value(column: PrinterColumn, obj: Obj, now: datetime) -> Any:
    found = compile_path(column.path)(obj)
    if not found or found[0] is None:
        return None
    value = found[0]
    if column.type == "date":
        try:
            return human_duration((now - parse_time(str(value))).total_seconds())
        except ValueError:
            return "<invalid>"
    if column.type in ("integer", "number", "boolean") and isinstance(value, int | float | bool):
        return value
    if column.type == "string" and len(found) > 1:
        return ",".join(str(entry) for entry in found)
    if isinstance(value, dict | list):
        return encode(value).decode()
    return str(value).lower() if isinstance(value, bool) else str(value)


def _custom_columns(kind: Kind) -> tuple[tuple[Obj, Cell], ...]:
    name: Obj = {"name": "Name", "type": "string", "format": "name", "description": "The name.", "priority": 0}
    columns: list[tuple[Obj, Cell]] = [(name, lambda obj, _now: obj["metadata"]["name"])]
    for column in kind.columns:
        header = {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }

        def cell(obj: Obj, now: datetime, column: PrinterColumn = column) -> Any:
            return _custom_value(column, obj, now)

        columns.append((header, cell))
    return tuple(columns)


def table(kind: Kind, objects: Iterable[Obj], version: str, include: str, *, more: Obj | None = None) -> Obj:
    """The Table of these objects. `include` is None, Metadata or Object: what of each object goes with its row."""
    now = datetime.now(UTC)
    columns = _custom_columns(kind) if kind.custom else columns_of(kind)
    rows = [{"cells": [cell(obj, now) for _, cell in columns], "object": _included(obj, include)} for obj in objects]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version, **(more or {})},
        "columnDefinitions": [header for header, _ in columns],
        "rows": rows,
    }


def _included(obj: Obj, include: str) -> Obj | None:
    if include == "None":
        return None
    if include == "Object":
        return obj
    return partial(obj)


def partial(obj: Obj) -> Obj:
    """The PartialObjectMetadata of an object."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
