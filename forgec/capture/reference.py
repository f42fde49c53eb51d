"""Modules that something else than PyTorch can compute too: their compile is checked against that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch

__all__ = ["EAGER", "Referenced"]

EAGER = "eager PyTorch"


@runtime_checkable
class Referenced(Protocol):
    """A module that was itself imported from another form, for the shapes of some inputs."""

    def for_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.nn.Module:
        """The module for the shapes of these inputs."""

    def remarks(self) -> list[str]:
        """What the user should know of the import."""

    def reference_results(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[str, list[torch.Tensor]] | str:
        """What computed the original form, and its outputs in order; or why nothing did."""
