"""The presets: published sizes, tiny variants that keep the structure, seeded weights."""

import subprocess
import sys

import pytest
import torch
from forgec.models.building import make_config, model_class, random_model
from torch import nn

from forgec import models
from forgec.errors import ModelError

TINY = models.names(tiny=True)
FULL = models.names(tiny=False)

# The fields that a tiny variant may change. Anything else is structure and must be as published.
SIZES = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "layer_types", "rope_scaling",
    "attention_multiplier", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id",
    "n_positions", "n_embd", "n_layer", "n_head",
    "image_size", "patch_size", "num_labels",
    "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads",
    "num_mel_bins", "encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads",
    "encoder_ffn_dim", "decoder_ffn_dim", "max_source_positions", "max_target_positions", "init_std",
    "decoder_start_token_id",
}  # fmt: skip


def whole_model(name: str, seed: int = 0):
    """The complete Hugging Face model of a preset, before it is taken apart."""
    config = make_config(models.describe(name).config_dict(), layers=None)
    return random_model(model_class(config), config, seed=seed, attn="sdpa", dtype=torch.float32)


def test_names_are_unique_and_every_preset_has_a_tiny_variant():
    assert len(set(models.names())) == len(models.names())
    assert sorted(models.names()) == sorted(FULL + TINY)
    assert sorted(TINY) == sorted(f"{name}-tiny" for name in FULL)


def test_names_and_describe_need_no_torch():
    code = (
        "import sys; from forgec import models; models.names(); models.describe('gpt2');"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_package_has_no_other_attributes():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = models.laod


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ModelError, match="no preset named 'gtp2'") as error:
        models.describe("gtp2")
    assert error.value.hint == "did you mean gpt2?"
    with pytest.raises(ModelError) as error:
        models.describe("zzzz")
    assert all(name in error.value.hint for name in FULL)


@pytest.mark.parametrize("name", FULL)
def test_parameter_count_is_the_published_one(name):
    preset = models.describe(name)
    with torch.device("meta"):
        model = whole_model(name)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(preset.params, rel=0.01)
    assert preset.params_source and preset.source and preset.family == model.config.model_type


def test_meta_device_uses_no_memory():
    with torch.device("meta"):
        model = models.load("llama-3.1-8b")
    assert all(p.is_meta for p in model.module.parameters())


