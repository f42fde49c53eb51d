"""Large results, which kernels write where the caller gets them."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from executable_toy import plan_of, tensor

from forgec.errors import InputError
from forgec.executable import Executable
from forgec.executable.results import LEAST, Turns
from forgec.executable.signature import Signature

ROWS, COLUMNS = 3, LEAST // 2
"""Of the input: its elements are more than the bytes of the smallest result that is not copied."""

X = f"f32[{ROWS},{COLUMNS}]"
FLAT = f"f32[{ROWS * COLUMNS}]"
TURNED = f"f32[{COLUMNS},{ROWS}]"


def program(body: str, results: list[tuple[str, str, str]]) -> Executable:
    """Of inputs x and row, for results of (register, name, type)."""
    named = ", ".join(f'{register} "{name}": {kind}' for register, name, kind in results)
    text = f'program @main(r0 "x": {X}, r1 "row": i64[1]) -> ({named}) {{\n{body}\n'
    text += "  return " + ", ".join(register for register, _, _ in results) + "\n}\n"
    signature = Signature(
        {"kind": "tuple", "items": [tensor(0, "x", X), tensor(1, "row", "i64[1]")]},
        {"kind": "dict", "items": {}},
        {"kind": "tuple", "items": [tensor(i, name, kind) for i, (_, name, kind) in enumerate(results)]},
        ("x", "row"),
    )
    return Executable(*plan_of(text), signature, {}.__getitem__)


def exponential() -> Executable:
    """exp(x), flat, and the row of x that an index chooses."""
    body = f"""\
  r2: {X} = exp r0
  r3: {FLAT} = reshape r2 {{shape=[{ROWS * COLUMNS}]}}
  r4: f32[1,{COLUMNS}] = embedding r0, r1"""
    return program(body, [("r3", "flat", FLAT), ("r4", "chosen", f"f32[1,{COLUMNS}]")])


def inputs(seed: int, row: int = 0) -> list[np.ndarray]:
    x = np.random.default_rng(seed).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    return [x, np.array([row])]


def want(seed: int) -> np.ndarray:
    return np.exp(inputs(seed)[0]).reshape(-1)


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("runtime", ["native", "numpy"])
def test_a_result_is_its_callers_for_good(monkeypatch, runtime) -> None:
    monkeypatch.setenv("FORGEC_CPU", runtime)
    exe = exponential()
    held = [exe.run_flat(inputs(seed)) for seed in range(6)]
    for seed, (flat, chosen) in enumerate(held):
        np.testing.assert_allclose(flat, want(seed), rtol=1e-6)
        np.testing.assert_array_equal(chosen[0], inputs(seed)[0][0])
        assert flat.flags.c_contiguous and flat.flags.writeable
        flat[...] = 0
    assert len({address(array) for outputs in held for array in outputs}) == 12
    np.testing.assert_allclose(exe.run_flat(inputs(9))[0], want(9), rtol=1e-6)


def test_a_loop_goes_through_two_places() -> None:
    exe = exponential()
    places = set()
    for seed in range(8):
        flat, _ = exe.run_flat(inputs(seed))
        places.add(address(flat))
        np.testing.assert_allclose(flat, want(seed), rtol=1e-6)
    assert len(places) == 2


PARTS = {
    "slice": lambda array: array[7:100],
    "tensor": lambda array: torch.from_numpy(array)[7:100],
    "view": lambda array: array.view(np.int32).view(np.float32)[7:100],
    "dlpack": lambda array: torch.from_dlpack(array)[7:100],
    "buffer": lambda array: memoryview(array)[7:100],
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_result_keeps_it(part) -> None:
    exe = exponential()
    flat, _ = exe.run_flat(inputs(1))
    kept = PARTS[part](flat)
    before = np.array(kept)
    del flat
    for seed in range(2, 6):
        exe.run_flat(inputs(seed))
    np.testing.assert_array_equal(np.array(kept), before)


def test_results_outlive_the_executable() -> None:
    exe = exponential()
    flat, _ = exe.run_flat(inputs(1))
    clone = exe.clone()
    exe.close()
    other, _ = clone.run_flat(inputs(2))
    del exe, clone
    gc.collect()
    np.testing.assert_allclose(flat, want(1), rtol=1e-6)
    np.testing.assert_allclose(other, want(2), rtol=1e-6)


def test_a_failed_run_gives_its_place_back() -> None:
    exe = exponential()
    first, _ = exe.run_flat(inputs(1))
    place = address(first)
    del first
    for _ in range(3):
        with pytest.raises(InputError, match="index 3 is outside an axis of 3"):
            exe.run_flat(inputs(1, row=3))
    assert address(exe.run_flat(inputs(2))[0]) == place


class CountedStep:
    """A step that does nothing, and counts how often it was moved."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None: ...

    def moved(self, old: list[np.ndarray], new: list[np.ndarray]) -> CountedStep:
        self.times += 1
        return self


