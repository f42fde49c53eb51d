"""From IR instructions and arrays to calls of the extension module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from forgec.errors import InputError, TargetError
from forgec.ir import ops  # noqa: F401  (registers the records)
from forgec.ir.op import get, literal_array
from forgec.ir.program import ConstRef, Instr, Literal, Operand
from forgec.ir.types import DType, TensorType, contiguous_strides

from ...base import Packing, Span
from ...packing import stored_name
from . import compressed
from .machine import THREADS_VARIABLE, Team, extension, isa

__all__ = [
    "PANEL",
    "NativeStep",
    "bound_op",
    "pack",
    "packed_operands",
    "packing",
    "packings",
    "single_steps",
    "steps",
    "supports",
]

PANEL = 48
"""Columns of a packed weight panel."""

_AT_ONCE = 64 << 20
"""Bytes of weights that a program which runs a single time has at the same time, a larger one by itself."""

_LOOKUPS = ("embedding", "embedding_q")
"""Ops that can read their table, operand 0, in the layout of the products' kernels too."""

_HINTS = {"embedding": "check that the inputs were made with this model's own tokenizer"}

Memory = Callable[[Operand], Any]
Step = Callable[[], Any]


def packing(dtype: DType, isa: str) -> str:
    """Name of the layout (:mod:`backends.packing`) in which kernels want weights of an element type.

    All instruction sets of today share them, so that an artifact never has to be repacked.
    """
    return f"f32.panel{PANEL}" if dtype is DType.F32 else compressed.LAYOUTS[dtype]


_PACKED = {"linear": (1,), "linear_q": (1, 2), "expert_linear_q": (1, 3)}
"""Operands that are packed: the weight, and its scales behind it."""


def packed_operands(instr: Instr) -> dict[int, str]:
    """Layouts of the constant operands that :func:`pack` makes fast, by index.

    They are the weight and, where groups of it have scales of their own, these.
    """
    found: dict[int, str] = {}
    for i in _PACKED.get(instr.op, ()):
        x = instr.operands[i]
        if not isinstance(x, ConstRef):
            continue
        if i > 1:
            if x.type.shape[0] > 1:
                found[i] = compressed.SCALES
        elif instr.op != "linear" or x.type.dtype is DType.F32:
            found[i] = packing(x.type.dtype, isa())
    return found


def pack(instr: Instr, operand: int, constant: np.ndarray) -> np.ndarray:
    """A constant operand of an instruction in the layout that :func:`packed_operands` names."""
    if operand > 1:
        return compressed.pack_scales(constant)
    if instr.op != "linear":
        return compressed.pack(constant)
    return np.asarray(extension().pack(constant, isa()))


def packings(body: Iterable[Instr]) -> dict[str, Packing]:
    """How each constant that some product wants packed is to be stored.

    An embedding reads tables in that layout too (see :func:`steps`).
    """
    found: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {}
    plain: set[str] = set()
    for instr in body:
        layouts = packed_operands(instr)
        either = 0 if instr.op in _LOOKUPS else None
        for i, x in enumerate(instr.operands):
            if isinstance(x, ConstRef) and i in layouts:
                found[x.name] = layouts[i], partial(pack, instr, i)
            elif isinstance(x, ConstRef) and i != either:
                plain.add(x.name)
    return {name: Packing(layout, to, name not in plain) for name, (layout, to) in found.items()}


def supports(instr: Instr) -> str | None:
    """None if there is a native kernel for the instruction, else one sentence that says why not.

    Depends on op, types and attributes only.
    """
    trial = extension().Program(Team(1).native, isa())
    outputs = [_placeholder(r.type) for r in instr.results]
    inputs = [
        x.value if isinstance(x, Literal) else None if x is None else _placeholder(x.type)
        for x in instr.operands
    ]
    return bound_op(trial, instr, inputs, outputs, {})


