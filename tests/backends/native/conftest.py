"""Every test runs for each instruction set of the machine, and on one and two threads where that matters."""

from __future__ import annotations

import pytest
from forgec.backends.cpu import native

REASON = native.available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if REASON is not None:
        for item in items:
            if "native" in str(item.path):
                item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture(params=native.isas() if REASON is None else ["portable"])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FORGEC_ISA", request.param)
    return str(request.param)
