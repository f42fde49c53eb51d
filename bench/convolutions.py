"""Convolutions alone against eager PyTorch's, which are oneDNN's and its own depthwise ones.

Shapes are those of encoders for images and speech. Both sides read and write memory that stays where it is,
in one process, in turns; PyTorch's output is new memory each time, as it always is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from .round_robin import Say
from .stats import round_ratios
from .tables import Table, ratio

__all__ = ["LAYERS", "NAME", "TITLE", "Layer", "measure", "tables"]

NAME = "convolutions"
TITLE = "Convolutions"

_CALLS = 3
"""Of each side in a round."""


class Layer(NamedTuple):
    """What it is of, its input [batch, channels, size ...], and the arguments of torch's module."""

    what: str
    shape: tuple[int, ...]
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


LAYERS = (
    Layer("depthwise", (2, 192, 32, 32), 192, 3, padding=1, groups=192),
    Layer("depthwise", (2, 192, 32, 32), 192, 5, stride=2, padding=2, groups=192),
    Layer("depthwise, small", (2, 960, 4, 4), 960, 5, padding=2, groups=960),
    Layer("ConvNeXt", (2, 96, 56, 56), 96, 7, padding=3, groups=96),
    Layer("Conformer", (1, 256, 400), 256, 31, padding=15, groups=256),
    Layer("pointwise", (2, 192, 32, 32), 192, 1),
    Layer("pointwise, small", (2, 960, 4, 4), 960, 1),
    Layer("3 x 3", (2, 64, 56, 56), 64, 3, padding=1),
    Layer("3 x 3", (2, 64, 56, 56), 128, 3, stride=2, padding=1),
    Layer("ViT", (2, 3, 224, 224), 768, 16, stride=16),
    Layer("Whisper", (1, 80, 3000), 384, 3, padding=1),
    Layer("Whisper", (1, 384, 3000), 384, 3, stride=2, padding=1),
    Layer("wav2vec 2", (2, 1, 16000), 512, 10, stride=5),
    Layer("wav2vec 2", (1, 512, 3199), 512, 3, stride=2),
    Layer("wav2vec 2, positions", (2, 768, 50), 768, 128, padding=64, groups=16),
)


def measure(layers: Sequence[Layer] = LAYERS, *, threads: int, rounds: int, say: Say) -> dict[str, Any]:
    """Milliseconds of a call by layer and side, and what PyTorch takes over forgec, median of rounds."""
    import numpy as np
    import torch
    from forgec.backends.cpu import native

    import forgec

    torch.set_num_threads(threads)
    rows = []
    for layer in layers:
        kind = torch.nn.Conv2d if len(layer.shape) == 4 else torch.nn.Conv1d
        module = kind(layer.shape[1], layer.outputs, *layer[3:6], groups=layer.groups).eval()
        x = torch.randn(layer.shape)
        executable = forgec.compile(module, (x,))
        executable.threads = threads
        bound = executable.bind(
            [x.numpy()], [np.empty(executable.signature.results[0].type.shape, np.float32)]
        )
        sides: dict[str, Callable[[], Any]] = {"forgec": bound, "eager": partial(module, x)}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        with torch.no_grad():
            for call in sides.values():
                call()
            for _ in range(rounds):
                for name, call in sides.items():
                    start = perf_counter()
                    for _ in range(_CALLS):
                        call()
                    seconds[name].append((perf_counter() - start) / _CALLS)
        faster = round_ratios(seconds, "eager", "forgec").median
        times = {name: {"median": median(s) * 1e3, "min": min(s) * 1e3} for name, s in seconds.items()}
        rows.append({**layer._asdict(), "ms": times, "over_eager": faster})
        say(f"{layer.what} {'x'.join(map(str, layer.shape))}: {faster:.2f} x")
    return {"isa": native.isa(), "rows": rows}


def tables(data: Mapping[str, Any]) -> list[Table]:
    """One row a layer."""
    rows = []
    for row in data["rows"]:
        ms = row["ms"]
        rows.append(
            [
                row["what"],
                "x".join(map(str, row["shape"])),
                f"{row['outputs']}, {row['kernel']}, {row['stride']}, {row['groups']}",
                f"{ms['forgec']['median']:.2f}",
                f"{ms['eager']['median']:.2f}",
                ratio(row["over_eager"]),
                ratio(ms["eager"]["min"] / ms["forgec"]["min"]),
            ]
        )
    columns = [
        "of",
        "input",
        "outputs, kernel, stride, groups",
        ">forgec ms",
        ">eager ms",
        ">gain",
        ">by lowest",
    ]
    return [Table("A convolution alone", columns, rows, [f"Measured on {data['isa']}."])]
