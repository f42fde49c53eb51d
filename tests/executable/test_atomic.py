"""A file is there whole or not at all, whatever ends the writing."""

from __future__ import annotations

import errno
import os
import stat

import numpy as np
import pytest
from executable_toy import SIGNATURE, TEXT, example, plan_of, source_tensors, toy

from forgec.errors import ArtifactError
from forgec.executable import Executable, atomic, load
from forgec.executable.atomic import atomic_file


@pytest.fixture
def old(tmp_path):
    """An artifact that is already there."""
    path = tmp_path / "model.forge"
    toy(seed=3).save(path)
    return path


def is_old(path) -> bool:
    ids, mask = example()
    same = np.array_equal(load(path)(ids, mask)["logits"], toy(seed=3)(ids, mask)["logits"])
    return same and [p.name for p in path.parent.iterdir()] == [path.name]


def breaking(error: BaseException, at: str) -> Executable:
    """An executable whose weights raise an error in the middle of being written."""
    program, plan = plan_of(TEXT)
    source = source_tensors()

    def tensors(name: str) -> np.ndarray:
        if name == at:
            raise error
        return source[name]

    return Executable(program, plan, SIGNATURE, tensors)


def test_replaces_an_old_file(old) -> None:
    before = load(old)
    toy(seed=4).save(old)
    ids, mask = example()
    np.testing.assert_array_equal(load(old)(ids, mask)["logits"], toy(seed=4)(ids, mask)["logits"])
    np.testing.assert_array_equal(before(ids, mask)["logits"], toy(seed=3)(ids, mask)["logits"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("bug")])
def test_interrupted_while_a_tensor_is_computed(old, error) -> None:
    with pytest.raises(type(error)):
        breaking(error, "h.1.w").save(old)
    assert is_old(old)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_the_system_fails_at_the_end(old, monkeypatch, call, code) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.os, call, fail)
    with pytest.raises(ArtifactError) as caught:
        toy().save(old)
    monkeypatch.undo()
    message = str(caught.value)
    assert str(old) in message
    assert ("disk is full" in message) == (code != errno.EIO)
    assert is_old(old)


def test_the_disk_fills_up_while_writing(old, monkeypatch) -> None:
    """Writes fail after a few hundred bytes have gone through."""
    real = os.open

    class Full:
        def __init__(self, file):
            self.file, self.left = file, 700

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            self.file.close()

    monkeypatch.setattr(atomic, "open", lambda fd, mode: Full(os.fdopen(fd, mode)), raising=False)
    with pytest.raises(
        ArtifactError, match=r"disk is full: the file needs [\d,]+ bytes, and [\d,]+ are free"
    ):
        toy().save(old)
    monkeypatch.undo()
    assert is_old(old) and os.open is real


def test_a_disk_without_room_is_found_before_anything_is_computed(old, monkeypatch) -> None:
    monkeypatch.setattr(atomic, "_free", lambda target: 1000)
    with pytest.raises(ArtifactError, match="and 1,000 are free"):
        breaking(AssertionError("computed"), "wte").save(old)
    assert is_old(old)


def test_destinations_that_are_no_files(tmp_path) -> None:
    for path, match in (
        (tmp_path, "is a directory"),
        (tmp_path / "no" / "model.forge", "directory does not exist(.|\n)*mkdir -p"),
    ):
        with pytest.raises(ArtifactError, match=match):
            toy().save(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(ArtifactError, match="no regular file"):
            toy().save(tmp_path / "fifo")
        assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtifactError, match="directory does not exist"):
        toy().save(tmp_path / "file" / "model.forge")


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="there are no paths of open files")
def test_a_pipe_that_is_reached_by_a_link_is_no_full_disk() -> None:
    ends = os.pipe()
    try:
        with pytest.raises(ArtifactError, match="no regular file: it is a pipe"):
            toy().save(f"/dev/fd/{ends[1]}")
    finally:
        for end in ends:
            os.close(end)


def test_a_limit_on_the_size_of_files_is_no_full_disk(old, monkeypatch) -> None:
    resource = pytest.importorskip("resource", reason="runs on Unix")

    def fail(*_: object) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(atomic.os, "fsync", fail)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (102400, -1))
    with pytest.raises(
        ArtifactError, match=r"larger than files may be here: .*the limit is 102,400(.|\n)*ulimit"
    ):
        toy().save(old)
    monkeypatch.undo()
    assert is_old(old)


def test_a_folder_without_permission(old, monkeypatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(atomic.os, "open", refuse)
    with pytest.raises(ArtifactError, match="cannot be written: Permission denied"):
        toy().save(old)
    monkeypatch.undo()
    assert is_old(old)


def test_a_link_stays_a_link(old, tmp_path_factory) -> None:
    link = tmp_path_factory.mktemp("links") / "latest.forge"
    link.symlink_to(old)
    toy(seed=4).save(link)
    assert link.is_symlink()
    ids, mask = example()
    np.testing.assert_array_equal(load(old)(ids, mask)["logits"], toy(seed=4)(ids, mask)["logits"])


def test_permissions_follow_the_umask(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "a", 1) as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
