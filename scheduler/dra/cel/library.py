"""The whole function library of a device selector: core CEL, cel-go's extensions, Kubernetes' own.

Source: apiserver's base CEL environment of 1.37 and the DRA environment on top of it. The authorizer functions have no
variable to work on here and are left out.
"""

from __future__ import annotations

from scheduler.dra.cel import (
    formats,
    formatting,
    lists,
    net,
    operators,
    quantity,
    strings,
    times,
    url,
)
from scheduler.dra.cel.overloads import Functions, table

_BASE = (
    operators.library,
    strings.library,
    formatting.library,
    times.library,
    lists.library,
    quantity.library,
    net.library,
    url.library,
    formats.library,
)

BASE: Functions = table(_BASE)
WITH_LISTS: Functions = table((*_BASE, lists.includes_library))
