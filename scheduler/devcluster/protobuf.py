"""Protobuf bodies, as far as `kubectl create <kind>` and `kubectl drain` send them; read into plain objects.

kubectl's generators use typed clients, and those write protobuf. Everything else (apply, create -f, patch, delete)
is JSON, and all answers are JSON. A field that is not in the tables below is refused with 415, never dropped.
Source: the generated.proto files of k8s.io/api and k8s.io/apimachinery.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from scheduler.devcluster.errors import StatusError, bad_request
from scheduler.devcluster.objects import Obj, format_time

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

# Field number, name, type; "*" repeated, "map" string keys. Types: str, bytes, int, bool, `zero` and `flag` (an int and
# a bool that are left out when 0 or false, as in JSON), or another message.
_MESSAGES: dict[str, str] = {
    "Unknown": "1 typeMeta TypeMeta, 2 raw bytes, 3 contentEncoding str, 4 contentType str",
    "TypeMeta": "1 apiVersion str, 2 kind str",
    "ObjectMeta": (
        "1 name str, 2 generateName str, 3 namespace str, 5 uid str, 6 resourceVersion str, 7 generation zero, "
        "8 creationTimestamp Time, 9 deletionTimestamp Time, 11 labels map str, 12 annotations map str, "
        "13 ownerReferences *OwnerReference, 14 finalizers *str"
    ),
    "OwnerReference": (
        "5 apiVersion str, 1 kind str, 3 name str, 4 uid str, 6 controller bool, 7 blockOwnerDeletion bool"
    ),
    "LabelSelector": "1 matchLabels map str, 2 matchExpressions *LabelSelectorRequirement",
    "LabelSelectorRequirement": "1 key str, 2 operator str, 3 values *str",
    "DeleteOptions": (
        "1 gracePeriodSeconds int, 2 preconditions Preconditions, 3 orphanDependents bool, 4 propagationPolicy str, "
        "5 dryRun *str"
    ),
    "Preconditions": "1 uid str, 2 resourceVersion str",
    "Namespace": "1 metadata ObjectMeta, 2 spec NamespaceSpec, 3 status Skipped",
    "NamespaceSpec": "1 finalizers *str",
    "ConfigMap": "1 metadata ObjectMeta, 4 immutable bool, 2 data map str, 3 binaryData map bytes",
    "Secret": "1 metadata ObjectMeta, 5 immutable bool, 2 data map bytes, 4 stringData map str, 3 type str",
    "ServiceAccount": "1 metadata ObjectMeta, 4 automountServiceAccountToken bool",
    "Service": "1 metadata ObjectMeta, 2 spec ServiceSpec, 3 status Skipped",
    "ServiceSpec": (
        "1 ports *ServicePort, 2 selector map str, 3 clusterIP str, 4 type str, 5 externalIPs *str, "
        "7 sessionAffinity str, 8 loadBalancerIP str, 10 externalName str, 11 externalTrafficPolicy str, "
        "12 healthCheckNodePort zero, 13 publishNotReadyAddresses flag"
    ),
    "ServicePort": "1 name str, 2 protocol str, 3 port int, 4 targetPort IntOrString, 5 nodePort zero",
    "Deployment": "1 metadata ObjectMeta, 2 spec DeploymentSpec, 3 status Skipped",
    "DeploymentSpec": (
        "1 replicas int, 2 selector LabelSelector, 3 template PodTemplateSpec, 4 strategy DeploymentStrategy, "
        "5 minReadySeconds zero, 6 revisionHistoryLimit int, 7 paused flag, 9 progressDeadlineSeconds int"
    ),
    "DeploymentStrategy": "1 type str",
    "Job": "1 metadata ObjectMeta, 2 spec JobSpec, 3 status Skipped",
    "JobSpec": (
        "1 parallelism int, 2 completions int, 3 activeDeadlineSeconds int, 7 backoffLimit int, "
        "4 selector LabelSelector, 5 manualSelector bool, 6 template PodTemplateSpec, 8 ttlSecondsAfterFinished int, "
        "9 completionMode str, 10 suspend bool"
    ),
    "PodTemplateSpec": "1 metadata ObjectMeta, 2 spec PodSpec",
    "Pod": "1 metadata ObjectMeta, 2 spec PodSpec, 3 status Skipped",
    "PodSpec": (
        "20 initContainers *Container, 2 containers *Container, 3 restartPolicy str, "
        "4 terminationGracePeriodSeconds int, 5 activeDeadlineSeconds int, 6 dnsPolicy str, 7 nodeSelector map str, "
        "8 serviceAccountName str, 9 serviceAccount str, 10 nodeName str, 11 hostNetwork flag, 12 hostPID flag, "
        "13 hostIPC flag, 14 securityContext Empty, 16 hostname str, 17 subdomain str, 19 schedulerName str, "
        "22 tolerations *Toleration, 24 priorityClassName str, 25 priority int, 30 enableServiceLinks bool, "
        "31 preemptionPolicy str, 39 resourceClaims *PodResourceClaim"
    ),
    "PodResourceClaim": "1 name str, 3 resourceClaimName str, 4 resourceClaimTemplateName str",
    "Toleration": "1 key str, 2 operator str, 3 value str, 4 effect str, 5 tolerationSeconds int",
    "Container": (
        "1 name str, 2 image str, 3 command *str, 4 args *str, 5 workingDir str, 6 ports *ContainerPort, "
        "7 env *EnvVar, 8 resources ResourceRequirements, 13 terminationMessagePath str, "
        "20 terminationMessagePolicy str, 14 imagePullPolicy str, 16 stdin flag, 17 stdinOnce flag, 18 tty flag"
    ),
    "ContainerPort": "1 name str, 2 hostPort zero, 3 containerPort int, 4 protocol str, 5 hostIP str",
    "EnvVar": "1 name str, 2 value str",
    "ResourceRequirements": "1 limits map Quantity, 2 requests map Quantity, 3 claims *ContainerClaim",
    "ContainerClaim": "1 name str, 2 request str",
    "PriorityClass": (
        "1 metadata ObjectMeta, 2 value int, 3 globalDefault flag, 4 description str, 5 preemptionPolicy str"
    ),
    "PodDisruptionBudget": "1 metadata ObjectMeta, 2 spec PodDisruptionBudgetSpec, 3 status Skipped",
    "PodDisruptionBudgetSpec": (
        "1 minAvailable IntOrString, 2 selector LabelSelector, 3 maxUnavailable IntOrString, "
        "4 unhealthyPodEvictionPolicy str"
    ),
    "Eviction": "1 metadata ObjectMeta, 2 deleteOptions DeleteOptions",
    "Binding": "1 metadata ObjectMeta, 2 target ObjectReference",
    "ObjectReference": (
        "1 kind str, 2 namespace str, 3 name str, 4 uid str, 5 apiVersion str, 6 resourceVersion str, 7 fieldPath str"
    ),
    "Role": "1 metadata ObjectMeta, 2 rules *PolicyRule",
    "ClusterRole": "1 metadata ObjectMeta, 2 rules *PolicyRule",
    "PolicyRule": "1 verbs *str, 2 apiGroups *str, 3 resources *str, 4 resourceNames *str, 5 nonResourceURLs *str",
    "RoleBinding": "1 metadata ObjectMeta, 2 subjects *Subject, 3 roleRef RoleRef",
    "ClusterRoleBinding": "1 metadata ObjectMeta, 2 subjects *Subject, 3 roleRef RoleRef",
    "Subject": "1 kind str, 2 apiGroup str, 3 name str, 4 namespace str",
    "RoleRef": "1 apiGroup str, 2 kind str, 3 name str",
    "Time": "1 seconds int, 2 nanos int",
    "IntOrString": "1 type int, 2 intVal int, 3 strVal str",
    "Quantity": "1 string str",
    "Empty": "",
}
_TOP = frozenset(
    name
    for name, fields in _MESSAGES.items()
    if (fields.startswith("1 metadata ObjectMeta") and name != "PodTemplateSpec") or name == "DeleteOptions"
)


def _fields(message: str) -> dict[int, tuple[str, str]]:
    rows = (row.split(" ", 2) for row in _MESSAGES[message].split(", ") if row)
    return {int(number): (name, type) for number, name, type in rows}


_TABLES = {message: _fields(message) for message in _MESSAGES}


def _unsupported(what: str) -> StatusError:
    text = f"protobuf bodies of this form are not read here ({what}); send JSON, for example with `kubectl create -f`"
    return StatusError(415, "UnsupportedMediaType", text)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise bad_request("the protobuf body is not readable: a number is too long")


def _entries(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: number, and an integer or the bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value - (1 << 64) if value >= 1 << 63 else value
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise bad_request("the protobuf body is not readable: it is cut short")
            yield key >> 3, data[at : at + size]
            at += size
        else:
            raise _unsupported(f"wire type {wire}")


def _value(type: str, raw: Any, path: str) -> Any:
    """One value; None for one that means "not set" (empty text, empty message)."""
    if isinstance(raw, int):
        if type in ("bool", "flag"):
            return bool(raw) if raw or type == "bool" else None
        if type in ("int", "zero"):
            return raw if raw or type == "int" else None
        raise bad_request(f"the protobuf body is not readable: {path} is no number")
    if type == "str":
        return raw.decode() or None
    if type == "bytes":
        return base64.b64encode(raw).decode()
    if type == "Skipped" or type in ("int", "zero", "bool", "flag"):
        return None
    message = _message(type, raw, path)
    if type == "Time":
        return format_time(datetime.fromtimestamp(message["seconds"], UTC)) if message.get("seconds") else None
    if type == "IntOrString":
        return message.get("strVal", "") if message.get("type") else message.get("intVal", 0)
    if type == "Quantity":
        return message.get("string", "0")
    return message or ({} if type == "LabelSelector" else None)


def _message(type: str, data: bytes, path: str) -> Obj:
    table = _TABLES[type]
    result: Obj = {}
    for number, raw in _entries(data):
        if number not in table and not raw:
            continue  # written, but not set
        if number not in table:
            raise _unsupported(f"field {number} of {type} at {path or 'the top'}")
        name, kind = table[number]
        at = f"{path}.{name}"
        if kind.startswith("map "):
            entry = dict(_entries(raw))
            value = _value(kind[4:], entry.get(2, b""), at)
            result.setdefault(name, {})[entry.get(1, b"").decode()] = "" if value is None else value
        elif kind.startswith("*"):
            value = _value(kind[1:], raw, at)
            result.setdefault(name, []).append(("" if kind == "*str" else {}) if value is None else value)
        else:
            value = _value(kind, raw, at)
            if value is not None:
                result[name] = value
    return result


def decode_protobuf(data: bytes) -> Obj:
    """The object in a Kubernetes protobuf envelope. Raises StatusError 400 or 415."""
    if not data.startswith(_MAGIC):
        raise bad_request("the protobuf body is not readable: it does not begin with the Kubernetes prefix")
    try:
        envelope = dict(_entries(data[len(_MAGIC) :]))
        type_meta = _message("TypeMeta", envelope.get(1, b""), "")
        kind = type_meta.get("kind", "")
        if kind not in _TOP:
            raise _unsupported(f"kind {kind or 'unknown'}")
        return {**type_meta, **_message(kind, envelope.get(2, b""), "")}
    except (IndexError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise bad_request(f"the protobuf body is not readable: {error}") from error
