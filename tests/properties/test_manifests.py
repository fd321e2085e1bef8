"""Whatever is written in a manifest: it is read, or refused with object, cause and cure. Nothing else comes of it."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.state import manifests
from scheduler.state.manifests import InputError
from tests.manifests import (
    Document,
    device_class,
    h100_node,
    job,
    kai_queue,
    node,
    pod,
    pod_group,
    pod_spec,
    priority_class,
    queue,
    resource_claim,
    resource_claim_template,
    seed_queue,
    topology,
)

Steps = tuple[str | int, ...]

EXAMPLES = sorted((Path(__file__).parents[2] / "deploy" / "examples").glob("*.yaml"))
TEMPLATE: Document = {"metadata": {"labels": {"app": "x"}, "annotations": {"a": "b"}}, "spec": pod_spec()}


def controller(api_version: str, kind: str, **spec: Any) -> Document:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": kind.lower(), "namespace": "a", "labels": {"team": "x"}},
        "spec": spec,
    }


JOB_SPEC = {"parallelism": 2, "completions": 2, "completionMode": "Indexed", "template": TEMPLATE}
OWNER = job("owner", parallelism=2)
WRITTEN: list[Document] = [
    *[document for path in EXAMPLES for _, document in manifests.parse(path.read_text(), path.name)],
    *h100_node("n1", gpus=2),
    node("n2"),
    device_class(),
    priority_class("high", 9),
    queue("team", gpu={"quota": 1, "limit": 2}),
    kai_queue("kai", gpu={"limit": -1}),
    seed_queue("seed", parent="root"),
    topology("t", ("rack", "r")),
    pod_group("g", min_member=2, queue="team", subGroups=[{"name": "s", "minMember": 1}]),
    pod_group("h", api_version="scheduling.run.ai/v2alpha2", minMember=1),
    pod_group("h", api_version="scheduling.run.ai/v1", minMember=2),
    resource_claim_template("one"),
    resource_claim("c"),
    pod("p", group="g", templates={"gpu": "one"}, made_claims={"gpu": "c"}),
    pod("q", templates={"gpu": "one"}),
    pod("r", owner=OWNER),
    OWNER,
    {**controller("batch/v1", "Job", **JOB_SPEC), "status": {"succeeded": 1, "conditions": [{"type": "Complete"}]}},
    controller("apps/v1", "Deployment", replicas=2, selector={"matchLabels": {"app": "x"}}, template=TEMPLATE),
    controller("apps/v1", "ReplicaSet", replicas=2, template=TEMPLATE),
    controller("apps/v1", "StatefulSet", replicas=2, template=TEMPLATE),
    controller(
        "jobset.x-k8s.io/v1alpha2",
        "JobSet",
        replicatedJobs=[{"name": "w", "replicas": 2, "template": {"spec": JOB_SPEC}}],
    ),
    controller(
        "leaderworkerset.x-k8s.io/v1",
        "LeaderWorkerSet",
        replicas=2,
        leaderWorkerTemplate={"size": 2, "leaderTemplate": TEMPLATE, "workerTemplate": TEMPLATE},
    ),
    {"apiVersion": "v1", "kind": "List", "items": [node("n3"), pod("s")]},
]

DEEP: Any = "x"
for _ in range(120):
    DEEP = [DEEP]
UNFIT = (None, True, 0, 5, -1, 3.5, 10**20, 2**31, "", "x", "-3", "1e9", [], {}, [1], [None], [{}], {"a": 1}, DEEP)


def steps(value: object, way: Steps = ()) -> Iterator[Steps]:
    """The way to every value below this one."""
    if way:
        yield way
    if isinstance(value, dict):
        for name, each in value.items():
            yield from steps(each, (*way, name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from steps(each, (*way, index))


def changed(document: Document, way: Steps, value: object) -> Document:
    document = copy.deepcopy(document)
    holder: Any = document
    for step in way[:-1]:
        holder = holder[step]
    holder[way[-1]] = value
    return document


PLACES = [(index, way) for index, document in enumerate(WRITTEN) for way in steps(document)]


def test_all_of_it_is_read_as_it_is() -> None:
    found = manifests.snapshot([(f"{index}", each) for index, each in enumerate(WRITTEN[:-1])])
    assert found.set_aside == ()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(UNFIT)), min_size=1, max_size=3))
def test_any_value_anywhere_is_read_or_refused_with_object_cause_and_cure(
    changes: list[tuple[tuple[int, Steps], object]],
) -> None:
    documents = list(WRITTEN)
    for (index, way), value in changes:
        if documents[index] is WRITTEN[index]:
            documents[index] = changed(documents[index], way, value)
    given_ = [each for index, each in enumerate(documents) if each is not WRITTEN[index]]
    rest = [(f"rest {index}", each) for index, each in enumerate(documents[:-1]) if each is WRITTEN[index]]
    text = "\n---\n".join(msgspec.json.encode(each).decode() for each in given_)
    refused: InputError | None = None
    try:
        manifests.snapshot([*manifests.parse(text, "changed.yaml"), *rest])
    except InputError as error:
        refused = error
    assert refused is None or all((refused.object, refused.cause, refused.cure))
