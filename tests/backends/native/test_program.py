"""Whole programs: arenas, views, states, constants, clones, threads, profiles, errors, instruction sets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from forgec.backends.cpu import native
from forgec.backends.cpu.native import NativeProgram, Team
from forgec.backends.cpu.native.binding import NativeStep

from forgec.errors import InputError, OptionError, PlanError, UnsupportedOpError
from forgec.ir.op import get
from forgec.ir.program import (
    Constant,
    ConstRef,
    Function,
    Instr,
    Leaf,
    Literal,
    Operand,
    Program,
    Register,
    StateRef,
)
from forgec.ir.types import DType, TensorType

TABLE = TensorType(DType.F32, (10, 24))
WEIGHT = TensorType(DType.F32, (24, 24))
IDS = TensorType(DType.I64, (2, 7))


class _Builder:
    """Appends instructions and gives every register a place of its own."""

    def __init__(self) -> None:
        self.body: list[Instr] = []
        self.offsets: dict[Register, int] = {}
        self.nbytes = 0
        self._count = 0

    def register(self, t: TensorType, stored: bool = True) -> Register:
        r = Register(self._count, t)
        self._count += 1
        if stored:
            self.offsets[r] = self.nbytes
            self.nbytes += -(-t.nbytes // 64) * 64
        return r

    def add(self, op: str, *operands: Operand, **attrs: object) -> Register:
        types = [None if x is None or isinstance(x, Literal) else x.type for x in operands]
        results = tuple(
            self.register(t, stored=not get(op).view)
            for t in get(op).result_types(types, attrs)  # type: ignore[arg-type]
        )
        self.body.append(Instr(op, operands, results, attrs))  # type: ignore[arg-type]
        return results[-1] if results else Register(-1, IDS)


def _model() -> tuple[Program, _Builder, dict[str, np.ndarray]]:
    """Embedding, attention on views, a residual linear and a counter in a state."""
    b = _Builder()
    table, weight = ConstRef("table", TABLE), ConstRef("weight", WEIGHT)
    state = StateRef("seen", TensorType(DType.F32, (2, 7, 24)))
    ids = b.register(IDS)
    x = b.add("embedding", table, ids)
    projected = b.add("linear", x, weight, None, None, act="gelu")
    heads = b.add("transpose", b.add("reshape", projected, shape=(2, 7, 3, 8)), perm=(0, 2, 1, 3))
    y = b.add("attention", heads, heads, heads, None, scale=0.3, causal=True, seq_major=True)
    flat = b.add("reshape", y, shape=(2, 7, 24))
    out = b.add("linear", flat, weight, None, x)
    before = b.add("read_state", state)
    after = b.add("add", before, Literal(1.5))
    b.add("write_state", state, after)
    total = b.add("add", out, after)
    main = Function("main", (ids,), ("ids",), b.body, (total,), ("total",))
    constants = {c.name: Constant(c.name, c.type, Leaf(c.name, c.type)) for c in (table, weight)}
    program = Program("main", {"main": main}, constants, {"seen": state.type})
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(c.type.shape).astype(np.float32) for name, c in constants.items()}
    return program, b, arrays


def _expected(arrays: dict[str, np.ndarray], ids: np.ndarray, seen: float) -> np.ndarray:
    x = arrays["table"][ids]
    (projected,) = get("linear").evaluate([x, arrays["weight"], None, None], {"act": "gelu"})
    heads = projected.reshape(2, 7, 3, 8).transpose(0, 2, 1, 3)
    (y,) = get("attention").evaluate(
        [heads, heads, heads, None], {"scale": 0.3, "causal": True, "seq_major": True}
    )
    (out,) = get("linear").evaluate([y.reshape(2, 7, 24), arrays["weight"], None, x], {})
    return out + np.float32(seen)


def _native(threads: int = 1) -> tuple[NativeProgram, dict[str, np.ndarray]]:
    program, b, arrays = _model()
    return NativeProgram(program, b.offsets, b.nbytes, arrays, threads), arrays


IDS_A = np.arange(14).reshape(2, 7) % 10


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_program_with_views_constants_and_state(isa: str, threads: int) -> None:
    exe, arrays = _native(threads)
    for run in (1, 2):
        (got,) = exe.run([IDS_A])
        np.testing.assert_allclose(got, _expected(arrays, IDS_A, 1.5 * run), rtol=1e-5, atol=1e-4)
    place = np.empty((2, 7, 24), np.float32)
    assert exe.run([IDS_A], [place])[0] is place
    np.testing.assert_allclose(place, _expected(arrays, IDS_A, 4.5), rtol=1e-5, atol=1e-4)


def test_clones_run_at_the_same_time_and_have_states_of_their_own(isa: str) -> None:
    exe, arrays = _native(2)
    clones = [exe.clone() for _ in range(4)]
    inputs = [(IDS_A + i) % 10 for i in range(4)]
    results: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        for _ in range(50):
            results[i] = clones[i].run([inputs[i]])[0]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i in range(4):
        np.testing.assert_allclose(results[i], _expected(arrays, inputs[i], 75.0), rtol=1e-5, atol=1e-4)


def test_programs_that_share_a_team_run_at_the_same_time(isa: str) -> None:
    team = Team(2)
    rng = np.random.default_rng(0)
    steps, wants, outs = [], [], []
    t = TensorType(DType.F32, (40, 64))
    for _ in range(3):
        x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((40, 64), (64, 64)))
        out = np.empty((40, 64), np.float32)
        instr = Instr(
            "linear", (Register(0, t), Register(1, TensorType.of(w)), None, None), (Register(2, t),)
        )
        step = NativeStep(team)
        assert step.add(instr, [x, w, None, None], [out], {}) is None
        steps.append(step)
        outs.append(out)
        wants.append(x @ w.T)
    workers = [threading.Thread(target=lambda step=step: [step() for _ in range(200)]) for step in steps]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for out, want in zip(outs, wants, strict=True):
        np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-4)


def test_an_index_out_of_range_stops_the_run_and_the_next_run_works(isa: str) -> None:
    exe, arrays = _native(2)
    bad = IDS_A.copy()
    bad[1, 3] = 10
    with pytest.raises(InputError, match="index 10 is outside an axis of 10"):
        exe.run([bad])
    (got,) = exe.run([IDS_A])
    np.testing.assert_allclose(got, _expected(arrays, IDS_A, 1.5), rtol=1e-5, atol=1e-4)


def test_a_trace_has_every_instruction_that_is_not_a_view_in_order(isa: str) -> None:
    exe, _ = _native(2)
    spans = exe.trace([IDS_A])
    ops = [group.op for group in {id(span.instr): span.instr for span in spans}.values()]
    assert ops == ["embedding", "linear", "attention", "linear", "read_state", "add"]  # what adds also writes
    for thread in (0, 1):
        own = [span for span in spans if span.thread == thread]
        assert all(a.end_ns <= b.begin_ns for a, b in pairwise(own))
        assert all(0 <= span.waited_ns <= span.end_ns - span.begin_ns for span in own)


def test_refused_instructions_come_in_one_message() -> None:
    b = _Builder()
    x = b.register(TensorType(DType.F64, (4,)))
    y = b.add("tanh", b.add("exp", x))
    main = Function("main", (x,), ("x",), b.body, (y,), ("y",))
    with pytest.raises(UnsupportedOpError, match=r"exp: .*\ntanh: "):
        NativeProgram(Program("main", {"main": main}), b.offsets, b.nbytes, {}, 1)
    assert native.supports(b.body[0]) is not None


def test_a_register_outside_the_arena_is_refused() -> None:
    program, b, arrays = _model()
    with pytest.raises(PlanError, match="has no place"):
        NativeProgram(program, b.offsets, b.nbytes - 64, arrays, 1)


def test_steps_mix_native_kernels_and_fallbacks(isa: str) -> None:
    b = _Builder()
    x = b.register(TensorType(DType.F32, (3, 4)))
    wide = b.add("cast", b.add("mul", x, Literal(2.0)), dtype="f64")
    y = b.add("neg", b.add("cast", b.add("exp", wide), dtype="f32"))
    memory = {r: np.empty(r.type.shape, r.type.dtype.numpy) for r in b.offsets}
    fallbacks: list[str] = []

    def bind(instr: Instr) -> object:
        fallbacks.append(instr.op)
        return lambda: np.exp(memory[wide], memory[instr.results[0]])

    steps = native.steps(b.body, lambda r: r.value if isinstance(r, Literal) else memory[r], bind, Team(2))  # type: ignore
    assert fallbacks == ["exp"] and len(steps) == 3
    memory[x][...] = np.arange(12).reshape(3, 4) / 10
    for step in steps:
        step()
    np.testing.assert_allclose(memory[y], -np.exp(memory[x].astype(np.float64) * 2), rtol=1e-6)


def test_packed_weights_are_panels_of_48_outputs() -> None:
    weight = np.arange(60 * 3, dtype=np.float32).reshape(60, 3)
    instr = Instr("linear", (Register(0, WEIGHT), ConstRef("w", TensorType.of(weight)), None, None), ())
    assert native.packed_operands(instr) == {1: "f32.panel48"}
    packed = native.pack(instr, 1, weight)
    padded = np.concatenate([weight, np.zeros((36, 3), np.float32)])
    np.testing.assert_array_equal(packed, padded.reshape(2, 48, 3).transpose(0, 2, 1))
    np.testing.assert_array_equal(native.pack(instr, 1, np.asfortranarray(weight)), packed)
    assert {native.packing(DType.F32, isa) for isa in native.isas()} == {"f32.panel48"}


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="looks at processors of threads: run on Linux with two processors",
)
def test_a_thread_that_starts_where_another_runs_goes_elsewhere_and_may_return() -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((400, 64), (64, 64)))
    out = np.empty((400, 64), np.float32)
    types = [TensorType.of(a) for a in (x, w, out)]
    instr = Instr(
        "linear", (Register(0, types[0]), Register(1, types[1]), None, None), (Register(2, types[2]),)
    )
    step = NativeStep(Team(2))
    assert step.add(instr, [x, w, None, None], [out], {}) is None
    allowed, before = os.sched_getaffinity(0), set(os.listdir("/proc/self/task"))
    step()
    (worker,) = map(int, set(os.listdir("/proc/self/task")) - before)
    here = min(allowed)
    seen = set()
    try:
        os.sched_setaffinity(0, {here})
        for _ in range(20):
            os.sched_setaffinity(worker, {here})
            out.fill(0)
            step()  # there is nowhere else to go
            np.testing.assert_allclose(out, x @ w.T, rtol=1e-4, atol=1e-4)
            os.sched_setaffinity(worker, allowed)
            step()
            with open(f"/proc/self/task/{worker}/stat") as stat:
                seen.add(int(stat.read().rpartition(")")[2].split()[36]))
            assert os.sched_getaffinity(worker) == allowed
    finally:
        os.sched_setaffinity(0, allowed)
    assert seen - {here}


def test_unknown_instruction_set_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGEC_ISA", "avx1024")
    with pytest.raises(OptionError, match="FORGEC_ISA=avx1024"):
        native.isa()
    with pytest.raises(OptionError, match="at least 1"):
        Team(0)


WIDE = TensorType(DType.F32, (512, 512))
MANY_IDS = np.arange(128) % 512


def _wide(threads: int) -> tuple[NativeProgram, np.ndarray]:
    """A product that threads share, and its result of ``MANY_IDS``."""
    b = _Builder()
    weight = ConstRef("weight", WIDE)
    ids = b.register(TensorType(DType.I64, MANY_IDS.shape))
    y = b.add("linear", b.add("embedding", weight, ids), weight, None, None)
    main = Function("main", (ids,), ("ids",), b.body, (y,), ("y",))
    program = Program("main", {"main": main}, {"weight": Constant("weight", WIDE, Leaf("weight", WIDE))})
    array = np.random.default_rng(0).standard_normal(WIDE.shape).astype(np.float32)
    return NativeProgram(program, b.offsets, b.nbytes, {"weight": array}, threads), array[MANY_IDS] @ array.T


def _right_in_a_child(exe: NativeProgram, expected: np.ndarray) -> bool:
    """Whether a forked child runs the program rightly, and in less than a minute."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        other = threading.Thread(target=time.sleep, args=(0.01,))
        other.start()
        good = all(np.allclose(exe.run([MANY_IDS])[0], expected, atol=1e-2) for _ in range(3))
        other.join()
        os._exit(0 if good else 1)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("sleeping", [False, True])
