"""What the scheduler writes into objects of others leaves the rest of them as it was, to the byte."""

import msgspec
import pytest

from scheduler.api import kinds
from tests.service.conftest import Cluster

# As somebody may write them; the server keeps a claim's spec as it came and refuses (422) one that differs.
PARAMETERS = b'{"apiVersion":"example.com/v1","kind":"Tuning","a":1e3,"b":1.10,"c":12345678901234567890123}'
CLAIM = (
    b'{"apiVersion":"resource.k8s.io/v1","kind":"ResourceClaim","metadata":{"name":"c","namespace":"default"},'
    b'"spec":{"devices":{"requests":[{"name":"gpu","exactly":{"deviceClassName":"gpu.nvidia.com"}}],'
    b'"config":[{"opaque":{"driver":"gpu.nvidia.com","parameters":' + PARAMETERS + b"}}]}}}"
)


@pytest.mark.usefixtures("tutti")
async def test_a_claims_parameters_stay_as_they_were_written(cluster: Cluster) -> None:
    await cluster.add_nodes("h100x8", 1)
    made = await cluster.client.create_raw(kinds.RESOURCE_CLAIM, "default", msgspec.Raw(CLAIM))
    await cluster.apply("""
        apiVersion: v1
        kind: Pod
        metadata: {name: p, namespace: default}
        spec:
          schedulerName: tutti
          resourceClaims: [{name: gpu, resourceClaimName: c}]
          containers: [{name: main, image: i, resources: {claims: [{name: gpu}]}}]
        """)
    await cluster.running("default", 1)
    found = await cluster.client.get_raw(kinds.RESOURCE_CLAIM, "default", "c")
    assert spec_of(found) == spec_of(made)
    pod = await cluster.client.get(kinds.POD, "default", "p")
    assert pod["metadata"]["annotations"]["tutti.scheduler/charged-queue"] == "default"


def spec_of(document: bytes) -> bytes:
    return bytes(msgspec.json.decode(document, type=dict[str, msgspec.Raw])["spec"])
