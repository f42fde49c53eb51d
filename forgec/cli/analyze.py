"""``forgec analyze``: which parts of a model run on a device, which do not, why, and what would help."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..options import Options
from ..report import units
from ..report.report import RepeatReport, Verdict
from ..report.terminal import BAD, GOOD, HEAD, WARN, Printer, styled, verdict_text
from . import flags
from .boundary import EXIT_UNSUPPORTED, verb
from .output import Format, Output
from .subject import (
    compile_subject,
    compile_text_model,
    load_subject,
    require_targets,
    require_text_sizes,
)

if TYPE_CHECKING:
    from ..executable import Executable
    from ..ir.program import Instr
    from ..plan.plan import Plan

__all__ = ["analyze"]


@dataclass(frozen=True)
class Group:
    """Instructions alike in op, device and, off the target, in reason and source."""

    op: str
    count: int
    device: str
    flops_share: float
    estimated_us: float
    code: str | None
    reason: str | None
    source: str | None
    fix: str | None


@dataclass(frozen=True)
class Analysis:
    """One target, which cannot run ``refused`` of the ``off_target`` instructions; the others are faster
    elsewhere. ``program`` names one of a language model's. ``flops_share`` is by device, times are
    microseconds of one run, estimated by the cost models of the devices. ``calibration`` is by device what
    these are fitted on; ``verdict`` says which device is faster, and has what the vendor's compiler
    simulates; ``warnings`` are the compile's."""

    target: str
    instructions: int
    off_target: int
    refused: int
    flops_share: dict[str, float]
    estimated_us: dict[str, float]
    calibration: dict[str, str]
    groups: list[Group]
    fold: list[RepeatReport] = field(default_factory=list)
    """What repeats on the target, with the prices of compiling it once."""
    verdict: Verdict | None = None
    warnings: list[str] = field(default_factory=list)
    program: str | None = None


@verb(
    "forgec analyze -m gpt2-tiny -t cpu --tokens 32 --format json",
    "forgec analyze -m ./my-model -t intel-npu4000 --strict || echo 'it cannot run all of that'",
    "forgec analyze -m ./my-llama --context 1024 -t lunar-lake   # reading a prompt, and writing a token",
)
def analyze(
    model: flags.ModelFlag,
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="TARGETS", help="Targets, with commas.")
    ] = "cpu",
    tokens: flags.Tokens = None,
    batch: flags.Batch = 1,
    shape: flags.Shape = None,
    part: flags.Part = None,
    attn: flags.Attention = "auto",
    layers: flags.Layers = None,
    context: flags.Context = None,
    chunk: flags.Chunks = None,
    weights: flags.Weights = None,
    costs: Annotated[
        str,
        typer.Option("--costs", metavar="NAME|FILE", help="Calibration of the CPU: server, laptop, a file."),
    ] = Options().costs,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Exit with 3 if the target cannot run something. Faster elsewhere is no failure."
        ),
    ] = False,
    fmt: flags.FormatFlag = Format.text,
    quiet: flags.Quiet = False,
) -> None:
    """Show which ops of a model run on a target, and why not.

    For each op off the target: the reason, the source line and a fix.

    Shares are of arithmetic operations; times of ops come from cost models and are estimates. For an NPU its
    compiler is run too: what repeats, with the prices of compiling it once and of compiling it as often as it
    is called, and a last line that compares what the compiler simulates with the CPU alone.
    """
    output = Output(fmt, quiet)
    targets = [name.strip() for name in target.split(",") if name.strip()]
    require_targets(targets or [target])
    shapes = flags.parse_shapes(shape)
    options = Options(check=False, costs=costs, weights=weights or Options().weights)
    found = []
    require_text_sizes(context, chunk, tokens=tokens, batch=batch, shapes=shapes, part=part)
    if context is None:
        sizes: dict[str, Any] = {"tokens": tokens, "batch": batch, "shapes": shapes}
        subject = load_subject(model, output, **sizes, attn=attn, part=part, layers=layers)
        named = subject.name
        for name in targets:
            executable = compile_subject(subject, output, target=name, options=options)
            found.append(_analysis(executable, costs))
    else:
        for name in targets:
            programs = compile_text_model(
                model,
                output,
                context=context,
                chunks=chunk,
                target=name,
                options=options,
                attn=attn,
                layers=layers,
            )
            named = programs.main.info.name
            found += [_analysis(programs[key], costs, key) for key in programs]
    output.result({"model": named, "targets": found}, lambda printer: _print(named, found, printer))
    if strict and any(analysis.refused for analysis in found):
        raise typer.Exit(EXIT_UNSUPPORTED)


def _analysis(executable: Executable, costs: str, program: str | None = None) -> Analysis:
    found = replace(analyse_plan(executable.plan, costs), fold=fold_prices(executable), program=program)
    report = executable.report
    return found if report is None else replace(found, verdict=report.verdict, warnings=report.warnings)


