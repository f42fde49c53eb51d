"""``forgec bench``: how long a compiled program takes here, which ops take the time, how others compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import OptionError
from ..report import units
from ..report.terminal import DIM, Printer, styled
from . import flags, latency
from .boundary import verb
from .output import Format, Output
from .peers import against, calibrate
from .programs import kind_of, kind_on, load_program
from .subject import compile_subject, load_subject, require_targets

__all__ = ["bench"]


@verb(
    "forgec bench tiny.forge --repeat 200 --input input_ids=random:3",
    "forgec bench -m bert-base --tokens 64 --against openvino,onnxruntime --format json",
    "forgec bench --calibrate mine.json",
)
def bench(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE.forge]", help="A compiled program.")] = None,
    model: flags.OptionalModel = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="INPUT", help="As for run.  [default: the stored example]"),
    ] = None,
    repeat: Annotated[int, typer.Option(metavar="N", min=1, help="Runs to time.")] = 20,
    peers: Annotated[
        str,
        typer.Option(
            "--against", metavar="PEERS", help="Other tools beside it, with commas, or all: with -m."
        ),
    ] = "",
    calibration: Annotated[
        Path | None,
        typer.Option("--calibrate", metavar="OUT.json", help="Fit the cost model to this machine instead."),
    ] = None,
    target: flags.ProgramOrTarget = None,
    tokens: flags.Tokens = None,
    shape: flags.Shape = None,
    threads: flags.Threads = None,
    fmt: flags.FormatFlag = Format.text,
    quiet: flags.Quiet = False,
) -> None:
    """Measure latency here, and the time of every op.

    The ops are timed in runs of their own, one instruction at a time, so they need not add up to the latency.
    --against compiles the model with other tools too, which the extra forgec[bench] installs, and lets all
    take turns.
    """
    from ..report.stepwise import profile
    from .inputs import parse_inputs

    output = Output(fmt, quiet)
    if calibration is not None:
        if file is not None or model is not None or peers:
            raise OptionError("--calibrate measures the machine, not a program", hint="give it alone")
        return calibrate(calibration, output, threads)
    if (file is None) == (model is None):
        raise OptionError("bench needs a FILE.forge or -m MODEL", hint="give one of the two")
    if peers:
        if model is None:
            raise OptionError("--against compiles the model with every tool", hint="give it with -m")
        if inputs or target not in (None, "cpu"):
            raise OptionError("--against runs examples on the CPU", hint="leave out --input and --target")
        names = [name.strip() for name in peers.split(",") if name.strip()]
        shapes = flags.parse_shapes(shape)
        return against(model, names, output, tokens=tokens, shapes=shapes, threads=threads, repeat=repeat)
    if file is not None:
        executable = load_program(file, target=target, threads=threads)
        arrays, _ = parse_inputs(inputs or [], executable)
    else:
        if inputs:
            raise OptionError("--input is for a FILE.forge", hint="compile the model first")
        target = target or "cpu"
        require_targets([target])
        subject = load_subject(str(model), output, tokens=tokens, shapes=flags.parse_shapes(shape))
        executable = compile_subject(subject, output, target=target)
        executable.threads = threads
        arrays = executable.signature.flatten(*subject.draw(0))
    made_for = executable.info.target
    timing = latency.measure(lambda: executable.run_flat(arrays), repeat, kind_of([executable]))
    steps = profile(executable, arrays, repeat)
    by_op: dict[tuple[str, str], list[float]] = {}
    for step in steps:
        by_op.setdefault((step.op, step.device), []).append(step.ms)
    rows = sorted(by_op.items(), key=lambda item: -sum(item[1]))
    whole = sum(step.ms for step in steps)

    def text(printer: Printer) -> None:
        printer.line(styled("target   ", DIM), made_for)
        printer.line(styled("latency  ", DIM), str(timing))
        printer.gap()
        printer.table(
            ("op", "device", ">count", ">ms", ">share"),
            [
                (op, device, str(len(times)), f"{sum(times):.3f}", units.share(sum(times), whole))
                for (op, device), times in rows
            ],
        )

    document = {
        "target": made_for,
        "latency": timing,
        "ops": [
            {
                "op": op,
                "device": device,
                "count": len(times),
                "ms": sum(times),
                "kind": kind_on(executable, device),
            }
            for (op, device), times in rows
        ],
        "instructions": steps,
    }
    output.result(document, text)
