"""Intel's NPUs, simulated: forgec's emission, folded too if asked, against OpenVINO's own conversion.

Both go to the same compiler with the same options, one after the other in one process each, forgec's from an
empty cache. The peer is ``openvino.convert_model`` of the same module, traced or, where that fails, exported
by ``torch.export``, made static, in f16 with f16 inputs and outputs as forgec's. Look-ups of embeddings and
the product with the vocabulary are on neither side: the compiler's model counts a look-up as the whole table,
and the product is one and the same, longer than several layers. All else is on both sides, also what forgec
would leave to the CPU for being small: it is compiled with costs at which the NPU is always worth it.
Latencies are simulated by Intel's compiler, seconds measured, once for a model. "Compiling" are, of forgec,
those of its last phase, which emits, compiles and reads the prediction, of the peer those of the compiler
alone; "from the module" are all of forgec's compile, without check, and the peer's conversion before its
compiler.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from .round_robin import Say
from .tables import Table, mib

__all__ = [
    "MODELS",
    "NAME",
    "TARGETS",
    "TITLE",
    "all_but_look_ups",
    "conversion",
    "empty_cache",
    "measure",
    "prepared",
    "tables",
]

NAME = "npu"
TITLE = "Intel's NPUs"
MODELS = (
    "minilm",
    "bert-base",
    "vit-base",
    "t5-small.encoder",
    "gpt2",
    "qwen2-0.5b",
    "llama-3.2-1b",
    "t5-small.decoder",
    "whisper-tiny.encoder",
    "whisper-tiny.decoder",
)
TARGETS = ("intel-npu3720", "intel-npu4000", "intel-npu5010")

_STORED = "minilm"
"""The model whose weights come as a package; the others are random."""

_TABLE_WIDTH = 64
"""A look-up in a constant that is at least so wide is an embedding; biases by position are narrow."""

_NEVER_US = 1e7
"""What an instruction costs that the host is to leave to the NPU."""


def measure(
    models: Sequence[str],
    targets: Sequence[str],
    *,
    tokens: int,
    layers: int | None,
    folds: Sequence[str],
    say: Say,
) -> Mapping[str, Any]:
    """One row per model and target; no model gets deeper than ``layers``."""
    from forgec import models as presets

    rows = []
    for name in models:
        loaded = _load(name, layers)
        inputs = _inputs(loaded, tokens)
        model, converting = _peers_model(loaded, inputs)
        for target in targets:
            row: dict[str, Any] = {"model": name, "target": target, "layers": _depth(loaded.config)}
            row["published"] = _depth(_config(presets.describe(name)))
            for fold in folds:
                with empty_cache():
                    row[fold] = _own(loaded, target, fold, inputs)
            row["peer"] = _peer(model, converting, target)
            say(f"{name} on {target}: {row['off']['us']:.0f} us, peer {row['peer'].get('us', 0):.0f} us")
            rows.append(row)
    return {"rows": rows}


def _load(name: str, layers: int | None) -> Any:
    """A preset without its product with the vocabulary, cut if it is deeper than ``layers``."""
    import torch
    from transformers import PreTrainedModel

    from forgec import models as presets

    deep = layers is not None and _depth(_config(presets.describe(name))) > layers
    source = presets.sentence_encoder_dir() if name == _STORED else name
    loaded = presets.load(source, layers=layers if deep else None)
    for module in (loaded.module, getattr(loaded.module, "model", None)):
        if isinstance(module, PreTrainedModel) and module.get_output_embeddings() is not None:
            module.set_output_embeddings(torch.nn.Identity().eval())
            break
    return loaded


def _config(preset: Any) -> Any:
    from forgec.models.building import make_config

    return make_config(preset.config_dict(), None)


def _depth(config: Any) -> int:
    return int(config.num_hidden_layers)


def _inputs(loaded: Any, tokens: int) -> Mapping[str, Any]:
    from forgec.models.inputs import TOKEN_INPUTS

    timed = not TOKEN_INPUTS.isdisjoint(loaded.inputs)
    return loaded.example_inputs(tokens=tokens if timed else None)[1]


@contextmanager
def empty_cache() -> Iterator[None]:
    """An empty compile cache. The toolchain, which is in the same folder, was looked up before."""
    from forgec.backends.openvino import toolchain

    toolchain.find()
    before = os.environ.get("FORGEC_CACHE")
    with tempfile.TemporaryDirectory(prefix="forgec-bench-") as empty:
        os.environ["FORGEC_CACHE"] = empty
        try:
            yield
        finally:
            os.environ.pop("FORGEC_CACHE")
            if before is not None:
                os.environ["FORGEC_CACHE"] = before


@contextmanager
def all_but_look_ups() -> Iterator[str]:
    """Costs of the host, as a calibration's path, with which look-ups of embeddings are all that it does."""
    from forgec.plan.cost import CostModel

    record = CostModel.load().to_json()
    for rates in record["rates"].values():
        rates["overhead_us"] = _NEVER_US
    record["transfer"] = {"bytes_per_us": 1e9, "overhead_us": 1e-4}
    record["rates"]["embedding"] = {"flops_per_us": 1e9, "bytes_per_us": 1e9, "overhead_us": 0.0}
    with tempfile.TemporaryDirectory(prefix="forgec-bench-") as folder:
        path = Path(folder) / "costs.json"
        path.write_text(json.dumps(record), encoding="utf-8")
        yield str(path)


