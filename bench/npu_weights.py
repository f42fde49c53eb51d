"""Compressed weights on NPUs, simulated: a stack of Llama-like blocks in every format, as prefill and for one
token.

Blocks are 1024 wide with 16 query and 4 key heads and 2816 inside, on rows of hidden values, so that no
embedding and no head is in the figures; weights are random. Latency and bytes are the vendors' compilers'
own, seconds measured on the last phase of a compile with an empty cache. "error" is the largest difference
from eager PyTorch in f32 over the largest value, on the emulated device, where that was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .npu import empty_cache
from .round_robin import Say
from .tables import Table, mib

__all__ = ["FORMATS", "NAME", "TARGETS", "TITLE", "TOKENS", "measure", "tables"]

NAME = "npu-weights"
TITLE = "Compressed weights on NPUs"
FORMATS = ("fp32", "int8", "int4:channel", "int4:128", "int4:32")
TARGETS = ("intel-npu4000", "hexagon-v73", "hexagon-v81")
TOKENS = (128, 1)


def measure(
    targets: Sequence[str],
    formats: Sequence[str],
    *,
    tokens: Sequence[int],
    folds: Sequence[str],
    layers: int,
    errors: bool,
    say: Say,
) -> Mapping[str, Any]:
    """One row per target, number of tokens, fold and format."""
    import torch

    module = _stack(layers)
    rows = []
    for target in targets:
        for count in tokens:
            hidden = torch.randn(
                1, count, module.config.hidden_size, generator=torch.Generator().manual_seed(1)
            )
            for fold in folds:
                for weights in formats:
                    with empty_cache():
                        row = _compiled(module, hidden, target, fold, weights, errors)
                    rows.append(row)
                    say(f"{target}, {count} tokens, fold {fold}, {weights}: {row['us']:.0f} us")
    return {"layers": layers, "rows": rows}


def _stack(layers: int) -> Any:
    """Decoder blocks without embedding and head."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    class Stack(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = LlamaConfig(
                hidden_size=1024,
                intermediate_size=2816,
                num_hidden_layers=layers,
                num_attention_heads=16,
                num_key_value_heads=4,
                vocab_size=8,
                attn_implementation="sdpa",
                use_cache=False,
            )
            self.model = LlamaModel(self.config)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.model(inputs_embeds=hidden).last_hidden_state

    torch.manual_seed(0)
    return Stack().eval()


def _compiled(module: Any, hidden: Any, target: str, fold: str, weights: str, error: bool) -> dict[str, Any]:
    import torch

    import forgec

    exe = forgec.compile(module, (hidden,), target=target, fold=fold, weights=weights, check=False)
    report = exe.report
    assert report is not None
    row = {
        "target": target,
        "tokens": hidden.shape[1],
        "fold": fold,
        "weights": weights,
        "us": sum(p.latency_us for p in report.predictions),
        "ddr": sum(p.ddr_bytes or 0 for p in report.predictions),
        "code": sum(p.code_bytes or 0 for p in report.predictions),
        "dispatches": sum(p.dispatches for p in report.predictions),
        "uncosted": sum(len(p.uncosted) for p in report.predictions),
        "seconds": next(p.ms for p in report.phases if p.name == "executable") / 1e3,
    }
    if error:
        with torch.no_grad():
            want = module(hidden).numpy()
        row["error"] = float(np.abs(exe(hidden.numpy()) - want).max() / np.abs(want).max())
    return row


def tables(data: Mapping[str, Any]) -> list[Table]:
    """One table for each target and number of tokens."""
    cases: dict[tuple[str, int], list[list[str]]] = {}
    for row in data["rows"]:
        cases.setdefault((row["target"], row["tokens"]), []).append(
            [
                row["weights"],
                row["fold"],
                f"{row['us']:,.0f}",
                str(row["uncosted"]),
                mib(row["ddr"]),
                mib(row["code"]),
                str(row["dispatches"]),
                f"{row['seconds']:.1f}",
                f"{row['error']:.1e}" if "error" in row else "",
            ]
        )
    columns = ["weights", "fold", ">us", ">uncosted", ">DDR", ">code", ">calls", ">compile s", ">error"]
    return [
        Table(f"{target}, {tokens} tokens, {data['layers']} blocks, simulated", columns, rows)
        for (target, tokens), rows in cases.items()
    ]
