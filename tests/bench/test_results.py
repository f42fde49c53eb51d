"""Result files, tables, the rendered document."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench import compile_time, fidelity, fusion, memory, plot, report, results, scaling
from bench.results import Result
from bench.tables import Table, mib, ms, ratio

COMPILE = {
    "models": {
        "m": {
            "bytes": 1 << 20,
            "tools": {
                "forgec": {
                    "ms": [100.0, 200.0],
                    "first_run_ms": [1.0, 1.0],
                    "stages": {key: [15.0, 30.0] for key in ("capture", *compile_time.OWN_PHASES, "check")},
                    "memory": {"before": 0, "peak": 3 << 19, "method": "high-water mark"},
                },
                "openvino": {
                    "ms": [900.0, 1600.0],
                    "first_run_ms": [9.0, 9.0],
                    "stages": {"all": [900.0, 1600.0]},
                },
            },
        }
    },
    "failures": {"onnxruntime": "not installed"},
}


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    result = Result.now("compile", {"tokens": 16, "layers": None}, 0.5, "quiet", COMPILE)
    folder = tmp_path / "results"
    assert results.load_all(folder) == []
    path = result.save(folder, "x")
    assert path == folder / "compile-x.json"
    assert Result.load_file(path) == result
    assert results.load_all(folder) == [result]


@pytest.mark.parametrize(
    "text", ["[]", '{"schema": "other"}', '{"schema": "forgec.bench/1", "load": [0, 0]}']
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.json is not a"):
        Result.load_file(path)


def test_dumped_json_is_the_same_data() -> None:
    data = {
        "long": list(range(100)),
        "nested": [{"a": [1.5, None]}, {}],
        "text": 'quote " and \\',
        "empty": [],
    }
    assert json.loads(results.dump(data)) == data
    assert results.dump({"a": [1, 2]}) == '{"a": [1, 2]}'


def test_a_table_says_the_same_in_both_forms() -> None:
    table = Table("Times, measured", ("model", ">ms"), [("a|b", "1.0")], ["A note."])
    assert table.markdown() == (
        "**Times, measured**\n\n| model | ms |\n| --- | ---: |\n| a\\|b | 1.0 |\n\nA note.\n"
    )
    out = StringIO()
    table.print(Console(file=out, width=80))
    assert all(word in out.getvalue() for word in ("Times, measured", "a|b", "1.0", "A note."))


def test_a_row_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 columns"):
        Table("t", ("a", "b"), [("1",)])


def test_numbers_as_people_read_them() -> None:
    assert [ms(x) for x in (1240.4, 86.31, 1.234, 0.4118)] == ["1 240", "86.3", "1.23", "0.412"]
    assert [ratio(x) for x in (12.34, 0.871)] == ["12.3 x", "0.87 x"]
    assert mib(1240 << 20) == "1 240 MiB"


def test_the_compile_table() -> None:
    times, phases, stages = compile_time.tables(COMPILE)
    forgec, openvino = times.rows
    assert forgec[:4] == ("m", "forgec", "150", "100 - 200")
    assert forgec[-1] == "2 MiB, 1.50 x weights"
    assert openvino[4] == "8.50 x" and openvino[-1] == "-"
    assert times.notes == ["Without onnxruntime: not installed."]
    assert len(phases.rows) == len(stages.rows) == 1


def test_the_scaling_table_has_exponents() -> None:
    names = (*scaling.PHASES, "own")
    depths = {
        str(d): {
            "nodes": d,
            "instructions": d,
            "ms": dict.fromkeys(names, d * 1.0),
            "calls": dict.fromkeys(names, d * d),
        }
        for d in (2, 4, 8)
    }
    times, calls = scaling.tables({"model": "m", "modes": {"blocks": depths}})
    assert times.rows[-1][1] == "exponent" and times.rows[-1][-1] == "1.00"
    assert [row[1] for row in calls.rows[-2:]] == ["exponent", "slope ratio"]
    assert (calls.rows[-2][-1], calls.rows[-1][-1]) == ("2.00", "2.00")


def test_the_memory_table_is_over_the_weights() -> None:
    steps = {key: {"before": 1 << 20, "peak": 3 << 20, "method": "m"} for key in memory.STEPS}
    model = {"model": 4 << 20, "arena": 1 << 20, "file": 4 << 20, "steps": steps, "torch_at_run": False}
    (table,) = memory.tables({"models": {"m": model}, "failures": {"big": "the worker ended with -9"}})
    assert table.rows[0][2] == "2 MiB, 0.50 x"
    assert "Without big: the worker ended with -9." in table.notes


def test_the_fidelity_tables_say_what_failed_and_by_how_much() -> None:
    case = {
        "model": "gpt2",
        "label": "gpt2",
        "attn": "sdpa",
        "tokens": None,
        "max_abs": 1e-4,
        "kl": 1e-12,
        "passed": False,
        "wide": [{"ours": 1e-6, "eager": 1e-4}],
        "nodes": [400, 300],
        "registers": [100, 20],
        "arena": 110,
        "lower_bound": 100,
        "no_reuse": 1000,
        "capture": "blocks",
    }
    differences, sizes = fidelity.tables({"cases": [case], "failures": {}})
    assert differences.rows[0][-2:] == ("no", "1.0e-06 / 1.0e-04")
    row = dict(zip(sizes.columns, sizes.rows[0], strict=True))
    assert (row[">nodes"], row[">arena / lower bound"]) == ("400 -> 300", "1.100")
    assert [cell for cell in sizes.rows[0] if "%" in cell] == ["25.0 %", "17.4 %", "80.0 %", "34.5 %"]


def test_the_fusion_summary_pairs_runs_of_one_round() -> None:
    found = fusion._summary([[2.0, 1.0], [40.0, 20.0], [3.0, 1.0]], [3000.0, 1500.0])
    assert found["fgr_estimated"] == 2.0
    assert found["fgr_measured"]["median"] == 2.0
    assert found["estimated_ms"] == [3.0, 1.5]


def test_the_document_has_every_benchmark_and_says_where_none_was_run() -> None:
    result = Result.now("compile", {"tokens": 16, "layers": None}, 0.5, "others ran tests", COMPILE)
    text = report.document([result])
    assert "others ran tests." in text and "tokens 16. Versions" in text
    assert "8.50 x" in text
    for name in report.BENCHMARKS:
        assert (f"`python -m bench {name} --save` makes one" in text) == (name != "compile")
    assert "layers" not in report.markdown([result], "compile").split("Versions")[0]


def test_the_kept_results_render() -> None:
    kept = results.load_all()
    assert all(result.benchmark in report.BENCHMARKS for result in kept)
    assert report.document(kept).startswith("# Benchmarks")


def test_the_published_page_is_that_of_the_kept_results() -> None:
    page = Path(__file__).parents[2] / "docs" / "benchmarks.md"
    assert page.read_text(encoding="utf-8") == report.document(results.load_all()), (
        "run python -m bench report --write docs/benchmarks.md"
    )


def test_latencies_are_drawn_the_same_each_time(tmp_path) -> None:
    def tool(over: float) -> dict:
        return {"over_forgec": {"median": over}}

    models = {
        "gpt2": {"tools": {"forgec": tool(1.0), "openvino": tool(1.25), "eager": {"over_forgec": None}}}
    }
    result = Result("latency", "2026-01-01", {}, {"tokens": 32}, (0.0, 0.0), "", {"models": models})
    plot.latency_plot([result], tmp_path / "a.svg")
    plot.latency_plot([result], tmp_path / "b.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert all(word in text for word in ("gpt2, 32 tokens", "openvino", "1.25")) and "onnxruntime" not in text
    again = {"gpt2": {"tools": {"openvino": tool(3.5)}}}
    later = Result("latency", "2026-01-02", {}, {"tokens": 32}, (0.0, 0.0), "", {"models": again})
    plot.latency_plot([result, later], tmp_path / "b.svg")
    assert text == (tmp_path / "b.svg").read_text(), "the first of two results for a model counts"
    with pytest.raises(ValueError, match="no latencies"):
        plot.latency_plot([], tmp_path / "c.svg")
