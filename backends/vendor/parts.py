"""Segments taken apart into parts that repeat, so that a vendor's compiler sees each distinct part once.

Repeated runs of a segment (``ir.fold``) and what stands between them become *parts*: programs of their own
whose weights are no values but names, ``bound0``, ``bound1``, ... A *call* says which registers and which
constants of the segment a part is run on. Parts are equal wherever they come from, other segments included,
and do not depend on the values of weights, so that another checkpoint of the same architecture needs no
compile.

What all calls of a repeated run have in common stays a constant of the part, and elsewhere what is no weight:
integers that are no codes, and single numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from forgec.ir.fold import fold
from forgec.ir.printer import to_text
from forgec.ir.program import (
    Constant,
    ConstParam,
    ConstRef,
    Function,
    Instr,
    Leaf,
    Literal,
    Operand,
    Program,
    Register,
    Source,
)
from forgec.ir.types import DType

__all__ = ["Call", "Chain", "Division", "Part", "chain", "divide", "sources_of_copies", "takes_a_row"]

_LOOK_UPS = ("embedding", "embedding_q", "gather")
"""A table that is only looked up in stays a constant: as an input it would be copied at every call."""


@dataclass(frozen=True)
class Part:
    """A flat program, registers numbered from 0, sources their instruction's number. ``bound`` are the names
    of the constants that calls give."""

    program: Program
    bound: tuple[str, ...]

    @property
    def title(self) -> str:
        body = self.program.main.body
        return f"{len(body)} instructions, {body[0].op} to {body[-1].op}"

    @property
    def described(self) -> str:
        """The title, and the type of what the part is run on."""
        params = self.program.main.params
        return self.title + (f", on {params[0].type}" if params else "")


@dataclass(frozen=True)
class Call:
    """One use of a part: registers of the segment by number, constants for the bound ones, and where each
    instruction comes from."""

    part: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: tuple[ConstRef, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """Successive calls of one part as one program with their weights, as the segment has them unfolded.

    ``weights`` are constants of segment number ``segment`` by the names that they have here."""

    program: Program
    segment: int
    weights: dict[str, ConstRef]


@dataclass
class Division:
    """All distinct parts, and the calls of every segment in order."""

    parts: list[Part] = field(default_factory=list)
    calls: list[list[Call]] = field(default_factory=list)

    def times(self, part: int) -> int:
        """How often a run of all segments calls a part."""
        return sum(call.part == part for calls in self.calls for call in calls)

    @property
    def repeated(self) -> list[int]:
        """The parts that are called more than once."""
        return [part for part in range(len(self.parts)) if self.times(part) > 1]


def chain(division: Division, part: int, length: int) -> Chain | None:
    """The first ``length`` successive calls of a part in one segment; None if there are not so many."""
    for segment, calls in enumerate(division.calls):
        for start in range(len(calls) - length + 1):
            found = calls[start : start + length]
            if all(call.part == part for call in found):
                return _chained(division.parts[part], found, segment)
    return None


def _chained(part: Part, calls: Sequence[Call], segment: int) -> Chain:
    """Results are what the last call gives, and what others do that no later one reads."""
    main = part.program.main
    count = iter(range(1 << 31))
    at: dict[int, Register] = {}
    params: list[Register] = []
    body: list[Instr] = []
    constants = {name: c for name, c in part.program.constants.items() if name not in part.bound}
    weights: dict[str, ConstRef] = {}
    for place, call in enumerate(calls):
        env: dict[Operand, Operand] = {}
        for name, ref in zip(part.bound, call.constants, strict=True):
            own = f"c{place}_{name}"
            weights[own] = ref
            constants[own] = Constant(own, ref.type, Leaf(own, ref.type))
            env[ConstRef(name, ref.type)] = ConstRef(own, ref.type)
        for param, number in zip(main.params, call.inputs, strict=True):
            if number not in at:
                at[number] = Register(next(count), param.type)
                params.append(at[number])
            env[param] = at[number]
        for instr in main.body:
            results = tuple(Register(next(count), r.type) for r in instr.results)
            operands = tuple(env.get(x, x) for x in instr.operands)
            env.update(zip(instr.results, results, strict=True))
            body.append(replace(instr, operands=operands, results=results))
        for result, number in zip(main.results, call.outputs, strict=True):
            made = env[result]
            assert isinstance(made, Register)
            at[number] = made
    last = set(calls[-1].outputs)
    read = {number for call in calls for number in call.inputs}
    left = dict.fromkeys(n for call in calls for n in call.outputs if n in last or n not in read)
    results = tuple(at[number] for number in left)
    names = tuple(f"x{i}" for i in range(len(params))), tuple(f"y{i}" for i in range(len(results)))
    function = Function("chain", tuple(params), names[0], body, results, names[1])
    return Chain(Program("chain", {"chain": function}, constants), segment, weights)


def divide(segments: Sequence[Program], row_apart: bool = False) -> Division:
    """Take segments apart. Linear but for the search of repeated runs.

    With ``row_apart`` what takes one row of many is a part by itself: what stands behind it in a program that
    reads several tokens is then what another has that reads one."""
    division = Division()
    numbers: dict[str, int] = {}
    for segment in segments:
        calls = []
        plain = _shared_first(_without_copies(segment))
        known: dict[int, int] = {}  # parts by the identity of the function that was called
        for piece in _pieces(plain, row_apart):
            number = known.get(id(piece.function), -1)
            if number < 0:
                part = _part(plain, piece)
                number = numbers.setdefault(to_text(part.program), len(division.parts))
                if number == len(division.parts):
                    division.parts.append(part)
                if piece.shared:
                    known[id(piece.function)] = number
            inputs, outputs = (tuple(r.id for r in x) for x in (piece.inputs, piece.outputs))
            sources = tuple(str(instr.source or "") for instr in piece.instrs)
            calls.append(Call(number, inputs, outputs, piece.constants, sources))
        division.calls.append(calls)
    return division


def sources_of_copies(segment: Program) -> dict[int, Register]:
    """What a register is a copy of, by its number, for all that a segment copies."""
    found: dict[int, Register] = {}
    for instr in segment.main.body:
        source = instr.operands[0] if instr.op == "copy" else None
        if isinstance(source, Register):
            found[instr.results[0].id] = found.get(source.id, source)
    return found


def _without_copies(segment: Program) -> Program:
    """The same segment without copies between registers, which mean nothing where values have no layout.

    Results that are copies are left to whoever runs the parts, with :func:`sources_of_copies`: code of a part
    that hands a parameter through does not always write its result.
    """
    main = segment.main
    copies = sources_of_copies(segment)
    env: dict[Operand, Operand] = {
        instr.results[0]: copies[instr.results[0].id]
        for instr in main.body
        if instr.op == "copy" and instr.results[0].id in copies
    }
    body = [
        replace(instr, operands=tuple(env.get(x, x) for x in instr.operands))
        for instr in main.body
        if not (instr.results and instr.results[0] in env)
    ]
    sources = dict.fromkeys(copies.get(r.id, r) for r in main.results)
    results = tuple(r for r in sources if r not in main.params)
    names = tuple(f"y{i}" for i in range(len(results)))
    function = replace(main, body=body, results=results, result_names=names)
    return replace(segment, functions={segment.entry: function})


def _shared_first(segment: Program) -> Program:
    """The same segment with what blocks share in front, as a mask made of inputs: where it stands at its
    first use it would make that block unlike the others.

    That is what is computed without weights from the segment's parameters and read more than once, be it that
    every block computes it anew.
    """
    main = segment.main
    made: dict[Register, Instr] = {}
    known, results = set(main.params), set(main.results)
    first: dict[object, Instr] = {}
    same: dict[Operand, Operand] = {}
    whole: list[Instr] = []
    for instr in main.body:
        instr = replace(instr, operands=tuple(same.get(x, x) for x in instr.operands))
        weights = any(isinstance(x, ConstRef) and _is_weight(x) for x in instr.operands)
        if not weights and known.issuperset(instr.registers()):
            earlier = first.setdefault(_meaning(instr), instr)
            if earlier is not instr and not results.intersection(instr.results):
                same.update(zip(instr.results, earlier.results, strict=True))
                continue
            known.update(instr.results)
            made.update((r, instr) for r in instr.results)
        whole.append(instr)
    main = replace(main, body=whole)
    readers = Counter(r for i in main.body if not made.keys() & i.results for r in set(i.registers()))
    needed = {r for r in made if readers[r] > 1}
    for instr in reversed(main.body):
        if needed.intersection(instr.results):
            needed.update(r for r in instr.registers() if r in made)
    body = sorted(main.body, key=lambda instr: not needed.intersection(instr.results))
    return replace(segment, functions={segment.entry: replace(main, body=body)})


def _meaning(instr: Instr) -> object:
    """Equal for instructions that compute the same."""
    operands = tuple((type(x.value), x) if isinstance(x, Literal) else x for x in instr.operands)
    types = tuple(r.type for r in instr.results)
    return instr.op, operands, types, repr(sorted(instr.attrs.items()))


@dataclass(frozen=True)
class _Piece:
    """A function with its arguments in a segment; ``instrs`` are the segment's own instructions. A ``shared``
    function is that of other pieces too."""

    function: Function
    inputs: tuple[Register, ...]
    outputs: tuple[Register, ...]
    bound: tuple[ConstRef | ConstParam, ...]
    constants: tuple[ConstRef, ...]
    instrs: Sequence[Instr]
    shared: bool = False


def _pieces(segment: Program, row_apart: bool) -> Iterator[_Piece]:
    """The repeated runs of a segment and what stands between them, in order."""
    folded = fold(segment)
    body = segment.main.body
    done = start = 0
    for instr in folded.main.body:
        if instr.op != "call":
            done += 1
            continue
        yield from _stretches(segment, start, done, row_apart)
        function = folded.functions[str(instr.attrs["callee"])]
        count, start = len(function.params), done + len(function.body)
        inputs = tuple(x for x in instr.operands[:count] if isinstance(x, Register))
        constants = tuple(x for x in instr.operands[count:] if isinstance(x, ConstRef))
        bound = function.const_params
        yield _Piece(function, inputs, instr.results, bound, constants, body[done:start], shared=True)
        done = start
    yield from _stretches(segment, start, done, row_apart)


def _stretches(segment: Program, start: int, stop: int, row_apart: bool) -> Iterator[_Piece]:
    body = segment.main.body
    for index in range(start + 1, stop if row_apart else start):
        if takes_a_row(body[index - 1]) and _only(body[start:index], body[index:stop]):
            yield _stretch(segment, start, index)
            start = index
    if start < stop:
        yield _stretch(segment, start, stop)


def takes_a_row(instr: Instr) -> bool:
    """Whether an instruction copies one row, wherever that is, of a computed value."""
    if instr.op != "gather":
        return False
    rows, index = instr.operands[:2]
    return isinstance(rows, Register) and isinstance(index, Register) and index.type.numel == 1


def _only(before: Sequence[Instr], behind: Sequence[Instr]) -> bool:
    """Whether what stands behind reads nothing of what stands before but the last result."""
    made = {r for instr in before for r in instr.results} - set(before[-1].results)
    return not made.intersection(r for instr in behind for r in instr.registers())


def _stretch(segment: Program, start: int, stop: int) -> _Piece:
    main = segment.main
    body = main.body[start:stop]
    own = {r for instr in body for r in instr.results}
    read = {r for i, instr in enumerate(main.body) if not start <= i < stop for r in instr.registers()}
    read.update(main.results)
    inputs = tuple(dict.fromkeys(r for instr in body for r in instr.registers() if r not in own))
    outputs = tuple(r for instr in body for r in instr.results if r in read)
    weights = dict.fromkeys(
        x
        for instr in body
        for number, x in enumerate(instr.operands)
        if isinstance(x, ConstRef) and _is_weight(x) and (number or instr.op not in _LOOK_UPS)
    )
    function = replace(main, params=inputs, body=body, results=outputs)
    return _Piece(function, inputs, outputs, tuple(weights), tuple(weights), body)


def _is_weight(x: ConstRef) -> bool:
    return x.type.numel > 1 and (x.type.dtype.is_float or x.type.dtype in (DType.I8, DType.I4))


def _part(segment: Program, piece: _Piece) -> Part:
    """A piece with everything named and numbered by its order."""
    env: dict[Operand, Operand] = {}
    constants: dict[str, Constant] = {}
    bound: list[str] = []
    for x in piece.bound:
        name = f"bound{len(bound)}"
        bound.append(name)
        env[x] = ConstRef(name, x.type)
        constants[name] = Constant(name, x.type, Leaf(name, x.type))

    def operand(x: Operand) -> Operand:
        if isinstance(x, ConstRef) and x not in env:
            name = f"c{len(constants)}"
            env[x] = ConstRef(name, x.type)
            constants[name] = replace(segment.constants[x.name], name=name)
        return env.get(x, x)

    count = iter(range(1 << 31))

    def register(r: Register) -> Register:
        env[r] = new = Register(next(count), r.type)
        return new

    params = tuple(register(r) for r in piece.function.params)
    body = []
    for number, instr in enumerate(piece.function.body):
        operands = tuple(map(operand, instr.operands))
        results = tuple(map(register, instr.results))
        body.append(Instr(instr.op, operands, results, dict(instr.attrs), Source(str(number))))
    results = tuple(x for x in map(operand, piece.function.results) if isinstance(x, Register))
    names = tuple(f"x{i}" for i in range(len(params))), tuple(f"y{i}" for i in range(len(results)))
    main = Function("part", params, names[0], body, results, names[1])
    return Part(Program("part", {"part": main}, constants), tuple(bound))
