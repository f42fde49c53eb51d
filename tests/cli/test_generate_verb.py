"""From a Hugging Face directory to text: compile --context, generate, chat."""

from __future__ import annotations

import json
import shutil

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tokenizers import decoders, pre_tokenizers
from tokenizers import models as token_models
from typer.testing import CliRunner

import forgec as package
from forgec import models
from forgec.cli.main import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama with a tokenizer of single bytes and a chat template."""
    folder = tmp_path_factory.mktemp("model")
    models.load("llama-3.2-1b-tiny").module.save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:128]
    made = tokenizers.Tokenizer(token_models.BPE({c: i for i, c in enumerate(["<s>", "</s>", *letters])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}{{ m['content'] }};{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "chat_template": template}))
    return folder


@pytest.fixture(scope="module")
def file(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "model.forge"
    flags = ("--context", "32", "--chunk", "8", "-q")
    result = CliRunner().invoke(app, ["compile", "-m", str(folder), *flags, "-o", str(path)])
    assert result.exit_code == 0, result.stderr
    return path


def test_generate_prints_the_text_and_what_it_took(forgec, file):
    result = forgec("generate", "-m", str(file), "-p", "hello-you", "-n", "5")
    assert result.exit_code == 0, result.stderr
    with package.LLM(file) as llm:
        text = "".join(map(str, llm.generate("hello-you", max_tokens=5)))
    assert result.stdout.rstrip("\n") == text.rstrip("\n")
    assert "9 prompt tokens, 5 new (length)" in result.stderr
    assert "decode" in result.stderr and "(measured)" in result.stderr


def test_generate_as_json(forgec, file):
    result = forgec(
        "generate", "-m", str(file), "-p", "hello", "-n", "3", "--logprobs", "2", "--format", "json"
    )
    document = json.loads(result.stdout)
    assert len(document["tokens"]) == 3 and document["finish"] == "length"
    assert all(len(token["top"]) == 2 for token in document["tokens"])
    assert document["measured"]["prompt_tokens"] == 5


def test_profile_takes_one_of_the_programs(forgec, file):
    inputs = ("-i", "input_ids=1,2,3,4,5,6,7,8", "-i", "position=0", "-i", "count=8")
    result = forgec("profile", file, "--program", "prefill.8", *inputs, "--repeat", 1, "--format", "json")
    assert result.exit_code == 0, result.stderr
    assert any("1x8x" in row["what"] for row in json.loads(result.stdout)["kernels"])
    result = forgec("profile", file, "--program", "prefill.9")
    assert result.exit_code == 2 and "one of: decode, prefill.8" in result.stderr


def test_show_and_verify_take_one_of_the_programs(forgec, file):
    result = forgec("show", file, "--format", "json")
    assert json.loads(result.stdout)["summary"]["programs"] == ["decode", "prefill.8"]
    assert json.loads(result.stdout)["summary"]["inputs"]["input_ids"] == "i64[1,1]"
    result = forgec("show", file, "--program", "prefill.8")
    assert "input_ids: i64[1,8]" in result.stdout and "decode, prefill.8" in result.stdout
    result = forgec("show", "-m", "minilm-tiny", "--program", "prefill.8")
    assert result.exit_code == 2 and "give FILE.forge" in result.stderr
    for program in ("decode", "prefill.8"):
        result = forgec("verify", file, "--program", program, "--format", "json")
        assert result.exit_code == 0, result.stderr
        compared = json.loads(result.stdout)["comparisons"]
        assert {c["output"] for c in compared} == {"logits"} and all(c["passed"] for c in compared)


def test_verify_with_the_model_says_what_to_do(forgec, file, folder):
    result = forgec("verify", file, "-m", str(folder))
    assert result.exit_code == 2
    assert "compared with it when they are compiled" in result.stderr and "without -m" in result.stderr
    assert "position" not in result.stderr


def test_chat_takes_turns(forgec, file):
    result = forgec("chat", "-m", str(file), "-n", "2", input="hey\n\n")
    assert result.exit_code == 0, result.stderr
    assert "4 prompt tokens, 2 new" in result.stderr


def test_wrong_calls_are_usage_errors(forgec, file, forge):
    for arguments, message in (
        (("-m", str(file), "-p", "x" * 40), "leaves no room in a context of 32"),
        (("-m", str(file), "-p", ""), "no tokens"),
        (("-m", str(file), "-p", "x", "--top-p", "2"), "top_p is 2.0"),
        (("-m", str(forge), "-p", "x"), "--context N"),
    ):
        result = forgec("generate", *arguments)
        assert result.exit_code in (1, 2)
        assert message in result.stderr
    result = forgec("compile", "-m", "gpt2-tiny", "--chunk", "8")
    assert result.exit_code == 2 and "--context" in result.stderr


def _missing(folder):
    """One of two shards."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    names = {name: f"{number % 2}.safetensors" for number, name in enumerate(tensors)}
    save_file(
        {n: x for n, x in tensors.items() if names[n][0] == "0"}, folder / "0.safetensors", {"format": "pt"}
    )
    path.with_name("model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    path.unlink()


def _truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _changed(change):
    def damage(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        name = next(name for name in tensors if name.endswith("up_proj.weight"))
        tensors[name] = change(tensors[name])
        save_file(tensors, path, {"format": "pt"})

    return damage


def _other_tokenizer(folder):
    made = json.loads((folder / "tokenizer.json").read_text())
    made["model"]["vocab"]["<x>"] = 500
    (folder / "tokenizer.json").write_text(json.dumps(made))


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "loaded"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_missing, "1.safetensors"),
        (_truncated, "incomplete metadata"),
        (_changed(lambda weight: weight[1:].clone()), "up_proj.weight"),
        (_changed(lambda weight: weight.to(torch.complex64)), "up_proj.weight"),
        (_other_tokenizer, "the model knows 131 tokens"),
    ],
    ids=["missing", "truncated", "shape", "dtype", "tokenizer"],
)
def test_damaged_folders_are_errors_that_say_what(forgec, folder, tmp_path, damage, message, stream):
    copy = shutil.copytree(folder, tmp_path / "model")
    damage(copy)
    check = ["--no-check"] if stream else []
    out = tmp_path / "model.forge"
    result = forgec("compile", "-m", str(copy), "--context", "32", "-q", *check, "-o", str(out))
    assert result.exit_code in (1, 2), result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr + result.stdout
    assert not out.exists()