def _own(loaded: Any, target: str, fold: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    import forgec

    with all_but_look_ups() as costs:
        start = perf_counter()
        executable = forgec.compile(
            loaded.module, (), dict(inputs), target=target, fold=fold, check=False, costs=costs
        )
        taken = perf_counter() - start
    report = executable.report
    assert report is not None
    return {
        "us": sum(p.latency_us for p in report.predictions),
        "module": taken,
        "seconds": next(p.ms for p in report.phases if p.name == "executable") / 1e3,
        "parts": len(report.predictions),
        "transitions": report.placement.transitions,
        "host": sorted({fallback.op for fallback in report.placement.fallbacks}),
        "dispatches": sum(p.dispatches for p in report.predictions),
        "code": sum(p.code_bytes or 0 for p in report.predictions),
        "uncosted": sorted({kernel for p in report.predictions for kernel in p.uncosted}),
    }


def _peers_model(loaded: Any, inputs: Mapping[str, Any]) -> tuple[Any, float]:
    """The peer's model, and the seconds of its conversion, the one that works; where it fails both ways, what
    it says."""
    said = []
    for how in ("trace", "export"):
        start = perf_counter()
        try:
            model = conversion(loaded.module, inputs, how)
            taken = perf_counter() - start
            return prepared(model, inputs), taken
        except Exception as error:  # whatever the peer raises is its answer
            said.append(str(error).strip().splitlines()[-1])
    return "; ".join(said), 0.0


def _peer(model: Any, converting: float, target: str) -> dict[str, Any]:
    from forgec.backends.base import Settings
    from forgec.backends.openvino import toolchain
    from forgec.backends.openvino.compiler import Built, Model, build
    from forgec.backends.openvino.prediction import predict
    from forgec.backends.vendor.cache import Cache

    tools = toolchain.find()
    if tools is None:
        raise RuntimeError("Intel's compiler is missing: forgec toolchain install intel-npu")
    if isinstance(model, str):
        return {"refused": model}
    platform = target.removeprefix("intel-npu")
    (built,) = build([Model.of(model, "peer")], platform, tools, Settings(), Cache(), {})
    if not isinstance(built, Built):
        return {"refused": built.reason}
    found = predict(built, platform, {})
    return {
        "us": found.latency_us if found else 0.0,
        "module": converting + built.seconds,
        "seconds": built.seconds,
        "code": len(built.blob),
        "uncosted": list(found.uncosted) if found else [],
    }


def conversion(module: Any, inputs: Mapping[str, Any], how: str, *, positional: bool = False) -> Any:
    """OpenVINO's conversion of a module as it comes; ``how`` is "trace" or "export". The module takes its
    inputs by name, and gives tensors by name, or both by position."""
    import openvino as ov
    import torch

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *values: Any) -> Any:
            if positional:
                return self.module(*values)
            out = self.module(**dict(zip(inputs, values, strict=True)))
            return tuple(value for value in out.values() if isinstance(value, torch.Tensor))

    given = tuple(inputs.values())
    with torch.no_grad():
        if how == "trace":
            return ov.convert_model(Positional().eval(), example_input=given)
        return ov.convert_model(torch.export.export(Positional().eval(), given))


