"""The call signature: every way to give inputs, every way to get them wrong, and JSON."""

from __future__ import annotations

import json
import sys

import ml_dtypes
import numpy as np
import pytest
from executable_toy import SIGNATURE, tensor

from forgec.errors import ArtifactError, InputError
from forgec.executable.convert import to_array
from forgec.executable.signature import Signature
from forgec.ir.types import DType, TensorType

IDS, MASK = np.arange(8).reshape(2, 4), np.ones((2, 1, 1, 4), bool)


def one(kind: str) -> Signature:
    """A signature of one input x."""
    return Signature(
        {"kind": "tuple", "items": [tensor(0, "x", kind)]},
        {"kind": "dict", "items": {}},
        {"kind": "none"},
        ("x",),
    )


NESTED = Signature(
    {
        "kind": "tuple",
        "items": [
            {"kind": "list", "items": [tensor(0, "pair.0", "f32[2]"), tensor(2, "pair.1", "f32[1]")]},
            {"kind": "none"},
        ],
    },
    {
        "kind": "dict",
        "items": {
            "cache": {"kind": "dict", "items": {"k": tensor(1, "cache.k", "i64[]"), "v": {"kind": "none"}}},
            "use_cache": {"kind": "literal", "value": False},
        },
    },
    {
        "kind": "tuple",
        "items": [
            tensor(1, "b", "f32[2]"),
            {"kind": "dict", "items": {"x": tensor(0, "a", "f32[1]"), "n": {"kind": "none"}}},
            {"kind": "list", "items": [tensor(1, "b", "f32[2]"), {"kind": "literal", "value": "text"}]},
        ],
    },
    ("pair", "labels", "cache", "use_cache", "output_attentions"),
)


class TestCalling:
    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            ((IDS,), {"mask": MASK}),
            ((IDS, MASK), {}),
            ((), {"ids": IDS, "mask": MASK}),
            ((), {"mask": MASK, "ids": IDS}),
        ],
    )
    def test_by_position_and_by_keyword(self, args, kwargs) -> None:
        ids, mask = SIGNATURE.flatten(args, kwargs)
        assert ids is IDS or np.shares_memory(ids, IDS)
        assert np.shares_memory(mask, MASK)

    def test_nested_inputs_come_by_index(self) -> None:
        pair, cache = [np.zeros(2, np.float32), np.ones(1, np.float32)], {"k": 7, "v": None}
        for args, kwargs in (
            ((pair, None), {"cache": cache}),
            ((pair,), {"cache": cache, "use_cache": False}),
            ((pair, None, cache, False), {}),
            ((tuple(pair), None, cache, 0, None), {}),
        ):
            flat = NESTED.flatten(args, kwargs)
            assert [x.shape for x in flat] == [(2,), (), (1,)]
            assert flat[1] == 7

    def test_outputs_are_nested_again(self) -> None:
        a, b = np.zeros(1), np.ones(2)
        out = NESTED.unflatten([a, b])
        assert isinstance(out, tuple) and isinstance(out[2], list)
        assert out[0] is b and out[1] == {"x": a, "n": None} and out[2][0] is b and out[2][1] == "text"

    @pytest.mark.parametrize(
        ("args", "kwargs", "message"),
        [
            ((IDS,), {}, r"input 'mask' is missing: a tensor bool\[2,1,1,4\]"),
            ((), {"mask": MASK}, "input 'ids' is missing"),
            ((IDS,), {"msk": MASK, "mask": MASK}, "no input 'msk'(.|\n)*did you mean 'mask'"),
            ((IDS,), {"zzzzzz": MASK, "mask": MASK}, "no input 'zzzzzz'(.|\n)*the inputs are ids: i64"),
            ((IDS, MASK), {"mask": MASK}, "'mask' is given twice"),
            ((IDS, MASK, IDS), {}, "3 positional inputs"),
        ],
    )
    def test_wrong_names_and_counts(self, args, kwargs, message) -> None:
        with pytest.raises(InputError, match=message):
            SIGNATURE.flatten(args, kwargs)

    @pytest.mark.parametrize(
        ("args", "kwargs", "message"),
        [
            (([np.zeros(2, np.float32)],), {}, "'pair' must be a list of 2, not a list of 1"),
            ((np.zeros(2, np.float32),), {}, "'pair' must be a list of 2, not a ndarray"),
            (([np.zeros(2, np.float32), np.zeros(2, np.float32)],), {}, r"'pair.1' must be f32\[1\]"),
            ((None, np.zeros(1)), {}, "'pair' must be a list of 2, not None"),
            (([0, 0], 5), {"cache": {"k": 1, "v": None}}, "'pair.0' must be f32"),
            (
                ([np.zeros(2, np.float32), np.zeros(1, np.float32)], 5),
                {},
                "'labels' was None when the program",
            ),
            (
                ([np.zeros(2, np.float32), np.zeros(1, np.float32)],),
                {"cache": {"k": 1}},
                "'cache' must be a dict of 'k', 'v'",
            ),
            (
                ([np.zeros(2, np.float32), np.zeros(1, np.float32)],),
                {"cache": {"k": 1, "v": None}, "use_cache": True},
                "'use_cache' was fixed to False (.|\n)*and now is True",
            ),
            (
                ([np.zeros(2, np.float32), np.zeros(1, np.float32)],),
                {"cache": {"k": 1, "v": None}, "output_attentions": True},
                "'output_attentions' was not given when the program was compiled",
            ),
        ],
    )
    def test_wrong_structure(self, args, kwargs, message) -> None:
        with pytest.raises(InputError, match=message):
            NESTED.flatten(args, kwargs)

    def test_without_parameter_names_inputs_are_numbered(self) -> None:
        signature = Signature(SIGNATURE.args, SIGNATURE.kwargs, SIGNATURE.outputs)
        assert len(signature.flatten((IDS,), {"mask": MASK})) == 2
        assert len(signature.flatten((), {"arg0": IDS, "mask": MASK})) == 2
        with pytest.raises(InputError, match="2 positional"):
            signature.flatten((IDS, MASK))


