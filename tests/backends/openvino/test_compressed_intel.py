"""Compressed weights on Intel's NPUs: emulated they give what the program says, folded or not, and the
compiler takes every form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from compressed_products import compressed_product
from forgec.backends.base import No
from forgec.backends.openvino import folded, runner
from forgec.backends.openvino.backend import by_rule
from forgec.backends.openvino.compiler import Built, Model
from forgec.backends.openvino.emission import emitted
from forgec.backends.openvino.toolchain import find, missing
from forgec.backends.prediction import Prediction
from repeated_program import repeated_program
from worth_a_device import costs_file

import forgec
from forgec import backends
from forgec.ir.compress import compress
from forgec.ir.inline import inline
from forgec.ir.interpreter import Interpreter
from forgec.ir.program import Constant, ConstRef, Operand, Program, leaves
from forgec.ir.recipes import evaluate
from forgec.weights import WeightSpec

SEED = 29
FORMS = [(8, 0, 40), (4, 0, 40), (4, 32, 64), (4, 64, 96), (8, 16, 48)]
"""Bits, group and depth; rows of 96 have groups of 64 that do not divide them."""


@pytest.mark.parametrize(("bits", "group", "depth"), FORMS)
def test_products_are_emitted_on_their_codes(bits: int, group: int, depth: int) -> None:
    case = compressed_product(SEED, bits, group, depth)
    assert by_rule(case.instr) is None
    model = emitted(case.program, case.constants, "4000", "test")
    assert f'element_type="i{bits}"'.encode() in model.xml
    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(model.xml, ov.Tensor(np.frombuffer(model.weights, np.uint8).copy())),
        "CPU",
        runner.EMULATION,
    )
    (got,) = compiled([x.astype(np.float16) for x in case.inputs]).values()
    (want,) = Interpreter(case.program, case.tensors.__getitem__).run(case.inputs)
    np.testing.assert_allclose(got, want, atol=5e-3 * np.abs(want).max(), err_msg=f"seed {SEED}")


def test_what_has_no_form_stays_on_the_cpu_with_a_reason() -> None:
    no = by_rule(compressed_product(SEED, 4, 16, 18).instr)
    assert isinstance(no, No) and no.code == "group" and no.fix == "weights=int4:channel"
    instr = compressed_product(SEED, 8, 0, 16).instr
    x, _, *rest = instr.operands
    no = by_rule(replace(instr, operands=(x, instr.results[0], *rest)))
    assert isinstance(no, No) and "computed in the program" in no.reason


def test_a_user_is_told_that_groups_are_slow() -> None:
    backend = backends.get("intel-npu4000")
    (said,) = backend.remarks([compressed_product(SEED, 4, 32, 64).instr])
    assert "int4:channel" in said
    assert backend.remarks([compressed_product(SEED, 4, 0, 64).instr]) == []


class _Tensors:
    """Source tensors of a compressed program, and its memory."""

    def __init__(self, of: Program) -> None:
        rng = np.random.default_rng(SEED)
        found = {leaf.name: leaf.type.shape for c in of.constants.values() for leaf in leaves(c.recipe)}
        self.tensors = {name: rng.normal(size=shape).astype(np.float32) / 4 for name, shape in found.items()}
        main = of.main
        self.memory = {r: np.zeros(r.type.shape, np.float32) for r in (*main.params, *main.results)}
        self.of_program = of

    def value(self, constant: Constant) -> np.ndarray:
        return evaluate(constant.recipe, self.tensors.__getitem__)

    def __call__(self, operand: Operand) -> np.ndarray:
        if isinstance(operand, ConstRef):
            return self.value(self.of_program.constants[operand.name])
        return self.memory[operand]  # type: ignore[index]


def _compressed(weights: str, blocks: int) -> Program:
    of = repeated_program(blocks, rows=2, width=64)
    return inline(compress(of, WeightSpec.parse(weights)))


def _fold(of: Program, values: _Tensors, mode: str) -> tuple[folded.Folded | None, Mapping[str, str]]:
    told: dict[str, str] = {}

    def compiled(models: Sequence[Model], properties: Mapping[str, str]) -> list[Built]:
        told.update(properties)
        return [Built(b"blob", "", b"", 0.5) for _ in models]

    return folded.fold_all([of], values.value, mode, "4000", compiled), told


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vendor's model for which everything takes 10 us."""
    monkeypatch.setattr(folded, "predict", lambda built, platform, sources: Prediction(10.0, "test"))


@pytest.mark.parametrize(
    ("weights", "mode", "blocks"),
    [("int8", "on", 3), ("int4:channel", "on", 3), ("int4:32", "on", 3), ("int4:32", "auto", 1)],
)
def test_codes_may_be_inputs(costs: None, weights: str, mode: str, blocks: int) -> None:
    """By groups also where nothing repeats: as constants they take the compiler minutes."""
    of = _compressed(weights, blocks)
    values = _Tensors(of)
    found, told = _fold(of, values, mode)
    assert found is not None and found.codes is not None
    assert told == {"NPU_COMPILER_DYNAMIC_QUANTIZATION": "YES"}
    (part,) = found.codes[0].parts
    assert len(part.weights) < 64 * 64 // 2
    (step,) = runner.steps(found.codes[0], "4000", of, values)
    x = np.random.default_rng(SEED + 1).normal(size=(2, 64)).astype(np.float32)
    values.memory[of.main.params[0]][...] = x
    step()
    (want,) = Interpreter(of, values.tensors.__getitem__).run([x])
    got = values.memory[of.main.results[0]]
    np.testing.assert_allclose(got, want, atol=5e-3 * np.abs(want).max(), err_msg=f"seed {SEED}")


def test_groups_say_why_they_are_folded(costs: None) -> None:
    of = _compressed("int4:32", 3)
    found, _ = _fold(of, _Tensors(of), "auto")
    assert found is not None and [r.folded for r in found.repeats] == [True]
    assert "minutes" in found.repeats[0].reason
    of = _compressed("int4:channel", 1)
    assert _fold(of, _Tensors(of), "auto")[0] is None


@pytest.mark.slow
@pytest.mark.skipif(find() is None, reason=f"{missing()}; it needs Wine, x86-64 Linux and the network")
@pytest.mark.parametrize("fold", ["on", "off"])
def test_the_compiler_takes_every_form(fold: str, tmp_path: Path) -> None:
    """A tied head included. What is said to be compressed is so in the code of the unfolded model."""
    sizes = {}
    costs = costs_file(tmp_path)
    for weights in ("fp32", "int8", "int4:channel", "int4:32"):
        exe = forgec.compile(
            "granite-350m-tiny", target="intel-npu4000", weights=weights, fold=fold, costs=costs
        )
        report = exe.report
        assert report is not None and report.fidelity is not None and report.fidelity.passed
        assert not any(row.op == "linear_q" for row in report.placement.fallbacks)
        sizes[weights] = sum(p.code_bytes or 0 for p in report.predictions)
    if fold == "off":
        assert sizes["fp32"] > sizes["int8"] > sizes["int4:channel"]
