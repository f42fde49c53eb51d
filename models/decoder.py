"""A decoder-only language model as the programs that generate text: prefill by chunks, decode by one token.

Both are one module, called with chunks of other sizes. Its inputs are the chunk's token ids, the number of
tokens before it, how many of its tokens are real (the others pad its end), for some models the length of the
whole text, and the cache; its outputs are the logits after the last real token, and the cache with the chunk
in it. Padding leaves no trace: its rows of the cache are written over by the next chunk, and no mask lets
anything see them before. The state of a recurrence would keep one, so chunks for models with such layers are
not padded.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export._trace import _compiling_state_context
from torch.func import functional_call
from transformers import DynamicCache, PreTrainedModel

from forgec.capture.blocks import forwards, structures
from forgec.capture.experts import static_experts
from forgec.capture.own_code import own_code
from forgec.capture.rows import CACHE
from forgec.capture.trace import TraceError, trace
from forgec.decoders import cache_rows
from forgec.errors import ModelError

from .cache import ModelCache, hand_out, state_name
from .loading import LoadedModel, reserved_positions
from .rotary import LongRope, fix_frequencies

__all__ = ["Decoder", "Example", "decoder_of"]

_ROWS = ("k", "v")
"""What a cache has one row of for every token."""

Shapes = list[dict[str, tuple[int, ...]]]
Example = tuple[tuple[Any, ...], dict[str, Any]]


class Decoder(nn.Module):
    """A language model whose cache is an input and an output.

    ``context`` is the longest text. The cache has some ``rows`` more, for the padding of a last chunk. With
    ``long_rope`` the model takes other frequencies for texts over a length. With ``masked`` it is told of all
    rows of the cache by a mask of ones, because it makes something of that size. Keys and values are kept as
    ``cache_dtype``. Positions count from ``first``. One that is not ``chunked`` reads a text token by token:
    its recurrent layers begin anew where they are given several.
    """

    _model: Any

    def __init__(
        self,
        model: PreTrainedModel,
        shapes: Shapes,
        context: int,
        rows: int,
        long_rope: LongRope | None = None,
        masked: bool = False,
        cache_dtype: torch.dtype = torch.float32,
        first: int = 0,
    ) -> None:
        super().__init__()
        # The model's children are registered here too, so that weights keep the names of the checkpoint.
        for name, child in model.named_children():
            self.add_module(name, child)
        object.__setattr__(self, "_model", model)
        self.shapes = shapes
        self.context = context
        self.rows = rows
        self.long_rope = long_rope
        self.masked = masked
        self.cache_dtype = cache_dtype
        self.first = first
        self.chunked = True

    plain_reference = "eager PyTorch's without a cache"

    @property
    def rewinds(self) -> bool:
        """Whether a text can go on from any of its tokens: the cache has a row for each, and nothing else."""
        return all(set(layer) == set(_ROWS) for layer in self.shapes)

    @property
    def reference_dtypes(self) -> list[torch.dtype]:
        """What the model without a cache computes in, and programs may not."""
        return [self.cache_dtype]

    @property
    def recurrent(self) -> bool:
        """Whether the cache has states of recurrences, so that chunks must not be padded."""
        return _has_recurrences(self.shapes)

    def forward(
        self,
        input_ids: Tensor,
        position: Tensor,
        count: Tensor | None = None,
        length: Tensor | None = None,
        cache: list[dict[str, Tensor]] | None = None,
    ) -> dict[str, Any]:
        """Map [1, T] ids at ``position`` to {"logits": [1, vocabulary], "cache": ...}.

        ``count`` may be left out where T is 1. ``length`` counts the tokens of the whole text that the ids
        belong to, a prompt with its later chunks; models with a ``long_rope`` need it.
        """
        assert cache is not None
        tokens = input_ids.shape[1]
        # Padding may reach over the context; its position must not, where positions are rows of a table.
        positions = (position + torch.arange(tokens)).clamp(max=self.context - 1)[None]
        if self.first:
            positions = positions + self.first
        held = ModelCache(cache, self.rows, position, count)
        call = {
            "input_ids": input_ids,
            "position_ids": positions,
            _cache_argument(self._model): held,
            "use_cache": True,
            "logits_to_keep": 1 if count is None else (count - 1).reshape(1),
        }
        if self.masked:
            call["attention_mask"] = torch.ones(1, self.rows, dtype=torch.int64)
        if self.long_rope is None:
            out = self._model(**call)
        else:
            assert length is not None
            chosen = self.long_rope.frequencies(length)
            out = functional_call(self._model, chosen, (), call, tie_weights=False)
        return {"logits": out.logits[:, 0], CACHE: [layer.tensors for layer in held.layers]}

    def text(self, tokens: int) -> Tensor:
        """Ids [1, tokens], far apart and no padding."""
        config = self._model.config.get_text_config()
        ids = (7 + 29 * torch.arange(tokens + 1)) % config.vocab_size
        return ids[ids != (getattr(config, "pad_token_id", None) or 0)][None, :tokens]

    def plain(self, input_ids: Tensor, start: int = 0) -> Tensor:
        """Logits [T - start, vocabulary] from a position on, of the model itself, without a cache."""
        length = torch.tensor(input_ids.shape[1])
        chosen = {} if self.long_rope is None else self.long_rope.frequencies(length)
        rows = torch.arange(start, input_ids.shape[1])
        call = {"input_ids": input_ids, "use_cache": False, "logits_to_keep": rows}
        with torch.no_grad():
            return functional_call(self._model, chosen, (), call, tie_weights=False).logits[0]

    def example(self, tokens: int) -> Example:
        """Inputs of a chunk of ``tokens`` after a few tokens of nothing, with an empty cache."""
        ids = self.text(tokens)
        cache = [{name: self._empty(name, shape) for name, shape in layer.items()} for layer in self.shapes]
        position = torch.tensor(min(3, self.rows - tokens))
        kwargs: dict[str, Any] = {"input_ids": ids, "position": position}
        if tokens > 1:
            kwargs["count"] = torch.tensor(tokens if self.recurrent else tokens - 1)
        if self.long_rope is not None:
            # One program is checked with the frequencies for long texts, the others with those for short.
            kwargs["length"] = torch.tensor(self.long_rope.border + (tokens == 1))
        return (), {**kwargs, CACHE: cache}

    def _empty(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor of an empty cache. Zeros of numpy's are pages that cost nothing until they are read."""
        half = self.cache_dtype is torch.float16 and name in _ROWS
        return torch.from_numpy(np.zeros(shape, np.float16 if half else np.float32))


