"""Models of transformers whose sizes follow from what they hold: a vision tower's grid, a codec's paddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from transformers import EncodecConfig, EncodecModel, MimiConfig, MimiModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

import forgec

SEED = 23


class Tower(nn.Module):
    """Two images of fixed sizes."""

    def __init__(self) -> None:
        super().__init__()
        config = Qwen2VLVisionConfig(depth=2, embed_dim=32, hidden_size=32, num_heads=4, mlp_ratio=2)
        self.tower = Qwen2VisionTransformerPretrainedModel(config)
        self.register_buffer("grid", torch.tensor([[1, 4, 6], [1, 4, 4]]))

    def forward(self, pixels):
        return self.tower(pixels, grid_thw=self.grid).last_hidden_state


def encodec() -> nn.Module:
    sizes = {"num_filters": 4, "hidden_size": 16, "codebook_size": 32, "codebook_dim": 16}
    return EncodecModel(
        EncodecConfig(**sizes, upsampling_ratios=[4, 2], num_lstm_layers=1, target_bandwidths=[15.0, 30.0])
    )


def mimi() -> nn.Module:
    sizes = {"num_filters": 4, "hidden_size": 32, "codebook_size": 32, "codebook_dim": 16}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}
    more = {"num_quantizers": 4, "vector_quantization_hidden_dimension": 16, "upsample_groups": 32}
    return MimiModel(
        MimiConfig(
            **sizes, **layers, **more, upsampling_ratios=[4, 2], intermediate_size=48, sliding_window=20
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "shape"),
    [(Tower, (40, 1176)), (encodec, (1, 1, 160)), (mimi, (1, 1, 320))],
    ids=["qwen2_vl", "encodec", "mimi"],
)
def test_model(made, shape):
    print("seed", SEED)
    torch.manual_seed(SEED)
    model = made().eval()
    executable = forgec.compile(model, (torch.randn(shape),))
    assert "aten" not in {instr.op for instr in executable.plan.program.main.body}
    other = torch.randn(shape)
    with torch.no_grad():
        wanted = [x for x in pytree.tree_leaves(model(other)) if isinstance(x, torch.Tensor)]
    found = [x for x in pytree.tree_leaves(executable(other)) if isinstance(x, np.ndarray)]
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)
