"""Real models through the real compiler; everything else in this folder uses stand-ins."""

import json
import subprocess
import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A tiny GPT-2, compiled by the command."""
    from typer.testing import CliRunner

    from forgec.cli.main import app

    folder = tmp_path_factory.mktemp("compiled")
    files = [folder / name for name in ("g.forge", "r.json", "g.txt")]
    flags = ["--tokens", "8", "-o", files[0], "--report", files[1], "--emit-ir", files[2], "--format", "json"]
    result = CliRunner().invoke(app, ["compile", "-m", "gpt2-tiny", *map(str, flags)], prog_name="forgec")
    assert result.exit_code == 0, result.stderr
    return files, result


def test_compile(compiled):
    from forgec.ir.parser import parse
    from forgec.report.report import Report

    (forge, report, text), result = compiled
    assert Report.from_json(result.stdout) == Report.from_json(report.read_text())
    assert Report.from_json(result.stdout).fidelity.passed
    assert "capture ..." in result.stderr.splitlines()
    parse(text.read_text())
    assert forge.stat().st_size > 0


def test_compile_stays_the_function_when_its_module_is_imported(compiled):
    import forgec

    assert forgec.compile is sys.modules["forgec.compile"].compile


def test_the_file_runs_where_there_is_no_torch(compiled, tmp_path):
    (forge, _, _), _ = compiled
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'safetensors'): sys.modules[name] = None\n"
        f"sys.argv = ['forgec', 'run', {str(forge)!r}, '-i', 'input_ids=1,2,3,4,5,6,7,8', '-o', 'o.npz']\n"
        "from forgec.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logits = np.load(tmp_path / "o.npz")["logits"]
    assert logits.shape[:2] == (1, 8)
    assert np.isfinite(logits).all()


def test_verify_against_eager_on_fresh_inputs(compiled, forgec):
    (forge, _, _), _ = compiled
    result = forgec("verify", forge, "-m", "gpt2-tiny", "--seeds", 2, "--format", "json")
    assert result.exit_code == 0, result.stdout
    comparisons = json.loads(result.stdout)["comparisons"]
    assert {c["inputs"] for c in comparisons} == {"seed 1", "seed 2"}
    assert {(c["result"], c["reference"]) for c in comparisons} == {
        ("executable", "eager"),
        ("interpreter", "eager"),
        ("executable", "interpreter"),
    }
    wrong = forgec("verify", forge, "-m", "gpt2-tiny", "--seeds", 1, "--seed", 9, "--format", "json")
    assert wrong.exit_code == 1
    document = json.loads(wrong.stdout)
    assert {c["reference"] for c in document["comparisons"] if not c["passed"]} == {"eager"}
    assert document["first_divergence"] is None


def test_analyze(forgec):
    result = forgec("analyze", "-m", "gpt2-tiny", "--tokens", 8)
    assert result.exit_code == 0, result.stderr
    assert "everything on cpu" in result.stdout


def test_demo(forgec, tmp_path):
    pytest.importorskip("tokenizers")
    out = tmp_path / "demo.forge"
    result = forgec("demo", "-o", out, "--format", "json", "-q")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["bytes"] == out.stat().st_size
    assert document["agreement"]["embedding_cosine"] > 1 - 1e-6
    assert document["agreement"]["hidden_max_abs"] < 2.1e-5
    similarity = np.array(document["similarity"])
    np.testing.assert_allclose(np.diag(similarity), 1, atol=1e-5)
    # Each sentence is closest to the other one about the same thing.
    nearest = np.argmax(similarity - 2 * np.eye(6), axis=1)
    assert nearest.tolist() == [1, 0, 3, 2, 5, 4]
