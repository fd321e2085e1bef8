"""Whose turn it is with room of which nobody knows when it is enough: who has waited for long, or all others.

Source: Volcano (reservation of nodes for the gang that waits longest), which has no turns.
"""


def keeps_what_is_free(waited_ms: int, after_ms: int) -> bool:
    """Whether a gang that has waited so long, and of which no time is known, keeps what is free now: after the first
    `after_ms` for as long again, then not for twice that, and so on. So each time others are kept out for as long as it
    had waited by then, and nobody is for ever, though those never end who are where it wants to be."""
    return (max(waited_ms, 0) // after_ms).bit_length() % 2 == 1


def next_turn_ms(waited_ms: int, after_ms: int) -> int:
    """How long it will have waited when that changes."""
    return after_ms << (max(waited_ms, 0) // after_ms).bit_length()
