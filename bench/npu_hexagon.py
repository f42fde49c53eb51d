"""Hexagon, simulated: forgec against ONNX Runtime's QNN provider, which has the same compiler under it.

The peer is ``torch.onnx.export(dynamo=True)`` of the same module on the same inputs, in f16 and in f32 (which
HTP computes in f16 too); whichever takes fewer simulated cycles counts. Both sides look embeddings up on the
NPU, give all outputs, and have finalisation mode 3. Every compile is a process of its own with an empty
cache, one after the other, the two sides in turn. Cycles are those of the vendor's performance model for a
chip of that architecture, partitions added up; the time on the CPU between partitions is not in them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from .round_robin import Say
from .session import model_label
from .tables import Table, mib, ratio

__all__ = ["FOLDED", "LAYERS", "MODELS", "NAME", "TARGETS", "TITLE", "measure", "tables"]

NAME = "npu-hexagon"
TITLE = "Qualcomm's Hexagon"
MODELS = (
    "minilm",
    "bert-base",
    "vit-base",
    "t5-small.encoder",
    "whisper-tiny.encoder",
    "gpt2",
    "qwen2-0.5b",
    "llama-3.2-1b",
    "t5-small.decoder",
    "whisper-tiny.decoder",
)
LAYERS = 2
TARGETS = ("hexagon-v73", "hexagon-v81")
FOLDED = ("bert-base",)
"""Presets that are also compiled at their full depth, whole and folded."""

_WHOLE = ("minilm",)
"""Presets small enough for their full depth."""
_DTYPES = ("float16", "float32")
_LIMIT_S = 900
_LARGE = 1 << 30
"""Bytes of an exported model in f32 from which the peer is measured in f16 alone."""


def measure(
    models: Sequence[str],
    targets: Sequence[str],
    *,
    layers: int | None,
    folded: Sequence[str],
    say: Say,
) -> Mapping[str, Any]:
    """A row for every model and target, and one for every preset in ``folded``."""
    from forgec.backends.qnn.socs import CHIPS

    rows = []
    for name in models:
        depth = layers or (None if name in _WHOLE else LAYERS)
        with tempfile.TemporaryDirectory(prefix="forgec-bench-") as folder:
            exported = {dtype: _export(name, depth, Path(folder) / dtype) for dtype in _DTYPES}
            for target in targets:
                row: dict[str, Any] = {"model": model_label(name, depth), "target": target}
                row["peers"] = {dtype: _peer(found, CHIPS[target].proxy) for dtype, found in exported.items()}
                row["own"] = _task("own", model=name, target=target, layers=depth)
                say(f"{row['model']} on {target}: {_said(row)}")
                rows.append(row)
    return {"rows": rows, "folded": [_folded(name, targets[0], say) for name in folded]}


def _said(row: Mapping[str, Any]) -> str:
    own, peer = _own(row), _best(row)
    return f"{own.get('cycles', own)} cycles, peer {peer.get('cycles', peer)}"


def _task(task: str, folder: Path | None = None, **arguments: Any) -> Any:
    """What a task gives, or ``{"refused": why}``; it starts in ``folder``, with an empty cache."""
    with tempfile.TemporaryDirectory(prefix="forgec-bench-") as empty:
        paths = [os.path.abspath(path) for path in sys.path]
        environment = {**os.environ, "FORGEC_CACHE": empty, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", f"{__package__}.hexagon_tasks", task, json.dumps(arguments)]
        try:
            done = subprocess.run(
                command,
                cwd=folder or empty,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            return {"refused": f"no end after {_LIMIT_S} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        return {"refused": f"exit code {done.returncode}: {said[-1][:200]}"}
    return json.loads(done.stdout.splitlines()[-1])


def _export(model: str, layers: int | None, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    found = _task("export", model=model, layers=layers, to=str(folder), dtype=folder.name)
    return {**found, "folder": str(folder)}


def _peer(exported: Mapping[str, Any], soc: int) -> dict[str, Any]:
    if "refused" in exported:
        return dict(exported)
    source = Path(exported["folder"])
    size = sum(path.stat().st_size for path in source.iterdir())
    if source.name == "float32" and size > _LARGE:
        return {"refused": f"not tried at {size >> 20} MiB"}
    with tempfile.TemporaryDirectory(prefix="forgec-bench-") as folder:
        found = _task("peer", Path(folder), model=str(source / "model.onnx"), soc=soc)
    return found if "refused" in found else {**found, "export": exported["seconds"]}


def _folded(name: str, target: str, say: Say) -> dict[str, Any]:
    """Seconds of the whole and of folded code, without predictions, and again with other weights."""
    found = {
        fold: _task("own", model=name, target=target, layers=None, fold=fold, predict=False, seeds=2)
        for fold in ("off", "on")
    }
    say(f"{name} on {target}: folded")
    return {"model": name, "target": target, **found}


def _own(row: Mapping[str, Any]) -> Mapping[str, Any]:
    found = row["own"]
    own: Mapping[str, Any] = found if "refused" in found else found[0]
    return own


def _best(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The peer's form with the fewest simulated cycles."""
    done = [found for found in row["peers"].values() if found.get("cycles")]
    refused: Mapping[str, Any] = next(iter(row["peers"].values()))
    return min(done, key=lambda found: found["cycles"]) if done else refused


