"""What every backend keeps: an answer for every op, and right results through compile, load and run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from forgec.backends.base import Backend, No, Yes
from forgec.backends.null import NullBackend

from forgec import backends
from forgec.ir.op import OPS, Op, Sample
from forgec.ir.program import (
    Constant,
    ConstRef,
    Function,
    Instr,
    Literal,
    Operand,
    Program,
    Register,
    StateRef,
)
from forgec.ir.samples import case_of
from forgec.ir.types import DType, TensorType

SEED = 5
TOLERANCE = {DType.F64: 1e-9, DType.F32: 1e-4, DType.F16: 2e-2, DType.BF16: 1e-1}


def backend_of(name: str) -> Backend:
    backend = NullBackend(pretend=True) if name == "null" else backends.get(name)
    missing = backend.available()
    if missing:
        pytest.skip(missing)
    return backend


def samples() -> list:
    return [
        pytest.param(record, sample, id=f"{record.name}-{i}")
        for record in OPS.values()
        if record.samples is not None
        for i, sample in enumerate(record.samples(np.random.default_rng(SEED)))
    ]


def segment_of(record: Op, sample: Sample, constant: int | None = None) -> tuple[Program, dict[Operand, Any]]:
    """A program of one instruction, its operands parameters or one of them a constant, and their arrays."""
    case = case_of(record, sample, () if constant is None else (constant,))
    main = case.program.main
    memory: dict[Operand, Any] = dict(zip(main.params, case.inputs, strict=True))
    for name, value in case.program.constants.items():
        memory[ConstRef(name, value.type)] = case.tensors[name]
    memory.update((r, np.full(r.type.shape, 1, r.type.dtype.numpy)) for r in main.results)
    case.instr.device = "cpu"
    return case.program, memory


def run_segment(backend: Backend, segment: Program, memory: dict[Operand, Any]) -> None:
    def resolve(operand: Operand) -> Any:
        return operand.value if isinstance(operand, Literal) else None if operand is None else memory[operand]

    def value(constant: Constant) -> np.ndarray:
        return memory[ConstRef(constant.name, constant.type)]

    steps = backend.load(segment, backend.compile(segment, value), resolve)
    with np.errstate(all="ignore"):
        for _ in range(2):
            for step in steps:
                step()


@pytest.mark.parametrize("name", ["cpu", "null"])
class TestBackend:
    def test_has_its_name_and_says_if_it_is_available(self, name: str) -> None:
        backend = backends.get(name)
        assert backend is backends.get(name)
        missing = backend.available()
        assert missing is None or missing

    @pytest.mark.parametrize("record", OPS.values(), ids=OPS)
    def test_answers_for_every_op(self, name: str, record: Op) -> None:
        backend = backend_of(name)
        given = record.samples(np.random.default_rng(SEED)) if record.samples else []
        instrs = [segment_of(record, sample)[0].main.body[0] for sample in given] or [
            Instr(record.name, (), ())
        ]
        for instr in instrs:
            answer = backend.supports(instr)
            assert isinstance(answer, Yes | No)
            if isinstance(answer, No):
                assert answer.code and answer.reason and answer.fix
            assert answer == backend.supports(instr)

    @pytest.mark.parametrize(("record", "sample"), [s for s in samples() if not s.values[0].view])
    def test_equals_the_reference(self, name: str, record: Op, sample: Sample) -> None:
        backend = backend_of(name)
        arrays = [i for i, x in enumerate(sample.operands) if isinstance(x, np.ndarray)]
        for constant in (None, *arrays):
            segment, memory = segment_of(record, sample, constant)
            if isinstance(backend.supports(segment.main.body[0]), No):
                continue
            run_segment(backend, segment, memory)
            with np.errstate(all="ignore"):
                expected = record.evaluate(sample.operands, sample.attrs)
            for r, wanted in zip(segment.main.results, expected, strict=True):
                tolerance = TOLERANCE.get(r.type.dtype, 0)
                np.testing.assert_allclose(
                    memory[r], wanted, rtol=tolerance, atol=tolerance, err_msg=f"seed {SEED}"
                )

    def test_states_live_on(self, name: str) -> None:
        backend = backend_of(name)
        kind = TensorType(DType.F32, (3,))
        state, before, x = StateRef("s0", kind), Register(0, kind), Register(1, kind)
        total = Register(2, kind)
        body = [
            Instr("read_state", (state,), (before,)),
            Instr("add", (before, x), (total,)),
            Instr("write_state", (state, total), ()),
        ]
        if any(isinstance(backend.supports(instr), No) for instr in body):
            assert name != "cpu"
            return
        memory: dict[Operand, Any] = {r: np.zeros(3, np.float32) for r in (state, before, total)}
        memory[x] = np.array([1, 2, 3], np.float32)
        program = Program("main", {"main": Function("main", (x,), (), body, (total,), ())}, {}, {"s0": kind})
        run_segment(backend, program, memory)
        np.testing.assert_array_equal(memory[state], [2, 4, 6])
