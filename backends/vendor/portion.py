"""Parts of a segment as programs of their own, for finding what a vendor's compiler fails at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from forgec.ir.program import ConstRef, Program

__all__ = ["failing_beginning", "portion", "smallest"]


def portion(segment: Program, start: int, stop: int) -> Program:
    """Instructions ``start`` to ``stop`` of a flat program.

    Parameters are what they read from elsewhere, results what none of them reads.
    """
    main = segment.main
    body = main.body[start:stop]
    read = dict.fromkeys(r for instr in body for r in instr.registers())
    made = dict.fromkeys(r for instr in body for r in instr.results)
    params = tuple(r for r in read if r not in made)
    results = tuple(r for r in made if r not in read)
    function = replace(
        main,
        params=params,
        param_names=tuple(f"x{i}" for i in range(len(params))),
        body=body,
        results=results,
        result_names=tuple(f"y{i}" for i in range(len(results))),
    )
    used = {x.name for instr in body for x in instr.operands if isinstance(x, ConstRef)}
    constants = {name: c for name, c in segment.constants.items() if name in used}
    return replace(segment, functions={segment.entry: function}, constants=constants)


def failing_beginning(segment: Program, fails: Callable[[Program], bool]) -> int:
    """How many instructions the shortest beginning has that fails as the whole does.

    Bisection, about log2(instructions) trials; the whole is not tried.
    """
    good, bad = 0, len(segment.main.body)
    while bad - good > 1:
        middle = (good + bad) // 2
        if fails(portion(segment, 0, middle)):
            bad = middle
        else:
            good = middle
    return bad


def smallest(segment: Program, fails: Callable[[Program], bool]) -> Program:
    """A run of instructions of a segment that fails as the whole does, by bisection from both ends.

    Where neither the first nor the last of them matters alone it is not the smallest there is. What is
    returned was seen to fail, unless that is the whole segment.
    """
    stop = failing_beginning(segment, fails)
    start, good = 0, stop
    while good - start > 1:
        middle = (start + good) // 2
        if fails(portion(segment, middle, stop)):
            start = middle
        else:
            good = middle
    return segment if (start, stop) == (0, len(segment.main.body)) else portion(segment, start, stop)
