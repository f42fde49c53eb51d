"""Tokens from logits: against the processors that transformers has, and the laws of a draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiers import slow_after
from transformers import generation as hf

from forgec.errors import OptionError
from forgec.text.sampling import Sampler, Sampling, log_probabilities

SEED = 11


def logits(seed: int, size: int = 40) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(size) * 3).astype(np.float32)


def test_greedy_takes_the_first_of_the_largest():
    scores = np.array([1.0, 5.0, 5.0, 2.0], np.float32)
    assert Sampler(Sampling(), [0]).choose(scores) == 1


@pytest.mark.parametrize(
    ("sampling", "processors"),
    slow_after(
        1,
        [
            (
                Sampling(temperature=1.5, top_k=12, top_p=0.8, min_p=0.05, repetition_penalty=1.3),
                [
                    hf.RepetitionPenaltyLogitsProcessor(1.3),
                    hf.TemperatureLogitsWarper(1.5),
                    hf.TopKLogitsWarper(12),
                    hf.TopPLogitsWarper(0.8),
                    hf.MinPLogitsWarper(0.05),
                ],
            ),
            (Sampling(temperature=0.7), [hf.TemperatureLogitsWarper(0.7)]),
            (Sampling(temperature=1.0, top_k=5), [hf.TopKLogitsWarper(5)]),
            (Sampling(temperature=1.0, top_p=0.6), [hf.TopPLogitsWarper(0.6)]),
            (Sampling(temperature=1.0, min_p=0.1), [hf.MinPLogitsWarper(0.1)]),
        ],
    ),
)
def test_draws_follow_the_distribution_that_transformers_has(sampling, processors):
    scores, prompt = logits(SEED), [3, 7, 7, 20]
    expected = torch.from_numpy(scores)[None]
    for processor in processors:
        expected = processor(torch.tensor([prompt]), expected)
    want = torch.softmax(expected, -1)[0].numpy()
    random = np.random.default_rng(SEED)
    draws = 4000
    counts = np.zeros(scores.size)
    for _ in range(draws):
        seeded = Sampling(**{**vars(sampling), "seed": int(random.integers(1 << 31))})
        counts[Sampler(seeded, prompt).choose(scores)] += 1
    assert set(np.flatnonzero(counts)) <= set(np.flatnonzero(want)), f"seed {SEED}"
    error = np.sqrt(want * (1 - want) / draws)
    assert (np.abs(counts / draws - want) <= 5 * error + 1e-9).all(), f"seed {SEED}"


def test_equal_seeds_draw_alike_and_others_do_not():
    def text(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=2.0, seed=seed), [])
        return [sampler.choose(logits(i)) for i in range(12)]

    assert text(4) == text(4)
    assert text(4) != text(5)


def test_a_penalty_counts_generated_tokens_too():
    scores = np.array([1.0, 4.0, 3.9], np.float32)
    sampler = Sampler(Sampling(repetition_penalty=1.2), [])
    assert [sampler.choose(scores) for _ in range(2)] == [1, 2]


def test_log_probabilities():
    scores = logits(3)
    np.testing.assert_allclose(
        log_probabilities(scores),
        torch.log_softmax(torch.from_numpy(scores).double(), -1).numpy(),
        atol=1e-12,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 0.0},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"max_tokens": 0},
        {"seed": -1},
        {"stop": ("",)},
        {"logprobs": -1},
        {"temperature": "1"},
        {"temperature": 10**400},
        {"temperature": True},
        {"top_k": np.bool_(True)},
        {"stop": None},
        {"stop": 5},
        {"stop": b"ab"},
        {"eos": 5},
        {"eos": ["x"]},
        {"eos": "x"},
        {"eos": b"ab"},
        {"eos": [1.5]},
        {"eos": [-1]},
    ],
)
def test_illegal_options_name_themselves(wrong):
    (name,) = wrong
    with pytest.raises(OptionError, match=f"{name} is .*, and must be"):
        Sampling(**wrong)


def test_numbers_may_be_numpy_s():
    given = Sampling(
        temperature=np.float32(0.5),
        top_p=np.float16(0.5),
        top_k=np.int64(5),
        seed=np.uint8(7),
        max_tokens=np.int32(3),
        eos=np.array([1, 2]),
        logprobs=np.int16(1),
    )
    assert given == Sampling(
        temperature=0.5, top_p=0.5, top_k=5, seed=7, max_tokens=3, eos=(1, 2), logprobs=1
    )
    assert {type(x) for x in (given.temperature, given.top_k, given.seed, *given.eos)} == {float, int}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-300])
@pytest.mark.parametrize("limits", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.5}])
def test_the_least_temperatures_take_the_most_likely_token(temperature, limits):
    for seed in range(5):
        sampler = Sampler(Sampling(temperature=temperature, seed=seed, **limits), [])
        assert sampler.choose(logits(seed)) == logits(seed).argmax()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("penalty", [5e-324, 1e308])
def test_the_extreme_penalties_give_tokens(penalty):
    scores = np.array([30.0, -30.0, 2.0, 1.0], np.float32)
    sampler = Sampler(Sampling(temperature=1.0, repetition_penalty=penalty, seed=SEED), [0, 1])
    assert sampler.choose(scores) in ({0} if penalty < 1 else {0, 2, 3})
