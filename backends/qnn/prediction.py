"""What the vendor's performance model says of a compile for a chip that has one.

The profile is a CSV table; with ``optrace`` there is also a log that holds a Chrome trace of every kernel on
every engine, and a text that names kernels. Our node names begin with the register that they compute, so
that every kernel leads back to a line of the user's model. Dispatch from the host is not modelled.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forgec.errors import BackendError

from ..prediction import Layer, Prediction, Repeat

__all__ = ["PROVIDER_OPTIONS", "from_dict", "placed", "read_profile"]

_TABLE = "profile.csv"
PROVIDER_OPTIONS = {"profiling_level": "optrace", "profiling_file_path": _TABLE}

_CYCLES = "Simulated (Accelerator exec cycles)"
_LOW, _HIGH = (f"Simulated (Accelerator exec cycles ({side} estimate))" for side in ("lower", "upper"))
_TIME = "Simulated (Accelerator exec time us)"
_MISSING = "Missing Ops (Number of Ops with no Costs associated)"


def read_profile(folder: Path, sources: Mapping[int, str], code_bytes: int) -> dict[str, Any] | None:
    """The prediction of the compile in ``folder`` as JSON's types, None if there is no estimate.

    ``sources`` names the place in the user's model by register.
    """
    table = folder / _TABLE
    rows = list(csv.reader(table.read_text(errors="replace").splitlines())) if table.is_file() else []
    numbers = {row[6].strip(): int(row[2]) for row in rows if len(row) > 6 and row[2].strip().isdigit()}
    if _CYCLES not in numbers:
        return None
    uncosted = [
        row[6].split(":")[0].strip() for row in rows if len(row) > 6 and re.search(r": OpId_\d+$", row[6])
    ]
    trace = _trace(folder)
    spills = numbers.get("Intermediate Spill", 0) + numbers.get("Intermediate Fill", 0)
    moved = spills + numbers.get("Input Fill", 0) + numbers.get("Output Spill", 0)
    frequency = float(trace.get("Hextimate Configuration", {}).get("sim_core_freq", 0)) if trace else 0
    cycles = numbers[_CYCLES]
    return {
        "cycles": [numbers.get(_LOW, cycles), cycles, numbers.get(_HIGH, cycles)],
        "us": cycles / frequency if frequency else float(numbers[_TIME]),
        "ddr_bytes": moved,
        "spill_bytes": spills,
        "vtcm_bytes": _peak(trace) if trace else None,
        "code_bytes": code_bytes,
        "uncosted": [_told(name, sources) for name in uncosted],
        "uncosted_count": numbers.get(_MISSING, len(uncosted)),
        "layers": list(_layers(trace, _names(folder), sources, frequency)) if trace and frequency else [],
    }


def placed(stored: Mapping[str, Any], sources: Mapping[int, str]) -> dict[str, Any]:
    """What :func:`read_profile` gave, with these places in the user's model: equal models of the vendor's may
    come from other lines."""
    layers = [[*fields, sources.get(_register(fields[0]), "")] for *fields, _ in stored["layers"]]
    uncosted = [_told(name.partition(" (")[0], sources) for name in stored["uncosted"]]
    return {**stored, "layers": layers, "uncosted": uncosted}


def _told(name: str, sources: Mapping[int, str]) -> str:
    return f"{name} ({sources.get(_register(name), '')})"


def from_dict(stored: Mapping[str, Any], proxy: str) -> Prediction:
    """The prediction that :func:`read_profile` gave, back from JSON."""
    try:
        low, middle, high = stored["cycles"]
        method = f"the vendor's model of {proxy}: {middle:,} cycles ({low:,} to {high:,})"
        return Prediction(
            latency_us=float(stored["us"]),
            method=method,
            ddr_bytes=stored["ddr_bytes"],
            spill_bytes=stored["spill_bytes"],
            on_chip_bytes=stored["vtcm_bytes"],
            code_bytes=stored["code_bytes"],
            uncosted=tuple(stored["uncosted"]),
            layers=tuple(Layer(*fields) for fields in stored["layers"]),
            repeats=tuple(Repeat(**fields) for fields in stored.get("repeats", ())),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BackendError(f"a stored prediction is damaged: {error!r}", hint="compile again") from None


def _register(name: str) -> int:
    found = re.match(r"r(\d+)\.", name)
    return int(found.group(1)) if found else -1


def _trace(folder: Path) -> dict[str, Any]:
    """The object with ``traceEvents`` inside the log; empty if there is none."""
    log = folder / _TABLE.replace(".csv", "_qnn.log")
    if not log.is_file():
        return {}
    text = log.read_text(errors="replace")
    start = text.rfind("{", 0, max(text.find('"traceEvents"'), 0))
    if start < 0:
        return {}
    try:
        found, _ = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _names(folder: Path) -> dict[int, str]:
    """Names of the vendor's operators by number, which are our nodes' names."""
    names: dict[int, str] = {}
    for path in folder.glob("*_schematic.bin"):
        text = path.read_text(errors="replace")
        start = text.find("qnn_name_translations")
        for number, name in re.findall(r"(0x[0-9a-f]+): '([^']*)'", text[start : text.find("}", start)]):
            names[int(number, 16) & 0xFFFFFFFF] = name
    return names


def _peak(trace: Mapping[str, Any]) -> int | None:
    """The most on-chip memory in use, in bytes."""
    values = [
        int(value)
        for event in trace.get("traceEvents", ())
        if event.get("ph") == "C" and event.get("name") == "TCM usage"
        for value in event.get("args", {}).values()
        if isinstance(value, int | float)
    ]
    return max(values, default=None)


def _layers(
    trace: Mapping[str, Any], names: Mapping[int, str], sources: Mapping[int, str], frequency: float
) -> Iterator[list[Any]]:
    """Kernels as fields of :class:`Layer`; those of one node that follow each other on an engine are one."""
    engines = {
        event["tid"]: str(event["args"]["name"]).strip(" :")
        for event in trace["traceEvents"]
        if event.get("name") == "thread_name" and "tid" in event
    }
    events = [e for e in trace["traceEvents"] if e.get("ph") == "X" and e.get("dur", 0) > 0]
    events.sort(key=lambda e: (e["tid"], e["ts"]))
    last: list[Any] | None = None
    for event in events:
        name = names.get(int(str(event["args"].get("id", "0")), 16) & 0xFFFFFFFF, str(event["name"]))
        engine = engines.get(event["tid"], str(event["tid"]))
        start, duration = event["ts"] / frequency, event["dur"] / frequency
        if last is not None and last[0] == name and last[1] == engine:
            last[3] = start + duration - last[2]
            continue
        if last is not None:
            yield [*last[:2], round(last[2], 3), round(last[3], 3), last[4]]
        last = [name, engine, start, duration, sources.get(_register(name), "")]
    if last is not None:
        yield [*last[:2], round(last[2], 3), round(last[3], 3), last[4]]