def analyse_plan(plan: Plan, costs: str = Options().costs) -> Analysis:
    """Group the instructions of a plan, at the costs of their devices; views are left out, since they run
    nowhere. ``costs`` is the host's calibration."""
    from .. import backends
    from ..ir.op import get
    from ..plan.cost import CostModel
    from ..plan.plan import BY_COST

    host = CostModel.load(costs)
    models = {plan.target: host.on(backends.get(plan.target)), plan.host: host}
    total: dict[str, float] = {}
    micros: dict[str, float] = {}
    rows: dict[tuple[str | None, ...], list[tuple[float, float]]] = {}
    body = [(i, instr) for i, instr in enumerate(plan.program.main.body) if not get(instr.op).view]
    for i, instr in body:
        device = instr.device or plan.host
        flops, us = _flops(instr), models[device].instr_cost(instr)
        total[device] = total.get(device, 0.0) + flops
        micros[device] = micros.get(device, 0.0) + us
        reason = plan.reasons.get(i)
        why: tuple[str | None, ...] = (None, None, None, None)
        if reason is not None:
            source = str(instr.source) if instr.source else None
            why = (reason.code, reason.sentence, source, reason.fix)
        rows.setdefault((instr.op, device, *why), []).append((flops, us))
    everything = sum(total.values())
    groups = [
        Group(
            op=str(key[0]),
            count=len(found),
            device=str(key[1]),
            flops_share=sum(flops for flops, _ in found) / everything if everything else 0.0,
            estimated_us=sum(us for _, us in found),
            code=key[2],
            reason=key[3],
            source=key[4],
            fix=key[5],
        )
        for key, found in rows.items()
    ]
    fitted = {device: f"{model.method} on {model.machine}" for device, model in models.items()}
    return Analysis(
        target=plan.target,
        instructions=len(body),
        off_target=sum(g.count for g in groups if g.code is not None),
        refused=sum(g.count for g in groups if g.code not in (None, BY_COST)),
        flops_share={device: flops / everything if everything else 0.0 for device, flops in total.items()},
        estimated_us=micros,
        calibration={device: text for device, text in fitted.items() if device in total},
        groups=sorted(groups, key=lambda g: (g.code is not None, -g.estimated_us)),
    )


def fold_prices(executable: Executable) -> list[RepeatReport]:
    """What repeats in the target's segments: as the compile says if it looked itself, else asked for."""
    report = executable.report
    told = [repeat for p in (report.predictions if report else ()) for repeat in p.repeats]
    if told:
        return told
    shared, plan = executable.shared, executable.plan
    segments = [
        program
        for program, segment in zip(shared.segments, plan.segments, strict=True)
        if segment.device == plan.target
    ]
    if not segments or plan.target == plan.host:
        return []
    found = shared.backend(plan.target).fold_prices(segments, shared.constants.once)
    return [RepeatReport(**asdict(repeat)) for repeat in found]


def _flops(instr: Instr) -> float:
    from ..plan.cost import work

    needed = work(instr)
    return needed.flops if needed else 0.0


def _print(name: str, analyses: Iterable[Analysis], printer: Printer) -> None:
    for number, a in enumerate(analyses):
        if number:
            printer.gap()
        on = a.instructions - a.off_target
        what = name if a.program is None else f"{name}, {a.program}"
        printer.line(styled(f"{what} on {a.target}", HEAD))
        printer.gap()
        printer.table(
            ("op", ">count", "device", ">flops", ">estimated"),
            [
                (
                    g.op,
                    units.count(g.count),
                    g.device,
                    _percent(g.flops_share),
                    units.duration_us(g.estimated_us),
                )
                for g in a.groups
            ],
        )
        printer.gap()
        off = [g for g in a.groups if g.code is not None]
        printer.table(
            ("op", ">count", "runs on", "code", "reason", "source", "fix"),
            [
                (
                    g.op,
                    units.count(g.count),
                    g.device,
                    g.code or "",
                    g.reason or "",
                    g.source or "-",
                    g.fix or "-",
                )
                for g in off
            ],
            title=f"not on {a.target}",
        )
        if off:
            printer.gap()
        if a.fold:
            printer.table(
                (
                    "repeats",
                    ">calls",
                    ">folded",
                    ">unfolded",
                    ">price",
                    ">code folded",
                    ">code",
                    "by default",
                ),
                [_fold_row(repeat) for repeat in a.fold],
                title="compiling repeated blocks once: simulated time of all calls",
            )
            printer.gap()
        devices = ", ".join(
            f"{device} {_percent(share)} of the operations, {units.duration_us(a.estimated_us[device])}"
            for device, share in a.flops_share.items()
        )
        colour = BAD if a.refused else GOOD
        everything = styled(f"{on} of {a.instructions}" if off else "everything", colour)
        chosen = a.off_target - a.refused
        faster = f", {chosen} are faster elsewhere" if chosen else ""
        fitted = "; ".join(a.calibration.values())
        printer.line(everything, f" on {a.target}{faster}; {devices} (estimated; {fitted})")
        if a.verdict is not None:
            printer.line(verdict_text(a.verdict))
        for warning in a.warnings:
            printer.line(styled("warning: ", WARN), warning)


def _fold_row(repeat: RepeatReport) -> tuple[str, ...]:
    folded, unfolded = repeat.folded_us, repeat.unfolded_us
    times = ["-" if us is None else units.duration_us(us) for us in (folded, unfolded)]
    price = f"{100 * (folded / unfolded - 1):+.0f} %" if folded is not None and unfolded else "-"
    sizes = ["-" if n is None else units.nbytes(n) for n in (repeat.folded_bytes, repeat.unfolded_bytes)]
    verdict = f"{'folded' if repeat.folded else 'not folded'}: {repeat.reason}"
    return (repeat.what, units.count(repeat.calls), *times, price, *sizes, verdict)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
