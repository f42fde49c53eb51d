"""Every legalisation rule keeps the numbers, and leaves none of the form that it is there to remove."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from forgec.backends.vendor.legalise import (
    Rule,
    decompose_attention,
    even_groups,
    flatten_rows,
    legalise,
    split_gated,
    split_linear,
    split_residual_norm,
    split_rope,
)

from forgec.errors import InternalError
from forgec.ir.interpreter import Interpreter
from forgec.ir.op import get
from forgec.ir.program import Constant, ConstRef, Function, Instr, Leaf, Literal, Operand, Program, Register
from forgec.ir.types import TensorType

SEED = 11
ALL = (
    split_residual_norm,
    split_linear,
    split_gated,
    split_rope,
    decompose_attention("fold"),
    flatten_rows("linear", "rms_norm", "layer_norm"),
)
RULES: list[tuple[str, Sequence[Rule]]] = [
    ("add_layer_norm", [split_residual_norm]),
    ("add_rms_norm", [split_residual_norm]),
    ("linear", [split_linear]),
    ("linear", [flatten_rows("linear")]),
    ("rms_norm", [flatten_rows("rms_norm")]),
    ("layer_norm", [flatten_rows("layer_norm")]),
    ("gated", [split_gated]),
    ("rope", [split_rope]),
    ("attention", [decompose_attention("fold")]),
    ("attention", [decompose_attention("repeat")]),
    ("attention", [decompose_attention("fold rows of one")]),
    *((name, ALL) for name in ("add_layer_norm", "add_rms_norm", "linear", "gated", "rope", "attention")),
]


def one(name: str, operands: Sequence[Any], attrs: dict, *, constants: bool) -> tuple[Program, dict, list]:
    """A program of one instruction; its arrays are constants or parameters."""
    table: dict[str, Constant] = {}
    tensors: dict[str, np.ndarray] = {}
    inputs: list[np.ndarray] = []
    given: list[Operand] = []
    for i, x in enumerate(operands):
        if not isinstance(x, np.ndarray):
            given.append(None if x is None else Literal(x))
            continue
        kind = TensorType.of(x)
        if constants and i > 0:
            table[f"c{i}"] = Constant(f"c{i}", kind, Leaf(f"w{i}", kind))
            tensors[f"w{i}"] = x
            given.append(ConstRef(f"c{i}", kind))
        else:
            inputs.append(np.array(x, order="C"))
            given.append(Register(i, kind))
    kinds = get(name).result_types(
        [TensorType.of(x) if isinstance(x, np.ndarray) else None for x in operands], attrs
    )
    results = tuple(Register(100 + i, kind) for i, kind in enumerate(kinds))
    params = tuple(x for x in given if isinstance(x, Register))
    names = tuple(f"x{i}" for i in range(len(params)))
    instr = Instr(name, tuple(given), results, dict(attrs))
    main = Function("main", params, names, [instr], results, tuple(f"y{i}" for i in range(len(results))))
    return Program("main", {"main": main}, table), tensors, inputs


def run_legal(
    program: Program, rules: Sequence[Rule], tensors: dict, inputs: list
) -> tuple[Program, list[np.ndarray]]:
    legal = legalise(program, rules)
    value = legal.values(lambda constant: tensors[constant.recipe.name])
    plain = {name: replace(c, recipe=Leaf(name, c.type)) for name, c in legal.program.constants.items()}
    rewritten = replace(legal.program, constants=plain)
    return rewritten, Interpreter(rewritten, lambda name: value(plain[name])).run(inputs)


def cases() -> Iterator[Any]:
    for name, rules in RULES:
        rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
        samples = get(name).samples
        assert samples is not None
        for i, sample in enumerate(samples(rng)):
            for constants in (False, True):
                yield pytest.param(name, rules, sample, constants, id=f"{name}-{len(rules)}-{i}-{constants}")


@pytest.mark.parametrize(("name", "rules", "sample", "constants"), cases())
def test_the_numbers_stay(name: str, rules: Sequence[Rule], sample: Any, constants: bool) -> None:
    program, tensors, inputs = one(name, sample.operands, dict(sample.attrs), constants=constants)
    want = Interpreter(program, tensors.__getitem__).run(inputs)
    rewritten, got = run_legal(program, rules, tensors, inputs)
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=2e-5, err_msg=f"seed {SEED}")
    left = {instr.op for instr in rewritten.main.body}
    assert not left & {"attention", "rope", "gated", "add_layer_norm", "add_rms_norm"} or len(rules) == 1
    if rules is ALL:
        flat = [i for i in rewritten.main.body if i.op in ("linear", "rms_norm", "layer_norm")]
        assert all(instr.operands[0].type.rank == 2 for instr in flat)


@pytest.mark.parametrize("groups", ["fold", "repeat", "fold rows of one"])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("masked", ["bool", "float", "heads", "none"])
@pytest.mark.parametrize("causal", [False, True])
def test_grouped_attention_with_every_mask(groups: Any, rows: int, masked: str, causal: bool) -> None:
    rng = np.random.default_rng(SEED)
    q, k, v = (
        rng.standard_normal(s).astype(np.float32) for s in ((2, 6, rows, 8), (2, 3, 7, 8), (2, 3, 7, 4))
    )
    allowed = rng.random((2, 1, rows, 7)) > 0.4
    allowed[..., 0] = True
    mask = {
        "bool": allowed,
        "float": np.where(allowed, 0, np.finfo(np.float32).min).astype(np.float32),
        "heads": rng.standard_normal((1, 6, rows, 7)).astype(np.float32),
        "none": None,
    }[masked]
    attrs = {"scale": 0.3, "causal": causal, "seq_major": True}
    for constants in (False, True):
        program, tensors, inputs = one("attention", (q, k, v, mask, None), attrs, constants=constants)
        (want,) = Interpreter(program, tensors.__getitem__).run(inputs)
        _, (got,) = run_legal(program, [decompose_attention(groups)], tensors, inputs)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=f"seed {SEED}")


@pytest.mark.parametrize("filled", [1, 5, 7])
@pytest.mark.parametrize(("causal", "window"), [(False, 0), (True, 0), (True, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_over_a_part_of_a_cache(filled: int, causal: bool, window: int, masked: bool) -> None:
    rng = np.random.default_rng(SEED)
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((1, 4, 1, 8), (1, 2, 7, 8), (1, 2, 7, 8)))
    mask = rng.standard_normal((1, 1, 1, 7)).astype(np.float32) if masked else None
    attrs = {"scale": 0.3, "causal": causal, "window": window}
    program, tensors, inputs = one("attention", (q, k, v, mask, np.array(filled)), attrs, constants=False)
    (want,) = Interpreter(program, tensors.__getitem__).run(inputs)
    _, (got,) = run_legal(program, [decompose_attention("fold")], tensors, inputs)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=f"seed {SEED}")


def test_a_mask_that_layers_share_is_made_once() -> None:
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((1, 2, 4, 8)).astype(np.float32)
    program, tensors, inputs = one(
        "attention", (x, x, x, np.ones((1, 1, 4, 4), bool), None), {}, constants=False
    )
    first = program.main.body[0]
    second = replace(
        first,
        operands=(first.results[0], *first.operands[1:]),
        results=(Register(200, first.results[0].type),),
    )
    main = replace(program.main, body=[first, second], results=second.results)
    rewritten, _ = run_legal(Program("main", {"main": main}), [decompose_attention("fold")], tensors, inputs)
    assert [instr.op for instr in rewritten.main.body].count("where") == 1


def test_a_rule_that_builds_what_it_matches_is_our_bug() -> None:
    program, _, _ = one("neg", (np.ones(3, np.float32),), {}, constants=False)
    with pytest.raises(InternalError, match="never come to an end on neg"):
        legalise(program, [lambda build, instr: (build.op("neg", instr.operands[0]),)])


@pytest.mark.parametrize(("depth", "group", "common"), [(96, 64, 32), (48, 32, 16)])
@pytest.mark.parametrize("bits", [4, 8])
def test_groups_come_to_divide_the_row(depth: int, group: int, common: int, bits: int) -> None:
    rng = np.random.default_rng(SEED)
    weight, x = (rng.standard_normal((n, depth)).astype(np.float32) for n in (6, 3))
    how = {"bits": bits, "group": group}
    (scales,) = get("scales").evaluate((weight,), how)
    (codes,) = get("quantise").evaluate((weight, scales), how)
    program, tensors, inputs = one("linear_q", (x, codes, scales), {"group": group}, constants=True)
    rewritten, (got,) = run_legal(program, [even_groups], tensors, inputs)
    (instr,) = rewritten.main.body
    assert instr.attrs["group"] == common
    (want,) = Interpreter(program, tensors.__getitem__).run(inputs)
    np.testing.assert_array_equal(got, want, err_msg=f"seed {SEED}")
    assert legalise(rewritten, [even_groups]).program.main.body == [instr]


def test_groups_that_share_less_than_8_with_the_row_stay() -> None:
    operands = (np.ones((2, 18), np.float32), np.ones((3, 18), np.int8), np.ones((2, 3), np.float32))
    program, *_ = one("linear_q", operands, {"group": 16}, constants=True)
    assert legalise(program, [even_groups]).program.main.body == program.main.body
