"""Every converter: small functions in ATen terms, traced, lowered without fusion, run, compared with
eager."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import forgec
from forgec import aten
from forgec.capture import capture
from forgec.errors import TargetError, UnsupportedOpError
from forgec.ir.interpreter import Interpreter
from forgec.ir.lowering import lower
from forgec.ir.op import get
from forgec.ir.verifier import verify
from forgec.tensors import as_numpy

GEN = torch.Generator().manual_seed(11)


def f(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GEN)


def i(high: int, *shape: int, low: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=GEN)


def b(*shape: int) -> Tensor:
    return torch.rand(shape, generator=GEN) > 0.5


CASES: dict[str, tuple[Callable[..., object], tuple[Tensor, ...]]] = {
    # arithmetic and promotion
    "add alpha": (lambda x, y: torch.add(x, y, alpha=2.5), (f(3, 4), f(4))),
    "add int float": (lambda x, y: x + y, (i(9, 3, 4), f(4))),
    "add int scalar float": (lambda x: x + 0.5, (i(9, 3, 4),)),
    "add rank 0": (lambda x, y: x + y, (f(), f(3))),
    "sub alpha": (lambda x, y: torch.sub(x, y, alpha=3), (i(9, 4), i(9, 4))),
    "rsub": (lambda x: 1.5 - x, (f(3),)),
    "rsub alpha": (lambda x: torch.rsub(x, 2.0, alpha=3), (f(3),)),
    "mul bool float": (lambda x, y: x * y, (b(3, 4), f(4))),
    "div ints": (lambda x, y: x / y, (i(9, 4), i(9, 4, low=1))),
    "div floor": (lambda x, y: torch.div(x, y, rounding_mode="floor"), (f(8), f(8))),
    "div trunc": (lambda x, y: torch.div(x, y, rounding_mode="trunc"), (i(9, 8, low=-9), i(5, 8, low=1))),
    "floor divide": (lambda x: x // 3, (i(9, 8, low=-9),)),
    "remainder": (lambda x: x % 3, (i(9, 8, low=-9),)),
    "pow scalar": (lambda x: x**3, (f(4),)),
    "pow half": (lambda x: x.abs() ** 0.5, (f(4),)),
    "pow tensor": (lambda x, y: x.abs() ** y, (f(4), f(4))),
    "square": (torch.square, (f(4),)),
    "addcmul": (lambda x, y, z: torch.addcmul(x, y, z, value=0.5), (f(4), f(4), f(4))),
    "maximum": (torch.maximum, (f(3, 1), f(4))),
    "min other": (torch.min, (i(9, 4), i(9, 4))),
    # comparison, logic, selection
    "compare scalar": (lambda x: (x > 0.25) & (x <= 1), (f(8),)),
    "compare int with float": (lambda x: x >= 2.5, (i(6, 8),)),
    "logical on ints": (lambda x, y: torch.logical_and(x, y), (i(2, 6), i(2, 6))),
    "logical not of ints": (torch.logical_not, (i(2, 6),)),
    "not": (lambda x: ~x, (b(6),)),
    "xor": (lambda x, y: x ^ y, (b(6), b(6))),
    "or of sums": (lambda x, y: x | y, (b(6), b(6))),
    "where": (lambda c, x: torch.where(c, x, -1e9), (b(3, 1), f(3, 4))),
    "where scalars": (lambda c: torch.where(c, 1.0, 0.0), (b(3, 4),)),
    "where types": (lambda c, x, y: torch.where(c, x, y), (b(4), i(9, 4), f(4))),
    "masked fill": (lambda x, m: x.masked_fill(m, -float("inf")), (f(3, 4), b(1, 4))),
    "masked fill tensor": (lambda x, m, v: x.masked_fill(m, v), (f(3, 4), b(3, 4), f())),
    "clamp": (lambda x: x.clamp(-0.5, 0.5), (f(8),)),
    "clamp int by float": (lambda x: x.clamp(min=1.5), (i(6, 8),)),
    "clamp tensors": (lambda x, lo, hi: torch.clamp(x, lo, hi), (f(8), f(8) - 1, f(8) + 1)),
    "clamp min": (lambda x: x.clamp_min(0.0), (f(8),)),
    "isnan": (lambda x: torch.isnan(torch.where(x > 0, x, x * float("nan"))), (f(8),)),
    "isinf": (lambda x: torch.isinf(x / (x > 0)), (f(8),)),
    # unary
    "sin of ints": (torch.sin, (i(9, 4),)),
    "unary chain": (lambda x: torch.exp(-x.abs()).log().cos().tanh().sigmoid().sqrt().rsqrt(), (f(8),)),
    "erf reciprocal": (lambda x: torch.reciprocal(torch.erf(x) + 2), (f(8),)),
    "rounding": (lambda x: x.floor() + x.ceil() + torch.round(x * 3) + x.sign(), (f(8),)),
    "activations": (lambda x: F.gelu(x) + F.gelu(x, approximate="tanh") + F.silu(x) + F.relu(x), (f(8),)),
    "softplus": (lambda x: F.softplus(x, beta=2.0), (f(8),)),
    "leaky relu": (lambda x: F.leaky_relu(x, 0.1), (f(8),)),
    "relu6": (lambda x: F.hardtanh(x, 0, 6), (f(8),)),
    "mish": (F.mish, (f(8),)),
    "elu": (F.elu, (f(8),)),
    "hardswish": (F.hardswish, (f(8),)),
    "log1p expm1": (lambda x: torch.log1p(x.abs()) + torch.expm1(x), (f(8),)),
    # casts
    "casts": (lambda x: (x.to(torch.int32).double() + x.half()).to(torch.bool), (f(8) * 3,)),
    "type as": (lambda x, y: x.type_as(y), (i(5, 3), f(3))),
    # shape
    "views": (lambda x: x.view(4, 6).unsqueeze(0).squeeze().flatten().unflatten(0, (2, 12)), (f(2, 3, 4),)),
    "reshape of transpose": (lambda x: x.transpose(0, 2).reshape(6, 4), (f(2, 3, 4),)),
    "permute": (lambda x: x.permute(2, 0, -2).contiguous(), (f(2, 3, 4),)),
    "movedim": (lambda x: x.movedim((0, 2), (1, 0)), (f(2, 3, 4),)),
    "t and mT": (lambda x, y: x.t() + y.mT[0], (f(2, 3), f(1, 2, 3))),
    "expand": (lambda x: x.expand(3, -1, 4) + 0, (f(5, 1),)),
    "slices": (lambda x: x[:, 1:-1:2] + x[..., :2] + x.select(1, -1)[:, None], (f(3, 4),)),
    "slice out of range": (lambda x: x[5:9].sum() + x[1:100], (f(3),)),
    "narrow": (lambda x: x.narrow(1, 1, 2), (f(3, 4),)),
    "split": (lambda x: [p * n for n, p in enumerate(x.split(3, 1))], (f(2, 7),)),
    "split sizes": (lambda x: x.split([1, 4, 2], -1)[1], (f(2, 7),)),
    "chunk": (lambda x: x.chunk(3, 1)[2], (f(2, 7),)),
    "unbind": (lambda x: x.unbind(1)[2], (f(2, 3, 4),)),
    "cat types": (lambda x, y: torch.cat([x, y], -1), (f(2, 3), i(5, 2, 2))),
    "cat empty": (lambda x: torch.cat([torch.zeros(0), x]), (f(3),)),
    "stack": (lambda x, y: torch.stack([x, y], -1), (f(2, 3), f(2, 3))),
    "repeat": (lambda x: x.repeat(2, 1, 3), (f(3, 2),)),
    "repeat interleave": (lambda x: x.repeat_interleave(3, dim=1), (f(2, 3),)),
    "repeat interleave flat": (lambda x: x.repeat_interleave(2), (f(2, 3),)),
    "roll": (lambda x: x.roll((1, -2), (0, 1)), (f(3, 5),)),
    "roll flat": (lambda x: x.roll(4), (f(3, 5),)),
    "flip": (lambda x: x.flip(0, -1), (f(3, 5),)),
    "masked scatter": (lambda x, m, y: x.masked_scatter(m, y), (f(2, 4, 8), b(2, 4, 1), f(64))),
    "masked scatter of more places": (lambda x, m, y: x.masked_scatter(m, y), (f(2, 1, 8), b(2, 4, 8), f(2, 32))),
    "volume patches": (
        lambda x, w, c: F.conv3d(x, w, c, stride=(2, 3, 4)), (f(2, 3, 5, 9, 10), f(4, 3, 2, 3, 4), f(4)),
    ),
    "pad of truth values": (lambda x: F.pad(x, (1, 2), value=True), (b(3, 5),)),
    "real of real": (lambda x: torch.real(x) + 1, (f(3, 5),)),
    "zeros of 16 bits": (
        lambda x: torch.cat([x.bfloat16(), torch.zeros_like(x, dtype=torch.bfloat16)]).float(), (f(3, 5),)
    ),
    "pad": (lambda x: F.pad(x, (1, 2, -1, 0), value=3.0), (f(3, 5),)),
    "tril triu": (lambda x: x.tril(1) - x.triu(-1), (f(4, 5),)),
    "diff": (lambda x: torch.diff(x, n=2, dim=1, prepend=x[:, :1]), (f(3, 5),)),
    "in place slices": (lambda x: _write(x), (f(4, 5),)),
    "step scatter": (lambda x, y: torch.slice_scatter(x, y, 1, 1, 5, 2), (f(3, 6), f(3, 2))),
    "select scatter": (lambda x, y: torch.select_scatter(x, y, 0, -1), (f(3, 6), f(6))),
    # made from nothing
    "creation": (
        lambda x: torch.full((2, 3), 1.5) + torch.zeros_like(x) + x.new_ones(3) + torch.arange(0, 6, 2) + x,
        (f(2, 3),),
    ),
    "arange float": (lambda x: torch.arange(3, dtype=torch.float32) * x, (f(3),)),
    "linspace": (lambda x: torch.linspace(0, 1, 3) * x, (f(3),)),
    "one hot": (lambda x: F.one_hot(x, 5) * 2, (i(5, 4),)),
    "eye": (lambda x: torch.eye(3) @ x, (f(3, 2),)),
    # matrix products
    "matmul ranks": (lambda x, y: x @ y, (f(2, 1, 3, 4), f(5, 4, 2))),
    "matmul vector": (lambda x, y: x @ y, (f(3, 4), f(4))),
    "vector matmul": (lambda x, y: x @ y, (f(4), f(2, 4, 3))),
    "bmm": (torch.bmm, (f(2, 3, 4), f(2, 4, 5))),
    "baddbmm": (lambda a, x, y: torch.baddbmm(a, x, y, beta=0.5, alpha=2), (f(3, 5), f(2, 3, 4), f(2, 4, 5))),
    "addmm": (lambda a, x, y: torch.addmm(a, x, y), (f(5), f(3, 4), f(4, 5))),
    "addmm scaled": (lambda a, x, y: torch.addmm(a, x, y, beta=2, alpha=0.5), (f(3, 5), f(3, 4), f(4, 5))),
    "einsum": (lambda x, y: torch.einsum("bhid,bhjd->bhij", x, y), (f(2, 3, 4, 5), f(2, 3, 6, 5))),
    "linear": (lambda x, w, a: F.linear(x, w, a), (f(2, 3, 4), f(5, 4), f(5))),
    "conv1d": (lambda x, w, a: F.conv1d(x, w, a, stride=2, padding=1), (f(2, 4, 9), f(6, 4, 3), f(6))),
    "conv1d depthwise": (lambda x, w: F.conv1d(x, w, padding=2, groups=4)[..., :9], (f(1, 4, 9), f(4, 1, 3))),
    "conv2d": (
        lambda x, w: F.conv2d(x, w, stride=(2, 1), padding="valid", dilation=(1, 2)),
        (f(1, 3, 8, 8), f(4, 3, 2, 3)),
    ),
    "conv2d same": (lambda x, w: F.conv2d(x, w, padding="same"), (f(1, 3, 6, 6), f(4, 3, 3, 3))),
    "conv unbatched": (lambda x, w: F.conv1d(x, w), (f(4, 9), f(6, 4, 3))),
    # attention, norms
    "sdpa": (F.scaled_dot_product_attention, (f(2, 3, 4, 8), f(2, 3, 6, 8), f(2, 3, 6, 8))),
    "sdpa causal rectangle": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        (f(2, 3, 4, 8), f(2, 3, 6, 8), f(2, 3, 6, 5)),
    ),
    "sdpa rank 3": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
        (f(3, 4, 8), f(3, 6, 8), f(3, 6, 8), f(4, 6)),
    ),
    "sdpa gqa": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        (f(2, 6, 4, 8), f(2, 2, 4, 8), f(2, 2, 4, 8)),
    ),
    "softmax": (lambda x: x.softmax(1) + torch.log_softmax(x, -1), (f(2, 3, 4),)),
    "softmax dtype": (lambda x: F.softmax(x, -1, dtype=torch.float32), (f(2, 3).half(),)),
    "layer norm two axes": (
        lambda x, w, a: F.layer_norm(x, (3, 4), w, a, 1e-3),
        (f(2, 3, 4), f(3, 4), f(3, 4)),
    ),
    "rms norm": (lambda x, w: F.rms_norm(x, (4,), w), (f(2, 3, 4), f(4))),
    "group norm": (lambda x, w, a: F.group_norm(x, 2, w, a), (f(2, 4, 5), f(4), f(4))),
    # reductions
    "reductions": (
        lambda x: x.mean(1, keepdim=True) + x.sum((0, 1)) + x.amax(2, keepdim=True) - x.amin((1, 2), keepdim=True),
        (f(2, 3, 4),),
    ),
    "full reductions": (lambda x: x.sum() + x.mean() + x.max() - x.min(), (f(2, 3),)),
    "sum of ints": (lambda x: x.to(torch.int32).sum(), (i(9, 3),)),
    "sum of bools": (lambda x: x.sum(-1), (b(3, 4),)),
    "any all": (lambda x: x.any(1) ^ x.all(1) ^ x.any(), (b(3, 4),)),
    "prod": (lambda x: x.prod(1), (f(3, 4),)),
    "max dim": (lambda x: x.max(1), (f(3, 4),)),
    "argmax": (lambda x: (x.argmax(), x.argmax(1, keepdim=True)), (f(3, 4),)),
    "var std": (lambda x: x.var(1) + x.std(1, unbiased=False), (f(3, 4),)),
    "cumsum": (lambda x, y: x.cumsum(1) + y.cumsum(0), (f(3, 4), b(3, 4))),
    "topk": (lambda x: x.topk(2), (f(3, 7),)),
    "norm": (lambda x: x / x.norm(dim=-1, keepdim=True), (f(3, 4),)),
    "normalize": (lambda x: F.normalize(x, dim=1), (f(3, 4),)),
    # indexing
    "embedding": (lambda w, x: F.embedding(x, w), (f(7, 3), i(7, 2, 4))),
    "index": (lambda x, j: x[j], (f(5, 3), i(5, 4, low=-5))),
    "index two": (lambda x, j, k: x[:, j, k], (f(2, 5, 3), i(5, 4), i(3, 2, 1))),
    "index apart": (lambda x, j, k: x[j, :, k], (f(2, 5, 3), i(2, 4), i(3, 4))),
    "index select": (lambda x, j: x.index_select(1, j), (f(2, 5, 3), i(5, 4))),
    "gather": (lambda x, j: x.gather(1, j), (f(3, 5), i(5, 3, 2))),
    "index put": (lambda x, j, v: torch.index_put(x, (j,), v), (f(5, 3), torch.tensor([1, 4]), f(2, 3))),
    "index put accumulate": (
        lambda x, j, v: torch.index_put(x, (j,), v, accumulate=True),
        (f(5, 3), torch.tensor([1, 4, 1]), f(3, 3)),
    ),
    "index put middle": (
        lambda x, j, v: _put_middle(x, j, v),
        (f(2, 5, 3), torch.tensor([1, 4]), f(2, 2, 3)),
    ),
    "masked assign": (lambda x, m: _assign(x, m), (f(3, 4), b(3, 4))),
    "index copy": (lambda x, j, v: x.index_copy(1, j, v), (f(2, 5), torch.tensor([3, 0]), f(2, 2))),
}  # fmt: skip


def _write(x: Tensor) -> Tensor:
    y = x.clone()
    y[1:3, ::2] = 7.0
    y[0] += 1
    return y


def _put_middle(x: Tensor, j: Tensor, v: Tensor) -> Tensor:
    y = x.clone()
    y[:, j] = v
    return y


def _assign(x: Tensor, m: Tensor) -> Tensor:
    y = x.clone()
    y[m] = 2.5
    return y


class Function(nn.Module):
    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def flat(result: object) -> list[Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(result) if isinstance(x, Tensor)]


@pytest.mark.parametrize("name", CASES)
def test_operator(name):
    function, inputs = CASES[name]
    captured = capture(Function(function).eval(), inputs, mode="full")
    lowered = lower(captured.graph)
    verify(lowered.program)
    tensors = {key: as_numpy(t) if isinstance(t, Tensor) else t for key, t in lowered.tensors.items()}
    interpreter = Interpreter(lowered.program, tensors.__getitem__)
    other = tuple(x[..., torch.arange(x.shape[-1]).flip(0)] if x.ndim else x for x in inputs)
    for given in (inputs, other):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want = flat(function(*given))
        got = interpreter.run([np.ascontiguousarray(x.numpy()) if x.ndim else x.numpy() for x in given])
        assert len(got) == len(want)
        for ours, theirs in zip(got, want, strict=True):
            assert ours.dtype == theirs.numpy().dtype and ours.shape == tuple(theirs.shape)
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-5, atol=2e-6)


THROUGH_TORCH = {
    "a call of one result": (lambda x: torch.cumprod(x, 0) + 1, (f(3, 4),), "aten.cumprod.default"),
    "several results": (lambda x: [y * 2 for y in torch.sort(x, -1)], (f(3, 4),), "aten.sort.default"),
    "a list of one tensor": (lambda x: torch.unsafe_chunk(x, 1)[0] + 1, (f(3, 4),), "aten.unsafe_chunk.default"),
    "16 bits": (lambda x: torch.cumprod(x.bfloat16(), 0).float(), (f(3, 4),), "aten.cumprod.default"),
    "a keyword": (lambda x: torch.logcumsumexp(x, dim=1), (f(3, 4),), "aten.logcumsumexp.default"),
    "integers": (lambda x: x & 3, (i(9, 4),), "aten.__and__.Scalar"),
    "a form that ours lacks": (lambda x: x.topk(2, largest=False)[0], (f(4),), "aten.topk.default"),
    "after what was lowered in part": (
        lambda x: (x * 2).topk(2, largest=False)[0], (f(3, 5),), "aten.topk.default",
    ),
    "a strided operand": (lambda x: torch.cumprod(x.transpose(0, 1), 0), (f(3, 4),), "aten.cumprod.default"),
    "a constant operand": (
        lambda x: F.conv3d(x, torch.ones(4, 2, 3, 1, 2)), (f(1, 2, 6, 3, 4),), "aten.convolution.default",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", THROUGH_TORCH)
def test_pure_operators_without_a_lowering_stay_pytorchs(form):
    function, inputs, name = THROUGH_TORCH[form]
    model = Function(function).eval()
    exe = forgec.compile(model, inputs)
    assert name in {instr.attrs.get("target") for instr in exe.program.main.body}
    assert {(f.op, f.code) for f in exe.report.placement.fallbacks} == {("aten", "aten")}
    assert [
        words for words in exe.report.warnings if "only where PyTorch is installed" in words and name in words
    ]
    assert "test_operators.py" in exe.report.placement.fallbacks[0].source
    redrawn = [x.flip(-1) for x in inputs]
    for ours, theirs in zip(
        pytree.tree_leaves(exe(*redrawn)), pytree.tree_leaves(model(*redrawn)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-6)
    with pytest.raises(UnsupportedOpError, match=r"PyTorch computes aten\."):
        forgec.compile(model, inputs, strict=True)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x + torch.rand(3, 5), r"aten\.rand"),
        (lambda x: x.sigmoid().multinomial(2), r"aten\.multinomial"),
    ],
)
def test_operators_that_draw_numbers_are_refused(function, message):
    with pytest.raises(UnsupportedOpError, match=message) as caught:
        lower(capture(Function(function).eval(), (f(3, 5),), mode="full").graph)
    assert "test_operators.py" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aten.nonsense.default", "has no operator"),
        ("aten.add_.Tensor", "more than compute"),
        ("aten.from_file.default", "more than compute"),
        ("prims.add.default", "has no operator"),
    ],
)
def test_files_name_only_pure_operators(name, message):
    with pytest.raises(UnsupportedOpError, match=message):
        aten.operator(name)


def test_a_file_with_such_an_operator_asks_for_torch(tmp_path, monkeypatch):
    function, inputs, name = THROUGH_TORCH["a call of one result"]
    path = tmp_path / "a.forge"
    forgec.compile(Function(function).eval(), inputs).save(path)
    with forgec.load(path) as exe:
        np.testing.assert_allclose(exe(*inputs), function(*inputs).numpy(), rtol=1e-6)
    monkeypatch.setattr("forgec.ir.ops.aten.missing_torch", lambda: "PyTorch is not installed")
    with forgec.load(path) as exe, pytest.raises(TargetError, match=f"{name} .*PyTorch is not installed"):
        exe(*inputs)


def test_results_of_other_types_than_the_file_says_are_refused():
    attrs = {"target": "aten.cumprod.default", "arguments": '{"args": [{"tensor": 0}, 0], "kwargs": {}}'}
    with pytest.raises(UnsupportedOpError, match=r"gives f32\[3\] and not f32\[4\]"):
        get("aten").evaluate([np.ones(3, np.float32)], {**attrs, "types": "f32[4]"})
