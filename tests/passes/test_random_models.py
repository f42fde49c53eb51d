"""Random transformers: all passes, some passes, any share of the fusions; always eager's results."""

from __future__ import annotations

import random

import pytest
import torch
from forgec.passes import PASSES
from pass_checks import Subject, counts, seeded
from random_models import RandomModel

from forgec import debug

QUICK = range(5)
MORE = [*range(5, 12), *range(100, 160)]


def check(seed: int) -> None:
    print(f"seed {seed}")
    model = seeded(RandomModel(seed), seed)
    print(model)
    rng = random.Random(seed)
    example = model.inputs(torch.Generator().manual_seed(0))
    subject = Subject(model, *example, mode=rng.choice(("full", "auto", "auto")), draw=model.inputs)
    off = rng.sample([p.name for p in PASSES], rng.choice((1, 2, 4)))
    print(f"off: {off}")
    with debug.override({"verify": "2"}):
        full = subject.optimised(rounds=3)
        subject.check(full)
        subject.check_run(full)
        assert counts(full)["softmax"] == counts(full)["scaled_dot_product_attention"] == 0
        partly = subject.optimised(passes=[f"-{name}" for name in off], fusion=rng.choice((0.3, 0.5, 1.0)))
        subject.check(partly)
        subject.check_run(partly)


@pytest.mark.parametrize("seed", QUICK)
def test_random_model(seed):
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MORE)
def test_more_random_models(seed):
    check(seed)
