"""The profile of a run by kernel: spans, sums and the Chrome trace."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from forgec.backends.base import Span

from forgec.ir.program import Instr, Register
from forgec.ir.types import DType, TensorType
from forgec.report.kernels import RunTrace, chrome_trace, summary, trace

sys.path.append(str(Path(__file__).parents[1] / "executable"))

from executable_toy import example, toy

T = TensorType(DType.F32, (1000,))


def _add(number: int) -> Instr:
    return Instr("add", (Register(0, T), Register(1, T)), (Register(number, T),))


def test_wall_time_counts_overlap_once_and_waiting_on_both_threads() -> None:
    one, two = _add(2), _add(3)
    spans = [
        Span(one, 0, 1000, 5000, 1000),
        Span(one, 1, 2000, 9000, 0),
        Span(two, 0, 9500, 10500, 0),
    ]
    (row,) = summary(RunTrace(0, 20_000, spans, 2))
    assert (row.op, row.what, row.count) == ("add", "1000 1000", 2)
    assert row.ms == 9e-3  # 1000..9000 and 9500..10500
    assert row.waited_ms == pytest.approx(9e-3 - (3000 + 7000 + 1000) / 2 / 1e6)
    assert row.gbytes == 2 * 12000 / 9000


def test_a_trace_of_a_program_has_all_its_kernels_and_a_row_per_thread() -> None:
    exe = toy()
    run = trace(exe, example(), 2)
    assert {span.instr.op for span in run.spans} >= {"embedding", "linear"}
    assert all(run.begin_ns <= s.begin_ns <= s.end_ns <= run.end_ns for s in run.spans)
    assert sum(row.ms for row in summary(run)) <= run.ms
    document = chrome_trace(run, "toy")
    bars = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert len(bars) == len(run.spans) and {bar["tid"] for bar in bars} <= set(range(1, run.threads + 1))
    assert any("linear" in bar["args"]["instruction"] for bar in bars)
