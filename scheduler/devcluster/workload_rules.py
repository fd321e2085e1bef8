"""Objects that make pods: Deployment, ReplicaSet, StatefulSet, DaemonSet, Job. Defaults, labels, validation."""

from __future__ import annotations

from typing import Any

from scheduler.devcluster import errors, kinds
from scheduler.devcluster.errors import FieldError
from scheduler.devcluster.objects import Obj, field_of, with_field
from scheduler.devcluster.pod_rules import spec_faults, spec_with_defaults
from scheduler.devcluster.rules import Lookup, Rules
from scheduler.devcluster.selectors import object_selector

_DEPLOYMENT: Obj = {
    "replicas": 1,
    "revisionHistoryLimit": 10,
    "progressDeadlineSeconds": 600,
    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
}
_REPLICA_SET: Obj = {"replicas": 1}
_STATEFUL_SET: Obj = {
    "replicas": 1,
    "revisionHistoryLimit": 10,
    "podManagementPolicy": "OrderedReady",
    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
}
_DAEMON_SET: Obj = {"revisionHistoryLimit": 10, "updateStrategy": {"type": "RollingUpdate"}}
_JOB: Obj = {
    "backoffLimit": 6,
    "completionMode": "NonIndexed",
    "suspend": False,
    "podReplacementPolicy": "TerminatingOrFailed",
}
JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"


def _filled(obj: Obj, defaults: Obj) -> Obj:
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        return obj
    changes = {key: value for key, value in defaults.items() if spec.get(key) is None}
    template = spec.get("template")
    inner = template.get("spec") if isinstance(template, dict) else None
    if isinstance(inner, dict):
        done = spec_with_defaults(inner)
        if done is not inner:
            changes["template"] = {**spec["template"], "spec": done}
    return {**obj, "spec": {**spec, **changes}} if changes else obj


def _job_with_defaults(job: Obj) -> Obj:
    job = _filled(job, _JOB)
    spec = job.get("spec")
    if not isinstance(spec, dict):
        return job
    changes: Obj = {}
    if spec.get("completions") is None and spec.get("parallelism") is None:
        changes = {"completions": 1, "parallelism": 1}
    elif spec.get("parallelism") is None:
        changes = {"parallelism": 1}
    return {**job, "spec": {**spec, **changes}} if changes else job


def _begin_job(job: Obj, _lookup: Lookup) -> Obj:
    """The selector and the template's labels by which a Job knows its pods."""
    if not isinstance(field_of(job, "spec", "template"), dict) or job["spec"].get("manualSelector"):
        return job
    uid, name = job["metadata"]["uid"], job["metadata"]["name"]
    if field_of(job, "spec", "selector"):
        text = "`selector` not auto-generated"
        labels = field_of(job, "spec", "template", "metadata", "labels") or {}
        faults = [errors.invalid("spec.selector", job["spec"]["selector"], text)]
        if not object_selector(job["spec"]["selector"])({"metadata": {"labels": labels}}):
            text = "`selector` does not match template `labels`"
            faults.append(errors.invalid("spec.template.metadata.labels", labels, text))
        raise errors.invalid_object(kinds.JOB, name, faults)
    made = {"controller-uid": uid, "job-name": name, JOB_UID_LABEL: uid, JOB_NAME_LABEL: name}
    labels = {**(field_of(job, "spec", "template", "metadata", "labels") or {}), **made}
    job = with_field(job, ("spec", "template", "metadata", "labels"), labels)
    if not job["metadata"].get("labels"):  # a Job without labels gets those of its pods
        job = with_field(job, ("metadata", "labels"), labels)
    return with_field(job, ("spec", "selector"), {"matchLabels": {JOB_UID_LABEL: uid}})


def _template_faults(template: Any, restarts: tuple[str, ...]) -> list[FieldError]:
    if not isinstance(template, dict) or not isinstance(template.get("spec"), dict):
        return [errors.required("spec.template.spec.containers")]
    faults = [
        FieldError(reason=fault.reason, field=f"spec.template.{fault.field}", text=fault.text)
        for fault in spec_faults(template["spec"])
    ]
    policy = template["spec"].get("restartPolicy")
    if not faults and policy not in restarts:
        faults.append(errors.unsupported("spec.template.spec.restartPolicy", policy, restarts))
    return faults


def _count_faults(spec: Obj, *names: str) -> list[FieldError]:
    return [
        errors.invalid(f"spec.{name}", spec[name], "must be greater than or equal to 0")
        for name in names
        if spec.get(name) is not None and not (isinstance(spec[name], int) and spec[name] >= 0)
    ]


def _check(obj: Obj) -> list[FieldError]:
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        return [errors.required("spec")]
    faults = _count_faults(spec, "replicas", "revisionHistoryLimit", "minReadySeconds")
    selector = spec.get("selector")
    if not selector:
        faults.append(errors.required("spec.selector"))
    faults += _template_faults(spec.get("template"), ("Always",))
    if selector and not faults and not object_selector(selector)({"metadata": spec["template"].get("metadata") or {}}):
        labels = field_of(spec, "template", "metadata", "labels") or {}
        text = "`selector` does not match template `labels`"
        faults.append(errors.invalid("spec.template.metadata.labels", labels, text))
    return faults


def _check_job(job: Obj) -> list[FieldError]:
    spec = job.get("spec")
    if not isinstance(spec, dict):
        return [errors.required("spec")]
    faults = _count_faults(spec, "parallelism", "completions", "backoffLimit", "activeDeadlineSeconds")
    faults += _template_faults(spec.get("template"), ("OnFailure", "Never"))
    if spec.get("completionMode") not in ("NonIndexed", "Indexed"):
        faults.append(errors.unsupported("spec.completionMode", spec.get("completionMode"), ("Indexed", "NonIndexed")))
    elif spec["completionMode"] == "Indexed" and spec.get("completions") is None:
        faults.append(errors.required("spec.completions", "when completion mode is Indexed"))
    return faults


def _selector_stays(old: Obj, new: Obj, subresource: str | None) -> list[FieldError]:
    if subresource or old["spec"].get("selector") == new["spec"].get("selector"):
        return []
    return [errors.invalid("spec.selector", new["spec"].get("selector"), "field is immutable")]


def _job_template_stays(old: Obj, new: Obj, subresource: str | None) -> list[FieldError]:
    if subresource:
        return []
    faults = _selector_stays(old, new, None)
    suspended = old["spec"].get("suspend") and not field_of(old, "status", "startTime")
    frozen = ("completions", "completionMode") + (() if suspended else ("template",))
    return faults + [
        errors.invalid(f"spec.{field}", new["spec"].get(field), "field is immutable")
        for field in frozen
        if old["spec"].get(field) != new["spec"].get(field)
    ]


def _rules(defaults: Obj) -> Rules:
    return Rules(defaults=lambda obj: _filled(obj, defaults), check=_check, check_change=_selector_stays)


DEPLOYMENT_RULES = _rules(_DEPLOYMENT)
REPLICA_SET_RULES = _rules(_REPLICA_SET)
STATEFUL_SET_RULES = _rules(_STATEFUL_SET)
DAEMON_SET_RULES = _rules(_DAEMON_SET)
JOB_RULES = Rules(defaults=_job_with_defaults, begin=_begin_job, check=_check_job, check_change=_job_template_stays)
