"""``forgec demo``: a real sentence encoder, compiled, embedded with, and checked."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ..errors import ModelError
from ..options import Options
from ..report import metrics, units
from ..report.terminal import BAD, DIM, GOOD, HEAD, Printer, print_report, styled
from . import flags, latency
from .boundary import EXIT_CHECK, verb, wrote
from .files import require_writable
from .output import Format, Output
from .subject import Subject, compile_subject

if TYPE_CHECKING:
    from ..executable import Executable

__all__ = ["demo"]

SENTENCES = (
    "The cat is asleep on the windowsill.",
    "A kitten naps beside the window.",
    "Interest rates rose again this quarter.",
    "The central bank made borrowing more expensive.",
    "How do I compile a model for an NPU?",
    "Which neural networks run on an accelerator?",
)

_NAME = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Agreement:
    """The worst over all sentences, against eager PyTorch: of the embeddings, and of the hidden states at the
    sentence's tokens, from which they are made."""

    embedding_cosine: float
    embedding_max_abs: float
    hidden_max_abs: float
    hidden_sqnr_db: float
    passed: bool


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

    output = Output(fmt, quiet)
    require_writable(out)
    folder = models.sentence_encoder_dir()
    batches = tokenise(folder, tokens)
    output.note(f"loading {_NAME}")
    module = models.load(folder).module
    subject = Subject(_NAME, module, lambda seed: ((), _as_torch(batches[seed])))
    with tempfile.TemporaryDirectory(prefix="forgec-demo-") as temporary:
        path = out or Path(temporary) / "demo.forge"
        compiled = compile_subject(subject, output, target="cpu", options=Options())
        compiled.save(path)
        if out is not None:
            wrote(out)
        size = path.stat().st_size
        with artifact.load(path) as executable:
            outputs = [_hidden(executable, batch) for batch in batches]
            timing = latency.measure(lambda: executable(**batches[0]), 10)
    expected = [_eager(module, batch) for batch in batches]
    embeddings = np.stack([embed(hidden, batch) for hidden, batch in zip(outputs, batches, strict=True)])
    agreement = agree(outputs, expected, batches)
    similarity = embeddings @ embeddings.T
    report = compiled.report
    document = {
        "model": _NAME,
        "file": None if out is None else str(out),
        "bytes": size,
        "sentences": SENTENCES,
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
        _print_similarity(similarity, printer)
        printer.gap()
        printer.pairs(
            [
                ("file", f"{out or 'temporary'}, {units.nbytes(size)}"),
                ("latency", f"{timing} per sentence of {tokens} tokens"),
                ("embeddings", _embedding_text(agreement)),
                ("hidden states", _hidden_text(agreement)),
            ]
        )

    output.result(document, text)
    if not agreement.passed:
        raise typer.Exit(EXIT_CHECK)


def tokenise(folder: Path, tokens: int) -> list[dict[str, np.ndarray]]:
    """Inputs int64 [1, tokens] of each sentence, padded; :class:`ModelError` without ``tokenizers``."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ModelError("the package tokenizers is not installed", hint="pip install tokenizers") from None
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens)
    return [
        {
            "input_ids": np.array([encoding.ids], np.int64),
            "attention_mask": np.array([encoding.attention_mask], np.int64),
            "token_type_ids": np.array([encoding.type_ids], np.int64),
        }
        for encoding in tokenizer.encode_batch(list(SENTENCES))
    ]


def embed(hidden: np.ndarray, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The sentence's unit vector [width]: mean of hidden states [1, tokens, width] where the mask is 1."""
    mask = inputs["attention_mask"][0, :, None].astype(hidden.dtype)
    mean = (hidden[0] * mask).sum(0) / mask.sum()
    vector: np.ndarray = mean / np.linalg.norm(mean)
    return vector


def agree(
    outputs: list[np.ndarray], expected: list[np.ndarray], batches: list[dict[str, np.ndarray]]
) -> Agreement:
    """Compare hidden states [1, tokens, width] and embeddings; the hidden states must be within the bound.

    Padded positions are left out: nothing reads them, and eager PyTorch itself is imprecise there.
    """
    found = []
    for got, want, inputs in zip(outputs, expected, batches, strict=True):
        kept = inputs["attention_mask"] == 1
        hidden = metrics.difference(want[kept], got[kept], "last_hidden_state")
        found.append((hidden, metrics.difference(embed(want, inputs), embed(got, inputs), "embedding")))
    return Agreement(
        embedding_cosine=min(embedding.cosine for _, embedding in found),
        embedding_max_abs=max(embedding.max_abs for _, embedding in found),
        hidden_max_abs=max(hidden.max_abs for hidden, _ in found),
        hidden_sqnr_db=min(hidden.sqnr_db for hidden, _ in found),
        passed=all(hidden.max_abs <= metrics.BOUND_MAX_ABS for hidden, _ in found),
    )


def _as_torch(inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def _hidden(executable: Executable, inputs: dict[str, np.ndarray]) -> np.ndarray:
    hidden: np.ndarray = executable(**inputs)["last_hidden_state"]
    return hidden


def _eager(module: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    import torch

    with torch.no_grad():
        hidden: np.ndarray = module(**_as_torch(inputs))["last_hidden_state"].numpy()
    return hidden


def _embedding_text(agreement: Agreement) -> Any:
    verdict = (
        styled("equal to PyTorch's", GOOD) if agreement.passed else styled("DIFFERENT from PyTorch's", BAD)
    )
    return verdict + styled(
        f": cosine {agreement.embedding_cosine:.9f}, max abs {units.metric(agreement.embedding_max_abs)}"
    )


def _hidden_text(agreement: Agreement) -> str:
    return (
        f"max abs {units.metric(agreement.hidden_max_abs)} (bound {units.metric(metrics.BOUND_MAX_ABS)}), "
        f"SQNR {agreement.hidden_sqnr_db:.1f} dB against eager PyTorch"
    )


def _print_similarity(similarity: np.ndarray, printer: Printer) -> None:
    """The matrix beside its sentences, each sentence's nearest one in bold."""
    nearest = np.argmax(similarity - 2 * np.eye(len(similarity)), axis=1)
    printer.table(
        ("", "cosine similarity", *(f">{i + 1}" for i in range(len(SENTENCES)))),
        [
            (
                styled(str(i + 1), DIM),
                sentence,
                *(
                    styled(f"{value:.2f}", DIM if i == j else HEAD if j == nearest[i] else "")
                    for j, value in enumerate(similarity[i])
                ),
            )
            for i, sentence in enumerate(SENTENCES)
        ],
    )
