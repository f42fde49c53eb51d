"""Caches written in place: when, and that it means the same."""

from __future__ import annotations

import numpy as np
import pytest

from forgec.errors import InputError
from forgec.executable import Executable
from forgec.executable.signature import Signature
from forgec.ir.in_place import flatten
from forgec.ir.interpreter import Interpreter
from forgec.ir.parser import parse
from forgec.ir.printer import to_text
from forgec.ir.verifier import verify
from forgec.plan.check import check_plan
from forgec.plan.planner import make_plan

CACHED = """program @main(r0 "x": f32[1,2,3,4], r1 "at": i64[]) -> (r4 "y": f32[1,2,3,4]) {
  state s0: f32[1,2,8,4]
  r2: f32[1,2,8,4] = read_state s0
  r3: f32[1,2,8,4] = update_rows r2, r0, r1
  r5: i64[] = add r1, 3
  r4: f32[1,2,3,4] = attention r0, r3, r3, _, r5 {causal=true}
  write_state s0, r3
  return r4
}
"""


def ops(text: str) -> list[str]:
    program = parse(text)
    verify(program)
    return [instr.op for instr in flatten(program).main.body]


def test_a_cache_is_written_in_place():
    assert ops(CACHED) == ["write_rows", "view_state", "add", "attention"]


@pytest.mark.parametrize(
    "change",
    [
        ("attention r0, r3, r3, _, r5", "attention r0, r2, r3, _, r5"),  # the old value is read
        ("write_state s0, r3", "write_state s0, r2"),  # the old value stays
        ("-> (r4", '-> (r3 "cache": f32[1,2,8,4], r4'),  # the caller gets the value
    ],
)
def test_a_cache_that_is_read_otherwise_is_not(change):
    text = CACHED.replace(*change)
    if "cache" in change[1]:
        text = text.replace("return r4", "return r3, r4")
    assert "write_rows" not in ops(text)


def test_the_flat_program_prints_parses_and_verifies():
    flat = flatten(parse(CACHED))
    verify(flat)
    assert to_text(parse(to_text(flat))) == to_text(flat)


def _executable(text: str = CACHED) -> Executable:
    from forgec import backends

    program = parse(text)
    plan = make_plan(flatten(program), backends=[backends.get("cpu")], target="cpu")
    check_plan(plan)
    inputs = [
        {"kind": "tensor", "index": i, "name": name, "type": str(r.type)}
        for i, (name, r) in enumerate(zip(program.main.param_names, program.main.params, strict=True))
    ]
    out = {"kind": "tensor", "index": 0, "name": "y", "type": str(program.main.results[0].type)}
    signature = Signature(
        {"kind": "tuple", "items": inputs},
        {"kind": "dict", "items": {}},
        out,
        tuple(program.main.param_names),
    )
    return Executable(program, plan, signature, lambda name: np.zeros(0))


@pytest.mark.parametrize("runtime", ["native", "numpy"])
def test_runs_mean_what_the_interpreter_says(runtime, monkeypatch):
    monkeypatch.setenv("FORGEC_CPU", runtime)
    seed = 3
    rng = np.random.default_rng(seed)
    executable = _executable()
    assert max(arena.nbytes for arena in executable.plan.arenas.values()) < 2 * 8 * 4 * 4 * 3, (
        "a copy of the cache"
    )
    interpreter = Interpreter(parse(CACHED), lambda name: np.zeros(0))
    for position in (0, 3, 5, 1, 4):
        x = rng.standard_normal((1, 2, 3, 4)).astype(np.float32)
        (want,) = interpreter.run([x, np.array(position)])
        np.testing.assert_allclose(executable(x, position), want, atol=1e-6, err_msg=f"seed {seed}")


@pytest.mark.parametrize("runtime", ["native", "numpy"])
@pytest.mark.parametrize("position", [-1, 6, 1 << 40])
def test_rows_that_do_not_fit_are_an_error_and_change_nothing(runtime, position, monkeypatch):
    monkeypatch.setenv("FORGEC_CPU", runtime)
    executable = _executable()
    x = np.ones((1, 2, 3, 4), np.float32)
    executable(x, 0)
    before = {name: array.copy() for name, array in executable.states.arrays().items()}
    with pytest.raises(InputError, match="outside"):
        executable(2 * x, position)
    for name, array in executable.states.arrays().items():
        np.testing.assert_array_equal(array, before[name])


