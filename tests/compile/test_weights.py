"""Whole models with compressed weights: against the interpreter, against eager, through the file, bad options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from forgec.backends.cpu import native
from forgec.models import load as load_model
from tiers import slow_after
from torch import nn
from torch.utils._pytree import tree_leaves

import forgec
from forgec.errors import FidelityError, OptionError
from forgec.executable import constants
from forgec.executable.selftest import run_selftest
from forgec.ir.inline import inline
from forgec.ir.interpreter import Interpreter
from forgec.ir.program import Apply, Recipe
from forgec.ir.recipes import Evaluator
from forgec.report.metrics import cosine, sqnr_db
from forgec.tensors import as_numpy

FORMATS = ["fp16", "bf16", "int8", "w8a8", "int4:32", "w4a8:32"]

LEAST_SQNR = {"fp16": 50.0, "bf16": 35.0, "int8": 24.0, "w8a8": 20.0, "int4:32": 5.0, "w4a8:32": 5.0}
"""dB against eager, for the seeded random weights of the tiny presets, which are the hardest to round."""

QUICK = ["gpt2-tiny", "llama-3.2-1b-tiny"]
SLOW = ["bert-base-tiny", "qwen2-0.5b-tiny", "t5-small.decoder-tiny", "vit-base-tiny", "granite-350m-tiny"]
PRESETS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def interpreted(exe: forgec.Executable, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The program's meaning on the same codes: its constants are the executable's own."""
    shared = exe.shared
    by_leaf = Interpreter(exe.program, lambda name: pytest.fail(f"{name} is read"))
    by_leaf._constants = {name: shared.constants.get(c) for name, c in exe.program.constants.items()}
    for name, value in shared.initial.items():
        by_leaf._states[name][...] = value
    return by_leaf.run(inputs)


@pytest.mark.slow
@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("preset", PRESETS)
def test_tiny_presets(preset: str, weights: str, tmp_path: Path) -> None:
    model = load_model(preset)
    exe = forgec.compile(model, weights=weights)
    args, kwargs = model.example_inputs(seed=3)
    with torch.no_grad():
        expected = [as_numpy(x) for x in tree_leaves(model.module(*args, **kwargs)) if torch.is_tensor(x)]
    inputs = exe.signature.flatten(tuple(map(as_numpy, args)), {k: as_numpy(v) for k, v in kwargs.items()})
    got = exe.run_flat(inputs)
    for ours, meant, theirs in zip(got, interpreted(exe, inputs), expected, strict=True):
        if ours.dtype.kind == "f":
            # Rounding a value to its code can go either way by one unit in the last place of what it rounds, and
            # for more of them where attention rounds its factors, which the interpreter does not.
            rounds = native.available() is None and native.isa() in ("avx512bf16", "amx")
            assert sqnr_db(meant, ours) > ((25 if rounds else 30) if "a8" in weights else 80)
            assert sqnr_db(theirs, ours) > LEAST_SQNR[weights]
            assert cosine(theirs, ours) > (0.8 if "4" in weights else 0.99)
    report = exe.report
    assert report is not None and report.fidelity is not None and report.fidelity.passed

    path = tmp_path / "model.forge"
    exe.save(path)
    with forgec.load(path) as loaded:
        for ours, again in zip(got, loaded.run_flat(inputs), strict=True):
            np.testing.assert_array_equal(ours, again)
        assert run_selftest(loaded).passed


def test_files_shrink(tmp_path: Path) -> None:
    sizes = []
    for weights in ("fp32", "bf16", "int8", "int4"):
        path = tmp_path / f"{weights}.forge"
        forgec.compile("llama-3.2-1b-tiny", weights=weights, check=False).save(path)
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 2 * sizes[2]


def test_a_head_keeps_more_bits() -> None:
    exe = forgec.compile("granite-350m-tiny", weights="int4:32,*embed*=int8,*.1.*=bf16", check=False)
    dtypes = {
        i.operands[1].type.dtype.value  # type: ignore[union-attr]
        for i in inline(exe.program).main.body
        if i.op == "linear_q"
    }
    assert dtypes == {"i4", "i8", "bf16"}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["numpy", "native"])
