"""The benchmark of compressed weights runs, and its tables hold together."""

from __future__ import annotations

from bench import kernels, report


def test_small_shapes() -> None:
    said: list[str] = []
    data = kernels.measure([(1, 64, 130), (9, 40, 64)], threads=1, rounds=2, cold=1 << 16, say=said.append)
    assert len(said) == 2 and len(data["rows"]) == 2 * len(kernels.FORMATS)
    assert {row["format"] for row in data["rows"]} == set(kernels.FORMATS)
    sizes = {row["format"]: row["bytes"] for row in data["rows"][: len(kernels.FORMATS)]}
    assert sizes["fp32"] > sizes["bf16"] > sizes["int8"] == sizes["w8a8"] > sizes["int4"]
    few, many = kernels.tables(data)
    assert len(few.rows) == len(many.rows) == len(kernels.FORMATS)
    assert few.rows[0][3] == "1.00 x"
    assert report.BENCHMARKS["kernels"] is kernels
