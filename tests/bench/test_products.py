"""The benchmark of compressed weights runs, and its tables hold together."""

from __future__ import annotations

from bench import convolutions, kernels, report


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


def test_convolutions_are_timed_beside_eager() -> None:
    said: list[str] = []
    layers = [
        convolutions.Layer("depthwise", (1, 4, 6, 6), 4, 3, padding=1, groups=4),
        convolutions.Layer("speech", (1, 4, 20), 8, 3, stride=2),
    ]
    data = convolutions.measure(layers, threads=1, rounds=2, say=said.append)
    assert len(said) == len(data["rows"]) == 2
    (table,) = convolutions.tables(data)
    assert [row[0] for row in table.rows] == ["depthwise", "speech"]
    assert report.BENCHMARKS["convolutions"] is convolutions
