"""What one generation took: counts and measured times."""

from __future__ import annotations

import resource
from dataclasses import dataclass

__all__ = ["Stats", "peak_rss"]


@dataclass
class Stats:
    """Seconds are measured on this machine, from the call of ``generate`` on."""

    prompt_tokens: int = 0
    kept_tokens: int = 0
    """Of the prompt, those that were in the cache from the text before."""
    tokens: int = 0
    """Tokens generated."""
    prefill_s: float = 0.0
    """Until the logits of the first token are there."""
    decode_s: float = 0.0
    """From then to the end, time spent by the caller between tokens left out."""
    first_token_s: float = 0.0
    """Until the first token was given to the caller."""
    finish: str = ""
    """``stop`` (a stop text), ``eos``, ``length`` (max_tokens), ``context`` (it is full), or ``""`` while it
    runs and after an interruption."""

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens read a second, without those kept."""
        read = self.prompt_tokens - self.kept_tokens
        return read / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first."""
        return (self.tokens - 1) / self.decode_s if self.decode_s and self.tokens > 1 else 0.0


def peak_rss() -> int:
    """Bytes of memory that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
