"""Compiling holds a small part of the weights beside the model's own, and saving no more."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import json, sys
import forgec
from forgec import models
from forgec.report import rss

model = models.load(sys.argv[1], layers=int(sys.argv[2]))
example = model.example_inputs(16)
forgec.compile(models.load(sys.argv[1] + "-tiny"))  # imports and caches
exe = forgec.compile(model.module, *example)
with rss.measure() as saving:
    exe.save(sys.argv[3])
report = exe.report.rss
print(json.dumps({
    "model": report.model_bytes,
    "compile": report.peak_bytes - report.before_bytes,
    "save": saving.peak_bytes - saving.before_bytes,
}))
"""

SLACK = 128 * 2**20
"""Bytes for the trace, the arena, the allocator and a few copies of the logits (10 MB each for Qwen2), and for
the weights that the check has at a time."""


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "layers"), [("gpt2", 2), ("qwen2-0.5b", 8)])
def test_peak_memory(spec, layers, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, spec, str(layers), str(tmp_path / "model.forge")],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["compile"] <= SLACK < found["model"], found
    assert found["save"] <= found["model"] + SLACK, found
