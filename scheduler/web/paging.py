"""Pages of a list, and answers that a client already has."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any

LARGEST_PAGE = 5000
USUAL_PAGE = 500


class BadContinue(ValueError):
    """A `continue` token that we did not make."""


def page(
    items: Sequence[dict[str, Any]], key: Callable[[dict[str, Any]], str], *, limit: int, after: str, cycle: int
) -> dict[str, Any]:
    """`limit` items of a list sorted by `key`, from behind the token `after` on ("" from the start).

    The token names the last item, not a place: nothing is shown twice or left out because the list changed since."""
    first = _place(items, key, _decoded(after)) if after else 0
    shown = items[first : first + limit]
    rest = len(items) - first - len(shown)
    metadata: dict[str, Any] = {"cycle": cycle, "remainingItemCount": rest}
    if rest:
        metadata["continue"] = base64.urlsafe_b64encode(key(shown[-1]).encode()).decode()
    return {"metadata": metadata, "items": list(shown)}


def is_current(if_none_match: str, tag: str) -> bool:
    """Whether the client has this very answer (RFC 9110: weak comparison)."""
    held = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return tag.removeprefix("W/") in held or "*" in held


def _place(items: Sequence[dict[str, Any]], key: Callable[[dict[str, Any]], str], last: str) -> int:
    low, high = 0, len(items)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if key(items[middle]) <= last else (low, middle)
    return low


def _decoded(token: str) -> str:
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError):
        raise BadContinue(f"continue={token[:64]!r} is none of our tokens; start again without it") from None
