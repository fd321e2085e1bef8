"""The runner of CEL conformance cases tells a right outcome from a wrong one."""

import json
from pathlib import Path

import pytest

from tests.conformance import cel
from tests.conformance.__main__ import main

DEVICE = {"driver": "d", "attributes": {"ids": {"ints": [1]}, "x": {"bool": True}}, "capacity": {}}
MISSING = 'device.attributes["d"].nope'
IDS = 'device.attributes["d"].ids.exists(i, i == 1)'


def case(name: str, expression: str, expect: dict[str, object], **more: object) -> dict[str, object]:
    return {"name": name, "expression": expression, "device": DEVICE, "features": [], "envType": "stored"} | {
        "expect": expect,
        **more,
    }


RIGHT = [
    case("match", 'device.attributes["d"].x', {"match": True, "maxCost": 4}),
    case("no match", 'device.driver == "e"', {"match": False}),
    case("run-time error", MISSING, {"matchError": "no such key: nope"}),
    case("compile error", "1", {"compileError": "must evaluate to bool"}),
    case("stored: widest", IDS, {"match": True}),
    case("new: gated", IDS, {"compileError": ""}, envType="new"),
    case("new: enabled", IDS, {"match": True}, envType="new", features=["DRAListTypeAttributes"]),
]
WRONG = [
    case("other verdict", 'device.attributes["d"].x', {"match": False}),
    case("other error", MISSING, {"matchError": "no such key: other"}),
    case("other kind", MISSING, {"compileError": ""}),
    case("nothing expected", "true", {}),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"cases": RIGHT + WRONG}))
    return path


def test_right_outcomes_pass_and_wrong_ones_fail(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cel.run(file) == (len(RIGHT), len(WRONG))
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("FAIL") for line in lines] == [False] * len(RIGHT) + [True] * len(WRONG)


def test_the_command_ends_with_a_count_and_an_exit_code(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cel", str(file)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"{len(RIGHT)} passed, {len(WRONG)} failed"
    file.write_text(json.dumps({"cases": RIGHT}))
    assert main(["cel", str(file)]) == 0


def test_a_wrong_call_says_what_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nope", "x.json"]) == 2
    assert main(["cel", str(tmp_path / "absent.json")]) == 2
    assert "name a JSON file" in capsys.readouterr().err
