"""Files with programs for several targets: which of them a load gives."""

from __future__ import annotations

import numpy as np
import pytest
from executable_toy import example, toy

from forgec import backends
from forgec.errors import ArtifactError, TargetError
from forgec.executable import Info, Programs, load


@pytest.fixture
def file(tmp_path):
    """Both programs run on the CPU here; what tells them apart is their weights."""
    path = tmp_path / "toy.forge"
    first = toy()
    first.shared.info = Info("toy", "intel-npu4000")
    Programs({"intel-npu4000": first, "cpu": toy()}).save(path)
    return path


def test_the_cpu_where_there_is_no_other_device(file, monkeypatch) -> None:
    monkeypatch.setattr(backends, "present", lambda: ())
    assert load(file).info.target == "cpu"
    monkeypatch.setattr(backends, "present", lambda: ("hexagon-v73",))
    assert load(file).info.target == "cpu"


def test_the_device_that_is_there(file, monkeypatch) -> None:
    monkeypatch.setattr(backends, "present", lambda: ("hexagon-v73", "intel-npu4000"))
    exe = load(file)
    assert exe.info.target == "intel-npu4000"
    for got, want in zip(exe.run_flat(example()), toy().run_flat(example()), strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_one_that_is_asked_for(file, tmp_path) -> None:
    assert load(file, target="lunar-lake").info.target == "intel-npu4000"
    assert load(file, target="cpu").info.target == "cpu"
    with pytest.raises(
        ArtifactError, match="no program for hexagon-v73 in the file, but for cpu, intel-npu4000"
    ):
        load(file, target="hexagon-v73")
    with pytest.raises(TargetError, match="abacus"):
        load(file, target="abacus")
    toy().save(tmp_path / "one.forge")
    assert load(tmp_path / "one.forge", target="cpu").info.target == "cpu"


def test_the_first_where_none_fits(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(backends, "present", lambda: ())
    Programs({"hexagon-v75": toy(), "hexagon-v73": toy()}).save(tmp_path / "a.forge")
    assert load(tmp_path / "a.forge").info.target == "hexagon-v75"


def test_auto_is_the_device_that_is_there(monkeypatch) -> None:
    monkeypatch.setattr(backends, "present", lambda: ())
    assert backends.resolve("auto") == "cpu"
    monkeypatch.setattr(backends, "present", lambda: ("intel-npu5010",))
    assert backends.resolve("AUTO") == "intel-npu5010"
