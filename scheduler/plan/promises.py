"""Promises of earlier plans: room that was won by eviction is kept for its gang until it binds or gives up.

A promise outlives cycles and restarts as the nodes that the gang's pods are nominated to. Whoever ends there is on his
way out; as soon as they have left, the gang is placed before all others. Source: kube-scheduler (nominatedNodeName);
KEP 5278.
"""

from scheduler.model.reasons import RoomIsBeingMade
from scheduler.model.workloads import Gang
from scheduler.plan.allocate import place
from scheduler.plan.desk import Desk, Placed
from scheduler.plan.pieces import Wanted
from scheduler.plan.scenario import leaves, promise


def renew(desk: Desk) -> None:
    """Place the gangs whose room has become free, and keep the room of those whose has not."""
    for key in sorted(desk.wants, key=lambda key: _age(desk.wants[key].gang)):
        gang = desk.wants[key].gang
        nodes = {pod.nominated for pod in gang.pending if pod.nominated}
        if not nodes:
            continue
        piece = desk.wants[key].minimum()
        piece = desk.wants[key].growth() if piece is None else piece
        if not isinstance(piece, Wanted):
            continue
        placed = place(desk, gang, piece)
        if isinstance(placed, Placed):
            desk.order.setdefault(key, len(desk.order))
            desk.keep(gang, placed)
            continue
        _keep_room(desk, gang, piece, nodes)


def _keep_room(desk: Desk, gang: Gang, piece: Wanted, nodes: set[str]) -> None:
    """Promise the gang again what those who are leaving its nodes give up."""
    claims = desk.snapshot.claims
    leaving = [pod for pod in desk.snapshot.pods if leaves(pod, desk) and pod.node in nodes]
    if not leaving:
        return
    for pod in leaving:
        desk.ledger.vacate(pod, claims)
    fruitless, desk.fruitless = desk.fruitless, {}
    placed = place(desk, gang, piece)
    for pod in reversed(leaving):
        desk.ledger.reoccupy(pod, claims)
    desk.fruitless = fruitless
    if isinstance(placed, Placed):
        promise(desk, gang, placed.grants)
        desk.reasons[gang.key] = RoomIsBeingMade(gang=gang.key, pods=len(placed.grants), leaving=len(leaving))


def _age(gang: Gang) -> tuple[int, int, str]:
    return -gang.priority, gang.created_ms, gang.key
