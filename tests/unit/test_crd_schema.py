"""The definitions made from the models, and their CEL rules evaluated by an independent CEL implementation."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from cel_expr_python import cel
from pydantic import BaseModel

from scheduler.api.crd_schema import crds, structural
from scheduler.api.crds import CHARGED_QUEUE_ANNOTATION, POD_GROUP_LABEL, QUEUE_LABEL, PodGroup, Queue, QueueSpec
from scheduler.state.gangs import KAI_QUEUE_LABEL
from scheduler.state.grouping import COSCHEDULING_LABELS, KAI_GROUP_NAME

ADMISSION = Path(__file__).parents[2] / "deploy" / "admission.yaml"


def schema(kind: str, *path: str) -> dict[str, Any]:
    """The schema of a kind, or of the field at `path` ("*" steps into the values of a map or the items of a list)."""
    definition = next(each for each in crds() if each["spec"]["names"]["kind"] == kind)
    node = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for step in path:
        node = (node.get("additionalProperties") or node["items"]) if step == "*" else node["properties"][step]
    return node


def refusals(node: dict[str, Any], value: Any) -> list[str]:
    """Messages of the rules of this schema that refuse `value`."""
    env = cel.NewEnv(variables={"self": cel.Type.DYN})
    rules = node["x-kubernetes-validations"]
    return [rule["message"] for rule in rules if not env.compile(rule["rule"]).eval(data={"self": value}).value()]


def nodes(node: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = [(path, node)]
    for name, below in node.get("properties", {}).items():
        found += nodes(below, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            found += nodes(node[key], f"{path}[*]")
    return found


def test_every_kind_has_a_definition():
    names = [definition["metadata"]["name"] for definition in crds()]
    assert names == ["podgroups.tutti.scheduler", "queues.tutti.scheduler", "topologies.tutti.scheduler"]
    scopes = {each["spec"]["names"]["kind"]: each["spec"]["scope"] for each in crds()}
    assert scopes == {"PodGroup": "Namespaced", "Queue": "Cluster", "Topology": "Cluster"}


def test_what_the_scheduler_writes_is_a_subresource():
    served = {each["spec"]["names"]["kind"]: each["spec"]["versions"][0].get("subresources") for each in crds()}
    assert served == {"PodGroup": {"status": {}}, "Queue": {"status": {}}, "Topology": None}


@pytest.mark.parametrize("kind", ["PodGroup", "Queue", "Topology"])
def test_every_list_map_and_string_is_bounded(kind):
    for path, node in nodes(schema(kind)):
        match node.get("type"):
            case "array":
                assert "maxItems" in node, path
            case "object":
                assert "maxProperties" in node or "additionalProperties" not in node, path
            case "string" if path not in (".apiVersion", ".kind"):
                assert {"maxLength", "enum", "format"} & node.keys(), path


@pytest.mark.parametrize("kind", ["PodGroup", "Queue", "Topology"])
def test_kubectl_explain_has_words_for_every_field(kind):
    plain = (".apiVersion", ".kind", ".metadata")  # The API server has words for these.
    fields = [(path, node) for path, node in nodes(schema(kind)) if path not in plain and not path.endswith("[*]")]
    assert [path for path, node in fields if not node.get("description", "").endswith(".")] == []


@pytest.mark.parametrize("kind", ["PodGroup", "Queue", "Topology"])
def test_schemas_are_structural(kind):
    for path, node in nodes(schema(kind)):
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "allOf", "title", "nullable"} & node.keys(), path


def test_amounts_are_quantities_or_numbers():
    quota = schema("Queue", "spec", "resources", "*", "quota")
    assert quota["x-kubernetes-int-or-string"] is True
    assert quota["anyOf"] == [{"type": "integer"}, {"type": "string"}]


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        ({}, []),
        ({"quota": 16, "limit": 32}, []),
        ({"quota": "16Gi", "limit": "8Gi"}, []),
        ({"quota": 16, "limit": 8}, ["quota is above limit; raise limit or lower quota"]),
        ({"quota": -1}, ["quota is negative; give 0 or more, or leave it out for 0"]),
        ({"limit": -1}, ["limit is negative; give 0 or more, or leave it out for no limit"]),
    ],
)
def test_a_queue_with_amounts_that_contradict_each_other_is_refused(value, refused):
    assert refusals(schema("Queue", "spec", "resources", "*"), value) == refused


def test_a_queue_with_an_unknown_resource_is_refused():
    resources = schema("Queue", "spec", "resources")
    assert refusals(resources, {"gpu": {}, "memory": {}, "deviceclass/h100": {}}) == []
    assert refusals(resources, {"memory.deviceclass/h100": {}, "memory-slice.counters.deviceclass/a.b": {}}) == []
    for name in ("gpus", "memory.deviceclass", "a.b.deviceclass/h100", ".deviceclass/h100", "memory.deviceclass/"):
        assert len(refusals(resources, {name: {}})) == 1, name


def test_a_pod_group_with_two_minima_is_refused():
    spec = schema("PodGroup", "spec")
    assert refusals(spec, {"minMember": 3}) == []
    assert len(refusals(spec, {"minMember": 3, "minSubGroup": 1, "subGroups": [{"name": "a"}]})) == 1
    assert len(refusals(spec, {"minSubGroup": 1})) == 1


def test_a_sub_group_that_is_its_own_parent_is_refused():
    sub_group = schema("PodGroup", "spec", "subGroups", "*")
    assert refusals(sub_group, {"name": "a", "parent": "b", "minMember": 1}) == []
    assert len(refusals(sub_group, {"name": "a", "parent": "a"})) == 1


def test_a_topology_whose_levels_share_an_alias_is_refused():
    levels = schema("Topology", "spec", "levels")
    assert refusals(levels, [{"key": "a", "alias": "x"}, {"key": "b", "alias": "y"}, {"key": "c"}]) == []
    assert len(refusals(levels, [{"key": "a", "alias": "x"}, {"key": "b", "alias": "x"}])) == 1


def test_what_is_left_out_means_what_the_documentation_says():
    assert Queue.model_validate({"metadata": {"name": "default"}}).spec is None
    assert QueueSpec.model_validate({}).priority == schema("Queue", "spec", "priority")["default"] == 100
    assert PodGroup.model_validate({"spec": {"minMember": 2, "newerField": 1}}).spec.min_member == 2


class Union(BaseModel):
    either: int | str


class Tree(BaseModel):
    below: "Tree | None" = None


def test_what_a_definition_cannot_say_is_refused_when_it_is_made():
    with pytest.raises(ValueError, match="a union \\(integer, string\\) is not structural"):
        structural(Union)
    with pytest.raises(ValueError, match="Tree contains itself"):
        structural(Tree)


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ({"queue": "a"}, {"queue": "a", "minMember": 2}, True),
        ({"minMember": 2}, {"queue": "a"}, True),
        (None, {"queue": "a"}, True),
        ({"queue": "a"}, {"queue": "b"}, False),
        ({"queue": "a"}, {"minMember": 2}, False),
        ({"queue": "a"}, None, False),
    ],
)
def test_a_pod_group_with_bound_pods_stays_in_its_queue(before, after, allowed):
    """Or a gang that runs would be paid for by nobody, or by somebody else."""
    (rule,) = schema("PodGroup")["x-kubernetes-validations"]
    env = cel.NewEnv(variables={"self": cel.Type.DYN, "oldSelf": cel.Type.DYN})

    def permits(bound: int) -> object:
        status = {"status": {"bound": bound}}
        old = status if before is None else {"spec": before, **status}
        new = status if after is None else {"spec": after, **status}
        return env.compile(rule["rule"]).eval(data={"oldSelf": old, "self": new}).value()

    assert permits(bound=2) is allowed
    assert permits(bound=0) is True


def test_a_pod_on_a_node_keeps_whatever_says_who_pays_for_it():
    policy = next(yaml.safe_load_all(ADMISSION.read_text()))
    labels = (QUEUE_LABEL, KAI_QUEUE_LABEL, POD_GROUP_LABEL, KAI_GROUP_NAME, *COSCHEDULING_LABELS)
    changes = [
        *(("labels", key) for key in labels),
        *(("annotations", key) for key in (POD_GROUP_LABEL, CHARGED_QUEUE_ANNOTATION, KAI_GROUP_NAME)),
    ]
    for field, key in changes:
        assert refused(policy, {field: {key: "a"}}, {field: {key: "b"}}), key
        assert refused(policy, {field: {key: "a"}}, {}), key
        assert refused(policy, {}, {field: {key: "a"}}), key
    assert not refused(policy, {"labels": {QUEUE_LABEL: "a", "x": "1"}}, {"labels": {QUEUE_LABEL: "a", "x": "2"}})


def refused(policy: dict[str, Any], before: dict[str, Any] | None, after: dict[str, Any]) -> bool:
    """Whether a policy refuses to change the metadata so; `before` None: to create it."""
    env = cel.NewEnv(variables={"object": cel.Type.DYN, "oldObject": cel.Type.DYN})
    told = {"oldObject": None if before is None else {"metadata": before}, "object": {"metadata": after}}
    rules = [each["expression"] for each in policy["spec"]["validations"]]
    return not all(env.compile(rule).eval(data=told).value() for rule in rules)


def test_a_note_who_pays_comes_with_a_binding_alone():
    _, policy = [each for each in yaml.safe_load_all(ADMISSION.read_text()) if each["kind"].endswith("Policy")]
    note, other = ({"annotations": {CHARGED_QUEUE_ANNOTATION: queue, "x": "1"}} for queue in ("a", "b"))
    assert refused(policy, None, note)
    assert not refused(policy, None, {"annotations": {"x": "1"}})
    assert not refused(policy, None, {})
    assert refused(policy, {}, note)
    assert refused(policy, {"annotations": {"x": "1"}}, note)
    assert refused(policy, other, note)
    assert not refused(policy, note, note)
