"""Server-side apply: who manages which field (metadata.managedFields), merging by it, and the conflicts.

A field is a path of steps in the FieldsV1 notation: `f:name` a field, `k:{...}` a list entry by its keys, `v:...` a set
member. Source: KEP 555 and the structured-merge-diff rules.

One difference from the real server: managers are recorded from the first write that names a fieldManager on (kubectl
always does). Objects whose writers name none carry no managedFields and cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.devcluster.errors import StatusError, bad_request
from scheduler.devcluster.lists import Lists
from scheduler.devcluster.objects import Obj, decode, encode, with_meta

Path = tuple[str, ...]
Leaves = dict[Path, Any]

_ENTRY = object()  # the value of "this list entry exists"
_BEFORE = "before-first-apply"
_UNMANAGED_META = frozenset(
    (
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "managedFields",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who writes, through which subresource ("" for the object itself), and when.

    `leaves` names a top-level field that this kind of write cannot set (status, for those not through it).
    """

    manager: str
    subresource: str
    now: str
    leaves: str = ""


# --- fields of an object ------------------------------------------------------------------------------------------


def _entry_step(item: Any, lists: Lists) -> str | None:
    if not isinstance(item, dict):
        return None
    defaults = dict(lists.map_defaults)
    keys = {key: item.get(key, defaults.get(key)) for key in sorted(lists.map_keys)}
    present = {key: value for key, value in keys.items() if value is not None}
    return "k:" + encode(present).decode() if present else None


def _walk(value: Any, lists: Lists, path: Path, leaves: Leaves) -> None:
    if isinstance(value, dict) and value and not lists.atomic:
        for key, item in value.items():
            _walk(item, lists.field(key), (*path, "f:" + key), leaves)
    elif isinstance(value, list) and value and lists.map_keys:
        for item in value:
            step = _entry_step(item, lists)
            if step is None:
                raise bad_request(f"an entry of {dotted(path)} lacks its keys {', '.join(lists.map_keys)}")
            leaves[(*path, step)] = _ENTRY
            for key, field in item.items():
                _walk(field, lists.item.field(key), (*path, step, "f:" + key), leaves)
    elif isinstance(value, list) and value and lists.is_set:
        for item in value:
            leaves[(*path, "v:" + encode(item).decode())] = _ENTRY
    else:
        leaves[path] = value


def leaves_of(obj: Obj, lists: Lists) -> Leaves:
    """Every field of the object that somebody can manage, with its value."""
    leaves: Leaves = {}
    for key, value in obj.items():
        if key in ("apiVersion", "kind"):
            continue
        if key == "metadata":
            for field, item in value.items():
                if field not in _UNMANAGED_META:
                    _walk(item, lists.field("metadata").field(field), ("f:metadata", "f:" + field), leaves)
        else:
            _walk(value, lists.field(key), ("f:" + key,), leaves)
    return leaves


def dotted(path: Path) -> str:
    """A path as error messages show it: `.spec.containers[name="main"].image`."""
    text = ""
    for step in path:
        kind, name = step[:2], step[2:]
        if kind == "f:":
            text += "." + name
        elif kind == "k:":
            keys = decode(name.encode())
            text += "[" + ",".join(f"{key}={encode(value).decode()}" for key, value in keys.items()) + "]"
        else:
            text += f"[={name}]"
    return text


def to_fields_v1(paths: Iterable[Path]) -> Obj:
    """The FieldsV1 form of a set of paths."""
    root: Obj = {}
    for path in sorted(paths):
        node = root
        for step in path:
            node = node.setdefault(step, {})
        if path[-1][:2] == "k:":
            node["."] = {}
    return root


def from_fields_v1(fields: Mapping[str, Any]) -> set[Path]:
    """The set of paths of a FieldsV1 form."""
    paths: set[Path] = set()
    stack: list[tuple[Path, Mapping[str, Any]]] = [((), fields)]
    while stack:
        path, node = stack.pop()
        if path and (not node or "." in node):
            paths.add(path)
        stack.extend(((*path, step), below) for step, below in node.items() if step != ".")
    return paths


# --- who manages what ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Claim:
    """One entry of managedFields, taken apart."""

    manager: str
    operation: str
    subresource: str
    api_version: str
    time: str
    paths: frozenset[Path]

    @property
    def who(self) -> tuple[str, str, str]:
        return (self.manager, self.operation, self.subresource)

    def holding(self, paths: Iterable[Path], time: str | None = None) -> _Claim:
        return _Claim(
            self.manager, self.operation, self.subresource, self.api_version, time or self.time, frozenset(paths)
        )


def _claims(obj: Obj) -> list[_Claim]:
    return [
        _Claim(
            entry.get("manager", ""),
            entry.get("operation", "Update"),
            entry.get("subresource", ""),
            entry.get("apiVersion", ""),
            entry.get("time", ""),
            frozenset(from_fields_v1(entry.get("fieldsV1") or {})),
        )
        for entry in obj["metadata"].get("managedFields") or ()
    ]


def _written(claims: Iterable[_Claim]) -> list[Obj] | None:
    entries = []
    for claim in claims:
        if not claim.paths:
            continue
        entry: Obj = {
            "manager": claim.manager,
            "operation": claim.operation,
            "apiVersion": claim.api_version,
            "time": claim.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_fields_v1(claim.paths),
        }
        if claim.subresource:
            entry["subresource"] = claim.subresource
        entries.append(entry)
    return entries or None


