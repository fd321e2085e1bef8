"""Who may go, node by node: found once for all who may stop the same, and kept as the plan grows.

What a gang may lose is the same whoever asks; only whether it may lose it differs. So it is found once for a stage, and
again when the gang has lost pods.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from queues.resources import Resources
from scheduler.model.workloads import Gang
from scheduler.plan.ahead.departures import leaves
from scheduler.plan.desk import Desk
from scheduler.plan.ground.accounts import GPU
from scheduler.plan.ground.shapes import Bundle, claims_of
from scheduler.plan.making_room.losses import Holding, Loss, losses, ranks_of
from scheduler.plan.making_room.scenario import caps_of
from scheduler.solver.harm import Part

Harm = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Pods that go together: a whole gang, or one pod that its gang can spare, of which there are `spare`. `gives`:
    what its node has more then; `kind`: equal for those that cost the same `queue` the same `relief`."""

    losses: tuple[Loss, ...]
    harm: Harm
    gives: Mapping[str, int]
    gang: Gang
    whole: bool
    spare: int
    queue: str
    relief: Resources
    kind: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stake:
    """What a gang may lose, by itself; the part is numbered from 0. `relief`: of all of it together."""

    losses: tuple[Loss, ...]
    part: Part
    relief: Resources
    kinds: tuple[int, ...]
    kind: int


class Stakes:
    """Of all gangs, for one stage of a plan; found when asked for."""

    def __init__(self, desk: Desk, *, moves: bool) -> None:
        """`moves`: whether everybody who goes needs another place."""
        self.desk = desk
        self._moves = moves
        self._known: dict[tuple[str, bool], tuple[int, Stake]] = {}
        self._kinds: dict[tuple[str, Resources], int] = {}
        self._moved: dict[str, Bundle] = {}

    def of(self, holding: Holding) -> Stake:
        """What this one may lose now."""
        desk, gang = self.desk, holding.gang
        gone = sum(1 for pod in gang.pods if pod.key in desk.leaving) if desk.leaving else 0
        known = self._known.get((gang.key, holding.firm))
        if known is None or known[0] != gone:
            known = self._known[gang.key, holding.firm] = gone, self._stake(holding)
        return known[1]

    def elsewhere(self, loss: Loss) -> Bundle:
        """The pod as it would be asked for if its gang were moved: without its node and the devices it has there."""
        desk, pod = self.desk, loss.pod
        if pod.key not in self._moved:
            stay = desk.snapshot.spared | self._of_no_use(loss.gang)
            there = [each for each in loss.gang.pods if each.node and each.key not in stay and not leaves(each, desk)]
            for each in there:
                desk.ledger.vacate(each, desk.snapshot.claims)
            for each in there:
                (self._moved[each.key],) = desk.shapes.bundles([replace(each, node="")])
            for each in reversed(there):
                desk.ledger.reoccupy(each, desk.snapshot.claims)
        return self._moved[pod.key]

    def _stake(self, holding: Holding) -> Stake:
        desk = self.desk
        found, (part,) = losses(
            [holding],
            desk.snapshot.now_ms,
            desk.accounts.relief,
            caps=caps_of(desk),
            spared=desk.snapshot.spared | holding.staying | self._of_no_use(holding.gang),
            leaving=desk.leaving,
        )
        relief = found[0].relief if len(found) == 1 else desk.accounts.relief([loss.pod for loss in found])
        kinds = tuple(self._kind(holding.queue, loss.relief) for loss in found)
        return Stake(losses=found, part=part, relief=relief, kinds=kinds, kind=self._kind(holding.queue, relief))

    def _kind(self, queue: str, relief: Resources) -> int:
        return self._kinds.setdefault((queue, relief), len(self._kinds))

    def _of_no_use(self, gang: Gang) -> frozenset[str]:
        """Pods (key) on nodes that are not there any more: whoever ends them makes no room, and their gangs are not
        asked to go as a whole for others before it is known what they have left. Where everybody needs another place,
        also those whose claims are gone: nobody knows what they would need there."""
        nodes, claims = self.desk.ledger.nodes, self.desk.snapshot.claims
        return frozenset(
            pod.key
            for pod in gang.pods
            if pod.node
            and (
                pod.node not in nodes
                or (self._moves and any(c not in claims for c in claims_of(pod) if c != pod.extended_claim))
            )
        )


