"""Sentence embeddings for the demo: tokenise, run, pool, and compare with eager PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelError
from ..executable import Executable
from ..report import metrics

__all__ = [
    "SENTENCES",
    "Agreement",
    "agree",
    "as_torch",
    "eager_hidden_states",
    "embed",
    "hidden_states",
    "similarity",
    "tokenise",
]

SENTENCES = (
    "The cat is asleep on the windowsill.",
    "A kitten naps beside the window.",
    "Interest rates rose again this quarter.",
    "The central bank made borrowing more expensive.",
    "How do I compile a model for an NPU?",
    "Which neural networks run on an accelerator?",
)


@dataclass(frozen=True)
class Agreement:
    """The worst over all sentences, against eager PyTorch: of the embeddings, and of the hidden states at the
    sentence's tokens, from which they are made."""

    embedding_cosine: float
    embedding_max_abs: float
    hidden_max_abs: float
    hidden_sqnr_db: float
    passed: bool


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


def similarity(hidden: list[np.ndarray], batches: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Cosine of every sentence with every other, [sentences, sentences]."""
    vectors = np.stack([embed(states, inputs) for states, inputs in zip(hidden, batches, strict=True)])
    found: np.ndarray = vectors @ vectors.T
    return found


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


def as_torch(inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """The inputs as tensors on the same memory."""
    import torch

    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def hidden_states(executable: Executable, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """float32 [1, tokens, width] from the compiled program."""
    hidden: np.ndarray = executable(**inputs)["last_hidden_state"]
    return hidden


def eager_hidden_states(module: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The same from the PyTorch module."""
    import torch

    with torch.no_grad():
        hidden: np.ndarray = module(**as_torch(inputs))["last_hidden_state"].numpy()
    return hidden
