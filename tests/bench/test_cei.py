"""The Compilation Efficiency Index in a report."""

from __future__ import annotations

import pytest
from bench_report import sample

from bench import attach_cei
from forgec.report.report import Report


def test_index_by_baseline_from_the_phases() -> None:
    report = attach_cei(sample(), 4.0, {"eager": 6.0, "openvino": 2.0})
    found = [(c.baseline, c.latency_ratio, c.compile_s, c.cei, c.kind) for c in report.cei]
    assert found == [("eager", 1.5, 0.5, 3.0, "measured"), ("openvino", 0.5, 0.5, 1.0, "measured")]
    assert Report.from_json(report.to_json()).cei == report.cei


def test_compile_time_can_be_given() -> None:
    assert attach_cei(sample(), 1.0, {"b": 1.0}, compile_s=4.0, kind="simulated").cei[0].cei == 0.25


@pytest.mark.parametrize("ms, baselines", [(0.0, {"b": 1.0}), (1.0, {"b": float("nan")})])
def test_times_must_be_positive(ms: float, baselines: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        attach_cei(sample(), ms, baselines)
