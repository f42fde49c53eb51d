"""run, show, verify and bench on a .forge file."""

import json

import numpy as np
import pytest
from cli_toy import Wrong, example, toy
from tiers import slow_after


def rows(text):
    """The cells of a printed table, by first cell."""
    return {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}


def test_run_on_the_stored_example(forgec, forge):
    result = forgec("run", forge)
    assert result.exit_code == 0, result.stderr
    assert rows(result.stdout)["input_ids"] == ["input_ids", "i64[1,4]", "the", "stored", "example"]
    expected = toy().run_flat(example())[0].ravel()[0]
    assert rows(result.stdout)["logits"][4] == f"{expected:.6g}"
    assert "(measured, 1 run)" in result.stdout
    assert result.stderr == ""


def test_run_as_json_with_given_inputs(forgec, forge, tmp_path):
    ids, bias = np.array([[1, 2, 3, 4]]), np.ones((4, 8), np.float32)
    np.save(tmp_path / "bias.npy", bias)
    out = tmp_path / "out.npz"
    arguments = ("--input", "input_ids=1,2,3,4", "-i", f"bias={tmp_path / 'bias.npy'}", "-o", out)
    result = forgec("run", forge, *arguments, "--format", "json", "--repeat", 3, "-q")
    document = json.loads(result.stdout)
    expected = toy().run_flat([ids, bias])
    assert [x["from"] for x in document["inputs"]] == ["the command line", str(tmp_path / "bias.npy")]
    assert [x["type"] for x in document["outputs"]] == ["f32[1,4,9]", "f32[1,4,8]"]
    assert document["outputs"][0]["max"] == expected[0].max()
    assert document["latency"]["runs"] == 3
    assert (
        0 < document["latency"]["min_ms"] <= document["latency"]["median_ms"] <= document["latency"]["p99_ms"]
    )
    stored = np.load(out)
    np.testing.assert_array_equal(stored["logits"], expected[0])
    np.testing.assert_array_equal(stored["hidden"], expected[1])


def test_run_takes_an_npz_and_later_texts_win(forgec, forge, tmp_path):
    np.savez(tmp_path / "in.npz", input_ids=np.zeros((1, 4), np.int64), bias=np.zeros((4, 8), np.float32))
    result = forgec("run", forge, "-i", tmp_path / "in.npz", "-i", "bias=random:3", "--format", "json")
    assert [x["from"] for x in json.loads(result.stdout)["inputs"]] == [
        str(tmp_path / "in.npz"),
        "random, seed 3",
    ]


def test_random_inputs_follow_their_seed_and_stay_in_the_range_of_the_example():
    from forgec.cli.inputs import parse_inputs

    drawn = {}
    for seed in (1, 2):
        (ids, bias), _ = parse_inputs([f"input_ids=random:{seed}", f"bias=random:{seed}"], toy())
        (again, _), _ = parse_inputs([f"input_ids=random:{seed}"], toy())
        assert (ids == again).all()
        assert ids.shape == (1, 4)
        assert ids.min() >= 2
        assert ids.max() <= 7
        drawn[seed] = bias
    assert not (drawn[1] == drawn[2]).all()
    assert drawn[1].dtype == np.float32


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["inputids=zeros"], "there is no input 'inputids'\n  try: did you mean 'input_ids'?"),
        (["bias"], "'bias' is no input"),
        (["bias=rand"], "'rand' is no value for the input 'bias'"),
        (["bias=random:x"], "is no value"),
        (["bias=none.npy"], "cannot read none.npy"),
        (["none.npz"], "cannot read none.npz"),
        (["input_ids=1,2"], r"input 'input_ids' must be i64[1,4]"),
        (["input_ids=1,2,3,[4]"], "is no value"),
        (["input_ids=99,0,0,0"], "99"),
    ],
)
def test_bad_inputs_are_usage_errors(forgec, forge, texts, message):
    result = forgec("run", forge, *(part for text in texts for part in ("-i", text)))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_run_refuses_pickles(forgec, forge, tmp_path):
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], dtype=object))
    result = forgec("run", forge, "-i", f"bias={tmp_path / 'p.npy'}")
    assert result.exit_code == 2
    assert "p.npy: it holds no arrays of numbers" in result.stderr


