"""Every kernel against the reference evaluation of its op: strided, aliased, empty, repeated, other types."""

from __future__ import annotations

import numpy as np
import pytest
from forgec.backends.cpu.kernels import KERNELS, Scratch, bind
from forgec.backends.cpu.kernels import attention as attention_kernels
from random_pools import random_pool
from tiers import slow_after

from forgec.errors import InputError
from forgec.ir import ops  # noqa: F401
from forgec.ir.op import OPS, IRTypeError, Sample, get
from forgec.ir.program import Instr, Register, Source
from forgec.ir.types import DType, TensorType

pytestmark = pytest.mark.filterwarnings("error")

SEED = 20
TOLERANCE = {"f": 2e-6, "d": 1e-12, "e": 4e-3, "E": 4e-2}


def cases() -> list:
    found = []
    for name, record in OPS.items():
        if record.samples is not None and not record.view:
            samples = [s for seed in (SEED, SEED + 1) for s in record.samples(np.random.default_rng(seed))]
            found += [pytest.param(name, sample, id=f"{name}-{i}") for i, sample in enumerate(samples)]
    return found


CASES = cases()


def run(name: str, sample: Sample, alias: int | None = None, times: int = 1) -> list[np.ndarray]:
    """Results of the kernel; with ``alias`` the first result lies in the memory of that operand."""
    with np.errstate(all="ignore"):
        results = get(name).evaluate(sample.operands, sample.attrs)
    outputs = [np.full(r.shape, 77, r.dtype) for r in results]
    inputs = list(sample.operands)
    if alias is not None:
        outputs[0] = inputs[alias].copy().view(results[0].dtype).reshape(results[0].shape)
        inputs[alias] = outputs[0].view(inputs[alias].dtype).reshape(inputs[alias].shape)
    registers = tuple(Register(i, TensorType.of(np.asarray(r))) for i, r in enumerate(results))
    with np.errstate(all="ignore"):
        step = bind(Instr(name, (), registers, dict(sample.attrs)), inputs, outputs, Scratch())
        for _ in range(times):
            step()
    return outputs


def check(name: str, sample: Sample, got: list[np.ndarray]) -> None:
    with np.errstate(all="ignore"):
        expected = get(name).evaluate(sample.operands, sample.attrs)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if DType.of(b).is_float:
            tolerance = TOLERANCE[b.dtype.char]
            np.testing.assert_allclose(
                a.astype(np.float64), b.astype(np.float64), rtol=tolerance, atol=tolerance
            )
        else:
            np.testing.assert_array_equal(a, b)


def mapped(sample: Sample, change) -> Sample:
    return Sample(tuple(change(x) if isinstance(x, np.ndarray) else x for x in sample.operands), sample.attrs)


def strided(x: np.ndarray) -> np.ndarray:
    """The same values with gaps between the elements of every axis, the axes in reverse memory order."""
    wide = np.empty(tuple(2 * n + 1 for n in reversed(x.shape)), x.dtype)
    view = wide.transpose()[(..., *(slice(1, 2 * n + 1, 2) for n in x.shape))]
    view[...] = x
    return view


def row_strided(x: np.ndarray) -> np.ndarray:
    """The same values as columns of a wider array, as the halves of a fused projection lie."""
    wide = np.empty((*x.shape[:-1], 2 * x.shape[-1]), x.dtype) if x.ndim else np.empty((), x.dtype)
    view = wide[..., : x.shape[-1]] if x.ndim else wide
    view[...] = x
    return view


@pytest.mark.parametrize(("name", "sample"), CASES)
def test_equals_reference_and_repeats(name: str, sample: Sample) -> None:
    check(name, sample, run(name, sample))
    check(name, sample, run(name, sample, times=3))


@pytest.mark.parametrize("layout", slow_after(1, [strided, row_strided]), ids=["strided", "rows"])
@pytest.mark.parametrize(("name", "sample"), CASES)
def test_strided_inputs(name: str, sample: Sample, layout) -> None:
    check(name, sample, run(name, mapped(sample, layout)))


