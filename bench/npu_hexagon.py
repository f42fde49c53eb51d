"""Hexagon, simulated: forgec against ONNX Runtime's QNN provider, which has the same compiler under it.

The peer is ``torch.onnx.export(dynamo=True)`` of the same module on the same inputs, in f16 and in f32 (which
HTP computes in f16 too); whichever takes fewer simulated cycles counts. Both sides look embeddings up on the
NPU, give all outputs, run all on the NPU that it takes, and have finalisation mode 3. Every compile is a
process of its own with an empty cache, one after the other, the two sides in turn. Cycles are those of the
vendor's performance model for a chip of that architecture, partitions added up; the time on the CPU between
partitions is not in them. Where forgec's own placement differs from that, at the costs that it ships, is in a
column of its own.

Folding is measured on one model at several depths, each in two scopes: from the ids of words, where forgec
folded leaves look-ups to the host, and from rows that are looked up already, which is the same work on both
sides. No side makes a prediction in these; a compile with predictions, not timed, gives the cycles.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from .round_robin import Say
from .session import model_label
from .tables import Table, mib, ratio

__all__ = ["DEPTHS", "FOLDED", "LAYERS", "MODELS", "NAME", "SCOPES", "TARGETS", "TITLE", "measure", "tables"]

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
FOLDED = "bert-base"
"""The preset that is compiled whole and folded too, at these numbers of layers."""
DEPTHS = (12, 24)
SCOPES = ("ids", "rows")
"""What it is compiled from: ids of words, or rows looked up already."""

_WHOLE = ("minilm",)
"""Presets small enough for their full depth."""
_DTYPES = ("float16", "float32")
_LIMIT_S = 1500


def measure(
    models: Sequence[str],
    targets: Sequence[str],
    *,
    layers: int | None,
    depths: Sequence[int],
    scopes: Sequence[str],
    say: Say,
) -> Mapping[str, Any]:
    """A row for every model and target; :data:`FOLDED` folded at each of ``depths``, from each of ``scopes``,
    for the first target."""
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
    deep = [_folded(depth, scope == SCOPES[True], targets[0], say) for depth in depths for scope in scopes]
    return {"rows": rows, "folded": deep}


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


def _export(model: str, layers: int | None, folder: Path, looked_up: bool = False) -> dict[str, Any]:
    folder.mkdir()
    found = _task(
        "export", model=model, layers=layers, to=str(folder), dtype=folder.name, looked_up=looked_up
    )
    return found if "refused" in found else {**found, "folder": str(folder)}


def _peer(exported: Mapping[str, Any], soc: int, predict: bool = True) -> dict[str, Any]:
    if "refused" in exported:
        return dict(exported)
    source = Path(exported["folder"])
    with tempfile.TemporaryDirectory(prefix="forgec-bench-") as folder:
        found = _task("peer", Path(folder), model=str(source / "model.onnx"), soc=soc, predict=predict)
    exporting = {key: exported[key] for key in ("seconds", "cpu")}
    return found if "refused" in found else {**found, "export": exporting}


def _folded(layers: int, looked_up: bool, target: str, say: Say) -> dict[str, Any]:
    """Compiles of the whole and of folded code, of that again with other weights, and of the peer; where the
    work is the same on both sides, cycles by further compiles."""
    from forgec.backends.qnn.socs import CHIPS

    given: dict[str, Any] = {"model": FOLDED, "target": target, "layers": layers, "looked_up": looked_up}
    row: dict[str, Any] = {"model": model_label(FOLDED, layers), "target": target, "looked_up": looked_up}
    with tempfile.TemporaryDirectory(prefix="forgec-bench-") as folder:
        exported = _export(FOLDED, layers, Path(folder) / "float16", looked_up)
        row["off"] = _task("own", **given, fold="off", predict=False)
        row["peer"] = _peer(exported, CHIPS[target].soc, predict=False)
        row["on"] = _task("own", **given, fold="on", predict=False, seeds=2)
        if looked_up:
            predicted = {fold: _task("own", **given, fold=fold) for fold in ("off", "on")}
            row["cycles"] = {fold: _own({"own": found}) for fold, found in predicted.items()}
            row["cycles"]["peer"] = _peer(exported, CHIPS[target].proxy)
    say(f"{row['model']} on {target}: folded")
    return row


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
    return [
        _cycles(pairs),
        _where(pairs),
        _bytes(pairs),
        _seconds(pairs),
        _folding_seconds(data["folded"]),
        _folding_cycles(data["folded"]),
    ]


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
    """Where both sides run: forgec with all on the NPU that it takes, and as it places by default."""
    rows = []
    for row, own, peer in pairs:
        sides = (own, own.get("by_default", {}), peer)
        counts = [
            f"{x['partitions']}/{x['islands']}/{x['transitions']}" if "islands" in x else "" for x in sides
        ]
        rows.append([row["model"], row["target"], *counts, *(_listed(x.get("operators", ())) for x in sides)])
    names = ("forgec", "by default", "ORT QNN")
    columns = [*names, *(f"on the CPU, {name}" for name in names)]
    return Table("NPU parts/CPU parts/transitions, counted", ["model", "target", *columns], rows)


def _bytes(pairs: _Pairs) -> Table:
    rows = [
        [
            *(row["model"], row["target"]),
            *(mib(x[key]) if key in x else "" for key in ("ddr", "spill", "code") for x in both),
        ]
        for row, *both in pairs
    ]
    columns = [f"{name}{side}" for name in (">DDR", ">spill and fill", ">code") for side in ("", ", ORT")]
    return Table("Bytes to and from memory (simulated), size of code", ["model", "target", *columns], rows)


def _listed(operators: Sequence[str]) -> str:
    return ", ".join(f"{count} {op}" for op, count in Counter(operators).items())


def _seconds(pairs: _Pairs) -> Table:
    rows = []
    for row, own, peer in pairs:
        if "cpu" not in own or "cpu" not in peer:
            continue
        build, estimate = (own["vendor"][key]["cpu"] for key in ("build", "estimate"))
        code = own["cpu"] - estimate
        theirs = peer["export"]["cpu"] + peer["cpu"]
        spent = (code - build, build, code, estimate, peer["export"]["cpu"], peer["cpu"], theirs)
        rows.append(
            [
                *(row["model"], row["target"]),
                *(f"{x:.1f}" for x in spent),
                *(ratio(theirs / x) for x in (code, own["cpu"])),
            ]
        )
    notes = [
        "forgec compiles for the target, and again for the chip that has a performance model; ONNX Runtime "
        "compiles for that one only, which gives code and prediction."
    ]
    return Table(
        "Compiling from the module, processor seconds, measured, one run each",
        [
            *("model", "target", ">before the vendor's compiler", ">vendor's compiler", ">code"),
            *(">prediction", ">export", ">ORT QNN", ">total, ORT"),
            *(">ORT / forgec, code", ">ORT / forgec, code and prediction"),
        ],
        rows,
        notes if rows else [],
    )


def _folding_seconds(found: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for row in found:
        ways = _ways(row)
        theirs = _spent(ways["ORT QNN"])
        for label, way in ways.items():
            spent = _spent(way)
            head = [row["model"], SCOPES[row["looked_up"]], label]
            if not spent:
                rows.append([*head, *[""] * 7, way["refused"]])
                continue
            keys = ("before", "vendor", "total")
            shares = [ratio(theirs[key] / spent[key]) if theirs and spent[key] else "" for key in keys[1:]]
            rows.append(
                [
                    *head,
                    *(f"{spent[key]:.2f}" for key in keys),
                    f"{spent['seconds']:.1f}",
                    mib(way["code"]),
                    *([""] * 2 if label == "ORT QNN" else shares),
                    "",
                ]
            )
    return Table(
        "Folding, without predictions, processor seconds, measured, one run each",
        [
            *("model", "from", "compiled", ">before the vendor's compiler", ">vendor's compiler", ">total"),
            *(">seconds", ">code", ">ORT / forgec, compiler", ">ORT / forgec, total", "refused"),
        ],
        rows,
    )


def _ways(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The compiles of one model, by what they are."""
    off, on = row["off"], row["on"]
    return {
        "whole": off if "refused" in off else off[0],
        **({"folded": on} if "refused" in on else {"folded": on[0], "folded, other weights": on[1]}),
        "ORT QNN": row["peer"],
    }