def test_a_file_without_example_needs_inputs(forgec, tmp_path):
    toy(selftest=False).save(tmp_path / "bare.forge")
    result = forgec("run", tmp_path / "bare.forge")
    assert (result.exit_code, "--input input_ids=random" in result.stderr) == (2, True)
    assert forgec("run", tmp_path / "bare.forge", "-i", "input_ids=zeros", "-i", "bias=zeros").exit_code == 0
    result = forgec("verify", tmp_path / "bare.forge")
    assert (result.exit_code, "-m" in result.stderr) == (2, True)


@pytest.mark.parametrize("verb", ["run", "show", "verify", "bench", "profile"])
def test_no_such_file(forgec, verb):
    result = forgec(verb, "/none.forge")
    assert result.exit_code == 2
    assert "No such file" in result.stderr
    assert "/none.forge" in result.stderr


def test_unwritable_outputs_are_found_before_the_work(forgec, forge, tmp_path):
    result = forgec("run", forge, "-o", tmp_path / "none" / "out.npz")
    assert result.exit_code == 2
    assert "there is no directory" in result.stderr
    assert result.stdout == ""
    assert "it is a directory" in forgec("run", forge, "-o", tmp_path).stderr


def test_outputs_are_there_whole_or_not_at_all(forgec, forge, tmp_path, monkeypatch):
    """A disk that is full in the middle leaves the file that was there, and nothing else."""
    import numpy as np

    out = tmp_path / "out.npz"
    out.write_bytes(b"before")

    def fails(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fails)
    result = forgec("run", forge, "-o", out)
    assert result.exit_code == 1 and "disk is full" in result.stderr
    assert out.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 2


def test_a_file_of_one_program_says_so(forgec, forge):
    result = forgec("profile", forge, "--program", "decode")
    assert result.exit_code == 2 and "it has one, which has no name" in result.stderr


def test_show_summary(forgec, forge):
    result = forgec("show", forge)
    assert result.exit_code == 0
    assert "input    input_ids: i64[1,4]" in result.stdout
    assert "program  5 instructions" in result.stdout
    assert "block    1 x block" in result.stdout
    assert "ops      2 linear" in result.stdout


def test_show_parts(forgec, forge):
    from forgec.ir.parser import parse
    from forgec.plan.memory_map import memory_map

    document = json.loads(
        forgec(
            "show", forge, "--ir", "--plan", "--memory", "--manifest", "--weights", "--format", "json"
        ).stdout
    )
    assert list(document) == ["ir", "plan", "memory", "manifest", "weights"]
    assert parse(document["ir"]) == toy().program
    assert parse(document["plan"]) == toy().plan.program
    assert document["memory"].strip() == memory_map(toy().plan).strip()
    assert document["manifest"]["name"] == "toy"
    assert "weights.safetensors" in document["manifest"]["members"]
    assert [w["bytes"] for w in document["weights"]] == [288, 256]
    text = forgec("show", forge, "--ir").stdout
    assert text == document["ir"]


def test_show_report(forgec, forge, tmp_path):
    from report_samples import sample

    result = forgec("show", forge, "--report")
    assert (result.exit_code, "keeps no report" in result.stderr) == (1, True)
    toy(report=sample()).save(tmp_path / "r.forge")
    assert "403 -> 333 (-17.4 %)" in forgec("show", tmp_path / "r.forge", "--report").stdout
    document = json.loads(forgec("show", tmp_path / "r.forge", "--report", "--format", "json").stdout)
    assert document["report"] == sample().to_dict()


@pytest.mark.parametrize("verb", ["show", "bench"])
def test_one_of_file_and_model(forgec, forge, verb):
    for arguments in ((verb,), (verb, forge, "-m", "x")):
        result = forgec(*arguments)
        assert (result.exit_code, "give one of the two" in result.stderr) == (2, True)


