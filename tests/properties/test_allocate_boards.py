"""Claims that each want parts of one board: the search that skips what is alike loses no answer."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.api import dra
from scheduler.dra.allocate import Allocated, NoRoom
from scheduler.model.workloads import Claim
from tests.published import ask, boards, claim, device, inventory, request, slice_of


class Part(NamedTuple):
    """A partition: its board, the link domain it reports, the slices it takes, and what it is sold as."""

    board: int
    link: str
    slices: tuple[int, ...]
    size: str


class Wish(NamedTuple):
    """A claim: sizes of the partitions it wants, the attributes in which they must match."""

    sizes: tuple[str, ...]
    match: tuple[str, ...]


parts = st.builds(
    Part,
    board=st.integers(0, 2),
    link=st.sampled_from("xy"),
    slices=st.sampled_from([(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)]),
    size=st.sampled_from("sl"),
)
wishes = st.builds(
    Wish,
    sizes=st.sampled_from([("s",), ("l",), ("s", "s"), ("s", "l"), ("l", "l")]),
    match=st.sampled_from([(), ("board",), ("board",), ("link",), ("board", "link")]),
)


def published(found: Sequence[Part]) -> list[dra.Device]:
    return [
        device(
            f"p{number}",
            {"board": part.board, "link": part.link, "size": part.size},
            consumes={f"board-{part.board}": {f"memory-slice-{s}": 1 for s in part.slices}},
        )
        for number, part in enumerate(found)
    ]


def claims(wanted: Sequence[Wish]) -> list[Claim]:
    made = []
    for number, wish in enumerate(wanted):
        requests = [
            request(f"r{n}", f"device.attributes['gpu.nvidia.com'].size == '{size}'", of="any")
            for n, size in enumerate(wish.sizes)
        ]
        constraints = tuple(dra.DeviceConstraint(match_attribute=f"gpu.nvidia.com/{name}") for name in wish.match)
        spec = dra.ResourceClaimSpec(devices=dra.DeviceClaim(requests=tuple(requests), constraints=constraints or None))
        made.append(Claim(key=f"ns/c{number}", uid=claim(f"c{number}").uid, spec=spec))
    return made


def possible(found: Sequence[Part], wanted: Sequence[Wish], used: frozenset[tuple[int, int]] = frozenset()) -> bool:
    """Whether all wishes can be met, tried in every way. Slices that are taken are all that is remembered."""
    if not wanted:
        return True
    wish = wanted[0]
    for chosen in itertools.permutations(found, len(wish.sizes)):
        slices = [(part.board, s) for part in chosen for s in part.slices]
        if (
            [part.size for part in chosen] == list(wish.sizes)
            and len(set(slices)) == len(slices)
            and used.isdisjoint(slices)
            and all(len({getattr(part, name) for part in chosen}) == 1 for name in wish.match)
            and possible(found, wanted[1:], used | set(slices))
        ):
            return True
    return False


@settings(max_examples=150, deadline=None)
@given(st.lists(parts, min_size=1, max_size=9), st.lists(wishes, min_size=1, max_size=4))
def test_wishes_are_met_exactly_if_trying_everything_meets_them(found: list[Part], wanted: list[Wish]) -> None:
    stock = inventory(slice_of("n1", *published(found), of=2), slice_of("n1", of=2, sets=boards(0, 1, 2)))
    answer = ask(stock, *claims(wanted))
    assert isinstance(answer, Allocated) == possible(found, wanted), answer
    if isinstance(answer, Allocated):
        given_out = [found[int(r.device[1:])] for a in answer.allocations for r in a.devices.results or ()]
        slices = [(part.board, s) for part in given_out for s in part.slices]
        assert len(set(slices)) == len(slices)
    else:
        assert isinstance(answer, NoRoom)
        assert answer.searched_all