def test_a_forked_child_runs(isa: str, sleeping: bool) -> None:
    """The threads of its parent, which it has not, may have been on their way or asleep; it has another."""
    exe, expected = _wide(3)
    exe.run([MANY_IDS])
    if sleeping:
        time.sleep(0.1)
    assert _right_in_a_child(exe, expected)
    np.testing.assert_allclose(exe.run([MANY_IDS])[0], expected, atol=1e-2)


def test_a_child_that_is_forked_during_a_run(isa: str) -> None:
    exe, expected = _wide(2)
    stop = threading.Event()

    def run_on() -> None:
        while not stop.is_set():
            exe.run([MANY_IDS])

    runner = threading.Thread(target=run_on)
    runner.start()
    try:
        assert all(_right_in_a_child(exe, expected) for _ in range(10))
    finally:
        stop.set()
        runner.join()


WITHOUT_THREADS = """
import resource, threading
from pathlib import Path
import numpy as np
from test_program import MANY_IDS, _wide
from forgec.errors import TargetError

tasks = lambda: len(list(Path("/proc/self/task").iterdir()))
exe, expected = _wide(60)
before = tasks()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), resource.RLIM_INFINITY))
try:
    exe.run([MANY_IDS])
    raise SystemExit("it ran")
except TargetError as error:
    assert "cannot be started" in str(error), error
    assert tasks() == before
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
np.testing.assert_allclose(exe.run([MANY_IDS])[0], expected, atol=1e-2)
"""


@pytest.mark.slow
def test_threads_that_cannot_be_started() -> None:
    """None is left behind, and the program runs when there are some again."""
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here.parent, os.environ.get("PYTHONPATH", ""))))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THREADS],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
