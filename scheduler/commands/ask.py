"""`tutti record` and `tutti explain`: what a running service, a cluster or a recording knows."""

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
import typer

from queues.words import amount, counted
from scheduler.api import quantity
from scheduler.commands.inputs import (
    USUAL_SERVICE,
    Address,
    Context,
    Kubeconfig,
    Output,
    checked_output,
    decided,
    live,
    read,
    refused,
)
from scheduler.commands.service import Service, ServiceError
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.state.cluster import ClusterState

Document = dict[str, Any]

_WAITS = ("Pending", "Refused")


class Told(Protocol):
    """Who knows about gangs, in the documents of the debug API."""

    def gangs(self, wanted: Mapping[str, str]) -> list[Document]:
        """The gangs that this holds of (`scheduler.web.answers.Answers.gangs_like`)."""
        ...

    def gang(self, key: str) -> Document | None: ...

    def set_aside(self) -> list[Document]: ...


def record(
    file: Annotated[Path, typer.Argument(help="The file to write; - for standard output.")],
    service: Address = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Write the running service's last decision, with all that it depended on, to a file for `tutti replay`.

    Of a live cluster (--context): what a decision made now would depend on, without one. Commands and environment
    variables of pods are left out."""
    if _from_cluster(service, context, kubeconfig):
        from scheduler.state import recording

        data = recording.dump(live(kubeconfig, context), now_ms=_now_ms(), policy=Policy())
    else:
        data = _of_service(service or USUAL_SERVICE)
    if str(file) == "-":
        sys.stdout.buffer.write(data)
        return
    try:
        file.write_bytes(data)
    except OSError as problem:
        raise refused(f"{file}: {problem.strerror}; give a file that can be written") from None


def _of_service(address: str) -> bytes:
    from scheduler.state import recording

    try:
        data = Service(address).recording()
        decided = recording.load(data).decided
    except ServiceError as problem:
        raise refused(str(problem)) from None
    except recording.RecordingError as problem:
        raise refused(f"{address}: {problem}") from None
    if decided is None:
        sys.stderr.write(f"{address} has decided nothing yet, so no plan is recorded; does another replica lead?\n")
    return data


def explain(
    name: Annotated[
        str | None,
        typer.Argument(help="A gang or one of its pods, as NAME or NAMESPACE/NAME. Default: all that waits."),
    ] = None,
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="Look in this namespace only.")] = "",
    service: Address = None,
    file: Annotated[
        Path | None, typer.Option("-r", "--recording", help="Ask a recording instead; - for standard input.")
    ] = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = "text",
) -> None:
    """Say why a gang or a pod waits, and what would help.

    The running service is asked; of a recording or a live cluster it is decided here."""
    checked_output(output)
    from_cluster = _from_cluster(service, context, kubeconfig)
    if file is not None and (from_cluster or service is not None):
        raise refused("--recording is given beside --service or --context; name one of them")
    try:
        told = _told(service, file, live(kubeconfig, context) if from_cluster else None)
        if name is None:
            found = [each for verdict in _WAITS for each in told.gangs({"namespace": namespace, "verdict": verdict})]
            found.sort(key=_key)
            _print({"items": found}, output, [line for each in found for line in _lines(each)] or ["Nothing waits."])
        else:
            found_one = _one(told, name, namespace)
            _print(found_one, output, [*_lines(found_one), *_pod_lines(found_one)])
    except ServiceError as problem:
        raise refused(str(problem)) from None


def _from_cluster(service: str | None, context: str | None, kubeconfig: Path | None) -> bool:
    if context is None and kubeconfig is None:
        return False
    if service is not None:
        raise refused("--service is given beside --context or --kubeconfig; name one of them")
    return True


def _told(service: str | None, file: Path | None, cluster: ClusterState | None) -> Told:
    from scheduler.state import recording, translate

    if cluster is not None:
        return _Decided(translate.snapshot(cluster, now_ms=_now_ms(), policy=Policy()))
    if file is None:
        return Service(service or USUAL_SERVICE)
    try:
        return _Decided(recording.load(read(file)).snapshot())
    except recording.RecordingError as problem:
        raise refused(f"{file}: {problem}") from None


class _Decided:
    """What there is to tell about a snapshot, by deciding it here."""

    def __init__(self, snapshot: Snapshot) -> None:
        from scheduler.explain import why
        from scheduler.web.answers import Answers
        from scheduler.web.view import View

        plan = decided(snapshot)
        self._answers = Answers(View(cycle=0, snapshot=snapshot, plan=plan, reports=why.reports(snapshot, plan)))

    def gangs(self, wanted: Mapping[str, str]) -> list[Document]:
        return self._answers.gangs_like(wanted)

    def gang(self, key: str) -> Document | None:
        return self._answers.gang(key)

    def set_aside(self) -> list[Document]:
        return self._answers.set_aside


def _one(told: Told, name: str, namespace: str) -> Document:
    """The gang of this name, or that of the pod of this name."""
    where, slash, last = name.rpartition("/")
    if slash and namespace not in ("", where):
        raise refused(f"{name} is not in namespace {namespace}; give the namespace once")
    where = where or namespace
    found = told.gangs({"namespace": where, "name": last}) or told.gangs({"namespace": where, "pod": last})
    if len(found) > 1:
        raise refused(f"{name}: there are {', '.join(map(_key, found))}; name one of them")
    if found and (explained := told.gang(_key(found[0]))) is not None:
        return explained
    asides = [f"Pod/{where}/{last}", f"PodGroup/{where}/{last}"] if where else []
    for aside in told.set_aside():
        if aside["object"] in asides or (not where and aside["object"].endswith(f"/{last}")):
            told = aside["reason"]["message"].removeprefix(f"{aside['object']}: ")
            raise refused(f"{aside['object']} is set aside: {told} {aside['reason']['cure']}")
    raise refused(
        f"{name}: there is no such gang, nor a pod of one{f' in namespace {where}' if where else ''}: none names our "
        "scheduler, or all have ended; look at spec.schedulerName of the pods, or list what waits with `tutti explain`"
    )


def _key(gang: Document) -> str:
    return f"{gang['namespace']}/{gang['name']}"


def _lines(gang: Document) -> Iterator[str]:
    """What is decided, the reason and its cure."""
    counts, reason = gang["counts"], gang["reason"]
    queue = f" in queue {gang['queue']}" if gang["queue"] else ""
    code = f" ({reason['code']})" if reason else ""
    yield f"{_key(gang)}{queue}: {gang['verdict']}{code}, {counts['bound']} of {counts['total']} pods on nodes"
    if reason:
        yield f"  {reason['message']}"
        yield f"  {reason['cure']}"
    if gang["missing"]:
        yield f"  missing: {', '.join(_in_words(name, text) for name, text in gang['missing'].items())}"
    if gang["startsAt"]:
        yield f"  starts at {gang['startsAt']}"
    if gang.get("belowSince"):
        yield f"  has run with too few pods since {gang['belowSince']}"
    if gang.get("endsAt"):
        yield f"  is stopped at {gang['endsAt']}" + (
            " unless the missing pods find room" if gang.get("belowSince") else ""
        )


def _in_words(resource: str, text: str) -> str:
    """An amount as it stands in a document: "1 pod", "24 GPUs", "16Gi of memory"."""
    if resource == "pods":
        return counted(int(text), "pod")
    whole = resource == "memory" or resource.endswith("storage")
    return amount(resource, quantity.units(text) if whole else quantity.thousandths(text))


def _pod_lines(gang: Document) -> Iterator[str]:
    for pod in gang["pods"]:
        devices = [f"{each['pool']}/{each['device']}" for claim in pod["claims"] for each in claim["devices"]]
        held = f" with {', '.join(devices)}" if devices else ""
        if pod["node"]:
            state = f"on {pod['node']}{held}"
        elif pod["placedOn"]:
            state = f"goes to {pod['placedOn']}"
        else:
            state = "waits behind a scheduling gate" if pod["gated"] else "waits"
        yield f"  pod {pod['name']}: {state}"
    for past in gang["decisions"]:
        code = f" ({past['code']})" if past["code"] else ""
        yield f"  {past['at']}: {past['verdict']}{code}"


def _print(document: Document, output: str, lines: list[str]) -> None:
    if output == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
    else:
        sys.stdout.write("\n".join(lines) + "\n")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