RECURRENT = """program @main(r0 "x": f32[4], r1 "i": i64[1]) -> (r7 "y": f32[4]) {
  state s0: f32[4]
  r2: f32[4] = read_state s0
  r3: f32[4] = mul r2, 0.5
  r4: f32[4] = add r3, r0
  r5: f32[1] = gather r4, r1
  r6: f32[4] = sub r2, r0
  r7: f32[4] = mul r6, r5
  write_state s0, r4
  return r7
}
"""


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ([], "view_state mul add gather sub write_state mul"),  # the old value is needed that long
        ([("sub r2", "sub r4")], "view_state mul add gather write_state sub mul"),  # an index may be wrong
        (
            [("sub r2", "sub r4"), ("gather r4, r1", "slice r4 {stop=1}")],
            "view_state mul add write_state slice sub mul",
        ),
        ([('r7 "y"', 'r2 "y"'), ("return r7", "return r2")], "read_state mul add gather sub mul write_state"),
        ([("s0, r4", "s0, r2")], "read_state mul add gather sub mul write_state"),
        ([("s0, r4", "s0, r0")], "view_state mul add gather sub write_state mul"),
        ([("add r3, r0", "reshape r2 {shape=[4]}")], "read_state reshape gather sub mul write_state mul"),
    ],
)
def test_states_are_read_where_they_are_and_written_when_they_may_be(changes, wanted):
    text = RECURRENT
    for change in changes:
        assert change[0] in text
        text = text.replace(*change)
    assert " ".join(ops(text)) == wanted


@pytest.mark.parametrize("runtime", ["native", "numpy"])
@pytest.mark.parametrize("old", ["r2", "r4"])
def test_states_that_are_written_whole(runtime, old, monkeypatch):
    """They mean what the interpreter says, and a run that fails leaves them as they were."""
    monkeypatch.setenv("FORGEC_CPU", runtime)
    text = RECURRENT.replace("sub r2", f"sub {old}")
    executable, interpreter = _executable(text), Interpreter(parse(text), lambda name: np.zeros(0))
    rng = np.random.default_rng(5)
    for index in (0, 3, 9, 1):
        x, i = rng.standard_normal(4).astype(np.float32), np.array([index])
        if index == 9:
            with pytest.raises(InputError, match="index 9"):
                executable(x, i)
            continue
        (want,) = interpreter.run([x, i])
        np.testing.assert_allclose(executable(x, i), want, atol=1e-6)


def test_what_is_computed_from_a_state_alone_waits_for_its_reader():
    text = """program @main(r0 "x": f32[4], r1 "on": bool[]) -> (r6 "y": f32[4]) {
  state s0: f32[4]
  r2: f32[4] = read_state s0
  r3: f32[4] = where r1, r2, 0.0
  r4: f32[4] = exp r0
  r5: f32[4] = neg r4
  r6: f32[4] = mul r3, r5
  write_state s0, r6
  return r6
}
"""
    assert ops(text) == ["view_state", "exp", "neg", "where", "mul", "write_state"]
    unread = text.replace("mul r3, r5", "mul r4, r5")
    assert ops(unread) == ["view_state", "exp", "neg", "mul", "where", "write_state"]
    larger = text.replace("r1, r2, 0.0", "r1, r2, r0")
    assert ops(larger) == ["view_state", "where", "exp", "neg", "mul", "write_state"]


def test_a_state_that_takes_the_other_ones_value_is_copied_first():
    text = """program @main(r0 "x": f32[4]) -> (r3 "y": f32[4]) {
  state s0: f32[4]
  state s1: f32[4]
  r1: f32[4] = read_state s0
  r2: f32[4] = read_state s1
  r3: f32[4] = add r1, r0
  write_state s0, r2
  write_state s1, r3
  return r3
}
"""
    assert ops(text) == ["read_state", "view_state", "add", "write_state", "write_state"]
