"""Programs for the tests of the IR: a small builder, fixed examples, and random programs from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from forgec.ir import ops  # noqa: F401  (registers the records)
from forgec.ir.op import get
from forgec.ir.program import (
    Apply,
    AttrValue,
    Constant,
    ConstParam,
    ConstRef,
    Function,
    Instr,
    Leaf,
    Literal,
    Operand,
    Program,
    Recipe,
    Register,
    Source,
    StateRef,
    leaves,
)
from forgec.ir.types import DType, TensorType

STRANGE_NAMES = [
    "",
    "_",
    "wte.weight",
    'say "hi"',
    "back\\slash",
    "line\nbreak\r\t",
    "größe",
    "日本",
    "\u2028",
    "\ud800",
]


def t(*shape: int, dtype: DType = DType.F32) -> TensorType:
    return TensorType(dtype, shape)


def apply(op: str, *args: Recipe | Literal | None, **attrs: AttrValue) -> Apply:
    """A recipe whose type follows from the op record."""
    types = [arg.type if isinstance(arg, Leaf | Apply) else None for arg in args]
    (type_,) = get(op).result_types(types, attrs)
    return Apply(op, args, tuple(attrs.items()), type_)


class Builder:
    """Writes one function an instruction at a time; result types follow from the op records."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.params: list[Register] = []
        self.const_params: list[ConstParam] = []
        self.body: list[Instr] = []
        self.count = 0

    def fresh(self, type_: TensorType) -> Register:
        self.count += 1
        return Register(self.count - 1, type_)

    def param(self, type_: TensorType) -> Register:
        self.params.append(self.fresh(type_))
        return self.params[-1]

    def const_param(self, type_: TensorType) -> ConstParam:
        self.const_params.append(ConstParam(len(self.const_params), type_))
        return self.const_params[-1]

    def all(self, op: str, *operands: Operand, **attrs: AttrValue) -> tuple[Register, ...]:
        types = [None if x is None or isinstance(x, Literal) else x.type for x in operands]
        results = tuple(self.fresh(type_) for type_ in get(op).result_types(types, attrs))
        self.body.append(Instr(op, operands, results, attrs))
        return results

    def __call__(self, op: str, *operands: Operand, **attrs: AttrValue) -> Register:
        return self.all(op, *operands, **attrs)[0]

    def call(self, callee: Function, *operands: Operand) -> tuple[Register, ...]:
        results = tuple(self.fresh(r.type) for r in callee.results)
        self.body.append(Instr("call", operands, results, {"callee": callee.name}))
        return results

    def function(self, *results: Register, named: bool = False) -> Function:
        ins = tuple(f"in{i}" if named else "" for i in range(len(self.params)))
        outs = tuple(f"out{i}" if named else "" for i in range(len(results)))
        return Function(
            self.name, tuple(self.params), ins, self.body, results, outs, tuple(self.const_params)
        )


def const(name: str, type_: TensorType, leaf: str | None = None) -> Constant:
    return Constant(name, type_, Leaf(leaf or f"weight.{name}", type_))


def ref(constant: Constant) -> ConstRef:
    return ConstRef(constant.name, constant.type)


def program(
    entry: Function, *others: Function, constants: tuple[Constant, ...] = (), **states: TensorType
) -> Program:
    functions = {f.name: f for f in (entry, *others)}
    return Program(entry.name, functions, {c.name: c for c in constants}, states)


