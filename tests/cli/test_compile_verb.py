"""compile: files, options, report, progress, errors; with a stand-in for the compiler."""

import json

import pytest
from report_samples import sample

from forgec.errors import BackendError, CaptureError, InternalError, TargetError, UnsupportedOpError
from forgec.executable import load
from forgec.options import Options
from forgec.report.report import Report


def test_compile_writes_the_file_and_prints_the_report(forgec, fake_compile, tmp_path):
    out = tmp_path / "out.forge"
    result = forgec("compile", "-m", "toy", "-o", out)
    assert result.exit_code == 0, result.stderr
    assert load(out).info.name == "toy"
    assert result.stdout.startswith("bert-base for npu, compiled in 1.00 s\n")
    assert result.stderr.splitlines()[:3] == ["loading toy", "capture ...", "passes ..."]
    assert f"wrote {out}" in result.stderr
    (settings,) = fake_compile.calls
    assert (settings["target"], settings["options"], settings["name"]) == ("cpu", Options(), "toy")


def test_the_default_name_is_that_of_the_model(forgec, fake_compile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert forgec("compile", "-m", "some/dir").exit_code == 0
    assert (tmp_path / "toy.forge").is_file()


def test_quiet_says_nothing_on_stderr(forgec, fake_compile, tmp_path):
    result = forgec("compile", "-m", "toy", "-o", tmp_path / "o.forge", "-q")
    assert result.stderr == ""
    assert fake_compile.calls[0]["progress"] is None


def test_every_side_file(forgec, fake_compile, tmp_path):
    names = {"--report": "r.json", "--trace": "t.json", "--emit-ir": "p.txt", "-o": "o.forge"}
    result = forgec("compile", "-m", "toy", *(x for k, v in names.items() for x in (k, tmp_path / v)))
    assert result.exit_code == 0, result.stderr
    assert Report.from_json((tmp_path / "r.json").read_text()) == sample()
    assert "traceEvents" in json.loads((tmp_path / "t.json").read_text())
    assert (tmp_path / "p.txt").read_text().startswith("program @main")
    assert (
        forgec("compile", "-m", "toy", "-o", tmp_path / "o.forge", "--report", tmp_path / "r.html").exit_code
        == 0
    )
    assert (tmp_path / "r.html").is_file()


def test_json_is_the_report(forgec, fake_compile, tmp_path):
    result = forgec("compile", "-m", "toy", "-o", tmp_path / "o.forge", "--format", "json")
    assert Report.from_json(result.stdout) == sample()


def test_sizes_and_weights_reach_the_model(forgec, fake_compile, tmp_path):
    flags = ("--tokens", 16, "--batch", 2, "--attn", "eager", "--layers", 3, "--seed", 5, "--part", "encoder")
    forgec("compile", "-m", "toy", "-o", tmp_path / "o.forge", *flags)
    assert fake_compile.loads == [("toy", {"part": "encoder", "seed": 5, "attn": "eager", "layers": 3})]
    assert fake_compile.model.asked == [(16, 2, 0)]


def test_options_by_name_and_by_flag(forgec, fake_compile, tmp_path):
    def compiled(*flags):
        result = forgec("compile", "-m", "toy", "-o", tmp_path / "o.forge", *flags)
        assert result.exit_code == 0, result.stderr
        return fake_compile.calls[-1]["options"]

    assert compiled("--option", "rounds=3", "--option", "passes=-cse") == Options(rounds=3, passes=("-cse",))
    assert compiled("--fusion", "0", "--no-check", "--strict", "--capture", "full") == Options(
        fusion=0.0, check=False, strict=True, capture="full"
    )
    assert compiled("--option", "fusion=0.3", "--fusion", "0.5").fusion == 0.5
    assert compiled("--option", "check=no").check is False
    assert compiled("--option", "fusion=0.3").fusion == 0.3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--option", "fussion=1"], "did you mean 'fusion'"),
        (["--option", "fusion"], "write name=value"),
        (["--fusion", "2"], "a number from 0 to 1"),
        (["--capture", "half"], "one of auto, blocks, full"),
        (["--report", "r.pdf"], "name it .json or .html"),
        (["--tokens", "many"], "--tokens"),
    ],
)
def test_usage_errors_come_before_the_model_is_loaded(forgec, fake_compile, tmp_path, flags, message):
    result = forgec("compile", "-m", "toy", "-o", tmp_path / "o.forge", *flags)
    assert result.exit_code == 2
    assert message in result.stderr
    assert fake_compile.loads == []


