"""Damaged, foreign, newer and hostile files: always an ArtifactError that says so, never anything else."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from executable_toy import SIGNATURE, TEXT, computed_keys, example, source_tensors, toy, with_selftest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgec.errors import ArtifactError
from forgec.executable import Info, load, reader, zipformat
from forgec.executable.archive import Manifest, Member, digest
from forgec.executable.writer import LazyTensor, write_archive
from forgec.executable.zipformat import Entry, ZipWriter
from forgec.ir.types import TensorType


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "toy.forge"
    with_selftest().save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bad")


def refused(data: bytes, folder: Path, match: str | None = None) -> None:
    path = folder / "bad.forge"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=match) as caught:
        load(path)
    assert str(path) in str(caught.value), "the message names the file"


def entries_of(data: bytes) -> dict[str, Entry]:
    return zipformat.read_directory(memoryview(data))


def members_of(data: bytes) -> dict[str, bytes]:
    return {name: data[e.start : e.start + e.size] for name, e in entries_of(data).items()}


def zipped(members: dict[str, bytes]) -> bytes:
    """A file of these members, laid out as forgec does."""
    file = io.BytesIO()
    writer = ZipWriter(file)
    for name, content in members.items():
        writer.add(name, len(content), [content])
    writer.finish()
    return file.getvalue()


def with_manifest(data: bytes, change: Callable[[dict], object]) -> bytes:
    """The file with another manifest, otherwise intact."""
    members = members_of(data)
    manifest = json.loads(members["manifest.json"])
    changed = change(manifest)
    return zipped({**members, "manifest.json": json.dumps(manifest if changed is None else changed).encode()})


def with_members(data: bytes, **changed: bytes) -> bytes:
    """The file with other members (``__`` for a dot) and digests that fit them."""
    members = members_of(data) | {name.replace("__", "."): content for name, content in changed.items()}
    manifest = Manifest.from_bytes(members.pop("manifest.json"))
    listed = {
        name: manifest.members[name]
        if name.replace(".", "__") not in changed
        else Member(len(content), digest(content), manifest.members[name].tensors)
        for name, content in members.items()
    }
    return zipped(
        {**members, "manifest.json": Manifest(manifest.info, manifest.signature, listed).to_bytes()}
    )


class TestNotAForgeFile:
    def test_missing_empty_directory_fifo(self, folder) -> None:
        with pytest.raises(ArtifactError, match=r"No such file(.|\n)*nowhere.forge"):
            load(folder / "nowhere.forge")
        with pytest.raises(ArtifactError, match="no regular file"):
            load(folder)
        if hasattr(os, "mkfifo"):
            os.mkfifo(folder / "fifo")
            with pytest.raises(ArtifactError, match="no regular file"):
                load(folder / "fifo")
        refused(b"", folder, "empty")

    def test_other_formats(self, folder) -> None:
        for data in (b"hello world", b"\x7fELF" + bytes(100), b"\x80\x04K*."):
            refused(data, folder, "not a .forge file")
        refused(b"PK\x03\x04" + bytes(500), folder, "truncated")

    def test_foreign_zips(self, folder) -> None:
        for method, match in (
            (zipfile.ZIP_STORED, "multiple of 64|no manifest"),
            (zipfile.ZIP_DEFLATED, "compressed"),
        ):
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w", method) as archive:
                archive.writestr("word/document.xml", b"<xml/>" * 100)
            refused(file.getvalue(), folder, match)
        refused(zipped({"a.txt": b"x"}), folder, "it has no manifest")
        refused(zipped({"manifest.json": b'{"schema": "other/1"}'}), folder, "not a .forge file: .*other/1")
        refused(zipped({"manifest.json": b"[]"}), folder, "not a .forge file")
        refused(zipped({}), folder, "not a .forge file")

    def test_packed_again_by_another_tool(self, good, folder) -> None:
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w", method) as archive:
                for name, content in members_of(good).items():
                    archive.writestr(name, content)
            refused(file.getvalue(), folder, "packed again")

    def test_newer_format(self, good, folder) -> None:
        newer = with_manifest(good, lambda m: m.update(schema="forgec.artifact/2", forgec="7.0"))
        refused(newer, folder, r"format 2, written by forgec '7.0'(.|\n)*upgrade: pip install")


class TestDamage:
    def test_truncated_anywhere(self, good, folder) -> None:
        ends = [e.start + e.size for e in entries_of(good).values()]
        cuts = {*range(1, len(good), 97), *ends, *(e.start for e in entries_of(good).values()), len(good) - 1}
        for cut in sorted(cuts):
            refused(good[:cut], folder)

    def test_something_appended(self, good, folder) -> None:
        refused(good + b"\0", folder, "behind it")
        refused(good + good, folder)

    def test_a_flipped_bit_in_any_member(self, good, folder) -> None:
        padding = TestDamage.padding(good)
        for name, entry in entries_of(good).items():
            step = max(1, entry.size // 40)
            for at in range(entry.start, entry.start + entry.size, step):
                if at not in padding:
                    damaged = bytearray(good)
                    damaged[at] ^= 1 << (at % 8)
                    refused(bytes(damaged), folder, f"{name}|manifest")

    @staticmethod
    def padding(data: bytes) -> set[int]:
        """Offsets of bytes between tensors, which mean nothing."""
        found: set[int] = set()
        for name, entry in entries_of(data).items():
            if name.endswith(".safetensors"):
                content = data[entry.start : entry.start + entry.size]
                length = int.from_bytes(content[:8], "little")
                for key, tensor in json.loads(content[8 : 8 + length]).items():
                    if key.startswith("%pad."):
                        start, stop = (entry.start + 8 + length + x for x in tensor["data_offsets"])
                        found.update(range(start, stop))
        assert found
        return found

    @pytest.mark.slow
    @settings(max_examples=250, deadline=None, database=None)
    @given(data=st.data())
    def test_any_flipped_bit_is_refused_or_harmless(self, good, folder, data) -> None:
        at = data.draw(st.integers(0, len(good) - 1))
        damaged = bytearray(good)
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
        path = folder / "flipped.forge"
        path.write_bytes(damaged)
        try:
            exe = load(path)
        except ArtifactError:
            return
        ids, mask = example()
        np.testing.assert_array_equal(exe(ids, mask)["logits"], toy()(ids, mask)["logits"])

    def test_unverified_weights_still_check_all_else(self, good, folder, monkeypatch) -> None:
        path = folder / "weights.forge"
        weights = entries_of(good)["weights.safetensors"]
        damaged = bytearray(good)
        damaged[weights.start + weights.size - 1] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"tensor '%[0-9a-f]+' of 'weights.safetensors' is damaged"):
            load(path)
        with monkeypatch.context() as patched, pytest.raises(ArtifactError, match=r"tensor .* is damaged"):
            patched.setattr(reader, "_WORTH_THREADS", 0)
            load(path)
        load(path, verify_weights=False)
        damaged[weights.start + 20] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            load(path, verify_weights=False)


class TestHostileZip:
    def test_bomb(self, folder) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("manifest.json", bytes(50_000_000))
        assert len(file.getvalue()) < 100_000
        refused(file.getvalue(), folder, "'manifest.json' is compressed")

    def test_too_many_members(self, folder, monkeypatch) -> None:
        refused(zipped({f"m{i}": b"" for i in range(zipformat.MAX_MEMBERS + 1)}), folder, "at most 4096")

    @pytest.mark.parametrize(
        "name",
        ["../up", "/etc/passwd", "a/../../b", "..", "a\\..\\b", "C:x", "a//b", "a/", "x" * 201, "a\nb"],
    )
    def test_names_that_leave_the_file(self, folder, monkeypatch, name) -> None:
        monkeypatch.setattr(zipformat, "_check_name", lambda raw: raw.decode())
        data = zipped({name: b"x"})
        monkeypatch.undo()
        refused(data, folder, "member name .* is not allowed")

    def test_duplicate_names(self, folder) -> None:
        file = io.BytesIO()
        writer = ZipWriter(file)
        writer.add("manifest.json", 2, [b"{}"])
        writer.add("manifest.json", 2, [b"[]"])
        writer.finish()
        refused(file.getvalue(), folder, "occurs twice")

    def test_overlapping_members(self, folder) -> None:
        """A member whose local header and data lie inside another member's data."""
        file = io.BytesIO()
        writer = ZipWriter(file)
        inner = zipformat._local_header("inner", 64, 4)
        content = inner[:14] + struct.pack("<I", zlib.crc32(b"data")) + inner[18:] + b"data" + bytes(200)
        writer.add("outer", len(content), [content])
        start = writer._entries[0].start
        writer._entries.append(Entry("inner", start, start + len(inner), 4, zlib.crc32(b"data")))
        writer.finish()
        refused(file.getvalue(), folder, "'outer' and 'inner' overlap")

    def test_a_member_that_runs_into_the_directory(self, folder) -> None:
        """Local header and directory agree on a size that the file does not hold."""
        data = bytearray(zipped({"manifest.json": b"{}"}))
        (start,) = struct.unpack_from("<I", data, len(data) - 6)
        for at in (18, 22, start + 20, start + 24):
            struct.pack_into("<I", data, at, 60)
        refused(bytes(data), folder, "over the end")

    @pytest.mark.parametrize(
        ("at", "value"),
        [
            (4, struct.pack("<H", 1)),  # number of this disk
            (8, struct.pack("<H", 5)),  # entries here
            (10, struct.pack("<H", 0)),  # entries in all
            (12, struct.pack("<I", 2**31)),  # size of the directory
            (16, struct.pack("<I", 2**31)),  # its offset
            (16, struct.pack("<I", 0)),
            (20, struct.pack("<H", 3)),  # length of a comment
        ],
    )
    def test_lying_end_record(self, good, folder, at, value) -> None:
        end = len(good) - 22
        refused(good[: end + at] + value + good[end + at + len(value) :], folder)

    @pytest.mark.parametrize("field", range(0, 46, 2))
    def test_lying_directory_entries(self, good, folder, field) -> None:
        """Any 16-bit field of the first entry set to extremes: refused, or harmless."""
        (start,) = struct.unpack_from("<I", good, len(good) - 6)
        for value in (0, 1, 0x7FFF, 0xFFFF):
            damaged = bytearray(good)
            struct.pack_into("<H", damaged, start + field, value)
            if damaged == good:
                continue
            path = folder / "entry.forge"
            path.write_bytes(damaged)
            try:
                load(path)
            except ArtifactError:
                continue
            assert field in (4, 6, 8, 12, 14, 34, 36, 38, 40), f"field {field} = {value} went unnoticed"