def aliasable(name: str, sample: Sample, operand: int) -> bool:
    """Whether the planner may put the first result on this operand's bytes: it never does for other sizes."""
    first = get(name).evaluate(sample.operands, sample.attrs)[0]
    x = sample.operands[operand]
    return isinstance(x, np.ndarray) and first.nbytes == x.nbytes and first.itemsize == x.itemsize


@pytest.mark.parametrize(
    ("name", "sample", "alias"),
    [
        pytest.param(*case.values, k, id=f"{case.id}-{k}")
        for case in CASES
        for k in get(case.values[0]).inplace
        if aliasable(*case.values, k)
    ],
)
def test_result_over_a_dying_operand(name: str, sample: Sample, alias: int) -> None:
    sample = mapped(sample, lambda x: np.array(x, order="C"))
    check(name, sample, run(name, sample, alias))


def test_both_results_over_dying_operands() -> None:
    """add_layer_norm may overwrite its two operands with its two results, either way round."""
    rng = np.random.default_rng(SEED)
    for name in ("add_layer_norm", "add_rms_norm"):
        (sample,) = get(name).samples(rng)
        expected = get(name).evaluate(sample.operands, sample.attrs)
        for order in ((0, 1), (1, 0)):
            inputs = [None if x is None else x.copy() for x in sample.operands]
            outputs = [inputs[order[0]], inputs[order[1]]]
            registers = tuple(Register(i, TensorType.of(r)) for i, r in enumerate(expected))
            bind(Instr(name, (), registers, dict(sample.attrs)), inputs, outputs)()
            for got, wanted in zip(outputs, expected, strict=True):
                np.testing.assert_allclose(got, wanted, atol=2e-6)


def has_f32(sample: Sample) -> bool:
    return any(isinstance(x, np.ndarray) and x.dtype == np.float32 for x in sample.operands)


@pytest.mark.parametrize("dtype", slow_after(2, [DType.F64, DType.F16, DType.BF16]), ids=lambda d: d.value)
@pytest.mark.parametrize(
    ("name", "sample"), [case for case in CASES if has_f32(case.values[1]) and case.values[0] != "aten"]
)
def test_other_float_types(name: str, sample: Sample, dtype: DType) -> None:
    cast = mapped(sample, lambda x: x.astype(dtype.numpy) if x.dtype == np.float32 else x)
    check(name, cast, run(name, cast))


@pytest.mark.parametrize(
    ("name", "shapes", "attrs"),
    [
        ("add", [(0, 3), (3,)], {}),
        ("softmax", [(2, 0)], {}),
        ("softmax", [(0, 2)], {}),
        ("layer_norm", [(0, 4), (4,), (4,)], {}),
        ("rms_norm", [(0, 4), (4,)], {}),
        ("linear", [(0, 4), (3, 4), (3,), None], {"act": "gelu"}),
        ("linear", [(2, 0), (3, 0), (3,), None], {}),
        ("matmul", [(2, 0, 4), (2, 4, 3)], {}),
        ("matmul", [(2, 3, 0), (2, 0, 3)], {}),
        ("attention", [(1, 2, 0, 4), (1, 2, 3, 4), (1, 2, 3, 4), None], {}),
        ("attention", [(1, 2, 3, 4), (1, 2, 0, 4), (1, 2, 0, 4), None], {}),
        ("attention", [(0, 2, 3, 4), (0, 2, 3, 4), (0, 2, 3, 4), None], {"causal": True}),
        ("rope", [(1, 0, 4), (4,), (4,)], {}),
        ("concat", [(2, 0), (2, 3)], {"axis": 1}),
        ("gated", [(0, 3), (0, 3)], {}),
        ("sum", [(0, 3)], {"axes": (0,)}),
        ("pool", [(0, 3, 5)], {"kernel": (3,), "stride": (2,)}),
        ("pad", [(0, 2)], {"before": (1, 0), "after": (0, 1)}),
    ],
)
def test_empty_shapes(name: str, shapes: list, attrs: dict) -> None:
    rng = np.random.default_rng(SEED)
    operands = tuple(None if s is None else rng.standard_normal(s).astype(np.float32) for s in shapes)
    check(name, Sample(operands, attrs), run(name, Sample(operands, attrs)))


