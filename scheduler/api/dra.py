"""resource.k8s.io/v1: slices, classes, claims and allocations, as frozen values.

Source: k8s.io/api/resource/v1 (Kubernetes 1.34 to 1.37).
Fields we do not read are ignored here and kept in the raw document.
"""

from collections.abc import Mapping

import msgspec

from scheduler.api.core import NodeSelector, Quantity
from scheduler.api.meta import Condition, ObjectMeta, Wire


class DeviceAttribute(Wire, frozen=True, kw_only=True):
    """Exactly one field is set; none set means a kind of value newer than us, and reads as absent."""

    int_: int | None = msgspec.field(default=None, name="int")
    bool_: bool | None = msgspec.field(default=None, name="bool")
    string: str | None = None
    version: str | None = None
    ints: tuple[int, ...] | None = None
    bools: tuple[bool, ...] | None = None
    strings: tuple[str, ...] | None = None
    versions: tuple[str, ...] | None = None


class CapacityRange(Wire, frozen=True, kw_only=True):
    min: Quantity
    max: Quantity | None = None
    step: Quantity | None = None


class CapacityRequestPolicy(Wire, frozen=True, kw_only=True):
    default: Quantity | None = None
    valid_values: tuple[Quantity, ...] | None = None
    valid_range: CapacityRange | None = None


class DeviceCapacity(Wire, frozen=True, kw_only=True):
    value: Quantity
    request_policy: CapacityRequestPolicy | None = None


class Counter(Wire, frozen=True, kw_only=True):
    value: Quantity


class CounterSet(Wire, frozen=True, kw_only=True):
    name: str
    counters: Mapping[str, Counter] = {}


class DeviceCounterConsumption(Wire, frozen=True, kw_only=True):
    """`compatibility_groups`: newer than us (KEP 5963); who is in one may not share the counters with everybody."""

    counter_set: str
    counters: Mapping[str, Counter] = {}
    compatibility_groups: object = None


class DeviceTaint(Wire, frozen=True, kw_only=True):
    """Effects: NoSchedule, NoExecute; None and unknown ones are information only."""

    key: str
    value: str = ""
    effect: str = ""
    time_added: str | None = None


class Device(Wire, frozen=True, kw_only=True):
    """`node_allocatable_resources`: newer than us; what its users take of the node's cpu and memory."""

    name: str
    attributes: Mapping[str, DeviceAttribute] | None = None
    capacity: Mapping[str, DeviceCapacity] | None = None
    consumes_counters: tuple[DeviceCounterConsumption, ...] | None = None
    node_name: str | None = None
    node_selector: NodeSelector | None = None
    all_nodes: bool | None = None
    taints: tuple[DeviceTaint, ...] | None = None
    binds_to_node: bool | None = None
    binding_conditions: tuple[str, ...] | None = None
    binding_failure_conditions: tuple[str, ...] | None = None
    allow_multiple_allocations: bool | None = None
    node_allocatable_resources: object = None


class ResourcePool(Wire, frozen=True, kw_only=True):
    name: str
    generation: int = 0
    resource_slice_count: int = 1


class ResourceSliceSpec(Wire, frozen=True, kw_only=True):
    driver: str
    pool: ResourcePool
    node_name: str | None = None
    node_selector: NodeSelector | None = None
    all_nodes: bool | None = None
    per_device_node_selection: bool | None = None
    devices: tuple[Device, ...] | None = None
    shared_counters: tuple[CounterSet, ...] | None = None
    skip_node_operations: tuple[str, ...] | None = None


