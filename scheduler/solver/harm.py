"""The question of victims in small integers: who may go, what that gives and harms, and who seeks seats."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Amounts = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A pod that may be stopped. `gives`: what its node has more then. `harm`: tier by tier, the gravest first; after
    these tiers come the gangs that go as a whole, then the pods. `loses`: what of the budgets it takes, as (budget,
    amount). `within`: what is lost inside those that gain, as (share, amount). `age`: among those who do equal harm the
    youngest goes, 0."""

    pod: str
    node: str
    gives: Amounts
    harm: tuple[int, ...]
    loses: tuple[tuple[int, int], ...] = ()
    within: tuple[tuple[int, int], ...] = ()
    age: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A gang, or a part of one: `spare` of its candidates, or of the parts below it, may go by themselves; with one
    more all go. `whole`: it is the gang. `firm`: it may not go as a whole. `frees`: by node, what it has more once all
    of it has gone than each candidate gives by itself."""

    candidates: tuple[int, ...] = ()
    below: tuple["Part", ...] = ()
    spare: int = 0
    whole: bool = False
    firm: bool = False
    frees: Mapping[str, Amounts] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        """Whether there is anything of it to go."""
        return bool(self.candidates) or any(part.runs for part in self.below)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seek:
    """`count` units of one shape to be seated: each `needs` so much of a node; on these nodes alone."""

    shape: int
    count: int
    needs: Amounts
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """`zones`: sets of nodes, of which one has to hold all seats. `seeks` of one group are interchangeable: `least` of
    their units have to be seated, by group. `movers`: seats elsewhere for those of these candidates that go, wherever
    they are. `budgets`: what queues may lose, and how many pods may go. `shares`: how much a queue that gains has to
    lose itself if anybody goes who is not within it. `tiers`: of harm."""

    candidates: tuple[Candidate, ...]
    parts: tuple[Part, ...]
    free: Mapping[str, Amounts]
    seeks: tuple[tuple[Seek, ...], ...]
    least: tuple[int, ...]
    zones: tuple[frozenset[str], ...]
    movers: tuple[tuple[Seek, tuple[int, ...]], ...] = ()
    budgets: tuple[int, ...] = ()
    shares: tuple[int, ...] = ()
    tiers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`victims`: numbers of candidates. `seats`: (node, shape) -> how many. `proved`: there is nothing less harmful."""

    victims: tuple[int, ...]
    seats: Mapping[tuple[str, int], int]
    proved: bool
