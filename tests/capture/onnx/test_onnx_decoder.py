"""Language models in ONNX files write what the models write that they were exported from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_files import CONTRIB
from tiers import slow_after
from transformers import AutoModelForCausalLM, DynamicCache, GPT2Config, LlamaConfig, MistralConfig

import forgec
from forgec.capture.onnx import load_onnx
from forgec.capture.onnx.decoder import cache_of
from forgec.errors import FidelityError, ModelError
from forgec.ir.in_place import flatten
from forgec.ir.types import DType

pytest.importorskip("onnxruntime", reason="runs where forgec[test] is installed")

VOCABULARY, LAYERS, HEADS, SIZE = 131, 2, 2, 16
_GROUPED = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 96,
    "initializer_range": 0.2,
}
CONFIGS = {
    "llama": LlamaConfig(**_GROUPED, eos_token_id=2),
    "mistral": MistralConfig(**_GROUPED, sliding_window=12),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_layer=LAYERS, n_head=4, n_positions=96, initializer_range=0.2
    ),
}


class WithPast(torch.nn.Module):
    """A model as exporters call it: caches are tensors, and are given back longer."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, *past):
        cache = DynamicCache()
        for layer in range(LAYERS):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        found = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        kept = found.past_key_values.layers
        return found.logits, *[x for layer in kept for x in (layer.keys, layer.values)]


def names(prefix: str) -> list[str]:
    return [f"{prefix}.{layer}.{kind}" for layer in range(LAYERS) for kind in ("key", "value")]


def export(folder: Path, kind: str) -> tuple[Path, torch.nn.Module]:
    """The file of a model, its configuration beside it, and the model."""
    torch.manual_seed(3)
    config = CONFIGS[kind]
    model = AutoModelForCausalLM.from_config(config).eval()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    past = [torch.randn(1, heads, 5, SIZE) for _ in range(2 * LAYERS)]
    ids = torch.tensor([[3, 1, 2]])
    args = (ids, torch.ones(1, 8, dtype=torch.int64), torch.arange(5, 8)[None], *past)
    open_axes = {
        "input_ids": {1: "tokens"},
        "attention_mask": {1: "total"},
        "position_ids": {1: "tokens"},
        **{name: {2: "past"} for name in names("past_key_values")},
    }
    path = folder / "model.onnx"
    torch.onnx.export(
        WithPast(model).eval(),
        args,
        str(path),
        input_names=["input_ids", "attention_mask", "position_ids", *names("past_key_values")],
        output_names=["logits", *names("present")],
        dynamic_axes=open_axes,
        dynamo=False,
    )
    config.save_pretrained(folder)
    return path, model


