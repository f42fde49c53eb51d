"""Backends are found by folder name; the null backend breaks on demand and is never a device."""

from __future__ import annotations

import time

import numpy as np
import pytest
from forgec.backends.base import No, Yes
from forgec.backends.cpu import CpuBackend
from forgec.backends.null import NullBackend

from forgec import backends
from forgec.errors import BackendError, TargetError
from forgec.ir.parser import parse
from forgec.ir.program import Instr, Register
from forgec.ir.types import DType, TensorType

F32 = TensorType(DType.F32, (2,))
ADD = Instr("add", (Register(0, F32), Register(0, F32)), (Register(1, F32),))


def test_names_are_those_that_the_folders_list() -> None:
    assert {"cpu", "null"} <= set(backends.names())
    assert "base" not in backends.names() and "vendor" not in backends.names()
    assert "null" not in backends.targets()


@pytest.mark.parametrize("name", backends.names())
def test_a_target_is_found_by_all_its_names(name: str) -> None:
    found = backends.target(name)
    assert found.name == name and found.title
    for alias in found.aliases:
        assert backends.resolve(alias) == backends.resolve(alias.upper()) == name


def test_unknown_target_names_the_nearest() -> None:
    with pytest.raises(TargetError, match="did you mean 'cpu'"):
        backends.get("cpuu")
    with pytest.raises(TargetError, match=r"the targets are .*cpu"):
        backends.get("toaster")


def test_cpu_takes_all_but_calls_and_asks_its_cost_model() -> None:
    assert CpuBackend().supports(ADD) == Yes(None)
    assert CpuBackend(lambda instr: 3.5).supports(ADD) == Yes(3.5)
    assert isinstance(CpuBackend().supports(Instr("call", (), (), {"callee": "f"})), No)
    assert isinstance(CpuBackend().supports(Instr("conjure", (), ())), No)


def test_null_is_no_device() -> None:
    assert backends.get("null").available() is not None
    assert NullBackend(pretend=True).available() is None


def test_null_refuses_by_name_and_by_predicate() -> None:
    assert NullBackend().supports(ADD) == Yes(1.0)
    refused = NullBackend(refuses={"add"}).supports(ADD)
    assert isinstance(refused, No) and "add" in refused.reason
    assert isinstance(NullBackend(refuses=lambda instr: len(instr.operands) == 2).supports(ADD), No)
    assert isinstance(NullBackend(refuses={"mul"}).supports(ADD), Yes)


PROGRAM = parse(
    'program @main(r0 "x": f32[2]) -> (r1 "y": f32[2]) {\n  r1: f32[2] = add r0, 1.0\n  return r1\n}\n'
)
MEMORY = {0: np.ones(2, np.float32), 1: np.zeros(2, np.float32)}


def no_constants(constant):
    raise AssertionError(f"the program has no constant {constant}")


def resolve(operand):
    return MEMORY[operand.id] if isinstance(operand, Register) else operand.value


@pytest.mark.parametrize("moment", ["compile", "load", "run"])
def test_null_fails_at_the_asked_moment_and_not_before(moment: str) -> None:
    backend = NullBackend(fails=moment)
    done = []
    with pytest.raises(BackendError, match=moment):
        code = backend.compile(PROGRAM, no_constants)
        done.append("compile")
        steps = backend.load(PROGRAM, code, resolve)
        done.append("load")
        for step in steps:
            step()
    assert done == ["compile", "load", "run"][: ["compile", "load", "run"].index(moment)]


def test_null_lags() -> None:
    backend = NullBackend(lag_s=0.05)
    steps = backend.load(PROGRAM, backend.compile(PROGRAM, no_constants), resolve)
    start = time.perf_counter()
    for step in steps:
        step()
    assert time.perf_counter() - start >= 0.05
    np.testing.assert_array_equal(MEMORY[1], [2, 2])
