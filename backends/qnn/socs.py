"""Qualcomm's targets: the chip that an architecture's code is made for, and the one that it is timed on."""

from __future__ import annotations

from dataclasses import dataclass

from ..target import Target

__all__ = ["CHIPS", "TARGETS", "Chip"]


@dataclass(frozen=True)
class Chip:
    """``soc`` is the vendor's number of the chip that code is made for, ``proxy`` that of the chip whose
    performance model stands for it, ``proxy_name`` its name. The vendor has models for few chips.
    ``calibration`` is the cost model that was fitted to that one."""

    soc: int
    name: str
    proxy: int
    proxy_name: str
    calibration: str


_V73_MODEL = (77, "QCS9100, v73", "hexagon-v73")
_V81_MODEL = (72, "SA8797, v81", "hexagon-v81")

CHIPS = {
    "hexagon-v73": Chip(60, "SC8380XP", *_V73_MODEL),
    "hexagon-v75": Chip(57, "SM8650", *_V73_MODEL),
    "hexagon-v79": Chip(69, "SM8750", *_V73_MODEL),
    "hexagon-v81": Chip(87, "SM8850", *_V81_MODEL),
}
_PRODUCTS = {
    "hexagon-v73": ("Snapdragon X Elite and X Plus", ("snapdragon-x-elite", "x-elite", "sc8380xp")),
    "hexagon-v75": ("Snapdragon 8 Gen 3", ("snapdragon-8-gen-3", "sm8650")),
    "hexagon-v79": ("Snapdragon 8 Elite", ("snapdragon-8-elite", "sm8750")),
    "hexagon-v81": ("Snapdragon 8 Elite Gen 5", ("snapdragon-8-elite-gen-5", "sm8850")),
}
_LIMITS = (
    ("types", "floats are computed in f16, integers in i32"),
    ("rank", "tensors have at most 5 axes"),
    ("shapes", "static shapes"),
)

TARGETS = tuple(
    Target(name, f"Qualcomm Hexagon {name[-3:]} ({title})", aliases, "f16", _LIMITS)
    for name, (title, aliases) in _PRODUCTS.items()
)
