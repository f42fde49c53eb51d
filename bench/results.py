"""Result files: one JSON document per run of a benchmark, small enough to be committed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from . import machine

__all__ = ["FOLDER", "SCHEMA", "Result", "dump", "load_all"]

SCHEMA = "forgec.bench/1"
FOLDER = Path(__file__).parent / "results"
_WIDTH = 150


@dataclass(frozen=True)
class Result:
    """What one run found and under which conditions.

    ``load`` is the load average before and after; ``note`` says in words what else the machine was doing.
    ``data`` is the benchmark's own.
    """

    benchmark: str
    date: str
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    load: tuple[float, float]
    note: str
    data: Mapping[str, Any]

    @classmethod
    def now(
        cls,
        benchmark: str,
        settings: Mapping[str, Any],
        load_before: float,
        note: str,
        data: Mapping[str, Any],
    ) -> Result:
        """A result of this machine and day."""
        load = (load_before, machine.load_average())
        return cls(benchmark, date.today().isoformat(), machine.describe(), dict(settings), load, note, data)

    def save(self, folder: Path, label: str = "") -> Path:
        """Write ``BENCHMARK[-LABEL].json``, over an older one."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.benchmark}{'-' + label if label else ''}.json"
        record = {"schema": SCHEMA, **asdict(self)}
        path.write_text(dump(record) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load_file(cls, path: Path) -> Result:
        """Read a result file; ``ValueError`` if it is none."""
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.pop("schema", None) != SCHEMA:
            raise ValueError(f"{path} is not a {SCHEMA} file")
        try:
            return cls(**{**record, "load": tuple(record["load"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a complete {SCHEMA} file: {error}") from None


def load_all(folder: Path = FOLDER) -> list[Result]:
    """All results of a folder, by file name."""
    return [Result.load_file(path) for path in sorted(folder.glob("*.json"))]


def dump(value: Any, indent: str = "") -> str:
    """JSON text with a container on one line where it fits, so that results stay short and diffs readable."""
    text = json.dumps(value)
    if len(indent) + len(text) <= _WIDTH or not isinstance(value, dict | list | tuple) or not value:
        return text
    inner = indent + " "
    if isinstance(value, dict):
        lines = [f"{inner}{json.dumps(key)}: {dump(item, inner)}" for key, item in value.items()]
    else:
        lines = [inner + dump(item, inner) for item in value]
    left, right = "{}" if isinstance(value, dict) else "[]"
    return f"{left}\n" + ",\n".join(lines) + f"\n{indent}{right}"
