"""Folded code for Hexagon: its container, and in the emulator that it computes what the program does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from forgec.backends.base import No, Settings
from forgec.backends.qnn import compiler, container, session
from forgec.backends.qnn import folded as folded_module
from forgec.backends.qnn.backend import QnnBackend
from forgec.backends.qnn.compiler import Built, Wanted
from forgec.backends.qnn.container import Folded, pack_folded, unpack_folded
from forgec.backends.qnn.folded import compile_folded, fold_prices
from forgec.backends.qnn.legalise import FITS
from forgec.backends.qnn.socs import CHIPS, TARGETS
from forgec.backends.vendor.parts import divide
from repeated_program import repeated_program

from forgec.errors import BackendError
from forgec.ir.interpreter import Interpreter
from forgec.ir.parser import parse
from forgec.ir.printer import to_text
from forgec.ir.program import Constant, ConstRef, Instr, Leaf, Operand, Program, Register
from forgec.ir.types import DType

SEED = 5
BLOCKS = 3


def test_folded_code_is_read_as_it_was_written() -> None:
    code = Folded(b"calls", (b"first", b""), {"latency_us": 1.0})
    data = pack_folded(code)
    assert container.is_folded(data) and unpack_folded(data) == code
    for bad in (data[:4], data[:-1], data + b"x", data[:8] + b"\xff" * 8 + data[16:]):
        with pytest.raises(BackendError, match="damaged"):
            unpack_folded(bad)


def look_up(ids: str, table: str = "c0") -> Program:
    return parse(
        f"""program @main(r0 "ids": i64[4]) -> (r2 "y": f32[4,16]) {{
  const c0: f32[40,16] = "table"
  const c1: i64[4] = "ids"
  r1: f32[4,16] = embedding {table}, {ids}
  r2: f32[4,16] = sigmoid r1
  return r2
}}
"""
    )


def test_folded_look_ups_are_the_hosts() -> None:
    plain = QnnBackend(TARGETS[0])
    folding = plain.under(Settings(fold="on"))
    assert plain.under(Settings()) is plain
    (read, then), (constant, _) = look_up("r0").main.body, look_up("c1").main.body
    answers = folding.answers([read, then, constant])
    assert isinstance(answers[0], No) and answers[0].code == "fold" and "fold=off" in answers[0].fix
    assert not any(isinstance(answer, No) for answer in (*answers[1:], *plain.answers([read])))


def never(*_: object) -> list[Built]:
    raise BackendError("the compiler died")


def test_a_part_that_does_not_compile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the prediction of what is compiled in its place."""
    monkeypatch.setattr(folded_module, "compile_parts", never)
    of = repeated_program(BLOCKS, rows=4, width=32)
    codes, (repeat,) = compile_folded([of], lambda c: zeros(c), Settings(), CHIPS["hexagon-v73"])
    assert codes is None and not repeat.folded and repeat.calls == BLOCKS
    assert repeat.reason == "asked for, but the compiler died"
    (priced,) = fold_prices([of], lambda c: zeros(c), Settings(), CHIPS["hexagon-v73"])
    assert not priced.folded and priced.calls == BLOCKS and priced.reason == "the compiler died"
    stored = {"cycles": [1, 2, 3], "us": 1.0, "ddr_bytes": 0, "spill_bytes": 0, "vtcm_bytes": None}
    stored |= {"code_bytes": 0, "uncosted": [], "layers": []}
    plain = container.pack(container.Container("a compiler", 60, (), (), {}, stored, {}))
    monkeypatch.setattr(compiler, "compile_segments", lambda *_: [plain])
    qnn = QnnBackend(TARGETS[0])
    (code,) = qnn.compile_all([of], lambda c: zeros(c), Settings(fold="on"))
    prediction = qnn.prediction(code)
    assert prediction is not None and prediction.repeats == (repeat,)
    with pytest.raises(BackendError, match="nothing is folded: asked for, but the compiler died") as caught:
        qnn.compile_all([of], lambda c: zeros(c), Settings(fold="on", predict=False))
    assert "fold=off" in (caught.value.hint or "")