@pytest.mark.parametrize("seed", range(60))
def test_pool_of_random_windows(seed: int) -> None:
    x, attrs = random_pool(np.random.default_rng(seed))
    try:
        get("pool").result_types([TensorType.of(x)], attrs)
    except IRTypeError:
        return
    check("pool", Sample((x,), attrs), run("pool", Sample((strided(x),), attrs), times=2))


def test_rank_zero() -> None:
    x = np.array(0.3, np.float32)
    for name in ("exp", "gelu", "gelu_tanh", "silu", "neg", "relu", "rsqrt"):
        check(name, Sample((x,), {}), run(name, Sample((x,), {})))
    check("pow", Sample((x, 2), {}), run("pow", Sample((x, 2), {})))
    check("add", Sample((x, 1.5), {}), run("add", Sample((x, 1.5), {})))


def test_embedding_ids_out_of_range_name_the_place() -> None:
    table, out = np.zeros((4, 2), np.float32), np.zeros((1, 2), np.float32)
    source = Source("aten.embedding", "model.py", 7)
    instr = Instr("embedding", (), (Register(0, TensorType.of(out)),), {}, source)
    for bad in (4, -1):
        with pytest.raises(InputError, match=f"id {bad} .* 4 rows(.|\n)*model.py:7"):
            bind(instr, [table, np.array([bad])], [out])()


def test_index_out_of_range_is_an_input_error() -> None:
    x, out = np.zeros((4, 2), np.float32), np.zeros((1, 2), np.float32)
    instr = Instr("gather", (), (Register(0, TensorType.of(out)),), {})
    with pytest.raises(InputError, match="gather"):
        bind(instr, [x, np.array([9])], [out])()


@pytest.mark.parametrize("block_bytes", [1, 200, 2**20])
@pytest.mark.parametrize("mask", ["none", "bool", "float", "empty-row", "broadcast"])
@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("rows", "length"), [(6, 6), (1, 9), (4, 9), (9, 4)])
def test_attention_in_blocks(rows, length, causal, window, mask, block_bytes, monkeypatch) -> None:
    """However the work is cut, and whichever rows see nothing, the result is the reference's."""
    monkeypatch.setattr(attention_kernels, "SCORE_BYTES", block_bytes)
    rng = np.random.default_rng(SEED)
    q = rng.standard_normal((2, 4, rows, 8)).astype(np.float32)
    k, v = rng.standard_normal((2, 2, 2, length, 8)).astype(np.float32)
    masks = {
        "none": None,
        "bool": rng.random((2, 1, rows, length)) > 0.4,
        "float": rng.standard_normal((1, 4, rows, length)).astype(np.float32),
        "empty-row": np.arange(rows)[:, None] > 0,
        "broadcast": np.ones((1, 1, 1, length), bool),
    }
    for seq_major in (False, True):
        attrs = {"scale": 0.3, "causal": causal, "window": window, "seq_major": seq_major}
        sample = Sample((q, k, v, masks[mask]), attrs)
        check("attention", sample, run("attention", sample, times=2))


def test_attention_scratch_is_bounded() -> None:
    """Scores of 2 x 8 x 600 x 600 would be 23 MB; the blocks need a fraction."""
    q = np.zeros((2, 8, 600, 4), np.float32)
    scratch = Scratch()
    out = np.empty_like(q)
    bind(Instr("attention", (), (Register(0, TensorType.of(out)),), {}), [q, q, q, None], [out], scratch)
    assert scratch._buffer.nbytes < 3 * attention_kernels.SCORE_BYTES


def test_scratch_gives_disjoint_memory() -> None:
    scratch = Scratch()
    scratch.begin()
    taken = [scratch.take((n,), np.dtype(np.float32)) for n in (3, 100, 7, 5000, 2)]
    for i, x in enumerate(taken):
        x[...] = i
    assert all((x == i).all() for i, x in enumerate(taken))
    scratch.begin()
    again = scratch.take((1,), np.dtype(np.float32))
    assert any(np.may_share_memory(again, x) for x in taken)


def test_hot_ops_have_kernels() -> None:
    assert {"linear", "matmul", "attention", "softmax", "layer_norm", "rms_norm", "rope", "gated"} <= set(
        KERNELS
    )
    assert set(KERNELS) <= set(OPS)
