"""Language models for Intel's NPUs, emulated: the decoder is one segment, and the text is transformers'.

Intel's compiler is left out: it is taken to accept all but look-ups of codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from forgec.backends.openvino import compiler, folded, prediction, runner, toolchain
from forgec.backends.openvino.backend import OpenVinoBackend
from forgec.backends.openvino.compiler import Built, Model
from forgec.backends.prediction import Prediction
from worth_a_device import costs_file

import forgec
from forgec import models

SEED = 5
TARGET = "intel-npu4000"


@pytest.fixture
def accepting(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(given: Sequence[Model], *_: object) -> list[Built]:
        return [Built(b"blob", "", b"", 0.5) for _ in given]

    monkeypatch.setattr(toolchain, "missing", lambda: None)
    monkeypatch.setattr(compiler, "build", build)
    for module in (folded, prediction):
        monkeypatch.setattr(module, "predict", lambda *_: Prediction(10.0, "test"))
    answers = SimpleNamespace(reasons=lambda instrs: ["no" if i.op == "embedding_q" else "" for i in instrs])
    monkeypatch.setattr(OpenVinoBackend, "_support", lambda self: answers)
    monkeypatch.setattr(OpenVinoBackend, "_tools", lambda self: None)


@pytest.fixture
def costs(tmp_path: Path) -> str:
    return costs_file(tmp_path)


def _compiled(loaded: models.LoadedModel, costs: str, **options: Any) -> forgec.Programs:
    return forgec.compile_language_model(
        loaded, context=40, chunks=[8], target=TARGET, costs=costs, **options
    )


def _greedy(loaded: models.LoadedModel, prompt: list[int], count: int) -> list[int]:
    with torch.no_grad():
        given = torch.tensor([prompt])
        settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        mask = torch.ones_like(given)
        out = loaded.module.generate(given, attention_mask=mask, max_new_tokens=count, **settings)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("name", "fold"),
    [
        ("llama-3.2-1b-tiny", "on"),
        pytest.param("qwen2-0.5b-tiny", "off", marks=pytest.mark.slow),
        pytest.param("gpt2-tiny", "on", marks=pytest.mark.slow),
        pytest.param("lfm2-2.6b-tiny", "off", marks=pytest.mark.slow),
    ],
)
def test_the_text_is_that_of_transformers(
    name: str, fold: str, accepting: None, costs: str, tmp_path: Path
) -> None:
    """Across the border of two chunks, from a file; greedy, and no two logits are close here."""
    loaded = models.load(name)
    prompt = np.random.default_rng(SEED).integers(3, 131, 13).tolist()
    wanted = _greedy(loaded, prompt, 12)
    programs = _compiled(loaded, costs, fold=fold)
    for entry in programs.values():
        assert [segment.device for segment in entry.plan.segments] == ["cpu", TARGET, "cpu"]
    programs.save(tmp_path / "m.forge")
    with forgec.LLM(tmp_path / "m.forge") as llm:
        assert [piece.token for piece in llm.generate(prompt, eos=(), max_tokens=12)] == wanted


@pytest.mark.slow
def test_folded_int8_is_what_the_cpu_computes(accepting: None, costs: str) -> None:
    ids = np.random.default_rng(SEED).integers(3, 131, 16).tolist()
    loaded = models.load("llama-3.2-1b-tiny")
    programs = _compiled(loaded, costs, fold="on", weights="int8", check=False)
    for entry in programs.values():
        assert entry.report is not None
        (found,) = entry.report.predictions
        assert [repeat.calls for repeat in found.repeats] == [2]
    host = forgec.compile_language_model(
        models.load("llama-3.2-1b-tiny"), context=40, chunks=[8], weights="int8", check=False
    )
    with forgec.LLM(programs) as npu, forgec.LLM(host) as cpu:
        for found, wanted in zip(npu.logits(ids, 11), cpu.logits(ids, 11), strict=True):
            assert np.abs(found - wanted).max() < 1e-2 * np.abs(wanted).max(), f"seed {SEED}"


@pytest.mark.slow
def test_caches_are_read_where_they_lie(accepting: None, costs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[tuple[int, ...]] = []
    step = runner._step

    def counting(requests: Any, inputs: runner.Pairs, outputs: runner.Pairs) -> Any:
        moved.extend(x.shape for x, place in inputs if not np.may_share_memory(x, place))
        return step(requests, inputs, outputs)

    monkeypatch.setattr(runner, "_step", counting)
    programs = _compiled(models.load("llama-3.2-1b-tiny"), costs, check=False)
    with forgec.LLM(programs) as llm:
        list(llm.generate([5, 6, 7], max_tokens=3, eos=()))
    assert moved and not any(48 in shape for shape in moved), moved


@pytest.mark.slow
@pytest.mark.parametrize(("fold", "calls"), [("on", 1), ("off", 2)])
def test_what_repeats_in_both_programs_is_compiled_at_once(
    fold: str, calls: int, accepting: None, costs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the blocks, a block and the head of either program, and nothing for the row that is copied."""
    given: list[Sequence[Model]] = []
    build = compiler.build

    def counting(models: Sequence[Model], *rest: object) -> list[Built]:
        given.append(models)
        return build(models, *rest)  # type: ignore[arg-type, return-value]

    monkeypatch.setattr(compiler, "build", counting)
    programs = _compiled(models.load("llama-3.2-1b-tiny"), costs, fold=fold, check=False)
    assert len(given) == calls
    if fold == "on":
        assert len(given[0]) == 6 and len({(m.xml, m.weights) for m in given[0]}) == 5
    for entry in programs.values():
        assert entry.report is not None and all(phase.ms >= 0 for phase in entry.report.phases)