def track(old: Obj | None, new: Obj, author: Author, lists: Lists) -> Obj:
    """`new` with managedFields that say: the author now manages, by update, what differs from `old`."""
    before = leaves_of(old, lists) if old is not None else {}
    after = leaves_of(new, lists)
    mute = "f:" + author.leaves
    changed = {
        path for path, value in after.items() if path[0] != mute and (path not in before or before[path] != value)
    }
    removed = before.keys() - after.keys()
    if not changed and not removed:
        return new
    me = (author.manager, "Update", author.subresource)
    claims, mine = [], None
    for claim in _claims(new):
        if claim.who == me:
            mine = claim.holding((claim.paths - removed) | changed, author.now)
            claims.append(mine)
        else:
            claims.append(claim.holding(claim.paths - removed - changed))
    if mine is None:
        claims.append(_Claim(*me, new["apiVersion"], author.now, frozenset(changed)))
    return with_meta(new, managedFields=_written(claims))


def merge_applied(old: Obj | None, applied: Any, author: Author, lists: Lists, *, force: bool) -> Obj:
    """The object after `author` applied this configuration.

    Fields it managed before and no longer names go, unless another manages them too. A field that another manages
    with another value is a conflict: StatusError 409, or taken over with `force`.
    """
    if not isinstance(applied, dict) or not isinstance(applied.get("metadata"), dict):
        raise bad_request("an apply patch must be an object with apiVersion, kind and metadata")
    if applied["metadata"].get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    wanted = leaves_of(applied, lists)
    me = (author.manager, "Apply", author.subresource)
    if old is None:
        mine = _Claim(*me, applied["apiVersion"], author.now, frozenset(wanted))
        return with_meta(applied, managedFields=_written([mine]))
    live = leaves_of(old, lists)
    claims = _claims(old)
    if not claims:
        claims = [_Claim(_BEFORE, "Update", "", old["apiVersion"], author.now, frozenset(live))]
    before = next((claim for claim in claims if claim.who == me), None)
    others = [claim for claim in claims if claim.who != me]
    contested = {path for path, value in wanted.items() if path in live and live[path] != value}
    conflicts = [(claim, sorted(claim.paths & contested)) for claim in others if claim.paths & contested]
    if conflicts and not force:
        raise _conflict(conflicts)
    others = [claim.holding(claim.paths - contested) for claim in others]
    held = frozenset[Path]().union(*(claim.paths for claim in others))
    dropped = (before.paths if before else frozenset[Path]()) - wanted.keys() - held
    new = _merged(old, applied, lists)
    new["metadata"] = {**new["metadata"], "name": old["metadata"]["name"]}
    kept = held | wanted.keys()
    for path in sorted(dropped, key=lambda path: (len(path), path)):  # entries before the fields in them
        if not _is_key(path) and not any(other[: len(path)] == path for other in kept if len(other) > len(path)):
            new = _without(new, path, lists) or {}
    unchanged = before is not None and before.paths == wanted.keys() and new == old
    time = before.time if before is not None and unchanged else author.now
    mine = _Claim(*me, applied["apiVersion"], time, frozenset(wanted))
    position = claims.index(before) if before is not None else len(others)
    others.insert(position, mine)
    return with_meta(new, managedFields=_written(others))


def _is_key(path: Path) -> bool:
    """True for a field by which a list entry is known; it goes only with the entry."""
    return len(path) > 1 and path[-2][:2] == "k:" and path[-1][2:] in decode(path[-2][2:].encode())


def _conflict(conflicts: list[tuple[_Claim, list[Path]]]) -> StatusError:
    causes = []
    for claim, paths in conflicts:
        who = f'conflict with "{claim.manager}"'
        who += f" with subresource {claim.subresource!r}" if claim.subresource else ""
        who += f" using {claim.api_version}" if claim.operation == "Update" else ""
        causes += [{"reason": "FieldManagerConflict", "message": who, "field": dotted(path)} for path in paths]
    listed = "\n".join(f"- {cause['message']}: {cause['field']}" for cause in causes) if len(causes) > 1 else ""
    text = f"Apply failed with {len(causes)} conflict{'s' if len(causes) > 1 else ''}: "
    text += f"conflicts with:\n{listed}" if listed else f"{causes[0]['message']}: {causes[0]['field']}"
    return StatusError(409, "Conflict", text, {"causes": causes})


# --- merging ------------------------------------------------------------------------------------------------------


def _merged(live: Any, applied: Any, lists: Lists) -> Any:
    if isinstance(applied, dict) and isinstance(live, dict) and not lists.atomic:
        merged = dict(live)
        for key, value in applied.items():
            merged[key] = _merged(live[key], value, lists.field(key)) if key in live else value
        return merged
    if isinstance(applied, list) and isinstance(live, list) and lists.map_keys:
        items = {_entry_step(item, lists): item for item in live}
        for item in applied:
            step = _entry_step(item, lists)
            items[step] = _merged(items[step], item, lists.item) if step in items else item
        return list(items.values())
    if isinstance(applied, list) and isinstance(live, list) and lists.is_set:
        return [*live, *(item for item in applied if item not in live)]
    return applied


def _without(value: Any, path: Path, lists: Lists) -> Any:
    """The value without the field at `path`; None where nothing is left of it."""
    step, rest = path[0], path[1:]
    if step[:2] == "f:":
        key = step[2:]
        if not isinstance(value, dict) or key not in value:
            return value
        below = _without(value[key], rest, lists.field(key)) if rest else None
        copy = {**value, key: below}
        if below is None:
            del copy[key]
        return copy or None
    if not isinstance(value, list):
        return value
    if step[:2] == "v:":
        return [item for item in value if "v:" + encode(item).decode() != step] or None
    items = []
    for item in value:
        kept = item
        if _entry_step(item, lists) == step:
            kept = _without(item, rest, lists.item) if rest else None
        if kept is not None:
            items.append(kept)
    return items or None