def bound_op(
    program: Any,
    instr: Instr,
    inputs: Sequence[Any],
    outputs: Sequence[np.ndarray],
    packed: Mapping[int, np.ndarray],
) -> str | None:
    """Add an instruction to the extension's program; the reason if it has no kernel for it.

    ``inputs`` has an array, a Python scalar for a literal or None for every operand, at the addresses that
    every run will read; ``packed`` those of :func:`packed_operands` that are there in their layouts.
    """
    record = get(instr.op)
    if record.view:
        return f"{instr.op} is a view and needs no kernel"
    beside = next((x.dtype for x in reversed(inputs) if isinstance(x, np.ndarray)), None)
    if beside is None and outputs:
        beside = outputs[0].dtype
    literal = [not (x is None or isinstance(x, np.ndarray)) for x in inputs]
    arrays = [
        literal_array(x, DType.from_numpy(beside)) if is_literal and beside is not None else x
        for x, is_literal in zip(inputs, literal, strict=True)
    ]
    try:
        program.add(instr.op, arrays, list(outputs), {**record.attrs, **instr.attrs}, literal, dict(packed))
    except extension().Unsupported as error:
        return str(error)
    return None


class NativeStep:
    """A run of instructions that the extension does in one call."""

    def __init__(self, team: Team) -> None:
        self.instrs: list[Instr] = []
        self._program = extension().Program(team.native, isa())

    def add(
        self,
        instr: Instr,
        inputs: Sequence[Any],
        outputs: Sequence[np.ndarray],
        packed: Mapping[int, np.ndarray],
    ) -> str | None:
        """Append an instruction; the reason if there is no kernel for it, and nothing is added."""
        reason = bound_op(self._program, instr, inputs, outputs, packed)
        if reason is None:
            self.instrs.append(instr)
        return reason

    def moved(self, old: Sequence[np.ndarray], new: Sequence[np.ndarray]) -> NativeStep:
        """The same step with what lies in each of the arrays ``old`` in that of ``new`` instead.

        Both have one working memory: only one of them runs at a time.
        """
        other = NativeStep.__new__(NativeStep)
        other.instrs, other._program = self.instrs, self._program.moved(list(old), list(new))
        return other

    @property
    def scratch_bytes(self) -> int:
        """Working memory of the kernels, beside the arena."""
        return int(self._program.scratch_bytes)

    def finish(self) -> None:
        """Bind everything now and not at the first call."""
        self._program.finish()

    def __call__(self) -> None:
        """Run. :class:`InputError` if an index is out of range, :class:`TargetError` without threads."""
        try:
            failure = self._program.run()
        except OSError as error:
            raise TargetError(
                f"the threads of a run cannot be started: {error}",
                hint=f"give fewer with threads= or {THREADS_VARIABLE}",
            ) from None
        if failure is not None:
            number, value, limit = failure
            instr = self.instrs[number]
            what = f"{instr.op}: index {value} is outside an axis of {limit}"
            raise InputError(what, str(instr.source) if instr.source else None, _HINTS.get(instr.op))

    def trace(self) -> list[Span]:
        """Run once; what every thread did when, in execution order.

        Point-wise instructions that run together, tile by tile, have one span, under the first of them.
        """
        numbers, times = self._program.trace()
        return [
            Span(self.instrs[number], thread, begin, end, waited)
            for number, threads in zip(numbers, times.tolist(), strict=True)
            for thread, (begin, end, waited) in enumerate(threads)
            if end
        ]


def steps(
    body: Sequence[Instr],
    memory: Memory,
    fallback: Callable[[Instr], Step],
    team: Team,
    packed: MutableMapping[str, np.ndarray] | None = None,
) -> list[Step]:
    """Steps that run ``body``, views left out: native ones, with ``fallback(instr)`` in between where needed.

    ``memory`` gives the array of an operand or register; if it has ``once``, that gives a weight to pack
    without keeping it, and if it has ``at_hand``, that says whether a table need not be computed to be read
    row by row. ``packed`` maps stored names of constants to their packed form; what is missing is
    packed now and added, so programs that share the mapping share the weights.
    """
    weights: MutableMapping[str, np.ndarray] = {} if packed is None else packed
    _pack_all(body, memory, weights, team.threads)
    return _bound(body, memory, fallback, team, weights)


def single_steps(
    body: Sequence[Instr], memory: Memory, fallback: Callable[[Instr], Step], team: Team
) -> list[Step]:
    """Steps that run ``body`` one time, to the bit as :func:`steps` do, and keep no weight.

    Each has its weights, up to ``_AT_ONCE`` bytes of them, from when it starts until it ends; those of
    matrix products are packed a slice at a time while they are used.
    """
    return [
        partial(_run_part, body[begin:end], memory, fallback, team)
        for begin, end in _parts([_constant_bytes(instr) for instr in body])
    ]


