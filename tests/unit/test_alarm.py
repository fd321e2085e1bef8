"""A device given twice is told to everybody whom it concerns."""

from scheduler.explain import alarm
from scheduler.model.reasons import DeviceGivenTwice, Holding


def test_both_claims_and_their_pods_get_a_warning_that_names_device_and_claims():
    found = DeviceGivenTwice(
        device="d/p/g0",
        first=Holding(claim="a/x", uid="ux", pods=(("a/p", "up"),)),
        second=Holding(claim="b/y", uid="uy", pods=(("b/q", "uq"), ("b/r", "ur"))),
        version="7",
    )
    events = [write.body for write in alarm.events(found, now_ms=0, component="tutti")]
    told = [
        (each["involvedObject"]["kind"], each["metadata"]["namespace"], each["involvedObject"]["uid"])
        for each in events
    ]
    assert told == [
        ("ResourceClaim", "a", "ux"),
        ("Pod", "a", "up"),
        ("ResourceClaim", "b", "uy"),
        ("Pod", "b", "uq"),
        ("Pod", "b", "ur"),
    ]
    assert {(each["reason"], each["type"]) for each in events} == {("DeviceGivenTwice", "Warning")}
    assert (
        "Device d/p/g0 is held by ResourceClaim a/x and, since resource version 7, by ResourceClaim b/y"
        in (events[0]["message"])
    )
