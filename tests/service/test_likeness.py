"""The embedded cluster stores what a real one stores, and refuses what that refuses, for the same fields."""

from typing import Any

import pytest

from scheduler.api import crd_schema
from scheduler.devcluster import kinds
from scheduler.devcluster.access import StatusError
from scheduler.devcluster.run import DevCluster
from scheduler.kube import identity
from tests.real.documents import Document, documents
from tests.real.remote import Remote
from tests.service.conftest import Cluster

pytestmark = pytest.mark.real

# What the embedded cluster leaves out: nothing of ours reads it, and 100,000 pods would carry it.
LEFT_OUT = (
    "enableServiceLinks",
    "imagePullPolicy",
    "managedFields",
    "manualSelector",
    "persistentVolumeClaimRetentionPolicy",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "volumeMounts",  # of the service account's token, as its volume below
)
# Of each server's own making.
MADE = ("controller-uid", "batch.kubernetes.io/controller-uid", "creationTimestamp", "resourceVersion", "uid")
EMPTY: tuple[Any, ...] = ({}, [], None, "")


def bare(value: Any) -> Any:
    """Without what is left out or made, and without what is empty."""
    if isinstance(value, list):
        return [bare(item) for item in value if not _added(item)]
    if not isinstance(value, dict):
        return value
    kept = {name: bare(item) for name, item in value.items() if name not in (*LEFT_OUT, *MADE)}
    return {name: item for name, item in kept.items() if item not in EMPTY}


def _added(item: Any) -> bool:
    """What admission adds on a real server: the token's volume, patience with failing nodes, the taint of a new one."""
    if not isinstance(item, dict):
        return False
    return (
        str(item.get("name", "")).startswith("kube-api-access-")
        or item.get("tolerationSeconds") == 300
        or item == {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
    )


async def verdict(api: Remote, kind: kinds.Kind, document: Document) -> Document:
    """What the server would store, without its status; or its refusal, with the fields it names."""
    try:
        stored = await api.create(kind, document, dry_run=True)
    except StatusError as error:
        causes = (error.details or {}).get("causes") or ()
        # "<nil>": a remark that a custom resource was not checked to its end.
        return {"refused": error.code, "fields": sorted({cause["field"] for cause in causes} - {"<nil>"})}
    return {name: item for name, item in bare(stored).items() if name != "status"}


async def test_the_embedded_cluster_judges_and_stores_as_the_real_one_does(cluster: Cluster):
    differences = []
    async with (
        DevCluster() as served,
        Remote(identity.Identity(server=served.url)) as embedded,
        Remote(await identity.load(cluster.kubeconfig)) as real,
    ):
        if await real.minor() != await embedded.minor():
            pytest.skip(
                f"the embedded cluster follows Kubernetes 1.{await embedded.minor()}, not 1.{await real.minor()}"
            )
        for definition in crd_schema.crds():
            await embedded.create(kinds.CUSTOM_RESOURCE, definition)
        for document in documents():
            kind = served.store.kinds.named(document["apiVersion"], document["kind"])
            assert kind is not None
            if kind.namespaced:
                document = {**document, "metadata": {**document["metadata"], "namespace": "default"}}
            expected, found = await verdict(real, kind, document), await verdict(embedded, kind, document)
            if found != expected:
                differences.append(f"{kind.kind} {document}:\n  real     {expected}\n  embedded {found}")
    assert not differences, "\n".join(differences)