def tables(data: Mapping[str, Any]) -> list[Table]:
    """Cycles, what runs where, seconds, and what folding gives."""
    pairs = [(row, _own(row), _best(row)) for row in data["rows"]]
    return [_cycles(pairs), _where(pairs), _seconds(pairs), _folding(data["folded"])]


_Pairs = Sequence[tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]]


def _cycles(pairs: _Pairs) -> Table:
    rows = []
    for row, own, peer in pairs:
        known = own.get("cycles") and peer.get("cycles")
        rows.append(
            [
                row["model"],
                row["target"],
                *(f"{x['cycles']:,}" if x.get("cycles") else "refused" for x in (own, peer)),
                f"{own['cycles'] / peer['cycles'] - 1:+.0%}" if known else "",
                *(f"{x['us']:,.0f}" if "us" in x else "" for x in (own, peer)),
                *(str(x.get("uncosted", "")) for x in (own, peer)),
            ]
        )
    both = [
        own["cycles"] / peer["cycles"] for _, own, peer in pairs if own.get("cycles") and peer.get("cycles")
    ]
    notes = [f"Geometric mean over the rows: {geometric_mean(both) - 1:+.0%}."] if both else []
    return Table(
        "Cycles, simulated by Qualcomm's performance model",
        [
            "model",
            "target",
            ">forgec",
            ">ORT QNN",
            ">difference",
            ">us",
            ">us, ORT",
            ">uncosted",
            ">uncosted, ORT",
        ],
        rows,
        notes,
    )


def _where(pairs: _Pairs) -> Table:
    rows = [
        [
            row["model"],
            row["target"],
            *(f"{x['partitions']}/{x['islands']}/{x['transitions']}" if "islands" in x else "" for x in both),
            *(mib(x["ddr"]) if "ddr" in x else "" for x in both),
            *(mib(x["spill"]) if "spill" in x else "" for x in both),
            *(mib(x["code"]) if "code" in x else "" for x in both),
        ]
        for row, *both in pairs
    ]
    columns = ["NPU parts/CPU islands/transitions", ">DDR", ">spill and fill", ">code"]
    names = [f"{name}{side}" for name in columns for side in ("", ", ORT")]
    return Table(
        "Parts, bytes to and from memory (simulated), size of code", ["model", "target", *names], rows
    )


def _seconds(pairs: _Pairs) -> Table:
    rows = []
    for row, own, peer in pairs:
        if "vendor" not in own or "export" not in peer:
            continue
        vendor, own_s = own["vendor"], own["seconds"] - sum(own["vendor"].values())
        total, theirs = own_s + vendor["build"], peer["export"] + peer["seconds"]
        rows.append(
            [
                row["model"],
                row["target"],
                *(f"{x:.1f}" for x in (own_s, vendor["build"], total, vendor["estimate"])),
                *(f"{x:.1f}" for x in (peer["export"], peer["seconds"], theirs)),
                ratio(theirs / total),
            ]
        )
    return Table(
        "Compiling from the module, seconds, measured, one run each",
        [
            *("model", "target", ">own", ">vendor", ">total", ">prediction, if asked for"),
            *(">export", ">ORT QNN", ">total, ORT", ">ORT / forgec"),
        ],
        rows,
    )


def _folding(found: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for row in found:
        for fold in ("off", "on"):
            if "refused" in row[fold]:
                rows.append([row["model"], row["target"], fold, row[fold]["refused"], *[""] * 4])
                continue
            cold, again = row[fold]
            rows.append(
                [
                    *(row["model"], row["target"], fold),
                    *(
                        f"{x:.1f}"
                        for run in (cold, again)
                        for x in (run["seconds"], sum(run["vendor"].values()))
                    ),
                    mib(cold["code"]),
                ]
            )
    return Table(
        "Folding, without predictions, seconds, measured",
        ["model", "target", "fold", ">cold", ">of it vendor", ">other weights", ">of it vendor ", ">code"],
        rows,
    )
