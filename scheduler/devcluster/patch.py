"""The patches kubectl sends: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch."""

from __future__ import annotations

from typing import Any

from scheduler.devcluster.errors import StatusError, bad_request
from scheduler.devcluster.lists import Lists
from scheduler.devcluster.objects import Obj

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
PATCH_TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)

_DELETE = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"
_MAX_OPERATIONS = 10_000


def merge(target: Any, patch: Any) -> Any:
    """`target` with an RFC 7386 merge patch applied. Neither is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


# --- JSON patch ---------------------------------------------------------------------------------------------------


def _steps(pointer: object) -> list[str]:
    if pointer == "":
        return []
    if not isinstance(pointer, str) or not pointer.startswith("/"):
        raise bad_request(f"json patch: {pointer!r} is no JSON pointer: it must begin with '/'")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")]


def _refused(operation: Obj, why: str) -> StatusError:
    text = "the server rejected our request due to an error in our request"
    what = f"{operation.get('op')} operation does not apply: {why}: {operation.get('path')}"
    return StatusError(422, "Invalid", f"{text}: {what}")


def _index(step: str, size: int, operation: Obj) -> int:
    if not step.isdigit() or (len(step) > 1 and step[0] == "0") or int(step) > size:
        raise _refused(operation, "no such list index")
    return int(step)


def _value_at(document: Any, steps: list[str], operation: Obj) -> Any:
    for step in steps:
        if isinstance(document, list):
            index = _index(step, len(document) - 1, operation) if document else -1
            if index < 0:
                raise _refused(operation, "no such list index")
            document = document[index]
        elif isinstance(document, dict) and step in document:
            document = document[step]
        else:
            raise _refused(operation, "missing path")
    return document


def _put(document: Any, steps: list[str], value: Any, operation: Obj, *, mode: str) -> Any:
    """A copy of the document along `steps` with the last one added, replaced or removed."""
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(document, list):
        items = list(document)
        if rest or mode != "add":
            index = _index(step, len(items) - 1, operation) if items else -1
            if index < 0:
                raise _refused(operation, "no such list index")
            if rest:
                items[index] = _put(items[index], rest, value, operation, mode=mode)
            elif mode == "remove":
                del items[index]
            else:
                items[index] = value
        elif step == "-":
            items.append(value)
        else:
            items.insert(_index(step, len(items), operation), value)
        return items
    if not isinstance(document, dict):
        raise _refused(operation, "missing path")
    if step not in document and (rest or mode != "add"):
        raise _refused(operation, "missing path")
    fields = dict(document)
    if rest:
        fields[step] = _put(fields[step], rest, value, operation, mode=mode)
    elif mode == "remove":
        del fields[step]
    else:
        fields[step] = value
    return fields


def json_patch(target: Obj, operations: Any) -> Any:
    """`target` with the operations of RFC 6902 applied in order. A test that fails raises StatusError 422."""
    if not isinstance(operations, list):
        raise bad_request("json patch: the body must be a list of operations")
    if len(operations) > _MAX_OPERATIONS:
        raise StatusError(413, "RequestEntityTooLarge", f"json patch: at most {_MAX_OPERATIONS} operations are allowed")
    document: Any = target
    for operation in operations:
        if not isinstance(operation, dict) or "path" not in operation:
            raise bad_request("json patch: an operation needs op and path")
        verb, steps = operation.get("op"), _steps(operation["path"])
        if verb in ("add", "replace", "test") and "value" not in operation:
            raise bad_request(f"json patch: {verb} needs a value")
        if verb in ("add", "replace"):
            document = _put(document, steps, operation["value"], operation, mode=verb)
        elif verb == "remove":
            document = _put(document, steps, None, operation, mode="remove")
        elif verb == "test":
            if _value_at(document, steps, operation) != operation["value"]:
                raise _refused(operation, "testing value failed")
        elif verb in ("copy", "move"):
            source = _steps(operation.get("from"))
            value = _value_at(document, source, operation)
            if verb == "move":
                document = _put(document, source, None, operation, mode="remove")
            document = _put(document, steps, value, operation, mode="add")
        else:
            raise bad_request(f"json patch: unknown operation {verb!r}")
    return document


# --- strategic merge patch ----------------------------------------------------------------------------------------


def strategic_merge(target: Any, patch: Any, lists: Lists) -> Any:
    """`target` with a strategic merge patch applied: lists with a merge key are merged by it, others replaced.

    Directives: `$patch: delete|replace|merge`, `$deleteFromPrimitiveList/f`, `$setElementOrder/f`, `$retainKeys`.
    `lists` knows the merge keys at this level. Neither argument is changed.
    """
    if not isinstance(patch, dict):
        return patch
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"strategic merge patch: unknown directive $patch: {directive!r}")
    result = dict(target) if isinstance(target, dict) else {}
    if "$retainKeys" in patch:
        kept = patch["$retainKeys"]
        result = {key: value for key, value in result.items() if key in kept}
    for key, value in patch.items():
        if key == "$patch" or key == "$retainKeys" or key.startswith((_DELETE, _ORDER)):
            continue
        if value is None:
            result.pop(key, None)
        elif isinstance(value, list):
            order = patch.get(_ORDER + key)
            result[key] = _merged_list(result.get(key), value, lists.field(key), order)
        elif isinstance(value, dict):
            merged = strategic_merge(result.get(key), value, lists.field(key))
            if merged == {} and value.get("$patch") == "delete":
                result.pop(key, None)
            else:
                result[key] = merged
        else:
            result[key] = value
    for key, value in patch.items():
        if key.startswith(_DELETE):
            name = key.removeprefix(_DELETE)
            if name in result:
                result[name] = [item for item in result[name] or () if item not in value]
        elif key.startswith(_ORDER):
            name = key.removeprefix(_ORDER)
            if name in result and name not in patch:
                result[name] = _ordered(result[name], value, result[name], lists.field(name).merge_key)
    return result


def _merged_list(old: Any, patch: list[Any], lists: Lists, order: list[Any] | None) -> list[Any]:
    merge_key = lists.merge_key
    old = old if isinstance(old, list) else []
    if lists.merges_values:
        return _ordered([*old, *(item for item in patch if item not in old)], order or patch, old, None)
    if not merge_key:
        return [item for item in patch if not (isinstance(item, dict) and "$patch" in item)]
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if "$patch" not in item]
    items = list(old)
    for change in patch:
        if not isinstance(change, dict) or merge_key not in change:
            raise bad_request(f"strategic merge patch: an entry lacks its merge key {merge_key!r}: {change!r}")
        at = [index for index, item in enumerate(items) if item.get(merge_key) == change[merge_key]]
        if change.get("$patch") == "delete":
            items = [item for index, item in enumerate(items) if index not in at]
        elif at:
            items[at[0]] = strategic_merge(items[at[0]], change, lists.item)
        else:
            items.append(strategic_merge({}, change, lists.item))
    return _ordered(items, order or patch, old, merge_key)


def _ranks(items: list[Any], merge_key: str | None) -> dict[str, int]:
    identities = (_identity(item, merge_key) for item in items)
    return {identity: rank for rank, identity in reversed(list(enumerate(identities)))}


def _identity(item: Any, merge_key: str | None) -> str:
    return repr(item.get(merge_key) if merge_key and isinstance(item, dict) else item)


def _ordered(items: list[Any], order: list[Any], old: list[Any], merge_key: str | None) -> list[Any]:
    """The items in the order of the API server: those named in `order` in that order, and the others between them.

    One of the others comes before a named one only if both were there before and it stood before it.
    """
    wanted, before = _ranks(order, merge_key), _ranks(old, merge_key)
    named = sorted(
        (item for item in items if _identity(item, merge_key) in wanted),
        key=lambda item: wanted[_identity(item, merge_key)],
    )
    others = [item for item in items if _identity(item, merge_key) not in wanted]
    result: list[Any] = []
    while named and others:
        first, second = before.get(_identity(others[0], merge_key)), before.get(_identity(named[0], merge_key))
        stays_before = first is not None and second is not None and first < second
        result.append((others if stays_before else named).pop(0))
    return [*result, *named, *others]
