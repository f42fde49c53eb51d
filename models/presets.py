"""The preset models: one record each, in one list.

A preset is a published architecture at its published dimensions, to be filled with seeded random weights, so
that every model of the documentation and the benchmarks can be built without a model hub. `NAME-tiny` is the
same structure at test size. Adding a preset is adding its dimensions to `dimensions.py` and one line here.

Nothing in this module needs PyTorch.
"""

import difflib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from forgec.errors import ModelError

from . import dimensions as dim


@dataclass(frozen=True)
class Preset:
    """What is known of one preset.

    `dims` is the content of a `config.json`. `part` is "encoder" or "decoder" for the programs of a
    sequence-to-sequence model. `params` is the published parameter count of the whole model, both parts
    included and tied weights counted once, as `params_source` rounds it; tiny presets have none.
    """

    name: str
    title: str
    architecture: str
    source: str
    dims: dict[str, Any] = field(hash=False, repr=False)
    part: str | None = None
    params: int | None = None
    params_source: str | None = None

    @property
    def family(self) -> str:
        """The Hugging Face model type: "gpt2", "llama", "bert", ..."""
        return str(self.dims["model_type"])

    @property
    def tiny(self) -> bool:
        """Whether this is the test-sized variant of another preset."""
        return self.params is None

    def config_dict(self) -> dict[str, Any]:
        """Return a fresh `config.json` dictionary, with `architectures`."""
        return {**deepcopy(self.dims), "architectures": [self.architecture]}


def _records(
    name: str,
    architecture: str,
    dims: dim.Dims,
    tiny: dim.Dims,
    *,
    title: str,
    source: str,
    params: int,
    params_source: str,
    parts: tuple[str | None, ...] = (None,),
) -> Iterator[Preset]:
    """Yield the full-size record and the tiny one, for each part."""
    for part in parts:
        program = f"{name}.{part}" if part else name
        heading = f"{title}, {part}" if part else title
        yield Preset(program, heading, architecture, source, dims, part, params, params_source)
        yield Preset(
            f"{program}-tiny", f"{heading}, test size", architecture, f"{program}, shrunk", tiny, part
        )


PRESETS: tuple[Preset, ...] = (
    *_records(
        "gpt2",
        "GPT2LMHeadModel",
        dim.GPT2,
        dim.GPT2_TINY,
        title="GPT-2 small",
        source="openai-community/gpt2 config.json",
        params=124_000_000,
        params_source="GPT-2 repository, model card",
    ),
    *_records(
        "granite-350m",
        "GraniteForCausalLM",
        dim.GRANITE_350M,
        dim.GRANITE_TINY,
        title="Granite 4.0 350M, dense",
        # The checkpoint names the hybrid class with no Mamba layer and no expert, which computes what
        # GraniteForCausalLM does. Papers that call the model 24 layers deep can be followed with layers=24.
        source="metadata of the published granite-4.0-350m GGUF files (architecture 'granite')",
        params=350_000_000,
        params_source="granite-4.0-350m model card",
    ),
    *_records(
        "qwen2-0.5b",
        "Qwen2ForCausalLM",
        dim.QWEN2_05B,
        dim.QWEN2_TINY,
        title="Qwen2 0.5B",
        source="Qwen/Qwen2-0.5B config.json",
        params=490_000_000,
        params_source="Qwen2 technical report, table 1",
    ),
    *_records(
        "llama-3.2-1b",
        "LlamaForCausalLM",
        dim.LLAMA32_1B,
        dim.LLAMA32_TINY,
        title="Llama 3.2 1B",
        source="meta-llama/Llama-3.2-1B config.json",
        params=1_230_000_000,
        params_source="Llama 3.2 model card",
    ),
    *_records(
        "llama-3.1-8b",
        "LlamaForCausalLM",
        dim.LLAMA31_8B,
        dim.LLAMA31_TINY,
        title="Llama 3.1 8B",
        source="meta-llama/Llama-3.1-8B config.json",
        params=8_030_000_000,
        params_source="meta-llama/Llama-3.1-8B, size of the safetensors files",
    ),
    *_records(
        "lfm2-2.6b",
        "Lfm2ForCausalLM",
        dim.LFM2_26B,
        dim.LFM2_TINY,
        title="LFM2 2.6B",
        source="LiquidAI/LFM2-2.6B config.json",
        params=2_569_272_320,
        params_source="LFM2-2.6B model card",
    ),
    *_records(
        "bert-base",
        "BertModel",
        dim.BERT_BASE,
        dim.BERT_TINY,
        title="BERT base uncased, with pooler",
        source="google-bert/bert-base-uncased config.json",
        params=110_000_000,
        params_source="BERT paper, section 3",
    ),
    *_records(
        "minilm",
        "BertModel",
        dim.MINILM,
        dim.MINILM_TINY,
        title="all-MiniLM-L6-v2 sentence encoder",
        source="sentence-transformers/all-MiniLM-L6-v2 config.json",
        params=22_700_000,
        params_source="all-MiniLM-L6-v2, size of the safetensors file",
    ),
    *_records(
        "vit-base",
        "ViTForImageClassification",
        dim.VIT_BASE,
        dim.VIT_TINY,
        title="ViT base, 16 x 16 patches, 224 x 224 pixels",
        source="google/vit-base-patch16-224 config.json",
        params=86_600_000,
        params_source="vit-base-patch16-224, size of the safetensors file",
    ),
    *_records(
        "t5-small",
        "T5ForConditionalGeneration",
        dim.T5_SMALL,
        dim.T5_TINY,
        title="T5 small",
        source="google-t5/t5-small config.json",
        params=60_000_000,
        params_source="T5 paper, section 3.7",
        parts=("encoder", "decoder"),
    ),
    *_records(
        "whisper-tiny",
        "WhisperForConditionalGeneration",
        dim.WHISPER_TINY,
        dim.WHISPER_TINY_TINY,
        title="Whisper tiny, multilingual",
        source="openai/whisper-tiny config.json",
        # The Whisper paper's 39 M also counts the encoder's fixed sinusoids and an untied output.
        params=37_800_000,
        params_source="openai/whisper-tiny, size of the safetensors file",
        parts=("encoder", "decoder"),
    ),
)

_BY_NAME = {preset.name: preset for preset in PRESETS}


def names(tiny: bool | None = None) -> list[str]:
    """Return the preset names in list order: all, or only the tiny or only the full-size ones."""
    return [preset.name for preset in PRESETS if tiny is None or preset.tiny is tiny]


def describe(name: str) -> Preset:
    """Return the record of a preset.

    Raises `ModelError` with the nearest names if there is none called `name`.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    near = difflib.get_close_matches(name, _BY_NAME, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"the presets are: {', '.join(names(tiny=False))}"
    raise ModelError(f"there is no preset named {name!r}", hint=hint)
