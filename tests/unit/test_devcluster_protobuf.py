"""Protobuf bodies of kubectl's typed clients. The bytes are written here by hand, field by field."""

from __future__ import annotations

import pytest

from scheduler.devcluster.protobuf import decode_protobuf
from tests.devcluster import refusal


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def text(field: int, value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value % 2**64)


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\x00" + text(1, text(1, api_version) + text(2, kind)) + text(2, raw) + text(3, "") + text(4, "")


META = text(1, text(1, "a") + text(2, "") + text(4, "") + number(7, 0) + text(8, b""))


def test_a_namespace_without_what_is_not_set():
    raw = META + text(2, b"") + text(3, text(1, "Active"))
    expected = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}
    assert decode_protobuf(envelope("v1", "Namespace", raw)) == expected


def test_maps_bytes_lists_and_numbers():
    label = text(11, text(1, "app") + text(2, "x"))
    meta = text(1, text(1, "a") + label)
    secret = meta + text(2, text(1, "p") + text(2, b"\x00\xff")) + text(3, "Opaque")
    assert decode_protobuf(envelope("v1", "Secret", secret)) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "a", "labels": {"app": "x"}},
        "data": {"p": "AP8="},
        "type": "Opaque",
    }
    container = text(1, "main") + text(2, "i") + text(3, "sh") + text(3, "-c") + text(8, b"") + number(18, 0)
    limits = text(1, text(1, "cpu") + text(2, text(1, "500m")))
    sized = text(1, "side") + text(2, "i") + text(8, limits)
    pod = META + text(2, text(2, container) + text(2, sized) + number(4, 0) + number(11, 0))
    spec = decode_protobuf(envelope("v1", "Pod", pod))["spec"]
    assert spec == {
        "containers": [
            {"name": "main", "image": "i", "command": ["sh", "-c"]},
            {"name": "side", "image": "i", "resources": {"limits": {"cpu": "500m"}}},
        ],
        "terminationGracePeriodSeconds": 0,
    }


def test_numbers_or_text_negative_numbers_and_times():
    budget = META + text(2, text(1, number(1, 1) + text(3, "50%")) + text(2, text(1, text(1, "app") + text(2, "d"))))
    spec = decode_protobuf(envelope("policy/v1", "PodDisruptionBudget", budget))["spec"]
    assert spec == {"minAvailable": "50%", "selector": {"matchLabels": {"app": "d"}}}
    priority = text(1, text(1, "low") + text(8, number(1, 1767225600))) + number(2, -5)
    done = decode_protobuf(envelope("scheduling.k8s.io/v1", "PriorityClass", priority))
    assert (done["value"], done["metadata"]["creationTimestamp"]) == (-5, "2026-01-01T00:00:00Z")


def test_an_eviction_with_its_options():
    options = text(2, number(1, 0) + text(2, text(1, "uid-1")))
    done = decode_protobuf(envelope("policy/v1", "Eviction", META + options))
    assert done["deleteOptions"] == {"gracePeriodSeconds": 0, "preconditions": {"uid": "uid-1"}}


def test_what_is_not_known_is_refused_not_dropped():
    with refusal(415, "UnsupportedMediaType"):
        decode_protobuf(envelope("v1", "Pod", META + text(2, text(1, "a volume"))))
    with refusal(415, "UnsupportedMediaType"):
        decode_protobuf(envelope("example.com/v1", "Widget", META))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"k8s\x00\x0a\xff",
        envelope("v1", "Pod", META)[:-9],
        envelope("v1", "Pod", number(1, 5)),
        envelope("v1", "Pod", text(1, text(1, b"\xff\xfe"))),
        b"k8s\x00" + b"\xff" * 30,
    ],
)
def test_damaged_bytes_are_refused(data: bytes):
    with pytest.raises(Exception) as caught:
        decode_protobuf(data)
    assert getattr(caught.value, "code", None) in (400, 415)
