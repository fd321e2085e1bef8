"""The checkpoint: what was written is read, what is damaged is set aside, what is newer is left alone."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dra_driver.checkpoint import Checkpoint, CheckpointTooNew, Loaded, encoded, entry_from, entry_text
from dra_driver.devices import (
    ClaimRef,
    Enforcement,
    Entry,
    Grant,
    Kind,
    Phase,
    Prepared,
    Settings,
    Sharing,
)
from dra_driver.disk import Disk
from dra_driver.facts import Placement
from tests.node.endings import Ended, Ends

NOON = datetime(2026, 5, 6, 12, 0, 7, tzinfo=UTC)
_names = st.text("abc-0", min_size=1, max_size=12)
_bytes = st.none() | st.integers(0, 1 << 40)


def prepared(device: str = "gpu-0", **changes: Any) -> Prepared:
    return Prepared(grant=Grant(requests=("gpu",), pool="node", device=device), kind=Kind.GPU, gpu="GPU-0", **changes)


def entry(uid: str, *devices: Prepared, phase: Phase = Phase.DONE) -> Entry:
    claim = ClaimRef(namespace="team", name=f"claim-{uid}", uid=uid)
    return Entry(claim=claim, phase=phase, boot="boot-1", devices=devices or (prepared(),))


@st.composite
def _devices(draw: st.DrawFn) -> Prepared:
    settings = st.builds(
        Settings,
        sharing=st.sampled_from(Sharing),
        time_slice=st.integers(0, 3),
        threads_percent=st.none() | st.integers(0, 100),
        memory_bytes=_bytes,
        multi_user=st.booleans(),
    )
    grants = st.builds(
        Grant,
        requests=st.lists(_names, max_size=2).map(tuple),
        pool=_names,
        device=_names,
        share_id=_names,
        memory_bytes=_bytes,
        cores_percent=st.none() | st.integers(1, 100),
        admin=st.booleans(),
        settings=settings,
    )
    return draw(
        st.builds(
            Prepared,
            grant=grants,
            kind=st.sampled_from(Kind),
            gpu=_names,
            minor=st.none() | st.integers(0, 15),
            profile=_names,
            profile_id=st.none() | st.integers(0, 30),
            placement=st.none() | st.builds(Placement, start=st.integers(0, 7), size=st.integers(1, 8)),
            made=st.booleans(),
            instance=_names,
            enforcement=st.none() | st.sampled_from(Enforcement),
            cdi=st.lists(_names, max_size=2).map(tuple),
        )
    )


_entries = st.lists(
    st.builds(
        Entry,
        claim=st.builds(ClaimRef, namespace=_names, name=_names, uid=_names),
        phase=st.sampled_from(Phase),
        boot=_names,
        devices=st.lists(_devices(), max_size=3).map(tuple),
    ),
    max_size=3,
    unique_by=lambda entry: entry.claim.uid,
)


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(folder, Disk())


def written_at_noon(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, (NOON.timestamp(), NOON.timestamp()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(entries=_entries)
def test_whatever_was_written_is_read_and_order_makes_no_difference(entries: list[Entry], tmp_path: Path) -> None:
    checkpoint(tmp_path).save(entries)
    loaded = checkpoint(tmp_path).load()
    assert loaded == Loaded(entries=tuple(sorted(entries, key=lambda entry: entry.claim.uid)))
    assert encoded(entries) == encoded(reversed(entries))
    assert [entry_from(entry_text(each)) for each in entries] == entries


def test_without_any_checkpoint_nothing_is_known_until_it_is_rebuilt(tmp_path: Path) -> None:
    assert checkpoint(tmp_path).load() == Loaded(lost=True)
    assert checkpoint(tmp_path).rebuild([]) == ()
    assert checkpoint(tmp_path).load() == Loaded()


@pytest.mark.parametrize("size", [0, 1, 40, -60, -3])
def test_a_checkpoint_cut_short_is_set_aside_and_the_generation_before_it_is_what_is_known(
    tmp_path: Path, size: int
) -> None:
    saved = checkpoint(tmp_path)
    saved.save([entry("1")])
    saved.save([entry("1"), entry("2")])
    cut = saved.path.read_bytes()[:size]
    written_at_noon(saved.path, cut)
    loaded = saved.load()
    assert (loaded.entries, loaded.lost) == ((entry("1"),), True)
    assert "cut short" in loaded.problems[0]
    assert saved.load() == loaded, "to look changes nothing"
    aside = tmp_path / "checkpoint.json.damaged-20260506T120007Z-unreadable"
    assert saved.rebuild([entry("1"), entry("2")]) == (aside,)
    assert aside.read_bytes() == cut
    assert saved.load() == Loaded(entries=(entry("1"), entry("2")))


def test_every_single_wrong_byte_is_noticed(tmp_path: Path) -> None:
    saved = checkpoint(tmp_path)
    whole = encoded([entry("1")])
    for place in range(len(whole) - 1):
        saved.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert saved.load().lost, place


def test_two_damaged_of_one_second_are_both_kept_and_one_that_is_seen_twice_is_kept_once(tmp_path: Path) -> None:
    saved = checkpoint(tmp_path)
    for content in (b"first", b"second", b"first"):
        written_at_noon(saved.path, content)
        saved.rebuild([])
    kept = [path.read_bytes() for path in sorted(tmp_path.iterdir()) if "damaged" in path.name]
    assert kept == [b"first", b"second"]


def test_with_both_generations_damaged_all_is_lost_and_both_are_kept(tmp_path: Path) -> None:
    saved = checkpoint(tmp_path)
    for name in ("checkpoint.json", "checkpoint.json.previous"):
        written_at_noon(tmp_path / name, b"{}")
    loaded = saved.load()
    assert (loaded.entries, loaded.lost, len(loaded.problems)) == ((), True, 2)
    saved.rebuild([])
    assert Disk().names(tmp_path) == (
        "checkpoint.json",
        "checkpoint.json.damaged-20260506T120007Z-unreadable",
        "checkpoint.json.previous.damaged-20260506T120007Z-unreadable",
    )


def test_a_checkpoint_that_somebody_removed_is_lost_too(tmp_path: Path) -> None:
    saved = checkpoint(tmp_path)
    saved.save([entry("1")])
    saved.save([entry("2")])
    saved.path.unlink()
    loaded = saved.load()
    assert (loaded.entries, loaded.lost) == ((entry("1"),), True)
    assert "somebody has removed it" in loaded.problems[0]


@pytest.mark.parametrize("damaged", [("checkpoint.json",), ("checkpoint.json", "checkpoint.json.previous")])
def test_whenever_a_rebuild_ends_the_loss_is_still_seen_or_the_checkpoint_is_whole(
    tmp_path: Path, damaged: tuple[str, ...]
) -> None:
    def broken(name: str) -> Path:
        saved = checkpoint(tmp_path / name)
        saved.save([entry("1")])
        saved.save([entry("2")])
        for file in damaged:
            written_at_noon(tmp_path / name / file, b"garbage of " + file.encode())
        return tmp_path / name

    count = Ends()
    Checkpoint(broken("dry"), count).rebuild([entry("3")])
    whole = Disk().names(tmp_path / "dry")
    for before in range(1, len(count.steps) + 1):
        folder = broken(str(before))
        with pytest.raises(Ended):
            Checkpoint(folder, Ends(before)).rebuild([entry("3")])
        loaded = checkpoint(folder).load()
        assert loaded.lost or loaded.entries == (entry("3"),), before
        checkpoint(folder).rebuild([entry("3")])
        assert checkpoint(folder).load() == Loaded(entries=(entry("3"),)), before
        assert Disk().names(folder) == whole, before


def rewritten(path: Path, version: int, change: Any) -> bytes:
    """The checkpoint as another plugin would have written it, with a right hash."""
    content = json.loads(path.read_bytes())["content"]
    change(content)
    raw = json.dumps(content)
    digest = hashlib.sha256(f"{version}:{raw}".encode()).hexdigest()
    whole = f'{{"version":{version},"sha256":"{digest}","content":{raw}}}'.encode()
    path.write_bytes(whole)
    return whole


def test_a_newer_version_stops_the_plugin_and_is_left_as_it_is(tmp_path: Path) -> None:
    saved = checkpoint(tmp_path)
    saved.save([entry("1")])
    saved.save([entry("2")])
    before = rewritten(saved.path, 2, lambda content: content.update(entries={"in": "another form"}))
    with pytest.raises(
        CheckpointTooNew, match=r"version 2 is newer than 1.*run the version of the plugin that wrote it"
    ):
        saved.load()
    assert saved.path.read_bytes() == before
    assert Disk().names(tmp_path) == ("checkpoint.json", "checkpoint.json.previous")


def test_a_field_that_may_be_overlooked_is(tmp_path: Path) -> None:
    saved = checkpoint(tmp_path)
    saved.save([entry("1")])
    rewritten(saved.path, 1, lambda content: content["entries"][0].update(colour="green"))
    assert saved.load() == Loaded(entries=(entry("1"),))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["entries"][0].pop("phase"),
        lambda content: content["entries"][0].update(phase="asleep"),
        lambda content: content["entries"][0]["devices"][0].update(minor="0"),
        lambda content: content["entries"].append(content["entries"][0]),
        lambda content: content.pop("entries"),
    ],
    ids=["no phase", "no such phase", "a number in quotes", "one claim twice", "no entries"],
)
def test_what_no_plugin_of_this_version_writes_is_damage(tmp_path: Path, change: Any) -> None:
    saved = checkpoint(tmp_path)
    saved.save([entry("1")])
    rewritten(saved.path, 1, change)
    loaded = saved.load()
    assert (loaded.entries, loaded.lost) == ((), True)
    assert [path.name.rpartition("-")[2] for path in saved.rebuild([])] == ["content"]


def test_the_checkpoint_is_for_us_alone(tmp_path: Path) -> None:
    saved = checkpoint(tmp_path)
    saved.save([entry("1")])
    assert saved.path.stat().st_mode & 0o777 == 0o600
