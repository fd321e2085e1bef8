"""The verifier of the service tests finds what it is there to find."""

from typing import Any

from tests.service.verifier import Verifier


def claim(name: str, *devices: str, **result: Any) -> dict[str, Any]:
    results = [{"request": "r", "driver": "d", "pool": "n1", "device": device, **result} for device in devices]
    return {
        "metadata": {"namespace": "a", "name": name, "resourceVersion": "7"},
        "status": {"allocation": {"devices": {"results": results}}},
    }


def test_a_device_in_two_claims_at_one_moment_is_a_problem():
    verifier = Verifier()
    verifier.see("ADDED", claim("first", "gpu-0", "gpu-1"))
    verifier.see("ADDED", claim("second", "gpu-1"))
    assert verifier.problems == ["version 7: device d/n1/gpu-1 is held by a/first and a/second"]


def test_a_device_given_on_after_its_release_is_none():
    verifier = Verifier()
    verifier.see("ADDED", claim("first", "gpu-0"))
    verifier.see("MODIFIED", claim("first"))
    verifier.see("ADDED", claim("second", "gpu-0"))
    verifier.see("DELETED", claim("second", "gpu-0"))
    verifier.see("MODIFIED", claim("first", "gpu-0"))
    assert verifier.problems == []
    assert sorted(verifier.holders) == ["a/first"]


def test_administrative_and_shared_devices_may_be_in_several_claims():
    verifier = Verifier()
    verifier.see("ADDED", claim("first", "gpu-0"))
    verifier.see("ADDED", claim("admin", "gpu-0", adminAccess=True))
    verifier.see("ADDED", claim("share-1", "gpu-1", shareID="x"))
    verifier.see("ADDED", claim("share-2", "gpu-1", shareID="y"))
    assert verifier.problems == []
