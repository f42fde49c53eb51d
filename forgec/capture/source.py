"""Where in the user's model a traced node comes from."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import fx

from ..ir.program import Source

__all__ = [
    "IMPORTED",
    "first_line",
    "imported_from",
    "node_source",
    "short_path",
    "user_frame",
    "user_line_of",
]

IMPORTED = "forgec_imported"
"""Key of the annotation that names the node of the file that a traced node was imported from."""

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_LIBRARY = re.compile(
    r"[/\\](torch|forgec)[/\\](?!testing)|<frozen|<string>|[/\\]lib[/\\]python3\.\d+[/\\](?!site-packages)"
)


@lru_cache(maxsize=4096)
def short_path(path: str) -> str:
    """A path that names the file without naming the machine: below site-packages, below the working
    directory, or the bare file name."""
    parts = Path(path).parts
    if "site-packages" in parts:
        return "/".join(parts[parts.index("site-packages") + 1 :])
    try:
        return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else parts[-1]
    except ValueError:
        return parts[-1]


def node_source(node: fx.Node, prefix: str = "") -> Source:
    """Operator, file, line and module of a node of an exported graph; ``prefix`` is the path of the module
    that was exported."""
    target = node.target
    aten = str(target).removesuffix(".default") if node.op == "call_function" else node.op
    file, line = _user_line(node.meta.get("stack_trace") or "")
    if imported := imported_from(node.meta):
        return Source(aten, None, None, imported)
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    module = ""
    if stack:
        module = str(next(reversed(stack.values()))[0]).removeprefix("L['self'].")
    path = ".".join(part for part in (prefix, module) if part)
    return Source(aten, file, line, path or None)


def imported_from(meta: Mapping[str, Any]) -> str | None:
    """The node of a file by the annotations that a node was traced with, if it was imported from one."""
    return (meta.get("custom") or {}).get(IMPORTED)


@lru_cache(maxsize=8192)
def _user_line(trace: str) -> tuple[str | None, int | None]:
    """The innermost frame that is neither torch's own nor Python's."""
    frames = ((path, int(line)) for path, line in reversed(_FRAME.findall(trace)))
    return next((found for frame in frames if (found := user_line_of(*frame))[0]), (None, None))


def user_line_of(path: str, line: int) -> tuple[str | None, int | None]:
    """A line of a file as sources name it; nothing if the file is torch's own or Python's."""
    return (None, None) if _is_library(path) else (short_path(path), line)


@lru_cache(maxsize=4096)
def _is_library(path: str) -> bool:
    return _LIBRARY.search(path) is not None


def first_line(error: BaseException) -> str:
    """First line of an exception's message; torch appends pages."""
    return (str(error).splitlines() or [""])[0]


def user_frame(trace: TracebackType | None) -> str | None:
    """``file:line: source`` of the innermost frame of a traceback that belongs to the user's model."""
    found = None
    for frame in traceback.extract_tb(trace):
        if not _LIBRARY.search(frame.filename) and frame.filename != sys.argv[0]:
            found = f"{short_path(frame.filename)}:{frame.lineno}: {frame.line}"
    return found
