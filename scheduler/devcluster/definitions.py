"""CustomResourceDefinitions: checked, accepted at once, and turned into the kinds they define."""

from __future__ import annotations

from scheduler.devcluster import errors
from scheduler.devcluster.errors import FieldError
from scheduler.devcluster.kinds import CUSTOM_RESOURCE, Kind, PrinterColumn, Registry
from scheduler.devcluster.objects import Obj, field_of, with_condition, with_field
from scheduler.devcluster.rules import Lookup, Rules, is_label, is_subdomain
from scheduler.devcluster.schema import Schema, structure_faults

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
APPROVAL = "api-approved.kubernetes.io"
_AGE = PrinterColumn(name="Age", type="date", path=".metadata.creationTimestamp")


def kinds_of(definition: Obj) -> list[Kind]:
    """The kinds a definition serves, one for each served version."""
    spec, names = definition["spec"], definition["spec"]["names"]
    stored = next(version["name"] for version in spec["versions"] if version.get("storage"))
    served = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        scale = field_of(version, "subresources", "scale")
        subresources = [name for name in ("status", "scale") if field_of(version, "subresources", name) is not None]
        more: Obj = {}
        if scale:
            paths = ("specReplicasPath", "statusReplicasPath", "labelSelectorPath")
            more = {"scale_paths": tuple(scale.get(path, "") for path in paths)}
        root = field_of(version, "schema", "openAPIV3Schema")
        served.append(
            Kind(
                group=spec["group"],
                version=version["name"],
                kind=names["kind"],
                list_kind=names.get("listKind") or names["kind"] + "List",
                plural=names["plural"],
                singular=names.get("singular") or names["kind"].lower(),
                namespaced=spec["scope"] == "Namespaced",
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                subresources=tuple(subresources),
                columns=_columns(version),
                custom=True,
                stored_version=stored,
                schema=Schema(root) if root else None,
                **more,
            )
        )
    return served


def _columns(version: Obj) -> tuple[PrinterColumn, ...]:
    columns = version.get("additionalPrinterColumns")
    if not columns:
        return (_AGE,)
    return tuple(
        PrinterColumn(
            name=column["name"],
            type=column.get("type", "string"),
            path=column["jsonPath"],
            format=column.get("format", ""),
            description=column.get("description", ""),
            priority=column.get("priority", 0),
        )
        for column in columns
    )