def nested_program() -> Program:
    """Calls two deep, constant parameters handed on, a parameter returned as it is, a shared constant."""
    shared = const("c0", t(4))
    weights = tuple(const(f"c{i}", t(4, 4)) for i in (1, 2, 3))
    inner = Builder("inner")
    x, w = inner.param(t(2, 4)), inner.const_param(t(4, 4))
    inner_f = inner.function(inner("add", inner("linear", x, w, None, None), ref(shared)), x)
    outer = Builder("outer")
    y, k0, k1 = outer.param(t(2, 4)), outer.const_param(t(4, 4)), outer.const_param(t(4, 4))
    a, same = outer.call(inner_f, y, k1)
    b, _ = outer.call(inner_f, outer("mul", a, same), k0)
    outer_f = outer.function(y, b)
    main = Builder("main")
    z = main.param(t(2, 4))
    unchanged, u = main.call(outer_f, z, ref(weights[0]), ref(weights[1]))
    _, v = main.call(outer_f, u, ref(weights[2]), ref(weights[0]))
    return program(main.function(v, unchanged, z, named=True), inner_f, outer_f, constants=(shared, *weights))


def state_program() -> Program:
    """A state that sums its inputs, read before and after the write."""
    main = Builder("main")
    x, s = main.param(t(2)), StateRef("s0", t(2))
    before = main("read_state", s)
    total = main("add", before, x)
    main.all("write_state", s, total)
    return program(main.function(main("read_state", s), before, named=True), s0=t(2))


def make_tensors(p: Program, seed: int = 0) -> Callable[[str], np.ndarray]:
    """Source tensors for a program, the same for a seed."""
    rng = np.random.default_rng(seed)
    table: dict[str, np.ndarray] = {}
    for constant in p.constants.values():
        for leaf in leaves(constant.recipe):
            if leaf.name not in table:
                table[leaf.name] = rng.uniform(-1, 1, leaf.type.shape).astype(leaf.type.dtype.numpy)
    return table.__getitem__


def make_inputs(p: Program, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, 3, r.type.shape).astype(r.type.dtype.numpy)
        if not r.type.dtype.is_float
        else rng.uniform(-2, 2, r.type.shape).astype(r.type.dtype.numpy)
        for r in p.main.params
    ]


HIDDEN = t(2, 3, 4)
"""Type of what random functions take and give."""


