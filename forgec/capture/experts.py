"""Mixtures of experts in the form whose shapes do not depend on which experts are chosen.

transformers computes its expert layers in one of several forms, which the configuration names. Those that
sort tokens by expert have sizes that only values decide, and cannot be captured; one gathers the weights of
the chosen experts for every token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["STATIC_EXPERTS", "static_experts"]

STATIC_EXPERTS = "batched_mm"
"""transformers' name of the form."""
_CHOICE = "_experts_implementation_internal"


@contextmanager
def static_experts(model: nn.Module) -> Iterator[None]:
    """While this is open, expert layers of transformers in a model compute in the static form."""
    configs = {
        id(config): config for m in model.modules() if hasattr(config := getattr(m, "config", None), _CHOICE)
    }
    kept = [(config, getattr(config, _CHOICE)) for config in configs.values()]
    try:
        for config, _ in kept:
            setattr(config, _CHOICE, STATIC_EXPERTS)
        yield
    finally:
        for config, choice in kept:
            setattr(config, _CHOICE, choice)
