"""Every pass through the whole pipeline: compiled and run with it alone, with all passes, and with all but it."""

from __future__ import annotations

import attention_forms as forms
import pytest
import test_activation_fusion as activation
import test_attention_fusion as attention
import test_block_specialisation as blocks
import test_cached_attention as cached
import test_common_subexpression as equal
import test_constant_folding as constants
import test_dead_code as dead
import test_expert_fusion as experts
import test_gated_unit_fusion as gated
import test_invariant_motion as invariant
import test_joined_cache as joined
import test_layer_norm_fusion as layer_norm
import test_layout_pass as layout
import test_leading_axes as leading
import test_linear_form as linear
import test_no_op as idle
import test_norm_residual_fusion as residual
import test_operator_fusion as operator
import test_projection_fusion as projection
import test_rms_norm_fusion as rms
import test_rotary_fusion as rotary
import test_slice_motion as parts
import torch
from forgec.passes import PASSES
from pass_checks import close, redraw, seeded, values
from pass_modules import Apply, Call
from torch import nn

import forgec
from forgec.ir.printer import to_text

CASES = {
    "dead_code": (Call(dead.chain, inner=nn.Linear(4, 4)), [values(2, 4)]),
    "no_op": (Apply(idle.GONE["repeat"][0]), [values(2, 3, 4)]),
    "common_subexpression": (Call(equal.EQUAL["a chain"][0], inner=nn.Linear(4, 4)), [values(2, 4)]),
    "constant_folding": (Call(constants.causal_by_index), [values(4, 4)]),
    "block_specialisation": (
        blocks.Stack(blocks.residual, lambda x: (x, (torch.arange(4) < 3).float())),
        [values(2, 4)],
    ),
    "invariant_motion": (invariant.Stack(lambda b, x, m: b.inner(x) * m.exp()), [values(2, 4), values(4)]),
    "linear_form": (linear.Product(linear.FORMS["Conv1D of transformers"][0]), [values(2, 3, 8)]),
    "expert_fusion": (
        experts.Experts(*experts.FORMS["out x in"]),
        [values(experts.ROWS, experts.DEPTH), experts.chosen()],
    ),
    "attention_fusion": (Apply(attention.WRITTEN["unscaled"][0]), forms.qkv()),
    "cached_attention": (
        cached.Cached(),
        [values(1, 2, 3, 4), values(1, 2, 3, 4, seed=1), values(1, 2, 8, 4, seed=2), torch.tensor(2)],
    ),
    "joined_cache": (
        joined.Joined(),
        [values(1, 2, 3, 4), values(1, 2, 3, 4, seed=1), values(1, 2, 8, 4, seed=2), torch.tensor(2)],
    ),
    "slice_motion": (
        Call(parts.FORMS["last inputs of a causal convolution"][0], conv=parts.convolution(padding=3)),
        [values(2, 6, 8)],
    ),
    "leading_axes": (Apply(leading.FORMS["keys of an exporter"][0]), [values(2, 3, 5, 8)]),
    "layer_norm_fusion": (layer_norm.Norm(), [values(2, 3, 8)]),
    "rms_norm_fusion": (rms.Norm(rms.llama), [values(2, 3, 8)]),
    "rotary_fusion": (rotary.Rope(rotary.FORMS["halves"][0]), [values(2, 3, 5, 8), *rotary.tables(5, 8)]),
    "activation_fusion": (activation.Act(activation.TANH["fast"]), [values(2, 3, 8)]),
    "gated_unit_fusion": (gated.Unit(gated.FORMS["silu"][0]), [values(2, 8), values(2, 8)]),
    "projection_fusion": (projection.Projections(), [values(3, 8)]),
    "operator_fusion": (operator.One(lambda f, x: f(x).relu()), [values(3, 8)]),
    "norm_residual_fusion": (residual.Norm(lambda n, x, y: n(x + y)), [values(2, 8), values(2, 8, seed=1)]),
    "layout": (Apply(layout.FORMS["permute twice"][0]), [values(2, 3, 4, 5)]),
}

NEEDS = {
    "cached_attention": {"attention_fusion"},
    "joined_cache": {"attention_fusion"},
    "layer_norm_fusion": {"rms_norm_fusion"},
}
"""Passes that work on what another one makes."""


@pytest.mark.parametrize("name", [p.name for p in PASSES])
def test_survives(name):
    module, example = CASES[name]
    module = seeded(module)
    kept = {name} | NEEDS.get(name, set())
    others = tuple(f"-{p.name}" for p in PASSES if p.name not in kept)
    off = (*others, f"-{name}")
    compiled = {
        switches: forgec.compile(module, tuple(example), passes=switches)
        for switches in ((), others, (f"-{name}",), off)
    }
    for exe in compiled.values():
        inputs = redraw(example, torch.Generator().manual_seed(1))
        with torch.no_grad():
            wanted = torch.utils._pytree.tree_leaves(module(*inputs))
        for a, b in zip(torch.utils._pytree.tree_leaves(exe(*inputs)), wanted, strict=True):
            close(a, b.numpy())
    alone = compiled[others]
    assert sum(record.rewrites for record in alone.report.passes) > 0
    assert to_text(alone.program) != to_text(compiled[off].program) or name in (
        "no_op", "common_subexpression", "dead_code",
    ), "lowering removes identities itself"  # fmt: skip
