"""The compiler's simulated run: latency from the blob, traffic from its log, layers from its schedule."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..prediction import Layer, Prediction
from .blob import metrics
from .compiler import Built

__all__ = ["located", "predict"]

_METHOD = "Intel's NPU compiler, its own model of the schedule"
_UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_LAYERS = "Layers"
_REGISTER = re.compile(r"^(r\d+)\.")


def predict(built: Built, platform: str, sources: Mapping[str, str]) -> Prediction | None:
    """What a blob's compile says about a run; ``sources`` gives a place in the user's model by the register
    that the names of nodes begin with."""
    found = metrics(built.blob)
    if found is None:
        return None
    log = built.log
    return Prediction(
        latency_us=found.latency_us(platform),
        method=_METHOD,
        ddr_bytes=_sum(log, r"(?:DDR2CMX|CMX2DDR|DDR2DDR) - \d+ ops : Size - ([\d.]+) (\w+)"),
        spill_bytes=_sum(log, r"[Ss]pill\w* .*?[Ss]ize - ([\d.]+) (\w+)") or 0 if log else None,
        code_bytes=len(built.blob),
        uncosted=tuple(sorted({k.split(".")[0].removeprefix("builtin_") for k in _uncosted(log)})),
        layers=_layers(built.schedule, sources),
    )


def located(prediction: Prediction, sources: Mapping[str, str]) -> Prediction:
    """What was predicted for a part, as it is for a call of it with these ``sources``."""
    layers = tuple(replace(layer, source=_source(layer.name, sources)) for layer in prediction.layers)
    return replace(prediction, layers=layers)


def _uncosted(log: str) -> list[str]:
    found = re.search(r"unsupported by VPUNN.*?\[([^\]]*)\]", log)
    return [name.strip() for name in found[1].split(",")] if found else []


def _sum(log: str, pattern: str) -> int | None:
    sizes = [float(number) * _UNITS.get(unit, 0) for number, unit in re.findall(pattern, log)]
    return round(sum(sizes)) if sizes else None


def _layers(schedule: bytes, sources: Mapping[str, str]) -> tuple[Layer, ...]:
    if not schedule:
        return ()
    try:
        events: list[dict[str, Any]] = json.loads(schedule)["traceEvents"]
        lanes = {
            event["pid"]
            for event in events
            if event["name"] == "process_name" and event["args"]["name"] == _LAYERS
        }
        return tuple(
            Layer(
                event["name"],
                event["args"].get("Layer type", ""),
                float(event["ts"]),
                float(event["dur"]),
                _source(event["name"], sources),
            )
            for event in events
            if event["ph"] == "X" and event["pid"] in lanes
        )
    except (ValueError, KeyError, TypeError):
        return ()  # another version of the compiler writes another form; the latency stands without it


def _source(name: str, sources: Mapping[str, str]) -> str:
    register = _REGISTER.match(name)
    return sources.get(register[1], "") if register else ""