def _spent(way: Mapping[str, Any]) -> dict[str, float]:
    """Processor seconds "before" the vendor's compiler (the peer's export), in it, in "total", and seconds of
    the wall; empty if there was no compile."""
    if "refused" in way:
        return {}
    if "export" in way:
        before, vendor = way["export"]["cpu"], way["cpu"]
        return {
            "before": before,
            "vendor": vendor,
            "total": before + vendor,
            "seconds": way["export"]["seconds"] + way["seconds"],
        }
    vendor = sum(x["cpu"] for x in way["vendor"].values())
    return {
        "before": way["cpu"] - vendor,
        "vendor": vendor,
        "total": way["cpu"],
        "seconds": way["seconds"],
    }


def _folding_cycles(found: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for row in (row for row in found if "cycles" in row):
        off, on, peer = (row["cycles"][key] for key in ("off", "on", "peer"))
        blocks = on.get("repeats", ())
        folded, whole = (sum(x[key] or 0 for x in blocks) for key in ("folded_us", "unfolded_us"))
        both = off.get("cycles") and on.get("cycles")
        rows.append(
            [
                row["model"],
                *(f"{x['cycles']:,}" if x.get("cycles") else "refused" for x in (off, on)),
                ratio(on["cycles"] / off["cycles"]) if both else "",
                f"{peer['cycles']:,}" if peer.get("cycles") else "refused",
                *(f"{us:,.0f}" if us else "" for us in (whole, folded)),
                ratio(folded / whole) if whole else "",
            ]
        )
    return Table(
        "What folding costs, simulated, from rows: cycles, and us of all blocks together as reported",
        [
            *("model", ">whole", ">folded", ">folded / whole", ">ORT QNN"),
            *(">blocks whole, us", ">blocks folded, us", ">price"),
        ],
        rows,
    )
