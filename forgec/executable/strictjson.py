"""JSON from files that nobody vouches for: bounded, without duplicate keys, without NaN."""

from __future__ import annotations

import json
from typing import Any

from ..errors import ArtifactError

__all__ = ["MAX_TEXT", "dump_json", "parse_json"]

MAX_TEXT = 256 * 2**20
"""Bytes of the largest text that is parsed."""


def dump_json(value: Any) -> bytes:
    """Compact JSON in UTF-8; ``ValueError`` for a number that is not finite."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def parse_json(data: bytes | memoryview, what: str) -> Any:
    """The value of a JSON text; :class:`ArtifactError`, with ``what`` as its subject, if it is none."""
    if len(data) > MAX_TEXT:
        raise ArtifactError(f"{what} has {len(data)} bytes of JSON, at most {MAX_TEXT} are allowed")
    try:
        return json.loads(bytes(data), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{what} is not valid JSON: {error}") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")
