"""Every op record: types, meaning against PyTorch, views, in-place claims, strides, element types, limits."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from ir_programs import t
from torch.nn import functional as F
from torch_table import TORCH

from forgec.capture.onnx.tensors import to_tensor
from forgec.ir import ops  # noqa: F401  (registers the records)
from forgec.ir.op import OPS, IRTypeError, Op, Sample, get, op
from forgec.ir.ops.elementwise import ACTIVATIONS
from forgec.ir.ops.rules import is_exact
from forgec.ir.types import DType, TensorType
from forgec.tensors import as_numpy

STRUCTURE = {"call", "read_state", "write_state", "write_rows", "view_state"}
NUMERIC = sorted(set(OPS) - STRUCTURE - {"aten"})
"""Ops with a meaning for any operands; an ``aten`` has the types of one call and is PyTorch's own."""
VIEWS = sorted(name for name in NUMERIC if OPS[name].view)
IN_PLACE = sorted(name for name in NUMERIC if OPS[name].inplace)
SEED = 20240607


def samples(record: Op) -> list[Sample]:
    assert record.samples is not None
    return record.samples(np.random.default_rng(SEED))


def types_of(operands: tuple[Any, ...]) -> list[TensorType | None]:
    return [TensorType.of(x) if isinstance(x, np.ndarray) else None for x in operands]


def check_types(record: Op, operands: tuple[Any, ...], attrs: Any, note: str = "") -> tuple[np.ndarray, ...]:
    """Evaluate, and require what the rule derives."""
    expected = record.result_types(types_of(operands), attrs)
    results = record.evaluate(operands, attrs)
    assert all(isinstance(r, np.ndarray) for r in results)
    assert tuple(map(TensorType.of, results)) == expected, (
        f"{record.name} {types_of(operands)} {attrs} {note}"
    )
    return results


def test_every_op_has_samples_and_a_meaning_in_torch() -> None:
    assert {name for name in OPS if OPS[name].samples is None} == STRUCTURE
    assert set(TORCH) == set(NUMERIC)


def test_every_op_has_a_doc() -> None:
    assert not [name for name in OPS if not OPS[name].doc]


@pytest.mark.parametrize("name", NUMERIC)
def test_result_types_match_the_rule(name: str) -> None:
    cases = samples(get(name))
    assert cases
    for sample in cases:
        check_types(get(name), sample.operands, sample.attrs)


def check_against_torch(record: Op, operands: tuple[Any, ...], attrs: Any) -> None:
    dtype = next(x.dtype for x in reversed(operands) if isinstance(x, np.ndarray))
    tensors = [
        None if x is None else to_tensor(np.array(x, None if isinstance(x, np.ndarray) else dtype))
        for x in operands
    ]
    expected = TORCH[record.name](*tensors, **{**record.attrs, **attrs})
    expected = expected if isinstance(expected, tuple) else (expected,)
    for got, want in zip(record.evaluate(operands, attrs), expected, strict=True):
        wanted = as_numpy(want)
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", NUMERIC)
def test_agrees_with_torch(name: str) -> None:
    for sample in samples(get(name)):
        check_against_torch(get(name), sample.operands, sample.attrs)


@pytest.mark.parametrize("name", NUMERIC)
def test_agrees_with_torch_on_integers_or_refuses_them(name: str) -> None:
    """The sample's floats become integers, none of them zero."""
    record = get(name)
    for sample in samples(record):
        operands = tuple(
            np.where(x < 0, np.floor(x), np.ceil(x)).astype(np.int64)
            if isinstance(x, np.ndarray) and x.dtype == np.float32
            else x
            for x in sample.operands
        )
        if not all(is_exact(x, DType.I64) for x in operands if isinstance(x, int | float)):
            continue
        try:
            record.result_types(types_of(operands), sample.attrs)
        except IRTypeError:
            continue
        check_against_torch(record, operands, sample.attrs)


@pytest.mark.parametrize("name", NUMERIC)
def test_operands_are_not_written(name: str) -> None:
    for sample in samples(get(name)):
        for x in sample.operands:
            if isinstance(x, np.ndarray):
                x.setflags(write=False)
        get(name).evaluate(sample.operands, sample.attrs)


