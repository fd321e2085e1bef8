"""Who we are and where the API server is: from a kubeconfig, or from the service account of our pod."""

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import structlog
import yaml

# A rotated service account token, or one from an exec plugin, is read again so often.
_TOKEN_SECONDS = 60.0
# What could not be read is tried again after so long.
_AGAIN_SECONDS = 5.0
# What the library raises on a file that is cut short, or has another shape than a kubeconfig.
_MISSHAPEN = (yaml.YAMLError, TypeError, AttributeError, LookupError)

log = structlog.get_logger(__name__)


class IdentityError(Exception):
    """The operator's: no cluster to connect to, or a kubeconfig that cannot be used. Names object, cause and cure."""


@dataclass(slots=True, kw_only=True)
class Identity:
    """The server's address, and how to prove who we are to it. Make it with `load`, or directly for a plain server."""

    server: str
    tls: ssl.SSLContext | None = None
    proxy: str | None = None
    token: str | None = None
    """Value of the Authorization header."""
    clock: Callable[[], float] = time.monotonic
    _source: tuple[Path | None, str | None] | None = None
    _read_at: float = field(default=0.0)
    _renewing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def headers(self) -> dict[str, str]:
        """The headers that identify us, with a token not older than a minute, or the last that could be read."""
        if self._source is not None and self.token and self.clock() - self._read_at > _TOKEN_SECONDS:
            await self.renew()
        return {"Authorization": self.token} if self.token else {}

    async def renew(self) -> bool:
        """Read the credentials anew. False if there is nowhere to read them from, or if they cannot be read now, as
        while a kubeconfig is rewritten: then the old ones stay."""
        if self._source is None:
            return False
        read_at = self._read_at
        async with self._renewing:
            if self._read_at != read_at:
                return True
            try:
                fresh = await load(*self._source)
            except (IdentityError, aiohttp.ClientError, TimeoutError) as error:
                log.warning("credentials cannot be read again, the old ones stay", error=str(error))
                self._read_at = self.clock() - _TOKEN_SECONDS + _AGAIN_SECONDS
                return False
            self.token = fresh.token
            self._read_at = self.clock()
            return True


async def load(kubeconfig: Path | None = None, context: str | None = None) -> Identity:
    """The identity from `kubeconfig` (and `context` of it); else that of the pod we run in, else of ~/.kube/config.

    Raises IdentityError."""
    # Imported here: it takes most of a second, and a command that never connects should not pay for it.
    from kubernetes.aio.client import Configuration
    from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
    from kubernetes.aio.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION

    settings = Configuration()
    try:
        if kubeconfig is None and context is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
            load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=settings
            )
        else:
            if not _there(str(kubeconfig or KUBE_CONFIG_DEFAULT_LOCATION)):
                absent = "there is no such file" if kubeconfig else f"there is no file {KUBE_CONFIG_DEFAULT_LOCATION}"
                raise FileNotFoundError(absent)
            await load_kube_config(  # type: ignore[no-untyped-call]
                config_file=str(kubeconfig) if kubeconfig else None,
                context=context,
                client_configuration=settings,
                persist_config=False,
            )
        authorization = await settings.get_api_key_with_prefix("BearerToken")
        if authorization is None and settings.username:
            authorization = settings.get_basic_auth_token()
        return Identity(
            server=str(settings.host).rstrip("/"),
            tls=_tls(settings),
            proxy=settings.proxy,
            token=_word(authorization),
            _source=(kubeconfig, context),
            _read_at=time.monotonic(),
        )
    except (ConfigException, OSError, ssl.SSLError, ValueError, *_MISSHAPEN) as error:
        where = f"kubeconfig {kubeconfig}" if kubeconfig else "the kubeconfig"
        named = f" (context {context})" if context else ""
        raise IdentityError(
            f"{where}{named}: {error}; give a readable kubeconfig with --kubeconfig, or run inside the cluster."
        ) from error


def _there(location: str) -> bool:
    """Does any of these files exist, as the library looks for them? Without one it would complain of their content."""
    return any(os.path.exists(os.path.expanduser(path)) for path in location.split(os.pathsep))


def _tls(settings: Any) -> ssl.SSLContext | None:
    """What kubernetes.aio's own REST client would make of the settings; None for plain HTTP."""
    if not str(settings.host).startswith("https:"):
        return None
    tls = ssl.create_default_context(cafile=settings.ssl_ca_cert, cadata=settings.ca_cert_data)
    if settings.cert_file:
        tls.load_cert_chain(settings.cert_file, keyfile=settings.key_file)
    if not settings.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return tls


def _word(authorization: str | None) -> str | None:
    """Tokens come as "bearer xyz" or bare, some with a newline from their file."""
    if not authorization:
        return None
    text = authorization.strip()
    kind, _, token = text.partition(" ")
    return f"{kind.capitalize()} {token.strip()}" if token else f"Bearer {text}"
