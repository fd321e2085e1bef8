"""What an administrator does to a cluster for Tutti, from the manifests of deploy/; and what was in it before."""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from scheduler.devcluster import kinds
from scheduler.devcluster.access import StatusError
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.objects import Obj, field_of, name_of, namespace_of, uid_of
from tests.real.remote import Remote

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMESPACE, ACCOUNT = "tutti-system", "tutti-scheduler"
NODE_PLUGIN = "tutti-dra-driver"

PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.02
_TOKEN_SECONDS = 24 * 3600
# Cleared away by namespace, with the namespace; the last is a second view of another one.
_APART = (kinds.NAMESPACE, kinds.EVENT, kinds.CONFIG_MAP, kinds.SERVICE_ACCOUNT, kinds.LEASE, kinds.NEW_EVENT)
_OWN_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease")


class NotSettled(Exception):
    """A cluster that does not come to where it should be in time; names what is missing."""


async def install(api: Remote) -> str:
    """Apply our definitions, roles and policies, all but the Deployment; the token of the scheduler's account.

    What exists already is brought up to date. Nothing but our own manifest gives the account its rights."""
    definitions = [document for path in sorted((DEPLOY / "crds").glob("*.yaml")) for document in _documents(path)]
    for document in definitions:
        await _apply(api, document)
    for name in ("scheduler.yaml", "admission.yaml"):
        for document in _documents(DEPLOY / name):
            if document["kind"] != kinds.DEPLOYMENT.kind:
                await _apply(api, document)
    async with asyncio.timeout(PATIENCE_SECONDS):
        for definition in definitions:
            while not await _is_served(api, definition):
                await asyncio.sleep(_LOOK_SECONDS)
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {"name": ACCOUNT, "namespace": NAMESPACE},
        "spec": {"expirationSeconds": _TOKEN_SECONDS},
    }
    granted = await api.create(kinds.SERVICE_ACCOUNT, request, subresource="token")
    return str(granted["status"]["token"])


async def install_node_plugin(api: Remote) -> None:
    """Apply its role, its policy and its DeviceClasses. The server only judges the DaemonSet: the plugin runs as a
    process of the machine."""
    for document in _documents(DEPLOY / "dra-driver.yaml"):
        if document["kind"] == kinds.DAEMON_SET.kind:
            await api.create(kinds.DAEMON_SET, document, dry_run=True)
        else:
            await _apply(api, document)


async def install_node_labels(api: Remote) -> None:
    """Beside it: what the plugin needs to label its node, and to follow its labels."""
    for document in _documents(DEPLOY / "dra-driver-labels.yaml"):
        await _apply(api, document)


async def node_plugin_token(api: Remote, pod: Obj) -> str:
    """A token of the node plugin's account that is bound to this pod, as the kubelet would ask for it: it names the
    pod's node."""
    reference = {"apiVersion": "v1", "kind": "Pod", "name": name_of(pod), "uid": uid_of(pod)}
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {"name": NODE_PLUGIN, "namespace": NAMESPACE},
        "spec": {"expirationSeconds": _TOKEN_SECONDS, "boundObjectRef": reference},
    }
    granted = await api.create(kinds.SERVICE_ACCOUNT, request, subresource="token")
    return str(granted["status"]["token"])


