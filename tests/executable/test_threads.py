"""How many threads a run uses, and runs of several threads at the same time."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from executable_toy import counter, toy
from forgec.backends.cpu import native
from forgec.backends.cpu.native import machine

from forgec.errors import OptionError
from forgec.executable import load
from forgec.executable.pages import allocate
from forgec.report.kernels import trace


def _example(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 9, (2, 4)), np.ones((2, 1, 1, 4), bool)


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """Sizes of the teams that programs were loaded for."""
    sizes: list[int] = []
    team = native.Team

    def made(threads: int | None = None) -> native.Team:
        sizes.append(native.threads_default() if threads is None else threads)
        return team(threads)

    native.shared_team.cache_clear()
    monkeypatch.setattr(machine, "Team", made)
    yield sizes
    native.shared_team.cache_clear()


def test_threads_of_an_executable_its_clones_and_a_load(asked, tmp_path) -> None:
    exe = toy()
    exe.threads = 3
    exe.clone().run_flat(_example(0))
    assert asked == [3]
    exe.save(tmp_path / "toy.forge")
    load(tmp_path / "toy.forge", threads=1).run_flat(_example(0))
    assert asked == [3, 1]
    for wrong in (0, -1, 2**40, "2", 1.5):
        with pytest.raises(OptionError, match="at least 1 and at most 1024, not"):
            exe.threads = wrong


def test_the_environment_says_how_many_unless_the_executable_does(asked, monkeypatch) -> None:
    monkeypatch.setenv("FORGEC_THREADS", "5")
    toy().run_flat(_example(0))
    exe = toy()
    exe.threads = 2
    exe.run_flat(_example(0))
    assert asked == [5, 2]
    monkeypatch.setenv("FORGEC_THREADS", "many")
    with pytest.raises(OptionError, match="FORGEC_THREADS is 'many'"):
        toy().run_flat(_example(0))


def test_one_thread_runs_everything_on_the_caller() -> None:
    exe = toy()
    exe.threads = 1
    assert {span.thread for span in trace(exe, _example(0), 1).spans} == {0}


def test_states_outlive_another_number_of_threads() -> None:
    exe = counter()
    first, second = exe.run_flat(_counter_inputs(exe)), exe.run_flat(_counter_inputs(exe))
    again = counter()
    again.run_flat(_counter_inputs(again))
    again.threads = 1
    assert not np.array_equal(first[0], second[0])
    np.testing.assert_array_equal(again.run_flat(_counter_inputs(again))[0], second[0])


def _counter_inputs(exe) -> list[np.ndarray]:
    return [np.ones(leaf.type.shape, leaf.type.dtype.numpy) for leaf in exe.signature.inputs]


@pytest.mark.parametrize("cloned", [False, True])
def test_calls_from_several_threads(cloned: bool) -> None:
    exe = toy()
    expected = [exe.run_flat(_example(seed)) for seed in range(4)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        own = exe.clone() if cloned else exe
        for _ in range(20):
            if not all(map(np.array_equal, own.run_flat(_example(seed)), expected[seed])):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.parametrize("nbytes", [1, 1 << 20, (2 << 20) + 1])
def test_arenas_are_aligned_and_writable(nbytes: int) -> None:
    arena = allocate(nbytes)
    assert arena.nbytes == nbytes and arena.ctypes.data % 64 == 0
    arena[...] = 7
    assert (arena == 7).all()
