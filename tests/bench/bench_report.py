"""A minimal report of a compile."""

from forgec.report.report import (
    CaptureReport,
    CostReport,
    GraphReport,
    MemoryReport,
    Phase,
    PlacementReport,
    Report,
    RssReport,
)


def sample() -> Report:
    return Report(
        model="m",
        target="cpu",
        options={},
        phases=[Phase("capture", 300.0), Phase("passes", 200.0)],
        capture=CaptureReport("full", [], None),
        passes=[],
        graph=GraphReport(4, 3, 3, 0),
        placement=PlacementReport({"cpu": 3}, [], 0, 0, {"cpu": 1.0}),
        memory=MemoryReport(3, 2, 1 / 3, 64, 64, 128, 64, 1),
        fidelity=None,
        cost=CostReport(2.0, 1.0, 2.0, "estimated", "default"),
        cei=[],
        rss=RssReport(0, 0, 64, "not measured"),
        versions={},
    )