@pytest.mark.parametrize("name", VIEWS)
def test_views_share_the_bytes_of_operand_0(name: str) -> None:
    for sample in samples(get(name)):
        x = sample.operands[0]
        (result,) = get(name).evaluate(sample.operands, sample.attrs)
        assert np.shares_memory(result, x) or result.size == 0
        (half,) = get(name).evaluate((x.astype(np.float16),), sample.attrs)
        np.testing.assert_array_equal(half, result.astype(np.float16))
        narrow = x.astype(np.float16)
        (half,) = get(name).evaluate((narrow,), sample.attrs)
        assert np.shares_memory(half, narrow) or half.size == 0


def in_place_case(record: Op, sample: Sample, index: int, result: int) -> tuple[Any, ...] | None:
    """The sample's operands with operand ``index`` as large as the result, or None if it is a literal."""
    operands = list(sample.operands)
    if not isinstance(operands[index], np.ndarray):
        return None
    if record.rule.__name__ == "compare":
        operands = [x.astype(np.int8) if isinstance(x, np.ndarray) else x for x in operands]
    shape = record.evaluate(operands, sample.attrs)[result].shape
    operands[index] = np.broadcast_to(operands[index], shape).copy()
    return tuple(operands)


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_results_depend_on_their_own_element_only(name: str) -> None:
    """Then a kernel may write element i over element i of the operand, in any order.

    The norm after a sum depends on its row: kernels sum a whole row before they write its norm.
    """
    record = get(name)
    rng = random.Random(SEED)
    by_row = {("add_layer_norm", 1), ("add_rms_norm", 1)}
    for index in record.inplace:
        tested = 0
        for sample in samples(record):
            for result in range(len(record.evaluate(sample.operands, sample.attrs))):
                operands = in_place_case(record, sample, index, result)
                if operands is None:
                    continue
                before = record.evaluate(operands, sample.attrs)[result]
                x = operands[index]
                assert (x.size, x.itemsize) == (before.size, before.itemsize), "legal for equal sizes"
                for i in rng.sample(range(x.size), min(x.size, 12)):
                    changed = x.copy()
                    changed.flat[i] = not changed.flat[i] if x.dtype == np.bool_ else changed.flat[i] * 2 + 1
                    others = (*operands[:index], changed, *operands[index + 1 :])
                    with np.errstate(all="ignore"):
                        after = record.evaluate(others, sample.attrs)[result]
                    differs = {int(j) for j in np.flatnonzero(after != before)}
                    width = x.shape[-1] if (name, result) in by_row else 1
                    assert {j // width for j in differs} <= {i // width}, f"operand {index}, element {i}"
                    tested += 1
        assert tested, f"no sample of {name} tests operand {index}"


@pytest.mark.parametrize("name", NUMERIC)
def test_strided_operands_give_the_same(name: str) -> None:
    def strided(x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1] + 1) if x.ndim else (3,), x.dtype)
        view = wide[..., 1::2] if x.ndim else wide[1:2].reshape(())
        view = view.T.copy().T if x.ndim > 1 else view
        view[...] = x
        return view

    for sample in samples(get(name)):
        plain = tuple(np.array(x, order="C") if isinstance(x, np.ndarray) else x for x in sample.operands)
        expected = get(name).evaluate(plain, sample.attrs)
        results = check_types(get(name), tuple(map(strided, sample.operands)), sample.attrs)
        for got, want in zip(results, expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NUMERIC)