@pytest.mark.parametrize(
    ("weights", "message"), [("int3", "int3"), ("int4:7", "7"), ("int8;nowhere.*=int4", "nowhere")]
)
def test_unknown_weights_are_usage_errors(forgec, folder, tmp_path, weights, message):
    flags = ("--context", "32", "--no-check", "-q", "--weights", weights)
    result = forgec("compile", "-m", str(folder), *flags, "-o", str(tmp_path / "model.forge"))
    assert result.exit_code == 2 and message in result.stderr


def test_an_interrupted_text_ends_without_a_traceback(forgec, file, monkeypatch):
    """Ctrl-C while the third token is computed: what was written stays, and the exit code is the shell's."""
    read, calls = package.LLM._next, []

    def interrupted(llm, ids):
        calls.append(len(ids))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read(llm, ids)

    monkeypatch.setattr(package.LLM, "_next", interrupted)
    result = forgec("generate", "-m", str(file), "-p", "hello-you", "-n", "9")
    assert result.exit_code == 130
    assert result.stdout and "Traceback" not in result.stderr + result.stdout


@pytest.mark.slow
def test_calibrated_weights(forgec, folder, tmp_path):
    text, path = tmp_path / "text.txt", tmp_path / "model.forge"
    text.write_text("".join(map(chr, range(33, 90))))
    base = ["compile", "-m", str(folder), "--chunk", "8", "--no-check", "-q", "-o", str(path)]
    full = [*base, "--context", "32", "--calibrate", str(text)]
    result = forgec(*full, "--weights", "int4:32")
    assert result.exit_code == 0, result.stderr
    with package.LLM(path) as llm:
        recipes = [str(c.recipe) for c in llm.programs.main.program.constants.values()]
        assert sum("fitted_codes" in recipe for recipe in recipes) > 0
        assert list(llm.generate("hello", max_tokens=3))
    result = forgec(*full)
    assert result.exit_code == 2 and "only weights of 4 bits are calibrated" in result.stderr
    result = forgec("compile", "-m", str(folder), "--calibrate", str(text), "--weights", "int4")
    assert result.exit_code == 2 and "--calibrate is for models that write text" in result.stderr
    text.write_bytes(b"\xff\xfe")
    result = forgec(*full, "--weights", "int4")
    assert result.exit_code == 2 and "no text in UTF-8" in result.stderr
    text.write_text("")
    result = forgec(*full, "--weights", "int4")
    assert result.exit_code == 2 and "no tokens" in result.stderr
