"""From an HTTP request to what it means: which resource, which options, which body."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
import yaml

from scheduler.devcluster.errors import StatusError, bad_request
from scheduler.devcluster.kinds import Kind, Registry
from scheduler.devcluster.objects import Obj, decode, encode
from scheduler.devcluster.protobuf import MEDIA_TYPE, decode_protobuf

Query = Mapping[str, str]


class _YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Kubernetes reads it: time stamps stay text."""


_YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _YamlLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a path addresses: a collection (name ""), an object, or a subresource. `namespace` None: all of them."""

    kind: Kind
    namespace: str | None
    name: str = ""
    subresource: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """Namespace ("" for none) and name."""
        return (self.namespace or "", self.name)


def no_such_path() -> StatusError:
    """404 for a path that leads nowhere."""
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def split_path(raw_path: str) -> tuple[list[str], Query]:
    """The path's parts, decoded, and the query's parameters (the last of each name)."""
    path, _, query = raw_path.partition("?")
    parts = [unquote(part) if "%" in part else part for part in path.split("/") if part]
    return parts, dict(parse_qsl(query, keep_blank_values=True)) if query else {}


def target_of(registry: Registry, parts: list[str]) -> Target:
    """The resource behind /api/v1/... or /apis/<group>/<version>/.... Raises StatusError 404."""
    if parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    else:
        group, version, rest = parts[1], parts[2], parts[3:]
    namespace: str | None = None
    if len(rest) > 2 and rest[0] == "namespaces" and registry.resource(group, version, rest[2]) is not None:
        namespace, rest = rest[1], rest[2:]
    kind = registry.resource(group, version, rest[0])
    if kind is None or len(rest) > 3:
        raise no_such_path()
    if kind.namespaced is (namespace is None) and (not kind.namespaced or len(rest) > 1):
        raise no_such_path()
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if subresource and subresource not in kind.subresources:
        raise no_such_path()
    return Target(kind=kind, namespace=namespace, name=name, subresource=subresource)


def is_set(query: Query, name: str) -> bool:
    """True for a boolean parameter that is on."""
    return query.get(name, "").lower() in ("true", "1")


def whole_number(query: Query, name: str) -> int | None:
    """A parameter that is a number, or None. Raises StatusError 400."""
    text = query.get(name, "")
    if not text:
        return None
    if not text.isdigit():
        raise bad_request(f"{name}: Invalid value: {text!r}: must be a whole number")
    return int(text)


def is_dry_run(query: Query) -> bool:
    """True when nothing may be stored. Raises StatusError 400 for a value other than All."""
    asked = query.get("dryRun", "")
    if asked not in ("", "All"):
        raise bad_request(f'dryRun: Unsupported value: "{asked}": supported values: "All"')
    return asked == "All"


def read_body(data: bytes, content_type: str) -> Any:
    """The value of a request's body: JSON, YAML or (see `protobuf`) protobuf. Raises StatusError 400 or 415."""
    if content_type.startswith(MEDIA_TYPE):
        return decode_protobuf(data)
    if "cbor" in content_type:
        text = "the body of the request was in an unknown format - accepted media types include: application/json"
        raise StatusError(415, "UnsupportedMediaType", text)
    try:
        return decode(data)
    except msgspec.DecodeError as error:
        if "yaml" not in content_type:
            raise bad_request(f"the object provided is unrecognized: {error}") from error
    except RecursionError as error:
        raise bad_request("the object provided is nested too deeply") from error
    try:
        return yaml.load(data, Loader=_YamlLoader)  # a SafeLoader, see above
    except (yaml.YAMLError, RecursionError) as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from error


def read_object(data: bytes, content_type: str, kind: Kind) -> Obj:
    """A body that must be an object of this kind."""
    body = read_body(data, content_type)
    if not isinstance(body, dict):
        raise bad_request(f"the object provided is no {kind.kind}: a JSON object is needed")
    if not isinstance(body.get("metadata"), dict):
        body = {**body, "metadata": {}}
    for field, expected in (("apiVersion", kind.api_version), ("kind", kind.kind)):
        found = body.get(field)
        if found and found != expected:
            what = "API version" if field == "apiVersion" else "kind"
            text = f"the {what} in the data ({found}) does not match the expected {what} ({expected})"
            raise bad_request(text)
    return body


def continue_token(namespace: str, name: str, version: int) -> str:
    """Where a list goes on: after this object."""
    return base64.urlsafe_b64encode(encode({"after": [namespace, name], "rv": version})).decode()


def read_continue(token: str) -> tuple[str, str]:
    """The object after which a list goes on. Raises StatusError 400."""
    try:
        namespace, name = decode(base64.urlsafe_b64decode(token))["after"]
    except (binascii.Error, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise bad_request(f"continue key is not valid: {error}") from error
    return str(namespace), str(name)
