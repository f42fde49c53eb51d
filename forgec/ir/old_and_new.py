"""Attention over a cache as it was and the new rows behind it, for devices that keep no state.

*Before* ``write_rows sk, k, position``, ``rk = view_state sk``, the same of sv and v, and
``attention q, rk, rv, mask, length``.
*After* ``ok = view_state sk``, ``k2 = concat ok, k``, the same of v, ``m = cache_mask position, mask`` and
``attention q, k2, v2, m {bounded}``, with all ``write_rows`` at the end. Caches are only read then, and a
segment of a device may have them among its inputs; it gives the new rows, which the host writes. They are
kept in 16 bits, which is what such devices compute in: half the memory, and nothing to convert in each run.
*Does not fire when* something other than attention reads the cache, keys and values were written at different
positions, the rows written are not those of q, or ``length`` is not position + rows.

Linear. Masks with the same operands are one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .op import get
from .program import Instr, Literal, Operand, Program, Register, StateRef
from .types import DType, TensorType

__all__ = ["split_caches"]

_KEPT = DType.F16


@dataclass(frozen=True)
class _Cache:
    """A state with the one instruction that writes it and the register that shows it afterwards."""

    state: StateRef
    write: Instr
    view: Register

    @property
    def new(self) -> Register:
        new = self.write.operands[1]
        assert isinstance(new, Register)
        return new

    @property
    def position(self) -> Operand:
        return self.write.operands[2]


def split_caches(program: Program) -> Program:
    """A flat program whose caches are written in place; the program itself if it has none."""
    caches = _splittable(program)
    if not caches:
        return program
    main = program.main
    writes = {id(cache.write): cache for cache in caches.values()}
    count = iter(range(max(r.id for r in _registers(program)) + 1, 1 << 31))
    joined: dict[Register, Register] = {}
    masks: dict[object, Register] = {}
    body: list[Instr] = []
    last: list[Instr] = []

    def emit(like: Instr, op: str, *operands: Operand, **attrs: object) -> Register:
        types = [None if x is None or isinstance(x, Literal) else x.type for x in operands]
        (kind,) = get(op).result_types(types, attrs)
        result = Register(next(count), kind)
        body.append(Instr(op, operands, (result,), dict(attrs), like.source))  # type: ignore[arg-type]
        return result

    for instr in main.body:
        if id(instr) in writes:
            cache = writes[id(instr)]
            kept = StateRef(cache.state.name, TensorType(_KEPT, cache.state.type.shape))
            new = emit(instr, "cast", cache.new, dtype=_KEPT.value)
            last.append(replace(instr, operands=(kept, new, cache.position)))
        elif instr.op == "view_state" and instr.results[0] in caches:
            cache = caches[instr.results[0]]
            kept = StateRef(cache.state.name, TensorType(_KEPT, cache.state.type.shape))
            old = emit(instr, "cast", emit(instr, "view_state", kept), dtype=DType.F32.value)
            joined[cache.view] = emit(instr, "concat", old, cache.new, axis=2)
        elif instr.op == "attention" and instr.operands[1] in caches:
            q, k, v, mask, _ = get("attention").complete(instr.operands)
            cache = caches[k]
            attrs = {**get("attention").attrs, **instr.attrs}
            shape = {
                "rows": q.type.shape[2],
                "columns": k.type.shape[2],
                "causal": attrs["causal"],
                "window": attrs["window"],
            }
            key = (cache.position, mask, *shape.values())
            if key not in masks:
                masks[key] = emit(instr, "cache_mask", cache.position, mask, **shape)
            rest = {name: x for name, x in instr.attrs.items() if name not in ("causal", "window")}
            operands = (q, joined[k], joined[v], masks[key], None)
            body.append(replace(instr, operands=operands, attrs={**rest, "bounded": True}))
        else:
            body.append(instr)
    states = dict(program.states)
    for cache in caches.values():
        states[cache.state.name] = TensorType(_KEPT, cache.state.type.shape)
    functions = {program.entry: replace(main, body=[*body, *last])}
    return replace(program, functions=functions, states=states)


def _registers(program: Program) -> list[Register]:
    return [*program.main.params, *(r for instr in program.main.body for r in instr.results)]


def _splittable(program: Program) -> dict[Register, _Cache]:
    """The caches that this step changes, by the register that shows them."""
    main = program.main
    made = {r: instr for instr in main.body for r in instr.results}
    caches = _candidates(program)
    readers: dict[Register, list[Instr]] = {}
    for instr in main.body:
        for r in instr.registers():
            if r in caches:
                readers.setdefault(r, []).append(instr)
    while True:
        kept = {
            view: cache
            for view, cache in caches.items()
            if view not in main.results and all(_fits(i, caches, made) for i in readers.get(view, ()))
        }
        if len(kept) == len(caches):
            return kept
        caches = kept


def _candidates(program: Program) -> dict[Register, _Cache]:
    """The f32 states that are written by ``write_rows`` and then looked at, and not touched otherwise."""
    touching: dict[str, list[Instr]] = {}
    for instr in program.main.body:
        for x in instr.operands:
            if isinstance(x, StateRef):
                touching.setdefault(x.name, []).append(instr)
    found: dict[Register, _Cache] = {}
    for instrs in touching.values():
        if [instr.op for instr in instrs] == ["write_rows", "view_state"]:
            write, view = instrs
            state = write.operands[0]
            if isinstance(state, StateRef) and state.type.rank == 4 and state.type.dtype is DType.F32:
                found[view.results[0]] = _Cache(state, write, view.results[0])
    return found


def _fits(instr: Instr, caches: dict[Register, _Cache], made: dict[Register, Instr]) -> bool:
    """True for attention over two caches that were written at one position, with a query for each new row."""
    if instr.op != "attention":
        return False
    q, k, v, mask, length = get("attention").complete(instr.operands)
    if k not in caches or v not in caches or q in caches or mask in caches:
        return False
    keys, values, rows = caches[k], caches[v], q.type.shape[2]
    if keys.position != values.position or not keys.new.type.shape[2] == values.new.type.shape[2] == rows:
        return False
    if length is None:
        return not instr.attrs.get("causal") and not instr.attrs.get("window")
    end = made.get(length)
    return end is not None and end.op == "add" and set(end.operands) == {keys.position, Literal(rows)}
