"""Rotary embeddings that choose among sets of frequencies by the length of the text.

transformers chooses in each call and writes the choice into a buffer. A program has no such buffer: the
choice is made once for a file, or, where both sets are needed, by an input of the program.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from forgec.errors import ModelError

__all__ = ["LongRope", "fix_frequencies"]


@dataclass(frozen=True)
class LongRope:
    """The two sets of frequencies of ``longrope`` by the name of the model's buffer: for texts of up to
    ``border`` tokens, and for longer ones.

    A model that ``rereads`` writes its cache anew when the text passes the border; with others keys of both
    kinds stand in one cache.
    """

    border: int
    sets: dict[str, tuple[Tensor, Tensor]]
    rereads: bool

    def frequencies(self, length: Tensor) -> dict[str, Tensor]:
        """What the buffers hold for a text of ``length`` tokens, an int64 scalar."""
        over = length > self.border
        return {name: torch.where(over, long, short) for name, (short, long) in self.sets.items()}


def fix_frequencies(model: PreTrainedModel, context: int) -> LongRope | None:
    """Decide for texts of up to ``context`` tokens what the model would decide in each call; gives the choice
    that is left.

    A context is never over the length from which ``dynamic`` grows.
    """
    borders: set[int] = set()
    sets: dict[str, tuple[Tensor, Tensor]] = {}
    for path, module in model.named_modules():
        for layer_type, kind in list(_kinds(module)):
            if kind not in ("dynamic", "longrope"):
                continue
            rotary: Any = module
            if layer_type is None:
                rotary.rope_type = "default"
            else:
                rotary.rope_type[layer_type] = "default"
            prefix = "" if layer_type is None else f"{layer_type}_"
            short = getattr(rotary, f"{prefix}original_inv_freq")
            current = getattr(rotary, f"{prefix}inv_freq")
            current.copy_(short)  # an earlier call may have left another choice
            if kind == "dynamic":
                continue
            every = rotary.config.rope_parameters
            border = (every if layer_type is None else every[layer_type])["original_max_position_embeddings"]
            if context <= border:
                continue
            long, _ = ROPE_INIT_FUNCTIONS[kind](
                rotary.config, short.device, seq_len=border + 1, layer_type=layer_type
            )
            borders.add(border)
            sets[f"{path}.{prefix}inv_freq"] = (short.clone(), long)
    if not borders:
        return None
    if len(borders) > 1:
        raise ModelError(
            f"layers change their frequencies at different lengths: {sorted(borders)}",
            hint=f"compile with a context of {min(borders)}",
        )
    border = borders.pop()
    return LongRope(border, sets, _rereads(model, border))


def _kinds(module: nn.Module) -> Iterator[tuple[str | None, str]]:
    """Kinds of rotary embedding of a module, by layer type where it has several."""
    kind = getattr(module, "rope_type", None)
    if isinstance(kind, str):
        yield None, kind
    elif isinstance(kind, dict):
        yield from kind.items()


def _rereads(model: Any, border: int) -> bool:
    """Whether the model drops a cache of ``border`` tokens before it reads one more."""
    cache = DynamicCache()
    cache.update(torch.zeros(1, 1, border, 1), torch.zeros(1, 1, border, 1), 0)
    ids = torch.ones(1, border + 1, dtype=torch.int64)
    call = model.prepare_inputs_for_generation(
        ids, past_key_values=cache, attention_mask=torch.ones_like(ids), use_cache=True
    )
    return call.get("past_key_values") is None
