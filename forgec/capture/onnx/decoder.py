"""A language model in an ONNX file as the programs that write text: prefill by chunks, decode by a token.

Such a file takes a cache of keys and values and gives it back longer: ``past_key_values.N.key`` [1, H, P, D]
and ``present.N.key`` [1, H, P + T, D], beside ``input_ids`` [1, T] and mostly ``attention_mask`` [1, P + T]
and ``position_ids`` [1, T], as Optimum and ONNX Runtime GenAI write them. It is imported for a cache of all
the rows that a program keeps, turned so that those before the position are the last, as padding on the left
has it: the mask hides the others, and distances are right. What it puts behind them is written to the cache
at the position. A pass (``joined_cache``) makes attention over the cache itself of that. Positions must come
from ``position_ids``, the mask or the lengths of ``GroupQueryAttention``: a file that counts the rows of its
cache would be wrong, and the check says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ModelError
from ...tensors import as_numpy
from ..halves import HALVES
from ..rows import CACHE, limited, update_rows
from .file import Input, OnnxFile
from .module import OnnxModule
from .runtime import run_onnxruntime
from .tensors import to_tensor

__all__ = ["CacheEntry", "DecoderSizes", "OnnxDecoder", "cache_of"]

_PAST, _PRESENT = re.compile(r"^past(_key_values)?"), re.compile(r"^present(_key_values)?")
_FIXED = {"use_cache_branch": 1, "num_logits_to_keep": 0}
"""Inputs with one value for all runs: the branch with a cache, and logits after every token."""

Caches = dict["CacheEntry", Tensor]


@dataclass(frozen=True)
class CacheEntry:
    """Keys or values, ``kind`` "k" or "v", of one layer: the file's input and output."""

    layer: int
    kind: str
    past: Input
    present: str


@dataclass(frozen=True)
class DecoderSizes:
    """``context`` is the longest text, ``rows`` those of a cache; ``heads`` and ``head_size`` are those of
    keys where the file leaves them open."""

    context: int
    rows: int
    heads: int | None
    head_size: int | None
    cache_dtype: torch.dtype


def cache_of(file: OnnxFile) -> list[CacheEntry]:
    """The cache that a file takes and gives, layer by layer, keys before values.

    Raises :class:`ModelError` if it has none, or one of another form.
    """
    past = {found: i for i in file.inputs if (found := _place(i.name, _PAST)) is not None}
    present = {found: name for name in file.outputs if (found := _place(name, _PRESENT)) is not None}
    if not past:
        raise ModelError(
            f"{file.path} takes no cache, so it writes no text token by token",
            hint="leave out --context; language models are exported with past_key_values as inputs (Optimum: "
            "--task text-generation-with-past)",
        )
    whole = all((layer, other) in past for layer, _ in past for other in "kv")
    if past.keys() != present.keys() or not whole or any(len(i.dims) != 4 for i in past.values()):
        names = ", ".join([*(i.name for i in past.values()), *present.values()])
        raise ModelError(
            f"{file.path} has a cache that forgec does not know: {names}",
            hint="a cache is past_key_values.N.key and .value, and present.N.key and .value, all "
            "[batch, heads, rows, size]",
        )
    return [CacheEntry(*at, past[at], present[at]) for at in sorted(past)]


def _place(name: str, prefix: re.Pattern[str]) -> tuple[int, str] | None:
    """Layer and kind of a cache by the name of an input or output."""
    rest = prefix.sub("", name, count=1)
    layer, kind = re.search(r"\d+", rest), re.search(r"key|value", rest)
    if rest == name or layer is None or kind is None:
        return None
    return int(layer.group()), kind.group()[0]


