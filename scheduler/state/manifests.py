"""Manifests -> ClusterState and Snapshot: what `tutti plan -f` and the what-if API read.

Documents come as people write them: without uids, times or statuses, in any order, in older forms where those can be
understood. What admission and controllers would add is added (`scheduler.state.expand`), with names and uids that
depend on nothing but the documents. Unknown kinds are left out: a manifest may hold Services and the like.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import yaml

from scheduler.api.changes import Change
from scheduler.api.changes import read as decode
from scheduler.api.kinds import JOB, POD, RESOURCE_CLAIM, RESOURCE_CLAIM_TEMPLATE, WATCHED, Kind
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.state import expand, translate
from scheduler.state.cluster import ClusterState
from scheduler.state.expand import CONTROLLERS, Cast, Identity, Present, derived_uid, expanded
from scheduler.state.fields import time_ms
from scheduler.state.older_forms import modernised

Document = dict[str, Any]

_KINDS: Mapping[tuple[str, str], Kind] = {
    (kind.api_version, kind.kind): kind for kind in (*WATCHED, RESOURCE_CLAIM_TEMPLATE)
}
_NAMESPACED = {
    **{name: kind.namespaced for name, kind in _KINDS.items()},
    **dict.fromkeys(CONTROLLERS, True),
}
# A kind of these groups in a version that is not read is a mistake, not somebody else's object.
_GROUPS = {(name.rpartition("/")[0], kind): name for name, kind in sorted(_NAMESPACED)}
_MOST_BY_ALIASES = 100_000
_DEEPEST = 100
_MERGE = "tag:yaml.org,2002:merge"
# What PyYAML raises for a value that is not of the tag in front of it.
_UNFIT = (TypeError, AttributeError, LookupError, ArithmeticError)


class InputError(Exception):
    """A manifest that cannot be used: names object, field, cause and cure."""

    def __init__(self, *, object: str, field: str, cause: str, cure: str) -> None:
        where = f"{object}: {field}" if field else object
        super().__init__(f"{where}: {cause}; {cure}.")
        self.object = object
        self.field = field
        self.cause = cause
        self.cure = cure


def parse(text: str, source: str) -> list[tuple[str, Document]]:
    """The documents of a text in YAML (several, parted by ---) or JSON, Lists opened, each with where it stands.

    Raises InputError for what is no YAML, or no mapping."""
    try:
        found = [each for each in yaml.load_all(text, Loader=_Loader) if each is not None]
    except (yaml.YAMLError, RecursionError, ValueError, *_UNFIT) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise InputError(object=source, field="", cause=cause, cure="give YAML or JSON documents") from None
    documents: list[tuple[str, Document]] = []
    # Without aliases a text has no more values than letters.
    most = len(text) + _MOST_BY_ALIASES
    for number, each in enumerate(found, 1):
        where = source if len(found) == 1 else f"{source} document {number}"
        most -= _bounded(each, where, most)
        documents += _opened(each, where)
    return documents


def read(documents: Iterable[tuple[str, Document]], base: ClusterState | None = None) -> ClusterState:
    """The cluster these documents describe, or `base` with them laid over it (`base` itself stays as it is).

    Raises InputError."""
    cast = Cast()
    for where, document in documents:
        _add(cast, where, document, base)
    expanded(cast, _present(base))
    state = ClusterState() if base is None else base.fork()
    for identity, document in cast.in_order():
        kind = _KINDS.get(identity[:2])
        if kind is not None and kind != RESOURCE_CLAIM_TEMPLATE:
            state.apply(_decoded(kind, identity, document, cast))
    return state


def snapshot(
    documents: Iterable[tuple[str, Document]],
    *,
    now_ms: int | None = None,
    policy: Policy | None = None,
    base: ClusterState | None = None,
) -> Snapshot:
    """The snapshot these documents describe. `now_ms` absent: the newest creation time among them, so that one input
    always gives one answer. Raises InputError."""
    state = read(documents, base)
    if now_ms is None:
        now_ms = newest_ms(state)
    return translate.snapshot(state, now_ms=now_ms, policy=policy or Policy())


def _present(base: ClusterState | None) -> Present:
    present = Present()
    for kind, what in ((POD, expand.POD), (RESOURCE_CLAIM, expand.CLAIM), (JOB, expand.JOB)):
        for key in base.keys(kind) if base is not None else ():
            change = base.change(kind, key) if base is not None else None
            if change is not None:
                present.note(what, {"metadata": msgspec.to_builtins(change.meta)})
    return present


def _decoded(kind: Kind, identity: Identity, document: Document, cast: Cast) -> Change:
    """Raises InputError naming the field."""
    change = decode(kind, msgspec.json.encode(document), "MODIFIED")
    if change is not None and change.problem is None:
        return change
    problem, _, at = (change.problem or "" if change else "it has no readable metadata").partition(" - at ")
    field = at.strip("`").removeprefix("$").lstrip(".")
    raise InputError(
        object=f"{cast.where(identity)}: {kind.kind} {identity[2]}",
        field=field,
        cause=problem,
        cure=f"correct it as {kind.api_version} {kind.kind} defines it",
    )


def newest_ms(state: ClusterState) -> int:
    """The newest creation time of all objects; 0 if none says."""
    times = (
        time_ms(change.meta.creation_timestamp)
        for kind in state.kinds
        for key in state.keys(kind)
        if (change := state.change(kind, key)) is not None
    )
    return max(times, default=0)


def _opened(document: object, where: str) -> Iterator[tuple[str, Document]]:
    """The document itself, or the items of a List."""
    if not isinstance(document, dict):
        raise InputError(
            object=where,
            field="",
            cause=f"a document is {type(document).__name__}, not a mapping",
            cure="write apiVersion, kind and metadata",
        )
    items = document.get("items")
    if isinstance(document.get("kind"), str) and document["kind"].endswith("List") and isinstance(items, list):
        for number, item in enumerate(items, 1):
            if isinstance(item, dict) and document["kind"] != "List":
                # Lists of one kind (PodList) leave out what their items are.
                item = {"apiVersion": document.get("apiVersion"), "kind": document["kind"][:-4], **item}
            yield from _opened(item, f"{where} item {number}")
        return
    yield where, document


def _add(cast: Cast, where: str, document: Document, base: ClusterState | None) -> None:
    """Check what every object needs, complete it, and put it among the others."""
    api_version, kind_name = document.get("apiVersion"), document.get("kind")
    for field, value in (("apiVersion", api_version), ("kind", kind_name)):
        if not isinstance(value, str) or not value:
            raise InputError(object=where, field=field, cause="is missing", cure=f"write {field}")
    document = modernised(document)
    api_version, kind_name = document["apiVersion"], document["kind"]
    if (api_version, kind_name) not in _NAMESPACED:
        known = _GROUPS.get((api_version.rpartition("/")[0], kind_name))
        if known is not None:
            raise InputError(
                object=f"{where}: {kind_name}",
                field="apiVersion",
                cause=f"{api_version} is not read",
                cure=f"write it as {known}",
            )
        return
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        raise InputError(
            object=f"{where}: {kind_name}", field="metadata", cause="is missing", cure="write metadata.name"
        )
    name = metadata.get("name") or _generated(metadata, document)
    if not isinstance(name, str) or not name:
        raise InputError(
            object=f"{where}: {kind_name}", field="metadata.name", cause="is missing", cure="give the object a name"
        )
    namespace = ""
    if _NAMESPACED[api_version, kind_name]:
        namespace = metadata.get("namespace") or "default"
        if not isinstance(namespace, str):
            raise InputError(
                object=f"{where}: {kind_name} {name}",
                field="metadata.namespace",
                cause="is no text",
                cure="write the name of a namespace",
            )
    key = f"{namespace}/{name}" if namespace else name
    named = {"name": name, "uid": metadata.get("uid") or derived_uid(api_version, kind_name, key)}
    if namespace:
        named["namespace"] = namespace
    plain = {field: value for field, value in metadata.items() if field != "namespace"}
    complete = {**document, "metadata": {**plain, **named}}
    identity = (api_version, kind_name, key)
    kind = _KINDS.get((api_version, kind_name))
    if base is not None and kind is not None and cast.get((api_version, kind_name), key) is None:
        raw = base.raw(kind, key)
        if raw is not None:
            cast.seen(identity, {"apiVersion": api_version, "kind": kind_name, **msgspec.json.decode(raw)})
    if not cast.add(identity, complete, where, lasting=bool(metadata.get("resourceVersion"))):
        raise InputError(
            object=f"{where}: {kind_name} {key}",
            field="metadata.name",
            cause=f"{cast.where(identity)} describes the same object differently",
            cure="keep one of the two",
        )


def _generated(metadata: Mapping[str, Any], document: Document) -> str:
    """A name for generateName: the same for the same document."""
    prefix = metadata.get("generateName")
    if not isinstance(prefix, str) or not prefix:
        return ""
    digest = hashlib.sha256(msgspec.json.encode(document, order="deterministic")).hexdigest()
    return f"{prefix}{digest[:5]}"


def _bounded(value: object, where: str, most: int) -> int:
    """How many values there are. Refuses what YAML's aliases blow up beyond `most`, or what refers to itself."""
    waiting = [(value, 0)]
    counted = 0
    while waiting:
        each, depth = waiting.pop()
        counted += 1
        if depth > _DEEPEST or counted > most:
            raise InputError(
                object=where, field="", cause="is nested too deeply or too large", cure="write it without aliases"
            )
        if isinstance(each, dict):
            waiting += [(child, depth + 1) for child in each.values()]
        elif isinstance(each, list):
            waiting += [(child, depth + 1) for child in each]
    return counted


def _without_base_60(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """22:22 is text, as for the API server, and a long one costs no time."""
    return re.compile(rf"(?!.*:)(?:{pattern.pattern})", pattern.flags)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe, as the API server reads YAML: times stay text, and a key twice in one mapping is an error.

    Merge keys (<<) are refused: a few of them, each of the one before, fill the memory while a mapping is made."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own way to configure a loader)
        first: [(tag, _without_base_60(pattern)) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key, _ in node.value:
            if key.tag == _MERGE:
                raise yaml.constructor.ConstructorError(
                    None, None, "merge keys (<<) are not read; write the fields out", key.start_mark
                )
            name = getattr(key, "value", None)
            if isinstance(name, str):
                if name in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key {name!r} is there twice", key.start_mark)
                seen.add(name)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found
