"""Programs bound to memory of the caller."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from executable_toy import counter, example, plan_of, tensor, toy

from forgec.errors import InputError
from forgec.executable import Executable
from forgec.executable.signature import Signature

OUTPUTS = """\
program @main(r0 "x": f32[2,3]) -> (r0 "same": f32[2,3], r2 "y": f32[3,2], r1 "a": f32[2,3], r1 "b": f32[2,3]) {
  r1: f32[2,3] = exp r0
  r2: f32[3,2] = transpose r1 {perm=[1,0]}
  return r0, r2, r1, r1
}
"""


def outputs_program() -> Executable:
    """Outputs that are an input, a view, and one register twice."""
    names = ("same", "f32[2,3]"), ("y", "f32[3,2]"), ("a", "f32[2,3]"), ("b", "f32[2,3]")
    items = [tensor(i, name, kind) for i, (name, kind) in enumerate(names)]
    signature = Signature(
        {"kind": "tuple", "items": [tensor(0, "x", "f32[2,3]")]},
        {"kind": "dict", "items": {}},
        {"kind": "tuple", "items": items},
        ("x",),
    )
    return Executable(*plan_of(OUTPUTS), signature, {}.__getitem__)


@pytest.mark.parametrize("runtime", ["native", "numpy"])
def test_inputs_are_read_and_outputs_written_where_they_lie(monkeypatch, runtime) -> None:
    monkeypatch.setenv("FORGEC_CPU", runtime)
    exe = toy()
    ids, mask = (array.copy() for array in example(1))
    call = exe.bind([ids, mask])
    first = call()
    assert [id(array) for array in first] == [id(array) for array in call.outputs]
    for seed in (1, 2, 3):
        for place, value in zip((ids, mask), example(seed), strict=True):
            place[...] = value
        for got, want in zip(call(), exe.run_flat(example(seed)), strict=True):
            np.testing.assert_array_equal(got, want)
    before = [array.copy() for array in example(3)]
    assert all(np.array_equal(a, b) for a, b in zip((ids, mask), before, strict=True)), (
        "inputs are not written"
    )


@pytest.mark.parametrize("kind", ["tensor", "dlpack", "numpy"])
def test_what_memory_may_be(kind) -> None:
    exe = toy()
    ids, mask = example()
    places = [torch.zeros(2, 4, 9), torch.zeros(2, 4, 8)]
    given = [torch.from_numpy(ids), torch.from_numpy(mask)]
    if kind == "dlpack":
        exe.bind([DlpackOnly(x) for x in given], places)()
    elif kind == "numpy":
        exe.bind([ids, mask], [x.numpy() for x in places])()
    else:
        exe.bind(given, places)()
    for got, want in zip(places, exe.run_flat([ids, mask]), strict=True):
        np.testing.assert_array_equal(got.numpy(), want)


class DlpackOnly:
    """Memory of another library."""

    def __init__(self, x: torch.Tensor) -> None:
        self._x = x

    def __dlpack__(self, **how):
        return self._x.__dlpack__(**how)

    def __dlpack_device__(self):
        return self._x.__dlpack_device__()


def test_outputs_that_have_no_memory_of_their_own() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    call = outputs_program().bind([x])
    for _ in range(2):
        same, y, a, b = call()
        np.testing.assert_array_equal(same, x)
        np.testing.assert_allclose(a, np.exp(x), rtol=1e-6)
        np.testing.assert_array_equal(b, a)
        np.testing.assert_array_equal(y, a.T)
        x += 0.5


RESHAPED = """\
program @main(r0 "x": f32[2,6]) -> (r2 "y": f32[3,4]) {
  r1: f32[2,6] = exp r0
  r2: f32[3,4] = reshape r1 {shape=[3,4]}
  return r2
}
"""


@pytest.mark.parametrize("runtime", ["native", "numpy"])
def test_a_whole_result_in_another_shape_is_written_where_it_lies(monkeypatch, runtime) -> None:
    monkeypatch.setenv("FORGEC_CPU", runtime)
    signature = Signature(
        {"kind": "tuple", "items": [tensor(0, "x", "f32[2,6]")]},
        {"kind": "dict", "items": {}},
        {"kind": "tuple", "items": [tensor(0, "y", "f32[3,4]")]},
        ("x",),
    )
    exe = Executable(*plan_of(RESHAPED), signature, {}.__getitem__)
    x, y = np.arange(12, dtype=np.float32).reshape(2, 6) / 7, np.zeros((3, 4), np.float32)
    call = exe.bind([x], [y])
    copied: list[object] = []
    monkeypatch.setattr(np, "copyto", lambda *arguments: copied.append(arguments))
    for _ in range(2):
        call()
        np.testing.assert_allclose(y, np.exp(x).reshape(3, 4), rtol=1e-6)
        x += 0.5
    assert not copied


def test_states_are_those_of_the_executable() -> None:
    exe = counter()
    ones = np.ones(3, np.float32)
    call = exe.bind([ones])
    call()
    exe(ones)
    np.testing.assert_array_equal(call()[0], 3 * ones)


def test_what_does_not_fit_is_named() -> None:
    exe = toy()
    ids, mask = example()
    outs = [np.zeros((2, 4, 9), np.float32), np.zeros((2, 4, 8), np.float32)]
    fixed = outs[0].copy()
    fixed.flags.writeable = False
    for inputs, outputs, says in (
        ([ids], None, "1 inputs given"),
        ([ids.astype(np.int32), mask], None, "'ids' must be i64"),
        ([ids.T.copy().T, mask], None, "'ids' must be contiguous"),
        ([ids, mask], outs[:1], "1 outputs given"),
        ([ids, mask], [fixed, outs[1]], "writable"),
        ([ids, mask], [outs[0], np.zeros((2, 4, 9), np.float32)], "'hidden' must be f32"),
    ):
        with pytest.raises(InputError, match=says):
            exe.bind(inputs, outputs)
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(InputError, match="'a' shares memory"):
        outputs_program().bind([x], [np.empty_like(x), np.empty((3, 2), np.float32), x, np.empty_like(x)])
