"""``forgec verify``: does a compiled program compute what it should?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ..errors import OptionError
from ..report import metrics, units
from ..report.terminal import BAD, GOOD, Printer, styled
from . import flags
from .boundary import EXIT_CHECK, verb
from .eager import can_widen, flat_outputs, run_eager
from .output import Format, Output
from .subject import Subject, load_subject

if TYPE_CHECKING:
    from ..executable import Executable

__all__ = ["verify"]

_TOKEN_INPUTS = ("input_ids", "decoder_input_ids")


@dataclass(frozen=True)
class Comparison:
    """One output of two ways to compute it on the same inputs; metrics as in the report.

    ``note`` says why a difference over the bounds passes: the f32 reference is the imprecise side.
    """

    result: str
    reference: str
    inputs: str
    output: str
    max_abs: float
    kl: float
    cosine: float
    sqnr_db: float
    passed: bool
    note: str | None = None


@verb(
    "forgec verify tiny.forge                    # the example stored in the file, without PyTorch",
    "forgec verify tiny.forge -m gpt2-tiny       # against eager PyTorch on fresh inputs",
    "forgec verify tiny.forge -m gpt2-tiny --seeds 5 --format json",
)
def verify(
    file: flags.Artifact,
    model: flags.OptionalModel = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Fresh inputs to compare on, with -m.")] = 2,
    attn: flags.Attention = "sdpa",
    layers: flags.Layers = None,
    seed: flags.Seed = 0,
    fmt: flags.FormatFlag = Format.text,
    quiet: flags.Quiet = False,
) -> None:
    """Check that a compiled program computes what it should.

    Exit code 1 if a result is out of bounds.

    Without a model: the outputs stored in the file and the reference interpreter, on the stored example. With
    the model that it was compiled from: eager PyTorch too, on inputs that the compiler has not seen. If the
    executable and the interpreter differ, the first instruction where they do is named.
    """
    from .. import executable as artifact

    output = Output(fmt, quiet)
    with artifact.load(file) as executable:
        if model is None:
            cases = list(_stored_case(executable))
        else:
            tokens, batch = _sizes(executable)
            subject = load_subject(
                model, output, tokens=tokens, batch=batch, seed=seed, attn=attn, layers=layers
            )
            cases = list(_fresh_cases(executable, subject, seeds))
        comparisons = [c for case in cases for c in case.comparisons]
        wrong = next((case for case in cases if case.executable_differs), None)
        divergence = None if wrong is None else _divergence(executable, wrong.inputs)
    passed = all(c.passed for c in comparisons)
    document = {
        "file": str(file),
        "passed": passed,
        "bound_max_abs": metrics.BOUND_MAX_ABS,
        "bound_kl": metrics.BOUND_KL,
        "comparisons": comparisons,
        "first_divergence": divergence,
    }
    output.result(document, lambda printer: _print(comparisons, divergence, passed, printer))
    if not passed:
        raise typer.Exit(EXIT_CHECK)


@dataclass(frozen=True)
class _Case:
    inputs: list[np.ndarray]
    comparisons: list[Comparison]
    outputs: dict[str, Sequence[np.ndarray]]

    @property
    def executable_differs(self) -> bool:
        return any(c.reference == "interpreter" and not c.passed for c in self.comparisons)


def _stored_case(executable: Executable) -> Iterator[_Case]:
    stored = executable.selftest
    if stored is None:
        raise OptionError("the file stores no example to check", hint="give the model with -m")
    yield _compare(executable, list(stored.inputs), "stored", list(stored.outputs), "stored outputs")


def _fresh_cases(executable: Executable, subject: Subject, seeds: int) -> Iterator[_Case]:
    for number in range(1, seeds + 1):
        args, kwargs = subject.draw(number)
        inputs = executable.signature.flatten(args, kwargs)

        def eager(wide: bool, args: Any = args, kwargs: Any = kwargs) -> list[np.ndarray]:
            return flat_outputs(executable.signature, run_eager(subject.model, args, kwargs, wide=wide))

        case = _compare(executable, inputs, f"seed {number}", eager(wide=False), "eager")
        if not all(c.passed for c in case.comparisons) and can_widen(subject.model):
            case = _with_wide_reference(case, eager(wide=False), eager(wide=True))
        yield case


def _compare(
    executable: Executable, inputs: list[np.ndarray], label: str, expected: Sequence[np.ndarray], source: str
) -> _Case:
    """Executable and interpreter against the expected outputs, and against each other."""
    from ..report.stepwise import interpret

    with executable.clone() as clone:
        got = clone.run_flat(inputs)
    reference = interpret(executable, inputs)
    names = [leaf.name or f"output{leaf.index}" for leaf in executable.signature.results]
    sides: tuple[tuple[str, Sequence[np.ndarray], str, Sequence[np.ndarray]], ...] = (
        ("executable", got, source, expected),
        ("interpreter", reference, source, expected),
        ("executable", got, "interpreter", reference),
    )
    comparisons = []
    for result, values, against, wanted in sides:
        for name, value, want in zip(names, values, wanted, strict=True):
            d = metrics.difference(want, value, name)
            passed = d.within(metrics.BOUND_MAX_ABS, metrics.BOUND_KL)
            comparisons.append(
                Comparison(result, against, label, name, d.max_abs, d.kl, d.cosine, d.sqnr_db, passed)
            )
    return _Case(inputs, comparisons, {"executable": got, "interpreter": reference})


def _with_wide_reference(case: _Case, narrow: list[np.ndarray], wide: list[np.ndarray]) -> _Case:
    """Pass what is within the bounds of float64 although it is not within those of eager's f32.

    Fully padded positions are an example: eager's own rounding error there can exceed the bound.
    """
    names = list(dict.fromkeys(c.output for c in case.comparisons))
    changed = []
    for c in case.comparisons:
        if not c.passed and c.reference == "eager":
            at = names.index(c.output)
            found = metrics.difference(wide[at], case.outputs[c.result][at], c.output)
            own = metrics.max_abs(wide[at], narrow[at])
            if found.within(metrics.BOUND_MAX_ABS, metrics.BOUND_KL):
                note = f"float64 is {units.metric(found.max_abs)} from this, {units.metric(own)} from eager"
                c = replace(c, passed=True, note=note)
        changed.append(c)
    return replace(case, comparisons=changed)


def _divergence(executable: Executable, inputs: list[np.ndarray]) -> str | None:
    from ..report.stepwise import first_divergence

    found = first_divergence(executable, inputs, metrics.BOUND_MAX_ABS)
    return None if found is None else f"{found} (max abs {units.metric(found.max_abs)})"


def _sizes(executable: Executable) -> tuple[int | None, int]:
    """Tokens and batch that the program was compiled for."""
    leaves = executable.signature.inputs
    for leaf in leaves:
        if leaf.name in _TOKEN_INPUTS:
            batch, tokens = leaf.type.shape
            return tokens, batch
    return None, leaves[0].type.shape[0] if leaves and leaves[0].type.shape else 1


def _print(comparisons: list[Comparison], divergence: str | None, passed: bool, printer: Printer) -> None:
    printer.table(
        ("result", "against", "inputs", "output", ">max abs", ">KL", ">cosine", ">SQNR dB", ""),
        [
            (
                c.result,
                c.reference,
                c.inputs,
                c.output,
                units.metric(c.max_abs),
                units.metric(c.kl),
                f"{c.cosine:.9f}",
                f"{c.sqnr_db:.1f}",
                styled("FAILED", BAD)
                if not c.passed
                else styled("ok" + (f", {c.note}" if c.note else ""), GOOD),
            )
            for c in comparisons
        ],
    )
    printer.gap()
    if divergence:
        printer.line(styled("executable and interpreter first differ at ", BAD), divergence)
    verdict = styled("passed", GOOD) if passed else styled("FAILED", BAD)
    printer.line(
        verdict,
        f" (bounds: max abs {units.metric(metrics.BOUND_MAX_ABS)}, KL {units.metric(metrics.BOUND_KL)})",
    )
