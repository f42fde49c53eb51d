"""What a vendor's compiler or simulator says of compiled code, before any device has run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Layer", "Prediction", "Repeat"]


@dataclass(frozen=True)
class Layer:
    """Time that one layer of the compiled code takes on one engine, in the vendor's model.

    ``source`` is where it comes from in the user's model, as far as the compiler kept names.
    """

    name: str
    engine: str
    start_us: float
    duration_us: float
    source: str = ""


@dataclass(frozen=True)
class Repeat:
    """Instructions that a program repeats with other weights, and what it costs to compile them once.

    ``folded`` says whether that was done, ``reason`` why. Times are simulated and of all ``calls`` together:
    ``folded_us`` with weights as inputs, ``unfolded_us`` with weights in the code. Bytes of code and seconds
    of the vendor's compiler, measured, are of all calls too. What is unfolded is estimated from one call and
    two in a row. None stands for what was not tried.
    """

    what: str
    calls: int
    folded: bool
    reason: str
    folded_us: float | None = None
    unfolded_us: float | None = None
    folded_bytes: int | None = None
    unfolded_bytes: int | None = None
    folded_s: float | None = None
    unfolded_s: float | None = None


@dataclass(frozen=True)
class Prediction:
    """A simulated run of one segment. None stands for what the vendor's model does not tell.

    ``latency_us`` is one run without the host's dispatch. ``ddr_bytes`` go between memory and chip,
    ``spill_bytes`` of them only because on-chip memory was short, ``on_chip_bytes`` is the peak there.
    ``uncosted`` are kernels that the vendor's model counts as free. ``code_bytes`` is the size of the
    device's code with its weights. ``dispatches`` is how often the host starts the device. ``repeats`` are
    those that begin in the segment.
    """

    latency_us: float
    method: str
    ddr_bytes: int | None = None
    spill_bytes: int | None = None
    on_chip_bytes: int | None = None
    code_bytes: int | None = None
    dispatches: int = 1
    uncosted: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = field(default=(), repr=False)
    repeats: tuple[Repeat, ...] = ()

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Prediction:
        """A prediction from what ``dataclasses.asdict`` made of it; ``TypeError`` or ``KeyError`` if not."""
        layers = tuple(Layer(**layer) for layer in found["layers"])
        repeats = tuple(Repeat(**repeat) for repeat in found["repeats"])
        return cls(**{**found, "uncosted": tuple(found["uncosted"]), "layers": layers, "repeats": repeats})
