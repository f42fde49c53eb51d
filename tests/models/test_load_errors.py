"""Every message for what can be wrong with what `load` is asked for, or finds."""

import pytest
import torch
from stored_models import save, write_config

from forgec import models
from forgec.errors import ModelError

# ------------------------------------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attn": "flash"}, "attn is 'flash'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"part": "encoder"}, "GPT2LMHeadModel is one program and has no part 'encoder'"),
    ],
)
def test_bad_option(options, message):
    with pytest.raises(ModelError, match=message) as error:
        models.load("gpt2-tiny", **options)
    assert error.value.hint


def test_part_of_a_part(tmp_path):
    with pytest.raises(ModelError, match="already one part"):
        models.load("t5-small.encoder-tiny", part="encoder")
    path = write_config(tmp_path, "t5-small.encoder-tiny")
    with pytest.raises(ModelError, match="part is 'head'"):
        models.load(path, part="head")


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("gtp2-tiny", "neither a preset nor a directory", "did you mean gpt2-tiny"),
        ("openai/gpt3", "no file or directory", "hf download openai/gpt3"),
        ("./absent", "no file or directory", "check the path"),
        ("absent/config.json", "no file or directory", ""),
    ],
)
def test_specification_that_means_nothing(spec, message, hint):
    with pytest.raises(ModelError, match=message) as error:
        models.load(spec)
    assert hint in error.value.hint


# --------------------------------------------------------------------------------------------- bad files


def test_a_configuration_without_a_type(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(ModelError, match="no model_type"):
        models.load(path)


def test_directory_without_configuration(tmp_path):
    with pytest.raises(ModelError, match=r"has no config.json"):
        models.load(tmp_path)


def test_file_that_is_no_configuration(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="is not a configuration"):
        models.load(tmp_path / "model.onnx")


@pytest.mark.parametrize("text", ["{", "[]", "\udc80"])
def test_configuration_that_is_no_json_object(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match="JSON"):
        models.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt9"}, "model type 'gpt9' is not known"),
        ({"model_type": None}, "model type 'None' is not known"),
        ({"architectures": ["GPT9"]}, "architecture 'GPT9' is not a model"),
        ({"architectures": ["pipeline"]}, "architecture 'pipeline' is not a model"),
        ({"architectures": None}, "names no architecture"),
        ({"n_embd": "wide"}, "the gpt2 configuration is not valid"),
        ({"n_head": 5}, "GPT2LMHeadModel cannot be built"),
        ({"n_head": 0}, "GPT2LMHeadModel cannot be built"),
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantised .method gptq"),
        ({"model_type": "patchtst", "architectures": ["PatchTSTModel"]}, "reads 'past_values'"),
    ],
)
def test_configuration_that_cannot_be_used(tmp_path, changes, message):
    with pytest.raises(ModelError, match=message):
        models.load(write_config(tmp_path, **changes))


@pytest.mark.parametrize(
    ("file", "message", "hint"),
    [
        ("pytorch_model.bin", "pickled .pytorch_model.bin.", "save_pretrained"),
        ("pytorch_model-00001-of-00002.bin", "pickled", "save_pretrained"),
        ("model-00001-of-00002.safetensors", "indexed shards", "config.json"),
        ("model.gguf", "but in model.gguf", "config.json"),
    ],
)
def test_weights_that_are_not_read(tmp_path, file, message, hint):
    write_config(tmp_path)
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(ModelError, match=message) as error:
        models.load(tmp_path)
    assert hint in error.value.hint


def test_absent_shard(tmp_path):
    save(tmp_path, "gpt2-tiny", max_shard_size="20KB")
    (tmp_path / "model-00002-of-00008.safetensors").unlink()
    with pytest.raises(ModelError, match="1 of the 8 weight files are absent: model-00002-of-00008"):
        models.load(tmp_path)


def test_index_without_weight_map(tmp_path):
    write_config(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {}}')
    with pytest.raises(ModelError, match="no weight map"):
        models.load(tmp_path)


def test_damaged_weights(tmp_path):
    save(tmp_path, "gpt2-tiny")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match="the weights cannot be loaded"):
        models.load(tmp_path)


def test_weights_of_another_shape(tmp_path):
    save(tmp_path, "gpt2-tiny")
    write_config(tmp_path, n_embd=64)
    with pytest.raises(ModelError, match="the weights do not fit GPT2LMHeadModel"):
        models.load(tmp_path)


def test_checkpoint_on_the_meta_device(tmp_path):
    save(tmp_path, "gpt2-tiny")
    with torch.device("meta"), pytest.raises(ModelError, match="meta device"):
        models.load(tmp_path)
