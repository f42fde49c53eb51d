"""The KV cache of a captured decoder: plain tensors that go in and come out, behind transformers' interface.

A model's own code calls ``cache.update(...)`` and asks for positions and lengths; mask and rotary code then
traces to index arithmetic on ``position``, so windows, soft-caps and position schemes need no code here. A
:class:`ModelCache` is what the model sees; every layer is handed its own :class:`LayerCache`, which is a
pytree of its tensors, so that a block can be captured alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers import Cache

from forgec.capture.rows import limited, update_rows

__all__ = ["LayerCache", "ModelCache", "hand_out", "state_name"]


class LayerCache(Cache):
    """One layer's tensors by name: ``k`` and ``v`` [batch, kv heads, rows, size], the state of a convolution,
    ``conv`` [batch, channels, length], and of a recurrence, ``recurrent`` [batch, ...]; a second state of a
    kind is ``conv1`` or ``recurrent1``.

    ``position`` counts the tokens before this call, ``count`` those of this call that are not padding (None:
    all of them).
    """

    is_compileable = True

    def __init__(self, tensors: dict[str, Tensor], position: Tensor, count: Tensor | None) -> None:
        self.tensors = tensors
        self.position = position
        self.count = count
        self.updated = False

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """All keys and values, the new ones among them, in the type of these."""
        self.tensors |= {
            name: update_rows(self.tensors[name], limited(new, self.tensors[name].dtype), self.position)
            for name, new in (("k", key_states), ("v", value_states))
        }
        self.updated = True
        return self.tensors["k"].to(key_states.dtype), self.tensors["v"].to(value_states.dtype)

    def update_conv_state(
        self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> Tensor:
        """The states before, which are zeros before the first token, and the new ones behind them."""
        before = self.get_conv_state(layer_idx, state_idx)
        full = torch.cat([before, conv_states], dim=-1)
        length = before.shape[-1]
        if self.count is None:
            kept = full[..., -length:]
        else:
            kept = full.index_select(-1, self.count + torch.arange(length))
        self.tensors |= {state_name("conv", state_idx): kept.contiguous()}
        return full

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor:
        """The states before this call; a new text starts at position 0, whatever was run before."""
        return self._before(state_name("conv", state_idx))

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> Tensor:
        """Keeps the state after this call, whose tokens are all real: a recurrence forgets no padding."""
        self.tensors |= {state_name("recurrent", state_idx): recurrent_states.contiguous()}
        return recurrent_states

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor:
        """The state before this call, as of convolutions."""
        return self._before(state_name("recurrent", state_idx))

    def _before(self, name: str) -> Tensor:
        state = self.tensors[name]
        state = torch.where(self.position > 0, state, torch.zeros((), dtype=state.dtype))
        self.tensors |= {name: state}  # some models change it in place
        return state

    def is_recording_past(self, layer_idx: int) -> bool:
        """True, which keeps models from kernels that change the states in place."""
        return True

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        return True

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """Tokens before this call, as a tensor; after ``update`` the rows of the keys that it gave, a number,
        because a layer that asks then has a table to cut to their size."""
        return self.tensors["k"].shape[-2] if self.updated else self.position


def state_name(kind: str, index: int) -> str:
    """Name of a layer's state of a kind, ``conv`` or ``recurrent``."""
    return f"{kind}{index}" if index else kind


def _flatten(cache: LayerCache) -> tuple[list[Tensor], tuple[tuple[str, ...], bool]]:
    counted = [] if cache.count is None else [cache.count]
    return [*cache.tensors.values(), cache.position, *counted], (tuple(cache.tensors), bool(counted))


def _unflatten(values: Any, context: tuple[tuple[str, ...], bool]) -> LayerCache:
    names, counted = context
    leaves = list(values)
    tensors = dict(zip(names, leaves, strict=False))
    return LayerCache(tensors, leaves[len(names)], leaves[-1] if counted else None)


def _flatten_with_keys(cache: LayerCache) -> Any:
    values, context = _flatten(cache)
    return [(pytree.SequenceKey(index), value) for index, value in enumerate(values)], context


pytree.register_pytree_node(
    LayerCache,
    _flatten,
    _unflatten,
    serialized_type_name="forgec.LayerCache",
    flatten_with_keys_fn=_flatten_with_keys,
)


class ModelCache(Cache):
    """The caches of all layers; ``rows`` is the longest text that they hold."""

    is_compileable = True

    def __init__(
        self, layers: Sequence[dict[str, Tensor]], rows: int, position: Tensor, count: Tensor | None
    ) -> None:
        self.layers = [LayerCache(dict(tensors), position, count) for tensors in layers]
        self.rows = rows
        self.position = position

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """Tokens before this call, as a tensor."""
        return self.position

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        return self.position

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return self.rows

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """All layers keep all rows, those with a sliding window too; their masks hide the others."""
        return self.rows, 0

    @property
    def is_sliding(self) -> list[bool]:
        return [False] * len(self.layers)

    @property
    def is_linear(self) -> list[bool]:
        return ["k" not in layer.tensors for layer in self.layers]

    @property
    def is_dummy(self) -> list[bool]:
        return [False] * len(self.layers)


def hand_out(layers: Sequence[nn.Module]) -> None:
    """Give every call of these layers its own part of a :class:`ModelCache`, and let it return what became of
    it.

    The layers change their class. Called with a :class:`LayerCache`, such a layer returns its result and the
    cache's tensors: a function of tensors that can be captured alone. Called by its model, with a
    :class:`ModelCache`, it returns what it always did.
    """
    for index, layer in enumerate(layers):
        if not hasattr(layer, "cache_index"):
            layer.__class__ = _cached_class(type(layer))  # type: ignore[arg-type]
        layer.cache_index = index  # type: ignore[assignment]


@cache
def _cached_class(cls: type[nn.Module]) -> type[nn.Module]:
    """A layer's class with the cache among what it takes and returns."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        whole = next((x for x in (*args, *kwargs.values()) if isinstance(x, ModelCache)), None)
        if whole is None:
            return cls.__call__(self, *args, **kwargs)
        part = whole.layers[self.cache_index]
        args = tuple(part if x is whole else x for x in args)
        kwargs = {key: part if x is whole else x for key, x in kwargs.items()}
        result, tensors = cls.__call__(self, *args, **kwargs)
        part.tensors = dict(zip(part.tensors, tensors, strict=True))
        return result

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = cls.forward(self, *args, **kwargs)
        part = next((x for x in (*args, *kwargs.values()) if isinstance(x, LayerCache)), None)
        return result if part is None else (result, list(part.tensors.values()))

    return type(cls.__name__, (cls,), {"__call__": call, "forward": forward})