@pytest.mark.parametrize("end", [0, -1])
def test_of_what_was_held_two_places_are_kept(end: int) -> None:
    step = CountedStep()
    turns = Turns([step], {0: np.zeros(4, np.float32)})
    held = [turns.take() for _ in range(6)]
    assert step.times == 5
    while held:
        held.pop(end)
    again = [turns.take() for _ in range(6)]
    assert step.times == 9 and len(again) == 6


def test_results_that_share_memory_are_apart_for_the_caller() -> None:
    body = f"""\
  r2: {X} = exp r0
  r3: {TURNED} = transpose r2 {{perm=[1,0]}}
  r4: {FLAT} = reshape r2 {{shape=[{ROWS * COLUMNS}]}}
  r5: {X} = neg r0
  r6: {TURNED} = transpose r5 {{perm=[1,0]}}"""
    exe = program(
        body,
        [
            ("r2", "a", X), ("r2", "b", X), ("r3", "wide", TURNED),
            ("r4", "flat", FLAT), ("r0", "same", X), ("r6", "other", TURNED),
        ],
    )  # fmt: skip
    x, row = inputs(3)
    e = np.exp(x)
    for _ in range(3):
        outputs = exe.run_flat([x, row])
        for got, expected in zip(outputs, (e, e, e.T, e.reshape(-1), x, -x.T), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-6)
            assert got.flags.c_contiguous
            got[...] = 7
        assert not np.shares_memory(outputs[4], x)


def test_a_result_that_is_read_later_is_read_where_it_lies() -> None:
    body = f"""\
  r2: {X} = exp r0
  r3: {X} = add r2, r0
  r4: {X} = neg r3"""
    exe = program(body, [("r2", "a", X), ("r4", "b", X), ("r3", "c", X)])
    held = []
    for seed in range(4):
        x = inputs(seed)[0]
        a, b, c = exe.run_flat(inputs(seed))
        np.testing.assert_allclose(a, np.exp(x), rtol=1e-6)
        np.testing.assert_allclose(c, np.exp(x) + x, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(b, -c)
        held.append(b)
    for seed, b in enumerate(held):
        x = inputs(seed)[0]
        np.testing.assert_allclose(b, -(np.exp(x) + x), rtol=1e-5, atol=1e-6)


def test_other_element_types() -> None:
    kinds = f"bool[{ROWS},{COLUMNS}]", f"bf16[{ROWS},{COLUMNS}]"
    body = f'  r2: {kinds[0]} = gt r0, 0.0\n  r3: {kinds[1]} = cast r0 {{dtype="bf16"}}'
    exe = program(body, [("r2", "flags", kinds[0]), ("r3", "halves", kinds[1])])
    x = inputs(5)[0]
    for _ in range(3):
        flags, halves = exe.run_flat(inputs(5))
        np.testing.assert_array_equal(flags, x > 0)
        np.testing.assert_array_equal(halves, x.astype(halves.dtype))
        assert flags.dtype == np.bool_ and halves.dtype.name == "bfloat16"


def test_threads_share_an_executable() -> None:
    exe = exponential()

    def work(seed: int) -> None:
        for _ in range(5):
            np.testing.assert_allclose(exe.run_flat(inputs(seed))[0], want(seed), rtol=1e-6)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