def test_both_runtimes(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGEC_CPU", runtime)
    for weights in FORMATS:
        report = forgec.compile("gpt2-tiny", weights=weights).report
        assert report is not None and report.fidelity is not None
        assert report.fidelity.sqnr_db > LEAST_SQNR[weights]


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("int5", "no weight format 'int5'"),
        ("int4:16", "groups, of 32, 64, 128, channel"),
        ("w4a8:8", "groups, of 32, 64, 128"),
        ("int8:64", "only int4 and w4a8 have groups"),
        ("int8,lm_head", "write PATTERN=FORMAT"),
        ("", "no weight format ''"),
        ("int8,=bf16", "write PATTERN=FORMAT"),
        ("int8,lm_head=int3", "no weight format 'int3'"),
    ],
)
def test_bad_formats(weights: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        forgec.Options(weights=weights)


def test_a_pattern_without_a_weight() -> None:
    with pytest.raises(OptionError, match="'lm_haed' matches no weight"):
        forgec.compile("gpt2-tiny", weights="int8,lm_haed=bf16")
    with pytest.raises(OptionError, match="weights"):
        forgec.Options(weights=8)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_language_model_decodes_with_compressed_weights(tmp_path: Path) -> None:
    from forgec.language import compile_language_model

    texts, logits = {}, {}
    for weights in ("fp32", "int8", "int4:32"):
        path = tmp_path / f"{weights[:4]}.forge"
        programs = compile_language_model(
            "llama-3.2-1b-tiny", context=24, chunks=(8,), weights=weights, check=False
        )
        programs.save(path)
        codes = [
            {c.key for c in exe.program.constants.values() if c.type.dtype.value in ("i8", "i4")}
            for _, exe in programs.items()
        ]
        assert codes[0] == codes[1], "prefill and decode have one copy of the codes"
        llm = forgec.LLM(path)
        texts[weights] = [piece.token for piece in llm.generate(list(range(1, 11)), max_tokens=6)]
        logits[weights] = np.stack(list(llm.logits(list(range(1, 15)), prompt=10)))
        llm.close()
    assert all(len(text) == 6 for text in texts.values())
    assert sqnr_db(logits["fp32"], logits["int8"]) > 15 > sqnr_db(logits["fp32"], logits["int4:32"]) > 0


def language_model(path: Path) -> None:
    programs = forgec.compile_language_model("llama-3.2-1b-tiny", context=16, chunks=(4, 8), weights="int8")
    programs.save(path)
    list(forgec.LLM(programs).generate([1, 2, 3], max_tokens=2))


def buckets(path: Path) -> None:
    tokens = forgec.Dim("tokens", 8, 16)
    shapes = {name: {1: tokens} for name in ("input_ids", "attention_mask", "token_type_ids")}
    compiled = forgec.compile_buckets("minilm-tiny", dynamic_shapes=shapes, weights="w8a8")
    compiled.save(path)


@pytest.mark.parametrize("compile_and_save", slow_after(1, [language_model, buckets]))
def test_programs_of_one_model_compress_each_weight_once(
    compile_and_save: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Counter[Recipe] = Counter()

    class Counted(Evaluator):
        def __call__(self, recipe: Recipe) -> np.ndarray:
            made[recipe] += isinstance(recipe, Apply) and recipe.op == "quantise"
            return super().__call__(recipe)

    monkeypatch.setattr(constants, "Evaluator", Counted)
    compile_and_save(tmp_path / "model.forge")
    assert made.total() > 4 and max(made.values()) == 1


class Cancelling(nn.Module):
    """Two large products whose difference rounding destroys."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        base = torch.randn(32, 64, generator=generator)
        self.a = nn.Parameter(base)
        self.b = nn.Parameter(base + 1e-3 * torch.randn(32, 64, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.a.T - x @ self.b.T


def test_a_model_that_rounding_destroys_is_refused() -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    forgec.compile(Cancelling().eval(), (x,))
    with pytest.raises(FidelityError, match="of its norm, more than rounding to int8 explains"):
        forgec.compile(Cancelling().eval(), (x,), weights="int8")
