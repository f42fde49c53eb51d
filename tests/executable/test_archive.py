"""The file itself: ordinary ZIP and safetensors, aligned, reproducible, streamed."""

from __future__ import annotations

import gc
import io
import json
import shutil
import subprocess
import tracemalloc
import weakref
import zipfile
from pathlib import Path

import numpy as np
import pytest
from executable_toy import SIGNATURE, computed_keys, example, source_tensors, toy, with_selftest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize
from safetensors.numpy import load as load_safetensors

from forgec.errors import ArtifactError, InternalError
from forgec.executable import Info, load, zipformat
from forgec.executable.archive import Manifest
from forgec.executable.reader import Archive
from forgec.executable.tensorfile import lay_out, parse_header
from forgec.executable.writer import LazyTensor, write_archive
from forgec.ir.types import DType, TensorType

ALL_MEMBERS = [
    "program.ir",
    "plan.json",
    "extra/vocab.txt",
    "selftest.safetensors",
    "weights.safetensors",
    "manifest.json",
]


def data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    raw = path.read_bytes()[info.header_offset :]
    return (
        info.header_offset + 30 + int.from_bytes(raw[26:28], "little") + int.from_bytes(raw[28:30], "little")
    )


def test_is_an_ordinary_zip_with_aligned_stored_members(tmp_path) -> None:
    path = tmp_path / "toy.forge"
    with_selftest().save(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ALL_MEMBERS
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
            assert data_offset(path, info) % 64 == 0
        assert archive.read("extra/vocab.txt") == b"a b c"
    if shutil.which("unzip"):
        assert subprocess.run(["unzip", "-tq", path], capture_output=True).returncode == 0


def packed_keys() -> set[str]:
    """Weights of products in the layout that the native kernels read; the embedding is the head as well."""
    return {f"{name} as f32.panel48" for name in ("wte", "h.0.w", computed_keys()[0])}


def test_weights_are_ordinary_safetensors_with_aligned_tensors(tmp_path) -> None:
    path = tmp_path / "toy.forge"
    toy().save(path)
    with zipfile.ZipFile(path) as archive:
        loaded = load_safetensors(archive.read("weights.safetensors"))
    source = source_tensors()
    names = {name for name in loaded if not name.startswith("%pad.")}
    turned, doubled = computed_keys()
    assert names == {doubled, *packed_keys()}, "a table that is the head too is stored once"
    np.testing.assert_array_equal(loaded["wte as f32.panel48"][0, :, :9].T, source["wte"])
    np.testing.assert_array_equal(loaded[f"{turned} as f32.panel48"][0, :, :8], source["h.1.w"])
    np.testing.assert_array_equal(loaded[doubled], source["scale"] * 2)
    for array in Archive(path).tensors("weights.safetensors").values():
        assert array.ctypes.data % 64 == 0
        assert not array.flags.writeable


def test_manifest_says_what_it_is(tmp_path) -> None:
    path = tmp_path / "toy.forge"
    info = Info("my model", "cpu", {"fusion": 0.5}, "random, seed 3")
    program = toy()
    program._shared.info = info
    program.save(path)
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["schema"] == "forgec.artifact/1"
    assert manifest["options"] == {"fusion": 0.5} and manifest["weights"] == "random, seed 3"
    assert set(manifest["members"]) == {"program.ir", "plan.json", "weights.safetensors"}
    stored = {computed_keys()[1], *packed_keys()}
    assert set(manifest["members"]["weights.safetensors"]["tensors"]) == stored
    assert load(path).info == info and load(path).signature == SIGNATURE


def test_equal_contents_give_equal_files(tmp_path) -> None:
    for name in ("a", "b"):
        with_selftest().save(tmp_path / name)
    load(tmp_path / "a").save(tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


@given(st.lists(st.integers(0, 300), max_size=12), st.integers(0, 200))
def test_writes_are_cut_where_pages_are(sizes: list[int], before: int) -> None:
    class Writes(io.BytesIO):
        def write(self, data) -> int:
            at.append(self.tell())
            return super().write(data)

    page = 64
    data = np.random.default_rng(len(sizes)).integers(0, 256, sum(sizes), np.uint8).tobytes()
    ends = np.cumsum(sizes, dtype=int)
    chunks = [memoryview(data)[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    file, at = Writes(), []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(zipformat, "LARGE_PAGE", page)
        archive = zipformat.ZipWriter(file)  # type: ignore[arg-type]
        archive.add("a", before, [bytes(before)])
        at.clear()
        archive.add("b", len(data), iter(chunks))
        archive.finish()
    (entry,) = [e for e in zipformat.read_directory(file.getbuffer()).values() if e.name == "b"]
    assert file.getvalue()[entry.start : entry.start + entry.size] == data
    inside = [x for x in at if entry.start < x < entry.start + entry.size]
    assert all(x % page == 0 for x in inside)


def test_saving_over_the_file_that_is_mapped(tmp_path) -> None:
    path = tmp_path / "a"
    toy().save(path)
    exe, before = load(path), path.read_bytes()
    exe.save(path)
    assert path.read_bytes() == before
    np.testing.assert_array_equal(exe(*example())["logits"], toy()(*example())["logits"])


def test_options_that_are_no_json_stop_before_anything_is_written(tmp_path) -> None:
    exe = toy()
    exe._shared.info = Info(options={"fusion": float("nan")})
    with pytest.raises(ValueError):
        exe.save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [0, 1, 64, 500, 2000])
def test_zip64(tmp_path, monkeypatch, limit) -> None:
    """With the limit moved down, every combination of 64-bit fields occurs in a small file."""
    monkeypatch.setattr(zipformat, "ZIP64_LIMIT", limit)
    path = tmp_path / "toy.forge"
    with_selftest().save(path)
    monkeypatch.undo()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None and archive.namelist() == ALL_MEMBERS
        assert all(data_offset(path, info) % 64 == 0 for info in archive.infolist())
    ids, mask = example()
    np.testing.assert_array_equal(load(path)(ids, mask)["logits"], toy()(ids, mask)["logits"])


def test_over_4_gib_with_holes(tmp_path) -> None:
    """A member and an offset beyond 4 GiB, in a sparse file that takes no room."""

    class Sparse(io.FileIO):
        def write(self, data) -> int:
            if len(data) > 2**20:
                self.seek(len(data), 1)
                return len(data)
            return super().write(data)

    path, size = tmp_path / "big.zip", 5 * 2**30
    zeros = memoryview(bytes(2**28))
    with Sparse(path, "w+") as file:
        archive = zipformat.ZipWriter(file)
        real, zipformat.zlib.crc32 = zipformat.zlib.crc32, lambda chunk, crc=0: 0
        try:
            archive.add("zeros.bin", size, (zeros for _ in range(size // len(zeros))))
        finally:
            zipformat.zlib.crc32 = real
        archive.add("small.txt", 5, [b"hello"])
        archive.finish()
    if path.stat().st_blocks * 512 > 2**24:
        pytest.skip("runs on a file system with sparse files: point --basetemp to one, as ext4 or tmpfs")
    with zipfile.ZipFile(path) as archive:
        assert archive.read("small.txt") == b"hello"
        assert archive.getinfo("zeros.bin").file_size == size
    import mmap

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        data = memoryview(mapped)
        entry = zipformat.read_directory(data)["small.txt"]
        assert entry.start > 2**32 and bytes(data[entry.start : entry.start + 5]) == b"hello"
        data.release()


class TestTensorFile:
    @pytest.mark.parametrize("seed", range(20))
    def test_layout_is_aligned_and_parses_back(self, seed) -> None:
        rng = np.random.default_rng(seed)
        types = [dtype for dtype in DType if dtype is not DType.I4]
        tensors = [
            (
                f"t{i}",
                TensorType(
                    types[rng.integers(len(types))], tuple(rng.integers(0, 6, rng.integers(0, 4)).tolist())
                ),
            )
            for i in range(rng.integers(0, 12))
        ]
        layout = lay_out(tensors)
        member = memoryview(layout.header + bytes(layout.size - len(layout.header)))
        parsed = parse_header(member, "m")
        assert parsed == layout, f"seed {seed}"
        assert all(slot.start % 64 == 0 for slot in layout.slots.values())
        theirs = {name: entry for name, entry in deserialize(bytes(member)) if not name.startswith("%pad.")}
        assert {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in theirs.items()} == {
            name: (kind.dtype.safetensors, kind.shape) for name, kind in tensors
        }

    @pytest.mark.parametrize(
        "entries",
        [
            [],
            {"a": None},
            {"a": {}},
            {"a": {"dtype": "F31", "shape": [16], "data_offsets": [0, 64]}},
            {"a": {"dtype": ["F32"], "shape": [16], "data_offsets": [0, 64]}},
            {"a": {"dtype": "F32", "shape": [15], "data_offsets": [0, 64]}},
            {"a": {"dtype": "F32", "shape": [-16], "data_offsets": [0, 64]}},
            {"a": {"dtype": "F32", "shape": [True, 16], "data_offsets": [0, 64]}},
            {"a": {"dtype": "F32", "shape": [2**62, 2**62, 2**62], "data_offsets": [0, 64]}},
            {"a": {"dtype": "F32", "shape": [1] * 40 + [16], "data_offsets": [0, 64]}},
            {"a": {"dtype": "F32", "shape": [16], "data_offsets": [64, 128]}},
            {"a": {"dtype": "F32", "shape": [16], "data_offsets": [-64, 0]}},
            {"a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64, 64]}},
            {"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}},
            {
                "a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]},
                "b": {"dtype": "F32", "shape": [8], "data_offsets": [32, 64]},
            },
            {
                "a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]},
                "b": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]},
            },
        ],
    )
    def test_hostile_headers(self, entries) -> None:
        text = json.dumps(entries).encode()
        text += b" " * (-(8 + len(text)) % 64)
        member = len(text).to_bytes(8, "little") + text + bytes(64)
        with pytest.raises(ArtifactError):
            parse_header(memoryview(member), "m")

    @pytest.mark.parametrize(
        "member",
        [
            b"",
            b"1234567",
            (2**63).to_bytes(8, "little"),
            (100).to_bytes(8, "little") + b"{}",
            (2).to_bytes(8, "little") + b"[[",
        ],
    )
    def test_hostile_lengths(self, member) -> None:
        with pytest.raises(ArtifactError):
            parse_header(memoryview(member), "m")


class TestStreaming:
    def lazy(self, count: int, elements: int, order: str = "C") -> tuple[list[LazyTensor], list[int]]:
        """Tensors that note how many earlier ones are alive when they are computed."""
        alive: list[int] = []
        made: list[weakref.ref] = []
        shape = (elements // 64, 64)

        def compute(i: int) -> np.ndarray:
            gc.collect()
            alive.append(sum(ref() is not None for ref in made))
            array = np.full(shape, i, np.float32, order=order)
            made.append(weakref.ref(array))
            return array

        kind = TensorType(DType.F32, shape)
        return [LazyTensor(f"t{i}", kind, lambda i=i: compute(i)) for i in range(count)], alive

    @pytest.mark.parametrize("order", ["C", pytest.param("F", marks=pytest.mark.slow)])
    def test_at_most_one_tensor_is_alive(self, tmp_path, order) -> None:
        tensors, alive = self.lazy(5, 2**14, order)
        write_archive(tmp_path / "a", Manifest(Info(), SIGNATURE, {}), {"weights.safetensors": tensors})
        assert alive == [0] * 5
        for i, array in enumerate(Archive(tmp_path / "a").tensors("weights.safetensors").values()):
            assert (array == i).all()

    @pytest.mark.slow
    def test_peak_memory_is_that_of_one_tensor(self, tmp_path) -> None:
        tensors, _ = self.lazy(6, 2**22)
        tracemalloc.start()
        try:
            write_archive(tmp_path / "a", Manifest(Info(), SIGNATURE, {}), {"weights.safetensors": tensors})
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        large_page = 2
        assert 16 * 2**20 <= peak < (16 + large_page + 1) * 2**20

    def test_saving_keeps_no_constant(self, tmp_path) -> None:
        exe = toy()
        exe.save(tmp_path / "a")
        assert exe._shared.constants.kept.arrays == {}

    def test_a_tensor_of_another_type_is_our_bug(self, tmp_path) -> None:
        wrong = LazyTensor("t", TensorType(DType.F32, (3,)), lambda: np.zeros(4, np.float32))
        with pytest.raises(InternalError):
            write_archive(tmp_path / "a", Manifest(Info(), SIGNATURE, {}), {"weights.safetensors": [wrong]})
        assert list(tmp_path.iterdir()) == []


def test_manifest_round_trip() -> None:
    manifest = Manifest(Info("n", "t", {"a": [1, None]}, "w", "9.9"), SIGNATURE, {})
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def test_extra_names_are_checked_when_written(tmp_path) -> None:
    for name in ("../x", "/x", "a//b", "", ".hidden", "a\\b", "x" * 300):
        with pytest.raises(ArtifactError, match="not allowed"):
            toy(extra={name: b""}).save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
