"""Devices given twice -> Events on the claims that hold them and on their pods, as values."""

from collections.abc import Iterator

from scheduler.api import kinds
from scheduler.explain.events import Regarding, event
from scheduler.explain.status import StatusWrite
from scheduler.explain.why import sentence
from scheduler.model.reasons import DeviceGivenTwice


def events(found: DeviceGivenTwice, *, now_ms: int, component: str) -> Iterator[StatusWrite]:
    """A warning on both claims and on every pod that they are reserved for, whoever's they are."""
    for holding in (found.first, found.second):
        claim = Regarding(kind=kinds.RESOURCE_CLAIM, key=holding.claim, uid=holding.uid)
        pods = (Regarding(kind=kinds.POD, key=key, uid=uid) for key, uid in holding.pods)
        for regarding in (claim, *pods):
            body = event(
                regarding, reason=found.code, note=sentence(found), now_ms=now_ms, component=component, type_="Warning"
            )
            key = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
            yield StatusWrite(kind=kinds.EVENT, key=key, uid="", body=body, how="create")
