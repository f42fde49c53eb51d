"""Folded code for Intel's NPUs: emulated, it computes what the program does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from forgec.backends.openvino import folded, runner
from forgec.backends.openvino.compiler import Built, Model, Rejected
from forgec.backends.openvino.container import Code
from forgec.backends.prediction import Prediction
from repeated_program import repeated_program

from forgec.errors import ArtifactError
from forgec.ir.interpreter import Interpreter
from forgec.ir.parser import parse
from forgec.ir.printer import to_text
from forgec.ir.program import Constant, ConstRef, Instr, Operand, Program, Register

SEED = 3


def program(blocks: int = 3) -> Program:
    return repeated_program(blocks, rows=2, width=4)


class Values:
    """Weights of a program, and memory for its inputs and results."""

    def __init__(self, of: Program) -> None:
        rng = np.random.default_rng(SEED)
        self.tensors = {
            c.name: rng.normal(size=c.type.shape).astype(np.float32) for c in of.constants.values()
        }
        main = of.main
        self.memory = {r: np.zeros(r.type.shape, np.float32) for r in (*main.params, *main.results)}
        self.constants = of.constants

    def __call__(self, constant: Constant) -> np.ndarray:
        (leaf,) = (name for name, c in self.constants.items() if c.recipe == constant.recipe)
        return self.tensors[leaf]

    def of(self, operand: Operand) -> np.ndarray:
        return self.tensors[operand.name] if isinstance(operand, ConstRef) else self.memory[operand]  # type: ignore[index]


def compiled(
    models: Sequence[Model], properties: Mapping[str, str], kept: list[Model]
) -> list[Built | Rejected]:
    kept.extend(models)
    return [Built(b"blob", "", b"", 0.5) for _ in models]


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vendor's model for which everything takes 10 us."""
    monkeypatch.setattr(folded, "predict", lambda built, platform, sources: Prediction(10.0, "test"))


def fold(of: Program, values: Values, mode: str = "on") -> tuple[folded.Folded, list[Model]]:
    kept: list[Model] = []
    found = folded.fold_all([of], values, mode, "4000", partial(compiled, kept=kept))
    assert found is not None
    return found, kept


def run(of: Program, values: Values, code: Code) -> np.ndarray:
    (step,) = runner.steps(code, "4000", of, values.of)
    x = np.random.default_rng(SEED + 1).normal(size=(2, 4)).astype(np.float32)
    values.memory[of.main.params[0]][...] = x
    step()
    want = Interpreter(of, lambda leaf: values.tensors["c" + leaf[1:]]).run([x])[0]
    got = values.memory[of.main.results[0]]
    np.testing.assert_allclose(got, want, atol=1e-2, err_msg=f"seed {SEED}")
    return got.copy()


def test_folded_code_computes_what_the_program_does(costs: None) -> None:
    of = program()
    values = Values(of)
    found, models = fold(of, values)
    assert len(models) == 1 and found.codes is not None
    data = found.codes[0].to_bytes()
    read = Code.from_bytes(data)
    assert read == found.codes[0] and read.prediction is not None
    assert (read.prediction.dispatches, read.prediction.latency_us) == (3, 30.0)
    assert [r.calls for r in read.prediction.repeats] == [3]
    first = run(of, values, read)
    values.tensors["c3"] = values.tensors["c3"] * 2
    assert not np.array_equal(first, run(of, values, read))  # weights are read where it is loaded


def test_other_weights_are_the_same_models(costs: None) -> None:
    of = program()
    values = Values(of)
    before = fold(of, values)[1]
    values.tensors = {name: array + 1 for name, array in values.tensors.items()}
    after = fold(of, values)[1]
    assert [(m.xml, m.weights) for m in before] == [(m.xml, m.weights) for m in after]


