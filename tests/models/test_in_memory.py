"""Hugging Face models that are in memory already: made programs without being changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from forgec.models import LoadedModel
from tiers import slow_after
from transformers import PreTrainedModel

import forgec
from forgec import models
from forgec.errors import ModelError


def llama(dtype: str = "float32") -> PreTrainedModel:
    """As a user has it: with a cache, and gradients for training."""
    model = models.load("llama-3.2-1b-tiny", dtype=dtype).module
    assert isinstance(model, PreTrainedModel)
    model.config.use_cache = True
    return model.requires_grad_(True)


def text(model: PreTrainedModel) -> list[int]:
    ids = torch.tensor([[5, 99, 41, 7]])
    with torch.no_grad():
        return model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)[0, 4:].tolist()


@pytest.mark.parametrize("dtype", slow_after(2, ["float32", "bfloat16", "float16"]))
def test_a_language_model_writes_what_it_wrote_and_is_unchanged(dtype: str) -> None:
    model = llama(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    wanted = text(LoadedModel.of(model).module)

    programs = forgec.compile_language_model(model, context=32, chunks=(8,))
    llm = forgec.LLM(programs)
    written = [piece.token for piece in llm.generate([5, 99, 41, 7], max_tokens=8, eos=())]
    assert written == wanted

    assert [type(module) for module in model.modules()] == kinds
    assert all(parameter.requires_grad for parameter in model.parameters()) and model.config.use_cache
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype and torch.equal(value, before[name]), name
    assert len(text(model)) == 8


TINY = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "vocab_size": 128, "initializer_range": 0.2},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
SEES = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"image_size": 32, "patch_size": 8},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        pytest.param(
            lambda: transformers.MixtralForCausalLM(transformers.MixtralConfig(**TINY)), id="experts"
        ),
        pytest.param(
            lambda: transformers.Gemma3ForConditionalGeneration(
                transformers.Gemma3Config(
                    text_config={**TINY, "head_dim": 8},
                    vision_config=SEES,
                    mm_tokens_per_image=4,
                    image_token_id=100,
                )
            ),
            id="as many layers that see",
        ),
    ],
)
def test_models_that_were_built_in_memory(build) -> None:
    torch.manual_seed(0)
    model = build().eval()
    programs = forgec.compile_language_model(model, context=32, chunks=(8,))
    with forgec.LLM(programs) as llm:
        written = [piece.token for piece in llm.generate([5, 99, 41, 7], max_tokens=8, eos=())]
    assert written == text(model)


def test_weights_of_float32_are_shared_and_tied_ones_stay_tied() -> None:
    model = llama()
    twin = LoadedModel.of(model).module
    pairs = zip(model.named_parameters(), twin.named_parameters(), strict=True)
    for (name, ours), (theirs_name, theirs) in pairs:
        assert name == theirs_name and ours.data_ptr() == theirs.data_ptr() and not theirs.requires_grad
    half = LoadedModel.of(llama("bfloat16")).module
    assert half.get_input_embeddings().weight is half.get_output_embeddings().weight
    assert {p.dtype for p in half.parameters()} == {torch.float32}


def test_an_encoder_of_bfloat16_is_compiled_as_float32() -> None:
    model = models.load("bert-base-tiny", dtype="bfloat16").module
    loaded = LoadedModel.of(model)
    assert loaded.weights == "module" and loaded.inputs == ("input_ids", "attention_mask", "token_type_ids")
    args, kwargs = loaded.example_inputs(tokens=12)
    executable = forgec.compile(loaded.module, args, kwargs)
    _, other = loaded.example_inputs(tokens=12, seed=3)
    found = executable(**{name: value.numpy() for name, value in other.items()})["last_hidden_state"]
    wanted = loaded.module(**other).last_hidden_state.numpy()
    assert found.dtype == np.float32 and np.abs(found - wanted).max() < 2.1e-5


def test_a_part_of_a_model() -> None:
    from transformers import T5ForConditionalGeneration

    config = models.load("t5-small.decoder-tiny").config
    model = T5ForConditionalGeneration(config)
    for part in ("encoder", "decoder"):
        loaded = LoadedModel.of(model, part=part)
        args, kwargs = loaded.example_inputs(tokens=6)
        loaded.module(*args, **kwargs)
    assert model.get_encoder() is not None
    with pytest.raises(ModelError, match="two programs"):
        LoadedModel.of(model)


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    model = models.load("bert-base-tiny").module
    with pytest.raises(ModelError, match="no tokenizer"):
        LoadedModel.of(model, tokenizer_dir=tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert LoadedModel.of(model, tokenizer_dir=str(tmp_path)).tokenizer_dir == tmp_path


def test_what_cannot_be_taken() -> None:
    with pytest.raises(ModelError, match=r"torch\.nn\.modules\.linear\.Linear is no model of transformers"):
        LoadedModel.of(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with torch.device("meta"):
        nowhere = models.load("gpt2-tiny").module
    with pytest.raises(ModelError, match=r"is on meta"):
        LoadedModel.of(nowhere)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused_by_their_type(dtype: torch.dtype) -> None:
    model = models.load("gpt2-tiny").module
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(2, 2).to(dtype), requires_grad=False)
    with pytest.raises(ModelError, match=f"already quantised .*lm_head.weight is {dtype}"):
        LoadedModel.of(model)  # type: ignore[arg-type]


def test_quantised_weights_are_refused_by_the_configuration() -> None:
    """Some keep them in buffers, beside modules of their own."""
    for settings in ({"quant_method": "gptq"}, transformers.GPTQConfig(bits=4)):
        model = models.load("gpt2-tiny").module
        model.config.quantization_config = settings
        with pytest.raises(ModelError, match=r"already quantised \(method gptq\)"):
            LoadedModel.of(model)  # type: ignore[arg-type]


def test_a_language_model_loaded_as_bfloat16_is_refused_with_the_way_out() -> None:
    loaded = models.load("gpt2-tiny", dtype="bfloat16")
    with pytest.raises(ModelError, match=r"not float32: .* is torch\.bfloat16") as caught:
        forgec.compile_language_model(loaded, context=16, chunks=(4,))
    assert "default dtype" in str(caught.value.hint)