class Before:
    """What a cluster had when somebody looked; `restore` removes everything that came since."""

    def __init__(self, uids: Iterable[str]) -> None:
        self._uids = frozenset(uids)

    @classmethod
    async def look(cls, api: Remote) -> "Before":
        """Remember what is there now."""
        listed = await asyncio.gather(*(_list(api, kind) for kind in (kinds.NAMESPACE, *await _kinds(api))))
        return cls(uid_of(obj) for objects in listed for obj in objects)

    async def restore(self, api: Remote) -> None:
        """Until nothing is there that came since, and no event. Raises NotSettled naming what stays."""
        left: dict[str, Obj] = {}
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while left := await self._remove(api):
                    await asyncio.sleep(_LOOK_SECONDS)
                namespaces = [each for each in await api.list(kinds.NAMESPACE) if not _of_kubernetes(each)]
                await asyncio.gather(*(self._clear(api, namespace) for namespace in namespaces))
        except TimeoutError:
            what = ", ".join(f"{key} ({field_of(obj, 'metadata', 'finalizers')})" for key, obj in sorted(left.items()))
            raise NotSettled(f"still there after {PATIENCE_SECONDS:g} s: {what}") from None

    async def _clear(self, api: Remote, namespace: Obj) -> None:
        """What others wrote into a namespace of ours goes; and the namespace itself, if it came since."""
        new = uid_of(namespace) not in self._uids
        if new:
            await _delete(api, kinds.NAMESPACE, namespace)
        furniture = (kinds.SERVICE_ACCOUNT, kinds.CONFIG_MAP) if new else ()
        for kind in (kinds.EVENT, kinds.LEASE, *furniture):
            await api.delete_all(kind, name_of(namespace))
        if new:
            # The namespace controller would do this as well, but it waits for five seconds before it looks.
            bare = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name_of(namespace)}}
            with _gone_is_well():
                await api.update(kinds.NAMESPACE, {**bare, "spec": {"finalizers": []}}, subresource="finalize")

    async def _remove(self, api: Remote) -> dict[str, Obj]:
        """Delete once what came since; what was found, by kind and name."""
        found: dict[str, Obj] = {}
        for kind in await _kinds(api):
            new = [obj for obj in await _list(api, kind) if uid_of(obj) not in self._uids and not _of_kubernetes(obj)]
            found |= {f"{kind.plural} {namespace_of(obj)}/{name_of(obj)}": obj for obj in new}
            await asyncio.gather(*(_delete(api, kind, obj) for obj in new))
        return found


async def _kinds(api: Remote) -> list[Kind]:
    """What a test may leave, owners before what they own: the kinds we know and those of every definition."""
    own = [kind for kind in kinds.BUILT_IN if kind not in (*_APART, kinds.POD)]
    defined = [_kind_of(definition) for definition in await api.list(kinds.CUSTOM_RESOURCE)]
    return [*own, *defined, kinds.POD]


def _kind_of(definition: Obj) -> Kind:
    spec = definition["spec"]
    version = next(each["name"] for each in spec["versions"] if each["served"])
    scoped = replace(kinds.CONFIG_MAP if spec["scope"] == "Namespaced" else kinds.NODE, key="", list_kind="")
    names = spec["names"]
    return replace(scoped, group=spec["group"], version=version, kind=names["kind"], plural=names["plural"])


async def _delete(api: Remote, kind: Kind, obj: Obj) -> None:
    grace = 0 if kind is kinds.POD else None
    if field_of(obj, "metadata", "deletionTimestamp") and grace is None:
        return
    with _gone_is_well():
        await api.delete(kind, namespace_of(obj), name_of(obj), uid=uid_of(obj), grace_seconds=grace)


@contextlib.contextmanager
def _gone_is_well() -> Iterator[None]:
    """What was to go may have gone already, or have been replaced."""
    try:
        yield
    except StatusError as error:
        if error.code not in (404, 409):
            raise


def _of_kubernetes(obj: Obj) -> bool:
    return (namespace_of(obj) or name_of(obj)) in _OWN_NAMESPACES


async def _apply(api: Remote, document: Obj) -> None:
    kind = kinds.Registry().named(document["apiVersion"], document["kind"])
    assert kind is not None, f"{document['kind']} is no kind we know"
    try:
        await api.create(kind, document)
    except StatusError as error:
        if error.code != 409:
            raise
        await api.patch(kind, namespace_of(document), name_of(document), document)


async def _is_served(api: Remote, definition: Obj) -> bool:
    try:
        await api.list(_kind_of(definition))
    except StatusError as error:
        if error.code not in (404, 429, 503):  # unknown yet, or its storage is being prepared
            raise
        return False
    return True


async def _list(api: Remote, kind: Kind) -> list[Obj]:
    """The objects of a kind; none of one whose definition just goes."""
    try:
        return await api.list(kind)
    except StatusError as error:
        if error.code != 404:
            raise
        return []


def _documents(path: Path) -> list[Obj]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]