def test_an_element_type_is_refused_or_computed(name: str) -> None:
    """Whatever the rule lets through, the reference evaluates, to the types that the rule says."""
    record = get(name)
    for dtype in DType:
        for sample in samples(record):
            if not all(is_exact(x, dtype) for x in sample.operands if isinstance(x, int | float)):
                continue
            recast = [
                x.astype(dtype.numpy)
                if isinstance(x, np.ndarray) and x.dtype in (np.float32, np.bool_)
                else x
                for x in sample.operands
            ]
            for first in (recast[0], sample.operands[0]):
                operands = (first, *recast[1:])
                try:
                    record.result_types(types_of(operands), sample.attrs)
                except IRTypeError:
                    continue
                check_types(record, operands, sample.attrs, dtype.value)


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
@pytest.mark.parametrize("name", sorted(set(NUMERIC) - {"cast", "top_k", "argmax"}))
def test_16_bit_floats_are_computed_in_f32_and_rounded_once(name: str, dtype: DType) -> None:
    for sample in samples(get(name)):
        narrow = tuple(
            x.astype(dtype.numpy) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x
            for x in sample.operands
        )
        wide = tuple(
            x.astype(np.float32) if isinstance(x, np.ndarray) and x.dtype == dtype.numpy else x
            for x in narrow
        )
        for got, want in zip(
            get(name).evaluate(narrow, sample.attrs), get(name).evaluate(wide, sample.attrs), strict=True
        ):
            with np.errstate(over="ignore"):
                np.testing.assert_array_equal(got, want.astype(got.dtype))


def test_rms_norm_of_f16_does_not_overflow() -> None:
    x = np.full((1, 8), 1000, np.float16)
    np.testing.assert_array_equal(get("rms_norm").evaluate((x, None), {})[0], np.ones((1, 8), np.float16))


# --- random operands and attributes --------------------------------------------------------------------


def random_case(record: Op, rng: random.Random) -> tuple[list[TensorType | None], dict[str, Any]]:
    """Operand types that resemble each other, and attributes of the right kinds, many of them illegal."""
    dtype = rng.choice(list(DType))
    base = [rng.randint(0, 4) for _ in range(rng.randint(0, 4))]

    def operand() -> TensorType:
        shape = [1 if rng.random() < 0.1 else n for n in base][rng.choice([0, 0, 0, -1, -2]) :]
        shape += [rng.randint(0, 4)] if rng.random() < 0.1 else []
        rng.shuffle(shape) if rng.random() < 0.1 else None
        other = rng.choice([DType.BOOL, DType.I64, DType.F32])
        return TensorType(dtype if rng.random() < 0.8 else other, tuple(shape))

    def value(default: Any) -> Any:
        if isinstance(default, bool):
            return rng.random() < 0.5
        if isinstance(default, int):
            return rng.randint(-3, 5)
        if isinstance(default, float):
            return rng.choice([-1.0, 0.0, 0.5, 2, float("nan"), float("inf")])
        if isinstance(default, str):
            return rng.choice([*ACTIVATIONS, *(d.value for d in DType), "", "x"])
        if default is None:
            return rng.choice([None, 0, 1, -0.5])
        if rng.random() < 0.3:
            return tuple(rng.sample(range(len(base)), len(base)))
        return tuple(rng.randint(-2, 4) for _ in range(rng.randint(0, len(base) + 1)))

    types: list[TensorType | None] = []
    for spec in record.operands:
        for _ in range(rng.randint(0, 3) if spec.variadic else 1):
            types.append(None if rng.random() < (0.5 if spec.optional else 0.05) else operand())
    return types, {key: value(default) for key, default in record.attrs.items() if rng.random() < 0.8}


@pytest.mark.parametrize("name", NUMERIC)
def test_random_operands_are_refused_or_computed(name: str) -> None:
    record = get(name)
    rng = random.Random(SEED)
    optional = [spec.optional for spec in record.operands]
    for number in range(150):
        types, attrs = random_case(record, rng)
        note = f"case {number} of seed {SEED}"
        try:
            results = record.result_types(types, attrs)
        except IRTypeError:
            continue
        assert all(n >= 0 for r in results for n in r.shape), f"{types} {attrs} {note}"
        operands = tuple(
            np.ones(x.shape, x.dtype.numpy)
            if x is not None
            else None
            if i < len(optional) and optional[i]
            else 1
            for i, x in enumerate(types)
        )
        try:
            check_types(record, operands, attrs, note)
        except IndexError:
            assert name in ("embedding", "take_along", "gather", "scatter"), note


