"""The least harm that makes room: which running pods to stop so that a piece of a gang finds its seats.

Small integers in, names out. What a node has to give is told as amounts, which may be less than the truth asks
(devices, volumes, company): whoever asks tries the answer out, and tells what was missing by `forbid` or `forbid_all`;
the next answer takes it into account. So the first answer that holds is the best there is.
"""

from collections.abc import Iterable, Sequence

from ortools.sat.python import cp_model

from scheduler.model.errors import InvariantError
from scheduler.solver.harm import Amounts, Choice, Harm, Part, Seek

SOLVE = 2e-3
"""Deterministic seconds that every call of the solver is counted as besides its own (measured: 1.5 to 3 ms)."""


class Search:
    """One question, asked again and again as more is known."""

    def __init__(self, harm: Harm, *, budget: float, seed: int) -> None:
        """`budget`: deterministic seconds for all answers together."""
        self.spent = 0.0
        """Of them, so far."""
        self.ended = False
        """Whether the last answer was none because they had run out."""
        self._harm = harm
        self._left = budget
        self._seed = seed
        self._cp = cp_model.CpModel()
        self._goes = [self._cp.new_bool_var(f"goes {each.pod}") for each in harm.candidates]
        self._tiers: list[list[cp_model.LinearExprT]] = [[] for _ in range(harm.tiers + 3)]
        for goes, each in zip(self._goes, harm.candidates, strict=True):
            for tier, amount in enumerate(each.harm):
                if amount:
                    self._tiers[tier].append(amount * goes)
            self._tiers[harm.tiers + 1].append(goes)
            if each.age:
                self._tiers[harm.tiers + 2].append(each.age * goes)
        self._frees: dict[str, list[tuple[Amounts, cp_model.IntVar]]] = {}
        for part in harm.parts:
            self._part(part)
        self._lose()
        self._here: dict[str, list[int]] = {}
        for number, each in enumerate(harm.candidates):
            self._here.setdefault(each.node, []).append(number)
        self._seats: dict[tuple[str, int, int], cp_model.IntVar] = {}
        self._seat()

    def best(self) -> Choice | None:
        """The least harmful choice as far as is known; None if there is none, or none was found in the budget."""
        if self._left <= 0:
            self.ended = True
            return None
        cp, proved, values = self._cp.clone(), True, None
        for tier in self._tiers:
            if not tier:
                continue
            goal = _sum(tier)
            if values is not None and not values.value(goal):
                cp.add(goal <= 0)  # no harm is less than none
                continue
            cp.minimize(goal)
            solver = self._solver()
            status = solver.solve(cp)
            self._spend(SOLVE + solver.response_proto.deterministic_time)
            if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
                if status == cp_model.MODEL_INVALID:
                    raise InvariantError(f"the model of victims is invalid: {cp.validate()}")
                if values is None:
                    self.ended = status != cp_model.INFEASIBLE
                    return None
                proved = False
                break
            values = solver
            proved = proved and status == cp_model.OPTIMAL
            cp.clear_objective()  # type: ignore[no-untyped-call]
            cp.add(goal <= round(solver.objective_value))
            cp.clear_hints()  # type: ignore[no-untyped-call]
            for variable in (*self._goes, *self._seats.values()):
                cp.add_hint(variable, solver.value(variable))
        if values is None:
            return None
        seats: dict[tuple[str, int], int] = {}
        for (node, shape, _), seat in self._seats.items():
            if values.value(seat):
                seats[node, shape] = seats.get((node, shape), 0) + values.value(seat)
        victims = tuple(number for number, goes in enumerate(self._goes) if values.value(goes))
        return Choice(victims=victims, seats=seats, proved=proved)

    def _spend(self, seconds: float) -> None:
        self._left -= seconds
        self.spent += seconds

    def forbid(self, node: str, shape: int, most: int, victims: Iterable[int]) -> None:
        """With these victims the node has seats for `most` of the shape; for more, more must go from there."""
        gone = set(victims)
        others = [self._goes[number] for number in self._here.get(node, ()) if number not in gone]
        seats = [seat for (where, what, _), seat in self._seats.items() if (where, what) == (node, shape)]
        room = sum(each.count for group in self._harm.seeks for each in group)
        self._cp.add(_sum(seats) <= most + room * _sum(others))

    def forbid_all(self, victims: Iterable[int]) -> None:
        """With these victims, or fewer, there is no way, wherever the seats are."""
        gone = set(victims)
        others = [goes for number, goes in enumerate(self._goes) if number not in gone]
        self._cp.add(_sum(others) >= 1)

    def _part(self, part: Part) -> cp_model.IntVar:
        """Whether all of it goes."""
        cp = self._cp
        down = cp.new_bool_var("down")
        members = [*(self._goes[number] for number in part.candidates), *map(self._part, part.below)]
        cp.add(_sum(members) <= part.spare + (len(members) - part.spare) * down)
        for member in members:
            cp.add_implication(down, member)
        if part.firm:
            cp.add(down == 0)
        if part.whole:
            self._tiers[self._harm.tiers].append(down)
        for node, amounts in part.frees.items():
            self._frees.setdefault(node, []).append((amounts, down))
        return down

    def _lose(self) -> None:
        rows: list[list[cp_model.LinearExprT]] = [[] for _ in self._harm.budgets]
        for number, each in enumerate(self._harm.candidates):
            for row, amount in each.loses:
                rows[row].append(amount * self._goes[number])
        for losses, most in zip(rows, self._harm.budgets, strict=True):
            if losses:
                self._cp.add(_sum(losses) <= most)
        for share, least in enumerate(self._harm.shares):
            within = {
                number: amount
                for number, each in enumerate(self._harm.candidates)
                for own, amount in each.within
                if own == share
            }
            outside = self._cp.new_bool_var(f"taken from outside {share}")
            for number, goes in enumerate(self._goes):
                if number not in within:
                    self._cp.add_implication(goes, outside)
            lost = _sum([amount * self._goes[number] for number, amount in within.items()])
            self._cp.add(lost >= least).only_enforce_if(outside)

    def _seat(self) -> None:
        cp, harm = self._cp, self._harm
        used: dict[str, list[tuple[Seek, cp_model.IntVar]]] = {}
        chosen = [cp.new_bool_var(f"zone {number}") for number in range(len(harm.zones))]
        cp.add_exactly_one(chosen)
        for group, (seeks, least) in enumerate(zip(harm.seeks, harm.least, strict=True)):
            all_seats: list[cp_model.LinearExprT] = []
            for seek in seeks:
                mine: list[cp_model.LinearExprT] = []
                for node in seek.nodes:
                    zones = [zone for zone, nodes in zip(chosen, harm.zones, strict=True) if node in nodes]
                    if not zones:
                        continue
                    seat = cp.new_int_var(0, seek.count, f"seats {node} {seek.shape} {group}")
                    self._seats[node, seek.shape, group] = seat
                    used.setdefault(node, []).append((seek, seat))
                    if len(harm.zones) > 1:
                        cp.add(seat <= seek.count * _sum(zones))
                    mine.append(seat)
                cp.add(_sum(mine) <= seek.count)
                all_seats += mine
            cp.add(_sum(all_seats) >= least)
        for number, (seek, movers) in enumerate(harm.movers):
            moved: list[cp_model.LinearExprT] = []
            for node in seek.nodes:
                seat = cp.new_int_var(0, len(movers), f"moves {node} {number}")
                used.setdefault(node, []).append((seek, seat))
                moved.append(seat)
            cp.add(_sum(moved) == _sum([self._goes[each] for each in movers]))
        for node, seated in used.items():
            names = sorted({name for seek, _ in seated for name in seek.needs})
            for name in names:
                gives = [
                    harm.candidates[number].gives[name] * self._goes[number]
                    for number in self._here.get(node, ())
                    if name in harm.candidates[number].gives
                ]
                gives += [amounts[name] * down for amounts, down in self._frees.get(node, ()) if name in amounts]
                takes = _sum([seek.needs[name] * seat for seek, seat in seated if name in seek.needs])
                cp.add(takes <= harm.free[node].get(name, 0) + _sum(gives))

    def _solver(self) -> cp_model.CpSolver:
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = self._seed
        solver.parameters.max_deterministic_time = max(self._left, 0.001)
        solver.parameters.cp_model_probing_level = 0
        solver.parameters.symmetry_level = 0
        return solver


def _sum(parts: Sequence[cp_model.LinearExprT]) -> cp_model.LinearExpr:
    return cp_model.LinearExpr.sum(list(parts))
