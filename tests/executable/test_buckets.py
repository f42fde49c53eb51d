"""One program per size, called as one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiers import slow_after
from torch import nn

import forgec
from forgec import Dim, models
from forgec.errors import ArtifactError, FidelityError, InputError, OptionError

TOKENS, BATCH = Dim("tokens", 8, 24), Dim("batch", 1, 3)
SHAPES = {name: {0: BATCH, 1: TOKENS} for name in ("input_ids", "attention_mask", "token_type_ids")}


@pytest.fixture(scope="module")
def model():
    return models.load("bert-base-tiny")


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("buckets") / "bert.forge"
    forgec.compile_buckets(model, dynamic_shapes=SHAPES, name="bert").save(path)
    return path


def inputs(model, tokens: int, batch: int = 1) -> dict[str, torch.Tensor]:
    return model.example_inputs(tokens=tokens, batch=batch, seed=tokens)[1]


@pytest.mark.parametrize(
    ("tokens", "batch"), slow_after(3, [(8, 1), (1, 1), (9, 2), (24, 3), (23, 3), (7, 3)])
)
def test_sizes_between_the_compiled_ones_are_those_of_eager(model, path, tokens, batch):
    buckets = forgec.Buckets(path)
    given = inputs(model, tokens, batch)
    with torch.no_grad():
        want = model.module(**given)
    got = buckets(**given)
    assert got["last_hidden_state"].shape == (batch, tokens, model.config.hidden_size)
    for key in ("last_hidden_state", "pooler_output"):
        np.testing.assert_allclose(got[key], want[key].numpy(), atol=2e-5)


def test_the_smallest_that_holds_it_runs(model, path):
    buckets = forgec.Buckets(path)
    assert sorted(buckets.programs) == [
        f"batch-{batch}.tokens-{tokens}" for batch in (1, 3) for tokens in (24, 8)
    ]
    ran = []
    for name, program in buckets.programs.items():
        run = program.run_flat
        program.run_flat = lambda arrays, name=name, run=run: (ran.append(name), run(arrays))[1]
    buckets(**inputs(model, 8, 2))
    buckets(**inputs(model, 9, 1))
    assert ran == ["batch-3.tokens-8", "batch-1.tokens-24"]


def test_weights_are_stored_once(model, path):
    parameters = sum(p.numel() * p.element_size() for p in model.module.parameters())
    assert path.stat().st_size < 1.5 * parameters + 600_000


def test_over_the_largest_and_sizes_that_disagree(model, path):
    buckets = forgec.Buckets(path)
    with pytest.raises(InputError, match="tokens is 25, and the largest program takes 24"):
        buckets(**inputs(model, 25))
    given = inputs(model, 8)
    with pytest.raises(InputError, match="tokens is 8 in 'input_ids' and 7 in 'attention_mask'"):
        buckets(**{**given, "attention_mask": given["attention_mask"][:, :7]})
    with pytest.raises(InputError, match="shape"):
        buckets(**{**given, "input_ids": given["input_ids"][0]})


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(0)


def test_a_model_that_reads_its_padding_is_refused():
    with pytest.raises(FidelityError, match="a padded input differs"):
        forgec.compile_buckets(Mean().eval(), (torch.randn(4, 3),), dynamic_shapes={"x": {0: Dim("n", 2, 4)}})


class Pooled(nn.Module):
    """The mean is of what is padded too: a quarter less, which rounding weights to 4 bits could be."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.mean(0, keepdim=True))


@pytest.mark.parametrize("weights", ["fp32", "int8", "int4:32"])
def test_padding_that_is_read_does_not_hide_behind_compressed_weights(weights):
    with pytest.raises(FidelityError, match="a padded input differs"):
        forgec.compile_buckets(
            Pooled().eval(), (torch.randn(4, 64),), dynamic_shapes={"x": {0: Dim("n", 2, 4)}}, weights=weights
        )


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ({"y": {0: TOKENS}}, "'y', which is no tensor"),
        ({"x": {2: TOKENS}}, "axis 2"),
        ({"x": {0: TOKENS, 1: Dim("tokens", 3)}}, "two sets of sizes"),
        ({}, "no dimension"),
    ],
)
def test_shapes_that_are_not_there(shapes, match):
    with pytest.raises(OptionError, match=match):
        forgec.compile_buckets(Mean().eval(), (torch.randn(4, 3),), dynamic_shapes=shapes)


def test_wrong_dimensions_and_files(tmp_path, path):
    for name, sizes in (("a b", (1,)), ("n", ()), ("n", (0,))):
        with pytest.raises(OptionError, match="dimension"):
            Dim(name, *sizes)
    forgec.load(path).save(tmp_path / "one.forge")
    with pytest.raises(ArtifactError, match="lacks the program"):
        forgec.Buckets(tmp_path / "one.forge")