class ResourceSlice(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: ResourceSliceSpec


class CELDeviceSelector(Wire, frozen=True, kw_only=True):
    expression: str


class DeviceSelector(Wire, frozen=True, kw_only=True):
    cel: CELDeviceSelector | None = None


class OpaqueDeviceConfiguration(Wire, frozen=True, kw_only=True):
    driver: str
    parameters: msgspec.Raw = msgspec.Raw(b"{}")


class DeviceClassConfiguration(Wire, frozen=True, kw_only=True):
    opaque: OpaqueDeviceConfiguration | None = None


class DeviceClassSpec(Wire, frozen=True, kw_only=True):
    selectors: tuple[DeviceSelector, ...] | None = None
    config: tuple[DeviceClassConfiguration, ...] | None = None
    extended_resource_name: str | None = None


class DeviceClass(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: DeviceClassSpec = DeviceClassSpec()


class CapacityRequirements(Wire, frozen=True, kw_only=True):
    requests: Mapping[str, Quantity] | None = None


class DeviceToleration(Wire, frozen=True, kw_only=True):
    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class ExactDeviceRequest(Wire, frozen=True, kw_only=True):
    """`derived_attributes`: newer than us (KEP 6080), refused loudly at allocation."""

    device_class_name: str
    selectors: tuple[DeviceSelector, ...] | None = None
    allocation_mode: str = "ExactCount"
    count: int | None = None
    admin_access: bool | None = None
    tolerations: tuple[DeviceToleration, ...] | None = None
    capacity: CapacityRequirements | None = None
    derived_attributes: object = None


class DeviceSubRequest(Wire, frozen=True, kw_only=True):
    name: str
    device_class_name: str
    selectors: tuple[DeviceSelector, ...] | None = None
    allocation_mode: str = "ExactCount"
    count: int | None = None
    tolerations: tuple[DeviceToleration, ...] | None = None
    capacity: CapacityRequirements | None = None
    derived_attributes: object = None


class DeviceRequest(Wire, frozen=True, kw_only=True):
    """Neither `exactly` nor `first_available`: a form newer than us, refused loudly at allocation."""

    name: str
    exactly: ExactDeviceRequest | None = None
    first_available: tuple[DeviceSubRequest, ...] | None = None


class DeviceConstraint(Wire, frozen=True, kw_only=True):
    """`requests` empty: all of the claim. Exactly one of the attributes is set."""

    requests: tuple[str, ...] | None = None
    match_attribute: str | None = None
    distinct_attribute: str | None = None


class DeviceClaimConfiguration(Wire, frozen=True, kw_only=True):
    requests: tuple[str, ...] | None = None
    opaque: OpaqueDeviceConfiguration | None = None


class DeviceClaim(Wire, frozen=True, kw_only=True):
    requests: tuple[DeviceRequest, ...] | None = None
    constraints: tuple[DeviceConstraint, ...] | None = None
    config: tuple[DeviceClaimConfiguration, ...] | None = None


# Weakly referred to by what is computed of them (`scheduler.dra.caches`); msgspec allows it only with `gc`.
class ResourceClaimSpec(Wire, frozen=True, kw_only=True, gc=True, weakref=True):
    devices: DeviceClaim = DeviceClaim()


class DeviceRequestAllocationResult(Wire, frozen=True, kw_only=True):
    """One device given to one request ("main" or "main/sub")."""

    request: str
    driver: str
    pool: str
    device: str
    admin_access: bool | None = None
    tolerations: tuple[DeviceToleration, ...] | None = None
    binding_conditions: tuple[str, ...] | None = None
    binding_failure_conditions: tuple[str, ...] | None = None
    share_id: str | None = msgspec.field(default=None, name="shareID")
    consumed_capacity: Mapping[str, Quantity] | None = None
    skip_node_operations: tuple[str, ...] | None = None


class DeviceAllocationConfiguration(Wire, frozen=True, kw_only=True):
    source: str
    requests: tuple[str, ...] | None = None
    opaque: OpaqueDeviceConfiguration | None = None


class DeviceAllocationResult(Wire, frozen=True, kw_only=True):
    results: tuple[DeviceRequestAllocationResult, ...] | None = None
    config: tuple[DeviceAllocationConfiguration, ...] | None = None


# As ResourceClaimSpec.
class AllocationResult(Wire, frozen=True, kw_only=True, gc=True, weakref=True):
    """`node_selector` absent: usable on every node."""

    devices: DeviceAllocationResult = DeviceAllocationResult()
    node_selector: NodeSelector | None = None
    allocation_timestamp: str | None = None


class ResourceClaimConsumerReference(Wire, frozen=True, kw_only=True):
    api_group: str = ""
    resource: str
    name: str
    uid: str


class AllocatedDeviceStatus(Wire, frozen=True, kw_only=True):
    driver: str
    pool: str
    device: str
    share_id: str | None = msgspec.field(default=None, name="shareID")
    conditions: tuple[Condition, ...] | None = None


class ResourceClaimStatus(Wire, frozen=True, kw_only=True):
    allocation: AllocationResult | None = None
    reserved_for: tuple[ResourceClaimConsumerReference, ...] | None = None
    devices: tuple[AllocatedDeviceStatus, ...] | None = None


class ResourceClaim(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: ResourceClaimSpec
    status: ResourceClaimStatus = ResourceClaimStatus()


class ResourceClaimTemplateSpec(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: ResourceClaimSpec


class ResourceClaimTemplate(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: ResourceClaimTemplateSpec


class DeviceTaintSelector(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Absent fields select everything; an absent selector selects nothing. All must hold: a rule with a field that we
    do not know cannot be read, because without it the rule would select more."""

    driver: str | None = None
    pool: str | None = None
    device: str | None = None


class DeviceTaintRuleSpec(Wire, frozen=True, kw_only=True):
    device_selector: DeviceTaintSelector | None = None
    taint: DeviceTaint


class DeviceTaintRule(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: DeviceTaintRuleSpec


# Finalizer that must stand on a claim before an allocation is stored (KEP 4381).
CLAIM_FINALIZER = "resource.kubernetes.io/delete-protection"
POD_CLAIM_NAME_ANNOTATION = "resource.kubernetes.io/pod-claim-name"
EXTENDED_RESOURCE_CLAIM_ANNOTATION = "resource.kubernetes.io/extended-resource-claim"
IMPLICIT_EXTENDED_RESOURCE_PREFIX = "deviceclass.resource.kubernetes.io/"
MOST_CONSUMERS = 256
MOST_RESULTS = 32
