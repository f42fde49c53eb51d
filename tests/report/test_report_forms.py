"""The report for people and tools: terminal, HTML, Chrome trace."""

import io
import json
from html.parser import HTMLParser

import pytest
from report_samples import sample

from forgec.errors import ArtifactError
from forgec.report import html, units
from forgec.report.report import CaptureReport, PlacementReport
from forgec.report.terminal import Printer, uncosted_text
from forgec.report.trace import chrome_trace, save_trace

HOSTILE = "</title><script>alert(1)</script>&\"'{{7*7}}[bold]\x1b[31m"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(report, file=None):
    file = file or io.StringIO()
    report.print(file)
    return file.getvalue()


def test_a_pipe_gets_plain_aligned_lines():
    text = printed(sample())
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())
    lines = text.splitlines()
    assert lines[0] == "bert-base for npu, compiled in 1.00 s"
    assert lines[2] == "phase        ms  share"
    assert lines[4] == "passes    300.0   30 %"
    # Both runs of the pass in one row.
    (row,) = [line.split() for line in lines if line.startswith("dead_code")]
    assert row == ["dead_code", "2", "4", "-4", "-1.00", "MiB", "5.0"]


def test_the_summary_says_what_counts():
    text = printed(sample())
    for part in (
        "12 x BertLayer (31 nodes)",
        "403 -> 333 (-17.4 %)",
        "2 on cpu, 331 on npu; 4 transitions (9 in program order)",
        "333 registers -> 218 buffers (rho 0.35)",
        "418 MiB (410 MiB bf16, 8.00 MiB f32) in 199 constants",
        "22.0 MiB, 1.10 x the lower bound; 60.0 MiB without reuse",
        "FGR 1.23: 9.80 ms unfused, 8.00 ms fused (estimated; default coefficients)",
        "passed: max abs 3.1e-06 (bound 2.1e-05)",
        "peak 1.07 GiB, 500 MiB over the start",
        "0.80/s over openvino",
        "the device has no gather",
        "warning: the weights hold NaN",
    ):
        assert part in text, text


def test_nothing_is_said_about_what_is_not_there():
    report = sample(
        fidelity=None,
        cei=[],
        warnings=[],
        capture=CaptureReport("full", [], "the model has no repeated blocks"),
        placement=PlacementReport({"cpu": 333}, [], 0, 0, {"cpu": 1.0}),
    )
    text = printed(report)
    assert "the whole model; the model has no repeated blocks" in text
    for word in ("fidelity", "CEI", "warning", "transitions", "not on"):
        assert word not in text


def test_failed_fidelity_is_loud():
    report = sample()
    assert report.fidelity is not None
    report.fidelity.passed = False
    assert "FAILED: max abs" in printed(report)


def test_a_terminal_gets_colour_unless_told_not_to(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in printed(sample(), Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in printed(sample(), Terminal())


@pytest.mark.parametrize("file", [io.StringIO, Terminal])
def test_a_hostile_name_cannot_drive_the_terminal(file, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(sample(model=HOSTILE), file())
    assert "\x1b" not in text
    assert r"[bold]\x1b[31m" in text


def test_long_cells_stay_on_one_line_in_a_pipe():
    out = io.StringIO()
    Printer(out).table(("name", ">n"), [("x" * 5000, "1")])
    assert len(out.getvalue().splitlines()) == 2


class _Page(HTMLParser):
    """Collects tags, the text, and whether tags are balanced."""

    VOID = frozenset({"meta"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_html_is_one_balanced_page_without_scripts_or_links():
    page = _Page(html.render(sample()))
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe"}
    assert not any(key in ("src", "href") or key.startswith("on") for _, attrs in page.tags for key in attrs)
    text = " ".join(page.text)
    for part in ("bert-base", "the device has no gather", "-17.4 %", "3.1e-06", "passed", "high-water mark"):
        assert part in text
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 3 + 2 + 3


def test_html_escapes_everything():
    report = sample(
        model=HOSTILE,
        target=HOSTILE,
        warnings=[HOSTILE],
        options={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        capture=CaptureReport("full", [], HOSTILE),
    )
    report.passes[0].name = report.placement.fallbacks[0].reason = HOSTILE
    text = html.render(report)
    page = _Page(text)
    assert page.open == []
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "{{7*7}}" in text
    assert "".join(page.text).count("</title><script>") == 12


def test_html_without_fidelity():
    assert "Not checked." in html.render(sample(fidelity=None))


def test_trace_lays_passes_inside_their_phase():
    events = {(e["name"], e["ts"]): e for e in chrome_trace(sample())["traceEvents"] if e["ph"] == "X"}
    assert events[("capture", 0.0)]["dur"] == 600_000
    assert events[("passes", 600_000)]["dur"] == 300_000
    assert ("lowering", 900_000) in events
    assert events[("dead_code", 600_000)]["args"] == {"round": 1, "rewrites": 4, "nodes": "403 -> 399"}
    assert ("attention", 603_000) in events
    assert ("dead_code", 615_500) in events


def test_trace_file(tmp_path):
    save_trace(sample(), tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text()) == chrome_trace(sample())
    with pytest.raises(ArtifactError, match="cannot write the trace"):
        save_trace(sample(), tmp_path)


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        (units.nbytes, (0,), "0 B"),
        (units.nbytes, (1023,), "1023 B"),
        (units.nbytes, (1536,), "1.50 KiB"),
        (units.nbytes, (100 * 2**40,), "100 TiB"),
        (units.nbytes, (5000 * 2**40,), "5000 TiB"),
        (units.quantity, (999,), "999"),
        (units.quantity, (1.1e10,), "11.0 G"),
        (units.count, (12480,), "12 480"),
        (units.milliseconds, (1204.26,), "1 204.3"),
        (units.duration_us, (740,), "740 us"),
        (units.duration_us, (8100,), "8.10 ms"),
        (units.duration_us, (2.3e6,), "2.30 s"),
        (units.share, (1, 3), "33 %"),
        (units.share, (1, 0), "-"),
        (units.change, (403, 333), "-17.4 %"),
        (units.change, (0, 0), "0.0 %"),
        (units.metric, (0.0,), "0"),
        (units.metric, (3.14e-6,), "3.1e-06"),
        (units.metric, (float("inf"),), "inf"),
    ],
)
def test_units(function, arguments, text):
    assert function(*arguments) == text


def test_kernels_without_a_cost_are_counted_by_kind():
    names = [
        "r1.matmulnbits (aten.linear, model.py:3)",
        "r25.matmulnbits (aten.linear, model.py:9)",
        "r8.not",
    ]
    assert uncosted_text(names) == "2 x matmulnbits, not"
    assert uncosted_text(["Softmax"]) == "Softmax"
