"""Alternatives that a queue has no room for are left out, so that the next on the user's list is taken.

The allocator takes alternatives in the user's order and knows of no queue. Where what it took is more than a queue may
have of some resource, the gang's claims are asked again without their dearest alternatives: those of the last pods
first, as many as it takes, and if that is not enough, all. Source: KEP 4816 (firstAvailable); limits: `queues.limits`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from queues.reasons import OverLimit, OverQuota
from scheduler.api.dra import DeviceRequest, DeviceSubRequest
from scheduler.model.reasons import GangDoesNotFit, Reason
from scheduler.model.workloads import Claim
from scheduler.plan.desk import Desk, Placed
from scheduler.plan.ground.accounts import Accounts
from scheduler.plan.pieces import Wanted

MOST_ROUNDS = 8
"""How often the claims of one piece are narrowed."""


def within(
    desk: Desk, piece: Wanted, answer: Placed | Reason, again: Callable[[], Placed | Reason | None]
) -> Placed | Reason:
    """`answer`, or if a queue refused it, what `again` answers for the piece with fewer alternatives.

    If that finds no place either, the reason is the first of the refusals that may pass; else that there is too little
    room for what is left, which proves nothing; else the first refusal."""
    claims = [claim for bundle in piece.all_bundles() for claim in bundle.asks]
    refusals: list[OverLimit | OverQuota] = []
    narrowed: dict[str, Claim] = {}
    try:
        for _ in range(MOST_ROUNDS):
            if not isinstance(answer, OverLimit | OverQuota):
                break
            drastic = any(answer.resource == before.resource for before in refusals)
            refusals.append(answer)
            less = _narrower(
                [narrowed.get(claim.key, claim) for claim in claims], answer, desk.accounts, drastic=drastic
            )
            if not less:
                break
            narrowed.update(less)
            desk.shapes.narrow(narrowed)
            tried = again()
            if tried is None:
                break
            answer = tried
    finally:
        desk.shapes.narrow({})
    if isinstance(answer, Placed) or not refusals:
        return answer
    lasting = replace(answer, proved=False) if isinstance(answer, GangDoesNotFit) else refusals[0]
    return next((refusal for refusal in refusals if may_pass(refusal)), lasting)


def may_pass(refusal: OverLimit | OverQuota) -> bool:
    """A full queue empties; one that is too small for what is asked does not grow."""
    return refusal.asked <= (refusal.limit if isinstance(refusal, OverLimit) else refusal.quota)


def later(claim: Claim, drop: int) -> Claim:
    """The claim without the first so many alternatives of each request, the last one always left."""
    return _with_requests(
        claim,
        tuple(
            _only(request, *(request.first_available[drop:] or request.first_available[-1:]))
            if request.first_available
            else request
            for request in claim.spec.devices.requests or ()
        ),
    )


def _narrower(
    claims: Sequence[Claim], refusal: OverLimit | OverQuota, accounts: Accounts, *, drastic: bool
) -> dict[str, Claim]:
    """Those of the claims that can do with fewer alternatives: all of them if `drastic`, else from the last one on
    until as much is saved as is too much."""
    most = refusal.limit if isinstance(refusal, OverLimit) else refusal.quota
    over = refusal.allocated + refusal.asked - most
    found: dict[str, Claim] = {}
    for claim in reversed(claims):
        parts = [
            _cheaper(claim, request, refusal.resource, accounts, drastic=drastic)
            for request in claim.spec.devices.requests or ()
        ]
        saved = sum(part for _, part in parts)
        if saved:
            found[claim.key] = _with_requests(claim, tuple(request for request, _ in parts))
            over -= saved
            if over <= 0 and not drastic:
                break
    return found


def _cheaper(
    claim: Claim, request: DeviceRequest, resource: str, accounts: Accounts, *, drastic: bool
) -> tuple[DeviceRequest, int]:
    """The request without its dearest alternatives, or with its cheapest alone if `drastic`; and what that saves of the
    resource at most."""
    costs = [
        (accounts.least(_with_requests(claim, (_only(request, each),)))[resource], each)
        for each in request.first_available or ()
    ]
    levels = sorted({cost for cost, _ in costs})
    if len(levels) < 2:
        return request, 0
    most = levels[0] if drastic else levels[-2]
    return _only(request, *(each for cost, each in costs if cost <= most)), levels[-1] - most


def _only(request: DeviceRequest, *alternatives: DeviceSubRequest) -> DeviceRequest:
    return msgspec.structs.replace(request, first_available=alternatives)


def _with_requests(claim: Claim, requests: tuple[DeviceRequest, ...]) -> Claim:
    """The claim with these requests; constraints forget what is not asked for any more."""
    names = {request.name for request in requests}
    names |= {f"{request.name}/{each.name}" for request in requests for each in request.first_available or ()}
    constraints = []
    for constraint in claim.spec.devices.constraints or ():
        left = tuple(name for name in constraint.requests or () if name in names)
        if left or not constraint.requests:
            constraints.append(msgspec.structs.replace(constraint, requests=left or None))
    devices = msgspec.structs.replace(claim.spec.devices, requests=requests, constraints=tuple(constraints) or None)
    return replace(claim, spec=msgspec.structs.replace(claim.spec, devices=devices))
