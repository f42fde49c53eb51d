"""Every test runs for each instruction set of the machine, and on one and two threads where that matters.

Without the slow tests: the portable set, the best one, and the best of 256 bits, which laptops have; all of them
if the environment has ``EVERY_ISA``.
"""

from __future__ import annotations

import os

import pytest
from forgec.backends.cpu import native

REASON = native.available()
ISAS = native.isas() if REASON is None else ["portable"]
LAPTOP = [name for name in ISAS if name in ("portable", "avx2", "avxvnni")][-1]
QUICK = set(ISAS) if "EVERY_ISA" in os.environ else {"portable", LAPTOP, ISAS[-1]}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if REASON is not None:
        for item in items:
            if "native" in str(item.path):
                item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture(params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ISAS])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FORGEC_ISA", request.param)
    return str(request.param)
