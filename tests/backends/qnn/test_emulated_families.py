"""Every family's test-sized preset in the vendor's emulator against eager PyTorch, on inputs with padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from forgec.backends.qnn.container import is_folded
from worth_a_device import costs_file

import forgec
from forgec import models

PRESETS = (
    "bert-base-tiny",
    "gpt2-tiny",
    "granite-350m-tiny",
    "lfm2-2.6b-tiny",
    "llama-3.2-1b-tiny",
    "qwen2-0.5b-tiny",
    "t5-small.decoder-tiny",
    "t5-small.encoder-tiny",
    "vit-base-tiny",
    "whisper-tiny.decoder-tiny",
    "whisper-tiny.encoder-tiny",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_outputs_are_those_of_eager(name: str, tmp_path: Path) -> None:
    loaded = models.load(name)
    executable = forgec.compile(
        loaded.module,
        (),
        loaded.example_inputs()[1],
        target="hexagon-v73",
        check=False,
        predict=False,
        costs=costs_file(tmp_path),
    )
    devices = [instr.device for instr in executable.plan.program.main.body]
    assert devices.count("hexagon-v73") > len(devices) / 2
    inputs = loaded.example_inputs(seed=1)[1]
    with torch.no_grad():
        expected = loaded.module(**inputs)
    found = executable(**inputs)
    compared = 0
    for key, theirs in expected.items():
        if not isinstance(theirs, torch.Tensor) or key not in found:
            continue
        mask = inputs.get("attention_mask")
        ours, theirs = np.asarray(found[key], np.float64), theirs.double().numpy()
        if mask is not None and theirs.ndim == 3:  # rows of padding may be anything
            ours, theirs = ours[mask.bool().numpy()], theirs[mask.bool().numpy()]
        cosine = (ours * theirs).sum() / np.linalg.norm(ours) / np.linalg.norm(theirs)
        assert cosine >= 0.999, f"{key}: cosine {cosine:.5f}, seed 1"
        assert np.abs(ours - theirs).max() <= 1e-2 * np.abs(theirs).max(), f"{key}, seed 1"
        compared += 1
    assert compared


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert-base-tiny", "gpt2-tiny", "llama-3.2-1b-tiny"])
def test_folded_bytes_are_as_near_as_on_the_cpu(name: str, tmp_path: Path) -> None:
    """int8 with its codes as inputs, against the CPU runtime with the same codes."""
    loaded = models.load(name)
    options = {"weights": "int8", "check": False, "predict": False, "costs": costs_file(tmp_path)}
    example, inputs = (loaded.example_inputs(seed=seed)[1] for seed in (0, 1))
    theirs, ours = (
        forgec.compile(loaded.module, (), example, target=target, fold=fold, **options)
        for target, fold in (("cpu", "off"), ("hexagon-v73", "on"))
    )
    shared = ours.shared
    codes = [shared.code(i) for i, s in enumerate(shared.plan.segments) if s.device == "hexagon-v73"]
    assert any(map(is_folded, codes))
    key = next(iter(theirs(**inputs)))
    want, got = (np.asarray(each(**inputs)[key], np.float64) for each in (theirs, ours))
    mask = inputs.get("attention_mask")
    if mask is not None:
        want, got = want[mask.bool().numpy()], got[mask.bool().numpy()]
    assert np.abs(got - want).max() <= 1e-2 * np.abs(want).max(), "seed 1"
