"""Running: in memory and loaded, from threads, with states, on two devices, without PyTorch."""

from __future__ import annotations

import copy
import pickle
import runpy
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from executable_toy import (
    COUNTER,
    COUNTER_SIGNATURE,
    SIGNATURE,
    TEXT,
    computed_keys,
    counter,
    example,
    plan_of,
    reference,
    source_tensors,
    toy,
    with_selftest,
)
from forgec.backends.base import Backend
from forgec.backends.cpu import CpuBackend
from forgec.backends.cpu.native import binding
from forgec.backends.null import NullBackend

from forgec.errors import ArtifactError, BackendError, InputError, InternalError, PlanError, TargetError
from forgec.executable import Executable, SelfTest, load, run_selftest, sampled
from forgec.executable import executable as executable_module
from forgec.executable.segments import segment_programs
from forgec.ir.in_place import flatten
from forgec.ir.inline import inline
from forgec.ir.op import get
from forgec.ir.parser import parse
from forgec.plan.planner import make_plan


def check(exe: Executable, seed: int, inputs: tuple[np.ndarray, np.ndarray]) -> None:
    out = exe(*inputs)
    for name, expected in zip(("logits", "hidden"), reference(seed, *inputs), strict=True):
        np.testing.assert_allclose(out[name], expected, rtol=1e-4, atol=1e-5)