class Leavers:
    """Those of some gangs that may go, as options by node, the least harmful first. `parted`: whether gangs may lose
    parts of parts, which options do not tell; `spread`: whether somebody may go on several nodes."""

    def __init__(self, stakes: Stakes, holdings: Iterable[Holding]) -> None:
        self.changes: list[str] = []
        """Nodes in the order in which options on them changed."""
        self._stakes = stakes
        self._desk = stakes.desk
        self._seen = len(self._desk.evictions)
        self._holdings = {holding.gang.key: holding for holding in holdings}
        self._gang_of: dict[str, str] = {}
        self._kind_of: dict[str, int] = {}
        self._samples: dict[tuple[int, str], Loss] = {}
        found: list[Loss] = []
        for holding in self._holdings.values():
            stake = stakes.of(holding)
            found += stake.losses
            self._gang_of.update((loss.pod.key, holding.gang.key) for loss in stake.losses)
        self._ranks, self._ages = ranks_of(found)
        self.parted = self.spread = False
        self._by_gang: dict[str, dict[str, list[Option]]] = {}
        self._here: dict[str, dict[str, None]] = {}
        self._sorted: dict[str, tuple[Option, ...]] = {}
        for holding in self._holdings.values():
            self._enlist(holding)

    def renew(self) -> None:
        """Look who has left since."""
        desk = self._desk
        if self._seen == len(desk.evictions):
            return
        gone = (self._gang_of.get(eviction.pod) for eviction in desk.evictions[self._seen :])
        self._seen = len(desk.evictions)
        for key in dict.fromkeys(filter(None, gone)):
            for node in self._by_gang.pop(key, {}):
                del self._here[node][key]
                self._changed(node)
            self._enlist(self._holdings[key])

    def at(self, node: str) -> tuple[Option, ...]:
        """The options of the node."""
        known = self._sorted.get(node)
        if known is None:
            options = [option for gang in self._here.get(node, ()) for option in self._by_gang[gang][node]]
            known = self._sorted[node] = tuple(sorted(options, key=lambda each: (each.harm, each.gang.key)))
        return known

    def elsewhere(self, loss: Loss) -> Bundle:
        """The pod as it would be asked for if its gang were moved."""
        return self._stakes.elsewhere(loss)

    def all_losses(self) -> tuple[tuple[Loss, ...], tuple[Part, ...]]:
        """What may go, numbered, and the gangs that it belongs to."""
        found: list[Loss] = []
        parts: list[Part] = []
        for holding in self._holdings.values():
            stake = self._stakes.of(holding)
            parts.append(_shifted(stake.part, len(found)))
            found += stake.losses
        return tuple(found), tuple(parts)

    def kind_of(self, pod: str) -> int:
        """Equal for pods (key) that cost the same queue the same; -1 for what may not go."""
        return self._kind_of.get(pod, -1)

    def sample(self, kind: int, gang: str = "") -> Loss:
        """A pod of this kind, of this gang (key) if one is named."""
        return self._samples[kind, gang]

    @property
    def nothing(self) -> Harm:
        """The harm that is none."""
        return (0,) * (len(self._ranks) + 3)

    def _changed(self, node: str) -> None:
        self._sorted.pop(node, None)
        self.changes.append(node)

    def _enlist(self, holding: Holding) -> None:
        """Each of its pods that the gang can spare, or all of them."""
        stake = self._stakes.of(holding)
        if not stake.losses:
            return
        part, key = stake.part, holding.gang.key
        for loss, kind in zip(stake.losses, stake.kinds, strict=True):
            self._kind_of[loss.pod.key] = kind
            self._samples.setdefault((kind, key), loss)
            self._samples.setdefault((kind, ""), loss)
        nodes = dict.fromkeys(loss.pod.node for loss in stake.losses)
        self.parted = self.parted or bool(part.below)
        spares = part.spare if part.candidates else 0
        if len(nodes) > 1 and (spares or not part.firm):
            self.spread = True
        mine: dict[str, list[Option]] = {}
        if not part.firm:
            harm = self._harm(stake.losses, whole=True)
            for node in nodes:
                mine.setdefault(node, []).append(
                    Option(
                        losses=stake.losses,
                        harm=harm,
                        gives=_given(stake.losses, node, part.frees.get(node, {})),
                        gang=holding.gang,
                        whole=True,
                        spare=0,
                        queue=holding.queue,
                        relief=stake.relief,
                        kind=stake.kind,
                    )
                )
        for loss, kind in zip(stake.losses, stake.kinds, strict=True) if spares else ():
            mine.setdefault(loss.pod.node, []).append(
                Option(
                    losses=(loss,),
                    harm=self._harm((loss,), whole=False),
                    gives=_given((loss,), loss.pod.node, {}),
                    gang=holding.gang,
                    whole=False,
                    spare=spares,
                    queue=holding.queue,
                    relief=loss.relief,
                    kind=kind,
                )
            )
        if mine:
            self._by_gang[key] = mine
        for node in mine:
            self._here.setdefault(node, {})[key] = None
            self._changed(node)

    def _harm(self, losses: Sequence[Loss], *, whole: bool) -> Harm:
        tiers = [0] * len(self._ranks)
        for loss in losses:
            tiers[self._ranks[loss.gang.priority]] += loss.weight
        return (*tiers, int(whole), len(losses), sum(self._ages[loss.gang.key] for loss in losses))


def freed_gpus(loss: Loss) -> int:
    """What becomes free of GPUs when the pod leaves, in thousandths. Parts of a GPU were rounded down one by one, and
    together they are more."""
    gpus = loss.relief[GPU]
    return gpus + (gpus % 1000 > 0)


def _given(losses: Iterable[Loss], node: str, more: Mapping[str, int]) -> dict[str, int]:
    gives = dict(more)
    for loss in losses:
        if loss.pod.node == node:
            for name, amount in loss.pod.requests.amounts.items():
                gives[name] = gives.get(name, 0) + amount
            gpus = freed_gpus(loss)
            if gpus:
                gives[GPU] = gives.get(GPU, 0) + gpus
    return gives


def _shifted(part: Part, by: int) -> Part:
    if not by:
        return part
    return Part(
        candidates=tuple(number + by for number in part.candidates),
        below=tuple(_shifted(below, by) for below in part.below),
        spare=part.spare,
        whole=part.whole,
        firm=part.firm,
        frees=part.frees,
    )
