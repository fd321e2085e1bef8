"""Fields of a document that our types lack: what a newer server knows, or a slip of the pen.

Most may be ignored, as every client of Kubernetes does. Where a field may change what is asked, to ignore it is to give
somebody what he has not asked for: `unknown_fields` is for those places.
"""

from collections.abc import Iterator
from functools import cache

from msgspec import inspect

from scheduler.api.meta import Wire


def unknown_fields(value: object, type_: type[Wire], path: str) -> tuple[str, ...]:
    """Paths below `path` of the fields of a decoded JSON value that `type_` does not have, in order.

    Null is absent. What our types keep as raw JSON (opaque parameters) is not looked into."""
    return tuple(_below(value, _described(type_), path))


@cache
def _described(type_: type[Wire]) -> inspect.Type:
    return inspect.type_info(type_)


def _below(value: object, known: inspect.Type, path: str) -> Iterator[str]:
    match known:
        case inspect.UnionType(types=types):
            for each in types:
                yield from _below(value, each, path)
        case inspect.StructType(fields=fields) if isinstance(value, dict):
            ours = {field.encode_name: field.type for field in fields}
            for name in sorted(name for name in value if value[name] is not None):
                if name in ours:
                    yield from _below(value[name], ours[name], f"{path}.{name}")
                else:
                    yield f"{path}.{name}"
        case inspect.VarTupleType(item_type=of) if isinstance(value, list):
            for index, each in enumerate(value):
                yield from _below(each, of, f"{path}[{index}]")
        case inspect.DictType(value_type=of) if isinstance(value, dict):
            for name in sorted(value):
                yield from _below(value[name], of, f"{path}[{name}]")