def test_verify_without_a_model(forgec, forge):
    result = forgec("verify", forge)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count(" ok") == 6
    assert "logits on stored" in result.stdout
    document = json.loads(forgec("verify", forge, "--format", "json").stdout)
    assert document["passed"] is True
    assert document["first_divergence"] is None
    assert {(c["result"], c["reference"]) for c in document["comparisons"]} == {
        ("executable", "stored outputs"),
        ("interpreter", "stored outputs"),
        ("executable", "interpreter"),
    }


@pytest.mark.parametrize("weights", slow_after(1, ["w8a8", "w4a8:32"]))
def test_verify_of_rounded_activations_knows_that_codes_flip(forgec, tmp_path, weights):
    """Numbers at the border of two codes become either, by the last bit of what computed them."""
    path = tmp_path / "codes.forge"
    forgec("compile", "-m", "bert-base-tiny", "--weights", weights, "-o", path)
    for model in ((), ("-m", "bert-base-tiny")):
        result = forgec("verify", path, *model)
        assert result.exit_code == 0, result.stdout
        assert "executable" in result.stdout and "interpreter" in result.stdout


def test_verify_finds_wrong_stored_outputs(forgec, tmp_path):
    from forgec.executable import SelfTest

    executable = toy()
    logits, hidden = executable.selftest.outputs
    executable._shared.selftest = SelfTest(example(), [logits + np.float32(1e-3), hidden])
    executable.save(tmp_path / "wrong.forge")
    result = forgec("verify", tmp_path / "wrong.forge", "--format", "json")
    assert result.exit_code == 1
    failed = [(c["result"], c["output"]) for c in json.loads(result.stdout)["comparisons"] if not c["passed"]]
    assert failed == [("executable", "logits"), ("interpreter", "logits")]
    assert "FAILED" in forgec("verify", tmp_path / "wrong.forge").stdout


def test_verify_names_the_first_wrong_instruction(forgec, forge, monkeypatch):
    monkeypatch.setattr("forgec.backends.get", lambda name: Wrong("gelu", 0.01))
    result = forgec("verify", forge)
    assert result.exit_code == 1
    assert "executable and interpreter first differ at instruction 2: r4: f32[1,4,8] @cpu" in result.stdout
    assert "# aten.gelu, model.py:6, act (max abs 1.0e-02)" in result.stdout
    document = json.loads(forgec("verify", forge, "--format", "json").stdout)
    assert document["first_divergence"].startswith("instruction 2:")
    failed = {(c["result"], c["reference"]) for c in document["comparisons"] if not c["passed"]}
    assert failed == {("executable", "stored outputs"), ("executable", "interpreter")}


def test_bench(forgec, forge):
    result = forgec("bench", forge, "--repeat", 3)
    assert result.exit_code == 0, result.stderr
    table = rows(result.stdout)
    assert table["linear"][:3] == ["linear", "cpu", "2"]
    assert "measured, 3 runs" in result.stdout
    document = json.loads(forgec("bench", forge, "--repeat", 2, "--format", "json").stdout)
    assert [step["op"] for step in document["instructions"]] == [
        "embedding",
        "linear",
        "gelu",
        "add",
        "linear",
    ]
    assert all(step["ms"] > 0 for step in document["instructions"])
    whole = sum(op["ms"] for op in document["ops"])
    assert whole == pytest.approx(sum(step["ms"] for step in document["instructions"]))


def test_profile_prints_kernels_and_writes_a_trace(forgec, forge, tmp_path):
    result = forgec("profile", forge, "--repeat", 2, "--trace", tmp_path / "run.json")
    assert result.exit_code == 0, result.stderr
    assert "linear" in rows(result.stdout) and "(measured, fastest of 2" in result.stdout
    assert json.loads((tmp_path / "run.json").read_text())["traceEvents"]
    document = json.loads(forgec("profile", forge, "--repeat", 1, "--format", "json").stdout)
    assert {row["kind"] for row in document["kernels"]} == {"measured"}
    assert document["ms"] >= sum(row["ms"] for row in document["kernels"])
