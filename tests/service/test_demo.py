"""The demo goes on while what an example's header names is not there: not yet, or deleted by whoever plays with it."""

import io
from typing import Any

import pytest
from rich.console import Console

from scheduler.demo import Demo
from scheduler.expectations import Example, unmet
from scheduler.kube.errors import ApiError
from tests.service.conftest import Cluster


def example(**expect: Any) -> Example:
    return Example(name="example", title="An example", documents=(), expect={"namespace": "default", **expect})


@pytest.mark.parametrize(
    ("expect", "says"),
    [
        ({"waiting": {"default/hero": "OverLimit"}}, "PodGroup default/hero is not there"),
        ({"queue": {"name": "team", "allocated": {"gpu": 8}}}, "Queue team is not there"),
    ],
)
async def test_what_is_not_there_is_unmet(cluster: Cluster, expect: Any, says: str):
    assert await unmet(example(**expect), cluster.client) == (says,)


async def test_a_server_that_refuses_is_not_taken_for_an_object_that_is_not_there(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    async def refusing(*_: Any) -> Any:
        raise ApiError(request="GET /", status=403, reason="Forbidden", message="no")

    monkeypatch.setattr(cluster.client, "get", refusing)
    with pytest.raises(ApiError, match="Forbidden"):
        await unmet(example(queue={"name": "team", "allocated": {}}), cluster.client)


async def test_the_demo_goes_on_when_a_pod_that_should_restart_is_not_there():
    screen = io.StringIO()
    demo = Demo(
        examples=(example(restart="notebook-0"),),
        once=True,
        timeout_seconds=0.1,
        console=Console(file=screen, width=200),
    )
    assert await demo.run() is False
    assert "pod notebook-0 is not there" in screen.getvalue()


async def test_a_pod_that_goes_between_two_looks_is_waited_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    async def overtaken(*_: Any, **__: Any) -> None:
        raise ApiError(request="DELETE /", status=404, reason="NotFound", message="no")

    await cluster.apply(
        """
        apiVersion: v1
        kind: Pod
        metadata: {name: notebook-0}
        spec: {containers: [{name: main, image: none}]}
        """
    )
    monkeypatch.setattr(cluster.client, "delete", overtaken)
    demo = Demo(examples=(example(restart="notebook-0"),))
    await demo._look(cluster.client)
    assert demo._missing["example"] == ("the pod restarts",)