@pytest.mark.parametrize("verb", ["compile", "analyze", "show", "bench", "repro"])
def test_an_unknown_target_is_found_before_the_model_is_loaded(forgec, fake_compile, tmp_path, verb):
    more = ["-o", tmp_path / "out"] if verb in ("compile", "repro") else []
    result = forgec(verb, "-m", "toy", "-t", "lunar-lak", *more)
    assert result.exit_code == 5 and "did you mean 'lunar-lake'" in result.stderr
    assert not fake_compile.loads


def test_a_missing_directory_is_found_before_the_model_is_loaded(forgec, fake_compile, tmp_path):
    for flag in ("-o", "--trace", "--emit-ir"):
        result = forgec("compile", "-m", "toy", flag, tmp_path / "none" / "x")
        assert (result.exit_code, "there is no directory" in result.stderr) == (2, True)
    assert fake_compile.loads == []


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            CaptureError("cannot trace", "model.py:3", "use torch.where"),
            1,
            "error: cannot trace\n  at: model.py:3\n",
        ),
        (UnsupportedOpError("no aten.fft"), 3, "error: no aten.fft\n"),
        (BackendError("the compiler died"), 4, "the compiler died"),
        (TargetError("no npu"), 5, "no npu"),
        (MemoryError(), 1, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted, no file written"),
    ],
)
def test_errors_have_their_exit_code_and_no_traceback(forgec, fake_compile, tmp_path, error, code, text):
    fake_compile.error = error
    result = forgec("compile", "-m", "toy", "-o", tmp_path / "o.forge", "-q")
    assert result.exit_code == code
    assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyError("surprise"), InternalError("surprise")])
def test_a_bug_of_ours_leaves_a_report(forgec, fake_compile, tmp_path, monkeypatch, error):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fake_compile.error = error
    result = forgec("compile", "-m", "toy", "-q", "-o", tmp_path / "o.forge")
    assert result.exit_code == 1
    assert "internal error, a bug in forgec" in result.stderr
    assert "Traceback" not in result.stderr
    (report,) = tmp_path.glob("forgec-internal-error-*.txt")
    assert str(report) in result.stderr
    text = report.read_text()
    assert "Traceback" in text
    assert "surprise" in text
    assert text.startswith("forgec 0.")
    debugged = forgec("--debug", "1", "compile", "-m", "toy", "-q", "-o", tmp_path / "o.forge")
    assert "Traceback" in debugged.stderr


def test_an_interruption_says_what_is_already_there(forgec, fake_compile, tmp_path, monkeypatch):
    def interrupt(self, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(Report, "save", interrupt)
    out = tmp_path / "o.forge"
    result = forgec("compile", "-m", "toy", "-o", out, "--report", tmp_path / "r.json")
    assert result.exit_code == 130
    assert f"interrupted, written before: {out}" in result.stderr
    assert out.is_file()


def test_failed_fidelity_is_exit_code_1(forgec, fake_compile, tmp_path):
    fake_compile.report.fidelity.passed = False
    result = forgec("compile", "-m", "toy", "-o", tmp_path / "o.forge")
    assert result.exit_code == 1
    assert "FAILED: max abs" in result.stdout


def test_debug_flags_hold_for_the_verb_only(forgec, fake_compile, tmp_path, monkeypatch):
    from forgec import debug

    seen = []
    monkeypatch.setattr(
        type(fake_compile.model), "name", property(lambda self: seen.append(debug.knobs()) or "toy")
    )
    before = debug.knobs()
    flags = (
        "--debug",
        "2",
        "--dump",
        tmp_path / "d",
        "--verify",
        "2",
        "--passes=-cse",
        "--rewrite-limit",
        "7",
    )
    result = forgec(*flags, "compile", "-m", "toy", "-o", tmp_path / "o.forge", "-q")
    assert result.exit_code == 0, result.stderr
    assert seen[0] == debug.Knobs(2, tmp_path / "d", 2, ("-cse",), 7)
    assert debug.knobs() == before
    result = forgec("--verify", "7", "doctor")
    assert (result.exit_code, "--verify is '7', and must be 0 to 2" in result.stderr) == (2, True)


def test_show_and_bench_compile_in_memory(forgec, fake_compile):
    result = forgec("show", "-m", "toy", "--memory", "--tokens", 4)
    assert (result.exit_code, "arena cpu: 448 B" in result.stdout) == (0, True)
    assert fake_compile.model.asked == [(4, 1, 0)]
    assert fake_compile.calls[0]["options"] == Options(check=False)
    result = forgec("bench", "-m", "toy", "--repeat", 2, "-q")
    assert (result.exit_code, "linear" in result.stdout) == (0, True)
    assert forgec("bench", "-m", "toy", "-i", "bias=zeros").exit_code == 2
    assert forgec("show", "-m", "toy", "--manifest").exit_code == 2
