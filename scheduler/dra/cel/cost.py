"""The step budget: what keeps a user's selector from stopping the scheduler.

Kubernetes limits the cost of one evaluation to 1,000,000 units. Here a unit is about one step inside a loop, ten
characters of text, or one element of a list or map; code outside loops runs once and is bounded by the expression's
length, so it is free. The figures differ from cel-go's (that exactness is of no use to anyone), their order does not.

Source: resource.k8s.io CELSelectorExpressionMaxCost and CELSelectorExpressionMaxLength.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from scheduler.dra.cel.values import CelCostError, Opt, Value

COST_LIMIT = 1_000_000
MAX_LENGTH = 10 * 1024  # bytes of an expression
MAX_DEPTH = 100  # levels of nesting; well inside Python's recursion limit for parser, checker and evaluation

# The state of one evaluation: steps left, the device, then one slot per local variable.
Env: TypeAlias = list[Any]
METER, DEVICE, FIRST_LOCAL = 0, 1, 2


def charge(env: Env, cost: int) -> None:
    """Take `cost` from the budget of this evaluation; CelCostError when it is used up."""
    left = env[METER] - cost
    env[METER] = left
    if left < 0:
        raise CelCostError("operation cancelled: actual cost limit exceeded")


def text_cost(*texts: str | bytes) -> int:
    """The cost of going once through these texts."""
    return 1 + sum(map(len, texts)) // 10


def weight(*values: Value) -> int:
    """The cost of going once through these values, nested ones included; stops counting just beyond the limit.

    Values share parts (one list may hold another a thousand times), so counting must be bounded too.
    """
    total = 0
    pending: list[Value] = list(values)
    while pending and total <= COST_LIMIT:
        value = pending.pop()
        if isinstance(value, (str, bytes)):
            total += 1 + len(value) // 10
        elif isinstance(value, (tuple, dict)):
            total += 1 + len(value)
            if len(value) > COST_LIMIT:
                break
            pending.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, Opt):
            total += 1
            pending.append(value.value)
        else:
            total += 1
    return total
