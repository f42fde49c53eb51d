"""The cost models of NPUs that ship: one for every target, made for it, and a verdict's worth of sense."""

from __future__ import annotations

import pytest
from forgec.backends.base import Backend

from forgec import backends
from forgec.ir.program import ConstRef, Instr, Register
from forgec.ir.types import DType, TensorType
from forgec.plan.cost import FAMILIES, CostModel

HOST = CostModel.load()
NPUS = [name for name in backends.targets() if name != "cpu"]


def linear(rows: int) -> Instr:
    x, w = TensorType(DType.F32, (rows, 1024)), TensorType(DType.F32, (1024, 1024))
    return Instr("linear", (Register(0, x), ConstRef("c", w), None, None), (Register(1, x),))


def test_the_host_has_its_own() -> None:
    assert HOST.on(backends.get("cpu")) is HOST


@pytest.mark.parametrize("target", NPUS)
def test_every_npu_has_one_that_was_simulated_for_it(target: str) -> None:
    backend: Backend = backends.get(target)
    model = HOST.on(backend)
    assert model.on_chip and model.method == "simulated" and set(model.rates) >= set(FAMILIES)
    assert model.machine.startswith(f"{backend.calibration}, ")
    assert model.error is not None and model.error < 0.2


@pytest.mark.parametrize("target", NPUS)
def test_a_row_takes_what_its_weights_take_and_many_what_their_products_take(target: str) -> None:
    model = HOST.on(backends.get(target))
    one, few, many = (model.instr_cost(linear(rows)) for rows in (1, 8, 4096))
    assert one == few < many
    assert 2 * 1024 * 1024 / one < 200e3  # bytes a microsecond: 200 GB/s
    assert 1e6 < 2 * 4096 * 1024 * 1024 / many < 100e6  # operations a microsecond: 1 to 100 T a second


def test_a_look_up_on_intels_counts_the_table() -> None:
    ids, table = TensorType(DType.I64, (1, 8)), TensorType(DType.F32, (32000, 1024))
    rows = TensorType(DType.F32, (1, 8, 1024))
    look_up = Instr("embedding", (ConstRef("c", table), Register(0, ids)), (Register(1, rows),))
    assert HOST.on(backends.get("intel-npu4000")).instr_cost(look_up) > 500
    assert HOST.on(backends.get("hexagon-v73")).instr_cost(look_up) < 50