def test_attributes_of_another_kind_are_refused() -> None:
    x = t(2, 3)
    bad: list[tuple[str, dict[str, Any]]] = [
        ("softmax", {"axis": 1.0}),
        ("softmax", {"axis": True}),
        ("sum", {"axes": [0]}),
        ("sum", {"axes": (True,)}),
        ("sum", {"axes": (0,), "keepdims": 1}),
        ("cast", {"dtype": 3}),
        ("cast", {"dtype": "f33"}),
        ("clamp", {"low": "0"}),
        ("layer_norm", {"eps": None}),
        ("softmax", {"axes": 1}),
    ]
    for name, attrs in bad:
        types = [x, *[None] * (len(get(name).operands) - 1)]
        with pytest.raises(IRTypeError):
            get(name).result_types(types, attrs)


def test_a_pad_value_is_one_of_the_element_type() -> None:
    flags = np.array([False])
    (got,) = get("pad").evaluate((flags,), {"before": (0,), "after": (1,), "value": True})
    assert got.tolist() == [False, True]
    for dtype, value in ((DType.BOOL, 2), (DType.I8, 0.5), (DType.U8, -1), (DType.I32, float("inf"))):
        with pytest.raises(IRTypeError, match="is not a value of"):
            get("pad").result_types([t(2, dtype=dtype)], {"before": (0,), "after": (1,), "value": value})


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_operands_is_refused(count: int) -> None:
    with pytest.raises(IRTypeError, match=f"add takes 2 operands \\(a b\\), not {count}"):
        get("add").result_types([t(2)] * count, {})


def test_defining_an_op_twice_is_a_bug() -> None:
    with pytest.raises(Exception, match="'add' is defined twice"):
        op("add", "a b", rule=lambda a, b: a)(lambda a, b: a)


# --- meaning at the edges ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_attention_row_with_nothing_allowed_is_zero_as_in_torch(kind: str) -> None:
    rng = np.random.default_rng(SEED)
    q, k, v = (rng.standard_normal((1, 2, 3, 4)).astype(np.float32) for _ in range(3))
    allowed = np.array([[True, False, True], [False, False, False], [True, True, True]])
    mask = allowed if kind == "bool" else np.where(allowed, np.float32(0), np.float32(-np.inf))
    (got,) = get("attention").evaluate((q, k, v, mask), {"scale": 0.5})
    query, key, value, attn_mask = (torch.from_numpy(x) for x in (q, k, v, mask))
    want = F.scaled_dot_product_attention(query, key, value, attn_mask, scale=0.5)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6)
    assert not got[:, :, 1].any()


def test_attention_shows_nan_in_its_inputs() -> None:
    q = np.full((1, 1, 1, 2), np.nan, np.float32)
    kv = np.ones((1, 1, 3, 2), np.float32)
    (got,) = get("attention").evaluate((q, kv, kv, np.array([[True, True, False]])), {})
    assert np.isnan(got).all()


def test_embedding_refuses_ids_outside_its_table() -> None:
    table = np.zeros((3, 2), np.float32)
    for bad in (-1, 3):
        with pytest.raises(IndexError, match=str(bad)):
            get("embedding").evaluate((table, np.array([0, bad])), {})


@pytest.mark.parametrize("name", ["maximum", "minimum", "clamp", "relu", "max", "min"])
def test_nan_goes_through(name: str) -> None:
    x = np.array([np.nan, 1.0], np.float32)
    attrs: dict[str, dict[str, Any]] = {
        "clamp": {"low": 0, "high": 2},
        "max": {"axes": (0,)},
        "min": {"axes": (0,)},
    }
    operands = (x, 0.0) if len(get(name).operands) == 2 else (x,)
    (got,) = get(name).evaluate(operands, attrs.get(name, {}))
    assert np.isnan(got.flat[0])


def test_literals_take_the_element_type_beside_them() -> None:
    x = np.array([1, 2], np.uint8)
    assert get("add").evaluate((x, 1), {})[0].dtype == np.uint8
    assert get("where").evaluate((x > 1, 0, x), {})[0].dtype == np.uint8


@pytest.mark.parametrize("name", sorted(TORCH))
def test_flops_are_finite_and_not_negative(name: str) -> None:
    for sample in samples(get(name)):
        types = types_of(sample.operands)
        attrs = {**get(name).attrs, **sample.attrs}
        flops = get(name).flops(types, get(name).result_types(types, sample.attrs), attrs)
        assert isinstance(flops, float) and 0 <= flops < 1e9
