"""Counts and amounts as people read them."""

import pytest

from queues.words import amount, counted


@pytest.mark.parametrize(("count", "said"), [(0, "no pods"), (1, "1 pod"), (2, "2 pods")])
def test_a_count_and_its_noun_agree(count: int, said: str) -> None:
    assert counted(count, "pod") == said


@pytest.mark.parametrize(("count", "said"), [(0, "no pods are"), (1, "1 pod is"), (2, "2 pods are")])
def test_the_verb_agrees_as_well(count: int, said: str) -> None:
    assert counted(count, "pod is", "pods are") == said


@pytest.mark.parametrize(
    ("resource", "value", "said"),
    [
        ("gpu", 0, "0 GPUs"),
        ("gpu", 1000, "1 GPU"),
        ("gpu", 8000, "8 GPUs"),
        ("gpu", 2992, "2.992 GPUs"),
        ("gpu", -500, "-0.5 GPUs"),
        ("cpu", 500, "0.5 CPUs"),
        ("deviceclass/mig.nvidia.com", 1000, "1 device of class mig.nvidia.com"),
        ("deviceclass/mig.nvidia.com", 1500, "1.5 devices of class mig.nvidia.com"),
        ("memory", 0, "0 bytes of memory"),
        ("memory", 1, "1 byte of memory"),
        ("memory", 1000, "1000 bytes of memory"),
        ("memory", 16 << 30, "16Gi of memory"),
        ("memory", 1_000_000_000, "953.67Mi of memory"),
        ("ephemeral-storage", 3 << 20, "3Mi of ephemeral-storage"),
        ("nvidia.com/nic", 2, "2 nvidia.com/nic"),
        ("memory.deviceclass/a", 40 << 30, "40Gi of memory on devices of class a"),
        ("memory-slice.counters.deviceclass/a", 7, "7 of memory-slice on devices of class a"),
    ],
)
def test_an_amount_is_written_as_people_do(resource: str, value: int, said: str) -> None:
    assert amount(resource, value) == said