class TestRunning:
    @pytest.mark.parametrize("seed", range(5))
    def test_equals_the_model_written_in_numpy(self, seed, tmp_path) -> None:
        exe = toy(seed)
        for inputs in (example(seed), example(seed + 50)):
            check(exe, seed, inputs)
        exe.save(tmp_path / "toy.forge")
        check(load(tmp_path / "toy.forge"), seed, example(seed + 99))

    def test_outputs_are_fresh(self) -> None:
        exe = toy()
        first = exe(*example(1))
        kept = {name: array.copy() for name, array in first.items()}
        exe(*example(2))
        for name, array in first.items():
            np.testing.assert_array_equal(array, kept[name])
            assert array.flags.owndata and array.flags.c_contiguous and array.flags.writeable

    def test_flat(self) -> None:
        ids, mask = example()
        logits, hidden = toy().run_flat([ids.astype(np.int32), mask])
        np.testing.assert_array_equal(logits, toy()(ids, mask)["logits"])
        assert hidden.shape == (2, 4, 8)
        with pytest.raises(InputError, match="1 inputs given, the program takes 2"):
            toy().run_flat([ids])

    def test_a_failed_run_says_where_and_harms_no_later_one(self) -> None:
        exe = toy()
        ids, mask = example()
        bad = ids.copy()
        bad[0, 3] = 9
        with pytest.raises(InputError, match=r"(id|index) 9 is outside an (.|\n)*model.py:3"):
            exe(bad, mask)
        with pytest.raises(InputError, match="'mask' must be bool"):
            exe(ids, mask.astype(np.float32))
        check(exe, 0, (ids, mask))

    def test_weights_are_not_copied(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORGEC_CPU", "numpy")  # the native runtime packs what it multiplies by
        source = source_tensors()
        program, plan = plan_of(TEXT)
        exe = Executable(program, plan, SIGNATURE, source.__getitem__)
        exe(*example())
        arrays = exe._shared.constants.kept.arrays
        assert np.shares_memory(arrays["wte"], source["wte"])
        assert np.shares_memory(arrays[computed_keys()[0]], source["h.1.w"])
        assert not arrays["wte"].flags.writeable and source["wte"].flags.writeable

    def test_each_recipe_is_evaluated_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORGEC_CPU", "numpy")  # the native runtime reads a weight once more to pack it
        asked: list[str] = []
        source = source_tensors()
        program, plan = plan_of(TEXT)
        exe = Executable(program, plan, SIGNATURE, lambda name: asked.append(name) or source[name])
        assert asked == []
        for e in (exe, exe.clone(), exe):
            e(*example())
        assert sorted(asked) == sorted(source)

    @pytest.mark.parametrize("runtime", ["native", "numpy"])
    @pytest.mark.parametrize("at_once", [0, 300, 1 << 20])
    def test_a_single_run_gives_the_same_and_keeps_nothing(self, monkeypatch, runtime, at_once) -> None:
        monkeypatch.setenv("FORGEC_CPU", runtime)
        monkeypatch.setattr(binding, "_AT_ONCE", at_once)
        exe = toy()
        single = exe.run_single(example())
        assert not exe.shared.constants.kept.arrays and not exe.shared.constants.derived
        for got, want in zip(single, exe.run_flat(example()), strict=True):
            np.testing.assert_array_equal(got, want)

    def test_a_single_run_leaves_states_alone(self) -> None:
        exe = counter()
        ones = np.ones(3, np.float32)
        exe(ones)
        np.testing.assert_array_equal(exe.run_single([ones])[0], ones)
        np.testing.assert_array_equal(exe(ones), 2 * ones)

    def test_close(self, tmp_path) -> None:
        toy().save(tmp_path / "a")
        with load(tmp_path / "a") as exe:
            clone = exe.clone()
            out = exe(*example())
        for use in (exe.run_flat, exe.run_single, exe.bind):
            with pytest.raises(InputError, match="closed"):
                use(example())
        exe.close()
        np.testing.assert_array_equal(clone(*example())["logits"], out["logits"])

    @pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
    def test_copies_are_refused(self, copied) -> None:
        with pytest.raises(TypeError, match="load its file"):
            copied(toy())

    def test_program_signature_and_tensors_must_agree(self) -> None:
        program, plan = plan_of(TEXT)
        with pytest.raises(InternalError, match="inputs of the program"):
            Executable(program, plan, COUNTER_SIGNATURE, source_tensors().__getitem__)
        with pytest.raises(InternalError, match="fits no state"):
            counter(initial={"s0": np.zeros(4, np.float32)})
        exe = Executable(program, plan, SIGNATURE, lambda name: np.zeros(3, np.float32))
        with pytest.raises(InternalError):
            exe(*example())

    def test_a_plan_that_leaves_its_arena_is_refused(self) -> None:
        program, plan = plan_of(TEXT)
        register = next(r for r in plan.offsets if r.type.nbytes)
        for offset in (-64, 2**40, plan.arenas["cpu"].nbytes - 1):
            plan.offsets[register] = offset
            with pytest.raises(PlanError, match="does not fit"):
                Executable(program, plan, SIGNATURE, source_tensors().__getitem__)(*example())


@pytest.mark.filterwarnings("error")
def test_nothing_is_warned_about_numbers_at_run() -> None:
    text = """\
program @main(r0 "x": f32[3]) -> (r3 "total": f32[3]) {
  r1: f32[3] = log r0
  r2: f32[3] = div r1, 0.0
  r3: f32[3] = mul r2, 1e39
  return r3
}
"""
    program, plan = plan_of(text)
    exe = Executable(program, plan, COUNTER_SIGNATURE, {}.__getitem__)
    np.testing.assert_array_equal(exe(np.array([-1, 0.5, 2], np.float32)), [np.nan, -np.inf, np.inf])


class TestStates:
    X = np.array([1, 2, 3], np.float32)

    def test_a_plan_that_another_version_made_says_what_to_do(self, tmp_path) -> None:
        """One that copied the state where this one looks at it."""
        program = plan_of(COUNTER)[0]
        plan = make_plan(inline(program), backends=[CpuBackend()], target="cpu")
        Executable(program, plan, COUNTER_SIGNATURE, {}.__getitem__).save(tmp_path / "a")
        with pytest.raises(ArtifactError, match="does not fit") as error:
            load(tmp_path / "a")
        assert "compile the model again" in error.value.hint

    def test_live_from_run_to_run_until_reset(self) -> None:
        exe = counter()
        for n in (1, 2, 3):
            np.testing.assert_array_equal(exe(self.X), n * self.X)
        exe.reset()
        np.testing.assert_array_equal(exe(self.X), self.X)

    def test_reset_before_the_first_run(self) -> None:
        exe = counter()
        exe.reset()
        np.testing.assert_array_equal(exe(self.X), self.X)

    def test_clones_have_their_own(self) -> None:
        exe = counter()
        exe(self.X)
        clone = exe.clone()
        np.testing.assert_array_equal(clone(self.X), self.X)
        np.testing.assert_array_equal(exe(self.X), 2 * self.X)

    def test_initial_values_go_through_the_file(self, tmp_path) -> None:
        exe = counter(initial={"s0": np.full(3, 10, np.float32)})
        exe.save(tmp_path / "a")
        for e in (exe, load(tmp_path / "a")):
            np.testing.assert_array_equal(e(self.X), 10 + self.X)
            e(self.X)
            e.reset()
            np.testing.assert_array_equal(e(self.X), 10 + self.X)


class TestThreads:
    def test_one_executable_in_many_threads(self) -> None:
        exe = toy()
        inputs = [example(seed) for seed in range(16)]
        expected = [reference(0, *x)[0] for x in inputs]
        barrier = threading.Barrier(4)

        def work(start: int) -> None:
            barrier.wait()
            for i in range(40):
                k = (start * 5 + i) % len(inputs)
                np.testing.assert_allclose(exe(*inputs[k])["logits"], expected[k], rtol=1e-4, atol=1e-5)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))

    def test_a_state_counts_every_call(self) -> None:
        exe = counter()
        one = np.ones(3, np.float32)
        with ThreadPoolExecutor(4) as pool:
            totals = sorted(float(out[0]) for out in pool.map(lambda _: exe(one), range(200)))
        assert totals == list(range(1, 201))

    def test_clones_in_parallel(self) -> None:
        exe = toy()

        def work(seed: int) -> None:
            clone = exe.clone()
            for k in range(20):
                check(clone, 0, example(100 * seed + k))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))


