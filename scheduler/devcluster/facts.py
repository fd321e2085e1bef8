"""The paths that are no resources: version, health, discovery, OpenAPI."""

from __future__ import annotations

import platform

from scheduler.devcluster import discovery, openapi
from scheduler.devcluster.kinds import Registry
from scheduler.devcluster.objects import Obj, encode
from scheduler.devcluster.requests import no_such_path

VERSION = "v1.36.4"
_JSON = "application/json"
_HEALTH = ("healthz", "livez", "readyz")


def version() -> Obj:
    """/version: the Kubernetes version whose behaviour this server follows."""
    major, minor, _ = VERSION.removeprefix("v").split(".")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "major": major,
        "minor": minor,
        "gitVersion": VERSION + "+tutti-devcluster",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "cpython",
        "platform": f"linux/{machine}",
    }


class Facts:
    """Answers what the server says about itself, from the registry as it is now."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def answer(self, parts: list[str], accept: str) -> tuple[bytes, str] | None:
        """Body and content type for these path parts, or None when they address a resource. Raises StatusError 404."""
        head = parts[0] if parts else ""
        if head in ("api", "apis"):
            resource_at = 3 if head == "api" else 4
            return self._discovery(parts, accept) if len(parts) < resource_at else None
        if head == "openapi":
            return self._openapi(parts[1:], accept)
        if head in _HEALTH:
            return b"ok", "text/plain"
        if parts == ["version"]:
            return encode(version()), _JSON
        if not parts:
            return encode(
                {"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]}
            ), _JSON
        raise no_such_path()

    def _discovery(self, parts: list[str], accept: str) -> tuple[bytes, str]:
        registry = self._registry
        found: Obj | None
        if len(parts) == 1:
            for version_name in ("v2", "v2beta1"):
                if f"v={version_name};as=APIGroupDiscoveryList" in accept.replace(" ", ""):
                    api_version = f"apidiscovery.k8s.io/{version_name}"
                    found = discovery.aggregated(registry, core=parts == ["api"], api_version=api_version)
                    return encode(found), f"{_JSON};g=apidiscovery.k8s.io;v={version_name};as=APIGroupDiscoveryList"
            found = discovery.core_versions("127.0.0.1") if parts == ["api"] else discovery.group_list(registry)
        elif parts[0] == "api":
            found = discovery.resource_list(registry, "", parts[1])
        elif len(parts) == 2:
            found = discovery.group(registry, parts[1])
        else:
            found = discovery.resource_list(registry, parts[1], parts[2])
        if found is None:
            raise no_such_path()
        return encode(found), _JSON

    def _openapi(self, parts: list[str], accept: str) -> tuple[bytes, str]:
        if parts == ["v2"]:
            if "proto-openapi" in accept:
                return openapi.version_two_protobuf(), "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
            return encode(openapi.version_two()), _JSON
        if parts[:1] != ["v3"]:
            raise no_such_path()
        if len(parts) == 1:
            return encode(openapi.index(self._registry, VERSION)), _JSON
        group, name = ("", parts[-1]) if parts[1] == "api" else (parts[2] if len(parts) > 3 else "", parts[-1])
        found = openapi.document(self._registry, group, name)
        if found is None:
            raise no_such_path()
        return encode(found), _JSON
