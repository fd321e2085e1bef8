"""The commands that ask: errors name object, cause and cure, and end with 2; recordings are asked without a service."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from scheduler.cli import app
from scheduler.commit.outcome import CommitFailed
from scheduler.model.plan import Placement, Plan
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.plan import planner
from scheduler.state import recording
from tests.manifests import merged, node, pod, pod_group, queue, state

ROOT = Path(__file__).parents[2]
CLUSTER = [
    queue("team"),
    node("n1", cpu="4"),
    pod("runs", node="n1", queue="team", cpu="1"),
    pod("big-0", group="big", cpu="3"),
    pod("big-1", group="big", cpu="3"),
    pod_group("big", min_member=2, queue="team"),
    pod("alone", queue="team", cpu="100"),
    pod("alone", namespace="b", queue="team", cpu="100"),
    merged(pod("odd", queue="team"), spec={"tolerations": 7}),
]
RECORDED = recording.dump(state(CLUSTER), now_ms=0, policy=Policy())

Answers = Mapping[str, tuple[int, bytes]]


def tutti(*arguments: str, given: bytes = b"") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), input=given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "recording.json"
    path.write_bytes(RECORDED)
    return str(path)


@pytest.fixture
def serving() -> Iterator[Callable[[Answers], str]]:
    """A server on loopback that knows these paths; its address."""
    servers: list[ThreadingHTTPServer] = []

    def serve(answers: Answers) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers.get(self.path.partition("?")[0], (404, b"<html>nothing here</html>"))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing on stderr, where the command's own words are looked for."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


# Explaining a recording.


def test_all_that_waits_is_explained_with_reason_and_cure(file: str) -> None:
    code, text, _ = tutti("explain", "-r", file)
    assert code == 0
    heads = [line for line in text.splitlines() if not line.startswith(" ")]
    assert [head.partition(" in queue")[0] for head in heads] == ["a/alone", "a/big", "b/alone"]
    assert "a/big in queue team: Pending (GangDoesNotFit), 0 of 2 pods on nodes\n" in text
    assert "  missing: 1 pod\n" in text


def test_a_namespace_narrows_what_is_shown(file: str) -> None:
    _, text, _ = tutti("explain", "-r", file, "-n", "b")
    assert text.startswith("b/alone in queue team:")
    assert "a/" not in text
    assert tutti("explain", "-r", file, "-n", "nowhere") == (0, "Nothing waits.\n", "")


@pytest.mark.parametrize("name", [["big"], ["a/big"], ["big-0"], ["a/big-1"], ["big", "-n", "a"]])
def test_a_gang_is_found_by_its_name_and_by_its_pods(file: str, name: list[str]) -> None:
    code, text, _ = tutti("explain", *name, "-r", file)
    assert code == 0
    assert text.startswith("a/big in queue team: Pending")
    assert "  pod big-0: waits\n  pod big-1: waits\n" in text
    document = json.loads(tutti("explain", *name, "-r", file, "-o", "json")[1])
    assert document["reason"]["code"] == "GangDoesNotFit"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nobody"], "nobody: there is no such gang, nor a pod of one: none names our scheduler"),
        (["nobody", "-n", "a"], "in namespace a"),
        (["alone"], "alone: there are a/alone, b/alone; name one of them"),
        (["a/big", "-n", "b"], "a/big is not in namespace b"),
        (["odd"], "Pod/a/odd is set aside: spec.tolerations: Expected `array | null`, got `int`"),
        (["a/odd"], "Pod/a/odd is set aside"),
        (["big", "-o", "yaml"], "-o yaml: no such output; use json or text"),
        (["big", "--service", "http://127.0.0.1:1"], "--recording is given beside --service or --context"),
    ],
)
def test_what_cannot_be_explained_says_why_and_ends_with_2(file: str, arguments: list[str], says: str) -> None:
    code, text, told = tutti("explain", *arguments, "-r", file)
    assert (code, text) == (2, "")
    assert says in told
    assert len(told.splitlines()) == 1


def test_a_gang_whose_writes_failed_says_so_from_the_recording() -> None:
    failed = CommitFailed(gang="a/big", object="ResourceClaim a/c", problem="was refused")
    data = recording.dump(state(CLUSTER), now_ms=0, policy=Policy(), held_back={"a/big": failed})
    _, text, _ = tutti("explain", "big", "-r", "-", given=data)
    assert "(CommitFailed)" in text
    assert failed.message in text


def test_a_gang_below_its_minimum_says_since_when_and_until_when() -> None:
    short = state([*CLUSTER, pod("lost-0", group="lost", node="n1"), pod_group("lost", min_member=2, queue="team")])
    both = Policy(stages=("allocate", "stale"))
    _, text, _ = tutti("explain", "lost", "-r", "-", given=recording.dump(short, now_ms=0, policy=both))
    assert "  has run with too few pods since 1970-01-01T00:00:00" in text
    assert "  is stopped at 1970-01-01T00:01:00" in text
    assert "unless the missing pods find room" in text


# Deciding.


def test_a_plan_that_breaks_a_rule_is_not_shown_but_made_again_as_the_service_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound, made = planner.plan, []

    def overfull(snapshot: Snapshot) -> Plan:
        made.append(snapshot.policy.solver_enabled)
        if not snapshot.policy.solver_enabled:
            return sound(snapshot)
        pods = [(gang, pod) for gang in snapshot.gangs for pod in gang.pods if pod.name.startswith("big")]
        return Plan(
            now_ms=0,
            placements=tuple(Placement(pod=pod.key, pod_uid=pod.uid, gang=gang.key, node="n1") for gang, pod in pods),
        )

    monkeypatch.setattr(planner, "plan", overfull)
    manifest = yaml.safe_dump_all(CLUSTER[:-1]).encode()
    for command in (["plan", "-f", "-"], ["replay", "-"], ["explain", "big", "-r", "-"]):
        given = manifest if command[0] == "plan" else RECORDED
        code, text, told = tutti(*command, "-o", "json", given=given)
        assert (code, made[-1], all(made[:-1])) == (0, False, True), "without the solver in the end"
        assert not json.loads(text).get("placements"), "two pods of 3 CPUs do not fit on 3"
        assert "a plan could not be made" in told
        assert "rules, the first:" in told
        made.clear()


def test_where_no_plan_can_be_made_the_defect_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Snapshot) -> Plan:
        raise ZeroDivisionError

    monkeypatch.setattr(planner, "plan", broken)
    code, text, told = tutti("replay", "-", given=RECORDED)
    assert (code, text) == (1, "")
    assert told.endswith("no plan could be made even without any waiting gang: ZeroDivisionError()\n")


@pytest.mark.parametrize(
    "command", [["run"], ["plan"], ["explain"], ["record", "-"]], ids=lambda command: str(command[0])
)
def test_a_kubeconfig_that_is_not_there_is_refused_by_every_command(
    command: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code, text, told = tutti(*command, "--kubeconfig", str(tmp_path / "none"))
    assert (code, text) == (2, "")
    assert told.startswith(f"kubeconfig {tmp_path / 'none'}: there is no such file; give a readable kubeconfig")
    assert not caplog.records, "the library's own words are not needed"


# Replaying.


def test_a_recording_without_a_plan_is_planned_and_nothing_is_compared(file: str) -> None:
    code, text, told = tutti("replay", file)
    assert (code, told) == (0, "")
    assert "a/big in queue team: Pending (GangDoesNotFit)" in text
    assert tutti("replay", "-", given=RECORDED)[1] == text


def test_many_differences_are_told_in_a_bounded_number_of_lines() -> None:
    document = json.loads(RECORDED)
    document["decided"] = {"gangs": [{"name": f"a/{number}"} for number in range(500)]}
    code, _, told = tutti("replay", "-", given=json.dumps(document).encode())
    assert code == 1
    assert len(told.splitlines()) < 60
    assert re.search(r"and \d+ more$", told)


@pytest.mark.parametrize("command", [["replay", "-"], ["explain", "-r", "-"]])
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the recording cannot be read"),
        (b"\xff\xfe", "the recording cannot be read"),
        (b'{"format": "other/1", "nowMs": 0, "policy": {}, "objects": {}}', "has format 'other/1'"),
    ],
)
def test_what_is_no_recording_is_refused(command: list[str], data: bytes, says: str) -> None:
    code, text, told = tutti(*command, given=data)
    assert (code, text) == (2, "")
    assert says in told


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for command in (["replay"], ["explain", "-r"], ["plan", "-f"]):
        code, _, told = tutti(*command, str(tmp_path / "none"))
        assert code == 2
        assert told == f"{tmp_path / 'none'}: No such file or directory; give a file that can be read\n"


def test_manifests_that_are_no_text_are_refused_with_their_line() -> None:
    code, _, told = tutti("plan", "-f", "-", given=b"a: b\nc: \xff\n")
    assert (code, told) == (2, "-: line 2 is no UTF-8 text; save the file as UTF-8\n")


# Asking a service.


@pytest.mark.parametrize("command", [["explain"], ["explain", "a/big"], ["record", "-"]])
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((404, b"<html>"), "answers 404, as no Tutti does; give its debug API's address with --service"),
        ((200, b"<html>"), "as no Tutti does|the recording cannot be read"),
        ((200, b"{}"), "as no Tutti does|the recording cannot be read"),
        ((503, b'{"error": {"message": "No cycle has ended yet.", "cure": "Wait."}}'), "No cycle has ended yet. Wait."),
        ((500, b"[" * 100_000), "answers 500"),
    ],
)
def test_an_answer_that_is_none_is_told_with_the_address(
    serving: Callable[[Answers], str], command: list[str], answer: tuple[int, bytes], says: str
) -> None:
    address = serving(dict.fromkeys(["/api/v1/gangs", "/api/v1/snapshot"], answer))
    code, text, told = tutti(*command, "--service", address)
    assert (code, text) == (2, "")
    assert told.startswith(f"{address}: ")
    assert re.search(says, told)


def test_a_service_that_does_not_answer_is_told_with_what_to_do(serving: Callable[[Answers], str]) -> None:
    address = serving({})
    silent = re.sub(r":\d+$", ":1", address)
    for command in (["explain"], ["record", "-"]):
        code, _, told = tutti(*command, "--service", silent)
        assert code == 2
        assert told.startswith(f"{silent}: no answer (")
        assert "kubectl -n tutti-system port-forward deploy/tutti-scheduler 8080" in told


@pytest.mark.parametrize("address", ["8080", "ftp://x", "http://", "http://x:99999", "file:///etc/passwd"])
def test_what_is_no_address_is_refused(address: str) -> None:
    code, _, told = tutti("explain", "--service", address)
    assert code == 2
    assert told == f"--service {address}: is no address; write for instance http://127.0.0.1:8080\n"


def test_a_recording_is_written_as_it_came_and_a_missing_plan_is_said(
    serving: Callable[[Answers], str], tmp_path: Path
) -> None:
    address = serving({"/api/v1/snapshot": (200, RECORDED)})
    code, _, told = tutti("record", str(tmp_path / "r"), "--service", address)
    assert code == 0
    assert (tmp_path / "r").read_bytes() == RECORDED
    assert told == f"{address} has decided nothing yet, so no plan is recorded; does another replica lead?\n"
    code, _, told = tutti("record", str(tmp_path / "no" / "r"), "--service", address)
    assert (code, told.splitlines()[-1]) == (
        2,
        f"{tmp_path / 'no' / 'r'}: No such file or directory; give a file that can be written",
    )


def test_two_places_at_once_are_refused(tmp_path: Path) -> None:
    for command in (["explain"], ["record", str(tmp_path / "r")]):
        code, _, told = tutti(*command, "--service", "http://127.0.0.1:1", "--context", "c")
        assert code == 2
        assert "--service is given beside --context" in told


# The documents.


def test_every_command_stands_in_the_readme() -> None:
    named = re.findall(r"^\| `tutti (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert named == [
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    ]
