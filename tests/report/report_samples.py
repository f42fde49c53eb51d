"""A report with something in every part."""

from typing import Any

from forgec.report.report import (
    BlockReport,
    CaptureReport,
    Cei,
    CostReport,
    Fallback,
    Fidelity,
    GraphReport,
    MemoryReport,
    PassReport,
    Phase,
    PlacementReport,
    PredictionReport,
    RepeatReport,
    Report,
    RssReport,
    Verdict,
)

MIB = 1 << 20


def sample(**changes: Any) -> Report:
    """The report, with other values for some fields."""
    fields: dict[str, Any] = {
        "model": "bert-base",
        "target": "npu",
        "options": {"fusion": 1.0, "passes": ["-cse"], "strict": False},
        "phases": [Phase("capture", 600.0), Phase("passes", 300.0), Phase("lowering", 100.0)],
        "capture": CaptureReport("blocks", [BlockReport("BertLayer", 12, 31)], None),
        "passes": [
            PassReport("dead_code", 1, 3.0, 4, 403, 399, 8 * MIB, 7 * MIB),
            PassReport("attention", 1, 12.5, 12, 399, 351, 7 * MIB, 5 * MIB),
            PassReport("dead_code", 2, 2.0, 0, 351, 351, 5 * MIB, 5 * MIB),
        ],
        "graph": GraphReport(403, 333, 333, 24),
        "placement": PlacementReport(
            {"cpu": 2, "npu": 331},
            [
                Fallback(
                    "gather", 2, "cpu", "op", "the device has no gather", "aten.gather, m.py:41", "use int32"
                )
            ],
            4,
            9,
            {"cpu": 1.0e6, "npu": 1.1e10},
        ),
        "memory": MemoryReport(
            333,
            218,
            1 - 218 / 333,
            22 * MIB,
            20 * MIB,
            60 * MIB,
            418 * MIB,
            199,
            {"bf16": 410 * MIB, "f32": 8 * MIB},
        ),
        "fidelity": Fidelity(3.1e-6, 2e-12, 1.0, 118.2, "eager PyTorch", "example", 2.1e-5, 8.4e-9, True),
        "cost": CostReport(9800.0, 8000.0, 1.225, "estimated", "default coefficients"),
        "cei": [Cei("openvino", 1.2, 1.5, 0.8, "measured")],
        "rss": RssReport(600 * MIB, 1100 * MIB, 418 * MIB, "high-water mark"),
        "versions": {"forgec": "0.1.0", "torch": "2.13.0"},
        "warnings": ["the weights hold NaN"],
        "predictions": [
            PredictionReport(
                *(
                    1,
                    "npu",
                    1130.0,
                    "simulated",
                    "the vendor's compiler",
                    30 * MIB,
                    2 * MIB,
                    None,
                    22 * MIB,
                    13,
                ),
                ["rms"],
                [],
                [
                    RepeatReport(
                        "6 instructions", 12, True, "asked for", 1130.0, 1000.0, MIB, 22 * MIB, 0.8, 9.0
                    )
                ],
            )
        ],
        "verdict": Verdict("npu", "7.1 x as fast: 1.13 ms simulated on npu", 1130.0, 8000.0, 1130.0),
    }
    return Report(**{**fields, **changes})