@pytest.fixture(scope="module", params=slow_after(1, list(CONFIGS)))
def exported(request, tmp_path_factory):
    return export(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return export(tmp_path_factory.mktemp("one"), "llama")


def plain(model, ids: list[int]) -> np.ndarray:
    """Logits after every token, without a cache."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].numpy()


def check(programs, model, count: int = 45, bound: float = 2.1e-5) -> None:
    """A prompt of whole and padded chunks, and tokens behind it, against the model without a cache."""
    ids = [int(n) for n in np.random.default_rng(5).integers(0, VOCABULARY, count)]
    wanted = plain(model, ids)
    with forgec.LLM(programs) as llm:
        found = list(llm.logits(ids, count - 6))
    for ours, theirs in zip(found, wanted[count - 7 :], strict=True):
        assert float(np.abs(ours - theirs).max()) <= bound * max(1.0, float(np.abs(theirs).max()))


def test_a_file_is_the_model(exported):
    path, model = exported
    programs = forgec.compile_language_model(path, context=64, chunks=[16])
    check(programs, model)
    report = programs.main.report
    assert report.fidelity.passed and report.fidelity.reference == "ONNX Runtime"
    joins = [i for i in programs["prefill.16"].plan.program.main.body if i.op == "concat"]
    assert all(i.results[0].type.rank < 4 for i in joins), "no cache is copied"
    head = [i for i in programs["prefill.16"].plan.program.main.body if i.op == "linear"][-1]
    assert head.results[0].type.shape == (1, 1, VOCABULARY), "logits of one token"


@pytest.mark.parametrize("off_host", slow_after(1, [True, False]))
def test_its_instructions_are_those_of_the_model(llama, off_host):
    """Of the exported form nothing is left but how the mask and the positions are computed, once. Devices
    that keep no state read the cache and the new rows behind it."""
    path, model = llama
    counted = []
    for source in (path, model):
        programs = forgec.compile_language_model(source, context=64, chunks=[], check=False)
        body = flatten(programs.main.program, off_host=off_host).main.body
        ops = ("linear", "attention", "rope", "rms_norm", "gated", "write_rows", "cache_mask")
        counted.append({op: sum(instr.op == op for instr in body) for op in ops})
    assert counted[0] == counted[1]
    assert bool(counted[0]["cache_mask"]) is off_host and counted[0]["write_rows"] == 2 * LAYERS


def test_settings_and_tokenizer_come_from_beside_or_above(llama, tmp_path):
    path, _ = llama
    inner = tmp_path / "onnx"
    inner.mkdir()
    shutil.copy(path, inner / "model.onnx")
    shutil.copy(path.parent / "config.json", tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    programs = forgec.compile_language_model(inner / "model.onnx", context=32, chunks=[], check=False)
    with forgec.LLM(programs) as llm:
        assert llm.info.eos == (7, 9) and llm.info.vocabulary == VOCABULARY and llm.info.rewinds


@pytest.mark.slow
def test_a_cache_of_16_bits(llama):
    path, model = llama
    programs = forgec.compile_language_model(path, context=64, chunks=[16], cache="f16")
    assert {t.dtype for t in programs.main.plan.program.states.values()} == {DType.F16}
    check(programs, model, bound=5e-3)


@pytest.mark.slow
def test_saved_and_loaded(llama, tmp_path):
    path, model = llama
    forgec.compile_language_model(path, context=64, chunks=[16], check=False).save(tmp_path / "m.forge")
    check(forgec.load_programs(tmp_path / "m.forge"), model)


def grouped(path: Path, window: int = -1) -> Path:
    """A layer as ONNX Runtime GenAI writes it: positions and rotary embedding inside of the attention."""
    rng = np.random.default_rng(11)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    angles = np.arange(64)[:, None] / 50.0 ** (np.arange(SIZE // 2) / SIZE)
    stored = {
        "table": weight(VOCABULARY, 64),
        "qkv": weight(64, (4 + 2 * HEADS) * SIZE),
        "out": weight(64, VOCABULARY),
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
        "one": np.array([1], np.int64),
        "axis": np.array([1], np.int64),
        "at": np.array(1, np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        helper.make_node("MatMul", ["x", "qkv"], ["joined"], "the/MatMul"),
        helper.make_node("ReduceSum", ["attention_mask", "axis"], ["sums"], keepdims=0),
        helper.make_node("Sub", ["sums", "one"], ["before"]),
        helper.make_node("Cast", ["before"], ["lengths"], to=TensorProto.INT32),
        helper.make_node("Shape", ["attention_mask"], ["shape"]),
        helper.make_node("Gather", ["shape", "at"], ["columns"]),
        helper.make_node("Cast", ["columns"], ["total"], to=TensorProto.INT32),
        helper.make_node(
            "GroupQueryAttention",
            ["joined", "", "", "past_key_values.0.key", "past_key_values.0.value", "lengths", "total", "cos", "sin"],
            ["y", "present.0.key", "present.0.value"],
            "the/GroupQueryAttention",
            domain=CONTRIB,
            num_heads=4,
            kv_num_heads=HEADS,
            do_rotary=1,
            local_window_size=window,
        ),
        helper.make_node("MatMul", ["y", "out"], ["logits"], "the/head"),
    ]  # fmt: skip
    floats, past = TensorProto.FLOAT, ["batch", HEADS, "past", "kv_cache_dim"]
    total = ["batch", HEADS, "total", "kv_cache_dim"]
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"]),
            *(
                helper.make_tensor_value_info(f"past_key_values.0.{k}", floats, past)
                for k in ("key", "value")
            ),
        ],
        [
            helper.make_tensor_value_info("logits", floats, ["batch", "tokens", VOCABULARY]),
            *(helper.make_tensor_value_info(f"present.0.{k}", floats, total) for k in ("key", "value")),
        ],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(CONTRIB, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    decoder = {"head_size": SIZE, "num_key_value_heads": HEADS, "num_attention_heads": 4}
    model = {"context_length": 64, "eos_token_id": 2, "vocab_size": VOCABULARY, "decoder": decoder}
    (path.parent / "genai_config.json").write_text(json.dumps({"model": model, "search": {}}))
    return path


@pytest.mark.parametrize("window", [-1, 6])
def test_attention_of_onnx_runtime_with_a_cache_inside(tmp_path, window):
    """ONNX Runtime is what each program is compared with, and the file without a cache what texts are."""
    path = grouped(tmp_path / "model.onnx", window)
    programs = forgec.compile_language_model(path, context=48, chunks=[16])
    assert programs.main.report.fidelity.reference == "ONNX Runtime"
    assert programs.main.report.fidelity.max_abs < 2.1e-5
    with forgec.LLM(programs) as llm:
        assert llm.info.eos == (2,)
        ids = list(range(5, 45))
        whole = list(llm.logits(ids, 20))
        llm.forget()
        token_by_token = [next(iter(llm.logits(ids[:n], n))) for n in range(20, 41)]
    for one, other in zip(whole, token_by_token, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def changed(path: Path, to: Path, change) -> Path:
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, to / "model.onnx")
    for name in ("config.json", "genai_config.json"):
        if (path.parent / name).is_file():
            shutil.copy(path.parent / name, to)
    return to / "model.onnx"


def renamed(old: str, new: str):
    def change(graph) -> None:
        for value in (*graph.input, *graph.output):
            value.name = value.name.replace(old, new)
        for node in graph.node:
            node.input[:] = [name.replace(old, new) for name in node.input]
            node.output[:] = [name.replace(old, new) for name in node.output]

    return change


def more_inputs(graph) -> None:
    graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3]))


def fixed_inputs(graph) -> None:
    graph.input.append(helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]))
    graph.input.append(helper.make_tensor_value_info("num_logits_to_keep", TensorProto.INT64, []))


WRONG = {
    "takes no cache": renamed("past_key_values", "memory"),
    "a cache that forgec does not know": renamed("present.0", "kept.0"),
    "takes pixels .*nothing to give": more_inputs,
    "takes ids .*nothing to give": renamed("input_ids", "ids"),
}


@pytest.mark.parametrize("match", WRONG)
def test_other_files_are_errors_that_say_what(llama, tmp_path, match):
    path = changed(llama[0], tmp_path, WRONG[match])
    with pytest.raises(ModelError, match=match) as caught:
        forgec.compile_language_model(path, context=32)
    assert caught.value.hint


@pytest.mark.slow
def test_inputs_that_are_the_same_in_all_runs(llama, tmp_path):
    path = changed(llama[0], tmp_path, fixed_inputs)
    check(forgec.compile_language_model(path, context=64, chunks=[16], check=False), llama[1])


@pytest.mark.parametrize("chunks", slow_after(1, [[16], []]))
def test_logits_of_the_last_token_alone(llama, tmp_path, chunks):
    def change(graph) -> None:
        (head,) = (node for node in graph.node if "logits" in node.output)
        head.output[:] = ["all"]
        graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last"))
        graph.node.append(helper.make_node("Gather", ["all", "last"], ["logits"], axis=1))

    path = changed(llama[0], tmp_path, change)
    if not chunks:
        check(forgec.compile_language_model(path, context=64, chunks=chunks), llama[1])
        return
    with pytest.raises(ModelError, match="after its last token alone") as caught:
        forgec.compile_language_model(path, context=64, chunks=chunks)
    assert "--chunk 1" in str(caught.value.hint)


def test_contexts_that_do_not_fit(llama, tmp_path):
    with pytest.raises(ModelError, match="takes at most 96 tokens"):
        forgec.compile_language_model(llama[0], context=97)
    path = grouped(tmp_path / "model.onnx")
    (tmp_path / "genai_config.json").unlink()
    with pytest.raises(ModelError, match="how many heads") as caught:
        forgec.compile_language_model(path, context=32)
    assert "genai_config.json" in str(caught.value.hint)


def test_positions_that_count_the_rows_of_the_cache_are_found_out(llama, tmp_path):
    """Without position_ids a model counts on from the length of its cache, which has rows that mean
    nothing."""

    def change(graph) -> None:
        where = next(i for i, value in enumerate(graph.input) if value.name == "position_ids")
        del graph.input[where]
        made = [
            helper.make_node("Shape", ["past_key_values.0.key"], ["s0"], start=2, end=3),
            helper.make_node("Shape", ["input_ids"], ["s1"], start=1, end=2),
            helper.make_node("Squeeze", ["s0"], ["first"]),
            helper.make_node("Add", ["s0", "s1"], ["s2"]),
            helper.make_node("Squeeze", ["s2"], ["last"]),
            helper.make_node("Constant", [], ["step"], value_int=1),
            helper.make_node("Range", ["first", "last", "step"], ["counted"]),
            helper.make_node("Constant", [], ["front"], value_ints=[0]),
            helper.make_node("Unsqueeze", ["counted", "front"], ["position_ids"]),
        ]
        for node in reversed(made):
            graph.node.insert(0, node)

    path = changed(llama[0], tmp_path, change)
    with pytest.raises(FidelityError, match="differ from ONNX Runtime's without a cache"):
        forgec.compile_language_model(path, context=32, chunks=[8])


def test_names_of_caches(llama):
    entries = cache_of(load_onnx(llama[0]))
    assert [(e.layer, e.kind, e.past.name, e.present) for e in entries[:2]] == [
        (0, "k", "past_key_values.0.key", "present.0.key"),
        (0, "v", "past_key_values.0.value", "present.0.value"),
    ]
