"""Folded code for Hexagon: its container, and in the emulator that it computes what the program does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from forgec.backends.base import Settings
from forgec.backends.qnn import compiler, container, session
from forgec.backends.qnn.container import Folded, pack_folded, unpack_folded
from forgec.backends.qnn.folded import compile_folded
from forgec.backends.qnn.socs import CHIPS
from repeated_program import repeated_program

from forgec.errors import BackendError
from forgec.ir.interpreter import Interpreter
from forgec.ir.program import Constant, ConstRef, Instr, Leaf, Operand, Register

SEED = 5
BLOCKS = 3


def test_folded_code_is_read_as_it_was_written() -> None:
    code = Folded(b"calls", (b"first", b""), {"latency_us": 1.0})
    data = pack_folded(code)
    assert container.is_folded(data) and unpack_folded(data) == code
    for bad in (data[:4], data[:-1], data + b"x", data[:8] + b"\xff" * 8 + data[16:]):
        with pytest.raises(BackendError, match="damaged"):
            unpack_folded(bad)


@pytest.mark.slow
@pytest.mark.skipif(
    compiler.missing() is not None, reason="Qualcomm's compiler is missing: pip install 'forgec[qnn]'"
)
def test_folded_code_computes_what_the_program_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGEC_CACHE", str(tmp_path))
    of = repeated_program(BLOCKS, rows=4, width=32)
    rng = np.random.default_rng(SEED)
    tensors = {
        f"w{i}": rng.normal(size=c.type.shape).astype(np.float32) * 0.3
        for i, c in enumerate(of.constants.values())
    }

    def value(constant: Constant) -> np.ndarray:
        assert isinstance(constant.recipe, Leaf)
        return tensors[constant.recipe.name]

    (code,) = compile_folded([of], value, Settings(), CHIPS["hexagon-v73"]) or [b""]
    folded = unpack_folded(code)
    assert len(folded.parts) == 1 and folded.prediction is not None
    (repeat,) = folded.prediction["repeats"]
    assert (repeat["calls"], folded.prediction["dispatches"]) == (BLOCKS, BLOCKS)
    assert repeat["folded_us"] > 0 and repeat["unfolded_us"] > 0
    main = of.main
    memory = {r: np.zeros(r.type.shape, np.float32) for r in (*main.params, *main.results)}

    def of_operand(operand: Operand) -> np.ndarray:
        return value(of.constants[operand.name]) if isinstance(operand, ConstRef) else memory[operand]  # type: ignore[index]

    # Two copies for a later segment: of the parameter, where the result lies, and of the result.
    x, y = main.params[0], main.results[0]
    copied, again = Register(900, x.type), Register(901, y.type)
    copies = [Instr("copy", (x,), (copied,)), Instr("copy", (y,), (again,))]
    function = replace(
        main, body=[*main.body, *copies], results=(y, copied, again), result_names=("a", "b", "c")
    )
    of = replace(of, functions={of.entry: function})
    memory |= {
        y: memory[x],
        copied: np.zeros(x.type.shape, np.float32),
        again: np.zeros(y.type.shape, np.float32),
    }
    (step,) = session.folded_steps(folded, of, of_operand, "the test")
    given = rng.normal(size=(4, 32)).astype(np.float32)
    memory[x][...] = given
    step()
    want = Interpreter(of, tensors.__getitem__).run([given])[0]
    got = memory[y]
    np.testing.assert_array_equal(memory[copied], given)
    np.testing.assert_array_equal(memory[again], got)
    np.testing.assert_allclose(got, want, atol=1e-2 * np.abs(want).max(), err_msg=f"seed {SEED}")