class TestConversion:
    def flat(self, kind: str, value):
        (array,) = one(kind).flatten((value,))
        assert TensorType.of(array) == TensorType(DType(kind.split("[")[0]), array.shape)
        return array

    def test_integers_of_another_width_are_cast_if_they_fit(self) -> None:
        for dtype in (np.int8, np.uint16, np.int32, np.uint64):
            np.testing.assert_array_equal(self.flat("i64[3]", np.array([0, 1, 100], dtype)), [0, 1, 100])
        np.testing.assert_array_equal(self.flat("i8[2]", np.array([-128, 127])), [-128, 127])
        with pytest.raises(InputError, match="holds 128, which does not fit"):
            self.flat("i8[2]", np.array([0, 128]))
        with pytest.raises(InputError, match="holds -1, which"):
            self.flat("u8[1]", np.array([-1]))
        with pytest.raises(InputError, match=f"holds {2**64 - 1}, which"):
            self.flat("i64[1]", np.array([2**64 - 1], np.uint64))
        assert self.flat("i32[0]", np.zeros(0, np.int64)).size == 0

    def test_floats_of_another_width_are_cast_if_nothing_is_lost(self) -> None:
        assert self.flat("f32[3]", np.array([0.5, np.nan, np.inf])).dtype == np.float32
        assert self.flat("f32[1]", np.array([1.5], np.float16))[0] == 1.5
        assert self.flat("f32[1]", np.array([1.5], ml_dtypes.bfloat16))[0] == 1.5
        assert self.flat("bf16[1]", np.array([1.5], np.float32))[0] == 1.5
        for kind, value in (
            ("f32[1]", np.array([0.1])),
            ("f16[1]", np.array([1e5])),
            ("bf16[1]", np.array([1.001])),
        ):
            with pytest.raises(InputError, match="cast it if that is meant"):
                self.flat(kind, value)

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("f32[2]", np.array([1, 2])),
            ("i64[2]", np.array([1.0, 2.0])),
            ("i64[2]", np.array([True, False])),
            ("bool[2]", np.array([1, 0])),
            ("f32[2]", np.array([1j, 0])),
            ("f32[2]", np.array(["a", "b"])),
            ("f32[2]", np.array([None, 1.0], object)),
        ],
    )
    def test_other_kinds_are_errors(self, kind, value) -> None:
        with pytest.raises(InputError, match=r"input 'x' must be .*and its elements are"):
            self.flat(kind, value)

    def test_python_scalars_for_rank_zero(self) -> None:
        assert self.flat("i64[]", 5) == 5
        assert self.flat("f32[]", 0.1) == np.float32(0.1)
        assert self.flat("f32[]", 2) == 2.0
        assert self.flat("bool[]", True)
        for kind, value in (("i64[]", 0.5), ("i64[]", True), ("bool[]", 1), ("i8[]", 1000), ("i64[]", 2**70)):
            with pytest.raises(InputError):
                self.flat(kind, value)
        with pytest.raises(InputError, match=r"has the shape \[\]"):
            self.flat("f32[1]", 0.5)

    @pytest.mark.parametrize(
        ("shape", "hint"), [((4,), r"x\[None\]"), ((1, 1, 4), r"x\[0\]"), ((1, 5), "pad"), ((), "pad")]
    )
    def test_wrong_shape_says_what_to_try(self, shape, hint) -> None:
        with pytest.raises(InputError, match=rf"input 'x' must be f32\[1,4\](.|\n)*{hint}"):
            self.flat("f32[1,4]", np.zeros(shape, np.float32))

    def test_strides_and_byte_order(self) -> None:
        x = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2, ::-1]
        np.testing.assert_array_equal(self.flat("f32[2,3]", x), x)
        np.testing.assert_array_equal(self.flat("f32[2,3]", x.astype(">f4")), x)

    def test_an_array_whose_own_code_fails(self) -> None:
        class Fails:
            def __array__(self, *args, **kwargs):
                raise KeyError("inside")

        with pytest.raises(InputError, match="a Fails, cannot be read: 'inside'"):
            to_array(Fails(), TensorType(DType.F32, (2,)), "x")

    def test_dlpack_array_protocol_and_lists(self) -> None:
        class Dlpack:
            def __init__(self, x):
                self.x = x

            def __dlpack__(self, **more):
                return self.x.__dlpack__(**more)

            def __dlpack_device__(self):
                return self.x.__dlpack_device__()

        class Array:
            def __array__(self, dtype=None, copy=None):
                return np.ones(2, np.float32)

        x = np.ones(2, np.float32)
        assert np.shares_memory(self.flat("f32[2]", Dlpack(x)), x)
        np.testing.assert_array_equal(self.flat("f32[2]", Array()), x)
        with pytest.raises(InputError, match=r"not a list(.|\n)*x=numpy.asarray"):
            self.flat("f32[2]", [1.0, 1.0])
        with pytest.raises(InputError, match="not a str"):
            self.flat("f32[2]", "ab")

    def test_torch_tensors(self) -> None:
        torch = pytest.importorskip("torch", reason="runs where forgec[compile] is installed")
        np.testing.assert_array_equal(self.flat("i64[2]", torch.tensor([1, 2], dtype=torch.int32)), [1, 2])
        x = torch.ones(2, requires_grad=True)
        np.testing.assert_array_equal(self.flat("f32[2]", x), [1, 1])
        np.testing.assert_array_equal(self.flat("f32[2]", torch.nn.Parameter(x.detach())), [1, 1])
        values = torch.tensor([[1.5, -2.0], [3.0, 4.0]], dtype=torch.bfloat16).T
        np.testing.assert_array_equal(self.flat("bf16[2,2]", values), [[1.5, 3.0], [-2.0, 4.0]])
        with pytest.raises(InputError, match=r"meta|Meta|cannot be read"):
            self.flat("f32[2]", torch.ones(2, device="meta"))


