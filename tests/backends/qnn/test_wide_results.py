"""Wide results leave in slices, and come together again where they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from forgec.backends.base import Settings
from forgec.backends.qnn import compiler, container
from forgec.backends.qnn.emit import emit, matrix
from forgec.backends.vendor.cache import Cache
from qnn_emulator import CHIP, assert_close, compiled, emulated
from qnn_programs import Case, single

from forgec.ir.op import Sample

SEED = 20261128


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which a test is quick."""
    monkeypatch.setattr(matrix, "FITS", 2 * 64 * 16)
    monkeypatch.setattr(matrix, "_WIDE", 1)


def _product(act: str = "") -> Case:
    rng = np.random.default_rng(SEED)
    x, weight, bias = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 16), (150, 16), (150,)))
    return single("linear", Sample((x, weight, bias, None), {"act": act}), frozenset({1, 2}))


@pytest.mark.parametrize("act", ["", "relu"])
def test_slices_are_one_result(tmp_path: Path, act: str) -> None:
    case = _product(act)
    code = compiled(case, tmp_path)
    assert [port.type.shape for port in container.unpack(code).outputs] == [(6, 64), (6, 64), (6, 22)]
    assert_close(case, emulated(case, code))


def test_what_is_read_inside_stays_whole(tmp_path: Path) -> None:
    case = _product()
    program = case.program
    result = program.main.results[0]
    program.main.body.append(
        type(program.main.body[0])("relu", (result,), (type(result)(999, result.type),), {})
    )
    emitted = emit(program, case.constants, tmp_path)
    assert len(emitted.outputs) == 1


def test_a_narrow_result_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "_WIDE", 1 << 20)
    case = _product()
    assert len(emit(case.program, case.constants, tmp_path).outputs) == 1


def test_a_prediction_may_be_left_out_and_asked_for_later(tmp_path: Path) -> None:
    case = _product()
    store = Cache(tmp_path / "cache")
    found = []
    for predict in (False, True, False):
        settings = Settings(predict=predict)
        (code,) = compiler.compile_segments([case.program], case.constants, settings, CHIP, store)
        found.append(container.unpack(code, files=False).prediction is not None)
    assert found == [False, True, True]
