"""What is put right at the start, and again from time to time: halves, losses, reboots, claims that are gone, garbage.

What was given away is known from three places, best first: the checkpoint; the claims' CDI files, each of which bears
its entry; the API server, which tells who has devices of this node reserved. A MIG instance that neither of the first
two knows is an operator's: it is published as one, and never destroyed.

Twice under the node's lock, with the API server asked in between: a claim counts as gone only if its entry was there
before that, and is unchanged after it.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from dra_driver.checkpoint import Loaded
from dra_driver.devices import ClaimRef, Entry, Grant, Phase
from dra_driver.grants import ClaimRefused, NotHere
from dra_driver.holding import excludes, same_grants
from dra_driver.prepare import FAILURES, Node, Preparer, told
from scheduler.kube.client import ApiError

Document = Mapping[str, Any]
T = TypeVar("T")


class Alone(Protocol):
    """Does something in a thread, under the node's lock (`dra_driver.claims.Claims.alone`)."""

    def __call__(self, do: Callable[[], T], /) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A claim as the API server has it. `grants`: what of this node it was given, None if that cannot be read."""

    claim: ClaimRef
    grants: tuple[Grant, ...] | None
    reserved: bool


Answers = Mapping[str, Known | None]
"""By uid: None is a claim that is gone, or another by now. Who is not in it could not be asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was there before the API server was asked. `strays`: entries that only a CDI file bears."""

    entries: tuple[Entry, ...]
    strays: tuple[Entry, ...]
    lost: bool


@dataclass(slots=True, kw_only=True)
class Report:
    """In words, for log and events: what was put right, and what could not be and is tried again."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Api:
    """The API server, as far as recovery asks it. `fetch`: a claim by namespace and name; `every`: all of the cluster;
    both raise ApiError. `grants`: what a claim's document gives of this driver on this node; raises ClaimRefused."""

    def __init__(
        self,
        *,
        fetch: Callable[[str, str], Awaitable[Document]],
        every: Callable[[], Awaitable[Sequence[Document]]],
        grants: Callable[[Document], tuple[Grant, ...]],
    ) -> None:
        self._fetch, self._every, self._grants = fetch, every, grants

    async def ask(self, claims: Iterable[ClaimRef], *, all_of_them: bool) -> Answers:
        """What became of these claims; `all_of_them`: and who else there is. Raises ApiError if all are wanted and the
        server does not answer; else who could not be asked for is missing."""
        if all_of_them:
            documents = await self._every()
            found = {known.claim.uid: known for known in map(self._known, documents)}
            return {**dict.fromkeys(claim.uid for claim in claims), **found}
        answers: dict[str, Known | None] = {}
        for claim in claims:
            try:
                known = self._known(await self._fetch(claim.namespace, claim.name))
            except ApiError as error:
                if error.not_found:
                    answers[claim.uid] = None
                continue
            answers[claim.uid] = known if known.claim.uid == claim.uid else None
        return answers

    def _known(self, document: Document) -> Known:
        metadata, status = document.get("metadata") or {}, document.get("status") or {}
        claim = ClaimRef(
            namespace=metadata.get("namespace", ""), name=metadata.get("name", ""), uid=metadata.get("uid", "")
        )
        grants: tuple[Grant, ...] | None = ()
        if status.get("allocation"):
            try:
                grants = self._grants(document)
            except NotHere:
                grants = ()  # As if nothing were allocated: it went to another node while this one was away.
            except ClaimRefused:
                grants = None
        return Known(claim=claim, grants=grants, reserved=bool(status.get("reservedFor")))


