"""Published dimensions of the preset models, in the vocabulary of Hugging Face's `config.json`.

Each `NAME` holds the published values; `NAME_TINY` is the same dictionary with the sizes shrunk and every
structural feature kept (grouped-query ratio, tied or untied head, biases, activation, rope scaling, scale
factors), so that a tiny preset meets the same compiler passes as the model it stands for.

Tiny vocabularies are prime numbers and the tiny initialiser ranges are large (0.2): an off-by-one in a tile
or a wrong rotation then shows in the logits, while with the usual 0.02 at width 32 every attention is almost
uniform and hides it.
"""

from typing import Any

Dims = dict[str, Any]

_TINY_INIT: Dims = {"initializer_range": 0.2}
_TINY_TOKENS: Dims = {"vocab_size": 131, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

GPT2: Dims = {
    "model_type": "gpt2",
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "tie_word_embeddings": True,
}
GPT2_TINY: Dims = (
    GPT2 | _TINY_TOKENS | _TINY_INIT | {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
)

GRANITE_350M: Dims = {
    "model_type": "granite",
    "vocab_size": 100352,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000_000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.015625,
    "residual_multiplier": 0.263,
    "logits_scaling": 4.0,
    "initializer_range": 0.1,
    "bos_token_id": 100257,
    "eos_token_id": 100257,
    "pad_token_id": 100256,
    "tie_word_embeddings": True,
}
GRANITE_TINY: Dims = (
    GRANITE_350M
    | _TINY_TOKENS
    | _TINY_INIT
    | {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "attention_multiplier": 0.125,  # 1 / head size, as in the published model
    }
)

QWEN2_05B: Dims = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "use_sliding_window": False,
    "initializer_range": 0.02,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "tie_word_embeddings": True,
}
QWEN2_TINY: Dims = (
    QWEN2_05B
    | _TINY_TOKENS
    | _TINY_INIT
    | {
        "hidden_size": 56,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 7,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
    }
)

LLAMA32_1B: Dims = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "attention_bias": False,
    "mlp_bias": False,
    "initializer_range": 0.02,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "tie_word_embeddings": True,
}
LLAMA31_8B: Dims = LLAMA32_1B | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "head_dim": 128,
    "rope_scaling": LLAMA32_1B["rope_scaling"] | {"factor": 8.0},
    "tie_word_embeddings": False,
}


def _tiny_llama(full: Dims) -> Dims:
    # With head size 8 and an original length of 256, the four wavelengths (6, 167, 4443, 118143) fall in all
    # three regions of llama3 scaling: kept, interpolated, divided by the factor.
    scaling = full["rope_scaling"] | {"original_max_position_embeddings": 256}
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "rope_scaling": scaling,
    }
    return full | _TINY_TOKENS | _TINY_INIT | sizes


LLAMA32_TINY: Dims = _tiny_llama(LLAMA32_1B)
LLAMA31_TINY: Dims = _tiny_llama(LLAMA31_8B)

_LFM2_ATTENTION = (2, 5, 9, 13, 17, 21, 24, 27)
LFM2_26B: Dims = {
    "model_type": "lfm2",
    "vocab_size": 65536,
    "hidden_size": 2048,
    "intermediate_size": 10752,
    "block_auto_adjust_ff_dim": False,
    "num_hidden_layers": 30,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "layer_types": ["full_attention" if i in _LFM2_ATTENTION else "conv" for i in range(30)],
    "conv_L_cache": 3,
    "conv_bias": False,
    "max_position_embeddings": 128000,
    "norm_eps": 1e-5,
    "rope_theta": 1_000_000.0,
    "initializer_range": 0.02,
    "bos_token_id": 1,
    "eos_token_id": 7,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
LFM2_TINY: Dims = (
    LFM2_26B
    | _TINY_TOKENS
    | _TINY_INIT
    | {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "max_position_embeddings": 256,
    }
)

BERT_BASE: Dims = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}
_BERT_TINY_SIZES: Dims = {"vocab_size": 131, "num_hidden_layers": 2, "max_position_embeddings": 64}
BERT_TINY: Dims = (
    BERT_BASE
    | _TINY_INIT
    | _BERT_TINY_SIZES
    | {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 4}
)
MINILM: Dims = BERT_BASE | {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}
MINILM_TINY: Dims = MINILM | _TINY_INIT | _BERT_TINY_SIZES | {"hidden_size": 48, "intermediate_size": 192}

VIT_BASE: Dims = {
    "model_type": "vit",
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "num_labels": 1000,
}
VIT_TINY: Dims = (
    VIT_BASE
    | _TINY_INIT
    | {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_labels": 11,
    }
)

T5_SMALL: Dims = {
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_decoder_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "relu",
    "layer_norm_epsilon": 1e-6,
    "initializer_factor": 1.0,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
}
# Three layers: the first owns the relative position table, so the second is the first that repeats.
T5_TINY: Dims = T5_SMALL | {
    "vocab_size": 131,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 3,
    "num_decoder_layers": 3,
    "num_heads": 4,
}

WHISPER_TINY: Dims = {
    "model_type": "whisper",
    "vocab_size": 51865,
    "num_mel_bins": 80,
    "d_model": 384,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_ffn_dim": 1536,
    "activation_function": "gelu",
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "scale_embedding": False,
    "init_std": 0.02,
    "bos_token_id": 50257,
    "eos_token_id": 50257,
    "pad_token_id": 50257,
    "decoder_start_token_id": 50258,
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
}
WHISPER_TINY_TINY: Dims = (
    WHISPER_TINY
    | _TINY_TOKENS
    | {
        "num_mel_bins": 16,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "max_source_positions": 48,
        "max_target_positions": 64,
        "init_std": 0.2,
        "decoder_start_token_id": 3,
    }
)
