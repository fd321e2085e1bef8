"""The priority classes of KAI's chart, and what each kind of owner has where nothing names a class.

They hold where the manifests are KAI's: its PodGroup, or a queue named by its label. Source: reference kai.md 1, 1.4.
"""

from collections.abc import Mapping, Sequence

from scheduler.api.kinds import (
    DEPLOYMENT,
    DYNAMO_GRAPH,
    KNATIVE_SERVICE,
    NOTEBOOK,
    TRAIN_JOB,
    WORKFLOW,
    Document,
    Kind,
)

FIRM = 100
"""From this priority on workloads are not preemptible, unless they say so."""
CLASSES: Mapping[str, int] = {"train": 50, "build-preemptible": 75, "build": 100, "inference": 125}
"""Manifests name them, and may be used where the chart is not."""

_SKIPPED = frozenset({WORKFLOW, TRAIN_JOB, DYNAMO_GRAPH})
"""Of these the next owner below decides."""
_OF_KIND: Mapping[Kind, str] = {DEPLOYMENT: "inference", KNATIVE_SERVICE: "inference", NOTEBOOK: "build"}


def default(owners: Sequence[tuple[Kind, Document]]) -> str:
    """The class of a gang with these owners, the outermost first."""
    top = next((kind for kind, _ in owners if kind not in _SKIPPED), None)
    return "train" if top is None else _OF_KIND.get(top, "train")
