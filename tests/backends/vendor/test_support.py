"""Learnt support: a compiler is asked once for what it answers alike, and answers are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from forgec.backends.vendor.cache import Cache
from forgec.backends.vendor.support import Support, Trial, exact, signature, single

from forgec.ir.interpreter import Interpreter
from forgec.ir.program import ConstRef, Instr, Literal, Operand, Register
from forgec.ir.types import DType, TensorType


def f32(*shape: int) -> TensorType:
    return TensorType(DType.F32, shape)


def add(a: Operand, b: Operand, shape: tuple[int, ...], op: str = "add") -> Instr:
    return Instr(op, (a, b), (Register(9, f32(*shape)),))


SMALL = add(Register(0, f32(2, 3)), Register(1, f32(2, 3)), (2, 3))
LARGE = add(Register(4, f32(20, 30)), Register(7, f32(20, 30)), (20, 30))
CONSTANT = add(Register(0, f32(2, 3)), ConstRef("c0", f32(2, 3)), (2, 3))
SCALAR = add(Register(0, f32(2, 3)), Literal(1.0), (2, 3))


class Compiler:
    """Refuses constants; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, instrs: Sequence[Instr]) -> list[Trial]:
        self.asked += [signature(instr) for instr in instrs]
        refused = [any(isinstance(x, ConstRef) for x in instr.operands) for instr in instrs]
        return [Trial("no constants" if no else "") for no in refused]


def test_a_signature_leaves_out_sizes_and_nothing_else() -> None:
    assert signature(SMALL) == signature(LARGE) != signature(CONSTANT)
    assert len({signature(i) for i in (SMALL, CONSTANT, SCALAR, add(None, None, ()))}) == 4
    cut = [
        Instr("slice", (Register(0, f32(8)),), (), {"axis": a, "start": s, "stop": 4})
        for a, s in ((0, 1), (0, 2), (1, 1))
    ]
    assert signature(cut[0]) == signature(cut[1]) != signature(cut[2])
    assert exact(SMALL) != exact(LARGE) and exact(cut[0]) != exact(cut[1])


def test_the_compiler_is_asked_once(tmp_path: Path) -> None:
    compiler = Compiler()
    support = Support("t", "v1", compiler, tmp_path / "none.json", Cache(tmp_path))
    assert support.reasons([SMALL, LARGE, CONSTANT, SMALL]) == ["", "", "no constants", ""]
    assert len(compiler.asked) == 2
    again = Support("t", "v1", compiler, tmp_path / "none.json", Cache(tmp_path))
    assert again.reasons([LARGE, CONSTANT]) == ["", "no constants"]
    assert len(compiler.asked) == 2


def test_answers_of_another_compiler_or_target_do_not_count(tmp_path: Path) -> None:
    compiler = Compiler()
    for target, version in (("t", "v1"), ("t", "v2"), ("u", "v1")):
        Support(target, version, compiler, tmp_path / "none.json", Cache(tmp_path)).reasons([SMALL])
    assert len(compiler.asked) == 3


def test_shipped_answers_need_no_compiler(tmp_path: Path) -> None:
    shipped = tmp_path / "known.json"
    shipped.write_text(json.dumps({"t": {"v1": {signature(SMALL): "", signature(CONSTANT): "never"}}}))
    compiler = Compiler()
    support = Support("t", "v1", compiler, shipped, Cache(tmp_path / "cache"))
    assert support.reasons([LARGE, CONSTANT]) == ["", "never"] and not compiler.asked


def test_a_refusal_in_a_segment_holds_for_its_sizes_only(tmp_path: Path) -> None:
    support = Support("t", "v1", Compiler(), tmp_path / "none.json", Cache(tmp_path))
    support.learn(exact(LARGE), "too large")
    assert support.reasons([SMALL, LARGE]) == ["", "too large"]


def test_a_crash_holds_for_its_sizes_only(tmp_path: Path) -> None:
    asked: list[str] = []

    def dies_of_large(instrs: Sequence[Instr]) -> list[Trial]:
        asked.extend(exact(instr) for instr in instrs)
        return [Trial("it died", sized=True) if i.results[0].type.numel > 9 else Trial("") for i in instrs]

    support = Support("t", "v1", dies_of_large, tmp_path / "none.json", Cache(tmp_path))
    assert support.reasons([LARGE]) == ["it died"]
    assert support.reasons([SMALL, LARGE]) == ["", "it died"]
    assert asked == [exact(LARGE), exact(SMALL)]
    again = Support("t", "v1", dies_of_large, tmp_path / "none.json", Cache(tmp_path))
    assert again.reasons([SMALL, LARGE]) == ["", "it died"] and len(asked) == 2
    other = Support("u", "v1", dies_of_large, tmp_path / "none.json", Cache(tmp_path))
    assert other.reasons([SMALL, LARGE]) == other.reasons([LARGE, SMALL])[::-1] == ["", "it died"]


def attention(rows: int, heads: int, mask: tuple[int, ...] | None) -> Instr:
    q, kv = f32(1, heads, rows, 8), f32(1, 2, 16, 8)
    operands = (Register(0, q), Register(1, kv), Register(2, kv), mask and Register(3, f32(*mask)))
    return Instr("attention", operands, (Register(9, q),))


def test_attention_is_asked_for_by_the_forms_that_its_sizes_lead_to() -> None:
    forms = [(1, 2, None), (5, 2, None), (5, 4, None), (5, 4, (1, 1, 5, 16)), (5, 4, (1, 4, 5, 16))]
    assert len({signature(attention(*form)) for form in forms}) == len(forms)
    assert signature(attention(5, 2, None)) == signature(attention(6, 2, None))


def test_leave_to_round_makes_no_other_question() -> None:
    plain = attention(5, 2, None)
    may_round = replace(plain, attrs={"bf16": True})
    assert signature(may_round) == signature(plain) and exact(may_round) == exact(plain)


def test_a_single_instruction_is_a_program_that_runs() -> None:
    program = single(Instr("mul", (Register(5, f32(2)), ConstRef("w", f32(2))), (Register(7, f32(2)),)))
    assert list(program.constants) == ["c0"]
    (got,) = Interpreter(program, {"c0": np.array([2, 3], np.float32)}.__getitem__).run(
        [np.ones(2, np.float32)]
    )
    np.testing.assert_array_equal(got, [2, 3])
