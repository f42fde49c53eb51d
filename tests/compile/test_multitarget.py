"""compile_targets: one program for each target, in one file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import forgec
from forgec import backends
from forgec.errors import OptionError, TargetError


def model() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 512)).eval(), torch.randn(128, 512)


@pytest.mark.parametrize("targets", [[], ["cpu", "CPU"], ["cpu", "intel-npu4000", "lunar-lake"]])
def test_targets_that_are_none_or_twice(targets) -> None:
    with pytest.raises(OptionError, match="target"):
        forgec.compile_targets(model()[0], (model()[1],), targets=targets)


def test_an_unknown_target_is_named_before_anything_is_compiled() -> None:
    with pytest.raises(TargetError, match="abacus"):
        forgec.compile_targets(nn.Identity(), targets=["cpu", "abacus"])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["intel-npu4000", "hexagon-v73"])
def test_an_npu_and_the_cpu_in_one_file(target, tmp_path) -> None:
    missing = backends.get(target).available()
    if missing is not None:
        pytest.skip(f"{target} cannot be compiled for here: {missing}")
    module, x = model()
    programs = forgec.compile_targets(module, (x,), targets=[target, "cpu"])
    assert list(programs) == [target, "cpu"]
    programs.save(tmp_path / "both.forge")
    with torch.no_grad():
        want = module(x).numpy()
    for name, bound in ((target, 1e-2), ("cpu", 2e-5)):
        exe = forgec.load(tmp_path / "both.forge", target=name)
        assert name in {segment.device for segment in exe.plan.segments}
        np.testing.assert_allclose(exe(x), want, atol=bound)
