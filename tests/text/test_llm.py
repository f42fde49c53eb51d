"""Text from compiled programs: files, limits, stops, interruptions, what a caller can do wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
import torch
from forgec.models.decoder import Decoder
from text_models import generated, load, prompt
from tiers import slow_after
from tokenizers import decoders, pre_tokenizers
from tokenizers import models as token_models

import forgec
from forgec.errors import ArtifactError, FidelityError, InputError, ModelError, OptionError
from forgec.text.info import FILE, TEMPLATE_FILE, TOKENIZER_FILE

CONTEXT = 40
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }};{% endfor %}a:"


def tokenizer(size: int = 131) -> bytes:
    """One token for each of the first characters, and specials."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: i for i, text in enumerate(["<pad>", "<s>", "</s>", *letters][:size])}
    made = tokenizers.Tokenizer(token_models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<pad>", "<s>", "</s>"])
    return made.to_str().encode()


@pytest.fixture(scope="module")
def model():
    return load("llama", None)


@pytest.fixture(scope="module")
def expected(model):
    """The greedy text after a prompt of nine tokens, up to the end of the context."""
    return generated(model, prompt(9), CONTEXT - 9)


@pytest.fixture(scope="module")
def path(model, expected, tmp_path_factory):
    programs = forgec.compile_language_model(model, context=CONTEXT, chunks=[8])
    special = json.loads(programs.main.extra(FILE))
    special["special"] = {"bos_token": "<s>"}
    programs.main.add_extra(
        {
            FILE: json.dumps(special).encode(),
            TOKENIZER_FILE: tokenizer(),
            TEMPLATE_FILE: TEMPLATE.encode(),
        }
    )
    path = tmp_path_factory.mktemp("llm") / "model.forge"
    programs.save(path)
    return path


@pytest.fixture(scope="module")
def llm(path):
    with forgec.LLM(path) as llm:
        yield llm


def test_a_file_has_one_copy_of_the_weights(path, model):
    parameters = sum(p.numel() * p.element_size() for p in model.module.parameters())
    assert parameters < path.stat().st_size < parameters + 400_000


def test_text_is_that_of_transformers_until_the_context_is_full(llm, expected):
    assert [piece.token for piece in llm.generate(prompt(9), eos=())] == expected
    assert llm.stats.finish == "context"
    assert (llm.stats.prompt_tokens, llm.stats.tokens) == (9, CONTEXT - 9)
    assert llm.stats.prefill_s > 0 and llm.stats.decode_s > 0


def test_pieces_are_the_text_of_the_tokens(llm, expected):
    text = "".join(map(str, llm.generate(prompt(9), eos=())))
    assert text == llm.tokenizer.decode(expected)


def test_the_longest_prompt_gives_one_token_and_a_longer_one_is_refused(llm, model):
    ids = prompt(CONTEXT - 1)
    assert [piece.token for piece in llm.generate(ids, eos=())] == generated(model, ids, 1)
    for length in (CONTEXT, CONTEXT + 1, 10 * CONTEXT):
        with pytest.raises(InputError, match=f"{length} tokens leaves no room in a context of {CONTEXT}"):
            llm.generate(prompt(length))


def test_an_interrupted_text_leaves_no_trace(llm, expected):
    for count in (1, 3):
        text = llm.generate(prompt(21), eos=())
        for _ in range(count):
            next(text)
        text.close()
        assert llm.stats.finish == ""
        assert [piece.token for piece in llm.generate(prompt(9), eos=())] == expected


def test_a_second_text_ends_the_first(llm):
    first = llm.generate(prompt(9), eos=())
    next(first)
    next(llm.generate(prompt(5), eos=()))
    with pytest.raises(InputError, match="another text was begun"):
        next(first)


def test_stops(llm, expected):
    assert len(list(llm.generate(prompt(9), eos=(), max_tokens=3))) == 3
    assert llm.stats.finish == "length"
    at = expected.index(expected[4])
    pieces = list(llm.generate(prompt(9), eos=[expected[4]]))
    assert (len(pieces), llm.stats.finish) == (at + 1, "eos")
    assert "".join(map(str, pieces)) == llm.tokenizer.decode(expected[:at])
    whole = llm.tokenizer.decode(expected)
    stop = next(whole[i : i + 3] for i in range(4, 10) if "�" not in whole[i : i + 3])
    text = "".join(map(str, llm.generate(prompt(9), eos=(), stop=stop)))
    assert text == whole[: whole.index(stop)]
    assert llm.stats.finish == "stop"


def test_log_probabilities_are_the_model_s(llm):
    (piece,) = llm.generate(prompt(9), eos=(), max_tokens=1, logprobs=131)
    assert piece.top[0] == (piece.token, piece.logprob)
    assert sum(np.exp(value) for _, value in piece.top) == pytest.approx(1)


def test_equal_seeds_write_equal_texts(llm):
    def text(seed: int) -> list[int]:
        return [p.token for p in llm.generate(prompt(9), eos=(), temperature=1.5, top_k=20, seed=seed)]

    assert text(1) == text(1) != text(2)


def test_chat_is_the_text_after_the_template(llm):
    messages = [{"role": "user", "content": "hey"}]
    ids = llm.tokenizer.encode("<s>u:hey;a:", special=False)
    assert ids[0] == 1
    want = [piece.token for piece in llm.generate(ids, eos=())]
    assert [piece.token for piece in llm.chat(messages, eos=())] == want


def test_what_prompts_share_is_read_once(llm, model):
    llm.forget()
    first, rest = prompt(20), prompt(7, seed=3)
    list(llm.generate(first, eos=(), max_tokens=6))
    assert llm.stats.kept_tokens == 0
    for start in (1, 7, 8, 13, 20):
        ids = first[:start] + rest
        tokens = [piece.token for piece in llm.generate(ids, eos=(), max_tokens=8)]
        assert tokens == generated(model, ids, 8), f"after {start} tokens of the first text"
        assert llm.stats.kept_tokens == start
        list(llm.generate(first, eos=(), max_tokens=6))
    list(llm.generate(first, eos=(), max_tokens=1))
    assert llm.stats.kept_tokens == len(first) - 1
    llm.forget()
    list(llm.generate(first, eos=(), max_tokens=1))
    assert llm.stats.kept_tokens == 0


def test_a_conversation_goes_on_in_the_cache(llm, model):
    llm.forget()
    ids = prompt(9)
    ids += [piece.token for piece in llm.generate(ids, eos=(), max_tokens=5)]
    ids += prompt(3, seed=1)
    tokens = [piece.token for piece in llm.generate(ids, eos=(), max_tokens=5)]
    # The last token that was written has not been read.
    assert llm.stats.kept_tokens == 13
    assert tokens == generated(model, ids, 5)


def test_states_that_are_no_rows_are_kept_only_at_their_end(tmp_path):
    model = load("lfm2", None)
    with forgec.LLM(forgec.compile_language_model(model, context=CONTEXT, chunks=[4])) as llm:
        ids = prompt(9)
        list(llm.generate(ids, eos=(), max_tokens=1))
        for next_ids, kept in ((ids + prompt(4), 9), (ids[:7] + prompt(4), 0)):
            tokens = [piece.token for piece in llm.generate(next_ids, eos=(), max_tokens=6)]
            assert llm.stats.kept_tokens == kept
            assert tokens == generated(model, next_ids, 6)


def test_wrong_prompts(llm):
    for empty in ("", []):
        with pytest.raises(InputError, match="no tokens"):
            llm.generate(empty)
    for token in (131, -1):
        with pytest.raises(InputError, match="131 tokens"):
            llm.generate([3, token])
    for wrong in (None, 5, b"hello", [1.5, 2.7], ["a"], np.array([[5, 6]])):
        with pytest.raises(InputError, match=r"the prompt is|of the prompt is"):
            llm.generate(wrong)
    with pytest.raises(InputError, match=r"its character 1 is '\\udcff'"):
        llm.generate("a\udcff")


def test_wrong_options(llm):
    with pytest.raises(OptionError, match="unknown option temprature\n"):
        llm.generate([3], temprature=1.0, max_tokens=3)
    with pytest.raises(OptionError, match="eos is 5, and must be a list of token ids"):
        llm.generate([3], eos=5, max_tokens=3)
    with pytest.raises(OptionError, match="stop is None, and must be"):
        llm.generate([3], stop=None)
    with pytest.raises(OptionError, match=r"sampling is {'seed': 1}"):
        llm.generate([3], {"seed": 1})


def test_wrong_conversations(llm):
    for wrong in ("hi", [5], [{"role": "user"}], [{"content": "hi"}]):
        with pytest.raises(InputError, match="messages are like"):
            llm.chat(wrong)


def test_a_template_that_is_no_text(path):
    programs = forgec.load_programs(path)
    programs.main.add_extra({TEMPLATE_FILE: b"\xff"})
    with pytest.raises(ArtifactError, match="the chat template cannot be read"):
        forgec.LLM(programs).chat([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    ("template", "warned"),
    [
        (TEMPLATE, False),
        ([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": TEMPLATE}], False),
        ("{% for message in messages %}", True),
    ],
)
def test_the_template_of_a_model_is_compiled_with_it(model, tmp_path, template, warned):
    (tmp_path / TOKENIZER_FILE).write_bytes(tokenizer())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    loaded = replace(model, tokenizer_dir=tmp_path)
    programs = forgec.compile_language_model(loaded, context=16, chunks=[], check=False)
    found = [text for text in programs.main.report.warnings if "the chat template does not compile" in text]
    assert bool(found) == warned
    with forgec.LLM(programs) as llm:
        if not warned:
            assert list(llm.chat([{"role": "user", "content": "hi"}], max_tokens=1))
            return
        with pytest.raises(ArtifactError, match="the chat template fails"):
            llm.chat([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("chunks", [[], [1], [8]])
def test_the_least_context_and_no_chunks(model, chunks, tmp_path):
    programs = forgec.compile_language_model(model, context=2, chunks=chunks)
    programs.save(tmp_path / "m.forge")
    with forgec.LLM(programs) as ours, forgec.LLM(tmp_path / "m.forge") as stored:
        for llm in (ours, stored):
            assert [piece.token for piece in llm.generate([5], eos=())] == generated(model, [5], 1)


def test_sizes_that_are_none(model):
    for context in (1, 0, -3, True):
        with pytest.raises(ModelError, match=f"context is {context}, and must be at least 2"):
            forgec.compile_language_model(model, context=context)
    for wrong in (
        {"context": 2.5},
        {"context": "8"},
        {"context": 8, "chunks": [2.5]},
        {"context": 8, "chunks": 5},
    ):
        with pytest.raises(ModelError, match="not whole numbers"):
            forgec.compile_language_model(model, **wrong)


def test_a_tokenizer_that_does_not_match(path, tmp_path):
    programs = forgec.load_programs(path)
    programs.main.add_extra({TOKENIZER_FILE: tokenizer(200)})
    programs.save(tmp_path / "other.forge")
    with pytest.raises(ArtifactError, match="the model knows 131 tokens"):
        forgec.LLM(tmp_path / "other.forge")


def test_files_that_write_no_text(path, tmp_path):
    forgec.load(path).save(tmp_path / "decode.forge")
    with pytest.raises(ArtifactError, match="lacks the program"):
        forgec.LLM(tmp_path / "decode.forge")
    programs = forgec.load_programs(path)
    programs.main.add_extra({FILE: b'{"context": "long"}'})
    with pytest.raises(ArtifactError, match="malformed"):
        forgec.LLM(programs)


def test_contexts_and_models_that_do_not_fit(model):
    with pytest.raises(ModelError, match="at most 64 tokens, and context is 65"):
        forgec.compile_language_model("gpt2-tiny", context=65)
    with pytest.raises(ModelError, match="no decoder-only language model"):
        forgec.compile_language_model("bert-base-tiny", context=16)


def test_no_torch_and_no_transformers_at_run_time(path):
    code = (
        "import sys, forgec; llm = forgec.LLM(sys.argv[1]); list(llm.generate('hello', max_tokens=2, eos=()));"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


@pytest.mark.slow
def test_programs_of_a_calibrated_model_share_the_fitted_weights(tmp_path):
    ids = prompt(60)
    with forgec.compile_language_model(
        load("llama", None), context=24, chunks=[4, 8], weights="int4:32", calibration=ids, check=False
    ) as programs:
        tables = [exe.plan.program.constants.values() for exe in programs.values()]
        fitted = [{c.key for c in table if "fitted_" in repr(c.recipe)} for table in tables]
        assert fitted[0] and fitted[0] == fitted[1] == fitted[2]
        programs.save(tmp_path / "m.forge")
    with forgec.LLM(tmp_path / "m.forge") as llm:
        assert len(list(llm.generate(ids[:9], max_tokens=5))) == 5
    for wrong, message in (
        ([], "no tokens"),
        ([3, 131], "the token 131, and the model knows 131"),
        ([3, 1.5], "token 1 of the calibration is 1.5"),
    ):
        with pytest.raises(InputError, match=message):
            forgec.compile_language_model(
                load("llama", None), context=24, weights="int4", calibration=wrong, check=False
            )
    with pytest.raises(InputError, match="no tokenizer"):
        forgec.compile_language_model(
            load("llama", None), context=24, weights="int4", calibration="text", check=False
        )


@pytest.mark.parametrize("weights", slow_after(2, ["fp32", "int8", "w8a8", "int4:32"]))
def test_programs_that_disagree_about_their_cache_are_refused(weights, monkeypatch) -> None:
    forward = Decoder.forward

    def decode_elsewhere(self, input_ids, position, *rest, **named):
        return forward(self, input_ids, position + (input_ids.shape[1] == 1), *rest, **named)

    monkeypatch.setattr(Decoder, "forward", decode_elsewhere)
    with pytest.raises(FidelityError, match=r"the logits after (9|10) tokens differ"):
        forgec.compile_language_model(load("llama", None), context=16, chunks=[8], weights=weights)


def test_a_text_that_is_not_what_the_model_reads_without_a_cache(monkeypatch) -> None:
    plain = Decoder.plain
    monkeypatch.setattr(Decoder, "plain", lambda decoder, ids, start: plain(decoder, ids.flip(1), start))
    with pytest.raises(FidelityError, match="after 8 tokens differ from eager PyTorch's without a cache"):
        forgec.compile_language_model(load("llama", None), context=16, chunks=[8])


def test_the_check_of_all_programs_is_a_phase_of_the_main_one() -> None:
    programs = forgec.compile_language_model(load("llama", None), context=16, chunks=[8])
    phases = [[phase.name for phase in exe.report.phases] for exe in programs.values()]
    assert phases[0] == [*phases[1], "check_together"]


@pytest.mark.parametrize(
    ("weights", "cache", "kept"),
    slow_after(
        2, [("fp32", "auto", "f32"), ("int8", "auto", "f16"), ("int8", "f32", "f32"), ("fp32", "f16", "f16")]
    ),
)
def test_keys_and_values_are_kept_in_16_bits_beside_compressed_weights(
    weights, cache, kept, tmp_path
) -> None:
    model = load("llama", None)
    programs = forgec.compile_language_model(model, context=24, chunks=[8], weights=weights, cache=cache)
    for executable in programs.values():
        program = executable.plan.program
        assert {str(kind.dtype.value) for kind in program.states.values()} == {kept}
        read = [x.operands[1:3] for x in program.main.body if x.op == "attention"]
        assert read and {x.type.dtype.value for pair in read for x in pair} == {kept}, "read as it is kept"
    programs.save(tmp_path / "m.forge")
    with forgec.LLM(programs) as ours, forgec.LLM(tmp_path / "m.forge") as stored:
        written = [[piece.token for piece in llm.generate(prompt(9), max_tokens=6)] for llm in (ours, stored)]
    assert written[0] == written[1]


def test_convolution_states_stay_as_they_are_beside_a_cache_of_16_bits(tmp_path) -> None:
    programs = forgec.compile_language_model(
        load("lfm2", tmp_path), context=24, chunks=[8], cache="f16", check=False
    )
    kinds = {(kind.rank, kind.dtype.value) for kind in programs.main.plan.program.states.values()}
    assert kinds == {(4, "f16"), (3, "f32")}, "keys and values, and convolutions"


def test_keys_that_16_bits_do_not_hold_are_limited() -> None:
    model = load("llama", None)
    with torch.no_grad():
        for layer in model.module.model.layers:
            layer.self_attn.v_proj.weight *= 1e5
            layer.self_attn.o_proj.weight /= 1e5
    programs = forgec.compile_language_model(model, context=24, chunks=[8], cache="f16", check=False)
    with forgec.LLM(programs) as llm:
        logits = np.stack(list(llm.logits(prompt(9), 1)))
    assert np.isfinite(logits).all()


def test_an_unknown_cache_is_refused() -> None:
    with pytest.raises(OptionError, match="cache"):
        forgec.compile_language_model(load("llama", None), context=24, cache="int8")


@pytest.mark.slow
def test_a_loaded_model_can_be_compiled_twice() -> None:
    loaded = forgec.models.load("llama-3.2-1b-tiny")
    texts = []
    for context, chunk in ((40, 8), (64, 16)):
        with forgec.LLM(forgec.compile_language_model(loaded, context=context, chunks=[chunk])) as llm:
            texts.append([piece.token for piece in llm.generate([5, 6, 7], max_tokens=6, eos=())])
    assert texts[0] == texts[1]
