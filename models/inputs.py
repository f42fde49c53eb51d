"""Random but valid example inputs, one maker per input name.

A program's signature is the tuple of its input names; the makers below are all that is known about each
name. A new kind of input is one function and one entry of `MAKERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Encoder length given to text decoders. It differs from the default number of tokens so that a program that
# mixes up its two sequence axes cannot pass by chance.
SOURCE_TOKENS = 48
# Pixels on a side for models that take any: what nearly all of them were trained with.
IMAGE_SIZE = 224
# Samples of raw speech: a second of what all these models were trained with.
SAMPLES = 16_000


@dataclass(frozen=True)
class Draw:
    """One request for inputs: the model's configuration and data type, the sizes, and where values come from.

    With `padded`, masks end in a random number of zeros in each row; otherwise they are all ones.
    """

    config: Any
    dtype: torch.dtype
    batch: int
    tokens: int
    generator: torch.Generator
    padded: bool

    @property
    def text(self) -> Any:
        """The configuration of the part that reads tokens."""
        return getattr(self.config, "text_config", self.config)

    @property
    def vision(self) -> Any:
        """The configuration of the part that reads pixels."""
        return getattr(self.config, "vision_config", self.config)

    @property
    def source(self) -> int:
        """Encoder positions that a decoder attends to: fixed for speech, `SOURCE_TOKENS` for text."""
        return int(getattr(self.config, "max_source_positions", SOURCE_TOKENS))

    def integers(self, high: int, length: int) -> Tensor:
        """Return int64 [batch, length] in [0, high)."""
        return torch.randint(high, (self.batch, length), generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal values [batch, *shape] in the model's data type."""
        return torch.randn((self.batch, *shape), generator=self.generator).to(self.dtype)

    def mask(self, length: int) -> Tensor:
        """Return int64 [batch, length] of ones, then zeros where padded; every row keeps at least one."""
        if not self.padded:
            return torch.ones((self.batch, length), dtype=torch.int64)
        kept = 1 + self.integers(length, 1)
        return (torch.arange(length) < kept).to(torch.int64)


def _token_ids(draw: Draw) -> Tensor:
    return draw.integers(draw.text.vocab_size, draw.tokens)


def _token_types(draw: Draw) -> Tensor:
    return draw.integers(draw.config.type_vocab_size, draw.tokens)


def _pixels(draw: Draw) -> Tensor:
    size = getattr(draw.vision, "image_size", IMAGE_SIZE)
    height, width = (size, size) if isinstance(size, int) else size
    return draw.normal(getattr(draw.vision, "num_channels", 3), height, width)


def _samples(draw: Draw) -> Tensor:
    # A spectrogram where the model was made for one, else raw speech.
    if hasattr(draw.config, "num_mel_bins") and hasattr(draw.config, "max_length"):
        return draw.normal(draw.config.max_length, draw.config.num_mel_bins)
    return draw.normal(SAMPLES)


def _features(draw: Draw) -> Tensor:
    # The second convolution of a speech encoder halves the number of frames.
    return draw.normal(draw.config.num_mel_bins, 2 * draw.source)


MAKERS: dict[str, Callable[[Draw], Tensor]] = {
    "input_ids": _token_ids,
    "decoder_input_ids": _token_ids,
    "attention_mask": lambda draw: draw.mask(draw.tokens),
    "token_type_ids": _token_types,
    "pixel_values": _pixels,
    "input_features": _features,
    "input_values": _samples,
    "encoder_hidden_states": lambda draw: draw.normal(draw.source, draw.config.hidden_size),
    "encoder_attention_mask": lambda draw: draw.mask(draw.source),
}

TOKEN_INPUTS = frozenset({"input_ids", "decoder_input_ids"})
