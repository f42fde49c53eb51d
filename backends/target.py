"""What can be said of a target without its vendor's software."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """One device that programs can be compiled for.

    ``name`` is what IR text and plans call it, letters, digits and hyphens; ``aliases`` are product names in
    lower case. ``precision`` is the element type that the device computes floats in ("f32", "f16").
    ``limits`` are rows of a table for people: ("rank", "inputs and outputs have at most 5 axes").
    ``stand_in`` marks what is no device.
    """

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    precision: str = "f32"
    limits: tuple[tuple[str, str], ...] = ()
    stand_in: bool = False
