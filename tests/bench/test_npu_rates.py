"""Cost models fitted to a simulator: what the chains are, and that a known model is found again."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from forgec.backends.base import DEFAULTS, Answer, Constants, No, Settings, Yes
from forgec.backends.null import NullBackend
from forgec.backends.prediction import Prediction

from bench import npu_rates
from forgec import backends
from forgec.errors import BackendError
from forgec.ir.program import Instr, Program
from forgec.ir.verifier import verify
from forgec.plan.cost import FAMILIES, CostModel, Rates, family

BASE = CostModel.load()
TRUE = CostModel(
    {**dict.fromkeys(FAMILIES, Rates(2e4, 1e4, 2.0)), "matrix": Rates(3e6, 2e4, 1.0)},
    *(BASE.transfer, "m", "d", "simulated"),
    on_chip=True,
)
START_US = 50.0
"""What a segment costs however long it is."""


class Simulator(NullBackend):
    """Its compiler simulates by ``TRUE``; softmax is free, conv refused, tanh more than it can compile."""

    def answers(self, instrs: Sequence[Instr]) -> list[Answer]:
        return [No("op", "no", "none") if i.op == "conv" else Yes() for i in instrs]

    def compile_all(
        self, segments: Sequence[Program], constants: Constants, settings: Settings = DEFAULTS
    ) -> list[bytes]:
        codes = []
        for segment in segments:
            body = segment.main.body
            if body[0].op == "tanh":
                raise BackendError("too much")
            for constant in segment.constants.values():
                assert constants(constant).shape == constant.type.shape
            free = {"softmax", "add" if body[0].op == "embedding" else ""}
            us = START_US + sum(TRUE.instr_cost(i) for i in body if i.op not in free)
            codes.append(struct.pack("d", us))
        return codes

    def prediction(self, code: bytes) -> Prediction:
        return Prediction(struct.unpack("d", code)[0], "m")


def test_chains_are_programs_that_end_as_they_begin() -> None:
    found = list(npu_rates.chains())
    assert {family(link.op) for chain in found for link in chain.links} == set(FAMILIES)
    for chain in found:
        program = npu_rates.segment(chain, 2)
        verify(program)
        main = program.main
        assert main.results[0].type == chain.type
        assert [i.op for i in main.body if i.op != "add"] == 2 * [k.op for k in chain.links if k.op != "add"]
        weights = [t for link in chain.links for t in link.weights if t is not None]
        assert len(program.constants) == 2 * len(weights)


@pytest.mark.slow
def test_the_models_rates_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "get", lambda name: Simulator(pretend=True))
    chosen = [c for c in npu_rates.chains() if c.type.numel < 200_000]
    monkeypatch.setattr(npu_rates, "chains", lambda: iter(chosen))
    said: list[str] = []
    data = npu_rates.measure("null", every=1, jobs=1, say=said.append)
    model = CostModel.from_json(data["calibration"])
    assert model.on_chip and model.method == "simulated" and data["free"] == ["softmax"]
    refused = [line for line in said if line.endswith("refused")]
    assert len(refused) == sum(c.links[0].op in ("conv", "tanh") for c in chosen)
    assert max(error["max"] for error in data["errors"].values()) < 0.01
    assert model.of("convolution") == model.of("pointwise")  # without samples
    (table,) = npu_rates.tables(data)
    assert "simulated" in table.title and "softmax" in table.notes[-1]
