"""Intel's NPUs, simulated: forgec's emission, folded and not, against OpenVINO's own conversion of the
module.

All three go to the same compiler with an empty cache, one after the other in one process each. The peer is
``openvino.convert_model`` of the module, made static, in f16, with the look-ups of embeddings taken out,
since forgec leaves those to the CPU and the compiler's model counts a look-up as the whole table. Latencies
are simulated by Intel's compiler, seconds measured; forgec's are those of its last phase, which emits,
compiles and reads the prediction, the peer's those of the compiler alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .round_robin import Say
from .tables import Table, mib, ratio

__all__ = ["MODELS", "NAME", "TARGETS", "TITLE", "empty_cache", "measure", "tables"]

NAME = "npu"
TITLE = "Intel's NPUs"
MODELS = ("minilm", "bert-base", "gpt2", "qwen2-0.5b")
TARGETS = ("intel-npu4000",)

_FOLDS = ("off", "on")
_TABLE_ROWS = 256
"""A look-up in a constant of at least so many rows is an embedding."""


def measure(
    models: Sequence[str], targets: Sequence[str], *, tokens: int, layers: int | None, say: Say
) -> Mapping[str, Any]:
    """One row per model and target."""
    from forgec import models as presets

    rows = []
    for name in models:
        loaded = presets.load(name, layers=layers)
        for target in targets:
            row: dict[str, Any] = {"model": name, "target": target}
            for fold in _FOLDS:
                with empty_cache():
                    row[fold] = _own(loaded, target, fold, tokens)
            with empty_cache():
                row["peer"] = _peer(loaded, target, tokens)
            say(f"{name} on {target}: {row['off']['us']:.0f} us, peer {row['peer'].get('us', 0):.0f} us")
            rows.append(row)
    return {"rows": rows}


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


def _own(loaded: Any, target: str, fold: str, tokens: int) -> dict[str, Any]:
    import forgec

    inputs = loaded.example_inputs(tokens=tokens)[1]
    executable = forgec.compile(loaded.module, (), inputs, target=target, fold=fold, check=False)
    report = executable.report
    assert report is not None
    return {
        "us": sum(p.latency_us for p in report.predictions),
        "seconds": next(p.ms for p in report.phases if p.name == "executable") / 1e3,
        "parts": len(report.predictions),
        "dispatches": sum(p.dispatches for p in report.predictions),
        "code": sum(p.code_bytes or 0 for p in report.predictions),
    }


def _peer(loaded: Any, target: str, tokens: int) -> dict[str, Any]:
    from forgec.backends.base import Settings
    from forgec.backends.openvino import toolchain
    from forgec.backends.openvino.compiler import Built, Model, build
    from forgec.backends.openvino.prediction import predict
    from forgec.backends.vendor.cache import Cache

    tools = toolchain.find()
    if tools is None:
        raise RuntimeError("Intel's compiler is missing: forgec toolchain install intel-npu")
    platform = target.removeprefix("intel-npu")
    try:
        model = _converted(loaded, loaded.example_inputs(tokens=tokens)[1])
    except Exception as error:  # whatever the peer raises is its answer
        return {"refused": str(error).strip().splitlines()[-1]}
    (built,) = build([Model.of(model, "peer")], platform, tools, Settings(), Cache(), {})
    if not isinstance(built, Built):
        return {"refused": built.reason}
    found = predict(built, platform, {})
    return {"us": found.latency_us if found else 0.0, "seconds": built.seconds, "code": len(built.blob)}


def _converted(loaded: Any, inputs: Mapping[str, Any]) -> Any:
    """OpenVINO's conversion of a module, static, f16, on looked-up embeddings."""
    import openvino as ov
    import torch
    from openvino import opset15 as opset
    from openvino._offline_transformations import compress_model_transformation

    class Positional(torch.nn.Module):
        def forward(self, *values: Any) -> Any:
            out = loaded.module(**dict(zip(inputs, values, strict=True)), return_dict=True)
            return tuple(value for value in out.values() if isinstance(value, torch.Tensor))

    with torch.no_grad():
        model = ov.convert_model(Positional(), example_input=tuple(inputs.values()))
    shapes = (ov.PartialShape(list(value.shape)) for value in inputs.values())
    model.reshape(dict(zip(model.inputs, shapes, strict=True)))
    looked_up = [node for node in model.get_ordered_ops() if _is_embedding(node)]
    for node in looked_up:
        given = opset.parameter(node.get_output_shape(0), ov.Type.f32)
        node.output(0).replace(given.output(0))
        model.add_parameters([given])
    for parameter in model.get_parameters():
        if not parameter.output(0).get_target_inputs():
            model.remove_parameter(parameter)
    compress_model_transformation(model)
    return model


def _is_embedding(node: Any) -> bool:
    if node.get_type_name() != "Gather":
        return False
    table = node.input_value(0).get_node()
    while table.get_type_name() == "Convert":
        table = table.input_value(0).get_node()
    shape = table.get_output_shape(0)
    return table.get_type_name() == "Constant" and len(shape) == 2 and shape[0] >= _TABLE_ROWS


def tables(data: Mapping[str, Any]) -> list[Table]:
    """Simulated latency beside seconds of compiling."""
    latency, seconds = [], []
    for row in data["rows"]:
        off, on, peer = row["off"], row["on"], row["peer"]
        head = [row["model"], row["target"]]
        latency.append(
            [
                *head,
                *(_whole(x, "us") for x in (off, on, peer)),
                ratio(peer["us"] / off["us"]) if peer.get("us") and off["us"] else "",
                str(off["parts"]),
                str(on["dispatches"]),
            ]
        )
        seconds.append(
            [
                *head,
                *(f"{x['seconds']:.1f}" if "seconds" in x else "refused" for x in (off, on, peer)),
                *(ratio(peer["seconds"] / x["seconds"]) if "seconds" in peer else "" for x in (off, on)),
                *(mib(x["code"]) for x in (off, on)),
            ]
        )
    columns = ["model", "target", ">forgec", ">folded", ">OpenVINO"]
    return [
        Table(
            "Latency, simulated by Intel's compiler, us",
            [*columns, ">OpenVINO / forgec", ">parts", ">calls folded"],
            latency,
        ),
        Table(
            "Compiling, seconds, measured",
            [*columns, ">OpenVINO / forgec", ">OpenVINO / folded", ">code", ">code folded"],
            seconds,
        ),
    ]


def _whole(found: Mapping[str, Any], key: str) -> str:
    return f"{found[key]:,.0f}" if key in found else "refused"
