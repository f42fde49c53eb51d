"""Latencies as a picture: how many times longer each tool takes than forgec, by model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .results import Result

__all__ = ["latency_plot"]

_COLOURS = {"openvino": "#4c78a8", "onnxruntime": "#f58518", "torch.compile": "#54a24b", "eager": "#9d9d9d"}
_INCHES_PER_MODEL = 0.9


def latency_plot(results: Sequence[Result], path: Path) -> None:
    """Write bars of the medians over forgec's, measured, as SVG or what the path's ending says.

    Of several results for a model, its tokens and a processor the first counts.
    ``ValueError`` if no result has a ratio.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "forgec"  # the same bars give the same file
    from matplotlib import pyplot

    several = len({_processor(result) for result in results}) > 1
    found: dict[tuple[str, str], float] = {}
    for result in results:
        for label, model in result.data["models"].items():
            place = f"{label}, {result.settings['tokens']} tokens" + several * f"\n{_processor(result)}"
            for name, tool in model["tools"].items():
                if tool["over_forgec"] is not None and name in _COLOURS:
                    found.setdefault((place, name), tool["over_forgec"]["median"])
    bars = [(place, name, value) for (place, name), value in found.items()]
    if not bars:
        raise ValueError("no latencies to draw")
    labels = list(dict.fromkeys(label for label, _, _ in bars))
    tools = [name for name in _COLOURS if any(bar[1] == name for bar in bars)]
    figure, axes = pyplot.subplots(figsize=(7, 1 + _INCHES_PER_MODEL * len(labels)), layout="constrained")
    height = 0.8 / len(tools)
    for number, tool in enumerate(tools):
        own = [(labels.index(label), value) for label, name, value in bars if name == tool]
        places = [place + (number - (len(tools) - 1) / 2) * height for place, _ in own]
        drawn = axes.barh(places, [value for _, value in own], height, label=tool, color=_COLOURS[tool])
        axes.bar_label(drawn, fmt="%.2f", padding=2, fontsize=7)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("median latency over forgec's, measured; 1 is forgec")
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _processor(result: Result) -> str:
    """Its name without the family, and whether it has matrix tiles."""
    name = str(result.machine.get("cpu", "")).partition(" (family")[0]
    return name + " with AMX" * ("amx_tile" in result.machine.get("instruction_sets", ()))
