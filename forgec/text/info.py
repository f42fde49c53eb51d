"""What a file says about generating text with its programs: ``extra/generation.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import ArtifactError

__all__ = ["DECODE", "FILE", "TEMPLATE_FILE", "TOKENIZER_FILE", "GenerationInfo", "prefill_name"]

FILE = "generation.json"
TOKENIZER_FILE = "tokenizer.json"
TEMPLATE_FILE = "chat_template.jinja"
DECODE = "decode"
"""Name of the program that reads one token."""


def prefill_name(chunk: int) -> str:
    """Name of the program that reads chunks of ``chunk`` tokens."""
    return f"prefill.{chunk}"


@dataclass(frozen=True)
class GenerationInfo:
    """``context`` is the longest text, ``chunks`` are the sizes of the prefill programs, ascending."""

    context: int
    chunks: tuple[int, ...]
    vocabulary: int
    eos: tuple[int, ...] = ()
    special: dict[str, str] = field(default_factory=dict)
    """Texts of special tokens by the names that chat templates know."""
    rewinds: bool = False
    """Whether a text can go on from any of its tokens: the cache has a row for each, and nothing else."""
    border: int | None = None
    """Length over which texts take other frequencies; the programs then have the input ``length``."""
    rereads: bool = False
    """Whether a text that passes the border is read anew, so that its cache is of one kind."""
    pads: bool = True
    """Whether a chunk may end in padding; a recurrent state would not forget it."""

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> GenerationInfo:
        """The inverse of :meth:`to_bytes`; :class:`ArtifactError` for anything else."""
        try:
            value: Any = json.loads(data)
            info = cls(
                value["context"],
                tuple(value["chunks"]),
                value["vocabulary"],
                tuple(value["eos"]),
                dict(value["special"]),
                value.get("rewinds", False),
                value.get("border"),
                value.get("rereads", False),
                value.get("pads", True),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"{FILE} is malformed: {error}") from error
        border = () if info.border is None else (info.border,)
        numbers = (info.context, info.vocabulary, *info.chunks, *info.eos, *border)
        texts = [*info.special, *info.special.values()]
        if not all(type(n) is int and n >= 0 for n in numbers) or list(info.chunks) != sorted(info.chunks):
            raise ArtifactError(f"{FILE} is malformed: its numbers are {numbers!r:.80}")
        flags = (info.rewinds, info.rereads, info.pads)
        if not all(type(flag) is bool for flag in flags) or not all(isinstance(text, str) for text in texts):
            raise ArtifactError(f"{FILE} is malformed: its special tokens or flags are of wrong types")
        return info
