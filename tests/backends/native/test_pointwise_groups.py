"""Point-wise ops that run together, tile by tile: as one step, and the same as one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from forgec.backends.cpu.native.binding import NativeStep
from native_runs import instruction, team

SIZE = 36000
"""Floats of a buffer: enough for two threads, and no whole number of tiles."""


def steps_of(
    program: Sequence[tuple[str, Sequence[Any], np.ndarray]], threads: int = 1
) -> tuple[NativeStep, int]:
    """The instructions (op, operands, result) as native code, and how many steps that has."""
    step = NativeStep(team(threads))
    for op, operands, out in program:
        instr = instruction(op, operands, {})
        assert step.add(instr, operands, [out], {}) is None
    return step, step._program.steps


def test_a_chain_is_one_step(isa: str) -> None:
    rng = np.random.default_rng(1)
    x, row = rng.standard_normal((90, 100)).astype(np.float32), rng.standard_normal(100).astype(np.float32)
    a, b, mask, y = np.empty_like(x), np.empty_like(x), np.empty(x.shape, bool), np.empty_like(x)
    step, count = steps_of(
        [
            ("exp", [x], a),
            ("mul", [a, row], b),  # a broadcast operand from outside
            ("lt", [b, x], mask),
            ("add", [a, b], a),  # in place
            ("where", [mask, a, b], y),
        ]
    )
    assert count == 1
    step()
    product = np.exp(x) * row
    np.testing.assert_allclose(y, np.where(product < x, np.exp(x) + product, product), rtol=1e-5, atol=1e-6)


def test_a_long_chain_is_several_steps(isa: str) -> None:
    x, y = np.zeros(100, np.float32), np.zeros(100, np.float32)
    step, count = steps_of([("add", [x, 1.0], y), *[("add", [y, 1.0], y)] * 39])
    assert count == 3  # of 16 at most
    step()
    np.testing.assert_array_equal(y, 40)


def test_what_meets_at_other_elements_does_not_share_tiles(isa: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((64, 64)).astype(np.float32)
    memory = np.empty(2 * x.size, np.float32)
    a = memory[: x.size].reshape(x.shape)
    shifted = memory[64 : 64 + x.size].reshape(x.shape)
    y = np.empty_like(x)
    for later in (
        ("neg", [a.T], y),  # reads the result transposed
        ("add", [a[:1], x], y),  # or one row of it for all
        ("neg", [x], shifted),  # writes over a part of it
    ):
        assert steps_of([("neg", [x], a), later])[1] == 2
    assert steps_of([("add", [a, x], y), ("neg", [x], shifted)])[1] == 2  # over what is still to be read
    assert steps_of([("neg", [x], y), ("neg", [x[:1]], np.empty((1, 64), np.float32))])[1] == 2  # other sizes


def test_copies_of_results_are_made_on_the_way(isa: str) -> None:
    x = np.random.default_rng(3).standard_normal((90, 400)).astype(np.float32)
    a, state, y = np.empty_like(x), x.copy(), np.empty_like(x)
    step, count = steps_of([("add", [state, x], a), ("copy", [a], state), ("mul", [a, 2.0], y)], threads=2)
    assert count == 1
    for _ in range(2):
        step()
    np.testing.assert_array_equal(state, x + x + x)
    np.testing.assert_array_equal(y, 2 * state)
    assert steps_of([("add", [x, x], a), ("copy", [a.T], np.empty((400, 90), np.float32))])[1] == 2
    assert steps_of([("add", [x, x], a), ("copy", [x], a)])[1] == 1


@pytest.mark.parametrize("seed", range(30))
def test_any_overlap_gives_what_the_order_says(isa: str, seed: int) -> None:
    """Random ops between random places of one memory, often the same ones."""
    print("seed", seed)
    rng = np.random.default_rng(seed)
    memory = rng.uniform(0.5, 2, 4 * SIZE).astype(np.float32)
    expected = memory.copy()
    places = [0, SIZE, 2 * SIZE, 3 * SIZE, *(int(p) for p in rng.integers(0, 3 * SIZE, 2))]

    def view(of: np.ndarray, place: int, order: int) -> np.ndarray:
        flat = of[place : place + SIZE]
        return (
            flat.reshape(360, 100)
            if order == 0
            else flat.reshape(100, 360).T
            if order == 1
            else flat[:100].reshape(1, 100)
        )

    program = []
    wanted = []
    for _ in range(12):
        op = str(rng.choice(["add", "maximum", "sigmoid"]))
        count = 1 if op == "sigmoid" else 2
        sources = [
            (int(rng.choice(places)), int(rng.choice(3, p=[0.8, 0.1, 0.1])) if i else 0) for i in range(count)
        ]
        to = int(rng.choice(places))
        inexact = any(abs(to - place) < SIZE and (place != to or order) for place, order in sources)
        if inexact:
            continue  # one op alone must not write over its own operand's other elements
        program.append((op, [view(memory, *s) for s in sources], view(memory, to, 0)))
        wanted.append((op, [view(expected, *s) for s in sources], view(expected, to, 0)))
    step, count = steps_of(program, threads=1 + seed % 2)
    turned = sum(not x.flags.c_contiguous and x.shape[0] > 1 for _, operands, _ in program for x in operands)
    assert count <= len(program) + turned  # which are copied first
    step()
    for op, operands, out in wanted:
        single, _ = steps_of([(op, operands, out)])
        single()
    np.testing.assert_array_equal(memory, expected)