class TestTwoDevices:
    """The null backend as a second device, in the middle of the program."""

    def build(
        self, refuses=("embedding", "linear", "rms_norm"), **more
    ) -> tuple[Executable, dict[str, Backend]]:
        devices = {
            "cpu": CpuBackend(lambda instr: 1e6),
            "null": NullBackend(refuses=refuses, pretend=True, **more),
        }
        program = parse(TEXT)
        plan = make_plan(flatten(program), backends=list(devices.values()), target="null")
        exe = Executable(program, plan, SIGNATURE, source_tensors().__getitem__, backend=devices.__getitem__)
        return exe, devices

    def test_right_results_in_memory_and_from_the_file(self, tmp_path, monkeypatch) -> None:
        exe, devices = self.build()
        assert {segment.device for segment in exe.plan.segments} == {"cpu", "null"}
        check(exe, 0, example())
        exe.save(tmp_path / "a")
        monkeypatch.setattr(executable_module.backends, "get", devices.__getitem__)
        loaded = load(tmp_path / "a")
        check(loaded, 0, example(7))
        loaded.save(tmp_path / "b")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_a_device_that_is_not_here(self, tmp_path) -> None:
        exe, _ = self.build()
        exe.save(tmp_path / "a")
        with pytest.raises(TargetError, match=r"needs the device 'null': .*stands for no device"):
            load(tmp_path / "a")(*example())

    @pytest.mark.parametrize("moment", ["compile", "load", "run"])
    def test_failures_come_through(self, moment, tmp_path) -> None:
        exe, _ = self.build(fails=moment)
        with pytest.raises(BackendError, match=moment):
            exe(*example())
        if moment == "compile":
            with pytest.raises(BackendError, match=moment):
                exe.save(tmp_path / "a")
            assert list(tmp_path.iterdir()) == []

    def test_segments_name_what_goes_in_and_out(self) -> None:
        exe, _ = self.build()
        plan = exe.plan
        known = set(plan.program.main.params)
        for segment, program in zip(plan.segments, segment_programs(plan), strict=True):
            main = program.main
            assert main.body == plan.program.main.body[segment.start : segment.stop]
            own = {r for instr in main.body for r in instr.results}
            assert set(main.params) == {r for instr in main.body for r in instr.registers()} - own
            assert set(main.params) <= known
            views = {r for instr in main.body if get(instr.op).view for r in instr.results}
            assert set(main.results) <= own - views
            known |= set(main.results) | {v for v in views}
        shown = {r for r in plan.program.main.results}
        assert shown <= known

    def test_a_view_of_another_segments_result_stands_for_its_bytes(self) -> None:
        text = """\
program @main(r0 "x": f32[2,3]) -> (r3 "y": f32[3,2]) {
  r1: f32[2,3] @null = exp r0
  r2: f32[3,2] @null = transpose r1 {perm=[1,0]}
  r3: f32[3,2] @cpu = neg r2
  return r3
}
"""
        plan = make_plan(flatten(parse(text)), backends=[CpuBackend()], target="cpu")
        plan.program = parse(text)
        plan.segments = [type(plan.segments[0])("null", 0, 2), type(plan.segments[0])("cpu", 2, 3)]
        first, second = segment_programs(plan)
        assert [str(r) for r in first.main.results] == ["r1"]
        assert [str(r) for r in second.main.params] == ["r2"]


