"""Chrome trace of a compile, and of the runs that vendors simulated, each a process of its own (the catapult
JSON that chrome://tracing and Perfetto open).

A report holds durations and an order, no start times: phases are laid end to end, and the passes end to end
inside their phase, so what lies between two events is not shown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from .report import Report

__all__ = ["bar", "chrome_trace", "save", "save_trace"]


def chrome_trace(report: Report) -> dict[str, Any]:
    """The trace as JSON data; times are microseconds from the start of the compile."""
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": 1, "tid": 1, "args": {"name": f"forgec {report.model}"}}
    ]
    clock = 0.0
    for phase in report.phases:
        events.append(bar(phase.name, "phase", clock, phase.ms, {}))
        if phase.name == "passes":
            inner = clock
            for run in report.passes:
                arguments = {
                    "round": run.round,
                    "rewrites": run.rewrites,
                    "nodes": f"{run.nodes_before} -> {run.nodes_after}",
                }
                events.append(bar(run.name, "pass", inner, run.ms, arguments))
                inner += run.ms * 1000
        clock += phase.ms * 1000
    for p in report.predictions:
        lane = 2 + p.segment
        name = f"segment {p.segment} on {p.device} ({p.kind})"
        events.append({"name": "process_name", "ph": "M", "pid": lane, "tid": 1, "args": {"name": name}})
        for layer in p.layers:
            arguments = {"source": layer.source, "engine": layer.engine}
            event = bar(layer.name, "layer", layer.start_us, layer.duration_us / 1000, arguments)
            events.append({**event, "pid": lane})
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def save_trace(report: Report, path: str | Path) -> None:
    """Write the trace of a compile; :class:`ArtifactError` if the file cannot be written."""
    save(chrome_trace(report), path)


def save(document: dict[str, Any], path: str | Path) -> None:
    """Write trace data; :class:`ArtifactError` if the file cannot be written."""
    try:
        Path(path).write_text(json.dumps(document), encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"cannot write the trace: {error.strerror}", where=str(path)) from error


def bar(
    name: str, category: str, start_us: float, ms: float, arguments: dict[str, Any], row: int = 1
) -> dict[str, Any]:
    """A bar of the trace, in the given row."""
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": start_us,
        "dur": ms * 1000,
        "pid": 1,
        "tid": row,
        "args": arguments,
    }
