"""``forgec profile``: which kernels of a compiled program take the time here, on each thread."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..report import units
from ..report.terminal import DIM, Printer, styled
from . import flags
from .boundary import verb, wrote
from .files import require_writable
from .output import Format, Output
from .programs import kind_of, load_program

__all__ = ["profile"]


@verb(
    "forgec profile tiny.forge",
    "forgec profile tiny.forge --trace run.json               # open in chrome://tracing or Perfetto",
    "forgec profile llama.forge --program decode --input input_ids=5 --input position=100",
)
def profile(
    file: flags.Artifact,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="INPUT", help="As for run.  [default: the stored example]"),
    ] = None,
    program: flags.ProgramName = None,
    target: flags.Program = None,
    repeat: Annotated[int, typer.Option(metavar="N", min=1, help="Runs; the fastest is shown.")] = 20,
    trace: Annotated[Path | None, typer.Option(metavar="OUT.json", help="Write a Chrome trace.")] = None,
    threads: flags.Threads = None,
    fmt: flags.FormatFlag = Format.text,
    quiet: flags.Quiet = False,
) -> None:
    """Time every kernel of a run on every thread; needs no PyTorch.

    One row per op and shape: wall time, the part of it that threads waited for each other, and speed.
    """
    from ..report import kernels
    from ..report.trace import save
    from .inputs import files_of, parse_inputs

    output = Output(fmt, quiet)
    require_writable({"--trace": trace}, [file, *files_of(inputs or [])])
    with load_program(file, target=target, program=program, threads=threads) as executable:
        arrays, _ = parse_inputs(inputs or [], executable)
        run = kernels.trace(executable, arrays, repeat)
        name, made_for, kind = executable.info.name, executable.info.target, kind_of([executable])
    if trace is not None:
        save(kernels.chrome_trace(run, name), trace)
        wrote(trace)
    rows = kernels.summary(run)
    rest = run.ms - sum(row.ms for row in rows)

    def text(printer: Printer) -> None:
        took = f"{units.duration_us(run.ms * 1000)} ({kind}, fastest of {repeat}, {run.threads} threads)"
        printer.line(styled("target  ", DIM), made_for)
        printer.line(styled("run     ", DIM), took)
        printer.gap()
        printer.table(
            ("op", "operands", ">count", ">ms", ">share", ">waited ms", ">GFLOP/s", ">GB/s"),
            [
                (
                    row.op,
                    row.what,
                    str(row.count),
                    f"{row.ms:.3f}",
                    units.share(row.ms, run.ms),
                    f"{row.waited_ms:.3f}",
                    f"{row.gflops:.1f}",
                    f"{row.gbytes:.1f}",
                )
                for row in rows
            ],
        )
        printer.line(styled("between kernels  ", DIM), f"{rest:.3f} ms")

    document = {
        "file": str(file),
        "target": made_for,
        "ms": run.ms,
        "kind": kind,
        "threads": run.threads,
        "between_kernels_ms": rest,
        "kernels": rows,
    }
    output.result(document, text)
    if trace is not None:
        output.note(f"wrote {trace}")