@pytest.mark.parametrize("name", FULL)
def test_tiny_variant_keeps_the_structure(name):
    full, tiny = models.describe(name), models.describe(f"{name}-tiny")
    assert (tiny.architecture, tiny.part) == (full.architecture, full.part)
    assert tiny.dims.keys() - full.dims.keys() <= {"pad_token_id"}
    for key in full.dims.keys() - SIZES:
        assert tiny.dims[key] == full.dims[key], key
    if "num_key_value_heads" in full.dims:
        ratios = [p.dims["num_attention_heads"] // p.dims["num_key_value_heads"] for p in (full, tiny)]
        assert ratios[0] == ratios[1]
    if "rope_scaling" in full.dims:
        scaling = [p.dims["rope_scaling"] | {"original_max_position_embeddings": 0} for p in (full, tiny)]
        assert scaling[0] == scaling[1]
    if "attention_multiplier" in full.dims:
        head = [p.dims["hidden_size"] // p.dims["num_attention_heads"] for p in (full, tiny)]
        assert [full.dims["attention_multiplier"] * head[0], tiny.dims["attention_multiplier"] * head[1]] == [
            1,
            1,
        ]
    if "layer_types" in full.dims:
        assert set(tiny.dims["layer_types"]) == set(full.dims["layer_types"])
        assert all(tiny.dims["layer_types"].count(kind) == 2 for kind in set(full.dims["layer_types"]))


@pytest.mark.parametrize("name", TINY)
def test_weights_depend_on_the_seed_only(name):
    first = models.load(name, seed=5).module.state_dict()
    torch.manual_seed(1234)
    before = torch.get_rng_state()
    model = models.load(name, seed=5)
    model.example_inputs(batch=2, seed=9)
    other = models.load(name, seed=6).module.state_dict()
    assert torch.equal(torch.get_rng_state(), before)

    again = model.module.state_dict()
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    parameters = {key for key, _ in model.module.named_parameters()}
    constant = {"embed_positions.weight"} if name.startswith("whisper-tiny.encoder") else set()  # sinusoids
    assert not [key for key in parameters - constant if torch.equal(first[key], other[key])]


@pytest.mark.parametrize("name", TINY)
def test_model_is_frozen_and_every_vector_matters(name):
    module = models.load(name).module
    assert not any(child.training for child in module.modules())
    assert not any(p.requires_grad for p in module.parameters())
    for key, parameter in module.named_parameters():
        if (
            parameter.ndim == 1
        ):  # a bias of zeros or a norm weight of ones would hide a compiler that drops it
            assert parameter.std() > 0.01, key


@pytest.mark.parametrize("name", sorted({models.describe(name).architecture: name for name in TINY}.values()))
def test_buffers_and_spreads_are_those_of_the_plain_constructor(name):
    # The model is laid out without memory first; a table that nothing fills in again would stay garbage.
    ours = whole_model(name)
    plain = type(ours)(make_config(models.describe(name).config_dict(), layers=None))
    buffers = dict(ours.named_buffers())
    assert buffers.keys() == dict(plain.named_buffers()).keys()
    for key, value in plain.named_buffers():
        assert torch.equal(buffers[key], value), key
    for key, value in ours.named_parameters():
        expected = plain.get_parameter(key).std().item()
        assert value.std().item() == pytest.approx(expected, rel=0.3, abs=0.08), key


@pytest.mark.parametrize("name", [name for name in TINY if "vocab_size" in models.describe(name).dims])
def test_tied_weights_share_storage(name):
    module = models.load(name).module
    model = getattr(module, "model", module) if models.describe(name).part else module
    head = model.get_output_embeddings()
    if head is not None:
        tied = head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
        assert tied == models.describe(name).dims["tie_word_embeddings"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_both_attentions_agree_with_padding(name):
    outputs = []
    for attn in ("sdpa", "eager"):
        model = models.load(name, attn=attn)
        assert model.config._attn_implementation == attn
        args, kwargs = model.example_inputs(batch=3, seed=2)
        outputs.append(model.module(*args, **kwargs))
    assert outputs[0].keys() == outputs[1].keys()
    for key, value in outputs[0].items():
        assert isinstance(value, torch.Tensor), key
        torch.testing.assert_close(value, outputs[1][key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_rotary_positions_show_in_the_logits(name):
    model = models.load(name)
    rotary = [m for m in model.module.modules() if isinstance(getattr(m, "inv_freq", None), torch.Tensor)]
    assert bool(rotary) == (model.family in ("granite", "qwen2", "llama", "lfm2"))
    if rotary:
        _, kwargs = model.example_inputs(tokens=24)
        right = model.module(**kwargs).logits
        rotary[0].inv_freq *= 1.1
        wrong = model.module(**kwargs).logits
        assert (right - wrong).abs().max() > 0.01 * right.std()


def test_parts_of_one_seed_are_one_model():
    encoder, decoder = (models.load(f"t5-small.{part}-tiny", seed=3) for part in ("encoder", "decoder"))
    whole = whole_model("t5-small.encoder-tiny", seed=3).eval()
    _, source = encoder.example_inputs(tokens=20, batch=2, seed=1)
    states = encoder.module(**source).last_hidden_state
    ids = torch.arange(14).reshape(2, 7)
    logits = decoder.module(ids, states, source["attention_mask"])["logits"]
    expected = whole(**source, decoder_input_ids=ids).logits
    torch.testing.assert_close(logits, expected)


def test_speech_parts_of_one_seed_are_one_model():
    encoder, decoder = (models.load(f"whisper-tiny.{part}-tiny", seed=3) for part in ("encoder", "decoder"))
    whole = whole_model("whisper-tiny.encoder-tiny", seed=3).eval()
    _, source = encoder.example_inputs(batch=2)
    ids = torch.arange(14).reshape(2, 7)
    logits = decoder.module(ids, encoder.module(**source).last_hidden_state)["logits"]
    torch.testing.assert_close(logits, whole(**source, decoder_input_ids=ids).logits)


@pytest.mark.parametrize("name", ["t5-small.decoder-tiny", "whisper-tiny.decoder-tiny"])
def test_decoder_lets_go_of_the_encoder(name):
    module = models.load(name).module
    assert not [key for key, _ in module.named_parameters() if "encoder." in key.replace("decoder.", "")]
    assert isinstance(module, nn.Module)