def decoder_of(loaded: LoadedModel, context: int, chunks: Sequence[int], half_cache: bool = False) -> Decoder:
    """The module to compile for texts of up to ``context`` tokens, prompts read in chunks of these sizes.
    Keys and values are kept as float32 or, with ``half_cache``, as float16.

    The model is changed and serves no other purpose afterwards. Raises :class:`ModelError` if it generates no
    text or the context is over what it knows positions for.
    """
    model: Any = loaded.module
    if not isinstance(model, PreTrainedModel) or not model.can_generate() or model.config.is_encoder_decoder:
        raise ModelError(
            f"{loaded.name} is no decoder-only language model",
            hint="leave out --context to compile it as one program",
        )
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise ModelError(
                f"{loaded.name} has weights that are not float32: {name} is {parameter.dtype}",
                hint="load it with the default dtype, or give LoadedModel.of(model); `weights` compresses it",
            )
    longest = loaded.max_tokens
    rows, reached = cache_rows(loaded.name, context, chunks, longest)
    told = "position_ids" in inspect.signature(model.forward).parameters
    if longest is not None and reached > longest and not told:
        raise ModelError(
            f"{loaded.name} counts positions itself, {longest} at most, and padding of the last chunk of a "
            f"context of {context} would reach {reached}",
            hint=f"give a context of {longest - reached + context}, or smaller chunks",
        )
    if getattr(model.config, "max_seq_len", rows) < rows:
        model.config.max_seq_len = rows  # tables that are made in each call reach over the padding too
    long_rope = fix_frequencies(model, context)
    shapes = _cache_shapes(model, rows)
    chunked = not chunks or not _has_recurrences(shapes) or _goes_on(model, shapes, context, rows)
    layers = _layers(model, len(shapes))
    hand_out(layers)
    kept = torch.float16 if half_cache else torch.float32
    decoder = Decoder(
        model, shapes, context, rows, long_rope, cache_dtype=kept, first=reserved_positions(model)
    )
    decoder.chunked = chunked
    decoder.eval().requires_grad_(False)
    if not _reaches(decoder, layers):
        decoder.masked = True
        decoder.masked = _reaches(decoder, layers)
    return decoder


def _cache_argument(model: Any) -> str:
    """What the model calls the cache that it is given; those without attention have a name of their own."""
    given = inspect.signature(model.forward).parameters
    return "cache_params" if "cache_params" in given else "past_key_values"


def _layers(model: PreTrainedModel, count: int) -> list[nn.Module]:
    """The list of ``count`` layers that the cache belongs to, of a model that sees too those for text."""
    for module in (*model.get_decoder().modules(), *model.modules()):
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise ModelError(f"{type(model).__name__} has no list of {count} layers, one for each entry of its cache")


