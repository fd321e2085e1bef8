"""Every device that two claims hold is found, at the event that made it so; nothing else is."""

import msgspec

from scheduler.api import changes, kinds
from scheduler.api.changes import Change
from scheduler.state.holders import Holders


def claim(name: str, *devices: str, version: int, uid: str = "", shares: tuple[str | None, ...] = (), **more: object):
    """A claim that holds devices of one pool, each whole or as a share; none: it is not allocated."""
    shared = shares or (None,) * len(devices)
    results = [
        {"request": "gpu", "driver": "d", "pool": "p", "device": device, **more}
        | ({"shareID": share} if share is not None else {})
        for device, share in zip(devices, shared, strict=True)
    ]
    consumer = {"resource": "pods", "name": f"of-{name}", "uid": f"pod of {name}"}
    status = {"allocation": {"devices": {"results": results}}, "reservedFor": [consumer]} if devices else {}
    metadata = {"name": name, "namespace": "a", "uid": uid or f"uid of {name}", "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"devices": {"requests": []}}, "status": status}


def told(document, type_="MODIFIED") -> Change:
    change = changes.read(kinds.RESOURCE_CLAIM, msgspec.json.encode(document), type_)
    assert change is not None
    return change


LISTED = changes.listed(kinds.RESOURCE_CLAIM)


def watching() -> Holders:
    """Of a cluster that had no claims when it was listed."""
    holders = Holders()
    assert holders.see([LISTED]) == ()
    return holders


def names(found) -> list[tuple[str, str, str]]:
    return [(each.device, each.first.claim, each.second.claim) for each in found]


def test_a_device_in_two_claims_is_found_once_at_the_event_that_made_it_so():
    holders = watching()
    assert holders.see([told(claim("x", "g0", "g1", version=1)), told(claim("y", version=2))]) == ()
    found = holders.see([told(claim("y", "g1", "g2", version=3))])
    assert names(found) == [("d/p/g1", "a/x", "a/y")]
    assert found[0].version == "3"
    assert found[0].second.pods == (("a/of-y", "pod of y"),)
    assert holders.see([told(claim("y", "g1", "g2", version=4))]) == ()
    assert holders.standing == found
    assert holders.rival("a/x") == found[0]


def test_what_lasted_for_a_moment_within_one_batch_is_found():
    batch = [claim("x", "g0", version=1), claim("y", "g0", version=2), claim("x", version=3)]
    holders = watching()
    assert names(holders.see(map(told, batch))) == [("d/p/g0", "a/x", "a/y")]
    assert holders.standing == ()
    assert holders.rival("a/y") is None


def test_a_device_that_goes_from_one_claim_to_another_is_never_held_twice():
    holders = watching()
    batch = [claim("x", "g0", version=1), claim("x", version=2), claim("y", "g0", version=3)]
    assert holders.see(map(told, batch)) == ()
    gone = told(claim("y", "g0", version=4), "DELETED")
    assert holders.see([gone, told(claim("z", "g0", version=5))]) == ()


def test_a_list_is_of_one_moment_whatever_its_order():
    holders = watching()
    holders.see([told(claim("x", "g0", version=1)), told(claim("y", "g1", version=2))])
    swapped = [told(claim("x", "g1", version=3)), told(claim("y", "g0", version=4))]
    assert holders.see([*swapped, LISTED]) == ()
    twice = [told(claim("w", "g1", version=5)), changes.listed(kinds.RESOURCE_CLAIM)]
    assert names(holders.see(twice)) == [("d/p/g1", "a/x", "a/w")]


def test_what_the_first_list_shows_is_judged_when_it_is_whole_and_the_older_claim_named_first():
    holders = Holders()
    assert holders.see([told(claim("x", "g0", version=9))]) == ()
    assert holders.see([told(claim("y", "g0", version=3)), told(claim("z", "g1", version=4))]) == ()
    # The list broke off and was read again; what was told of it first is old.
    found = holders.see([told(claim("z", version=12)), told(claim("v", "g1", version=11)), LISTED])
    assert names(found) == [("d/p/g0", "a/y", "a/x")]
    assert found[0].version == "9"


def test_a_claim_that_was_made_anew_under_its_name_is_another():
    holders = watching()
    holders.see([told(claim("x", "g0", version=1)), told(claim("y", "g0", version=2))])
    assert len(holders.standing) == 1
    holders.see([told(claim("y", "g1", version=3, uid="new"))])
    assert holders.standing == ()
    # The word that the old one is gone may come late.
    assert holders.see([told(claim("y", "g0", version=2), "DELETED")]) == ()
    assert names(holders.see([told(claim("z", "g1", version=4))])) == [("d/p/g1", "a/y", "a/z")]


def test_shares_of_a_device_go_together_but_not_with_the_whole_of_it_nor_under_one_name():
    holders = watching()
    assert holders.see([told(claim("x", "g0", version=1, shares=("s1",)))]) == ()
    assert holders.see([told(claim("y", "g0", version=2, shares=("s2",)))]) == ()
    assert names(holders.see([told(claim("z", "g0", version=3, shares=("s1",)))])) == [("d/p/g0", "a/x", "a/z")]
    assert names(holders.see([told(claim("w", "g0", version=4))])) == [
        ("d/p/g0", "a/x", "a/w"),
        ("d/p/g0", "a/y", "a/w"),
        ("d/p/g0", "a/z", "a/w"),
    ]


def test_who_only_looks_into_a_device_holds_nothing():
    holders = watching()
    holders.see([told(claim("x", "g0", version=1))])
    assert holders.see([told(claim("y", "g0", version=2, adminAccess=True))]) == ()


def test_what_cannot_be_read_any_more_holds_what_it_held():
    holders = watching()
    holders.see([told(claim("x", "g0", version=1))])
    holders.see([told(claim("x", version=2) | {"spec": 7})])
    assert names(holders.see([told(claim("y", "g0", version=3))])) == [("d/p/g0", "a/x", "a/y")]


def test_an_event_that_comes_again_changes_nothing():
    holders = watching()
    holders.see([told(claim("x", "g0", version=1)), told(claim("x", version=2))])
    assert holders.see([told(claim("x", "g0", version=1)), told(claim("y", "g0", version=3))]) == ()


def test_it_tells_which_versions_the_watch_has_shown():
    holders = watching()
    holders.see([told(claim("x", "g0", version=7))])
    assert holders.shows("a/x", "uid of x", "7")
    assert not holders.shows("a/x", "uid of x", "8")
    assert holders.shows("a/x", "another uid", "8")
    assert holders.shows("a/gone", "uid", "8")
