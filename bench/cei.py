"""The Compilation Efficiency Index, from measured latencies, into forgec's own report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forgec.report.report import Kind, Report

__all__ = ["attach_cei", "cei_rows"]


def attach_cei(
    report: Report,
    forgec_ms: float,
    baselines_ms: Mapping[str, float],
    *,
    compile_s: float | None = None,
    kind: Kind = "measured",
) -> Report:
    """Fill ``report.cei`` from latencies in milliseconds, and return the report.

    CEI_B = (L_B / L_forge) / T_compile for each baseline B (Forge-UGC, arXiv 2604.16498): latency speed-up
    over B per second that forgec took to compile. ``compile_s`` is T_compile in seconds, the sum of the
    report's phases unless given. ``ValueError`` for a time that is not positive.
    """
    from forgec.report.metrics import cei
    from forgec.report.report import Cei

    seconds = report.total_ms / 1000 if compile_s is None else compile_s
    times = {"forgec": forgec_ms, "compile": seconds, **baselines_ms}
    wrong = sorted(name for name, value in times.items() if not value > 0)
    if wrong:
        raise ValueError(f"times must be positive, and {wrong[0]} is {times[wrong[0]]}")
    report.cei = [
        Cei(baseline, latency / forgec_ms, seconds, cei(latency / forgec_ms, seconds), kind)
        for baseline, latency in baselines_ms.items()
    ]
    return report


def cei_rows(report: Report) -> list[dict[str, Any]]:
    """The index by baseline, for a result file."""
    return [
        {"baseline": c.baseline, "latency_ratio": c.latency_ratio, "compile_s": c.compile_s, "cei": c.cei}
        for c in report.cei
    ]