class _ReachedError(BaseException):
    """The first layer is called; no ``Exception``, which a trace takes for the model's."""


def _reaches(decoder: Decoder, layers: Sequence[nn.Module]) -> bool:
    """Whether what comes before the layers can be traced, at a position that is not known."""

    def stop(*args: Any, **kwargs: Any) -> None:
        raise _ReachedError

    args, kwargs = decoder.example(1)
    try:
        with own_code(), forwards(dict.fromkeys(layers, stop)):
            trace(decoder, args, kwargs)
    except _ReachedError:
        return True
    except TraceError:
        return False
    return False


@contextmanager
def _without_values(model: PreTrainedModel, count: int, hands_out: bool) -> Iterator[tuple[Any, list[Any]]]:
    """A twin of the model on the meta device, and the kinds of its ``count`` layers, of which it runs the
    first of all that are alike; with ``hands_out`` each gets its own part of the cache."""
    try:
        with torch.device("meta"), own_code(), _compiling_state_context():
            twin = type(model)._from_config(copy.deepcopy(model.config)).eval()
            fix_frequencies(twin, 1)
            layers = _layers(twin, count)
            kinds = list(structures({str(i): layer for i, layer in enumerate(layers)}).values())
            if hands_out:
                hand_out(layers)
            results: dict[Any, Any] = {}
            pairs = zip(layers, kinds, strict=True)
            once = forwards({layer: _once(layer.forward, kind, results) for layer, kind in pairs})
            with static_experts(twin), once:
                yield twin, kinds
    except Exception as error:  # a model's own code raises whatever it likes
        raise ModelError(
            f"{type(model).__name__} cannot be run without values: {type(error).__name__}: {error}",
            hint="forgec needs a model whose shapes do not depend on values",
        ) from error


def _cache_shapes(model: PreTrainedModel, rows: int) -> Shapes:
    """Shape of every tensor of the cache, found by running one token."""
    cache: Any = DynamicCache(config=model.config)
    with _without_values(model, len(cache.layers), hands_out=False) as (twin, kinds):
        ids = torch.zeros(1, 1, dtype=torch.int64)
        twin(input_ids=ids, use_cache=True, **{_cache_argument(twin): cache})
    shapes: Shapes = []
    for kind in kinds:
        layer = cache.layers[kinds.index(kind)]
        found = {
            state_name(sort, number): tuple(state.shape)
            for sort in ("conv", "recurrent")
            for number, state in getattr(layer, f"{sort}_states", {}).items()
            if state is not None
        }
        if getattr(layer, "keys", None) is not None:
            found |= {name: _rows(x, rows) for name, x in (("k", layer.keys), ("v", layer.values))}
        shapes.append(found)
    if not any(shapes):
        raise ModelError(f"{type(model).__name__} writes nothing to its cache")
    return shapes


def _goes_on(model: PreTrainedModel, shapes: Shapes, context: int, rows: int) -> bool:
    """Whether the model goes on from its recurrent states where it reads several tokens; some begin anew.

    It is read off the graph that is kept for gradients: whether the new state of a layer comes from the old.
    """
    with _without_values(model, len(shapes), hands_out=True) as (twin, kinds), torch.enable_grad():
        cache = [
            {name: torch.zeros(x, requires_grad=_is_recurrent(name)) for name, x in layer.items()}
            for layer in shapes
        ]
        call = {"position": torch.ones((), dtype=torch.int64), "count": torch.full((), 2)}
        decoder = Decoder(twin, shapes, context, rows)
        new = decoder(torch.zeros(1, 2, dtype=torch.int64), **call, cache=cache)[CACHE]
        first = {kinds.index(kind) for kind in kinds}
        return all(
            _comes_from(new[i][n], old) for i in first for n, old in cache[i].items() if _is_recurrent(n)
        )


def _is_recurrent(name: str) -> bool:
    return name.startswith("recurrent")


def _has_recurrences(shapes: Shapes) -> bool:
    return any(_is_recurrent(name) for layer in shapes for name in layer)


def _comes_from(result: Tensor, source: Tensor) -> bool:
    """Whether a tensor was computed from another one, that gradients are kept of."""
    seen, left = set(), [result.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", None) is source:
            return True
        left += [before for before, _ in node.next_functions]
    return False


def _once(forward: Any, kind: Any, results: dict[Any, Any]) -> Any:
    """A ``forward`` that gives what the first of its kind gave."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if kind not in results:
            results[kind] = forward(*args, **kwargs)
        return results[kind]

    return call


def _rows(tensor: Tensor, rows: int) -> tuple[int, ...]:
    return (*tensor.shape[:2], rows, tensor.shape[3])
