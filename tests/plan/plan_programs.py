"""Flat programs shaped like real transformers, for the planner's tests."""

from __future__ import annotations

import random

from forgec.ir import ops  # noqa: F401  (registers the records)
from forgec.ir.op import get
from forgec.ir.program import (
    Constant,
    ConstRef,
    Function,
    Instr,
    Leaf,
    Literal,
    Operand,
    Program,
    Register,
    StateRef,
)
from forgec.ir.types import DType, TensorType

__all__ = ["Builder", "bert", "f32", "gpt2", "llama", "random_program", "whisper_encoder"]


def f32(*shape: int) -> TensorType:
    return TensorType(DType.F32, shape)


class Builder:
    """Writes a flat program one instruction at a time; result types follow from the op records."""

    def __init__(self) -> None:
        self.count = 0
        self.params: list[Register] = []
        self.body: list[Instr] = []
        self.constants: dict[str, Constant] = {}
        self.states: dict[str, TensorType] = {}

    def _fresh(self, t: TensorType) -> Register:
        self.count += 1
        return Register(self.count - 1, t)

    def param(self, *shape: int, dtype: DType = DType.F32) -> Register:
        self.params.append(self._fresh(TensorType(dtype, shape)))
        return self.params[-1]

    def const(self, *shape: int, dtype: DType = DType.F32) -> ConstRef:
        name, t = f"c{len(self.constants)}", TensorType(dtype, shape)
        self.constants[name] = Constant(name, t, Leaf(f"weight.{name}", t))
        return ConstRef(name, t)

    def state(self, *shape: int) -> StateRef:
        name = f"s{len(self.states)}"
        self.states[name] = f32(*shape)
        return StateRef(name, f32(*shape))

    def all(self, op: str, *operands: Operand, **attrs: object) -> tuple[Register, ...]:
        types = [None if x is None or isinstance(x, Literal) else x.type for x in operands]
        results = tuple(self._fresh(t) for t in get(op).result_types(types, attrs))
        self.body.append(Instr(op, operands, results, dict(attrs)))  # type: ignore[arg-type]
        return results

    def __call__(self, op: str, *operands: Operand, **attrs: object) -> Register:
        return self.all(op, *operands, **attrs)[0]

    def program(self, *results: Register) -> Program:
        names = tuple(f"in{i}" for i in range(len(self.params)))
        outs = tuple(f"out{i}" for i in range(len(results)))
        main = Function("main", tuple(self.params), names, self.body, results, outs)
        return Program("main", {"main": main}, self.constants, self.states)

    def linear(self, x: Register, size: int, residual: Register | None = None, **attrs: object) -> Register:
        weight, bias = self.const(size, x.type.shape[-1]), self.const(size)
        return self("linear", x, weight, bias, residual, **attrs)

    def norm(self, x: Register, kind: str = "layer_norm") -> Register:
        n = x.type.shape[-1]
        scales = [self.const(n) for _ in range(2 if kind == "layer_norm" else 1)]
        return self(kind, x, *scales)

    def heads(self, x: Register, count: int) -> Register:
        """[batch, rows, count * size] as [batch, count, rows, size], a view."""
        batch, rows, width = x.type.shape
        split = self("reshape", x, shape=(batch, rows, count, width // count))
        return self("transpose", split, perm=(0, 2, 1, 3))


def gpt2(
    layers: int = 12, rows: int = 128, width: int = 768, heads: int = 12, vocabulary: int = 50257,
    cache: bool = False,
) -> Program:  # fmt: skip
    """Pre-norm decoder with one fused q/k/v product; with ``cache`` keys and values are results too."""
    b = Builder()
    ids = b.param(1, rows, dtype=DType.I64)
    extra: list[Register] = []
    x = b("embedding", b.const(vocabulary, width), ids)
    x = b("add", x, b.const(1, rows, width))
    for _ in range(layers):
        qkv = b.linear(b.norm(x), 3 * width)
        parts = [b("slice", qkv, axis=2, start=i * width, stop=(i + 1) * width, step=1) for i in range(3)]
        q, k, v = (b.heads(part, heads) for part in parts)
        if cache:
            k, v = b("copy", k), b("copy", v)
            extra += [k, v]
        y = b("attention", q, k, v, None, scale=0.125, causal=True, seq_major=True)
        x = b.linear(b("reshape", y, shape=(1, rows, width)), width, residual=x)
        x = b.linear(b.linear(b.norm(x), 4 * width, act="gelu_tanh"), width, residual=x)
    return b.program(b("linear", b.norm(x), b.const(vocabulary, width), None, None), *extra)


def llama(
    layers: int = 16, rows: int = 128, width: int = 2048, heads: int = 32, kv: int = 8, hidden: int = 8192,
    vocabulary: int = 128256, cache: bool = False,
) -> Program:  # fmt: skip
    """Pre-norm decoder with grouped queries, rotary embedding computed in the program, gated unit."""
    b = Builder()
    ids = b.param(1, rows, dtype=DType.I64)
    mask = b.param(1, rows, dtype=DType.I64)
    size = width // heads
    extra: list[Register] = []
    allowed = b("ne", b("reshape", mask, shape=(1, 1, 1, rows)), Literal(0))
    allowed = b("and", allowed, b.const(1, 1, rows, rows, dtype=DType.BOOL))
    angle = b("mul", b.const(1, rows, size), Literal(1.0))
    cos, sin = b("cos", angle), b("sin", angle)
    cos, sin = (b("reshape", c, shape=(1, 1, rows, size)) for c in (cos, sin))
    x = b("embedding", b.const(vocabulary, width), ids)
    total = None
    for _ in range(layers):
        normed = b.norm(x, "rms_norm")
        q = b("rope", b.heads(b.linear(normed, width), heads), cos, sin)
        k = b("rope", b.heads(b.linear(normed, kv * size), kv), cos, sin)
        v = b.heads(b.linear(normed, kv * size), kv)
        if cache:
            extra += [k, v]
        y = b("attention", q, k, v, allowed, scale=0.125, causal=False, seq_major=True)
        y = b.linear(b("reshape", y, shape=(1, rows, width)), width)
        total, normed = b.all("add_rms_norm", y, x, b.const(width))
        gated = b("gated", b.linear(normed, hidden), b.linear(normed, hidden), act="silu")
        x = b.linear(gated, width, residual=total)
    last = b.norm(x, "rms_norm")
    return b.program(b("linear", last, b.const(vocabulary, width), None, None), *extra)


def bert(layers: int = 12, rows: int = 128, width: int = 768, heads: int = 12) -> Program:
    """Post-norm encoder: three embeddings, unfused activation, additive mask, pooled result too."""
    b = Builder()
    ids, kinds, mask = (b.param(1, rows, dtype=DType.I64) for _ in range(3))
    x = b("add", b("embedding", b.const(30522, width), ids), b("embedding", b.const(2, width), kinds))
    x = b.norm(b("add", x, b.const(1, rows, width)))
    bias = b("cast", b("reshape", mask, shape=(1, 1, 1, rows)), dtype="f32")
    bias = b("mul", b("sub", Literal(1.0), bias), Literal(-1e9))
    bias = b("expand", bias, shape=(1, heads, rows, rows))
    for _ in range(layers):
        q, k, v = (b.heads(b.linear(x, width), heads) for _ in range(3))
        y = b("attention", q, k, v, bias, scale=0.125)
        y = b("copy", b("transpose", y, perm=(0, 2, 1, 3)))
        y = b.linear(b("reshape", y, shape=(1, rows, width)), width)
        _, x = b.all("add_layer_norm", y, x, b.const(width), b.const(width))
        y = b.linear(b("gelu", b.linear(x, 4 * width)), width)
        x = b.norm(b("add", y, x))
    first = b("reshape", b("slice", x, axis=1, start=0, stop=1, step=1), shape=(1, width))
    return b.program(x, b("tanh", b.linear(first, width)))


def whisper_encoder(layers: int = 4, width: int = 384, heads: int = 6) -> Program:
    """Convolutions over 3000 frames, then attention without fusion: scores, softmax and product apart."""
    b = Builder()
    x = b.param(1, 80, 3000)
    for stride in (1, 2):
        weight, bias = b.const(width, x.type.shape[1], 3), b.const(width)
        x = b("gelu", b("conv", x, weight, bias, stride=(stride,), padding=(1,), dilation=(1,)))
    x = b("add", b("copy", b("transpose", x, perm=(0, 2, 1))), b.const(1500, width))
    for _ in range(layers):
        normed = b.norm(x)
        q, k, v = (b.heads(b.linear(normed, width), heads) for _ in range(3))
        scores = b("matmul", b("mul", q, Literal(0.125)), b("transpose", k, perm=(0, 1, 3, 2)))
        y = b("matmul", b("softmax", scores, axis=-1), v)
        y = b("copy", b("transpose", y, perm=(0, 2, 1, 3)))
        x = b.linear(b("reshape", y, shape=(1, 1500, width)), width, residual=x)
        x = b.linear(b("gelu", b.linear(b.norm(x), 4 * width)), width, residual=x)
    return b.program(b.norm(x))


def random_program(rng: random.Random, length: int = 20, states: bool = True) -> Program:
    """A legal program of about ``length`` instructions that mixes everything the planner treats apart.

    Views of views, of inputs, of constants and of states; in-place candidates with one and two operands, with
    residuals and with two results; results that are inputs, views or given twice; registers of no bytes;
    unused inputs and results; states read and written.
    """
    b = Builder()
    pool = [b.param(*rng.choice([(2, 8), (4, 8), (8, 8)])) for _ in range(rng.randint(1, 3))]
    memory = [b.state(4, 8) for _ in range(rng.randint(0, 2) if states else 0)]
    while len(b.body) < length:
        pool.extend(_random_step(b, rng, rng.choice(pool[-8:]), pool, memory))
    results = [rng.choice(pool[-6:]) for _ in range(rng.randint(1, 3))]
    return b.program(*results)


def _random_step(
    b: Builder, rng: random.Random, x: Register, pool: list[Register], memory: list[StateRef]
) -> tuple[Register, ...]:
    shape = x.type.shape
    alike = [y for y in pool if y.type == x.type]
    kind = rng.choice(
        ["unary", "unary", "binary", "binary", "view", "view", "linear", "norm", "odd", "state"]
    )
    if kind == "unary":
        return b.all(rng.choice(["relu", "tanh", "neg", "softmax", "copy"]), x)
    if kind == "binary":
        others: list[Operand] = [*alike, *alike, Literal(0.5), b.const(*shape)]
        other = rng.choice(others)
        op = rng.choice(["add", "mul", "gated"]) if isinstance(other, Register) else "add"
        return b.all(op, x, other)
    if kind == "view":
        bases: list[Register | ConstRef | StateRef] = [x, x, x, b.const(4, 8), *memory]
        return _random_view(b, rng, rng.choice(bases))
    if kind == "linear" and len(shape) >= 1 and 0 not in shape:
        size = rng.choice([shape[-1], 8])
        same = [y for y in alike if size == shape[-1]]
        return b.all("linear", x, b.const(size, shape[-1]), None, rng.choice([None, *same]))
    if kind == "norm" and len(shape) >= 1 and 0 not in shape:
        return b.all("add_rms_norm", x, rng.choice(alike), None)
    if kind == "state" and memory:
        state = rng.choice(memory)
        fits = [y for y in pool if y.type == state.type]
        if fits and rng.random() < 0.5:
            return b.all("write_state", state, rng.choice(fits))
        return b.all("read_state", state)
    if len(shape) >= 1 and shape[0] <= 8:
        return b.all("concat", x, rng.choice(alike), axis=0)
    return b.all("relu", x)


def _random_view(b: Builder, rng: random.Random, x: Register | ConstRef | StateRef) -> tuple[Register, ...]:
    shape = x.type.shape
    kind = rng.choice(["transpose", "slice", "reshape", "expand"])
    if kind == "transpose":
        return b.all("transpose", x, perm=tuple(rng.sample(range(len(shape)), len(shape))))
    if kind == "slice" and shape:
        axis = rng.randrange(len(shape))
        start = rng.randint(0, shape[axis])
        stop = rng.randint(start, shape[axis])
        return b.all("slice", x, axis=axis, start=start, stop=stop, step=rng.randint(1, 2))
    if kind == "expand" and len(shape) < 4:
        return b.all("expand", x, shape=(2, *shape))
    return b.all("reshape", x, shape=(1, *shape))
