"""ComputeDomains that a claim is for: who has a channel of one can reach the memory of all its nodes over NVLink.

NVIDIA's driver forms a domain of the nodes on which its pods happen to be, and does so after they were placed. It can
only join nodes of one clique; so it is for whoever places the pods to keep them in one.
Source: NVIDIA's DRA driver (ComputeDomainChannelConfig, resource.nvidia.com/v1beta1).
"""

import msgspec

from scheduler.api.attributes import CHANNEL_CONFIG, COMPUTE_DOMAIN_DRIVER, COMPUTE_DOMAIN_GROUP
from scheduler.api.dra import ResourceClaimSpec
from scheduler.dra.caches import PerObject


class _Config(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str = ""
    kind: str = ""
    domain_id: str = msgspec.field(default="", name="domainID")


_config = msgspec.json.Decoder(_Config)


@PerObject
def compute_domains(spec: ResourceClaimSpec) -> frozenset[str]:
    """UIDs of the ComputeDomains whose channels the claim asks for. What cannot be read is for the driver to refuse."""
    found = set()
    for each in spec.devices.config or ():
        if each.opaque is not None and each.opaque.driver == COMPUTE_DOMAIN_DRIVER:
            try:
                config = _config.decode(each.opaque.parameters)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            if config.kind == CHANNEL_CONFIG and config.api_version.partition("/")[0] == COMPUTE_DOMAIN_GROUP:
                found.add(config.domain_id)
    return frozenset(found - {""})
