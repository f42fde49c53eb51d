"""Modules that something else than PyTorch can compute too: their compile is checked against that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch

from ..ir.stored import Stored

__all__ = ["EAGER", "Referenced"]

EAGER = "eager PyTorch"


@runtime_checkable
class Referenced(Protocol):
    """A module that was itself imported from another form, for the shapes of some inputs."""

    def for_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.nn.Module:
        """The module for the shapes of these inputs."""

    @property
    def stored(self) -> Stored:
        """Codes that the original form has for weights, by parameter."""

    @property
    def reference_precisions(self) -> frozenset[str]:
        """What the original form computes in beside f32, in which the module does: "f16", "bf16" or
        ``CODES``."""

    def reference_results(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[str, list[torch.Tensor]] | str:
        """What computed the original form, and its outputs in order; or why nothing did."""
