"""Find repeated runs of instructions and make one function of each: the inverse of ``inline``.

Two runs are alike if they have the same ops, attributes, literals and types in the same order, and read their
own results in the same places; they may read other registers and other constants. A transformer's flat
program is such runs, one per block, each reading what the one before wrote. Runs that follow each other
become calls of one function: what they read from outside are its parameters, the constants in which they
differ its constant parameters, what is read after them its results.

Candidates are the periods of the sequence of instructions, found by comparing it with itself at every
distance: O(L^2) comparisons of integers for L instructions, in numpy. The one that saves most instructions is
taken, then what stands before and behind it is searched. ``inline(fold(p))`` is ``p`` but for the numbers of
registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np

from .op import get
from .program import ConstParam, ConstRef, Function, Instr, Literal, Operand, Program, Register, StateRef

__all__ = ["fold"]

_LEAST = 6
"""Instructions, without views, that a repeated run has at least."""

_BEGINS = ("linear", "linear_q")
"""Where a run is best cut, if there is a choice: a block that begins with its first product and ends with the
norm of the next one is simulated 5 % faster on Intel's NPU than one from norm to sum."""


@dataclass(frozen=True)
class _Repeat:
    """``count`` runs of ``period`` instructions from ``start`` on."""

    start: int
    period: int
    count: int

    @property
    def stop(self) -> int:
        return self.start + self.period * self.count

    @property
    def saved(self) -> int:
        return self.period * (self.count - 1)

    def runs(self, body: Sequence[Instr]) -> list[Sequence[Instr]]:
        ends = range(self.start, self.stop + 1, self.period)
        return [body[a:b] for a, b in pairwise(ends)]


def fold(program: Program) -> Program:
    """A flat program with its repeated runs as functions; the program itself if there are none."""
    main = program.main
    repeats = list(_search(main.body, 0, len(main.body)))
    if not repeats:
        return program
    functions: dict[str, Function] = {}
    body: list[Instr] = []
    done = 0
    for repeat in repeats:
        body += main.body[done : repeat.start]
        name = f"{program.entry}.block{len(functions)}"
        function, calls = _outlined(name, repeat, main)
        functions[name] = function
        body += calls
        done = repeat.stop
    body += main.body[done:]
    return replace(program, functions={program.entry: replace(main, body=body), **functions})


def _search(body: Sequence[Instr], start: int, stop: int) -> Iterator[_Repeat]:
    """Repeats in a part of a body, in order."""
    best = _best(body, start, stop)
    if best is not None:
        yield from _search(body, start, best.start)
        yield best
        yield from _search(body, best.stop, stop)