def test_auto_tries_one_block_and_two_in_a_row_with_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two in a row overlap: the third adds what the second did, which is less than a block alone takes."""
    tried = iter([10.2, 10.0, 16.0])
    monkeypatch.setattr(folded, "predict", lambda built, platform, sources: Prediction(next(tried), "test"))
    of = program()
    found, models = fold(of, Values(of), "auto")
    part, *rows = (model.what for model in models)
    assert part == "part 1 of 1: 8 instructions, linear to add, on f32[2,4]"
    assert rows == ["8 instructions with weights", "16 instructions with weights"]
    assert len(models[0].weights) < len(models[1].weights) < len(models[2].weights)
    (repeat,) = found.repeats
    assert (repeat.folded_us, repeat.unfolded_us) == (pytest.approx(30.6), pytest.approx(22.0))
    assert found.codes is None and "+39" in repeat.reason


def test_what_a_compiler_refuses_is_not_folded(costs: None) -> None:
    of = program()
    values = Values(of)
    assert (
        folded.fold_all([of], values, "on", "4000", lambda models, _: [Rejected("no")] * len(models)) is None
    )
    assert folded.fold_all([program(1)], values, "on", "4000", lambda *_: []) is None


def test_calls_that_do_not_fit_their_part_are_an_error(costs: None) -> None:
    of = program()
    values = Values(of)
    found, _ = fold(of, values)
    assert found.codes is not None
    code = found.codes[0]
    damaged = Code(code.parts, None, code.calls.replace(b'"c0", ', b"", 1))
    with pytest.raises(ArtifactError, match="part 0"):
        runner.steps(damaged, "4000", of, values.of)


def test_what_is_handed_through_is_a_result_too(costs: None) -> None:
    """A parameter, and what a block makes, copied for a later segment; the first copy lies where the parameter
    did, and results are written in order."""
    of = program()
    main = of.main
    x, y = main.params[0], main.results[0]
    first, second, third = (Register(900 + i, x.type) for i in range(3))
    copies = [
        Instr("copy", (x,), (first,)),
        Instr("copy", (y,), (second,)),
        Instr("copy", (first,), (third,)),
    ]
    names = tuple(f"y{i}" for i in range(4))
    function = replace(
        main, body=[*main.body, *copies], results=(y, first, second, third), result_names=names
    )
    of = replace(of, functions={of.entry: function})
    values = Values(of)
    values.memory[y] = values.memory[x]
    found, _ = fold(of, values)
    assert found.codes is not None
    (step,) = runner.steps(found.codes[0], "4000", of, values.of)
    given = np.random.default_rng(SEED + 1).normal(size=(2, 4)).astype(np.float32)
    values.memory[x][...] = given
    step()
    want = Interpreter(of, lambda leaf: values.tensors["c" + leaf[1:]]).run([given])
    for register, array in zip(function.results, want, strict=True):
        np.testing.assert_allclose(values.memory[register], array, atol=1e-2, err_msg=f"seed {SEED}")
    np.testing.assert_array_equal(values.memory[third], given)


def row_of_many(tokens: int) -> Program:
    """Blocks over rows, a product for one row alone; of one row nothing is taken."""
    text = to_text(repeated_program(3, rows=tokens, width=4)).replace(
        '  const c8: f32[4] = "w8"\n', '  const c8: f32[4] = "w8"\n  const c9: f32[5,4] = "w9"\n'
    )
    row = "r24"
    if tokens > 1:
        text = text.replace(") ->", ', r30 "i": i64[1]) ->')
        row = "r31"
        text = text.replace("  return", "  r31: f32[1,4] = gather r24, r30 {axis=0}\n  return")
    text = text.replace(f'(r24 "y": f32[{tokens},4])', '(r32 "y": f32[1,5])')
    return parse(text.replace("  return r24", f"  r32: f32[1,5] = linear {row}, c9\n  return r32"))


def test_programs_of_many_rows_and_of_one_have_one_head(costs: None) -> None:
    of = row_of_many(2)
    values = Values(of)
    found, models = fold(of, values)
    x, index = np.random.default_rng(SEED + 1).normal(size=(2, 4)).astype(np.float32), np.array([1])
    values.memory.update(zip(of.main.params, (x, index), strict=True))
    assert found.codes is not None
    (step,) = runner.steps(found.codes[0], "4000", of, values.of)
    step()
    want = Interpreter(of, lambda leaf: values.tensors["c" + leaf[1:]]).run([x, index])[0]
    np.testing.assert_allclose(values.memory[of.main.results[0]], want, atol=1e-2, err_msg=f"seed {SEED}")
    one = row_of_many(1)
    head = fold(one, Values(one))[1][-1]
    assert len(models) == 2 and (models[-1].xml, models[-1].weights) == (head.xml, head.weights)
    code = Code.from_bytes(found.codes[0].to_bytes())
    assert [bool(part.blob) for part in code.parts] == [True, False, True]
    assert code.prediction is not None and code.prediction.dispatches == 4  # the copy is none
