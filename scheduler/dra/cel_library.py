"""The whole function library of a device selector: core CEL, cel-go's extensions, Kubernetes' own.

Source: apiserver's base CEL environment of 1.37 and the DRA environment on top of it. The authorizer functions have no
variable to work on here and are left out.
"""

from __future__ import annotations

from scheduler.dra import (
    cel_formats,
    cel_formatting,
    cel_lists,
    cel_net,
    cel_operators,
    cel_quantity,
    cel_strings,
    cel_time,
    cel_url,
)
from scheduler.dra.cel_overloads import Functions, table

_BASE = (
    cel_operators.library,
    cel_strings.library,
    cel_formatting.library,
    cel_time.library,
    cel_lists.library,
    cel_quantity.library,
    cel_net.library,
    cel_url.library,
    cel_formats.library,
)

BASE: Functions = table(_BASE)
WITH_LISTS: Functions = table((*_BASE, cel_lists.includes_library))
