"""Random gangs on small clusters against trying every placement: a place that exists is found, or not ruled out."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.api.core import ObjectMeta
from scheduler.api.dra import Device, DeviceAttribute, ResourcePool, ResourceSlice, ResourceSliceSpec
from scheduler.model.plan import Verdict
from scheduler.model.reasons import GangDoesNotFit
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import World, ask, claim, device_class, gang_of, label_in, node, pod, queue, world

ZONES = ("red", "blue")
MODELS = ("x", "y")


@dataclass(frozen=True, kw_only=True)
class Case:
    """`nodes`: (zone, CPUs). `devices`: (where, model), where is the place of a node, a zone, or "" for everywhere.
    `claims`: (model or "" for any, count). `pods`: (places of their claims, CPUs)."""

    nodes: list[tuple[str, int]]
    devices: list[tuple[int | str, str]]
    claims: list[tuple[str, int]]
    pods: list[tuple[list[int], int]]

    def reached(self, device: int) -> set[int]:
        """Nodes that reach the device."""
        where = self.devices[device][0]
        if isinstance(where, int):
            return {where}
        return {number for number, (zone, _) in enumerate(self.nodes) if where in ("", zone)}

    def world(self) -> World:
        made = queue("default") + device_class("any", "true")
        for model in MODELS:
            made += device_class(model, f'device.attributes["net"].model == "{model}"')
        for number, (zone, cpu) in enumerate(self.nodes):
            made += node(f"n{number}", cpu=cpu, labels={"zone": zone})
        for number, (where, model) in enumerate(self.devices):
            made += world(slices=(_slice(f"d{number}", where, model),))
        for number, (model, count) in enumerate(self.claims):
            made += claim(f"c{number}", ask(count, of=model or "any"))
        pods = [
            pod(f"p{number}", cpu=cpu, claims={f"c{each}": f"c{each}" for each in own})
            for number, (own, cpu) in enumerate(self.pods)
        ]
        return made + gang_of("g", pods)

    def feasible(self) -> bool:
        """Whether all pods find room and devices, by trying every way."""
        for places in product(range(len(self.nodes)), repeat=len(self.pods)):
            used = [0] * len(self.nodes)
            for place, (_, cpu) in zip(places, self.pods, strict=True):
                used[place] += cpu
            if all(used[n] <= cpu for n, (_, cpu) in enumerate(self.nodes)) and any(self._given(places, 0, set())):
                return True
        return False

    def _given(self, places: tuple[int, ...], first: int, taken: set[int]) -> Iterator[bool]:
        if first == len(self.claims):
            yield True
            return
        model, count = self.claims[first]
        at = {place for place, (own, _) in zip(places, self.pods, strict=True) if first in own}
        able = [
            d
            for d, (_, its) in enumerate(self.devices)
            if d not in taken and model in ("", its) and at <= self.reached(d)
        ]
        for chosen in combinations(able, count if at else 0):
            yield from self._given(places, first + 1, taken.union(chosen))


def _slice(name: str, where: int | str, model: str) -> ResourceSlice:
    spec = ResourceSliceSpec(
        driver="net",
        pool=ResourcePool(name=name, generation=1, resource_slice_count=1),
        node_name=f"n{where}" if isinstance(where, int) else None,
        node_selector=label_in("zone", where) if isinstance(where, str) and where else None,
        all_nodes=True if where == "" else None,
        devices=(Device(name=name, attributes={"model": DeviceAttribute(string=model)}),),
    )
    return ResourceSlice(metadata=ObjectMeta(name=name, uid=name), spec=spec)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    nodes = draw(st.lists(st.tuples(st.sampled_from(ZONES), st.integers(1, 3)), min_size=1, max_size=3))
    where = st.one_of(st.just(""), st.sampled_from(ZONES), st.integers(0, len(nodes) - 1))
    claims = draw(
        st.lists(st.tuples(st.sampled_from(["", "", *MODELS]), st.sampled_from([1, 1, 2])), min_size=1, max_size=5)
    )
    own = st.lists(st.integers(0, len(claims) - 1), min_size=1, max_size=2, unique=True)
    return Case(
        nodes=nodes,
        devices=draw(st.lists(st.tuples(where, st.sampled_from(MODELS)), min_size=1, max_size=6)),
        claims=claims,
        pods=draw(st.lists(st.tuples(own, st.integers(1, 2)), min_size=1, max_size=4)),
    )


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_a_gang_for_which_there_is_a_place_is_placed_or_told_that_nothing_is_proved(case: Case) -> None:
    made = case.world()
    decided = plan(made)
    assert check(made, decided) == ()
    (decision,) = decided.gangs
    if not case.feasible():
        assert decision.verdict is not Verdict.PLACED
    elif decision.verdict is not Verdict.PLACED:
        assert decision.verdict is Verdict.PENDING
        assert isinstance(decision.reason, GangDoesNotFit)
        assert not decision.reason.proved
