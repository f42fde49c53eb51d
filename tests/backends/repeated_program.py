"""A program of equal blocks with weights of their own, for tests of folding."""

from __future__ import annotations

from forgec.ir.parser import parse
from forgec.ir.program import Program

__all__ = ["repeated_program"]

_STEPS = 8
"""Instructions of a block."""


def repeated_program(blocks: int, rows: int, width: int) -> Program:
    """``x`` [rows, width] through blocks of a gated product, a norm and residuals; constants are c0, c1, ...
    over tensors w0, w1, ...: three per block."""
    kinds = (f"f32[{2 * width},{width}]", f"f32[{2 * width}]", f"f32[{width}]")
    constants = "".join(f'  const c{i}: {kinds[i % 3]} = "w{i}"\n' for i in range(3 * blocks))
    body = "".join(_block(_STEPS * i, 3 * i, rows, width) for i in range(blocks))
    one, end = f"f32[{rows},{width}]", _STEPS * blocks
    return parse(
        f"""program @main(r0 "x": {one}) -> (r{end} "y": {one}) {{
{constants[:-1]}{body}
  return r{end}
}}
"""
    )


def _block(n: int, weight: int, rows: int, width: int) -> str:
    one, two = f"f32[{rows},{width}]", f"f32[{rows},{2 * width}]"
    return f"""
  r{n + 1}: {two} = linear r{n}, c{weight}, c{weight + 1} {{act="gelu"}}
  r{n + 2}: {one} = slice r{n + 1} {{axis=1, stop={width}}}
  r{n + 3}: {one} = slice r{n + 1} {{axis=1, start={width}, stop={2 * width}}}
  r{n + 4}: {one} = mul r{n + 2}, r{n + 3}
  r{n + 5}: {one} = layer_norm r{n + 4}, c{weight + 2} {{eps=1e-05}}
  r{n + 6}: {one} = add r{n + 5}, r{n}
  r{n + 7}: {one} = sigmoid r{n + 6}
  r{n + 8}: {one} = add r{n + 7}, r{n}"""
