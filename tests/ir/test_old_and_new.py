"""Attention over a cache as it was and the new rows behind it: when, and that it means the same."""

from __future__ import annotations

import numpy as np
import pytest

from forgec.ir.in_place import flatten
from forgec.ir.interpreter import Interpreter
from forgec.ir.parser import parse
from forgec.ir.printer import to_text
from forgec.ir.program import Program
from forgec.ir.types import DType
from forgec.ir.verifier import verify

ROWS = 8
"""Rows of the caches."""

SEED = 11


def cached(rows: int, mask: str = "", attrs: str = "", heads: int = 4) -> str:
    """Two layers of attention with grouped heads over caches of their own, ``rows`` new rows each.

    ``mask`` is the type of a mask that comes as an input."""
    new, cache, q = f"f32[1,2,{rows},4]", f"f32[1,2,{ROWS},4]", f"f32[1,{heads},{rows},4]"
    given = f', r3 "mask": {mask}' if mask else ""
    seen = "r3" if mask else "_"
    return f"""program @main(r0 "q": {q}, r1 "new": {new}, r2 "at": i64[]{given}) -> (r20 "y": {q}, r21 "z": {q}) {{
  state s0: {cache}
  state s1: {cache}
  state s2: {cache}
  r4: {cache} = read_state s0
  r5: {cache} = read_state s1
  r6: {cache} = read_state s2
  r7: i64[] = add r2, {rows}
  r8: {new} = neg r1
  r9: {cache} = update_rows r4, r1, r2
  r10: {cache} = update_rows r5, r8, r2
  r20: {q} = attention r0, r9, r10, {seen}, r7 {{scale=0.5{attrs}}}
  r11: {cache} = update_rows r6, r8, r2
  r21: {q} = attention r20, r11, r11, {seen}, r7 {{scale=0.5{attrs}}}
  write_state s0, r9
  write_state s1, r10
  write_state s2, r11
  return r20, r21
}}
"""


def split(text: str) -> Program:
    program = parse(text)
    verify(program)
    flat = flatten(program, off_host=True)
    verify(flat)
    assert to_text(parse(to_text(flat))) == to_text(flat)
    return flat


def ops(text: str) -> list[str]:
    return [instr.op for instr in split(text).main.body]


def test_the_cache_is_read_first_and_written_last():
    found = ops(cached(3))
    first = ["add", "neg", "cast", "view_state", "cast", "concat", "cast", "view_state", "cast", "concat"]
    second = ["cast", "view_state", "cast", "concat", "attention"]
    writes = ["write_rows"] * 3
    assert found == [*first, "cache_mask", "attention", *second, *writes], "one mask for both layers"


def test_caches_are_kept_in_16_bits_and_masks_are_bounded():
    flat = split(cached(3))
    assert {t.dtype for t in flat.states.values()} == {DType.F16}
    attentions = [instr for instr in flat.main.body if instr.op == "attention"]
    assert all(i.attrs == {"scale": 0.5, "bounded": True} and i.operands[4] is None for i in attentions)


def test_nothing_is_left_to_do_again():
    from forgec.ir.old_and_new import split_caches

    flat = split(cached(3))
    assert split_caches(flat) is flat


@pytest.mark.parametrize(
    ("rows", "mask", "attrs"),
    [
        (1, "", ""),
        (3, "", ", causal=true"),
        (3, "", ", causal=true, window=2"),
        (3, "", ", causal=true, window=4, softcap=2.0"),
        (3, f"bool[1,1,3,{ROWS}]", ""),
        (3, f"bool[1,1,1,{ROWS}]", ", causal=true"),
        (3, f"f32[1,4,3,{ROWS}]", ", causal=true"),
        (2, f"f32[{ROWS}]", ", window=3"),
    ],
)
def test_it_means_the_same(rows: int, mask: str, attrs: str):
    """At the first position, the last one, and again before: rows of padding are written over."""
    text = cached(rows, mask, attrs)
    rng = np.random.default_rng(SEED)
    before, after = (Interpreter(p, lambda name: np.zeros(0)) for p in (parse(text), split(text)))
    for position in (0, 2, 3, ROWS - rows, 1, 4, 0):
        q = rng.standard_normal((1, 4, rows, 4)).astype(np.float32)
        new = rng.standard_normal((1, 2, rows, 4)).astype(np.float32)
        inputs = [q, new, np.array(position)]
        if mask:
            shape = next(p.type.shape for p in parse(text).main.params if p.id == 3)
            inputs.append(_mask(rng, shape, mask.startswith("bool"), position))
        for found, wanted in zip(after.run(inputs), before.run(inputs), strict=True):
            np.testing.assert_allclose(found, wanted, atol=5e-3, err_msg=f"seed {SEED}, position {position}")


def _mask(rng: np.random.Generator, shape: tuple[int, ...], boolean: bool, position: int) -> np.ndarray:
    """Random, but every row sees the first of its new columns."""
    if not boolean:
        return rng.standard_normal(shape).astype(np.float32)
    mask = rng.random(shape) > 0.5
    mask[..., position] = True
    return mask


@pytest.mark.parametrize(
    "change",
    [
        ("attention r20, r11, r11", "attention r20, r11, r10"),  # still fits: any two caches at one position
        ("update_rows r6, r8, r2", "update_rows r6, r8, r7"),  # written elsewhere than length says
        ("r7 {scale=0.5}\n  write", "_ {scale=0.5, causal=true}\n  write"),  # causal from the cache's end
    ],
)
def test_near_misses(change: tuple[str, str]):
    text = cached(3)
    assert change[0] in text
    flat = split(text.replace(*change))
    attentions = [
        instr.operands[4] is None and "bounded" in instr.attrs
        for instr in flat.main.body
        if instr.op == "attention"
    ]
    assert attentions == [True, change[1].endswith("r10")]


def test_a_cache_with_another_reader_stays_as_it_is_with_all_that_attends_over_it():
    text = cached(3).replace(
        "r21: f32[1,4,3,4] = attention r20, r11, r11, _, r7 {scale=0.5}",
        "r12: f32[1,2,8,4] = neg r10\n  r21: f32[1,4,3,4] = attention r20, r11, r12, _, r7 {scale=0.5}",
    )
    flat = split(text)
    assert "cache_mask" not in [instr.op for instr in flat.main.body]
    assert {t.dtype for t in flat.states.values()} == {DType.F32}


def test_queries_of_another_number_than_new_rows_stay():
    text = cached(3).replace("f32[1,4,3,4]", "f32[1,4,2,4]")
    assert "cache_mask" not in ops(text)
