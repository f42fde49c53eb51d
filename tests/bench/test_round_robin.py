"""Turns and drop-outs, with workers that only pretend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pytest import MonkeyPatch

from bench import compile_time, latency
from bench.client import Worker, WorkerError
from bench.round_robin import Field, turns


class FakeWorker:
    """Answers from a table; keeps what it was asked."""

    def __init__(self, log: list[str], name: str, answers: dict[str, Callable[[], Any]]) -> None:
        self.log, self.name, self.answers = log, name, answers
        self.closed = False

    def call(self, method: str, **arguments: Any) -> Any:
        self.log.append(f"{self.name}.{method}")
        return self.answers.get(method, lambda: None)()

    def close(self) -> None:
        self.closed = True


def field(*workers: FakeWorker) -> Field:
    return Field({w.name: cast(Worker, w) for w in workers})


def compiling(*ms: float) -> Callable[[], Any]:
    times = iter(ms)

    def compile() -> dict[str, Any]:
        t = next(times)
        stages = dict.fromkeys(("capture", *compile_time.OWN_PHASES, "check"), t / 6)
        return {"ms": t, "first_run_ms": 1.0, "stages": stages}

    return compile


def test_each_tool_is_first_in_turn() -> None:
    assert list(turns("abc", 4)) == [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b"), ("a", "b", "c")]
    assert list(turns("", 2)) == [(), ()]


def test_a_tool_that_fails_leaves_and_the_others_go_on() -> None:
    def broken() -> None:
        raise WorkerError("compile: out of memory\nand a long trace")

    log: list[str] = []
    good, bad = FakeWorker(log, "good", {}), FakeWorker(log, "bad", {"compile": broken})
    race = field(bad, good)
    for order in turns(["bad", "good"], 2):
        race.each(lambda name, worker: worker.call("compile"), order)
    assert log == ["bad.compile", "good.compile", "good.compile"]
    assert race.failures == {"bad": "compile: out of memory"}
    assert bad.closed and not good.closed


def test_compile_rounds_interleave_and_release_between() -> None:
    log: list[str] = []
    ours = FakeWorker(log, "forgec", {"compile": compiling(100.0, 300.0), "load": lambda: 8})
    theirs = FakeWorker(log, "openvino", {"compile": compiling(1000.0, 3300.0), "load": lambda: 8})
    found = compile_time._one_model(field(ours, theirs), "m", 16, None, 2, lambda text: None)
    compiles = [entry for entry in log if "load" not in entry]
    one = ["forgec.compile", "forgec.release"]
    other = ["openvino.compile", "openvino.release"]
    assert compiles == [*one, *other, *other, *one]
    assert found["tools"]["openvino"]["ms"] == [1000.0, 3300.0]
    table = compile_time.tables({"models": {"m": found}, "failures": {}})[0]
    row = dict(zip(table.columns, table.rows[1], strict=True))
    assert row[">over forgec"] == "10.5 x"  # of the rounds' 10 and 11, not of the medians' 10.75
    assert row[">min - max over forgec"] == "10.0 x - 11.0 x"


def test_a_tool_missing_from_a_round_is_not_in_the_table() -> None:
    def once() -> Callable[[], Any]:
        compile = compiling(50.0)

        def act() -> Any:
            try:
                return compile()
            except StopIteration:
                raise WorkerError("compile: died") from None

        return act

    log: list[str] = []
    ours = FakeWorker(log, "forgec", {"compile": compiling(100.0, 300.0)})
    theirs = FakeWorker(log, "openvino", {"compile": once()})
    race = field(ours, theirs)
    found = compile_time._one_model(race, "m", 16, None, 2, lambda text: None)
    assert list(found["tools"]) == ["forgec"]
    assert race.failures == {"openvino": "compile: died"}


def test_phase_sums_leave_capture_out() -> None:
    stages = {
        "capture": [60.0, 80.0],
        **{key: [5.0, 5.0] for key in compile_time.OWN_PHASES},
        "check": [20.0, 0.0],
    }
    row = compile_time._phase_row(stages)
    assert row[0] == "70.0 (70%)"
    assert row[-3:] == ("20.0 (20%)", "10.0 (10%)", "30.0 (30%)")


def test_latency_takes_turns_and_fills_the_index(monkeypatch: MonkeyPatch) -> None:
    from bench_report import sample

    monkeypatch.setattr(latency, "_PAUSE_S", 0)
    log: list[str] = []

    def tool(name: str, ms: float, report: str | None) -> FakeWorker:
        answers: dict[str, Callable[[], Any]] = {
            "compile": lambda: {"ms": 2000.0},
            "difference": lambda: 1e-6,
            "report": lambda: report,
            "run": lambda: [ms, ms, 10 * ms],
        }
        return FakeWorker(log, name, answers)

    race = field(tool("forgec", 2.0, sample().to_json()), tool("eager", 3.0, None))
    data, report = latency._one_model(race, "forgec", "m", 16, None, 1, None, 2, 3, lambda text: None)
    runs = [entry for entry in log if entry.endswith("run")]
    assert runs == ["forgec.run", "eager.run", "eager.run", "forgec.run"]
    assert data["tools"]["eager"]["latency_ms"]["count"] == 6
    assert report is not None
    (cei,) = report.cei
    assert (cei.baseline, cei.latency_ratio, cei.compile_s, cei.cei) == ("eager", 1.5, 2.0, 0.75)
    assert data["cei"] == [{"baseline": "eager", "latency_ratio": 1.5, "compile_s": 2.0, "cei": 0.75}]
