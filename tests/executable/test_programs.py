"""Several programs in one file: shared weights and states, names, damage."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from executable_toy import counter, toy, with_selftest

from forgec.errors import ArtifactError, InputError
from forgec.executable import Executable, Programs, load, load_programs, run_selftest
from forgec.executable.archive import Manifest
from forgec.executable.reader import Archive

X = np.arange(3, dtype=np.float32)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "two.forge"
    Programs({"first": counter(), "second": counter()}).save(path)
    return path


def totals(programs: Programs) -> list[float]:
    """The counter's sum after a run of each program in turn."""
    return [float(programs[name](X).sum()) for name in ("first", "second", "first")]


def test_programs_of_one_file_have_their_states_in_common(path):
    together = totals(load_programs(path))
    alone = counter()
    assert together == [float(alone(X).sum()) for _ in range(3)]


def test_a_clone_has_states_of_its_own(path):
    programs = load_programs(path)
    before = totals(programs)
    assert totals(programs.clone()) == before
    assert totals(programs) != before


def test_the_main_program_is_what_load_gives(path):
    assert isinstance(load(path), Executable)
    programs = load_programs(path)
    assert list(programs) == ["first", "second"]
    np.testing.assert_array_equal(programs.main(X), load(path)(X))


def test_equal_constants_are_stored_and_kept_once(tmp_path):
    one, two = tmp_path / "one.forge", tmp_path / "two.forge"
    toy().save(one)
    Programs({"a": with_selftest(), "b": with_selftest()}).save(two)
    names = [
        set(json.loads(zipfile.ZipFile(p).read("manifest.json"))["members"]["weights.safetensors"]["tensors"])
        for p in (one, two)
    ]
    assert names[0] == names[1]
    programs = load_programs(two)
    assert programs["a"].shared.constants is programs["b"].shared.constants
    assert all(run_selftest(programs[name]).passed for name in programs)


def test_a_file_of_one_program_has_it_under_no_name(tmp_path):
    toy().save(tmp_path / "one.forge")
    assert list(load_programs(tmp_path / "one.forge")) == [""]


def test_a_name_that_is_not_there(path):
    with pytest.raises(InputError, match=r"no program 'third' in the file(.|\n)*first, second"):
        load_programs(path)["third"]


@pytest.mark.parametrize("name", ["../evil", "", "a/b", "-x", "x" * 100])
def test_a_name_that_no_member_may_have(name):
    with pytest.raises(ArtifactError, match="cannot be called"):
        Programs({"first": counter(), name: counter()})


def test_a_manifest_with_such_a_name_is_refused(path):
    manifest = Archive(path).manifest
    content = json.loads(manifest.to_bytes())
    content["entries"]["../evil"] = content["entries"].pop("second")
    with pytest.raises(ArtifactError, match="entries are not signatures by name"):
        Manifest.from_bytes(json.dumps(content).encode())


def test_close_releases_all(path):
    with load_programs(path) as programs:
        totals(programs)
    with pytest.raises(InputError, match="closed"):
        programs["second"](X)