def prepared(model: Any, inputs: Mapping[str, Any]) -> Any:
    """A converted model static, in f16, and on looked-up embeddings."""
    import openvino as ov
    from openvino import opset15 as opset
    from openvino._offline_transformations import compress_model_transformation

    shapes = (ov.PartialShape(list(value.shape)) for value in inputs.values())
    model.reshape(dict(zip(model.inputs, shapes, strict=True)))
    looked_up = [node for node in model.get_ordered_ops() if _is_embedding(node)]
    for node in looked_up:
        embedded = opset.parameter(node.get_output_shape(0), ov.Type.f32)
        node.output(0).replace(embedded.output(0))
        model.add_parameters([embedded])
    for parameter in model.get_parameters():
        if not parameter.output(0).get_target_inputs():
            model.remove_parameter(parameter)
    compress_model_transformation(model)
    halves = ov.preprocess.PrePostProcessor(model)
    for ports, name in ((model.inputs, "input"), (model.outputs, "output")):
        for index, port in enumerate(ports):
            if port.get_element_type() == ov.Type.f32:
                getattr(halves, name)(index).tensor().set_element_type(ov.Type.f16)
    return halves.build()


def _is_embedding(node: Any) -> bool:
    if node.get_type_name() != "Gather":
        return False
    table = node.input_value(0).get_node()
    while table.get_type_name() == "Convert":
        table = table.input_value(0).get_node()
    shape = table.get_output_shape(0)
    return table.get_type_name() == "Constant" and len(shape) == 2 and shape[1] >= _TABLE_WIDTH


def tables(data: Mapping[str, Any]) -> list[Table]:
    """Simulated latency beside seconds of compiling."""
    latency, seconds, notes = [], [], []
    gains = []
    folded = any("on" in row for row in data["rows"])
    for row in data["rows"]:
        off, peer = row["off"], row["peer"]
        on = row.get("on", {})
        cut = "" if row["layers"] == row["published"] else f" of {row['published']}"
        head = [row["model"], f"{row['layers']}{cut}", row["target"].removeprefix("intel-npu")]
        gain = ""
        if "us" in peer and off["us"]:
            gains.append(peer["us"] / off["us"])
            gain = f"{1 - off['us'] / peer['us']:+.1%}"
        if more_there := set(off.get("host", ())) - {"embedding"}:
            notes.append(f"{row['model']}: {', '.join(sorted(more_there))} is on the CPU in forgec's alone.")
        if "refused" in peer:
            notes.append(f"{row['model']}: OpenVINO says: {peer['refused']}")
        counts = [str(off["parts"] - 1), str(off["transitions"])]
        more = [_whole(on, "us"), str(on.get("dispatches", ""))] if folded else []
        latency.append([*head, _whole(off, "us"), _whole(peer, "us"), gain, *counts, *more])
        both = (off, peer, *([on] if folded else []))
        spent = [_seconds(x, key) for key in ("module", "seconds") for x in both]
        seconds.append(
            [*head, *spent, mib(off["code"]), *([mib(on["code"]) if on else ""] if folded else [])]
        )
    if gains:
        mean = math.exp(sum(map(math.log, gains)) / len(gains))
        lower = sum(gain > 1 for gain in gains)
        notes.append(f"Lower on {lower} of {len(gains)}, {1 - 1 / mean:.1%} in the geometric mean.")
    columns = ["model", ">layers", ">NPU"]
    tools = [">forgec", ">OpenVINO", *([">folded"] if folded else [])]
    return [
        Table(
            "Latency, simulated by Intel's compiler, us",
            [
                *columns,
                *tools[:2],
                ">less",
                ">islands",
                ">transitions",
                *([">folded", ">calls folded"] if folded else []),
            ],
            latency,
            notes,
        ),
        Table(
            "Seconds from the module, and of them compiling, measured",
            [
                *columns,
                *tools,
                *(f"{tool}, compiling" for tool in tools),
                ">code",
                *([">code folded"] if folded else []),
            ],
            seconds,
        ),
    ]


def _seconds(found: Mapping[str, Any], key: str) -> str:
    return f"{found[key]:.1f}" if key in found else ""


def _whole(found: Mapping[str, Any], key: str) -> str:
    return f"{found[key]:,.0f}" if key in found else "refused" if "refused" in found else ""
