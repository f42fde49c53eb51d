"""A decoder-only language model as the programs that generate text: prefill by chunks, decode by one token.

Both are one module, called with chunks of other sizes. Its inputs are the chunk's token ids, the number of
tokens before it, how many of its tokens are real (the others pad its end), and the cache; its outputs are the
logits after the last real token, and the cache with the chunk in it. Padding leaves no trace: its rows of the
cache are written over by the next chunk, and no mask lets anything see them before.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from forgec.errors import ModelError

from .cache import ModelCache, hand_out
from .loading import LoadedModel

__all__ = ["CACHE", "Decoder", "Example", "decoder_of"]

CACHE = "cache"
"""Name of the input and of the output that hold the cache."""

_ALIGNED = 16
"""A cache has a multiple of so many rows: NPUs take up to a fifth longer for others."""

Shapes = list[dict[str, tuple[int, ...]]]
Example = tuple[tuple[Any, ...], dict[str, Any]]


class Decoder(nn.Module):
    """A language model whose cache is an input and an output.

    ``context`` is the longest text. The cache has some ``rows`` more, for the padding of a last chunk.
    ``notes`` are what its user has to know.
    """

    _model: Any

    def __init__(
        self, model: PreTrainedModel, shapes: Shapes, context: int, rows: int, notes: Sequence[str] = ()
    ) -> None:
        super().__init__()
        # The model's children are registered here too, so that weights keep the names of the checkpoint.
        for name, child in model.named_children():
            self.add_module(name, child)
        object.__setattr__(self, "_model", model)
        self.shapes = shapes
        self.context = context
        self.rows = rows
        self.notes = tuple(dict.fromkeys(notes))

    def forward(
        self,
        input_ids: Tensor,
        position: Tensor,
        count: Tensor | None = None,
        cache: list[dict[str, Tensor]] | None = None,
    ) -> dict[str, Any]:
        """Map [1, T] ids at ``position`` to {"logits": [1, vocabulary], "cache": ...}.

        ``count`` may be left out where T is 1.
        """
        assert cache is not None
        tokens = input_ids.shape[1]
        # Padding may reach over the context; its position must not, where positions are rows of a table.
        positions = (position + torch.arange(tokens)).clamp(max=self.context - 1)[None]
        held = ModelCache(cache, self.rows, position, count)
        out = self._model(
            input_ids=input_ids,
            position_ids=positions,
            past_key_values=held,
            use_cache=True,
            logits_to_keep=1 if count is None else (count - 1).reshape(1),
        )
        return {"logits": out.logits[:, 0], CACHE: [layer.tensors for layer in held.layers]}

    def text(self, tokens: int) -> Tensor:
        """Ids [1, tokens], far apart and no padding."""
        config = self._model.config.get_text_config()
        ids = (7 + 29 * torch.arange(tokens + 1)) % config.vocab_size
        return ids[ids != (config.pad_token_id or 0)][None, :tokens]

    def plain(self, input_ids: Tensor) -> Tensor:
        """Logits [T, vocabulary] of the model itself, without a cache."""
        with torch.no_grad():
            return self._model(input_ids=input_ids, use_cache=False).logits[0]

    def example(self, tokens: int) -> Example:
        """Inputs of a chunk of ``tokens`` after a few tokens of nothing, with an empty cache."""
        ids = self.text(tokens)
        cache = [{name: torch.zeros(shape) for name, shape in layer.items()} for layer in self.shapes]
        position = torch.tensor(min(3, self.rows - tokens))
        kwargs: dict[str, Any] = {"input_ids": ids, "position": position}
        if tokens > 1:
            kwargs["count"] = torch.tensor(tokens - 1)
        return (), {**kwargs, CACHE: cache}


def decoder_of(loaded: LoadedModel, context: int, chunks: Sequence[int]) -> Decoder:
    """The module to compile for texts of up to ``context`` tokens, prompts read in chunks of these sizes.

    The model is changed and serves no other purpose afterwards. Raises :class:`ModelError` if it generates no
    text or the context is over what it knows positions for.
    """
    model: Any = loaded.module
    if not isinstance(model, PreTrainedModel) or not model.can_generate() or model.config.is_encoder_decoder:
        raise ModelError(
            f"{loaded.name} is no decoder-only language model",
            hint="leave out --context to compile it as one program",
        )
    longest = loaded.max_tokens
    if longest is not None and context > longest:
        raise ModelError(f"{loaded.name} takes at most {longest} tokens, and context is {context}")
    for chunk in chunks:
        if not 1 < chunk <= context:
            raise ModelError(f"chunks of {chunk} tokens are not of use in a context of {context}")
    if context < 1:
        raise ModelError(f"a context has at least one token, and is {context}")
    rows = -(-(context + max(chunks, default=1) - 1) // _ALIGNED) * _ALIGNED
    notes = _fix_frequencies(model, context)
    shapes = _cache_shapes(model, context, rows)
    hand_out(_layers(model, len(shapes)))
    decoder = Decoder(model, shapes, context, rows, notes)
    return decoder.eval().requires_grad_(False)


def _fix_frequencies(model: nn.Module, context: int) -> list[str]:
    """Decide for a whole file what rotary embeddings with several sets of frequencies decide in each call.

    Returns what the user has to know of it.

    The keys of one cache must not be of two kinds: longrope takes the set for long texts throughout if the
    context is over the original length. A context is never over the length from which ``dynamic`` grows.
    """
    notes = []
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if kind == "dynamic":
            module.rope_type = "default"  # type: ignore[assignment]
        if kind != "longrope":
            continue
        rotary: Any = module
        original = rotary.config.rope_parameters["original_max_position_embeddings"]
        if context > original:
            device = rotary.original_inv_freq.device
            frequencies, _ = ROPE_INIT_FUNCTIONS[kind](rotary.config, device, seq_len=original + 1)
            rotary.original_inv_freq.copy_(frequencies)
            notes.append(
                f"longrope: texts of up to {original} tokens are not written as transformers writes them, "
                "because one cache takes the frequencies for long texts; for short ones compile with a "
                f"context of {original}"
            )
    return notes


def _layers(model: nn.Module, count: int) -> list[nn.Module]:
    """The list of ``count`` layers that the cache belongs to."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise ModelError(f"{type(model).__name__} has no list of {count} layers, one for each entry of its cache")


def _cache_shapes(model: PreTrainedModel, context: int, rows: int) -> Shapes:
    """Shape of every tensor of the cache, found by running one token on the meta device."""
    config = copy.deepcopy(model.config)
    config.pad_token_id = None  # with one, some models look for it among the ids, which have no values here
    with torch.device("meta"), torch.no_grad():
        twin = type(model)._from_config(config).eval()
        _fix_frequencies(twin, context)
        cache: Any = DynamicCache(config=config)
        twin(input_ids=torch.zeros(1, 1, dtype=torch.int64), past_key_values=cache, use_cache=True)
    shapes: Shapes = []
    for index, layer in enumerate(cache.layers):
        if getattr(layer, "recurrent_states", None) and any(
            state is not None for state in layer.recurrent_states.values()
        ):
            raise ModelError(f"layer {index} keeps a recurrent state, which forgec has no cache for")
        if getattr(layer, "conv_states", None):
            shapes.append({"conv": tuple(layer.conv_states[0].shape)})
        else:
            shapes.append({name: _rows(x, rows) for name, x in (("k", layer.keys), ("v", layer.values))})
    return shapes


def _rows(tensor: Tensor, rows: int) -> tuple[int, ...]:
    return (*tensor.shape[:2], rows, tensor.shape[3])
