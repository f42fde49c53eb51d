"""Weights in memory of the process instead of on the map."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
from executable_toy import example, toy

from forgec.errors import ArtifactError
from forgec.executable import load_programs, pages, stored
from forgec.executable.archive import WEIGHTS
from forgec.executable.reader import Archive


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "toy.forge"
    toy().save(path)
    return path


def test_the_same_arrays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_PART", 100)
    mapped = Archive(path).tensors(WEIGHTS)
    with Archive(path).checking(WEIGHTS, held=True) as tensors:
        held = tensors()
    assert mapped and mapped.keys() == held.keys()
    for name, array in mapped.items():
        np.testing.assert_array_equal(held[name], array)
        assert not held[name].flags.writeable and held[name].ctypes.data % 64 == array.ctypes.data % 64


def test_a_file_may_change_after_it(path: Path) -> None:
    programs = load_programs(path, hold_weights=True)
    path.write_bytes(b"")
    np.testing.assert_array_equal(programs.main(*example())["logits"], toy()(*example())["logits"])


def test_only_where_memory_is_plenty(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(stored, "worth_holding", lambda nbytes: bool(asked.append(nbytes)))
    monkeypatch.setattr("forgec.executable.reader.read", lambda *_: pytest.fail("the file is read"))
    programs = load_programs(path, hold_weights=True)
    assert asked == [Archive(path).manifest.members[WEIGHTS].size]
    np.testing.assert_array_equal(programs.main(*example())["logits"], toy()(*example())["logits"])
    assert pages.worth_holding(1) and not pages.worth_holding(1 << 60)


def test_a_map_in_large_pages_is_not_copied(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forgec.executable.reader.has_large_pages", lambda *_: True)
    monkeypatch.setattr("forgec.executable.reader.read", lambda *_: pytest.fail("the file is read"))
    programs = load_programs(path, hold_weights=True)
    np.testing.assert_array_equal(programs.main(*example())["logits"], toy()(*example())["logits"])


@pytest.mark.parametrize(("kib", "enough"), [(7372, False), (7373, True)])
def test_how_much_is_in_large_pages(
    kib: int, enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(9 << 20))
    with file.open("rb") as opened:
        memory = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    address = np.frombuffer(memory, np.uint8).ctypes.data
    smaps = tmp_path / "smaps"
    smaps.write_text(
        f"{address - 4096:x}-{address:x} r--p 00000000 00:00 0\nFilePmdMapped:     9999 kB\n"
        f"{address:x}-{address + (9 << 20):x} r--s 00000000 fe:00 1  {file}\n"
        f"Rss:               9216 kB\nFilePmdMapped:     {kib} kB\nVmFlags: rd mr\n"
        f"{address + (9 << 20):x}-{address + (10 << 20):x} r--p 00000000 00:00 0\nFilePmdMapped:  9999 kB\n"
    )
    monkeypatch.setattr(pages, "_SMAPS", smaps)
    assert pages.has_large_pages(memory, 1 << 20, 9 << 20) is enough
    assert not pages.has_large_pages(memory, 0, 4096)
    monkeypatch.setattr(pages, "_SMAPS", tmp_path / "none")
    assert not pages.has_large_pages(memory, 1 << 20, 9 << 20)


def test_damage_is_found(path: Path) -> None:
    data = bytearray(path.read_bytes())
    entry = Archive(path)._entries[WEIGHTS]
    data[entry.start + entry.size - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged"):
        load_programs(path, hold_weights=True)


def test_a_file_that_became_shorter(path: Path) -> None:
    archive = Archive(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(archive._entries[WEIGHTS].start)
    try:
        with pytest.raises(ArtifactError, match="cannot be read"):
            archive._held(archive._entries[WEIGHTS])
    finally:
        with path.open("r+b") as file:
            file.truncate(size)