class OnnxDecoder(OnnxModule):
    """A file's language model for chunks of ``tokens``.

    A module from (input_ids [1, T], position, count, cache) to {"logits": [1, vocabulary], "cache": ...}; the
    cache is a list with {"k", "v"} [1, H, rows, D] per layer. ``count`` says how many tokens are real and may
    be left out where T is 1. Raises :class:`ModelError` for a file that is no such model.
    """

    chunked = True
    recurrent = False
    rewinds = True
    long_rope = None
    plain_reference = "ONNX Runtime's without a cache"

    def __init__(self, file: OnnxFile, sizes: DecoderSizes, tokens: int) -> None:
        self.sizes, self.tokens = sizes, tokens
        self.entries = cache_of(file)
        presents = {entry.present for entry in self.entries}
        others = [name for name in file.outputs if name not in presents]
        if "logits" not in others and len(others) != 1:
            raise ModelError(f"{file.path} has no output logits, but {', '.join(others) or 'none'}")
        self.logits = "logits" if "logits" in others else others[0]
        super().__init__(file, self._shapes(file, tokens, sizes.rows), _fixed(file))
        if self.result_shapes[self.logits][1] != tokens:
            raise ModelError(
                f"{file.path} gives logits after its last token alone, which may be padding of a prompt",
                hint="read prompts token by token: --chunk 1 (chunks=[])",
            )
        self._halves = {}
        self.forward = self._chunk

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""
        return self.result_shapes[self.logits][-1]

    @property
    def cache_dtype(self) -> torch.dtype:
        return self.sizes.cache_dtype

    @property
    def reference_dtypes(self) -> list[torch.dtype]:
        """What the model without a cache computes in, and programs may not."""
        return [self.cache_dtype, *(t for t, name in HALVES.items() if name in self.reference_precisions)]

    def for_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> OnnxDecoder:
        """This decoder, or the one for as many tokens, on the same stored tensors."""
        tokens = int(kwargs["input_ids"].shape[1])
        return self if tokens == self.tokens else OnnxDecoder(self.file, self.sizes, tokens)

    def text(self, tokens: int) -> Tensor:
        """Ids [1, tokens], far apart."""
        return ((7 + 29 * torch.arange(tokens)) % self.vocabulary)[None]

    def example(self, tokens: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Inputs of a chunk of ``tokens`` after a few tokens of nothing, with an empty cache."""
        kwargs: dict[str, Any] = {"input_ids": self.text(tokens)}
        kwargs["position"] = torch.tensor(min(3, self.sizes.rows - tokens))
        if tokens > 1:
            kwargs["count"] = torch.tensor(tokens - 1)
        layers: dict[int, dict[str, Tensor]] = {}
        half = self.cache_dtype is torch.float16
        for entry in self.entries:
            # Zeros of numpy's are pages that cost nothing until they are read.
            zeros = np.zeros(self._rows(entry, self.sizes.rows), np.float16 if half else np.float32)
            layers.setdefault(entry.layer, {})[entry.kind] = torch.from_numpy(zeros)
        return (), {**kwargs, CACHE: list(layers.values())}

    def plain(self, input_ids: Tensor, start: int = 0) -> Tensor:
        """Logits [T - start, vocabulary] from a position on, of the file itself, without a cache."""
        whole, tokens = self._whole(input_ids), input_ids.shape[1]
        if len(whole) == tokens:
            return whole[start:]
        return torch.cat([self._whole(input_ids[:, :count]) for count in range(start + 1, tokens + 1)])

    def _whole(self, input_ids: Tensor) -> Tensor:
        """The file's logits of a text without a cache, after every token or the last."""
        empty = {entry: torch.zeros(self._rows(entry, 0)) for entry in self.entries}
        feed = self._feed(input_ids, torch.tensor(0), empty)
        found = self._by_runtime(feed)
        if isinstance(found, str):
            self.plain_reference = "eager PyTorch's of the import without a cache"
            shapes = self._shapes(self.file, input_ids.shape[1], 0)
            with torch.no_grad():
                found = OnnxModule(self.file, shapes, self.fixed).run(feed)
        return found[self.logits][0]

    def reference_results(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[str, list[Tensor]] | str:
        """The results by ONNX Runtime, which is given the rows before the position alone."""
        position = int(kwargs["position"])
        old = self._caches(kwargs[CACHE])
        before = {entry: cache[:, :, :position] for entry, cache in old.items()}
        found = self._by_runtime(self._feed(kwargs["input_ids"], kwargs["position"], before))
        if isinstance(found, str):
            return found
        last = int(kwargs.get("count", 1)) - 1
        new = {e: found[e.present][:, :, position:] for e in self.entries}
        written = [
            update_rows(old[e], limited(new[e], old[e].dtype), kwargs["position"]) for e in self.entries
        ]
        return "ONNX Runtime", [found[self.logits][:, last], *written]

    def _chunk(
        self,
        input_ids: Tensor,
        position: Tensor,
        count: Tensor | None = None,
        cache: list[dict[str, Tensor]] | None = None,
    ) -> dict[str, Any]:
        assert cache is not None
        old = self._caches(cache)
        last = (torch.arange(self.sizes.rows) + position) % self.sizes.rows
        turned = {entry: rows.index_select(2, last) for entry, rows in old.items()}
        found = self.run(self._feed(input_ids, position, turned))
        logits = found[self.logits]
        if self.tokens > 1:
            assert count is not None
            logits = logits.index_select(1, (count - 1).reshape(1))
        layers: dict[int, dict[str, Tensor]] = {}
        for entry in self.entries:
            new = found[entry.present][:, :, self.sizes.rows :]
            written = update_rows(old[entry], limited(new, self.cache_dtype), position)
            layers.setdefault(entry.layer, {})[entry.kind] = written
        return {"logits": logits[:, 0], CACHE: list(layers.values())}

    def _caches(self, cache: list[dict[str, Tensor]]) -> Caches:
        places = {layer: index for index, layer in enumerate(dict.fromkeys(e.layer for e in self.entries))}
        return {entry: cache[places[entry.layer]][entry.kind] for entry in self.entries}

    def _feed(self, input_ids: Tensor, position: Tensor, caches: Caches) -> dict[str, Tensor]:
        """The file's inputs by name, for tokens behind caches of whose last rows as many count as are before
        the position."""
        tokens, held = input_ids.shape[1], next(iter(caches.values())).shape[2]
        # Padding may reach over the context; its position must not, where positions are rows of a table.
        positions = (position + torch.arange(tokens)).clamp(max=self.sizes.context - 1)
        there = torch.arange(held + tokens) >= held - position
        values = {
            "input_ids": input_ids,
            "attention_mask": there[None],
            "position_ids": positions[None],
            "cache_position": positions,
            "token_type_ids": torch.zeros_like(input_ids),
            **{entry.past.name: cache for entry, cache in caches.items()},
        }
        return {i.name: values[i.name].to(i.dtype) for i in self.file.inputs if i.name in values}

    def _by_runtime(self, feed: Mapping[str, Tensor]) -> dict[str, Tensor] | str:
        fixed = {name: to_tensor(array) for name, array in self.fixed.items()}
        given = [as_numpy({**feed, **fixed}[i.name]) for i in self.file.inputs]
        found = run_onnxruntime(self.file, given)
        if isinstance(found, str):
            return found
        return {name: to_tensor(x).float() for name, x in zip(self.file.outputs, found, strict=True)}

    def _shapes(self, file: OnnxFile, tokens: int, held: int) -> dict[str, tuple[int, ...]]:
        """Shapes of a file's inputs for so many tokens behind so many rows of a cache."""
        known: dict[str, tuple[int, ...]] = {
            "input_ids": (1, tokens),
            "attention_mask": (1, held + tokens),
            "position_ids": (1, tokens),
            "cache_position": (tokens,),
            "token_type_ids": (1, tokens),
            **{entry.past.name: self._rows(entry, held) for entry in self.entries},
            **{name: array.shape for name, array in _fixed(file).items()},
        }
        for given in file.inputs:
            shape = known.get(given.name)
            if shape is None or len(shape) != len(given.dims):
                dims = ", ".join("?" if d is None else str(d) for d in given.dims)
                raise ModelError(
                    f"{file.path} takes {given.name} [{dims}], which forgec has nothing to give for",
                    hint=f"a language model takes its cache and some of {', '.join(list(known)[:5])}",
                )
        if not any(i.name == "input_ids" for i in file.inputs):
            raise ModelError(f"{file.path} takes no input_ids", hint="export the model with its embedding")
        return {i.name: known[i.name] for i in file.inputs}

    def _rows(self, entry: CacheEntry, held: int) -> tuple[int, ...]:
        _, heads, _, size = entry.past.dims
        found = [
            dim if isinstance(dim, int) else other
            for dim, other in ((heads, self.sizes.heads), (size, self.sizes.head_size))
        ]
        if found[0] is None or found[1] is None:
            raise ModelError(
                f"the file leaves open how many heads {entry.past.name} has, or their size",
                hint="keep the model's config.json or genai_config.json beside the file",
            )
        return (1, found[0], held, found[1])


def _fixed(file: OnnxFile) -> dict[str, np.ndarray]:
    """Values of the inputs that are the same in all runs."""
    found = {}
    for given in file.inputs:
        if given.name in _FIXED:
            shape = [dim if isinstance(dim, int) else 1 for dim in given.dims]
            found[given.name] = as_numpy(torch.full(shape, _FIXED[given.name], dtype=given.dtype))
    return found