def _run_part(part: Sequence[Instr], memory: Memory, fallback: Callable[[Instr], Step], team: Team) -> None:
    weights: dict[str, np.ndarray] = {}
    _pack_all([instr for instr in part if instr.op != "linear"], memory, weights, team.threads)
    for step in _bound(part, memory, fallback, team, weights):
        step()


def _parts(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Successive ranges whose sizes add up to ``_AT_ONCE`` at most, or that have one item."""
    borders, total = [0], 0
    for i, size in enumerate(sizes):
        if total + size > _AT_ONCE and i > borders[-1]:
            borders.append(i)
            total = 0
        total += size
    return list(zip(borders, [*borders[1:], len(sizes)], strict=True)) if sizes else []


def _constant_bytes(instr: Instr) -> int:
    return sum(x.type.nbytes for x in instr.operands if isinstance(x, ConstRef))


def _bound(
    body: Sequence[Instr],
    memory: Memory,
    fallback: Callable[[Instr], Step],
    team: Team,
    weights: Mapping[str, np.ndarray],
) -> list[Step]:
    """The steps of ``body``; a weight that is not among the packed ones is read as it lies in memory."""
    at_hand = getattr(memory, "at_hand", lambda _: False)
    result: list[Step] = []
    current: NativeStep | None = None
    for instr in body:
        if get(instr.op).view:
            continue
        layouts = packed_operands(instr)
        table = instr.operands[0] if instr.op in _LOOKUPS else None
        if isinstance(table, ConstRef) and not at_hand(table):
            layouts = _layouts_of(table)
        names = {i: _packed_name(instr, i, layout) for i, layout in layouts.items()}
        packed = {i: weights[name] for i, name in names.items() if name in weights}
        inputs = [_placeholder(x.type) if i in packed else memory(x) for i, x in enumerate(instr.operands)]  # type: ignore[union-attr]
        outputs = [memory(r) for r in instr.results]
        if current is None:
            current = NativeStep(team)
        if current.add(instr, inputs, outputs, packed) is None:
            continue
        if current.instrs:
            result.append(current)
            current = None
        result.append(fallback(instr))
    if current is not None and current.instrs:
        result.append(current)
    for step in result:
        if isinstance(step, NativeStep):
            step.finish()
    return result


def _layouts_of(table: ConstRef) -> dict[int, str]:
    """The layout in which a look-up may find its table, if a product has packed it; the form is that of
    :func:`packed_operands`."""
    dtype = table.type.dtype
    return {0: packing(dtype, isa())} if dtype is DType.F32 or dtype in compressed.LAYOUTS else {}


def _pack_all(
    body: Sequence[Instr], memory: Memory, packed: MutableMapping[str, np.ndarray], threads: int
) -> None:
    """Pack the weights that are not packed yet, on several threads: nothing else is there to do meanwhile.

    Each thread holds one unpacked weight at a time. The largest come first, so that the threads end together.
    """
    missing: dict[str, tuple[Instr, int, ConstRef]] = {}
    for instr in body:
        for i, layout in packed_operands(instr).items():
            name, weight = _packed_name(instr, i, layout), instr.operands[i]
            if name not in packed:
                assert isinstance(weight, ConstRef)
                missing[name] = instr, i, weight
    if not missing:
        return
    once = getattr(memory, "once", memory)
    names = sorted(missing, key=lambda name: -missing[name][2].type.nbytes)

    def made_of(name: str) -> np.ndarray:
        instr, i, weight = missing[name]
        return pack(instr, i, once(weight))

    with ThreadPoolExecutor(threads) as pool:
        made = pool.map(made_of, names)
        packed.update(zip(names, made, strict=True))


def _packed_name(instr: Instr, operand: int, layout: str) -> str:
    """What a constant operand is called in a layout of its own."""
    constant = instr.operands[operand]
    assert isinstance(constant, ConstRef)
    return stored_name(constant.name, layout)


def _placeholder(t: TensorType) -> np.ndarray:
    """A contiguous array of the type in name only: it stands for memory that nobody reads or writes."""
    strides = tuple(s * t.dtype.itemsize for s in contiguous_strides(t.array_shape))
    return np.lib.stride_tricks.as_strided(np.zeros((), t.dtype.numpy), t.array_shape, strides)
