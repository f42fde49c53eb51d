"""For all tests."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """What modules made lives as long as the session: collections of garbage need not look at it each time."""
    gc.collect()
    gc.freeze()
