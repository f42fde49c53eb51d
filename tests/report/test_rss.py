"""Peak memory of a block, by the high-water mark and by sampling."""

import mmap
import time

import numpy as np
import pytest

from forgec.report import rss

MIB = 1 << 20


def fresh(nbytes: int) -> np.ndarray:
    """Written memory from the system, none that the process had before."""
    block = np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
    block[:] = 1
    return block


@pytest.mark.parametrize("way", ["high-water mark", "sampled"])
def test_a_peak_that_is_gone_at_the_end_is_seen(way, monkeypatch):
    if way == "sampled":
        monkeypatch.setattr(rss, "_reset_mark", lambda: False)
    with rss.measure() as found:
        block = fresh(96 * MIB)
        if way == "sampled":
            time.sleep(0.05)
        del block
    assert found.method.startswith(way) or "not allowed" in found.method
    assert 90 * MIB < found.peak_bytes - found.before_bytes < 160 * MIB


def test_a_peak_before_the_block_does_not_count():
    block = fresh(96 * MIB)
    del block
    with rss.measure() as found:
        pass
    assert found.peak_bytes - found.before_bytes < 32 * MIB


def test_measured_when_the_block_fails():
    with pytest.raises(ValueError, match="x"), rss.measure() as found:
        block = fresh(64 * MIB)
        del block
        time.sleep(0.01)
        raise ValueError("x")
    assert found.peak_bytes > found.before_bytes


def test_not_allowed_is_noticed(monkeypatch):
    def refuse(self, text):
        raise PermissionError

    monkeypatch.setattr(rss.Path, "write_text", refuse)
    with rss.measure() as found:
        pass
    assert found.method.startswith("sampled")
