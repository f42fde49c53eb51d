"""Planning again when a vendor's compiler refuses an instruction: it always comes to an end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from forgec.backends.base import Answer, No, RejectedError, Yes
from forgec.backends.openvino.backend import OpenVinoBackend
from torch import nn

import forgec
from forgec.ir.program import Instr, Program
from forgec.plan.cost import CostModel

TARGET = "intel-npu4000"


class Compiler:
    """Refuses the first op of every segment; remembers it only if it is told to."""

    def __init__(self, learns: bool) -> None:
        self.learns = learns
        self.refused: set[str] = set()
        self.rounds = 0

    def answers(self, instrs: Sequence[Instr]) -> list[Answer]:
        return [No("test", "refused", "none") if i.op in self.refused else Yes(0.0) for i in instrs]

    def compile_all(self, segments: Sequence[Program], *_: object) -> list[bytes]:
        self.rounds += 1
        op = next(instr.op for instr in segments[0].main.body if instr.op != "copy")
        if self.learns:
            self.refused.add(op)
        raise RejectedError(f"{op} goes to the CPU")


@pytest.fixture
def compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    found = Compiler(request.param)
    monkeypatch.setattr(OpenVinoBackend, "available", lambda self: None)
    monkeypatch.setattr(OpenVinoBackend, "answers", lambda self, instrs: found.answers(instrs))
    monkeypatch.setattr(OpenVinoBackend, "compile_all", lambda self, *given: found.compile_all(*given))
    monkeypatch.setattr(CostModel, "transfer_cost", lambda self, nbytes: 0.0)
    return found


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.LayerNorm(12), nn.Softmax(-1)).eval()


@pytest.mark.parametrize("compiler", [True], indirect=True)
def test_what_is_refused_goes_to_the_cpu_one_by_one(compiler: Compiler) -> None:
    exe = forgec.compile(model(), (torch.randn(2, 6),), target=TARGET)
    assert exe.report is not None and set(exe.report.placement.counts) == {"cpu"}
    assert compiler.rounds == len(compiler.refused) >= 3
    assert {f.op for f in exe.report.placement.fallbacks} == compiler.refused


@pytest.mark.parametrize("compiler", [False], indirect=True)
def test_a_refusal_that_moves_nothing_is_the_error(compiler: Compiler) -> None:
    with pytest.raises(RejectedError, match="goes to the CPU"):
        forgec.compile(model(), (torch.randn(2, 6),), target=TARGET)
    assert compiler.rounds == 1