class Recovery:
    """Puts right what is wrong on the node. `begin` and `reconcile` under the node's lock; they raise DiskError and
    CheckpointTooNew, and tell all else in the report."""

    def __init__(self, node: Node, preparer: Preparer) -> None:
        self._node = node
        self._preparer = preparer

    async def run(self, api: Api, alone: Alone, *, first: bool) -> Report:
        """All of it. `first`: at the start of the plugin.

        Raises ApiError if the checkpoint is lost and the API server cannot be asked who has what: until then nothing is
        prepared. It is to be called again."""
        seen, begun = await alone(lambda: self.begin(first=first))
        entries = (*seen.entries, *seen.strays)
        answers = await api.ask([entry.claim for entry in entries], all_of_them=seen.lost)
        rest = await alone(lambda: self.reconcile(seen, answers))
        return Report(done=begun.done + rest.done, failed=begun.failed + rest.failed)

    def begin(self, *, first: bool) -> tuple[Seen, Report]:
        """What needs no API server: halves are undone; at the `first` run what is DONE is looked at, and mended."""
        report = Report()
        self._node.specs.sweep()
        self._node.checkpoint.sweep()
        loaded = self._node.checkpoint.load()
        report.failed += loaded.problems
        if not loaded.lost:
            self._preparer.load()
            self._settle(report)
            if first:
                self._mend(report)
        entries = self._node.checkpoint.load().entries
        return Seen(entries=entries, strays=self._strays(entries), lost=loaded.lost), report

    def reconcile(self, seen: Seen, answers: Answers) -> Report:
        """What the API server's answers tell, and then garbage."""
        report = Report()
        loaded = self._node.checkpoint.load()
        if loaded.lost and not seen.lost:
            return report  # Damaged this very moment: the next run asks for all claims.
        adopted = self._rebuild(loaded, report) if loaded.lost else self._adopt(seen, report)
        for entry in self._preparer.load():
            if entry in seen.entries or entry.claim.uid in adopted:
                self._judge(entry, answers, report, doubtful=entry.claim.uid in adopted)
        self._settle(report)
        if loaded.lost:
            self._prepare_unknown(answers, report)
        self._collect(report)
        return report

    # --- halves, and what is DONE ---

    def _settle(self, report: Report) -> None:
        """STARTED is rolled back: who still wants the claim asks again. ENDING is brought to its end."""
        for entry in self._preparer.load():
            if entry.phase is not Phase.DONE:
                what = "rolled back" if entry.phase is Phase.STARTED else "given back"
                self._try(entry.claim, what, report, partial(self._preparer.end, entry))

    def _mend(self, report: Report) -> None:
        """Daemons that died with the plugin, files that somebody removed, instances that a reset destroyed."""
        boot = self._node.boot()
        for entry in self._preparer.load():
            if entry.phase is Phase.DONE and entry.boot == boot:
                self._try(entry.claim, "", report, partial(self._preparer.finish, entry))

    # --- what a loss has left ---

    def _strays(self, entries: Iterable[Entry]) -> tuple[Entry, ...]:
        known = {entry.claim.uid for entry in entries}
        borne = (self._node.specs.read(uid) for uid in self._node.specs.uids() if uid not in known)
        return tuple(entry for entry in borne if entry is not None)

    def _rebuild(self, loaded: Loaded, report: Report) -> frozenset[str]:
        """Entries of the files, and beside them those of an older generation that no file contradicts. Whose."""
        borne = [entry for uid in self._node.specs.uids() if (entry := self._node.specs.read(uid)) is not None]
        uids = {entry.claim.uid for entry in borne}
        held = [device for entry in borne for device in entry.devices]
        older = []
        for entry in loaded.entries:
            free = tuple(device for device in entry.devices if not any(excludes(device, other) for other in held))
            if entry.claim.uid not in uids and free:
                older.append(entry if free == entry.devices else replace(entry, devices=free, phase=Phase.ENDING))
        entries = [*borne, *older]
        aside = self._preparer.adopt(entries)
        if loaded.problems or entries:
            kept = f"; what was damaged is in {', '.join(map(str, aside))}" if aside else ""
            report.done.append(
                f"Checkpoint: rebuilt with {len(entries)} claims, {len(borne)} of them from CDI files{kept}."
            )
        return frozenset(entry.claim.uid for entry in entries)

    def _adopt(self, seen: Seen, report: Report) -> frozenset[str]:
        """Files without an entry: it is put back where nobody else has its devices. Whose."""
        known = {entry.claim.uid for entry in self._preparer.load()}
        adopted = set()
        for entry in seen.strays:
            if entry.claim.uid in known or self._node.specs.read(entry.claim.uid) != entry:
                continue
            free = tuple(device for device in entry.devices if not self._preparer.conflict(entry.claim, device))
            if free:
                kept = entry if free == entry.devices else replace(entry, devices=free, phase=Phase.ENDING)
                self._preparer.take(kept)
                adopted.add(entry.claim.uid)
                report.done.append(f"Claim {_name(entry.claim)}: was missing in the checkpoint, and has a CDI file.")
        return frozenset(adopted)

    def _prepare_unknown(self, answers: Answers, report: Report) -> None:
        """Who has devices of this node reserved, and is in no entry: it may have been prepared."""
        here = {entry.claim.uid for entry in self._preparer.load()}
        for uid in sorted(answers):
            known = answers[uid]
            if known is not None and known.reserved and known.grants and uid not in here:
                again = partial(self._preparer.prepare, known.claim, known.grants)
                self._try(known.claim, "prepared as the API server tells it", report, again)

    # --- what the API server tells ---

    def _judge(self, entry: Entry, answers: Answers, report: Report, *, doubtful: bool) -> None:
        """A claim's entry is kept, made anew, or ended. `doubtful`: it is of a loss, and may be too old."""
        if entry.claim.uid not in answers or entry.phase is not Phase.DONE:
            return
        known = answers[entry.claim.uid]
        if known is None:
            self._end(entry, "the claim is gone", report)
        elif known.grants is not None and not same_grants(entry.devices, known.grants):
            self._end(entry, "other devices, or none, are allocated to it", report)
        elif not known.reserved and (doubtful or entry.boot != self._node.boot()):
            self._end(entry, "nobody has it reserved", report)
        elif entry.boot != self._node.boot():
            grants = tuple(device.grant for device in entry.devices)
            what = "prepared anew after a reboot"
            self._try(entry.claim, what, report, partial(self._preparer.prepare, entry.claim, grants))
        elif doubtful:
            self._try(entry.claim, "", report, partial(self._preparer.finish, entry))

    def _end(self, entry: Entry, why: str, report: Report) -> None:
        self._try(entry.claim, f"given back: {why}", report, partial(self._preparer.end, entry))

    # --- garbage ---

    def _collect(self, report: Report) -> None:
        """Files that no entry knows, and what the sharing of devices has left running."""
        entries = self._preparer.load()
        known = {entry.claim.uid for entry in entries}
        for uid in self._node.specs.uids():
            if uid not in known and self._node.specs.remove(uid):
                report.done.append(f"Claim with uid {uid}: its CDI file was left over, and is removed.")
        for entry in entries:
            if self._node.specs.stands(entry) and self._node.specs.replaces(entry.claim.uid):
                report.done.append(f"Claim {_name(entry.claim)}: the CDI file of NVIDIA's driver is removed.")
        boot = self._node.boot()
        kept = tuple((entry.claim, device) for entry in entries if entry.boot == boot for device in entry.devices)
        try:
            report.done += self._node.sharing.collect(kept)
        except FAILURES as error:
            report.failed.append(f"What nobody shares any more: not all ended: {told(error)}")

    def _try(self, claim: ClaimRef, what: str, report: Report, act: Callable[[], object]) -> None:
        """One claim's trouble keeps no other from being put right. `what` it is when it is done, to be reported; an
        `act` that says False has to wait."""
        try:
            waits = act() is False
        except FAILURES as error:
            report.failed.append(f"Claim {_name(claim)}: not {what or 'whole'}: {told(error)}")
        else:
            if what and not waits:
                report.done.append(f"Claim {_name(claim)}: {what}.")


def _name(claim: ClaimRef) -> str:
    return f"{claim.namespace}/{claim.name}"
