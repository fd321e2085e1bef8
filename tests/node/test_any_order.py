"""Claims that come and go in any order, a plugin that dies anywhere, GPUs that fail: no device twice, and no leak.

A model of who was told that his devices are ready and has not given them back; the node is compared with it.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dra_driver.devices import ClaimRef, Grant, Kind, Phase, Prepared
from dra_driver.disk import Disk
from dra_driver.facts import Failure, Placement
from dra_driver.holding import excludes
from dra_driver.prepare import PrepareError
from tests.node.endings import Ended
from tests.node.plants import EXCLUSIVE, GIB, MPS, Plant, answer, claim, grant
from tests.node.test_recovery import Server, recover

T = TypeVar("T")
CLAIMS = tuple(claim(name) for name in "abcd")
PARTS = ("mig-3g40gb-9-0", "mig-3g40gb-9-4", "mig-1g10gb-19-0", "mig-1g10gb-19-3", "mig-2g20gb-14-2")
WHOLE = tuple(grant(f"gpu-{number}", settings=each) for number in (0, 1) for each in (MPS, EXCLUSIVE))
MADE = tuple(grant(f"gpu-{number}-{part}") for number in (0, 1) for part in PARTS)
SHARES = tuple(grant("gpu-1", share_id=f"s{gib}", memory_bytes=gib * GIB) for gib in (10, 30, 50))
LOOKS = (grant("gpu-0", admin=True), replace(MADE[0], admin=True))
GRANTS = st.one_of(*(st.sampled_from(kind) for kind in (WHOLE, MADE, SHARES, LOOKS)))
FAILURES = (
    ("set_mig", Failure.IN_USE),
    ("create_instance", Failure.UNKNOWN),
    ("create_compute_instance", Failure.INSUFFICIENT_RESOURCES),
    ("destroy_instance", Failure.IN_USE),
    ("destroy_gpu_instance", Failure.UNKNOWN),
    ("set_compute_mode", Failure.TIMEOUT),
    ("instances", Failure.UNKNOWN),
    ("gpus", Failure.UNKNOWN),
)


class Fuse(Disk):
    """After so many steps of disk and hardware together the process ends."""

    left: int | None = None

    def burn(self, _: str = "") -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Ended

    def change(self, step: str, path: Path, act: Callable[[], T]) -> T:
        self.burn()
        return super().change(step, path, act)


class AnyOrder(RuleBasedStateMachine):
    """`ready`: what claims were told. An operator has an instance of his own on the third GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.server = Server()
        self.ready: dict[str, tuple[tuple[Grant, ...], list[tuple[object, ...]]]] = {}
        self.fuse = Fuse()
        self.plant = Plant(self.folder / "node", machine="h100x3", shares=True, disk=self.fuse, step=self.fuse.burn)

    @initialize()
    def begin(self) -> None:
        operators = self.plant.gpus.uuids[2]
        self.plant.gpus.set_mig(operators, True)
        self.theirs = self.plant.gpus.create_instance(operators, 19, Placement(start=3, size=1))
        recover(self.plant, self.server)

    @rule(claim=st.sampled_from(CLAIMS), given=st.lists(GRANTS, min_size=1, max_size=3))
    def prepare(self, claim: ClaimRef, given: list[Grant]) -> None:
        """As the kubelet does: with what the claim was given, the same while it is prepared."""
        grants = self.ready[claim.uid][0] if claim.uid in self.ready else tuple(given)
        self.server.put(claim, *grants)
        try:
            devices = self.plant.again().preparer.prepare(claim, grants)
        except PrepareError:
            # In a claim that is ready only what this test lets fail may fail, and it is forgotten below.
            return
        told = grants, answer(devices)
        assert self.ready.setdefault(claim.uid, told) == told

    @rule(claim=st.sampled_from(CLAIMS))
    def unprepare(self, claim: ClaimRef) -> None:
        try:
            self.plant.again().preparer.unprepare(claim)
        except PrepareError:
            pass
        else:
            assert claim.uid not in {entry.claim.uid for entry in self.plant.entries}
            self._over(claim)
        self.ready.pop(claim.uid, None)

    @rule(
        claim=st.sampled_from(CLAIMS),
        given=st.lists(GRANTS, min_size=1, max_size=2),
        steps=st.integers(0, 40),
        ends=st.booleans(),
    )
    def crash(self, claim: ClaimRef, given: list[Grant], steps: int, ends: bool) -> None:
        """The plugin ends while it prepares or gives back; another starts."""
        grants = self.ready[claim.uid][0] if claim.uid in self.ready else tuple(given)
        self.server.put(claim, *grants)
        self.fuse.left = steps
        try:
            if ends:
                self.plant.again().preparer.unprepare(claim)
            else:
                self.plant.again().preparer.prepare(claim, grants)
        except (Ended, PrepareError):
            pass
        finally:
            self.fuse.left = None
        recover(self.plant, self.server)
        if ends:
            self.ready.pop(claim.uid, None)

    @rule(first=st.booleans())
    def restart(self, first: bool) -> None:
        recover(self.plant, self.server, first=first)

    @rule()
    def reboot(self) -> None:
        """What was ready is prepared anew, or asked for again."""
        operators = self.plant.gpus.uuids[2]
        self._let_nothing_fail()
        self.plant.gpus.reboot()
        self.plant.gpus.set_mig(operators, True)
        self.theirs = self.plant.gpus.create_instance(operators, 19, Placement(start=3, size=1))
        recover(self.plant, self.server)

    @rule(claim=st.sampled_from(CLAIMS))
    def delete(self, claim: ClaimRef) -> None:
        """By force: nobody gives it back."""
        self.server.documents.pop((claim.namespace, claim.name), None)
        recover(self.plant, self.server, first=False)
        self.ready.pop(claim.uid, None)

    @precondition(lambda self: self.plant.entries)
    @rule(both=st.booleans())
    def lose_the_checkpoint(self, both: bool) -> None:
        self.plant.checkpoint.path.write_bytes(b"")
        if both:
            self.plant.checkpoint.path.with_name("checkpoint.json.previous").unlink(missing_ok=True)
        recover(self.plant, self.server)

    @rule(fails=st.sampled_from(FAILURES))
    def let_fail(self, fails: tuple[str, Failure]) -> None:
        """The next call of this name fails, once."""
        if not any(refusal for refusal in self._refusals()):
            self.plant.gpus.refuse(*fails)

    @invariant()
    def no_device_twice(self) -> None:
        if self.plant.checkpoint.load().lost:
            return
        held = [(entry.claim.uid, device) for entry in self.plant.entries for device in entry.devices]
        for number, (uid, device) in enumerate(held):
            for other, second in held[number + 1 :]:
                assert not excludes(device, second), (uid, device, other, second)
        shares = [device.grant.memory_bytes or 0 for _, device in held if device.grant.share_id]
        assert sum(shares) < 80 * GIB

    @invariant()
    def who_was_told_so_has_it(self) -> None:
        if self.plant.checkpoint.load().lost:
            return
        entries = {entry.claim.uid: entry for entry in self.plant.entries}
        for uid, (grants, told) in self.ready.items():
            assert entries[uid].phase is Phase.DONE
            assert tuple(device.grant for device in entries[uid].devices) == grants
            assert answer(entries[uid].devices) == told

    @invariant()
    def the_operators_instance_stands(self) -> None:
        if hasattr(self, "theirs"):
            assert any(each.uuid == self.theirs.uuid for each in self._instances(2))

    def teardown(self) -> None:
        """All is given back: nothing is left."""
        try:
            self._let_nothing_fail()
            if hasattr(self, "theirs"):
                self.server.documents.clear()
                recover(self.plant, self.server)
                for each in CLAIMS:
                    self.plant.again().preparer.unprepare(each)
                for uuid in self.plant.gpus.uuids[:2]:  # a mode that somebody who looks on kept from ending
                    self.plant.gpus.set_mig(uuid, False)
                assert self.plant.left == {"instances": {"gpu-2": ["1g.10gb@3"]}}
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _let_nothing_fail(self) -> None:
        for call, _ in FAILURES:
            self.plant.gpus.allow(call)

    def _over(self, claim: ClaimRef) -> None:
        assert claim.uid not in self.plant.specs.uids()

    def _refusals(self) -> list[object]:
        with self.plant.gpus._keeper.machine() as machine:
            return list(machine.refusals)

    def _instances(self, index: int) -> tuple[object, ...]:
        with self.plant.gpus._keeper.machine() as machine:
            card = machine.cards[index]
            return tuple(card.cuts)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_the_model_knows_who_excludes_whom() -> None:
    """The invariant above is no better than this."""
    whole = Prepared(grant=grant("gpu-0"), kind=Kind.GPU, gpu="G")
    part = Prepared(grant=grant("p"), kind=Kind.MIG, gpu="G", profile_id=9, placement=Placement(start=0, size=4))
    beside = replace(part, placement=Placement(start=4, size=4))
    across = replace(part, profile_id=19, placement=Placement(start=3, size=1))
    assert [excludes(whole, part), excludes(part, across), excludes(part, part)] == [True] * 3
    assert [excludes(part, beside), excludes(replace(whole, gpu="H"), part)] == [False] * 2
    with pytest.raises(AssertionError):
        assert not excludes(whole, whole)