def test_a_price_that_was_not_found_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """What folded code costs is not known then, the code is there all the same."""
    lost = Built(b"", (), None, 0, 0.0, "it was stopped")
    of = repeated_program(BLOCKS, rows=4, width=32)

    def built(wanted: Sequence[Wanted], *_: object) -> list[Built]:
        return [Built(b"code", (), None, 4, 0.0, "so was this") if each.code else lost for each in wanted]

    monkeypatch.setattr(folded_module, "compile_parts", built)
    monkeypatch.setattr(folded_module, "bind", lambda division, weights: division.calls)
    monkeypatch.setattr(folded_module, "to_bytes", lambda calls: b"")
    codes, (repeat,) = compile_folded([of], lambda c: zeros(c), Settings(), CHIPS["hexagon-v73"])
    assert codes is not None and unpack_folded(codes[0]).unpredicted == "so was this"
    assert repeat.folded and repeat.reason == "asked for; it was stopped"
    (priced,) = fold_prices([of], lambda c: zeros(c), Settings(), CHIPS["hexagon-v73"])
    assert not priced.folded and priced.reason == "it was stopped"


def with_head(wide: int, codes: str, groups: int) -> Program:
    """The repeated blocks and a product behind them, with codes if these are no floats."""
    text = to_text(repeated_program(BLOCKS, rows=4, width=32))
    end = 8 * BLOCKS
    text = text.replace(f'-> (r{end} "y": f32[4,32])', f'-> (r{end + 1} "y": f32[4,{wide}])')
    product = "linear r{0}, c99" if codes == "f32" else "linear_q r{0}, c99, c98, _, _ {{group={1}}}"
    last = f"r{end + 1}: f32[4,{wide}] = {product.format(end, 32 // groups % 32)}"
    text = text.replace(f"  return r{end}", f"  {last}\n  return r{end + 1}")
    constants = f'  const c99: {codes}[{wide},32] = "head"\n'
    constants += f'  const c98: f32[{groups},{wide}] = "scales"\n' if codes != "f32" else ""
    first = text.index("  const")
    return parse(text[:first] + constants + text[first:])


@pytest.mark.parametrize(
    ("wide", "codes", "groups", "inside"),
    [
        (3000, "f32", 1, False),
        (200_000, "f32", 1, True),
        (3000, "i8", 1, False),
        (200_000, "i8", 1, True),
        (3000, "i8", 2, True),
        (3000, "i4", 1, True),
    ],
)
def test_what_is_read_once_stays_in_the_code_if_it_is_large_or_cannot_be_an_input(
    wide: int, codes: str, groups: int, inside: bool
) -> None:
    """A head behind the blocks, over what fits on the chip or of codes without a form as inputs."""
    of = with_head(wide, codes, groups)
    assert (wide * 32 * 2 > FITS) == (wide == 200_000)
    division = divide([of])
    (last,) = (part for part in range(len(division.parts)) if division.times(part) == 1)
    asked: list[str] = []

    def value(constant: Constant) -> np.ndarray:
        asked.append(constant.name)
        return zeros(constant)

    wanted = folded_module._wanted(division, last, [of], value)
    assert bool(wanted.bound) != inside
    if inside:
        for constant in wanted.program.constants.values():
            wanted.constants(constant)
        assert asked == (["c99"] if codes == "f32" else ["c99", "c98"])


def zeros(constant: Constant) -> np.ndarray:
    return np.zeros(constant.type.array_shape, constant.type.dtype.numpy)


