"""Expand all calls: the flat instruction list that planning and execution work on.

The result has one function. Registers are numbered anew in order of definition, constant parameters become
the constants bound at the call, and every instruction keeps its source and device. Linear in the size of the
result.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from .program import ConstParam, ConstRef, Function, Instr, Operand, Program, Register

__all__ = ["inline"]


def inline(program: Program) -> Program:
    """The same program with every call replaced by its callee's body."""
    main = program.main
    body: list[Instr] = []
    count = 0

    def fresh(old: Register) -> Register:
        nonlocal count
        new = Register(count, old.type)
        count += 1
        return new

    def expand(function: Function, env: dict[Operand, Operand], outer_device: str | None) -> list[Register]:
        for instr in function.body:
            operands = tuple(env[x] if isinstance(x, Register | ConstParam) else x for x in instr.operands)
            if instr.op == "call":
                callee = program.functions[str(instr.attrs["callee"])]
                inner: dict[Operand, Operand] = dict(
                    zip((*callee.params, *callee.const_params), operands, strict=True)
                )
                results = expand(callee, inner, instr.device or outer_device)
                env.update(zip(instr.results, results, strict=True))
                continue
            new_results = tuple(fresh(r) for r in instr.results)
            env.update(zip(instr.results, new_results, strict=True))
            body.append(
                Instr(
                    instr.op,
                    operands,
                    new_results,
                    instr.attrs,
                    instr.source,
                    instr.device or outer_device,
                    instr.offsets,
                )
            )
        return cast(list[Register], [env[r] for r in function.results])

    env: dict[Operand, Operand] = {}
    params = tuple(fresh(r) for r in main.params)
    env.update(zip(main.params, params, strict=True))
    results = expand(main, env, None)
    flat = replace(main, params=params, body=body, results=tuple(results))
    used = {x.name for instr in body for x in instr.operands if isinstance(x, ConstRef)}
    constants = {name: c for name, c in program.constants.items() if name in used}
    return Program(program.entry, {program.entry: flat}, constants, program.states)
