"""Outputs that would replace what is read or each other, or that cannot be written; whose program and what kind
of times a result is of."""

import json
import os

import numpy as np
import pytest
from cli_toy import TEXT, example, toy
from forgec.backends.cpu import CpuBackend
from forgec.backends.null import NullBackend

from forgec.cli.subject import files_of_model
from forgec.executable import Info, Programs


@pytest.fixture
def model(tmp_path):
    """An ONNX file by its name."""
    path = tmp_path / "m.onnx"
    path.write_bytes(b"the user's model")
    return path


@pytest.mark.parametrize("flag", ["--out", "--trace", "--emit-ir"])
def test_compile_does_not_replace_its_model(forgec, fake_compile, model, tmp_path, flag):
    os.link(model, tmp_path / "hard.forge")
    (tmp_path / "soft.forge").symlink_to(model)
    for name in ("m.onnx", "hard.forge", "soft.forge"):
        result = forgec("compile", "-m", model, flag, tmp_path / name)
        assert result.exit_code == 2, result.stderr
        assert f"{flag} {tmp_path / name} is a file that is read" in result.stderr
    assert model.read_bytes() == b"the user's model"


def test_compile_does_not_replace_files_of_a_models_folder(forgec, fake_compile, tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    for name in ("config.json", "model-00001-of-00002.safetensors", "toy.forge"):
        (folder / name).write_text("{}")
    for flag, name in (("--report", "config.json"), ("-o", "model-00001-of-00002.safetensors")):
        result = forgec("compile", "-m", folder, flag, folder / name)
        assert (result.exit_code, "is a file that is read" in result.stderr) == (2, True)
        assert (folder / name).read_text() == "{}"
    assert forgec("compile", "-m", folder, "-o", folder / "toy.forge", "-q").exit_code == 0


def test_what_is_read_for_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("m.onnx", "m.onnx.data", "m.onnx_data", "m.onnx.forge", "gpt2-tiny"):
        (tmp_path / name).touch()
    assert {path.name for path in files_of_model("m.onnx")} == {"m.onnx", "m.onnx.data", "m.onnx_data"}
    assert files_of_model("gpt2-tiny") == []  # a preset, whatever files there are


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-o", "x", "--emit-ir", "x"], "--out and --emit-ir are both x"),
        (["-o", "x", "--trace", "./x"], "--out and --trace are both x"),
        (["-o", "x", "-t", "hexagon-v73", "--emit", "x"], "--out and --emit are both x"),
        (["--trace", "toy.forge"], "--out and --trace are both toy.forge"),
    ],
)
def test_two_outputs_of_one_name(forgec, fake_compile, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    result = forgec("compile", "-m", "toy", *flags)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert fake_compile.calls == [] and list(tmp_path.iterdir()) == []
    result = forgec("--dump", "d", "compile", "-m", "toy", "-o", "d")
    assert (result.exit_code, "--out and --dump are both d" in result.stderr) == (2, True)
    assert forgec("compile", "-m", "toy", "--trace", "/dev/null", "--emit-ir", "/dev/null").exit_code == 0


def test_run_and_profile_do_not_replace_what_they_read(forgec, forge, tmp_path):
    before = forge.read_bytes()
    ids = tmp_path / "ids.npy"
    np.save(ids, example()[0])
    for arguments in (
        ("run", forge, "-o", forge),
        ("profile", forge, "--trace", forge),
        ("run", forge, "-i", f"input_ids={ids}", "-o", ids),
    ):
        result = forgec(*arguments)
        assert (result.exit_code, "is a file that is read" in result.stderr) == (2, True)
    assert forge.read_bytes() == before
    np.testing.assert_array_equal(np.load(ids), example()[0])


def test_a_compiled_file_is_no_pipe_and_no_device(forgec, fake_compile, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        result = forgec("compile", "-m", "toy", "-o", path)
        assert (result.exit_code, "it is no regular file" in result.stderr) == (2, True)
        assert "disk" not in result.stderr
    assert fake_compile.loads == []


def test_an_output_that_is_a_directory_is_a_usage_error(forgec, fake_compile, tmp_path):
    result = forgec("compile", "-m", "toy", "-o", tmp_path)
    assert (result.exit_code, "it is a directory" in result.stderr) == (2, True)


@pytest.mark.parametrize("verb", ["run", "show", "verify", "bench", "profile"])
def test_a_directory_is_no_compiled_file(forgec, verb, tmp_path):
    result = forgec(verb, tmp_path)
    assert (result.exit_code, "it is a directory" in result.stderr) == (2, True)


@pytest.mark.parametrize("arguments", [("generate", "-p", "x"), ("chat",)])
def test_generate_and_chat_without_a_file(forgec, arguments):
    result = forgec(*arguments, "-m", "/none.forge", input="")
    assert (result.exit_code, "No such file" in result.stderr) == (2, True)


def test_nothing_to_emit_leaves_the_file_and_names_it(forgec, fake_compile, tmp_path):
    out = tmp_path / "o.forge"
    result = forgec("compile", "-m", "toy", "-t", "hexagon-v73", "-o", out, "--emit", tmp_path / "m.qnn")
    assert result.exit_code == 1
    assert "placement put the whole program on the CPU" in result.stderr
    assert (
        f"{out}, which is written" in result.stderr
        and "forgec analyze -m toy -t hexagon-v73" in result.stderr
    )
    assert result.stdout and out.is_file() and not (tmp_path / "m.qnn").exists()


def test_emit_is_for_an_npu(forgec, fake_compile, tmp_path):
    result = forgec("compile", "-m", "toy", "-o", tmp_path / "o.forge", "--emit", tmp_path / "m")
    assert (result.exit_code, "the target is the CPU" in result.stderr) == (2, True)
    assert fake_compile.loads == []


def test_a_dump_that_cannot_be_written_is_a_usage_error(forgec, fake_compile, tmp_path):
    dump = tmp_path / "d"
    fake_compile.error = FileNotFoundError(2, "No such file or directory", str(dump))
    result = forgec("--dump", dump, "compile", "-m", "toy", "-o", tmp_path / "o.forge", "-q")
    assert result.exit_code == 2
    assert f"the dump cannot be written: No such file or directory\n  at: {dump}" in result.stderr


def test_other_failures_of_the_system_stay_ours(forgec, fake_compile, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fake_compile.error = FileNotFoundError(2, "No such file or directory", "one of ours")
    result = forgec("compile", "-m", "toy", "-o", tmp_path / "o.forge", "-q")
    assert (result.exit_code, "internal error" in result.stderr) == (1, True)
    fake_compile.error = OSError(28, "No space left on device")
    result = forgec("compile", "-m", "toy", "-o", tmp_path / "o.forge", "-q")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: a file cannot be written: No space left on device\n",
    )


def test_the_kind_of_an_emulated_device_is_told(forgec, tmp_path, monkeypatch):
    device = NullBackend(pretend=True)
    monkeypatch.setattr(NullBackend, "kind", property(lambda self: "emulated"))
    host = CpuBackend(cost=lambda instr: 1e6)

    def backend(name):
        return host if name == "cpu" else device

    monkeypatch.setattr("forgec.backends.get", backend)
    path = tmp_path / "n.forge"
    toy(backend=backend, target="null").save(path)
    for arguments in (("run", path), ("bench", path, "--repeat", 1), ("profile", path, "--repeat", 1)):
        result = forgec(*arguments)
        assert result.exit_code == 0, result.stderr
        assert "(emulated, " in result.stdout and "measured" not in result.stdout
    document = json.loads(forgec("run", path, "--format", "json").stdout)
    assert document["latency"]["kind"] == "emulated" and document["target"] == "null"
    document = json.loads(forgec("bench", path, "--repeat", 1, "--format", "json").stdout)
    assert document["latency"]["kind"] == "emulated"
    assert {row["kind"] for row in document["ops"] if row["device"] == "null"} == {"emulated"}
    document = json.loads(forgec("profile", path, "--repeat", 1, "--format", "json").stdout)
    assert document["kind"] == "emulated"


@pytest.fixture
def several(tmp_path):
    """A file of programs for two targets, both of which run on the CPU; they differ in one op."""
    path = tmp_path / "several.forge"
    first = toy(text=TEXT.replace("gelu", "relu"))
    first.shared.info = Info("toy", "intel-npu4000")
    Programs({"intel-npu4000": first, "cpu": toy()}).save(path)
    return path


def test_the_program_for_a_target_is_the_one_that_is_taken(forgec, several):
    for name, op in (("cpu", "gelu"), ("lunar-lake", "relu")):
        target = "cpu" if name == "cpu" else "intel-npu4000"
        document = json.loads(forgec("show", several, "-t", name, "--ir", "--format", "json").stdout)
        assert f"= {op} " in document["ir"]
        document = json.loads(forgec("bench", several, "-t", name, "--repeat", 1, "--format", "json").stdout)
        assert document["target"] == target
        assert op in {row["op"] for row in document["ops"]}
        document = json.loads(
            forgec("profile", several, "-t", name, "--repeat", 1, "--format", "json").stdout
        )
        assert document["target"] == target
        assert op in {row["op"] for row in document["kernels"]}
        document = json.loads(forgec("verify", several, "-t", name, "--format", "json").stdout)
        assert (document["target"], document["passed"]) == (target, True)
    for arguments in (("bench", "--repeat", 1), ("profile", "--repeat", 1), ("verify",), ("run",)):
        verb, *more = arguments
        result = forgec(verb, several, "-t", "lunar-lake", *more)
        assert any(line.split() == ["target", "intel-npu4000"] for line in result.stdout.splitlines())
    for verb in ("show", "bench", "profile", "verify", "run"):
        assert forgec(verb, several, "-t", "abacus").exit_code == 5
        result = forgec(verb, several, "-t", "hexagon-v73")
        assert (result.exit_code, "no program for hexagon-v73" in result.stderr) == (1, True)
    result = forgec("profile", several, "--program", "cpu", "-t", "cpu")
    assert (result.exit_code, "give one of the two" in result.stderr) == (2, True)