class TestHostileContents:
    @pytest.mark.parametrize(
        "change",
        [
            lambda m: m["members"].pop("plan.json"),
            lambda m: m["members"].update({"more.bin": {"size": 0, "digest": "0" * 32}}),
            lambda m: m["members"]["plan.json"].update(size=5),
            lambda m: m["members"]["plan.json"].update(size="5"),
            lambda m: m["members"]["plan.json"].update(digest="0" * 32),
            lambda m: m["members"]["plan.json"].update(digest="zz"),
            lambda m: m["members"]["weights.safetensors"].update(tensors=5),
            lambda m: m["members"]["weights.safetensors"]["tensors"].update({"wte as f32.panel48": "0" * 32}),
            lambda m: m["members"]["weights.safetensors"]["tensors"].update({"wte as f32.panel48": 7}),
            lambda m: m["members"]["weights.safetensors"]["tensors"].pop("wte as f32.panel48"),
            lambda m: m["members"]["weights.safetensors"].pop("tensors"),
            lambda m: m["members"].update({"plan.json": []}),
            lambda m: m.update(members=[]),
            lambda m: m.update(name=5),
            lambda m: m.update(options=None),
            lambda m: m.update(schema=["forgec.artifact/1"]),
            lambda m: m.update(signature=None),
            lambda m: m["signature"]["outputs"]["items"].pop("hidden"),
            lambda m: m["signature"]["args"]["items"][0].update(type="i64[2,5]"),
            lambda m: m.pop("signature"),
            lambda m: {},
            lambda m: [m],
        ],
    )
    def test_manifest(self, good, folder, change) -> None:
        def apply(manifest: dict) -> object:
            result = change(manifest)
            return result if result in ({}, [manifest]) else None

        refused(with_manifest(good, apply), folder)

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"{",
            b'{"a": 1, "a": 2}',
            b'{"schema": NaN}',
            b"[" * 100_000,
            b"\xff\xfe",
            b'{"schema": ' + b"9" * 5000 + b"}",
        ],
    )
    def test_json(self, good, folder, text) -> None:
        refused(
            zipped({**members_of(good), "manifest.json": text}), folder, "manifest.json is not valid JSON"
        )
        refused(with_members(good, plan__json=text), folder, "plan.json is not valid JSON")

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"\xff",
            b"program",
            TEXT.replace("mul r4, c3", "conjure r4").encode(),
            TEXT.replace("r5: f32[2,4,8] = mul", "r5: f32[2,4,7] = mul").encode(),
            TEXT.replace('"scale": f32[8], 2.0', '"scale": f32[8], "x"').encode(),
            TEXT.replace("return r7, r6", "return r6, r7").encode(),
        ],
    )
    def test_program(self, good, folder, text) -> None:
        refused(with_members(good, program__ir=text), folder, "program in the file is not valid")

    def test_a_program_of_other_types(self, good, folder) -> None:
        text = TEXT.replace('"wte"', '"other"').encode()
        refused(with_members(good, program__ir=text), folder, "lacks the weight 'other'")

    @pytest.mark.parametrize(
        "change",
        [
            lambda p: p.update(schema="forgec.plan/9"),
            lambda p: p["steps"].pop(),
            lambda p: p["steps"].reverse(),
            lambda p: p["steps"][0].update(at=[2**40]),
            lambda p: p["arenas"]["cpu"].update(nbytes=2**50),
            lambda p: p["arenas"]["cpu"].update(nbytes=0),
            lambda p: p.update(inputs=[]),
            lambda p: p.update(devices=["gpu"]),
        ],
    )
    def test_plan(self, good, folder, change) -> None:
        plan = json.loads(members_of(good)["plan.json"])
        change(plan)
        refused(with_members(good, plan__json=json.dumps(plan).encode()), folder, "plan")

    def test_weights_of_other_names_types_or_states(self, good, folder) -> None:
        members = members_of(good)
        weights: dict[str, tuple[int, ...]] = {
            "wte": (9, 8),
            "h.0.w": (8, 8),
            **dict(zip(computed_keys(), ((8, 8), (8,)), strict=True)),
        }
        path = folder / "bad.forge"

        def write(**changed: np.ndarray | None) -> None:
            arrays = {name: np.zeros(shape, np.float32) for name, shape in weights.items()} | changed
            kept = [
                LazyTensor(n, TensorType.of(a), lambda a=a: a) for n, a in arrays.items() if a is not None
            ]
            contents = {"program.ir": members["program.ir"], "plan.json": members["plan.json"]}
            write_archive(path, Manifest(Info(), SIGNATURE, {}), {**contents, "weights.safetensors": kept})

        write()
        load(path)
        for changed, match in (
            ({"wte": None}, "lacks the weight 'wte'"),
            ({"wte": np.zeros((9, 8))}, r"'wte' is f64\[9,8\]"),
            ({"wte": np.zeros((8, 9), np.float32)}, r"'wte' is f32\[8,9\]"),
            ({"@s0": np.zeros(3, np.float32)}, "fits no state 's0'"),
        ):
            write(**changed)
            with pytest.raises(ArtifactError, match=match):
                load(path)

    def test_a_header_that_gives_weights_another_shape(self, good, folder) -> None:
        weights = members_of(good)["weights.safetensors"]
        assert b'"shape":[1,8,48]' in weights
        members = {
            **members_of(good),
            "weights.safetensors": weights.replace(b'"shape":[1,8,48]', b'"shape":[8,1,48]'),
        }
        refused(zipped(members), folder, "the header of 'weights.safetensors' is damaged")

    def test_missing_members(self, good, folder) -> None:
        for name in ("program.ir", "plan.json", "weights.safetensors"):
            members = members_of(good)
            del members[name]
            manifest = json.loads(members["manifest.json"])
            del manifest["members"][name]
            members["manifest.json"] = json.dumps(manifest).encode()
            refused(zipped(members), folder, f"no member '{name}'")

    def test_selftest_of_other_shapes(self, good, folder) -> None:
        assert source_tensors()
        members = members_of(good)
        arrays = {
            "input.0": np.zeros(3),
            "input.1": np.zeros(3),
            "output.0": np.zeros(3),
            "output.1": np.zeros(3),
        }
        tensors = [LazyTensor(name, TensorType.of(a), lambda a=a: a) for name, a in arrays.items()]
        path = folder / "bad.forge"
        exe_weights = [LazyTensor(n, TensorType.of(a), lambda a=a: a) for n, a in _weights().items()]
        contents = {"program.ir": members["program.ir"], "plan.json": members["plan.json"]}
        write_archive(
            path,
            Manifest(Info(), SIGNATURE, {}),
            {**contents, "selftest.safetensors": tensors, "weights.safetensors": exe_weights},
        )
        with pytest.raises(ArtifactError, match="self-test does not fit"):
            load(path)


def _weights() -> dict[str, np.ndarray]:
    source = source_tensors()
    turned, doubled = computed_keys()
    return {
        "wte": source["wte"],
        "h.0.w": source["h.0.w"],
        turned: source["h.1.w"].T,
        doubled: source["scale"] * 2,
    }