def _best(body: Sequence[Instr], start: int, stop: int) -> _Repeat | None:
    """The repeat that saves most, of equal ones the shortest, then one that begins well, then the first."""
    numbers: dict[object, int] = {}
    tokens = np.array([numbers.setdefault(_token(i, body[i]), i) for i in range(start, stop)])
    work = np.cumsum([0, *(not get(body[i].op).view for i in range(start, stop))])
    candidates: list[_Repeat] = []
    for period in range(_LEAST, len(tokens) // 2 + 1):
        same = np.concatenate(([False], tokens[:-period] == tokens[period:], [False]))
        edges = np.flatnonzero(same[1:] != same[:-1])
        for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            count = (end - begin) // period + 1
            if count > 1 and work[begin + period] - work[begin] >= _LEAST:
                candidates += [
                    _Repeat(start + first, period, (end - first) // period + 1)
                    for first in range(begin, min(begin + period, end - period + 1))
                ]
    best: _Repeat | None = None

    def order(c: _Repeat) -> tuple[object, ...]:
        return -c.saved, c.period, body[c.start].op not in _BEGINS, c.start

    for candidate in sorted(candidates, key=order):
        if best is not None and candidate.saved <= best.saved:
            break
        found = _linked_alike(body, candidate)
        if found is not None and (best is None or found.saved > best.saved):
            best = found
    return best


def _token(index: int, instr: Instr) -> object:
    """Equal for instructions that may stand for each other; no state can be passed to a function."""
    if any(isinstance(x, StateRef | ConstParam) for x in instr.operands):
        return index
    operands = tuple(
        x if x is None or isinstance(x, Literal) else (type(x).__name__, x.type) for x in instr.operands
    )
    results = tuple(r.type for r in instr.results)
    return instr.op, operands, results, tuple(sorted(instr.attrs.items(), key=lambda item: item[0]))


def _linked_alike(body: Sequence[Instr], repeat: _Repeat) -> _Repeat | None:
    """The longest part of a repeat whose runs read their own results in the same places."""
    links = [_links(run) for run in repeat.runs(body)]
    best: _Repeat | None = None
    first = 0
    for _, alike in groupby(links):
        count = len(list(alike))
        if count > 1 and (best is None or count > best.count):
            best = replace(repeat, start=repeat.start + first * repeat.period, count=count)
        first += count
    return best


def _links(run: Sequence[Instr]) -> tuple[int | None, ...]:
    """For every register that a run reads, in order, the number of the result in the run, or None."""
    own: dict[int, int] = {}
    links: list[int | None] = []
    for instr in run:
        links += [own.get(r.id) for r in instr.registers()]
        for r in instr.results:
            own[r.id] = len(own)
    return tuple(links)


def _outlined(name: str, repeat: _Repeat, main: Function) -> tuple[Function, list[Instr]]:
    """The function of a repeat, and its calls."""
    runs = repeat.runs(main.body)
    columns = list(zip(*(_outside(run) for run in runs), strict=True))
    distinct = list(dict.fromkeys(columns))
    registers = [c for c in distinct if isinstance(c[0], Register)]
    constants = [c for c in distinct if isinstance(c[0], ConstRef) and len(set(c)) > 1]
    inner: dict[object, Operand] = {c: c[0] for c in distinct}
    inner.update((c, Register(n, c[0].type)) for n, c in enumerate(registers))
    inner.update((c, ConstParam(n, c[0].type)) for n, c in enumerate(constants))
    own = [[r for instr in run for r in instr.results] for run in runs]
    env = {r: Register(len(registers) + n, r.type) for n, r in enumerate(own[0])}
    places = iter(columns)

    def operand(x: Operand) -> Operand:
        if isinstance(x, Register) and x in env:
            return env[x]
        return inner[next(places)] if isinstance(x, Register | ConstRef) else x

    body = [
        replace(i, operands=tuple(map(operand, i.operands)), results=tuple(env[r] for r in i.results))
        for i in runs[0]
    ]
    read = _read_elsewhere(main, repeat)
    given = [n for n in range(len(own[0])) if any(mine[n] in read for mine in own)]
    function = Function(
        name,
        tuple(Register(n, c[0].type) for n, c in enumerate(registers)),
        tuple(f"x{n}" for n in range(len(registers))),
        body,
        tuple(env[own[0][n]] for n in given),
        tuple(f"y{n}" for n in range(len(given))),
        tuple(ConstParam(n, c[0].type) for n, c in enumerate(constants)),
    )
    calls = [
        Instr(
            "call",
            tuple(c[k] for c in (*registers, *constants)),
            tuple(mine[n] for n in given),
            {"callee": name},
            run[0].source,
        )
        for k, (run, mine) in enumerate(zip(runs, own, strict=True))
    ]
    return function, calls


def _outside(run: Sequence[Instr]) -> list[Register | ConstRef]:
    """Constants and other runs' registers that a run reads, in order, with repetitions."""
    own = {r for instr in run for r in instr.results}
    return [
        x
        for i in run
        for x in i.operands
        if isinstance(x, ConstRef) or (isinstance(x, Register) and x not in own)
    ]


def _read_elsewhere(main: Function, repeat: _Repeat) -> set[Register]:
    """The registers of a repeat that are read outside of the run that writes them."""
    home: dict[Register, int] = {}
    read = set(main.results)
    for index, instr in enumerate(main.body):
        inside = repeat.start <= index < repeat.stop
        run = (index - repeat.start) // repeat.period if inside else -1
        read.update(r for r in instr.registers() if home.get(r, -1) != run)
        home.update((r, run) for r in instr.results)
    return read
