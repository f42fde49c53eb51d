"""The next token from logits.

The order of the steps is the one that transformers has: repetition penalty, temperature, top-k, top-p, min-p,
then a draw. All work is in float64 on one row of logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..errors import OptionError

__all__ = ["Sampler", "Sampling"]


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens and when to stop. Raises :class:`OptionError` for a value that is not legal."""

    temperature: float = 0.0
    """0 takes the most likely token; more than 1 flattens the distribution, less sharpens it."""
    top_k: int = 0
    """Draw among the k most likely tokens; 0 for all."""
    top_p: float = 1.0
    """Draw among the most likely tokens that have this probability together."""
    min_p: float = 0.0
    """Draw among tokens that have at least this share of the largest probability."""
    repetition_penalty: float = 1.0
    """Divide positive logits of tokens that are in the text by this, multiply negative ones."""
    seed: int | None = None
    """Of the draws; None for another text each time."""
    max_tokens: int | None = None
    """Tokens to generate at most; None for as many as the context holds."""
    stop: tuple[str, ...] = ()
    """Texts that end the generation; they are not part of it."""
    eos: tuple[int, ...] | None = None
    """Tokens that end the generation; None for the model's own."""
    logprobs: int | None = None
    """Give log probabilities of the chosen token and of so many most likely ones."""

    def __post_init__(self) -> None:
        for name, (read, legal, values) in _RULES.items():
            given = getattr(self, name)
            try:
                value = read(given)
                fits = legal(value)
            except (TypeError, ValueError, OverflowError):
                fits = False
            if not fits:
                raise OptionError(f"{name} is {given!r}, and must be {values}")
            object.__setattr__(self, name, value)


def _number(value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(number := float(value)):
        raise TypeError("no number")
    return number


def _whole(value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError("no whole number")
    return int(value)


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _tokens(value: Any) -> tuple[int, ...]:
    if isinstance(value, bytes | bytearray):
        raise TypeError("bytes are no tokens")
    return tuple(_whole(token) for token in value)


def _unless_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


_RULES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], bool], str]] = {
    "temperature": (_number, lambda v: v >= 0, "0 or more"),
    "top_k": (_whole, lambda v: v >= 0, "0 or more, whole"),
    "top_p": (_number, lambda v: 0 < v <= 1, "over 0 and at most 1"),
    "min_p": (_number, lambda v: 0 <= v <= 1, "from 0 to 1"),
    "repetition_penalty": (_number, lambda v: v > 0, "over 0"),
    "seed": (_unless_none(_whole), lambda v: v is None or v >= 0, "0 or more, whole"),
    "max_tokens": (_unless_none(_whole), lambda v: v is None or v > 0, "1 or more, whole"),
    "stop": (_texts, lambda v: all(isinstance(t, str) and t for t in v), "texts that are not empty"),
    "eos": (
        _unless_none(_tokens),
        lambda v: v is None or all(token >= 0 for token in v),
        "a list of token ids",
    ),
    "logprobs": (_unless_none(_whole), lambda v: v is None or v >= 0, "0 or more, whole"),
}
"""For each option how it is read, numpy's numbers too, whether what was read is legal, and what is."""


_FINITE = float(np.finfo(np.float64).max)


class Sampler:
    """Chooses the tokens of one text; draws follow from the seed alone."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._seen = set(prompt)

    def choose(self, logits: np.ndarray) -> int:
        """The next token for logits [vocabulary]."""
        s = self._sampling
        scores = logits.astype(np.float64)
        # What overflows is far from the largest, or as large as a number can be.
        with np.errstate(over="ignore"):
            if s.repetition_penalty != 1.0 and self._seen:
                seen = np.fromiter(self._seen, np.int64)
                old = scores[seen]
                penal = np.where(old > 0, old / s.repetition_penalty, old * s.repetition_penalty)
                scores[seen] = np.clip(penal, -_FINITE, _FINITE)
            if s.temperature == 0:
                token = int(scores.argmax())
            else:
                token = self._draw((scores - scores.max()) / s.temperature)
        self._seen.add(token)
        return token

    def _draw(self, scores: np.ndarray) -> int:
        s = self._sampling
        kept = np.arange(scores.size)
        if 0 < s.top_k < scores.size:
            kept = np.argpartition(scores, -s.top_k)[-s.top_k :]
        # Most likely first, ties by token, so that equal seeds draw alike everywhere.
        kept = kept[np.lexsort((kept, -scores[kept]))]
        weights = np.exp(scores[kept] - scores[kept[0]])
        if s.top_p < 1:
            before = np.cumsum(weights) - weights
            weights = weights[before < s.top_p * weights.sum()]
        if s.min_p > 0:
            weights = weights[weights >= s.min_p]
        chosen = np.searchsorted(np.cumsum(weights), self._random.random() * weights.sum(), side="right")
        return int(kept[min(int(chosen), weights.size - 1)])


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Natural logarithms of the probabilities that logits [vocabulary] stand for."""
    scores = logits.astype(np.float64)
    scores -= scores.max()
    return scores - np.log(np.exp(scores).sum())
