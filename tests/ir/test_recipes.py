"""Constant recipes: evaluation, sharing, and how they name what they read."""

from __future__ import annotations

import numpy as np
import pytest
from ir_programs import apply, t

from forgec.errors import InternalError
from forgec.ir import recipes
from forgec.ir.program import Constant, Leaf, Literal, leaves
from forgec.ir.recipes import Evaluator, evaluate
from forgec.ir.types import DType

TABLE = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones((3, 2), np.float32),
    "scalar": np.array(2.0, np.float32),
}


def test_a_leaf_is_the_source_tensor_itself() -> None:
    assert evaluate(Leaf("a", t(2, 3)), TABLE.__getitem__) is TABLE["a"]


def test_views_copy_nothing() -> None:
    turned = evaluate(apply("transpose", Leaf("a", t(2, 3)), perm=(1, 0)), TABLE.__getitem__)
    assert np.shares_memory(turned, TABLE["a"])
    np.testing.assert_array_equal(turned, TABLE["a"].T)


def test_nested_ops_literals_and_absent_operands() -> None:
    a, b = Leaf("a", t(2, 3)), Leaf("b", t(3, 2))
    rows = apply("concat", a, apply("mul", apply("transpose", b, perm=(1, 0)), Literal(0.5)), axis=0)
    product = apply("linear", rows, a, None, None, act="relu")
    got = evaluate(apply("cast", product, dtype="f16"), TABLE.__getitem__)
    want = (np.concatenate([TABLE["a"], np.full((2, 3), 0.5, np.float32)]) @ TABLE["a"].T).astype(np.float16)
    np.testing.assert_array_equal(got, want)


def test_rank_0_stays_rank_0() -> None:
    got = evaluate(apply("sqrt", apply("copy", Leaf("scalar", t()))), TABLE.__getitem__)
    assert isinstance(got, np.ndarray) and got.shape == () and got.dtype == np.float32


def test_a_source_tensor_of_another_type_is_found_out() -> None:
    with pytest.raises(InternalError, match=r"gave f32\[2,3\], its type says f32\[3,2\]"):
        evaluate(Leaf("a", t(3, 2)), TABLE.__getitem__)
    with pytest.raises(InternalError, match=r"gave f32\[2,3\], its type says f16\[2,3\]"):
        evaluate(Leaf("a", t(2, 3, dtype=DType.F16)), TABLE.__getitem__)


def test_a_tensor_that_is_missing_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        evaluate(Leaf("nowhere", t(2)), TABLE.__getitem__)


def test_leaves_lists_what_a_recipe_reads_with_repetitions() -> None:
    a = Leaf("a", t(2, 3))
    recipe = apply("concat", a, apply("mul", a, Literal(2.0)), Leaf("b", t(2, 3)), axis=0)
    assert [leaf.name for leaf in leaves(recipe)] == ["a", "a", "b"]


def test_the_artifact_names_a_plain_tensor_by_its_own_name() -> None:
    a = Leaf("a", t(2, 3))
    assert Constant("c0", a.type, a).key == "a"
    computed = Constant("c1", a.type, apply("neg", a)).key
    assert computed.startswith("%")
    assert (
        computed == Constant("c7", a.type, apply("neg", a)).key != Constant("c1", a.type, apply("abs", a)).key
    )


def test_small_parts_are_computed_once_for_recipes_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def tensors(name: str) -> np.ndarray:
        read.append(name)
        return TABLE[name]

    rows = Leaf("a", t(2, 3))
    scales = apply("scales", rows)
    codes = apply("quantise", rows, scales)
    for bytes_kept, expected in ((1 << 10, ["a"]), (0, ["a", "a"])):
        monkeypatch.setattr(recipes, "_REMEMBERED", bytes_kept)
        evaluator = Evaluator(tensors)
        np.testing.assert_array_equal(evaluator(codes), evaluate(codes, TABLE.__getitem__))
        np.testing.assert_array_equal(evaluator(scales), evaluate(scales, TABLE.__getitem__))
        assert read == expected
        read.clear()


def test_kernels_take_the_place_of_references() -> None:
    def scales(weight: np.ndarray, *, bits: int, group: int) -> np.ndarray:
        return weight[:, 0][None] * bits

    own = Evaluator(TABLE.__getitem__, lambda: {"scales": scales})
    np.testing.assert_array_equal(own(apply("scales", Leaf("a", t(2, 3)))), [[0.0, 24.0]])
