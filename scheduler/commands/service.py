"""A running service, asked by its debug API."""

import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from scheduler.web.paging import LARGEST_PAGE

Document = dict[str, Any]

_SECONDS = 60.0
# No proxy of the environment: the debug API listens on loopback, and must not be asked by way of another machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServiceError(Exception):
    """The service cannot be asked, or does not answer. Names the address, the cause and the cure."""


class Service:
    """`address`: http://host:port."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        try:
            parts = urllib.parse.urlsplit(self._address)
            known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            known = False
        if not known:
            raise ServiceError(f"--service {address}: is no address; write for instance http://127.0.0.1:8080")

    def recording(self) -> bytes:
        """The last decision with all that it depended on."""
        return self._get("/api/v1/snapshot")

    def gangs(self, wanted: Mapping[str, str]) -> list[Document]:
        return list(self._items("/api/v1/gangs", wanted))

    def gang(self, key: str) -> Document | None:
        namespace, _, name = key.partition("/")
        path = f"/api/v1/gangs/{urllib.parse.quote(namespace, safe='')}/{urllib.parse.quote(name, safe='')}/explain"
        try:
            return self._document(path)
        except _NotFound:
            return None

    def set_aside(self) -> list[Document]:
        return list(self._items("/api/v1/set-aside", {}))

    def _items(self, path: str, wanted: Mapping[str, str]) -> Iterator[Document]:
        """All of a list, page by page."""
        query = {field: value for field, value in wanted.items() if value} | {"limit": str(LARGEST_PAGE)}
        while True:
            page = self._document(f"{path}?{urllib.parse.urlencode(query)}")
            items, metadata = page.get("items"), page.get("metadata")
            if not isinstance(items, list) or not isinstance(metadata, dict):
                raise self._other("its lists have no items")
            yield from items
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    def _document(self, path: str) -> Document:
        try:
            return msgspec.json.decode(self._get(path), type=Document)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise self._other(f"{path} answers with no JSON object") from None

    def _get(self, path: str) -> bytes:
        """Raises ServiceError, _NotFound."""
        try:
            try:
                with _opener.open(self._address + path, timeout=_SECONDS) as answer:
                    body: bytes = answer.read()
                    return body
            except urllib.error.HTTPError as problem:
                raise self._refusal(path, problem.code, problem.read()) from None
        except (OSError, http.client.HTTPException) as problem:
            cause = getattr(problem, "reason", None) or problem
            raise ServiceError(
                f"{self._address}: no answer ({cause}); let "
                "`kubectl -n tutti-system port-forward deploy/tutti-scheduler 8080` run beside, or give the service's "
                "address with --service, a recording with --recording, or a cluster with --context"
            ) from None

    def _refusal(self, path: str, status: int, body: bytes) -> ServiceError:
        try:
            error = msgspec.json.decode(body)["error"]
            said = f"{error['message']} {error['cure']}"
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
            return self._other(f"{path} answers {status}")
        return _NotFound(said) if status == 404 else ServiceError(f"{self._address}: {said}")

    def _other(self, cause: str) -> ServiceError:
        return ServiceError(f"{self._address}: {cause}, as no Tutti does; give its debug API's address with --service")


class _NotFound(ServiceError):
    """There is no such object, says Tutti itself."""
