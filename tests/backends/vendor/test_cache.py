"""The compile cache: content in, content out, whatever happens to the folder."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from forgec.backends.vendor.cache import Cache, folder, key_of


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new" / "folder")
    assert cache.get("k") is None
    cache.put("k", b"blob")
    assert cache.get("k") == b"blob" == Cache(tmp_path / "new" / "folder").get("k")


def test_keys_depend_on_every_part_and_on_where_it_ends() -> None:
    keys = {key_of("a", "b"), key_of("ab"), key_of("a", b"b", ""), key_of("b", "a"), key_of()}
    assert len(keys) == 5
    assert key_of("a", b"b") == key_of(b"a", "b")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_a_damaged_entry_counts_as_missing_and_goes(tmp_path: Path, damage: str) -> None:
    cache = Cache(tmp_path)
    cache.put("k", bytes(1000))
    whole = (tmp_path / "k").read_bytes()
    bad = {
        "truncated": whole[:-10],
        "flipped": whole[:500] + b"\1" + whole[501:],
        "empty": b"",
        "foreign": b"something else altogether",
    }[damage]
    (tmp_path / "k").write_bytes(bad)
    assert cache.get("k") is None
    assert not (tmp_path / "k").exists()


def test_the_least_recently_used_go_when_it_is_full(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=3500)
    for number, key in enumerate("abc"):
        cache.put(key, bytes(1000))
        os.utime(tmp_path / key, (number, number))
    assert cache.get("a") is not None  # used now
    cache.put("d", bytes(1000))
    assert cache.get("b") is None
    assert all(cache.get(key) is not None for key in "acd")


def test_a_folder_that_cannot_be_written_costs_no_compile(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file")
    cache.put("k", b"blob")
    assert cache.get("k") is None


def test_two_compiles_share_a_folder(tmp_path: Path) -> None:
    def work(number: int) -> None:
        cache = Cache(tmp_path, limit=40_000)
        for i in range(50):
            cache.put(f"k{i % 7}", bytes([i % 7]) * 5000)
            found = cache.get(f"k{(i + number) % 7}")
            assert found is None or found == bytes([(i + number) % 7]) * 5000

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    failures: list[object] = []
    threading.excepthook, before = failures.append, threading.excepthook
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    threading.excepthook = before
    assert not failures
    assert not list(tmp_path.glob("*.part"))


def test_the_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FORGEC_CACHE", str(tmp_path))
    assert folder() == tmp_path
    monkeypatch.delenv("FORGEC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder() == tmp_path / "forgec"