class _Random:
    """One random program; every function keeps a pool of registers to draw operands from."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.constants: dict[str, Constant] = {}
        self.states = {f"s{i}": t(2, 3) for i in range(self.rng.randrange(3))}
        self.functions: list[Function] = []

    def build(self) -> Program:
        for index in range(self.rng.randrange(4)):
            self.functions.append(self.function(f"f{index}", entry=False))
        main = self.function("main", entry=True)
        return Program("main", {f.name: f for f in (main, *self.functions)}, self.constants, self.states)

    def function(self, name: str, entry: bool) -> Function:
        rng, b = self.rng, Builder(name)
        pool = [b.param(HIDDEN) for _ in range(rng.randint(1, 2))]
        ids = b.param(t(2, dtype=DType.I64)) if entry else None
        if ids is not None:
            pool.append(b("embedding", self.constant(b, t(3, 4), entry), ids))
        for _ in range(rng.randint(1, 9)):
            pool += self.step(b, pool, entry)
        hidden = [r for r in pool if r.type == HIDDEN]
        results = [rng.choice(hidden) for _ in range(rng.randint(1, 2))]
        return b.function(*results, named=entry)

    def constant(self, b: Builder, type_: TensorType, entry: bool) -> Operand:
        if not entry and self.rng.random() < 0.7:
            return b.const_param(type_)
        return ref(self.new_constant(type_))

    def new_constant(self, type_: TensorType) -> Constant:
        rng = self.rng
        name = f"c{len(self.constants)}"
        leaf = f"{name}.{rng.choice(STRANGE_NAMES)}"
        recipe: Recipe = Leaf(leaf, type_)
        if rng.random() < 0.4:
            back = tuple(reversed(range(type_.rank)))
            flipped = TensorType(type_.dtype, tuple(reversed(type_.shape)))
            recipe = apply("transpose", apply("mul", Leaf(leaf, flipped), Literal(0.5)), perm=back)
        if rng.random() < 0.2 and type_.shape[0] > 1:
            parts = [1, type_.shape[0] - 1]
            pieces = [
                Leaf(f"{leaf}.{i}", TensorType(type_.dtype, (n, *type_.shape[1:])))
                for i, n in enumerate(parts)
            ]
            recipe = apply("concat", *pieces, axis=0)
        self.constants[name] = Constant(name, type_, recipe)
        return self.constants[name]

    def step(self, b: Builder, pool: list[Register], entry: bool) -> list[Register]:
        rng = self.rng
        x = rng.choice(pool)
        hidden = rng.choice([r for r in pool if r.type == HIDDEN])
        kind = rng.randrange(12)
        if kind == 0:
            return [b(rng.choice(["tanh", "neg", "sigmoid", "gelu", "relu"]), x)]
        if kind == 1:
            pair: list[Operand] = [x, Literal(rng.choice([0.125, -1.5, 1e-05, 3, True, float("inf")]))]
            rng.shuffle(pair)
            return [b(rng.choice(["add", "mul", "maximum"]), *pair)]
        if kind == 2:
            return [b("add", x, rng.choice([r for r in pool if r.type == x.type]))]
        if kind == 3 and x.type.rank:
            return [b("transpose", x, perm=tuple(rng.sample(range(x.type.rank), x.type.rank)))]
        if kind == 4 and x.type.rank:
            axis = rng.randrange(x.type.rank)
            start = rng.randint(0, x.type.shape[axis])
            stop = rng.randint(start, x.type.shape[axis])
            return [b("slice", x, axis=axis, start=start, stop=stop, step=rng.randint(1, 2))]
        if kind == 5 and x.type.rank < 6:
            return [b("expand", x, shape=(rng.randint(1, 2), *x.type.shape))]
        if kind == 6:
            return [b("reshape", b("copy", x), shape=(1, x.type.numel, 1))]
        if kind == 7:
            return [
                b("layer_norm", hidden, self.constant(b, t(4), entry), None, eps=1e-3),
                b("softmax", hidden),
            ]
        if kind == 8:
            return [b("linear", hidden, self.constant(b, t(4, 4), entry), None, hidden)]
        if kind == 9 and self.states:
            name = rng.choice(list(self.states))
            state = StateRef(name, self.states[name])
            value = b("read_state", state)
            b.all("write_state", state, b("add", value, Literal(1.0)))
            return [value]
        if kind == 10:
            return list(b.all("add_rms_norm", hidden, hidden, None))
        if kind == 11 and self.functions:
            callee = rng.choice(self.functions)
            arguments = [rng.choice([r for r in pool if r.type == HIDDEN]) for _ in callee.params]
            bound = [self.constant(b, k.type, entry) for k in callee.const_params]
            return list(b.call(callee, *arguments, *bound))
        return [b("cast", b("cast", x, dtype="f64"), dtype="f32")]


def random_program(seed: int) -> Program:
    """A valid program with nested calls, states, recipes, views, and several results."""
    return _Random(seed).build()


def planned(p: Program, seed: int) -> Program:
    """The program with random devices, offsets and sources, as a plan and a capture would leave it."""
    rng = random.Random(seed)

    def source() -> Source | None:
        texts = [*STRANGE_NAMES, "model.py", "layers.0.mlp", "a b, c:7", "/usr/lib/m-1.py", "<string>"]
        if rng.random() < 0.2:
            return None
        file, line = rng.choice([None, rng.choice(texts)]), rng.choice([None, rng.randrange(10**6)])
        return Source(rng.choice(["aten.linear", *texts]), file, line, rng.choice([None, rng.choice(texts)]))

    def change(instr: Instr) -> Instr:
        offsets = tuple(rng.choice([None, 64 * rng.randrange(1 << 20)]) for _ in instr.results)
        return Instr(
            instr.op,
            instr.operands,
            instr.results,
            instr.attrs,
            source(),
            rng.choice([None, "cpu", "npu", "qnn.v73"]),
            rng.choice([(), offsets]),
        )

    return p.map_instrs(change)
