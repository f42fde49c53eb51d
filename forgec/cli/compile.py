"""``forgec compile``: a model into a .forge file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import debug
from ..errors import ArtifactError, InternalError, OptionError
from ..options import CAPTURE_MODES, FOLD_MODES, Options
from ..report import terminal, trace, units
from . import flags
from .boundary import EXIT_CHECK, verb, wrote
from .files import read_text, require_regular, require_writable, write_text
from .output import Format, Output
from .subject import (
    Subject,
    compile_subject,
    compile_text_model,
    files_of_model,
    load_subject,
    require_targets,
    require_text_sizes,
)

__all__ = ["compile", "options_of"]


@verb(
    "forgec compile -m ./my-bert --tokens 64 --weights int8,*.dense=bf16 -o bert.forge --report bert.html",
    "forgec compile -m ./my-bert -t lunar-lake,cpu -o bert.forge  # runs on what the machine has",
    "forgec compile -m ./my-llama --context 4096 -o llama.forge   # for forgec generate",
)
def compile(
    model: flags.ModelFlag,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="OUT.forge", help="File to write.  [default: NAME.forge]"),
    ] = None,
    target: Annotated[
        str,
        typer.Option("--target", "-t", metavar="TARGETS", help="Devices to compile for, with commas; auto."),
    ] = "cpu",
    tokens: flags.Tokens = None,
    batch: flags.Batch = 1,
    shape: flags.Shape = None,
    part: flags.Part = None,
    attn: flags.Attention = "auto",
    layers: flags.Layers = None,
    seed: flags.Seed = 0,
    context: flags.Context = None,
    chunk: flags.Chunks = None,
    fusion: Annotated[
        float | None, typer.Option(metavar="F", help="How much to fuse, 0 to 1.  [default: 1]")
    ] = None,
    weights: flags.Weights = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --context, int4 or w4a8: fit weights to this text, a few thousand words.",
        ),
    ] = None,
    capture: Annotated[
        str | None, typer.Option(metavar="|".join(CAPTURE_MODES), help="How to trace.  [default: auto]")
    ] = None,
    check: Annotated[bool, typer.Option(help="Compare with eager PyTorch on the example inputs.")] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Anything that the target cannot run is an error (exit 3).")
    ] = False,
    fold: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(FOLD_MODES), help="For NPUs: compile repeated blocks once.  [default: auto]"
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="Any compile option, repeatable (see below)."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as .json or .html.")
    ] = None,
    trace_file: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Write a Chrome trace of phases and passes."),
    ] = None,
    emit_ir: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the program as IR text.")
    ] = None,
    emit: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the vendors' own files of an NPU's parts.")
    ] = None,
    fmt: flags.FormatFlag = Format.text,
    quiet: flags.Quiet = False,
) -> None:
    """Compile a model into one .forge file.

    The report goes to stdout: what each phase and pass did, where everything runs, how much memory a run
    takes, and how far the result is from eager PyTorch. With --context it is that of the decode program.
    """
    output = Output(fmt, quiet)
    options = options_of(
        option or (),
        fusion=fusion,
        weights=weights,
        capture=capture,
        check=check,
        strict=strict,
        fold=fold,
    )
    if report is not None and report.suffix not in (".json", ".html"):
        raise OptionError(f"--report {report} has no known form", hint="name it .json or .html")

    def check_outputs(out: Path | None) -> None:
        files = {"--out": out, "--report": report, "--trace": trace_file, "--emit-ir": emit_ir}
        read = files_of_model(model) + ([] if calibrate is None else [calibrate])
        require_writable(files, read, {"--emit": emit, "--dump": debug.knobs().dump})
        require_regular(out)

    check_outputs(out)
    shapes = flags.parse_shapes(shape)
    sizes: dict[str, Any] = {"tokens": tokens, "batch": batch, "shapes": shapes}
    targets = [name.strip() for name in target.split(",") if name.strip()]
    require_targets(targets or [target])
    if len(targets) > 1:
        if context is not None or any((report, trace_file, emit_ir, emit)):
            raise OptionError(
                "--context, --report, --trace, --emit-ir and --emit are for one target",
                hint="compile for each target by itself",
            )
        subject = load_subject(model, output, **sizes, seed=seed, part=part, attn=attn, layers=layers)
        return _for_targets(subject, targets, options, out, output)
    if emit is not None and not _off_host(target):
        raise OptionError(
            "--emit writes the files of an NPU's compiler, and the target is the CPU",
            hint="compile for one of the NPUs that `forgec targets` lists",
        )
    if calibrate and context is None:
        raise OptionError("--calibrate is for models that write text", hint="give --context N too")
    require_text_sizes(context, chunk, tokens=tokens, batch=batch, shapes=shapes, part=part)
    if context is None:
        subject = load_subject(model, output, **sizes, seed=seed, part=part, attn=attn, layers=layers)
        out = out or Path(f"{subject.name}.forge")
        check_outputs(out)
        executable = compile_subject(subject, output, target=target, options=options)
        result = executable.report
        executable.save(out)
    else:
        programs = compile_text_model(
            model,
            output,
            context=context,
            chunks=chunk,
            target=target,
            options=options,
            calibration=None if calibrate is None else read_text(calibrate),
            seed=seed,
            attn=attn,
            layers=layers,
        )
        executable = programs.main
        result = executable.report
        out = out or Path(f"{executable.info.name}.forge")
        check_outputs(out)
        programs.save(out)
    if result is None:
        raise InternalError("a compile made no report")
    wrote(out)
    if report is not None:
        result.save(report)
        wrote(report)
    if trace_file is not None:
        trace.save_trace(result, trace_file)
        wrote(trace_file)
    if emit_ir is not None:
        from ..ir.printer import to_text

        write_text(emit_ir, to_text(executable.program))
        wrote(emit_ir)

    placed = any(_off_host(segment.device) for segment in executable.plan.segments)
    if emit is not None and placed:
        from ..executable.vendor_files import write_vendor_files

        for path in write_vendor_files(executable, emit):
            wrote(path)
            output.note(f"wrote {path} ({units.nbytes(path.stat().st_size)})")

    output.result(result, lambda printer: terminal.print_report(result, printer.file))
    for path in filter(None, (out, report, trace_file, emit_ir)):
        output.note(f"wrote {path} ({units.nbytes(path.stat().st_size)})")
    if emit is not None and not placed:
        raise ArtifactError(
            f"--emit {emit} has nothing to write: placement put the whole program on the CPU",
            where=f"{out}, which is written and runs there",
            hint=f"forgec analyze -m {model} -t {target} says why, and what would help",
        )
    if result.fidelity is not None and not result.fidelity.passed:
        raise typer.Exit(EXIT_CHECK)


def _for_targets(
    subject: Subject, targets: list[str], options: Options, out: Path | None, output: Output
) -> None:
    """Compile for several targets into one file; their reports one after the other."""
    from ..multitarget import compile_targets

    args, kwargs = subject.draw(0)
    with output.progress() as progress:
        programs = compile_targets(
            subject.model,
            args,
            kwargs,
            targets=targets,
            options=options,
            progress=progress,
            name=subject.name,
            origin=subject.weights,
        )
    out = out or Path(f"{subject.name}.forge")
    require_regular(out)
    programs.save(out)
    wrote(out)
    reports = [executable.report for executable in programs.values()]

    def text(printer: terminal.Printer) -> None:
        for found in reports:
            if found is not None:
                terminal.print_report(found, printer.file)
                printer.gap()

    output.result({"reports": reports}, text)
    output.note(f"wrote {out} ({units.nbytes(out.stat().st_size)})")
    if any(r is not None and r.fidelity is not None and not r.fidelity.passed for r in reports):
        raise typer.Exit(EXIT_CHECK)


def _off_host(target: str) -> bool:
    """Whether a target, by any of its names, is a device other than the CPU."""
    from .. import backends
    from ..plan.plan import HOST

    return bool(backends.resolve(target) != HOST)


def options_of(assignments: list[str] | tuple[str, ...], **flagged: object) -> Options:
    """Options from ``--option`` texts, with the flags that were given on top."""
    named = Options.parse(assignments)
    for name, value in flagged.items():
        if value is not None and value != getattr(Options, name):
            named[name] = value
    return Options.of(named)
