"""A bound program allocates nothing when it runs: counted in the C library's allocator, all threads included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

PROGRAM = """
import ctypes, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from native_runs import instruction, packed_operands_of, team
from forgec.backends.cpu.native.binding import NativeStep

count = ctypes.CDLL(None).malloc_count
count.restype = ctypes.c_long
rng = np.random.default_rng(0)
x, w = (rng.standard_normal(s).astype(np.float32) for s in ((64, 96), (96, 96)))
q = rng.standard_normal((1, 2, 64, 48)).astype(np.float32)
outs = [np.empty_like(x), np.empty_like(x), np.empty_like(q), np.empty((96, 64), np.float32)]
step = NativeStep(team(2))
linear = instruction("linear", [x, w, None, None], {"act": "gelu"}, (1,))
assert step.add(linear, [x, w, None, None], [outs[0]], packed_operands_of(linear, [x, w])) is None
for op, operands, attrs, out in (
    ("softmax", [outs[0]], {}, outs[1]),
    ("add", [outs[0], outs[1]], {}, outs[1]),
    ("attention", [q, q, q, None], {"scale": 0.1, "causal": True}, outs[2]),
    ("copy", [x.T], {}, outs[3]),
):
    assert step.add(instruction(op, operands, attrs), operands, [out], {}) is None
for _ in range(3):
    step()
count(1)
for _ in range(100):
    step()
calls = count(0)
count(1)
made = [bytearray(100_000) for _ in range(10)]
assert count(0) - calls >= 10, "the counter does not count"
print(calls)
"""


def test_no_allocation_after_the_first_run(tmp_path: Path) -> None:
    library = tmp_path / "count_malloc.so"
    subprocess.run(
        ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / "count_malloc.c")], check=True
    )
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(HERE)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) == 0
