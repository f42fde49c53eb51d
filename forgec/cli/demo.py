"""``forgec demo``: a real sentence encoder, compiled, embedded with, and checked."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import Options
from ..report import units
from ..report.terminal import BAD, DIM, GOOD, HEAD, Printer, print_report, styled
from . import flags, latency
from .boundary import EXIT_CHECK, verb, wrote
from .files import require_regular, require_writable
from .output import Format, Output
from .subject import Subject, compile_subject

if TYPE_CHECKING:
    import numpy as np
    from rich.text import Text

    from .sentences import Agreement

__all__ = ["demo"]

_NAME = "all-MiniLM-L6-v2"


@verb(
    "forgec demo",
    "forgec demo -o minilm.forge     # keep the compiled file",
    "forgec demo --format json --quiet",
)
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="OUT.forge", help="Keep the compiled file.")
    ] = None,
    tokens: Annotated[
        int, typer.Option(metavar="N", min=8, max=512, help="Length that sentences are padded to.")
    ] = 32,
    fmt: flags.FormatFlag = Format.text,
    quiet: flags.Quiet = False,
) -> None:
    """Compile a real sentence encoder and embed with it.

    Six sentences go through all-MiniLM-L6-v2 as a compiled file; the report of the compile, their
    similarities and the difference from PyTorch are printed. Exit code 1 if that is out of bounds.
    """
    from .. import executable as artifact
    from .. import models
    from ..report import metrics
    from . import sentences

    output = Output(fmt, quiet)
    require_writable({"--out": out})
    require_regular(out)
    folder = models.sentence_encoder_dir()
    batches = sentences.tokenise(folder, tokens)
    output.note(f"loading {_NAME}")
    module = models.load(folder).module
    subject = Subject(_NAME, module, lambda seed: ((), sentences.as_torch(batches[seed])))
    with tempfile.TemporaryDirectory(prefix="forgec-demo-") as temporary:
        path = out or Path(temporary) / "demo.forge"
        compiled = compile_subject(subject, output, target="cpu", options=Options())
        compiled.save(path)
        if out is not None:
            wrote(out)
        size = path.stat().st_size
        with artifact.load(path) as executable:
            outputs = [sentences.hidden_states(executable, batch) for batch in batches]
            timing = latency.measure(lambda: executable(**batches[0]), 10)
    expected = [sentences.eager_hidden_states(module, batch) for batch in batches]
    agreement = sentences.agree(outputs, expected, batches)
    similarity = sentences.similarity(outputs, batches)
    report = compiled.report
    document = {
        "model": _NAME,
        "file": None if out is None else str(out),
        "bytes": size,
        "sentences": sentences.SENTENCES,
        "similarity": similarity.tolist(),
        "agreement": agreement,
        "latency": timing,
        "report": report,
    }

    def text(printer: Printer) -> None:
        if report is not None:
            print_report(report, printer.file)
            printer.gap()
        printer.line(styled("embeddings ", HEAD), f"through {out or 'the compiled file'}, without PyTorch")
        printer.gap()
        _print_similarity(sentences.SENTENCES, similarity, printer)
        printer.gap()
        printer.pairs(
            [
                ("file", f"{out or 'temporary'}, {units.nbytes(size)}"),
                ("latency", f"{timing} per sentence of {tokens} tokens"),
                ("embeddings", _embedding_text(agreement)),
                ("hidden states", _hidden_text(agreement, metrics.BOUND_MAX_ABS)),
            ]
        )

    output.result(document, text)
    if not agreement.passed:
        raise typer.Exit(EXIT_CHECK)


def _embedding_text(agreement: Agreement) -> Text:
    verdict = (
        styled("equal to PyTorch's", GOOD) if agreement.passed else styled("DIFFERENT from PyTorch's", BAD)
    )
    return verdict + styled(
        f": cosine {agreement.embedding_cosine:.9f}, max abs {units.metric(agreement.embedding_max_abs)}"
    )


def _hidden_text(agreement: Agreement, bound: float) -> str:
    return (
        f"max abs {units.metric(agreement.hidden_max_abs)} (bound {units.metric(bound)}), "
        f"SQNR {agreement.hidden_sqnr_db:.1f} dB against eager PyTorch"
    )


def _print_similarity(sentences: Sequence[str], similarity: np.ndarray, printer: Printer) -> None:
    """The matrix beside its sentences, each sentence's nearest one in bold."""
    nearest = [
        max((value, j) for j, value in enumerate(row) if i != j)[1] for i, row in enumerate(similarity)
    ]
    printer.table(
        ("", "cosine similarity", *(f">{i + 1}" for i in range(len(sentences)))),
        [
            (
                styled(str(i + 1), DIM),
                sentence,
                *(
                    styled(f"{value:.2f}", DIM if i == j else HEAD if j == nearest[i] else "")
                    for j, value in enumerate(similarity[i])
                ),
            )
            for i, sentence in enumerate(sentences)
        ],
    )
