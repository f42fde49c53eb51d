"""Strided layouts of views against numpy's own."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_programs import Builder, nested_program, t

from forgec.ir.layout import Layout, function_layouts
from forgec.ir.op import get
from forgec.ir.program import ConstParam, ConstRef, Register, StateRef
from forgec.ir.types import contiguous_strides


def random_view(rng: random.Random, b: Builder, x: Register) -> Register:
    """One random view of x."""
    shape, rank = x.type.shape, x.type.rank
    kind = rng.randrange(5)
    if kind == 0 and rank:
        return b("transpose", x, perm=tuple(rng.sample(range(rank), rank)))
    if kind == 1 and rank:
        axis = rng.randrange(rank)
        start = rng.randint(0, shape[axis])
        stop = rng.randint(start, shape[axis])
        if rng.random() < 0.8:
            start, stop = start // 2, max(stop, start // 2 + 1, shape[axis] - 1)
        axis = rng.choice([axis, axis - rank])
        return b(
            "slice", x, axis=axis, start=start, stop=min(stop, shape[axis]), step=rng.choice([1, 1, 2, 3])
        )
    if kind == 2 and rank < 6 and x.type.numel < 200:
        wide = [rng.choice([n, 2, 3]) if n == 1 else n for n in shape]
        return b("expand", x, shape=(*rng.choice([(), (1,), (2,)]), *wide))
    return b("reshape", x, shape=random_shape(rng, x.type.numel))


def random_shape(rng: random.Random, numel: int) -> tuple[int, ...]:
    shape: list[int] = []
    if numel == 0:
        shape = [rng.randint(0, 3) for _ in range(rng.randint(0, 3))] + [0]
    while numel > 1:
        n = rng.choice([d for d in range(2, numel + 1) if numel % d == 0])
        shape.append(n)
        numel //= n
    for _ in range(rng.randrange(3)):
        shape.insert(rng.randint(0, len(shape)), 1)
    rng.shuffle(shape)
    return tuple(shape)


@settings(max_examples=400)
@given(st.integers(0, 2**32))
def test_random_view_chains_lie_where_numpy_puts_them(seed: int) -> None:
    rng = random.Random(seed)
    b = Builder("main")
    x = b.param(t(*(rng.randint(1, 4) for _ in range(rng.randint(0, 4)))))
    base = np.arange(x.type.numel, dtype=np.float32).reshape(x.type.shape)
    array, r = base, x
    for _ in range(rng.randint(1, 6)):
        r = random_view(rng, b, r)
        (array,) = get(b.body[-1].op).evaluate((array,), b.body[-1].attrs)
        layout = function_layouts(b.function())[r]
        if layout is None:
            assert b.body[-1].op == "reshape"
            assert not np.shares_memory(array, base), "numpy makes a view of it"
            return
        assert array.size == 0 or np.shares_memory(array, base), "numpy has to copy it"
        assert (layout.base, layout.shape) == (x, array.shape)
        index = sum((np.indices(layout.shape)[k] * s for k, s in enumerate(layout.strides)), layout.offset)
        np.testing.assert_array_equal(base.reshape(-1)[index] if array.size else array, array)
        expected = array.size == 0 or array.flags.c_contiguous
        assert layout.is_contiguous == expected


def test_other_ops_start_a_storage_of_their_own() -> None:
    b = Builder("main")
    x = b.param(t(2, 3))
    turned = b("transpose", x, perm=(1, 0))
    y = b("neg", turned)
    first, second = b.all("add_rms_norm", y, y, None)
    layouts = function_layouts(b.function())
    assert layouts[turned] == Layout(x, 0, (1, 3), (3, 2))
    assert layouts[y] == Layout.contiguous(y) == Layout(y, 0, (2, 1), (3, 2))
    assert layouts[first] == Layout.contiguous(first) and layouts[second] == Layout.contiguous(second)


@pytest.mark.parametrize("base", [ConstRef("c0", t(4, 6)), ConstParam(0, t(4, 6)), StateRef("s0", t(4, 6))])
def test_views_of_constants_and_states(base: ConstRef | ConstParam | StateRef) -> None:
    b = Builder("main")
    part = b("slice", base, axis=1, start=2, stop=6, step=2)
    assert function_layouts(b.function())[part] == Layout(base, 2, (6, 2), (4, 2))


def test_a_view_of_an_impossible_view_has_no_layout_either() -> None:
    b = Builder("main")
    flat = b("reshape", b("transpose", b.param(t(2, 3)), perm=(1, 0)), shape=(6,))
    part = b("slice", flat, start=1, stop=4)
    layouts = function_layouts(b.function())
    assert layouts[flat] is None and layouts[part] is None


def test_call_results_and_parameters_are_contiguous_unless_given() -> None:
    outer = nested_program().functions["outer"]
    layouts = function_layouts(outer)
    assert all(layout is not None and layout.is_contiguous for layout in layouts.values())
    y = outer.params[0]
    turned = Layout(y, 0, (1, 2), y.type.shape)
    seen = []

    def call(instr: object, arguments: object) -> list[Layout]:
        seen.append(arguments)
        return [Layout(r, 0, (1, 2), r.type.shape) for r in instr.results]  # type: ignore[attr-defined]

    layouts = function_layouts(outer, [turned], call)
    assert layouts[y] == turned and seen[0] == [turned]
    assert layouts[outer.results[1]] == Layout(outer.results[1], 0, (1, 2), (2, 4))


def test_contiguous_strides() -> None:
    assert contiguous_strides(()) == ()
    assert contiguous_strides((2, 3, 4)) == (12, 4, 1)
    assert contiguous_strides((2, 0, 4)) == (4, 4, 1)
    assert Layout(None, 7, (100, 9, 1), (1, 1, 4)).is_contiguous
    assert not Layout(None, 0, (4, 2), (3, 2)).is_contiguous
    assert Layout(None, 0, (4, 2), (3, 0)).is_contiguous
