"""Tiny language models of many families, and what transformers generates with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forgec import models

_TINY = {
    "vocab_size": 131,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_HEADS = {
    key: _TINY[key]
    for key in ("vocab_size", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id")
}
_DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
_LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
_LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "rope_theta": 1e4,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}
_DELTA = {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
_EXPERTS = {
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
_MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
_STATES = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "chunk_size": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "gemma": {**_TINY, "architectures": ["GemmaForCausalLM"], "head_dim": 8},
    "gemma2": {
        **_TINY,
        "architectures": ["Gemma2ForCausalLM"],
        "head_dim": 8,
        "sliding_window": 12,
        "query_pre_attn_scalar": 8,
    },
    "phi": {**_TINY, "architectures": ["PhiForCausalLM"], "num_key_value_heads": 4},
    "phi3": {**_TINY, "architectures": ["Phi3ForCausalLM"]},
    "mistral": {**_TINY, "architectures": ["MistralForCausalLM"], "sliding_window": 12},
    "qwen3": {**_TINY, "architectures": ["Qwen3ForCausalLM"], "head_dim": 8},
    "qwen3_5_text": {**_TINY, **_DELTA, "architectures": ["Qwen3_5ForCausalLM"]},
    "qwen3_next": {**_TINY, **_DELTA, **_EXPERTS, "architectures": ["Qwen3NextForCausalLM"]},
    "olmo_hybrid": {**_TINY, **_DELTA, "architectures": ["OlmoHybridForCausalLM"]},
    "granitemoehybrid": {
        **_TINY,
        **_MAMBA,
        **_EXPERTS,
        "architectures": ["GraniteMoeHybridForCausalLM"],
        "layer_types": ["mamba", "attention", "mamba"],
        "shared_intermediate_size": 16,
    },
    "bamba": {**_TINY, **_MAMBA, "architectures": ["BambaForCausalLM"], "attn_layer_indices": [1]},
    "falcon_h1": {
        **_TINY,
        **_MAMBA,
        "architectures": ["FalconH1ForCausalLM"],
        "mamba_d_ssm": 64,
        "head_dim": 8,
    },
    "nemotron_h": {
        **_TINY,
        **{"architectures": ["NemotronHForCausalLM"], "head_dim": 8, "ssm_state_size": 8, "n_groups": 2},
        **{"mamba_num_heads": 4, "mamba_head_dim": 16, "chunk_size": 16, **_EXPERTS, "n_routed_experts": 4},
    },
    "zamba2": {
        **_TINY,
        **{
            "architectures": ["Zamba2ForCausalLM"],
            "mamba_d_state": 8,
            "n_mamba_heads": 4,
            "mamba_ngroups": 1,
        },
        **{"chunk_size": 16, "layers_block_type": ["mamba", "hybrid", "mamba"], "num_key_value_heads": 4},
    },
    "jamba": {
        **_TINY,
        **{"architectures": ["JambaForCausalLM"], "mamba_d_state": 8, "mamba_dt_rank": 4, "num_experts": 4},
        **{
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
        },
    },
    "mamba": {**_HEADS, **_STATES, "architectures": ["MambaForCausalLM"], "time_step_rank": 4},
    "falcon_mamba": {**_HEADS, **_STATES, "architectures": ["FalconMambaForCausalLM"], "time_step_rank": 4},
    "mamba2": {
        **_HEADS,
        **_STATES,
        **{"architectures": ["Mamba2ForCausalLM"], "num_heads": 4, "head_dim": 16, "n_groups": 1},
    },
    "roberta": {
        **_TINY,
        **{"architectures": ["RobertaForCausalLM"], "num_hidden_layers": 2, "pad_token_id": 2},
        **{"is_decoder": True, "type_vocab_size": 1, "eos_token_id": 1, "max_position_embeddings": 103},
    },
    "big_bird": {
        **_TINY,
        **{"architectures": ["BigBirdForCausalLM"], "is_decoder": True, "attention_type": "original_full"},
    },
    "biogpt": {**_TINY, "architectures": ["BioGptForCausalLM"], "num_hidden_layers": 2},
    "roformer": {
        **_TINY,
        **{"architectures": ["RoFormerForCausalLM"], "is_decoder": True, "max_position_embeddings": 64},
    },
    "bloom": {
        **_HEADS,
        **{"hidden_size": 32, "n_layer": 3, "n_head": 4},
        "architectures": ["BloomForCausalLM"],
    },
    "dynamic": {
        **_TINY,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_parameters": _DYNAMIC,
    },
    "linear": {
        **_TINY,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_parameters": _LINEAR,
    },
    "longrope": {
        **_TINY,
        "model_type": "phi3",
        "architectures": ["Phi3ForCausalLM"],
        "original_max_position_embeddings": 64,
        "rope_parameters": _LONG,
    },
    "longrope-mixed": {
        **_TINY,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_parameters": _LONG,
    },
    "mpt": {
        **_HEADS,
        **{"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2, "max_seq_len": 100},
        "architectures": ["MptForCausalLM"],
    },
    "falcon": {
        **_HEADS,
        **{"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "alibi": True},
        **{"multi_query": False, "parallel_attn": False, "bias": True},
        "architectures": ["FalconForCausalLM"],
    },
    "mixtral": {
        **_TINY,
        "architectures": ["MixtralForCausalLM"],
        "num_hidden_layers": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "deepseek_v2": {
        **_TINY,
        **{
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
        },
        **{"head_dim": 8, "num_key_value_heads": 4, "first_k_dense_replace": 1, "moe_intermediate_size": 16},
        **{"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
        "architectures": ["DeepseekV2ForCausalLM"],
    },
    "llama4_text": {
        **_TINY,
        **{"head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 4, "num_experts_per_tok": 1},
        **{"no_rope_layers": [1, 1, 0], "moe_layers": [1], "attention_chunk_size": 12, "floor_scale": 10},
        "architectures": ["Llama4ForCausalLM"],
    },
    "yarn": {
        **_TINY,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_parameters": _YARN,
    },
}
PRESETS = {
    "llama": "llama-3.2-1b-tiny",
    "gpt2": "gpt2-tiny",
    "qwen2": "qwen2-0.5b-tiny",
    "granite": "granite-350m-tiny",
    "lfm2": "lfm2-2.6b-tiny",
}


RECURRENT = (
    *("qwen3_5_text", "qwen3_next", "olmo_hybrid", "granitemoehybrid", "bamba", "falcon_h1", "nemotron_h"),
    *("zamba2", "jamba", "mamba", "falcon_mamba", "mamba2"),
)
"""Families with recurrent layers."""


def load(family: str, folder: Path) -> models.LoadedModel:
    """A model of a family with random weights of seed 0."""
    if family in PRESETS:
        return models.load(PRESETS[family])
    config = folder / "config.json"
    config.write_text(json.dumps({"model_type": family, **CONFIGS[family]}))
    return models.load(config)


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed + length).integers(3, 131, length).tolist()


def continued(model: models.LoadedModel, ids: list[int], count: int) -> list[int]:
    """What the model itself continues a prompt with, greedily, without a cache and told of no positions."""
    text = torch.tensor([ids])
    with torch.no_grad():
        for _ in range(count):
            logits = model.module(input_ids=text, use_cache=False).logits
            text = torch.cat([text, logits[:, -1:].argmax(-1)], 1)
    return text[0, len(ids) :].tolist()


def generated(model: models.LoadedModel, ids: list[int], count: int) -> list[int]:
    """What transformers itself continues a prompt with, greedily."""
    with torch.no_grad():
        out = model.module.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=count,
            do_sample=False,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[0, len(ids) :].tolist()
