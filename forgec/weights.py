"""Weight formats: what ``Options.weights`` says, and which format a parameter gets.

The text is a list with commas: a format for all parameters, then ``PATTERN=FORMAT`` for those whose names a
glob pattern matches; ``lm_head`` also stands for everything in the module of that name. A format may carry a
group size: ``int4:64,lm_head=int8,*.mlp.*=int4:channel``. The last pattern that matches counts. Without a
format for all it is ``auto``: as the model has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .errors import OptionError

__all__ = ["EIGHT_BIT_ACTIVATIONS", "FORMATS", "FOUR_BITS", "GROUPS", "Format", "WeightSpec"]

FORMATS = ("auto", "fp32", "fp16", "bf16", "int8", "w8a8", "int4", "w4a8")
"""From the most to the least exact: weights as the model has them, floats or codes; as floats of 32 bits;
rounded to 16 bits, of which fp16 has three digits more and bf16 the range of fp32; 8 bits per output channel;
the same with activations of 8 bits per row; 4 bits in groups; the same with activations of 8 bits in those
groups."""

_OWN = ("auto", "fp32")
"""Formats that round nothing."""

FOUR_BITS = ("int4", "w4a8")
"""Formats whose codes have 4 bits, and a group size."""

EIGHT_BIT_ACTIVATIONS = ("w8a8", "w4a8")
"""Formats whose products round their activations to 8 bits when they run."""

GROUPS = {"32": 32, "64": 64, "128": 128, "channel": 0}
"""Numbers along a row that share a scale, in formats of 4 bits; "channel" is the
whole row, which int4 alone knows."""


@dataclass(frozen=True)
class Format:
    """``group`` is 0 where a scale is for a whole row, or there is none."""

    name: str
    group: int = 0

    @classmethod
    def parse(cls, text: str) -> Format:
        """A format such as ``int4:64``; ``ValueError`` with one sentence if it is none."""
        name, colon, group = text.strip().partition(":")
        if name not in FORMATS:
            raise ValueError(f"there is no weight format {name!r}: {', '.join(FORMATS)}")
        if not colon:
            return cls(name, 128 if name in FOUR_BITS else 0)
        if name not in FOUR_BITS or group not in GROUPS or (name != "int4" and not GROUPS[group]):
            sizes = ", ".join(GROUPS)
            raise ValueError(
                f"{text.strip()!r}: only {' and '.join(FOUR_BITS)} have groups, of {sizes} (channel: int4)"
            )
        return cls(name, GROUPS[group])

    @property
    def compresses(self) -> bool:
        """Whether weights are rounded to it."""
        return self.name not in _OWN

    @property
    def exactness(self) -> tuple[int, float]:
        """Sorts formats, the most exact first."""
        return FORMATS.index(self.name), self.group or math.inf


@dataclass(frozen=True)
class WeightSpec:
    """The format of all parameters, and the exceptions."""

    default: Format = Format("auto")
    overrides: tuple[tuple[str, Format], ...] = ()

    @classmethod
    def parse(cls, text: str) -> WeightSpec:
        """The text of ``Options.weights``; ``ValueError`` with one sentence if it is malformed."""
        default = Format("auto")
        overrides = []
        for index, part in enumerate(text.split(",")):
            pattern, equals, name = part.rpartition("=")
            if equals and pattern.strip():
                overrides.append((pattern.strip(), Format.parse(name)))
            elif index == 0 and not equals:
                default = Format.parse(part)
            else:
                raise ValueError(f"{part!r} is no override: write PATTERN=FORMAT, as in lm_head=int8")
        return cls(default, tuple(overrides))

    @property
    def compresses(self) -> bool:
        """Whether any parameter could be rounded to another format than its own."""
        return any(f.compresses for f in (self.default, *(f for _, f in self.overrides)))

    def uses(self, name: str) -> bool:
        """Whether any parameter could get a format of this name."""
        return any(f.name == name for f in (self.default, *(f for _, f in self.overrides)))

    def of(self, names: Iterable[str]) -> Format:
        """The format of a weight made of these parameters: the most exact of theirs."""
        return min((self._of(name) for name in names), key=lambda f: f.exactness, default=Format("auto"))

    def _of(self, name: str) -> Format:
        matching = [f for pattern, f in self.overrides if _matches(pattern, name)]
        return matching[-1] if matching else self.default

    def check(self, names: Iterable[str]) -> None:
        """Raise :class:`OptionError` for a pattern that matches none of the names."""
        known = sorted(set(names))
        for pattern, _ in self.overrides:
            if not any(_matches(pattern, name) for name in known):
                some = ", ".join([*known[:3], "...", *known[-3:]] if len(known) > 7 else known) or "none"
                raise OptionError(
                    f"option weights: the pattern {pattern!r} matches no weight",
                    hint=f"the weights are {some}; tied weights have one name",
                )


def _matches(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