class Definitions:
    """Keeps a registry equal to the CustomResourceDefinitions in the store."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def changed(self, kind: Kind, before: Obj | None, after: Obj | None) -> None:
        """One object changed; only definitions matter. A store observer."""
        if kind is not CUSTOM_RESOURCE:
            return
        if before is not None and after is not None and before.get("spec") == after.get("spec"):
            return
        for old in kinds_of(before) if before is not None else ():
            self._registry.remove(old)
        for new in kinds_of(after) if after is not None else ():
            self._registry.add(new)


# --- rules --------------------------------------------------------------------------------------------------------


def _with_defaults(definition: Obj) -> Obj:
    names, spec = field_of(definition, "spec", "names"), definition.get("spec")
    if not isinstance(names, dict) or not isinstance(names.get("kind"), str) or not isinstance(spec, dict):
        return definition
    changes = {}
    if not names.get("singular"):
        changes["singular"] = names["kind"].lower()
    if not names.get("listKind"):
        changes["listKind"] = names["kind"] + "List"
    if changes:
        definition = with_field(definition, ("spec", "names"), {**names, **changes})
    if not spec.get("conversion"):
        definition = with_field(definition, ("spec", "conversion"), {"strategy": "None"})
    return definition


def _begin(definition: Obj, lookup: Lookup) -> Obj:
    finalizers = [*(definition["metadata"].get("finalizers") or ()), CLEANUP]
    definition = with_field(definition, ("metadata", "finalizers"), finalizers)
    spec = definition.get("spec")
    if not isinstance(spec, dict):
        return definition
    stored = [version.get("name") for version in spec.get("versions") or () if version.get("storage")]
    definition = {**definition, "status": {"acceptedNames": spec.get("names"), "storedVersions": stored}}
    conditions = (
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    )
    for name, reason, message in conditions:
        condition = {"type": name, "status": "True", "reason": reason, "message": message}
        definition = with_condition(definition, condition, lookup.now())
    return definition


def _check(definition: Obj) -> list[FieldError]:
    spec = definition.get("spec")
    if not isinstance(spec, dict):
        return [errors.required("spec")]
    names = spec.get("names") or {}
    faults = [errors.required(f"spec.names.{field}") for field in ("plural", "kind") if not names.get(field)]
    if not is_subdomain(spec.get("group")) or "." not in str(spec.get("group")):
        faults.append(errors.invalid("spec.group", spec.get("group"), "should be a domain with at least one dot"))
    faults += _approval_faults(definition, f".{spec.get('group')}")
    if spec.get("scope") not in ("Cluster", "Namespaced"):
        faults.append(errors.unsupported("spec.scope", spec.get("scope"), ("Cluster", "Namespaced")))
    wanted = f"{names.get('plural')}.{spec.get('group')}"
    if definition["metadata"]["name"] != wanted:
        text = 'must be spec.names.plural+"."+spec.group'
        faults.append(errors.invalid("metadata.name", definition["metadata"]["name"], text))
    versions = spec.get("versions") or ()
    if sum(bool(version.get("storage")) for version in versions) != 1:
        text = "must have exactly one version marked as storage version"
        faults.append(errors.invalid("spec.versions", [version.get("name") for version in versions], text))
    if field_of(spec, "conversion", "strategy") not in (None, "None"):
        faults.append(errors.unsupported("spec.conversion.strategy", spec["conversion"]["strategy"], ("None",)))
    for index, version in enumerate(versions):
        faults += _version_faults(version, f"spec.versions[{index}]")
    return faults


def _approval_faults(definition: Obj, group: str) -> list[FieldError]:
    """The community's own groups want to be told where a kind was approved, or that it was not."""
    if not group.endswith((".k8s.io", ".kubernetes.io")):
        return []
    approval = (definition["metadata"].get("annotations") or {}).get(APPROVAL, "")
    if not approval:
        text = f'protected groups must have the annotation "{APPROVAL}"'
        return [errors.required(f"metadata.annotations[{APPROVAL}]", text)]
    if not approval.startswith(("unapproved", "http://", "https://")):
        return [
            errors.invalid(f"metadata.annotations[{APPROVAL}]", approval, 'must be a URL, or begin with "unapproved"')
        ]
    return []


def _version_faults(version: Obj, path: str) -> list[FieldError]:
    faults = []
    if not is_label(version.get("name")):
        faults.append(errors.invalid(f"{path}.name", version.get("name"), "a DNS-1035 label is required"))
    root = field_of(version, "schema", "openAPIV3Schema")
    if root is None:
        return [*faults, errors.required(f"{path}.schema.openAPIV3Schema", "schemas are required")]
    at = f"{path}.schema.openAPIV3Schema"
    if root.get("type") != "object":
        faults.append(errors.invalid(f"{at}.type", root.get("type"), "must be object at the root"))
    faults += structure_faults(root, at)
    for number, column in enumerate(version.get("additionalPrinterColumns") or ()):
        where = f"{path}.additionalPrinterColumns[{number}]"
        faults += [
            errors.required(f"{where}.{field}") for field in ("name", "type", "jsonPath") if not column.get(field)
        ]
    return faults


def _check_change(old: Obj, new: Obj, subresource: str | None) -> list[FieldError]:
    if subresource:
        return []
    return [
        errors.invalid("spec." + ".".join(path), field_of(new["spec"], *path), "field is immutable")
        for path in (("group",), ("scope",), ("names", "plural"), ("names", "kind"))
        if field_of(old["spec"], *path) != field_of(new["spec"], *path)
    ]


DEFINITION_RULES = Rules(defaults=_with_defaults, begin=_begin, check=_check, check_change=_check_change)
