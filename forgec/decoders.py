"""Where the decoder of a language model comes from: transformers, or an ONNX file with a cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from .errors import ModelError
from .text.info import TOKENIZER_FILE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .models import LoadedModel

__all__ = ["Decoder", "DecoderSource", "cache_rows", "read_json", "source_of"]

_ALIGNED = 16
"""A cache has a multiple of so many rows: NPUs take up to a fifth longer for others."""

_SETTINGS = ("generation_config.json", "config.json", "genai_config.json")
"""What lies beside an ONNX file, by whom the exporters take it from."""

_LONGEST = ("max_position_embeddings", "n_positions", "max_target_positions", "context_length")
_HEADS = ("num_key_value_heads", "num_attention_heads", "n_head")
_HEAD_SIZE = ("head_dim", "head_size")
_WIDTH = ("hidden_size", "n_embd")


class Decoder(Protocol):
    """A module that reads some tokens at a position behind a cache, which is an input and an output.

    It is not ``chunked`` if it reads a text token by token only, ``recurrent`` if padding would stay in its
    cache, and ``rewinds`` if a text can go on from any of its tokens. ``long_rope`` is there where it takes
    other frequencies for long texts. ``plain_reference`` says what computes ``plain``, and
    ``reference_dtypes`` in what.
    """

    chunked: bool
    plain_reference: str

    @property
    def recurrent(self) -> bool: ...

    @property
    def rewinds(self) -> bool: ...

    @property
    def long_rope(self) -> Any: ...

    @property
    def reference_dtypes(self) -> list[torch.dtype]: ...

    def example(self, tokens: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Inputs of a chunk of so many tokens."""

    def text(self, tokens: int) -> Tensor:
        """Ids [1, tokens] that are no padding."""

    def plain(self, input_ids: Tensor, start: int = 0) -> Tensor:
        """Logits [T - start, vocabulary] from a position on, without a cache."""


@dataclass(frozen=True)
class DecoderSource:
    """A decoder, and what its programs say about it. ``weights`` tells where these come from, ``readers``
    give those that are stand-ins, ``eos`` are the tokens that end a text, and ``folder`` may hold a
    tokenizer."""

    name: str
    decoder: Decoder
    weights: str
    vocabulary: int
    eos: tuple[int, ...]
    folder: Path | None
    readers: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)

    @property
    def module(self) -> nn.Module:
        """The decoder as what is compiled."""
        assert isinstance(self.decoder, nn.Module)
        return self.decoder


def source_of(
    model: LoadedModel | PreTrainedModel | str | Path,
    context: int,
    chunks: Sequence[int],
    *,
    cache: str,
    compresses: bool,
    on_host: bool,
) -> DecoderSource:
    """The decoder of a model for texts of up to ``context`` tokens, read in ``chunks``.

    ``cache`` is the option: keys and values take 16 bits if it says f16, or auto where weights are
    compressed. A device beside the host keeps them in 16 bits anyway: ``ir.old_and_new`` makes those of f32
    such. Raises :class:`ModelError` for what writes no text.
    """
    if isinstance(model, str | Path) and Path(model).suffix == ".onnx":
        return _of_file(Path(model), context, chunks, cache, compresses, on_host)
    from .models import LoadedModel, load
    from .models.decoder import decoder_of

    if isinstance(model, str | Path):
        loaded = load(model)
    else:
        loaded = model if isinstance(model, LoadedModel) else LoadedModel.of(model)
    half = on_host and (cache == "f16" or (cache == "auto" and compresses))
    decoder = decoder_of(loaded, context, chunks, half_cache=half)
    settings = getattr(loaded.module, "generation_config", None)
    eos = getattr(settings, "eos_token_id", None)
    if eos is None:
        eos = getattr(loaded.config, "eos_token_id", None)
    vocabulary = int(loaded.config.get_text_config().vocab_size)
    return DecoderSource(
        loaded.name, decoder, loaded.weights, vocabulary, _ids(eos), loaded.tokenizer_dir, loaded.readers
    )


def cache_rows(name: str, context: int, chunks: Sequence[int], longest: int | None) -> tuple[int, int]:
    """Rows of a cache, and those that the padding of a last chunk can reach; ``longest`` is the longest text
    that a model takes. Raises :class:`ModelError` for sizes that do not fit."""
    if longest is not None and context > longest:
        raise ModelError(f"{name} takes at most {longest} tokens, and context is {context}")
    for chunk in chunks:
        if not 1 < chunk <= context:
            raise ModelError(f"chunks of {chunk} tokens are not of use in a context of {context}")
    if context < 1:
        raise ModelError(f"a context has at least one token, and is {context}")
    reached = context + max(chunks, default=1) - 1
    return -(-reached // _ALIGNED) * _ALIGNED, reached


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty without one."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is no JSON: {error}", hint="copy it again, or take it away") from error
    return value if isinstance(value, dict) else {}


def _of_file(
    path: Path, context: int, chunks: Sequence[int], cache: str, compresses: bool, on_host: bool
) -> DecoderSource:
    from .capture.onnx.decoder import DecoderSizes, OnnxDecoder, cache_of
    from .capture.onnx.file import load_onnx

    file = load_onnx(path)
    entries = cache_of(file)
    folder, settings = _beside(path)

    def known(*names: str) -> int | None:
        found = (settings.get(name) for name in names)
        return next((int(value) for value in found if isinstance(value, int)), None)

    rows, _ = cache_rows(str(path), context, chunks, known(*_LONGEST))
    heads, width = known("num_attention_heads", "n_head"), known(*_WIDTH)
    size = known(*_HEAD_SIZE) or (width // heads if width and heads else None)
    sizes = DecoderSizes(context, rows, known(*_HEADS), size, torch.float32)
    decoder = OnnxDecoder(file, sizes, max(chunks, default=1))
    halves = compresses or bool(decoder.stored.codes) or entries[0].past.dtype is torch.float16
    if on_host and (cache == "f16" or (cache == "auto" and halves)):
        decoder.sizes = replace(sizes, cache_dtype=torch.float16)
    eos = _ids(settings.get("eos_token_id"))
    return DecoderSource(file.name, decoder, "checkpoint", decoder.vocabulary, eos, folder)


def _beside(path: Path) -> tuple[Path | None, dict[str, Any]]:
    """The folder with an ONNX file's tokenizer, perhaps the one above it, and what the settings there say."""
    folders = [path.resolve().parent, path.resolve().parent.parent]
    folder = next((f for f in folders if (f / TOKENIZER_FILE).is_file()), None)
    settings: dict[str, Any] = {}
    for name in reversed(_SETTINGS):
        found = next((value for f in folders if (value := read_json(f / name))), {})
        for inner in (found.get("model"), found.get("text_config")):
            if isinstance(inner, dict):
                settings |= inner
                settings |= inner["decoder"] if isinstance(inner.get("decoder"), dict) else {}
        settings |= {key: value for key, value in found.items() if value is not None}
    return folder, settings


def _ids(found: Any) -> tuple[int, ...]:
    if found is None:
        return ()
    return tuple(int(token) for token in (found if isinstance(found, list | tuple) else [found]))
