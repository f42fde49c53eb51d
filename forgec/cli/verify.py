"""``forgec verify``: does a compiled program compute what it should?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import OptionError
from ..report import units
from ..report.terminal import BAD, DIM, GOOD, Printer, styled
from . import flags
from .boundary import EXIT_CHECK, verb
from .output import Format, Output
from .programs import load_program
from .subject import is_exported, is_onnx, load_subject

if TYPE_CHECKING:
    from rich.text import Text

    from .comparison import Comparison

__all__ = ["verify"]

_SUSPECT = (
    "executable and interpreter agree: if the model and its weights are those that were compiled, a pass or "
    "the capture is wrong. Compile again with FORGEC_PASSES=-NAME to leave out a pass, with "
    "FORGEC_REWRITE_LIMIT=N to stop after N rewrites; bisecting N finds the first wrong one"
)


@verb(
    "forgec verify tiny.forge                    # the example stored in the file, without PyTorch",
    "forgec verify tiny.forge -m gpt2-tiny       # against eager PyTorch on fresh inputs",
    "forgec verify tiny.forge -m gpt2-tiny --seeds 5 --format json",
)
def verify(
    file: flags.Artifact,
    model: flags.OptionalModel = None,
    target: flags.Program = None,
    program: flags.ProgramName = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Fresh inputs to compare on, with -m.")] = 2,
    part: flags.Part = None,
    attn: flags.Attention = "auto",
    layers: flags.Layers = None,
    seed: flags.Seed = 0,
    fmt: flags.FormatFlag = Format.text,
    quiet: flags.Quiet = False,
) -> None:
    """Check that a compiled program computes what it should.

    Exit code 1 if a result is out of bounds: the project's own in f32, wider ones where a device computes in
    16 bits and, against eager, where weights are compressed.

    Without a model: the outputs stored in the file and the reference interpreter, on the stored example. With
    the model that it was compiled from: eager PyTorch too, on inputs that the compiler has not seen, and for
    an ONNX file also ONNX Runtime where that is installed. If the executable and the interpreter differ, the
    first instruction where they do is named; inside of an NPU's segment it is found by compiling parts of it.
    A language model's programs are compared with the model when they are compiled, and here without it.
    """
    from ..text.info import FILE as TEXT
    from .comparison import divergence, fresh_cases, sizes, stored_case

    output = Output(fmt, quiet)
    with load_program(file, target=target, program=program) as executable:
        made_for = executable.info.target
        if model is not None and TEXT in executable.extra_names:
            raise OptionError(
                f"{file} is of a language model, whose programs are compared with it when they are compiled",
                hint="verify it without -m: that checks the stored example of the main one, or of --program",
            )
        if model is None:
            cases = [stored_case(executable)]
        else:
            tokens, batch = (None, 1) if is_exported(model) or is_onnx(model) else sizes(executable)
            shapes = {leaf.name: leaf.type.shape for leaf in executable.signature.inputs}
            subject = load_subject(
                model,
                output,
                tokens=tokens,
                batch=batch,
                seed=seed,
                attn=attn,
                part=part,
                layers=layers,
                shapes=shapes if is_onnx(model) else None,
            )
            cases = list(fresh_cases(executable, subject, seeds))
        comparisons = [c for case in cases for c in case.comparisons]
        wrong = next((case for case in cases if case.executable_differs), None)
        differs = None if wrong is None else divergence(executable, wrong.inputs)
    passed = all(c.passed for c in comparisons)
    suspect = _SUSPECT if any(case.rewrite_suspect for case in cases) and differs is None else None
    document = {
        "file": str(file),
        "target": made_for,
        "passed": passed,
        "comparisons": comparisons,
        "first_divergence": differs,
        "suspect": suspect,
    }

    def text(printer: Printer) -> None:
        printer.line(styled("target  ", DIM), made_for)
        printer.gap()
        _print(comparisons, differs, suspect, passed, printer)

    output.result(document, text)
    if not passed:
        raise typer.Exit(EXIT_CHECK)


def _print(
    comparisons: list[Comparison], differs: str | None, suspect: str | None, passed: bool, printer: Printer
) -> None:
    """A table per output, each row the worst over all inputs."""
    inputs = ", ".join(dict.fromkeys(c.inputs for c in comparisons))
    for output in dict.fromkeys(c.output for c in comparisons):
        groups: dict[tuple[str, str], list[Comparison]] = {}
        for c in comparisons:
            if c.output == output:
                groups.setdefault((c.result, c.reference), []).append(c)
        printer.table(
            ("result", "against", ">max abs", ">bound", ">KL", ">bound", ">cosine", ">SQNR dB", ""),
            [(*names, *_worst(group)) for names, group in groups.items()],
            title=f"{output} on {inputs}",
        )
        printer.gap()
    if differs:
        printer.line(styled("executable and interpreter first differ at ", BAD), differs)
    if suspect:
        printer.line(suspect)
    verdict = styled("passed", GOOD) if passed else styled("FAILED", BAD)
    printer.line(verdict)


def _bound(value: float) -> str:
    return units.metric(value) if math.isfinite(value) else "-"


def _worst(group: list[Comparison]) -> tuple[str | Text, ...]:
    notes = ", ".join(dict.fromkeys(c.note for c in group if c.note))
    verdict = styled(f"ok{', ' if notes else ''}{notes}", GOOD)
    return (
        units.metric(max(c.max_abs for c in group)),
        _bound(max(c.bound_max_abs for c in group)),
        units.metric(max(c.kl for c in group)),
        _bound(max(c.bound_kl for c in group)),
        f"{min(c.cosine for c in group):.9f}",
        f"{min(c.sqnr_db for c in group):.1f}",
        verdict if all(c.passed for c in group) else styled("FAILED", BAD),
    )
