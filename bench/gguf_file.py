"""A Hugging Face Llama as a GGUF file, the form that llama.cpp runs and OpenVINO GenAI reads.

Token embeddings, which are the head too where it is tied, are Q8_0 in every file, as forgec keeps them in 8
bits; norms are f32. The vocabulary has the right size and no meaning: prompts of the benchmark are token ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["QUANTISATIONS", "write_gguf"]

QUANTISATIONS = {"int8": "Q8_0", "w8a8": "Q8_0", "int4": "Q4_0", "w4a8": "Q4_0"}
"""GGUF's formats by forgec's."""

_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(module: Any, weights: str, path: Path) -> None:
    """Write a ``LlamaForCausalLM`` with weights in a format of :data:`QUANTISATIONS`."""
    import gguf

    config = module.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("bench")
    writer.add_file_type(
        gguf.LlamaFileType.MOSTLY_Q4_0 if QUANTISATIONS[weights] == "Q4_0" else gguf.LlamaFileType.MOSTLY_Q8_0
    )
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_vocabulary(writer, config.vocab_size)
    tied = bool(config.tie_word_embeddings)
    for name, tensor in module.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        array = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = _interleaved(array, heads)
        kind = gguf.GGMLQuantizationType.F32
        if array.ndim == 2:
            table = "embed_tokens" in name or "lm_head" in name
            kind = gguf.GGMLQuantizationType["Q8_0" if table else QUANTISATIONS[weights]]
        writer.add_tensor(_name(name), gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    number, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{_LAYER[rest.removesuffix('.weight')]}.weight"


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order that GGUF's rotary embedding wants: pairs side by side instead of in two halves."""
    size = weight.shape[0] // heads
    return weight.reshape(heads, 2, size // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def _add_vocabulary(writer: Any, size: int) -> None:
    """Bytes first, then tokens that nothing is merged to."""
    import gguf
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letters[i % 256]}{i}" for i in range(size - len(letters)))][:size]
    kinds = [gguf.TokenType.NORMAL] * size
    tokens[-2:], kinds[-2:] = ["<s>", "</s>"], [gguf.TokenType.CONTROL] * 2
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{letters[0]} {letters[1]}"])
    writer.add_bos_token_id(size - 2)
    writer.add_eos_token_id(size - 1)
    writer.add_add_bos_token(False)
