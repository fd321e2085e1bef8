"""Depth-first search for what is more than a matching: counters, shares, distinct values, admin access.

What makes it short: devices that stand for each other are tried once, and so is every state of the node.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from scheduler.dra import choice
from scheduler.dra.items import Group, Item, Token
from scheduler.dra.room import Room


@dataclass(slots=True)
class _Frame:
    """The choice of one device: candidates in order, the next to try, the kinds that were tried, and how to go back."""

    order: list[int]
    next: int
    mark: int
    number: int = -1
    tried: set[Hashable] = field(default_factory=set)
    entered: Hashable = None


def in_order(items: "Sequence[Item]") -> list[int]:
    """Positions of the items, those with the least choice first."""
    slack = [len(item.candidates) - item.need for item in items]
    return sorted(range(len(items)), key=lambda p: (not items[p].whole, slack[p], p))


def greedy(
    room: Room, items: "Sequence[Item]", distinct: "Sequence[Group]", *, fresh: bool = False
) -> list[tuple[int, ...]] | None:
    """The most preferred devices, item by item; None if that leads nowhere, which proves nothing.

    `fresh`: spread over the boards. Where boards are filled to the last slice by parts of several sizes, the large ones
    must not meet on one board, and a search that begins with them there hardly ever comes back from it."""
    mark = room.mark()
    picks: list[list[int]] = [[] for _ in items]
    used = [{t for p in group.items for n in items[p].pinned for t in group.tokens[n]} for group in distinct]
    for position in in_order(items):
        item = items[position]
        covering = [(group, seen) for group, seen in zip(distinct, used, strict=True) if position in group.items]
        devices = (room.view.devices[number] for number in item.candidates)
        # With every part that is taken of a board, or of a shared device, another one may have become the best.
        drawn = item.need > 1 and any(device.consumes or device.shareable for device in devices)
        found = -1
        while found < len(picks[position]) < item.need:
            found = len(picks[position])
            for number in _preferred(room, items, picks, position, ahead=True, fresh=fresh):
                differs = all(seen.isdisjoint(group.tokens[number]) for group, seen in covering)
                if differs and room.try_take(item.want, item.claim, number):
                    picks[position].append(number)
                    for group, seen in covering:
                        seen |= group.tokens[number]
                    if drawn or len(picks[position]) == item.need:
                        break
        if len(picks[position]) < item.need:
            room.undo(mark)
            return None
    room.undo(mark)
    return [tuple(sorted(numbers)) for numbers in picks]


def _preferred(
    room: Room,
    items: "Sequence[Item]",
    picks: Sequence[Sequence[int]],
    position: int,
    *,
    ahead: bool = False,
    fresh: bool = False,
) -> list[int]:
    """Free candidates of an item, best first: near to what its claim has already, or with `ahead`, while it has
    nothing, where its other items find devices as well."""
    item = items[position]
    near = choice.NOWHERE
    for other, numbers in enumerate(picks):
        if numbers and items[other].claim == item.claim:
            near |= choice.near(room.view, numbers)
    if ahead and not near:
        siblings = [other for other in items if other.claim == item.claim]
        if len(siblings) > 1:
            wanted = [([n for n in s.candidates if room.is_free(s.want, n)], s.need) for s in siblings]
            near = choice.meeting(room.view, wanted)
    mine = picks[position]
    free = [n for n in item.candidates if n not in mine and room.is_free(item.want, n)]
    return choice.ordered(room, free, item.need - len(mine), near, fresh=fresh)


class Descent:
    """One search; `room` is left as it was found."""

    def __init__(self, room: Room, items: "Sequence[Item]", distinct: "Sequence[Group]") -> None:
        self._room = room
        self._items = items
        self._distinct = distinct
        self._slots = [(p, slot) for p in in_order(items) for slot in range(items[p].need)]
        self._any_admin = any(item.want.admin for item in items)
        self._used: list[set[Token]] = [
            {t for p in group.items for n in items[p].pinned for t in group.tokens[n]} for group in distinct
        ]
        self._board_of, self._type_of, self._member_of = _boards(room, items, distinct)
        self._state: dict[int, tuple[Hashable, ...]] = {}
        self._picks: list[list[int]] = [[] for _ in items]
        self._failed: set[Hashable] = set()

    def run(self) -> list[tuple[int, ...]] | None:
        """Devices per item, in published order; None if there are none. Raises OutOfSteps."""
        start = self._room.mark()
        frames: list[_Frame] = []
        while len(frames) < len(self._slots):
            frame = self._enter(frames)
            while frame is None or not self._advance(frame, len(frames)):
                if frame is not None and frame.entered is not None:
                    self._failed.add(frame.entered)
                if not frames:
                    self._room.undo(start)
                    return None
                frame = frames.pop()
                self._leave(frame, len(frames))
            frames.append(frame)
        self._room.undo(start)
        return [tuple(sorted(numbers)) for numbers in self._picks]

    def _enter(self, frames: list[_Frame]) -> _Frame | None:
        """The frame of the next slot; None if the node has been in this state before, and that led nowhere."""
        position, slot = self._slots[len(frames)]
        if slot:
            before = frames[-1]
            return _Frame(order=before.order, next=before.next, mark=self._room.mark())
        entered = (len(frames), tuple(sorted(self._state_key(), key=repr)), tuple(map(frozenset, self._used)))
        if entered in self._failed:
            return None
        order = _preferred(self._room, self._items, self._picks, position)
        return _Frame(order=order, next=0, mark=self._room.mark(), entered=entered)

    def _advance(self, frame: _Frame, depth: int) -> bool:
        """Take the next candidate that can be taken. False: there is none."""
        position, slot = self._slots[depth]
        item = self._items[position]
        still_needed = item.need - slot
        while len(frame.order) - frame.next >= still_needed:
            number = frame.order[frame.next]
            frame.next += 1
            kind = self._kind(number)
            if kind in frame.tried or not self._differs(position, number):
                continue
            frame.tried.add(kind)
            if self._room.try_take(item.want, item.claim, number):
                self._note(position, number)
                frame.number = number
                return True
        return False

    def _leave(self, frame: _Frame, depth: int) -> None:
        """Give back what the frame has taken."""
        position, _ = self._slots[depth]
        self._room.undo(frame.mark)
        self._picks[position].remove(frame.number)
        board = self._board_of[frame.number]
        state = list(self._state[board])
        state.remove(self._entry(position, frame.number))
        self._state[board] = tuple(state)
        for group, used in zip(self._distinct, self._used, strict=True):
            if position in group.items:
                used -= group.tokens[frame.number]

    def _note(self, position: int, number: int) -> None:
        self._picks[position].append(number)
        board = self._board_of[number]
        self._state[board] = tuple(sorted((*self._state.get(board, ()), self._entry(position, number)), key=repr))
        for group, used in zip(self._distinct, self._used, strict=True):
            if position in group.items:
                used |= group.tokens[number]

    def _entry(self, position: int, number: int) -> Hashable:
        """What the state of a board remembers of a device that was taken."""
        item = self._items[position]
        who = (item.claim, item.want.admin) if self._any_admin else None
        part = self._room.part(item.want, number) if self._room.view.devices[number].shareable else None
        return self._member_of[number], who, part

    def _kind(self, number: int) -> Hashable:
        """Equal for devices of which one is as good as the other in the present state."""
        board = self._board_of[number]
        return self._type_of[board], self._state.get(board, ()), self._member_of[number]

    def _state_key(self) -> list[Hashable]:
        return [(self._type_of[board], state) for board, state in self._state.items() if state]

    def _differs(self, position: int, number: int) -> bool:
        return all(
            position not in group.items or used.isdisjoint(group.tokens[number])
            for group, used in zip(self._distinct, self._used, strict=True)
        )


def _boards(
    room: Room, items: "Sequence[Item]", distinct: "Sequence[Group]"
) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
    """Board per device, type per board, place on its board per device. Boards of one type can stand for each other."""
    view = room.view
    numbers = sorted({number for item in items for number in item.candidates})
    serves: dict[int, list[int]] = {number: [] for number in numbers}
    for position, item in enumerate(items):
        for number in item.candidates:
            serves[number].append(position)
    board_of: dict[int, int] = {}
    of_set: dict[Hashable, int] = {}
    for number in numbers:
        device = view.devices[number]
        keys = [(device.id.driver, device.id.pool, counter_set) for counter_set, _ in device.consumes]
        joined = sorted({of_set[key] for key in keys if key in of_set})
        board = joined[0] if joined else number
        for other in joined[1:]:
            board_of.update({n: board for n, b in board_of.items() if b == other})
            of_set.update({key: board for key, b in of_set.items() if b == other})
        of_set.update(dict.fromkeys(keys, board))
        board_of[number] = board
    lines: dict[int, list[Hashable]] = {}
    local: dict[int, dict[Hashable, int]] = {}
    member_of: dict[int, int] = {}
    for number in numbers:
        board, device = board_of[number], view.devices[number]
        members, sets = lines.setdefault(board, []), local.setdefault(board, {})
        member_of[number] = len(members)
        drawn = []
        for counter_set, takes in device.consumes:
            key = (device.id.driver, device.id.pool, counter_set)
            left = tuple((name, room.counter((*key, name)), value) for name, value in takes)
            drawn.append((sets.setdefault(key, len(sets)), left))
        shares = tuple((n, room.capacity(number, n)) for n in sorted(device.capacity)) if device.shareable else None
        tokens = tuple(group.tokens.get(number) for group in distinct)
        claimed = tuple(sorted(claim for claim, n in room.claims if n == number)) if room.claims else ()
        state = number in room.held, number in room.shared, claimed
        members.append((tuple(serves[number]), tokens, tuple(drawn), device.shareable, shares, state))
    types: dict[Hashable, int] = {}
    type_of = {board: types.setdefault(tuple(members), len(types)) for board, members in lines.items()}
    return board_of, type_of, member_of
