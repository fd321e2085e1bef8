"""Manifests -> ClusterState and Snapshot: what `tutti plan -f` and the what-if API read.

Documents come as people write them: without uids, times or statuses, in any order, in older forms where those can be
understood. What admission and controllers would add is added (`scheduler.state.expand`), with names and uids that
depend on nothing but the documents. Unknown kinds are left out: a manifest may hold Services and the like.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec
import yaml

from scheduler.api.changes import Change
from scheduler.api.changes import read as decode
from scheduler.api.kinds import JOB, POD, RAY_CLUSTER, RESOURCE_CLAIM, RESOURCE_CLAIM_TEMPLATE, WATCHED, Kind
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.state import cast, translate
from scheduler.state.cast import Cast, Identity, Present
from scheduler.state.cluster import ClusterState
from scheduler.state.expand import CONTROLLERS, expanded
from scheduler.state.fields import Bad, Fields, time_ms
from scheduler.state.making import derived_uid
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
    cast_ = Cast()
    try:
        for where, document in documents:
            _add(cast_, where, document, base)
        expanded(cast_, _present(base))
    except Bad as bad:
        raise _input_error(bad) from None
    state = ClusterState() if base is None else base.fork()
    for identity, document in cast_.in_order():
        kind = _KINDS.get(identity[:2])
        if kind is not None and kind != RESOURCE_CLAIM_TEMPLATE:
            state.apply(_decoded(kind, identity, document, cast_))
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
    for kind, what in (
        (POD, cast.POD),
        (RESOURCE_CLAIM, cast.CLAIM),
        (JOB, cast.JOB),
        (RAY_CLUSTER, cast.RAY_CLUSTER),
    ):
        for key in base.keys(kind) if base is not None else ():
            change = base.change(kind, key) if base is not None else None
            if change is not None:
                values = {"metadata": msgspec.to_builtins(change.meta)}
                present.note(what, Fields(object=f"the cluster: {kind.kind} {key}", path="", values=values))
    return present


def _input_error(bad: Bad) -> InputError:
    reason = bad.reason
    cure = reason.remedy.rstrip(".")
    return InputError(
        object=reason.object, field=reason.field, cause=reason.problem, cure=f"{cure[:1].lower()}{cure[1:]}"
    )


def _decoded(kind: Kind, identity: Identity, document: Document, cast_: Cast) -> Change:
    """Raises InputError naming the field."""
    change = decode(kind, msgspec.json.encode(document), "MODIFIED")
    if change is not None and change.problem is None:
        return change
    problem, _, at = (change.problem or "" if change else "it has no readable metadata").partition(" - at ")
    field = at.strip("`").removeprefix("$").lstrip(".")
    raise InputError(
        object=cast_.called(identity),
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
    kind, items = document.get("kind"), document.get("items")
    if isinstance(kind, str) and kind.endswith("List") and (kind == "List" or items is not None):
        if not isinstance(items, list):
            raise InputError(
                object=where, field="items", cause=f"of a {kind} is no list", cure="write the objects as a list"
            )
        for number, item in enumerate(items, 1):
            if isinstance(item, dict) and kind != "List":
                # Lists of one kind (PodList) leave out what their items are.
                item = {"apiVersion": document.get("apiVersion"), "kind": kind[:-4], **item}
            yield from _opened(item, f"{where} item {number}")
        return
    yield where, document


def _add(cast_: Cast, where: str, document: Document, base: ClusterState | None) -> None:
    """Check what every object needs, complete it, and put it among the others. Raises Bad or InputError."""
    written = Fields(object=where, path="", values=document)
    for name in ("apiVersion", "kind"):
        if not written.text(name):
            raise written.bad(name, "is missing", f"Write {name}.")
    document = modernised(document)
    api_version, kind_name = document["apiVersion"], document["kind"]
    written = Fields(object=f"{where}: {kind_name}", path="", values=document)
    if (api_version, kind_name) not in _NAMESPACED:
        known = _GROUPS.get((api_version.rpartition("/")[0], kind_name))
        if known is not None:
            raise written.bad("apiVersion", f"{api_version} is not read", f"Write it as {known}.")
        return
    metadata = written.mapping("metadata")
    name = metadata.text("name") or _generated(metadata, document, cast_)
    if not name:
        raise metadata.bad("name", "is missing", "Give the object a name.")
    for field, value in (("name", name), ("namespace", metadata.text("namespace"))):
        if value in (".", "..") or any(sign in value for sign in "/%\0"):
            raise metadata.bad(field, f"{value!r} is no name", "Write one without the signs / and %.")
    # What a manifest of a Pod says of labels is read again when it is decoded; of a Deployment it is read here only.
    for texts in ("labels", "annotations"):
        metadata.texts(texts)
    namespace = (metadata.text("namespace") or "default") if _NAMESPACED[api_version, kind_name] else ""
    key = f"{namespace}/{name}" if namespace else name
    named = {"name": name, "uid": metadata.text("uid") or derived_uid(api_version, kind_name, key)}
    if namespace:
        named["namespace"] = namespace
    plain = {field: value for field, value in metadata.values.items() if field != "namespace"}
    complete = {**document, "metadata": {**plain, **named}}
    identity = (api_version, kind_name, key)
    kind = _KINDS.get((api_version, kind_name))
    if base is not None and kind is not None and cast_.get((api_version, kind_name), key) is None:
        raw = base.raw(kind, key)
        if raw is not None:
            cast_.seen(identity, {"apiVersion": api_version, "kind": kind_name, **msgspec.json.decode(raw)})
    if not cast_.add(identity, complete, where, lasting=bool(metadata.text("resourceVersion"))):
        raise InputError(
            object=f"{where}: {kind_name} {key}",
            field="metadata.name",
            cause=f"{cast_.where(identity)} describes the same object differently",
            cure="keep one of the two",
        )


def _generated(metadata: Fields, document: Document, cast_: Cast) -> str:
    """A name for generateName: the same for the same document, and another each time that it is given again."""
    prefix = metadata.text("generateName")
    if not prefix:
        return ""
    written = msgspec.json.encode(document, order="deterministic")
    times = cast_.times_before(hashlib.sha256(written).hexdigest())
    return prefix + hashlib.sha256(written + b"%d" % times if times else written).hexdigest()[:5]


def _bounded(value: object, where: str, most: int) -> int:
    """How many values there are. Refuses what YAML's aliases blow up beyond `most`, what refers to itself, and values
    that no JSON holds."""
    waiting: list[tuple[object, int, _Way]] = [(value, 0, None)]
    counted = 0
    while waiting:
        each, depth, way = waiting.pop()
        counted += 1
        if depth > _DEEPEST or counted > most:
            raise InputError(
                object=where, field="", cause="is nested too deeply or too large", cure="write it without aliases"
            )
        if isinstance(each, dict):
            waiting += [(child, depth + 1, (way, key)) for key, child in each.items()]
        elif isinstance(each, list):
            waiting += [(child, depth + 1, (way, index)) for index, child in enumerate(each)]
        elif (unfit := _unfit(each)) is not None:
            raise InputError(object=where, field=_path(way), cause=unfit, cure="write it as text, or correct it")
    return counted


_Way: TypeAlias = "tuple[_Way, str | int] | None"
"""The steps to a value, the last of them first at hand."""


def _path(way: _Way) -> str:
    steps: list[str] = []
    while way is not None:
        way, step = way
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step}")
    return "".join(reversed(steps)).removeprefix(".")


def _unfit(value: object) -> str | None:
    """Why a value cannot be of a Kubernetes object."""
    if isinstance(value, str):
        return None if _is_unicode(value) else "is no Unicode text"
    if isinstance(value, float) and not math.isfinite(value):
        return "is no finite number"
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return "is a number of more than 64 bits"
    return None


def _is_unicode(text: str) -> bool:
    """Whether it can be written: half of a surrogate pair, which an escape can name, cannot."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _without_base_60(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """22:22 is text, as for the API server, and a long one costs no time."""
    return re.compile(rf"(?!.*:)(?:{pattern.pattern})", pattern.flags)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe, as the API server reads YAML: times stay text, keys are text, and a key twice in one mapping is an error.

    Merge keys (<<) are refused: a few of them, each of the one before, fill the memory while a mapping is made. So are
    the collections that no JSON knows."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own way to configure a loader)
        first: [(tag, _without_base_60(pattern)) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == _MERGE:
                raise _wrong("merge keys (<<) are not read; write the fields out", key)
            if not isinstance(key, yaml.ScalarNode) or not _is_unicode(key.value):
                raise _wrong("a key is no text", key)
            if key.value in seen:
                raise _wrong(f"key {key.value!r} is there twice", key)
            seen.add(key.value)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}

    def refuse(self, node: Any) -> None:
        raise _wrong(f"{node.tag} is not read; write mappings and lists", node)


def _wrong(problem: str, node: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


for _tag in ("set", "omap", "pairs", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.refuse)
