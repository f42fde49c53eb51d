"""Compressed weights on Hexagon: emission against the interpreter, and compiled code in the emulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from compressed_products import compressed_product
from forgec.backends import get as backend
from forgec.backends.qnn import compiler
from forgec.backends.qnn.emit import emit
from forgec.backends.qnn.emit.blocks import block_size, decompressed
from qnn_emulator import assert_close, compiled, emulated
from qnn_programs import Case, together

from forgec.errors import BackendError
from forgec.ir.interpreter import Interpreter
from forgec.ir.types import DType

SEED = 31
HELD = [
    (8, 0, 48, 16),
    (8, 0, 512, 256),
    (4, 0, 64, 64),
    (4, 32, 64, 32),
    (4, 64, 96, 32),
    (4, 128, 256, 128),
]
"""Bits, group, depth, and the block that comes of them; rows of 96 end with half a group of 64."""
DECOMPRESSED = [(8, 0, 40), (4, 16, 24)]


def _ops(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


def _check(case: Case, folder: Path) -> list[str]:
    emitted = emit(case.program, case.constants, folder, DType.F32)
    session = onnxruntime.InferenceSession(emitted.path, providers=["CPUExecutionProvider"])
    feeds = {port.name: x for port, x in zip(emitted.inputs, case.inputs, strict=True)}
    (got,) = session.run(None, feeds)
    (want,) = Interpreter(case.program, case.tensors.__getitem__).run(case.inputs)
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-4, err_msg=f"seed {SEED}")
    return _ops(emitted.path)


@pytest.mark.parametrize(("bits", "group", "depth", "block"), HELD)
def test_codes_are_held_as_they_are(bits: int, group: int, depth: int, block: int, tmp_path: Path) -> None:
    case = compressed_product(SEED, bits, group, depth, act="gelu")
    assert block_size(depth, group) == block and decompressed(case.instr) is None
    assert "MatMulNBits" in _check(case, tmp_path)


@pytest.mark.parametrize(("bits", "group", "depth"), DECOMPRESSED)
def test_what_has_no_blocks_is_decompressed_and_said(
    bits: int, group: int, depth: int, tmp_path: Path
) -> None:
    case = compressed_product(SEED, bits, group, depth)
    assert "MatMulNBits" not in _check(case, tmp_path)
    (said,) = backend("hexagon-v73").remarks([case.instr])
    assert "1 compressed weights" in said and "multiple of 16" in said
    assert backend("hexagon-v73").remarks([compressed_product(SEED, 8, 0, 48).instr]) == []


def test_codes_are_no_inputs(tmp_path: Path) -> None:
    case = compressed_product(SEED, 4, 32, 64)
    with pytest.raises(BackendError, match="cannot be an input"):
        emit(case.program, case.constants, tmp_path, as_inputs=["c0", "c1"])


@pytest.mark.slow
@pytest.mark.skipif(
    compiler.missing() is not None, reason="Qualcomm's compiler is missing: pip install 'forgec[qnn]'"
)
class TestQualcommsCompiler:
    def test_products_are_right_on_the_emulator(self, tmp_path: Path) -> None:
        forms = [(bits, group, depth) for bits, group, depth, _ in HELD]
        case = together([compressed_product(SEED + i, *form, rows=1 + i) for i, form in enumerate(forms)])
        assert_close(case, emulated(case, compiled(case, tmp_path)), 5e-3)

    def test_codes_save_bytes(self, tmp_path: Path) -> None:
        sizes = [
            len(compiled(compressed_product(SEED, bits, group, depth, outs=1024), tmp_path))
            for bits, group, depth in ((8, 0, 1000), (8, 0, 1024), (4, 0, 1024))
        ]
        whole, eight, four = sizes
        assert whole > 1.7 * eight > 1.7 * 1.5 * four
