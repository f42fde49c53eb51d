"""Real models through the real compiler; everything else in this folder uses stand-ins."""

import json
import subprocess
import sys

import numpy as np
import pytest
from cli_toy import Wrong, example, tensors, toy


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
    assert "FORGEC_PASSES=-NAME" in document["suspect"]
    assert "FORGEC_REWRITE_LIMIT=N" in document["suspect"]
    assert json.loads(result.stdout)["suspect"] is None


def imprecise_toy(error):
    """The toy in eager PyTorch, off by ``error`` unless it computes in float64."""
    import torch

    class Toy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, array in tensors().items():
                setattr(self, name, torch.nn.Parameter(torch.from_numpy(array)))

        def forward(self, input_ids, bias):
            hidden = torch.nn.functional.gelu(self.wte[input_ids] @ self.w) + bias
            if hidden.dtype == torch.float32:
                hidden = hidden + error
            return {"logits": hidden @ self.wte.T, "hidden": hidden}

    return Toy()


@pytest.mark.parametrize(("error", "noted"), [(0.0, False), (1e-4, True)])
def test_an_imprecise_reference_is_found_out_by_float64(error, noted):
    import torch

    from forgec.cli.comparison import fresh_cases
    from forgec.cli.subject import Subject

    model = imprecise_toy(error)
    inputs = tuple(torch.from_numpy(array) for array in example())
    (case,) = fresh_cases(toy(), Subject("toy", model, lambda seed: (inputs, {})), 1)
    assert all(c.passed for c in case.comparisons)
    notes = {c.output: c.note for c in case.comparisons if c.note}
    assert set(notes) == ({"logits", "hidden"} if noted else set())
    if noted:
        assert notes["hidden"].endswith("1.0e-04 from eager")
    assert model.w.dtype is torch.float32


def test_a_wrong_executable_is_not_excused():
    import torch

    from forgec.cli.comparison import fresh_cases
    from forgec.cli.subject import Subject

    broken = Wrong("gelu", 0.01)
    inputs = tuple(torch.from_numpy(array) for array in example())
    subject = Subject("toy", imprecise_toy(0.0), lambda seed: (inputs, {}))
    (case,) = fresh_cases(toy(selftest=False, backend=lambda name: broken), subject, 1)
    failed = {(c.result, c.reference) for c in case.comparisons if not c.passed}
    assert failed == {("executable", "eager"), ("executable", "interpreter")}
    assert case.executable_differs
    assert not case.rewrite_suspect


def test_the_outputs_of_another_model_are_a_clear_error():
    from forgec.cli.eager import flat_outputs
    from forgec.errors import InputError

    for outputs in ({"logits": np.zeros((1, 4, 9), np.float32)}, {"logits": np.zeros(3), "hidden": 0}, None):
        with pytest.raises(InputError, match="not those of the file"):
            flat_outputs(toy().signature, outputs)


def test_an_exported_program(forgec, tmp_path):
    import torch

    class Model(torch.nn.Module):
        def forward(self, x):
            return torch.relu(x), x.sum()

    saved, out = tmp_path / "m.pt2", tmp_path / "m.forge"
    torch.export.save(torch.export.export(Model().eval(), (torch.arange(-2.0, 2.0),)), saved)
    assert forgec("compile", "-m", saved, "-o", out, "-q").exit_code == 0
    result = forgec("verify", out, "-m", saved, "--seeds", 3, "--format", "json")
    assert result.exit_code == 0, result.stderr
    comparisons = json.loads(result.stdout)["comparisons"]
    assert {c["inputs"] for c in comparisons} == {"example"}
    assert len(comparisons) == 6
    result = forgec("compile", "-m", saved, "-o", out, "--tokens", 4)
    assert (result.exit_code, "fixes its sizes" in result.stderr) == (2, True)


def test_analyze(forgec):
    result = forgec("analyze", "-m", "gpt2-tiny", "--tokens", 8)
    assert result.exit_code == 0, result.stderr
    assert "everything on cpu" in result.stdout


def test_demo(forgec, tmp_path):
    pytest.importorskip("tokenizers", reason="runs where forgec[test] is installed")
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
