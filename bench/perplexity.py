"""What weight formats cost a language model in accuracy: perplexity, and KL divergence from fp32.

The model is the one of :mod:`.train`, which has learned its text; the text that is scored it has not seen.
Each format is compiled for windows of the training length and runs over the same windows; eager PyTorch is
the reference. Formats of 4 bits are measured rounded to the nearest, and calibrated on windows of the text
that was learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .round_robin import Say
from .tables import Table
from .train import LEARNT_FILE, TEXT_FILE, WINDOW

__all__ = ["CALIBRATED", "FORMATS", "NAME", "TITLE", "measure", "tables"]

NAME = "perplexity"
TITLE = "Weight formats: perplexity"
CALIBRATED = " calibrated"
"""Behind a format: fitted to a calibration text."""

FORMATS = (
    *("fp32", "bf16", "int8", "w8a8"),
    *(f"int4:{group}{how}" for group in (128, 64, 32) for how in ("", CALIBRATED)),
    *(f"w4a8:{group}{how}" for group in (128, 64, 32) for how in ("", CALIBRATED)),
)
_CALIBRATION_WINDOWS = 64


def measure(folder: Path, *, formats: Sequence[str], windows: int, say: Say) -> dict[str, Any]:
    """Perplexity and KL divergence by format, over so many windows of the validation text."""
    import tokenizers
    import torch

    import forgec
    from forgec import models

    loaded = models.load(folder)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = _windows(tokenizer, folder / TEXT_FILE, windows)
    sample = [
        {"input_ids": text[None]} for text in _windows(tokenizer, folder / LEARNT_FILE, _CALIBRATION_WINDOWS)
    ]
    with torch.no_grad():
        reference = [
            _log_softmax(loaded.module(input_ids=torch.from_numpy(t)[None]).logits.numpy()) for t in texts
        ]
    rows = [{"format": "eager PyTorch", **_scores(reference, reference, texts)}]
    for name in formats:
        example = {"input_ids": torch.from_numpy(texts[:1])}
        executable = forgec.compile(
            loaded,
            (),
            example,
            weights=name.removesuffix(CALIBRATED),
            calibration=sample if name.endswith(CALIBRATED) else None,
            check=False,
        )
        found = [_log_softmax(executable(input_ids=t[None])["logits"]) for t in texts]
        rows.append({"format": name, **_scores(found, reference, texts)})
        say(f"{name}: {rows[-1]}")
    return {"windows": len(texts), "tokens": len(texts) * (WINDOW - 1), "rows": rows}


def tables(data: Mapping[str, Any]) -> list[Table]:
    """One row a format."""
    base = data["rows"][0]["perplexity"]
    rows = [
        (
            row["format"],
            f"{row['perplexity']:.3f}",
            f"{(row['perplexity'] / base - 1) * 100:+.2f} %",
            f"{row['kl']:.1e}",
        )
        for row in data["rows"]
    ]
    note = f"Measured over {data['tokens']} tokens that the model has not seen; KL in nats a token."
    return [Table(TITLE, ("weights", ">perplexity", ">change", ">KL"), rows, [note])]


def _windows(tokenizer: Any, path: Path, count: int) -> np.ndarray:
    """Token ids [count, WINDOW] of a text, evenly spaced, so that few windows still are of many files."""
    ids = np.array(tokenizer.encode(path.read_text(encoding="utf-8")).ids)
    starts = np.linspace(0, len(ids) - WINDOW, min(count, len(ids) // WINDOW)).astype(int)
    return np.stack([ids[i : i + WINDOW] for i in starts])


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    scores = logits[0].astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def _scores(
    found: Sequence[np.ndarray], reference: Sequence[np.ndarray], texts: np.ndarray
) -> dict[str, float]:
    losses, divergences = [], []
    for logs, wanted, ids in zip(found, reference, texts, strict=True):
        losses.append(-logs[np.arange(len(ids) - 1), ids[1:]])
        divergences.append((np.exp(wanted) * (wanted - logs)).sum(-1)[:-1])
    return {
        "perplexity": float(np.exp(np.concatenate(losses).mean())),
        "kl": float(np.concatenate(divergences).mean()),
    }
