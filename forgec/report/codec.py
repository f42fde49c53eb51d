"""Strict JSON for dataclasses, and the JSON schema that says the same.

A dataclass's annotations are the format: ``Annotated[type, "meaning"]`` with str, int, float, bool, Any,
list, dict by string, Literal, ``X | None`` and other dataclasses. ``loads`` accepts exactly the documents
that ``schema`` describes: every field is there, no other is, integers are not negative. Linear in size.
"""

from __future__ import annotations

import dataclasses
import json
import math
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import ArtifactError

__all__ = ["dumps", "loads", "schema", "to_plain"]

_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


def to_plain(value: Any) -> Any:
    """A dataclass or a part of one in JSON's types."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def dumps(value: Any) -> str:
    """JSON text of a dataclass, two spaces deep per level."""
    return json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def loads(cls: type, text: str | bytes, what: str) -> Any:
    """The dataclass in a JSON text; :class:`ArtifactError` names ``what`` and the path of a mistake."""
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the {what} is not JSON: {error}") from None
    try:
        return _decode(cls, document, "$")
    except _MistakeError as error:
        raise ArtifactError(f"the {what} does not follow its schema: {error}") from None


def schema(cls: type, identifier: str, title: str) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a dataclass."""
    definitions: dict[str, Any] = {}
    _object_schema(cls, definitions)
    root = definitions.pop(cls.__name__)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": identifier,
        "title": title,
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


class _MistakeError(Exception):
    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"{path} {text}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _decode(hint: Any, value: Any, path: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hasattr(hint, "__metadata__"):
        return _decode(args[0], value, path)
    if origin in (Union, UnionType):
        (inner,) = (arg for arg in args if arg is not NoneType)
        return None if value is None else _decode(inner, value, path)
    if origin is Literal:
        if not isinstance(value, str) or value not in args:
            raise _MistakeError(path, f"is {value!r}, and must be one of {', '.join(map(repr, args))}")
        return value
    if origin is list:
        _expect(isinstance(value, list), path, "a list")
        return [_decode(args[0], item, f"{path}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        _expect(isinstance(value, dict), path, "an object")
        return {key: _decode(args[1], item, f"{path}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return _decode_object(hint, value, path)
    return _decode_scalar(hint, value, path)


def _decode_object(cls: Any, value: Any, path: str) -> Any:
    _expect(isinstance(value, dict), path, "an object")
    hints = get_type_hints(cls, include_extras=True)
    for name in value:
        if name not in hints:
            raise _MistakeError(f"{path}.{name}", "is not part of the format")
    for name in hints:
        if name not in value:
            raise _MistakeError(f"{path}.{name}", "is missing")
    return cls(**{name: _decode(hint, value[name], f"{path}.{name}") for name, hint in hints.items()})


def _decode_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is Any:
        return value
    if hint is float:
        if isinstance(value, str) and value in _NOT_FINITE:
            return float(value)
        _expect(isinstance(value, int | float) and not isinstance(value, bool), path, "a number")
        return float(value)
    if hint is int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        _expect(whole and not isinstance(value, bool) and value >= 0, path, "a whole number from 0")
        return int(value)
    _expect(isinstance(value, hint), path, {str: "a string", bool: "true or false"}[hint])
    return value


def _expect(holds: bool, path: str, what: str) -> None:
    if not holds:
        raise _MistakeError(path, f"must be {what}")


def _object_schema(cls: Any, definitions: dict[str, Any]) -> dict[str, str]:
    if cls.__name__ not in definitions:
        definitions[cls.__name__] = {}
        hints = get_type_hints(cls, include_extras=True)
        definitions[cls.__name__] = {
            "description": " ".join((cls.__doc__ or "").replace("``", "").split()),
            "type": "object",
            "properties": {name: _type_schema(hint, definitions) for name, hint in hints.items()},
            "required": list(hints),
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{cls.__name__}"}


def _type_schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, args = get_origin(hint), get_args(hint)
    if hasattr(hint, "__metadata__"):
        return {"description": hint.__metadata__[0], **_type_schema(args[0], definitions)}
    if origin in (Union, UnionType):
        return {"anyOf": [_type_schema(arg, definitions) for arg in args]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin is list:
        return {"type": "array", "items": _type_schema(args[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type_schema(args[1], definitions)}
    if dataclasses.is_dataclass(hint):
        return _object_schema(hint, definitions)
    if hint is float:
        return {"anyOf": [{"type": "number"}, {"enum": list(_NOT_FINITE)}]}
    if hint is int:
        return {"type": "integer", "minimum": 0}
    return {} if hint is Any else {"type": {str: "string", bool: "boolean", NoneType: "null"}[hint]}
