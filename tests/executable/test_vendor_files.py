"""Taking the vendors' files out of an executable."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from forgec.errors import ArtifactError
from forgec.executable.vendor_files import write_vendor_files


def _executable(files: dict[str, dict[str, bytes]]) -> SimpleNamespace:
    """Just what is asked of an executable: its segments, one for each device, and their backends."""
    devices = list(files)
    shared = SimpleNamespace(
        backend=lambda name: SimpleNamespace(vendor_files=lambda code: files[name]),
        code=lambda index: b"",
    )
    segments = [SimpleNamespace(device=name) for name in devices]
    return SimpleNamespace(shared=shared, plan=SimpleNamespace(segments=segments))


def test_every_segment_has_its_folder(tmp_path: Path) -> None:
    exe = _executable({"cpu": {}, "npu": {"a.bin": b"1", "b.onnx": b"2"}})
    written = write_vendor_files(exe, tmp_path / "out")
    assert written == [tmp_path / "out/segment1-npu/a.bin", tmp_path / "out/segment1-npu/b.onnx"]
    assert [path.read_bytes() for path in written] == [b"1", b"2"]


def test_nothing_to_write_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no part"):
        write_vendor_files(_executable({"cpu": {}}), tmp_path)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        write_vendor_files(_executable({"npu": {"a": b""}}), tmp_path / "file")
