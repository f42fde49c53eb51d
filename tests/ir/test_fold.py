"""Folding of repeated runs: what is found, and that ``inline`` takes it back."""

from __future__ import annotations

import re

import numpy as np
import pytest

from forgec.ir.fold import fold
from forgec.ir.inline import inline
from forgec.ir.interpreter import Interpreter
from forgec.ir.parser import parse
from forgec.ir.printer import to_text
from forgec.ir.program import Program
from forgec.ir.verifier import verify


def block(n: int, weights: int, last: str = "tanh") -> str:
    """One block: it reads r{n}, the shared r1 and its own weights, and gives r{n + 7}."""
    return f"""
  r{n + 1}: f32[2,4] = linear r{n}, c{weights}, _, _
  r{n + 2}: f32[2,4] = add r{n + 1}, r1
  r{n + 3}: f32[2,4] = sigmoid r{n + 2}
  r{n + 4}: f32[2,4] = mul r{n + 3}, r{n + 1}
  r{n + 5}: f32[2,4] = linear r{n + 4}, c{weights + 1}, _, _
  r{n + 6}: f32[2,4] = add r{n + 5}, r{n}
  r{n + 7}: f32[2,4] = {last} r{n + 6}"""


def stack(blocks: int, *, odd: int | None = None, results: str = "") -> Program:
    """A program of equal blocks between an ``exp`` and a ``neg``; block ``odd`` ends in another op."""
    constants = "".join(f'  const c{i}: f32[4,4] = "w{i}"\n' for i in range(2 * blocks))
    body = "".join(block(10 + 7 * i, 2 * i, "relu" if i == odd else "tanh") for i in range(blocks))
    end = 10 + 7 * blocks
    kinds = ", ".join(f'r{r} "y{r}": f32[2,4]' for r in [*results.split(), end + 1])
    given = ", ".join([*(f"r{r}" for r in results.split()), f"r{end + 1}"])
    return parse(
        f"""program @main(r0 "x": f32[2,4], r1 "m": f32[2,4]) -> ({kinds}) {{
{constants}  r10: f32[2,4] = exp r0{body}
  r{end + 1}: f32[2,4] = neg r{end}
  return {given}
}}
"""
    )


def check(program: Program, folded: Program) -> None:
    verify(folded)
    assert to_text(parse(to_text(folded))) == to_text(folded)
    assert to_text(inline(folded)) == to_text(inline(program))


def test_equal_blocks_become_calls_of_one_function() -> None:
    program = stack(5)
    folded = fold(program)
    check(program, folded)
    assert [instr.op for instr in folded.main.body] == ["exp", *["call"] * 5, "neg"]
    (function,) = (f for name, f in folded.functions.items() if name != "main")
    assert (len(function.body), len(function.params), len(function.const_params)) == (7, 2, 2)
    assert len(function.results) == 1


def test_the_folded_program_computes_the_same() -> None:
    seed = 7
    rng = np.random.default_rng(seed)
    program = stack(3)
    tensors = {f"w{i}": rng.normal(size=(4, 4)).astype(np.float32) for i in range(6)}
    inputs = [rng.normal(size=(2, 4)).astype(np.float32) for _ in range(2)]
    got = Interpreter(fold(program), tensors.__getitem__).run(inputs)
    want = Interpreter(program, tensors.__getitem__).run(inputs)
    np.testing.assert_array_equal(got[0], want[0], err_msg=f"seed {seed}")


def test_what_one_block_gives_to_the_outside_all_of_them_give() -> None:
    program = stack(4, results="14 28")
    folded = fold(program)
    check(program, folded)
    (function,) = (f for name, f in folded.functions.items() if name != "main")
    assert len(function.results) == 2


@pytest.mark.parametrize("odd", range(5))
def test_a_block_that_differs_stays_outside(odd: int) -> None:
    program = stack(5, odd=odd)
    folded = fold(program)
    check(program, folded)
    left = sum(instr.op != "call" for instr in folded.main.body)
    assert left >= 2 + 1 and any(instr.op == "relu" for instr in inline(folded).main.body)
    assert all(f.name == "main" or all(i.op != "relu" for i in f.body) for f in folded.functions.values())


def test_blocks_that_are_linked_in_another_way_are_not_alike() -> None:
    text = to_text(stack(3)).replace("mul r20, r18", "mul r18, r20")
    program = parse(text)
    folded = fold(program)
    check(program, folded)
    assert sum(instr.op == "call" for instr in folded.main.body) < 3


def test_nothing_repeated_is_nothing_changed() -> None:
    program = stack(1)
    assert fold(program) is program


def test_constants_that_all_blocks_read_are_no_parameters() -> None:
    program = parse(re.sub(r", c[35]\n", ", c1\n", to_text(stack(3))))
    folded = fold(program)
    check(program, folded)
    (function,) = (f for name, f in folded.functions.items() if name != "main")
    assert len(function.const_params) == 1