def compressed_program(codes: str, groups: int) -> Program:
    """The repeated blocks with codes in their products, and so many scales for a row."""
    text = to_text(repeated_program(BLOCKS, rows=4, width=32))
    for i in range(0, 3 * BLOCKS, 3):
        text = text.replace(f'const c{i}: f32[64,32] = "w{i}"', f'const c{i}: {codes}[64,32] = "w{i}"')
        text = text.replace(f"const c{i + 1}: f32[64]", f"const c{i + 1}: f32[{groups},64]")
        text = text.replace(f"c{i}, c{i + 1} {{", f"c{i}, c{i + 1}, _, _ {{group={32 // groups % 32}, ")
    return parse(text.replace("= linear ", "= linear_q "))


@pytest.mark.parametrize(("codes", "groups"), [("i4", 1), ("i8", 2)])
def test_what_has_no_codes_as_inputs_is_not_folded_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, codes: str, groups: int
) -> None:
    monkeypatch.setattr(folded_module, "compile_parts", lambda wanted, *_: [never() for _ in wanted])
    of = compressed_program(codes, groups)
    found, (told,) = compile_folded([of], zeros, Settings(), CHIPS["hexagon-v73"])
    (priced,) = fold_prices([of], zeros, Settings(), CHIPS["hexagon-v73"])
    assert found is None and told == priced
    assert not told.folded and told.calls == BLOCKS and told.folded_us is None and "codes" in told.reason
    plain = QnnBackend(TARGETS[0])
    (said,) = plain.under(Settings(fold="on")).remarks(of.main.body)
    assert "not folded" in said and plain.remarks(of.main.body) == []
    assert plain.under(Settings(fold="on")).remarks(compressed_program("i8", 1).main.body) == []


@pytest.mark.slow
@pytest.mark.skipif(
    compiler.missing() is not None, reason="Qualcomm's compiler is missing: pip install 'forgec[qnn]'"
)
@pytest.mark.parametrize("largest", [0.01, 0.3, 4.0])
def test_folded_bytes_compute_what_the_program_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: float
) -> None:
    """Codes go in as bytes, whatever the largest weight of a row is."""
    monkeypatch.setenv("FORGEC_CACHE", str(tmp_path))
    of = compressed_program("i8", 1)
    rng = np.random.default_rng(SEED)
    tensors = {}
    for name, c in of.constants.items():
        if c.type.dtype is DType.I8:
            value = rng.integers(-127, 128, c.type.shape).astype(np.int8)
        else:
            value = rng.uniform(0.2, 1, c.type.shape).astype(np.float32)
            value *= largest / 127 if c.type.rank == 2 else 1
        tensors[f"w{name[1:]}"] = value

    def of_constant(constant: Constant) -> np.ndarray:
        assert isinstance(constant.recipe, Leaf)
        return tensors[constant.recipe.name]

    codes, _ = compile_folded([of], of_constant, Settings(predict=False), CHIPS["hexagon-v73"])
    assert codes is not None
    folded = unpack_folded(codes[0])
    (part,) = map(container.unpack, folded.parts)
    kinds = [port.type.dtype for port in part.inputs[1:]]
    assert DType.U8 in kinds
    main = of.main
    memory = {r: np.zeros(r.type.shape, np.float32) for r in (*main.params, *main.results)}

    def of_operand(operand: Operand) -> np.ndarray:
        if isinstance(operand, ConstRef):
            return of_constant(of.constants[operand.name])
        return memory[operand]  # type: ignore[index]

    (step,) = session.folded_steps(folded, of, of_operand, "the test")
    given = rng.normal(size=(4, 32)).astype(np.float32)
    memory[main.params[0]][...] = given
    step()
    want = Interpreter(of, tensors.__getitem__).run([given])[0]
    got = memory[main.results[0]]
    np.testing.assert_allclose(got, want, atol=1e-2 * np.abs(want).max(), err_msg=f"seed {SEED}")


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

    codes, _ = compile_folded([of], value, Settings(), CHIPS["hexagon-v73"])
    assert codes is not None
    folded = unpack_folded(codes[0])
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
