"""The grid covers every op, its cases are programs, timing counts repetitions, a fit finds known rates."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from forgec.backends import get
from forgec.backends.base import Answer, Backend, Memory, No, Step, Yes

from bench import calibrate, grid, kernel_time
from bench.kernel_time import build, time_case
from forgec.ir.op import OPS
from forgec.ir.program import Instr, Program
from forgec.ir.types import DType, TensorType
from forgec.ir.verifier import verify
from forgec.plan.cost import OP_SAMPLES, CostModel, Rates, fit

CASES = list(grid.cases())
SMALL = 1 << 19


def small(op: str) -> list[grid.Case]:
    """Cases of an op with less than 512 KiB of operands."""

    def nbytes(operand: grid.Operand) -> int:
        found = operand if isinstance(operand, TensorType) else getattr(operand, "type", None)
        return found.nbytes if found is not None else 0

    return [c for c in CASES if c.op == op and sum(map(nbytes, c.operands)) < SMALL]


class Recording(Backend):
    """Runs nothing; keeps the segments."""

    name = "recording"

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer or Yes()
        self.segments: list[Program] = []
        self.runs = 0

    def available(self) -> str | None:
        return None

    def supports(self, instr: Instr) -> Answer:
        return self.answer

    def load(self, segment: Program, code: bytes, memory: Memory) -> list[Step]:
        self.segments.append(segment)

        def step() -> None:
            self.runs += 1

        return [step]


def test_every_op_that_computes_has_enough_cases_for_rates_of_its_own() -> None:
    counts = Counter(case.op for case in CASES)
    computing = {name for name, record in OPS.items() if not record.view} - grid.UNTIMED
    assert set(counts) == computing
    assert {name: n for name, n in counts.items() if n < OP_SAMPLES} == {}
    assert len(set(map(str, CASES))) == len(CASES)


@pytest.mark.parametrize("op", sorted({case.op for case in CASES}))
def test_small_cases_are_programs_that_the_cpu_runs(op: str) -> None:
    rng = np.random.default_rng(0)
    case = small(op)[0]
    recording = Recording()
    assert build(case, recording, rng) is not None
    verify(recording.segments[0])
    bench = build(case, get("cpu"), rng)
    assert bench is not None
    bench.run()


def test_repetitions_share_inputs_and_have_constants_of_their_own() -> None:
    weight = TensorType(DType.F32, (8, 4))
    case = grid.Case("linear", (TensorType(DType.F32, (2, 4)), grid.Weight(weight), None, None))
    recording = Recording()
    bench = build(case, recording, np.random.default_rng(0))
    assert bench is not None
    (program,) = recording.segments
    body = program.main.body
    assert len(body) == bench.copies > 1
    assert len({instr.operands[0] for instr in body}) == 1
    assert len({instr.operands[1] for instr in body}) == len(program.constants) == bench.copies


def test_time_is_the_lowest_run_over_the_repetitions() -> None:
    ticks = iter(np.cumsum([0, 9, 1, 3, 1, 6, *[1] * 1000]).tolist())  # runs of 9, 3, 6 seconds
    case = grid.Case("neg", (TensorType(DType.F32, (4,)),))
    recording = Recording()
    found = time_case(case, recording, np.random.default_rng(0), clock=lambda: next(ticks))
    assert found is not None
    instr, microseconds = found
    copies = len(recording.segments[0].main.body)
    assert instr.op == "neg"
    assert recording.runs == 1 + kernel_time._LEAST_RUNS
    assert microseconds == pytest.approx(3 / copies * 1e6)


def test_what_the_backend_refuses_is_not_timed() -> None:
    case = grid.Case("neg", (TensorType(DType.F32, (4,)),))
    assert time_case(case, Recording(No("op", "no", "none")), np.random.default_rng(0)) is None


def test_a_fit_of_times_made_from_known_rates_is_exact_and_its_file_loads(tmp_path: Path) -> None:
    rates = Rates(flops_per_us=500.0, bytes_per_us=2000.0, overhead_us=7.0)
    base = CostModel.load()
    truth = CostModel(dict.fromkeys(base.rates, rates), base.transfer, "m", "d", "measured")
    recording = Recording()
    rng = np.random.default_rng(0)
    for op in ("exp", "add", "softmax"):
        for case in small(op):
            build(case, recording, rng)
    samples = [(p.main.body[0], truth.instr_cost(p.main.body[0])) for p in recording.segments]
    model = fit(samples, machine="m", date="d")
    found = calibrate.errors(model, samples)
    assert sum(e["count"] for e in found.values()) == len(samples)
    assert max(e["max"] for e in found.values()) < 0.01
    path = tmp_path / "mine.json"
    path.write_text(calibrate.text({"calibration": calibrate.rounded(model.to_json())}))
    assert json.loads(path.read_text())["samples"] == len(samples)
    assert all(float(f"{x:.4g}") == x for x in vars(CostModel.load(path).of("exp")).values())
    assert CostModel.load(path).method == "measured"
    assert calibrate.tables({"calibration": calibrate.load(path), "errors": found})[0].rows