class TestJson:
    @pytest.mark.parametrize("signature", [SIGNATURE, NESTED, one("f32[0,3]"), one("u8[]")])
    def test_round_trip(self, signature) -> None:
        text = json.dumps(signature.to_json(), allow_nan=False)
        again = Signature.from_json(json.loads(text))
        assert again == signature and again.inputs == signature.inputs and again.results == signature.results

    @pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1, 1.0, True, "x"])
    def test_literals_come_back(self, value) -> None:
        spec = {"kind": "list", "items": [{"kind": "literal", "value": value}]}
        signature = Signature(
            {"kind": "tuple", "items": [spec]}, {"kind": "dict", "items": {}}, {"kind": "none"}
        )
        again = Signature.from_json(json.loads(json.dumps(signature.to_json(), allow_nan=False)))
        (item,) = again.args["items"][0]["items"]
        assert repr(item["value"]) == repr(value)
        assert again.flatten(([value],)) == []

    @pytest.mark.parametrize(
        "damage",
        [
            lambda j: None,
            lambda j: [],
            lambda j: {**j, "more": 1},
            lambda j: {k: v for k, v in j.items() if k != "outputs"},
            lambda j: {**j, "args": {"kind": "list", "items": []}},
            lambda j: {**j, "args": 5},
            lambda j: {**j, "kwargs": {"kind": "tuple", "items": []}},
            lambda j: {**j, "parameters": "ids"},
            lambda j: {**j, "parameters": [1]},
            lambda j: {**j, "parameters": ["mask"]},
            lambda j: {**j, "outputs": {"kind": "magic"}},
            lambda j: {**j, "outputs": {"kind": "literal", "value": [1]}},
            lambda j: {**j, "outputs": {"kind": "literal", "value": {"float": "1"}}},
            lambda j: {**j, "outputs": {"kind": "dict", "items": []}},
            lambda j: {**j, "outputs": tensor(1, "x", "f32[1]")},
            lambda j: {**j, "outputs": tensor(0, "x", "f32[-1]")},
            lambda j: {**j, "outputs": tensor(0, "x", "f32[1,]")},
            lambda j: {**j, "outputs": tensor(0, "x", "f31[1]")},
            lambda j: {**j, "outputs": tensor(0, "x", 5)},
            lambda j: {**j, "outputs": tensor(0, 5, "f32[1]")},
            lambda j: {**j, "outputs": tensor(True, "x", "f32[1]")},
            lambda j: {**j, "args": {"kind": "tuple", "items": [tensor(1, "ids", "i64[2,4]")]}},
        ],
    )
    def test_malformed_is_an_artifact_error(self, damage) -> None:
        with pytest.raises(ArtifactError, match="signature is malformed"):
            Signature.from_json(damage(SIGNATURE.to_json()))

    def test_deep_nesting_is_refused(self) -> None:
        spec: dict = {"kind": "none"}
        for _ in range(min(500, sys.getrecursionlimit() // 4)):
            spec = {"kind": "list", "items": [spec]}
        with pytest.raises(ArtifactError, match="nested deeper"):
            Signature.from_json({**SIGNATURE.to_json(), "outputs": spec})
