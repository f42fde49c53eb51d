"""Tables and lines for a terminal or a pipe.

On a terminal: colour (unless ``NO_COLOR`` is set) and cells folded to its width. In a pipe: the same text
without escape sequences, one row per line whatever its length, no trailing blanks. Control characters in
what is printed are shown as escapes, so a hostile model name cannot drive the terminal.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import IO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from . import units
from .report import Fallback, Fidelity, PassReport, RepeatReport, Report, Verdict

__all__ = [
    "BAD",
    "DIM",
    "GOOD",
    "HEAD",
    "WARN",
    "Printer",
    "fidelity_text",
    "pass_rows",
    "print_report",
    "repeat_text",
    "styled",
    "uncosted_text",
    "verdict_text",
]

HEAD, DIM, GOOD, BAD, WARN = "bold", "dim", "green", "bold red", "yellow"

_PIPE_WIDTH = 100_000


def styled(text: str, style: str = "") -> Text:
    """Text in one style, its control characters made visible."""
    return Text("".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text), style)


class Printer:
    """Writes to one stream; see the module for how."""

    def __init__(self, file: IO[str] | None = None) -> None:
        self.file = sys.stdout if file is None else file
        self.terminal = self.file.isatty()

    def line(self, *parts: str | Text) -> None:
        """One line of joined parts; a terminal wraps it."""
        joined = Text()
        for part in parts:
            joined.append_text(part if isinstance(part, Text) else styled(part))
        self._write(joined)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str | Text]], title: str = "") -> None:
        """A table without lines; a column's name starts with ">" to align it right. Nothing if no rows."""
        rows = list(rows)
        if not rows:
            return
        if title:
            self.line(styled(title, HEAD))
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=DIM)
        for name in columns:
            right = name.startswith(">")
            grid.add_column(
                name.lstrip(">"), justify="right" if right else "left", no_wrap=right, overflow="fold"
            )
        for row in rows:
            grid.add_row(*(cell if isinstance(cell, Text) else styled(cell) for cell in row))
        self._write(grid)

    def pairs(self, rows: Iterable[tuple[str, str | Text]]) -> None:
        """Names and values in two columns."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in rows:
            grid.add_row(styled(name, DIM), value if isinstance(value, Text) else styled(value))
        self._write(grid)

    def block(self, text: str) -> None:
        """Lines as they are, never folded."""
        self.file.writelines(f"{styled(line)}\n" for line in text.splitlines())

    def gap(self) -> None:
        """An empty line."""
        self._write(Text())

    def _write(self, what: RenderableType) -> None:
        if self.terminal:
            system = None if os.environ.get("NO_COLOR") else "auto"
            Console(file=self.file, color_system=system, highlight=False).print(what)  # type: ignore[arg-type]
            return
        buffer = io.StringIO()
        Console(file=buffer, color_system=None, width=_PIPE_WIDTH, highlight=False).print(what)
        self.file.writelines(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def print_report(report: Report, file: IO[str] | None = None) -> None:
    """The short form: phases, passes, and one line for each other part."""
    out = Printer(file)
    total = report.total_ms
    out.line(
        styled(report.model, HEAD), f" for {report.target}, compiled in {units.duration_us(total * 1000)}"
    )
    out.gap()
    out.table(
        ("phase", ">ms", ">share"),
        [(p.name, units.milliseconds(p.ms), units.share(p.ms, total)) for p in report.phases],
    )
    out.gap()
    worked = [run.name for run in report.passes if run.rewrites]
    out.table(
        ("pass", ">runs", ">rewrites", ">nodes", ">bytes", ">ms"),
        [row for row in pass_rows(report.passes) if row[0] in worked],
    )
    idle = dict.fromkeys(run.name for run in report.passes if run.name not in worked)
    if idle:
        out.line(styled(f"nothing to do: {', '.join(idle)}", DIM))
    out.gap()
    out.pairs(_summary(report))
    if report.placement.fallbacks:
        out.gap()
        out.table(
            ("op", ">count", "runs on", "code", "reason", "source", "fix"),
            [fallback_row(fallback) for fallback in report.placement.fallbacks],
            title=f"not on {report.target}",
        )
    for warning in report.warnings:
        out.line(styled("warning: ", WARN), warning)


def pass_rows(runs: Iterable[PassReport]) -> list[tuple[str, ...]]:
    """One row per pass over all its runs: name, runs, rewrites, change of nodes, change of bytes, ms."""
    by_name: dict[str, list[PassReport]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    return [
        (
            name,
            str(len(group)),
            units.count(sum(r.rewrites for r in group)),
            _signed(sum(r.nodes_after - r.nodes_before for r in group)),
            _signed_bytes(sum(r.bytes_after - r.bytes_before for r in group)),
            units.milliseconds(sum(r.ms for r in group)),
        )
        for name, group in by_name.items()
    ]


def fallback_row(fallback: Fallback) -> tuple[str, ...]:
    """One row of the table of instructions off the target."""
    return (
        fallback.op,
        units.count(fallback.count),
        fallback.device,
        fallback.code,
        fallback.reason,
        fallback.source or "-",
        fallback.fix or "-",
    )


def fidelity_text(fidelity: Fidelity) -> Text:
    """Verdict, metrics and bounds in one line."""
    verdict = styled("passed", GOOD) if fidelity.passed else styled("FAILED", BAD)
    return Text.assemble(
        verdict,
        f": max abs {units.metric(fidelity.max_abs)} (bound {units.metric(fidelity.bound_max_abs)}), "
        f"KL {units.metric(fidelity.kl)} (bound {units.metric(fidelity.bound_kl)}), "
        f"cosine {fidelity.cosine:.9f}, SQNR {fidelity.sqnr_db:.1f} dB; "
        f"against {fidelity.reference} on {fidelity.inputs} inputs",
    )


def _summary(report: Report) -> list[tuple[str, str | Text]]:
    graph, memory, cost, rss = report.graph, report.memory, report.cost, report.rss
    above = memory.arena_bytes / memory.lower_bound_bytes if memory.lower_bound_bytes else 1.0
    rows: list[tuple[str, str | Text]] = [
        ("capture", _capture(report)),
        (
            "nodes",
            f"{units.count(graph.nodes_captured)} -> {units.count(graph.nodes_optimised)} "
            f"({units.change(graph.nodes_captured, graph.nodes_optimised)}), "
            f"{units.count(graph.instructions)} instructions",
        ),
        ("placement", _placement(report)),
        (
            "buffers",
            f"{units.count(memory.registers)} registers -> {units.count(memory.buffers)} buffers "
            f"(rho {memory.rho:.2f})",
        ),
        (
            "arena",
            f"{units.nbytes(memory.arena_bytes)}, {above:.2f} x the lower bound; "
            f"{units.nbytes(memory.no_reuse_bytes)} without reuse",
        ),
        (
            "weights",
            f"{units.nbytes(memory.weight_bytes)}{units.by_type(memory.weight_types)} "
            f"in {units.count(memory.constants)} constants",
        ),
        (
            "fusion",
            f"FGR {cost.fgr:.2f}: {units.duration_us(cost.unfused_us)} unfused, "
            f"{units.duration_us(cost.fused_us)} fused ({cost.kind}; {cost.calibration})",
        ),
        (
            "memory",
            f"peak {units.nbytes(rss.peak_bytes)}, {units.nbytes(rss.peak_bytes - rss.before_bytes)} over "
            f"the start; the model is {units.nbytes(rss.model_bytes)}",
        ),
    ]
    rows += [
        (
            f"segment {p.segment}",
            f"{units.duration_us(p.latency_us)} on {p.device} ({p.kind}: {p.method})"
            + (f", {units.nbytes(p.ddr_bytes)} over memory" if p.ddr_bytes is not None else "")
            + (f", code {units.nbytes(p.code_bytes)}" if p.code_bytes is not None else "")
            + (f", {p.dispatches} dispatches" if p.dispatches > 1 else "")
            + (f"; not costed: {uncosted_text(p.uncosted)}" if p.uncosted else ""),
        )
        for p in report.predictions
    ]
    rows += [("repeats", repeat_text(repeat)) for p in report.predictions for repeat in p.repeats]
    if report.verdict is not None:
        rows.append(("verdict", verdict_text(report.verdict)))
    rows += [
        (
            "CEI",
            f"{entry.cei:.2f}/s over {entry.baseline}: {entry.latency_ratio:.2f} x its speed ({entry.kind})",
        )
        for entry in report.cei
    ]
    if report.fidelity is not None:
        rows.append(("fidelity", fidelity_text(report.fidelity)))
    return rows


def verdict_text(verdict: Verdict) -> Text:
    """The faster device, and why."""
    return Text.assemble(styled(verdict.answer, GOOD), f", {verdict.sentence}")


def uncosted_text(kernels: Sequence[str]) -> str:
    """Kernels by kind, how many of each: without the register that a name begins with, and the place that may
    follow it."""
    kinds = Counter(re.sub(r"^r\d+\.", "", name.partition(" (")[0]) for name in kernels)
    return ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items())


def repeat_text(repeat: RepeatReport) -> str:
    """What is repeated, whether it was compiled once, and both prices."""
    how = "compiled once, weights as inputs" if repeat.folded else "not folded"
    folded = _price(repeat.folded_us, repeat.folded_bytes, repeat.folded_s)
    unfolded = _price(repeat.unfolded_us, repeat.unfolded_bytes, repeat.unfolded_s)
    prices = [f"folded {folded}" if folded else "", f"unfolded {unfolded}" if unfolded else ""]
    return "; ".join([f"{repeat.calls} x {repeat.what}: {how}", repeat.reason, *filter(None, prices)])


def _price(us: float | None, nbytes: int | None, seconds: float | None) -> str:
    parts = [
        f"{units.duration_us(us)} simulated" if us is not None else "",
        f"code {units.nbytes(nbytes)}" if nbytes is not None else "",
        f"{seconds:.1f} s of the vendor's compiler" if seconds is not None else "",
    ]
    return ", ".join(filter(None, parts))


def _capture(report: Report) -> str:
    capture = report.capture
    blocks = ", ".join(f"{b.instances} x {b.name} ({units.count(b.nodes)} nodes)" for b in capture.blocks)
    how = {"blocks": "each distinct block once", "full": "the whole model", "exported": "taken as exported"}
    return (
        how[capture.mode] + (f": {blocks}" if blocks else "") + (f"; {capture.note}" if capture.note else "")
    )


def _placement(report: Report) -> str:
    placement = report.placement
    counts = ", ".join(f"{units.count(number)} on {device}" for device, number in placement.counts.items())
    if len(placement.counts) < 2:
        return counts
    return f"{counts}; {placement.transitions} transitions ({placement.transitions_naive} in program order)"


def _signed(value: int) -> str:
    return f"{value:+d}" if value else "0"


def _signed_bytes(value: int) -> str:
    return f"{'+' if value > 0 else '-'}{units.nbytes(abs(value))}" if value else "0"
