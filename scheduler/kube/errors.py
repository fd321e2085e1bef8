"""ApiError: what the API server, or the way to it, refused."""

from collections.abc import Mapping
from typing import Any

import msgspec


class _Status(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a `Status` document that we read (apimachinery meta/v1)."""

    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: dict[str, Any] | None = None


_status = msgspec.json.Decoder(_Status, strict=False)


class ApiError(Exception):
    """The cluster's. `status` is the HTTP status, 0 if no answer came (then the request may have been carried out).

    `reason`: the machine-readable word (NotFound, Conflict, Expired, ...; ours: Unreachable, NoAnswer). `retry_after`:
    seconds the server asks to wait. The text names the request, the cause and, where there is one, the cure."""

    def __init__(
        self,
        *,
        request: str,
        status: int,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{request}: {status or 'no answer'} {reason}: {message}{_cure(status, reason, message)}")
        self.request = request
        self.status = status
        self.reason = reason
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        self.retry_after = retry_after

    @property
    def not_found(self) -> bool:
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """The object was changed since it was read."""
        return self.status == 409 and self.reason != "AlreadyExists"

    @property
    def already_exists(self) -> bool:
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def gone(self) -> bool:
        """The resource version is too old to continue from; list again."""
        return self.status == 410 or self.reason in ("Expired", "Gone")

    @property
    def too_many_requests(self) -> bool:
        """The server is busy, or a PodDisruptionBudget forbids the eviction."""
        return self.status == 429

    @property
    def unanswered(self) -> bool:
        return self.status == 0


def from_answer(request: str, status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """The error that an answer of `status` with this body stands for; the body may be anything."""
    try:
        read = _status.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        read = _Status(message=body[:200].decode(errors="replace").strip())
    seconds: Any = (read.details or {}).get("retryAfterSeconds") if retry_after is None else retry_after
    return ApiError(
        request=request,
        status=status,
        reason=read.reason or f"HTTP{status}",
        message=read.message or "no message",
        details=read.details,
        retry_after=_seconds(seconds),
    )


def from_event(request: str, document: bytes) -> ApiError:
    """The error that an ERROR event of a watch stands for."""
    try:
        read = _status.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        read = _Status(message="an ERROR event that cannot be read")
    return ApiError(
        request=request,
        status=read.code or 500,
        reason=read.reason or "WatchError",
        message=read.message or "no message",
        details=read.details,
    )


def _seconds(value: object) -> float | None:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return seconds if 0 <= seconds < 3600 else None


def _cure(status: int, reason: str, message: str) -> str:
    if status == 401:
        return "; log in again, or give another kubeconfig"
    if status == 403:
        return "; grant this access to the scheduler's role (deploy/scheduler.yaml)"
    if "CERTIFICATE_VERIFY_FAILED" in message:
        return "; put the cluster's own authority into the kubeconfig (certificate-authority)"
    if reason == "Unreachable":
        return "; check that the API server runs and that the kubeconfig names the right address"
    return ""