class TestSelfTest:
    def test_passes_and_fails(self, tmp_path) -> None:
        with_selftest().save(tmp_path / "a")
        result = run_selftest(load(tmp_path / "a"))
        assert result.passed and result.worst == 0.0
        assert [name for name, _ in result.max_abs] == ["logits", "hidden"]
        inputs = example()
        outputs = toy().run_flat(inputs)
        outputs[1][0, 0, 0] += 0.5
        wrong = run_selftest(toy(selftest=SelfTest(inputs, outputs)))
        assert not wrong.passed and wrong.worst == pytest.approx(0.5, abs=1e-6)
        assert run_selftest(toy(selftest=SelfTest(inputs, outputs)), tolerance=1.0).passed

    def test_leaves_states_alone(self) -> None:
        x = np.ones(3, np.float32)
        exe = counter(selftest=SelfTest([x], [x]))
        exe(x)
        assert run_selftest(exe).passed
        np.testing.assert_array_equal(exe(x), [2, 2, 2])

    def test_can_be_set_after_a_run(self, tmp_path) -> None:
        exe, inputs = toy(), example()
        exe.selftest = SelfTest(inputs, exe.run_flat(inputs))
        exe.save(tmp_path / "a")
        assert run_selftest(load(tmp_path / "a")).passed
        with pytest.raises(InternalError, match="does not fit"):
            exe.selftest = SelfTest(inputs, inputs)

    def test_nothing_stored(self) -> None:
        with pytest.raises(ArtifactError, match="no self-test"):
            run_selftest(toy())


def test_the_report_goes_through_the_file(tmp_path) -> None:
    path = Path(__file__).parents[1] / "report" / "report_samples.py"
    report = runpy.run_path(str(path))["sample"]()
    toy(report=report).save(tmp_path / "a")
    assert load(tmp_path / "a").report == report
    assert toy().report is None


def test_says_what_it_is() -> None:
    assert repr(toy()) == "<forgec executable 'toy' for cpu: ids: i64[2,4], mask: bool[2,1,1,4]>"


def test_extra_files(tmp_path) -> None:
    toy(extra={"a/b.json": b"{}", "c": b""}).save(tmp_path / "x")
    exe = load(tmp_path / "x")
    assert exe.extra_names == ("a/b.json", "c") and exe.extra("a/b.json") == b"{}" and exe.extra("c") == b""
    with pytest.raises(ArtifactError, match="no file"):
        exe.extra("d")


def test_loads_and_runs_where_torch_cannot_be_imported(tmp_path) -> None:
    with_selftest().save(tmp_path / "toy.forge")
    script = f"""
        import sys

        class Forbid:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("torch", "transformers", "functorch", "torchgen"):
                    raise AssertionError(f"{{name}} was imported")

        sys.meta_path.insert(0, Forbid())
        import forgec
        exe = forgec.load({str(tmp_path / "toy.forge")!r})
        from forgec.executable import run_selftest
        assert run_selftest(exe).passed
        out = exe(*exe.selftest.inputs)
        assert out["logits"].shape == (2, 4, 9)
        exe.save({str(tmp_path / "again.forge")!r})
        assert not {{"torch", "transformers"}} & set(sys.modules)
        print("ran")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ran"
    assert (tmp_path / "again.forge").read_bytes() == (tmp_path / "toy.forge").read_bytes()


def test_nothing_here_names_torch_in_an_import() -> None:
    import forgec.backends

    import forgec.executable

    folders = [Path(forgec.executable.__file__).parent, *(Path(p) for p in forgec.backends.__path__)]
    for folder in folders:
        for file in folder.rglob("*.py"):
            lines = [line.strip() for line in file.read_text().splitlines()]
            assert not [line for line in lines if line.startswith(("import torch", "from torch"))], file


class TestSampledSelfTest:
    """A self-test of a program with large outputs keeps evenly spaced rows."""

    @pytest.mark.parametrize("shape", [(3, 5), (0, 7), (1, 1000, 1000), (2, 3, 300_000), (400_000,), ()])
    def test_rows(self, shape: tuple[int, ...]) -> None:
        whole = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
        kept = sampled(whole)
        if whole.size <= 1 << 18 or whole.ndim < 2:
            assert kept is whole
        else:
            assert kept.shape[1] == shape[-1] and kept.size <= max(1 << 18, shape[-1])
            np.testing.assert_array_equal(kept[-1], whole.reshape(-1, shape[-1])[-1])
