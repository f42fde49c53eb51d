"""Capture: structure, names, ties, mutation, sources, errors."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from capture_models import Counter, InPlace, Nested, Tied, seeded
from torch import nn

import forgec
from forgec import models
from forgec.capture import capture
from forgec.capture.own_code import own_code, without_onednn
from forgec.errors import CaptureError, OptionError, UnsupportedOpError


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(ours, theirs) -> None:
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_nested_inputs_and_outputs_keep_names_and_structure():
    model = seeded(Nested)

    def inputs(seed: int):
        return (values(2, 4, seed=seed), (values(4, seed=seed + 1), {"inner": values(2, 4, seed=seed + 2)}))

    exe = forgec.compile(model, inputs(0), {"extra": values(4), "double": True})
    names = [leaf.name for leaf in exe.signature.inputs]
    assert names == ["x", "pair.0", "pair.1.inner", "extra"]
    out = exe(*inputs(5), extra=values(4, seed=9), double=True)
    want = model(*inputs(5), extra=values(4, seed=9), double=True)
    close(out["sum"], want["sum"])
    assert isinstance(out["parts"], tuple) and isinstance(out["parts"][1], list)
    close(out["parts"][0], want["parts"][0])
    close(out["parts"][1][1], want["parts"][1][1])


def test_keyword_order_does_not_matter():
    model = seeded(Nested)
    pair = (values(4), {"inner": values(2, 4)})
    exe = forgec.compile(model, (), {"extra": values(4, seed=3), "pair": pair, "x": values(2, 4, seed=4)})
    x, extra = values(2, 4, seed=5), values(4, seed=6)
    close(exe(x=x, pair=pair, extra=extra)["sum"], model(x, pair, extra=extra)["sum"])


def test_tied_weights_are_one_constant_in_memory_and_on_disk(tmp_path):
    model = seeded(Tied)
    exe = forgec.compile(model, (torch.tensor([[1, 2]]),))
    assert len(exe.program.constants) == 1
    exe.save(tmp_path / "tied.forge")
    assert exe.report.memory.weight_bytes == 11 * 6 * 4
    assert (tmp_path / "tied.forge").stat().st_size < 2 * 11 * 6 * 4 + 20_000
    ids = torch.tensor([[10, 0]])
    close(forgec.load(tmp_path / "tied.forge")(ids), model(ids))


def test_in_place_code_becomes_functional():
    model = seeded(InPlace)
    exe = forgec.compile(model, (values(3, 4),))
    x = values(3, 4, seed=8)
    close(exe(x), model(x))


def test_mutated_buffer_becomes_a_state():
    model = seeded(Counter)
    exe = forgec.compile(model, (values(2, 3),))
    assert torch.equal(model.count, torch.zeros(3)), "compiling must not run the model's counter on"
    assert len(exe.program.states) == 1
    for seed in range(3):
        x = values(2, 3, seed=seed)
        close(exe(x), model(x))
    exe.reset()
    model.count.zero_()
    close(exe(values(2, 3)), model(values(2, 3)))


def test_every_instruction_knows_its_source_line():
    model = seeded(Nested)
    exe = forgec.compile(model, (values(2, 4), (values(4), {"inner": values(2, 4)})))
    for function in exe.program.functions.values():
        for instr in function.body:
            assert instr.source is not None
            assert instr.source.file is not None and instr.source.file.endswith("capture_models.py"), instr
            assert instr.source.line is not None


def test_exported_program_and_pt2_file(tmp_path):
    model = seeded(Nested)
    args = (values(2, 4), (values(4), {"inner": values(2, 4)}))
    program = torch.export.export(model, args, strict=False)
    torch.export.save(program, tmp_path / "nested.pt2")
    for source in (program, tmp_path / "nested.pt2", str(tmp_path / "nested.pt2")):
        exe = forgec.compile(source)
        assert exe.report.capture.mode == "exported"
        assert exe.report.fidelity is not None
        again = (values(2, 4, seed=3), (values(4, seed=4), {"inner": values(2, 4, seed=5)}))
        close(exe(*again)["sum"], model(*again)["sum"])


@pytest.mark.slow
def test_a_pt2_file_with_the_outputs_of_transformers(tmp_path):
    """torch knows the class of such outputs only when its module was imported, as here and not in a new
    process."""
    loaded = models.load("bert-base-tiny")
    _, kwargs = loaded.example_inputs(tokens=8)
    path = tmp_path / "bert.pt2"
    torch.export.save(torch.export.export(loaded.module, (), kwargs), path)
    code = "import sys, forgec; print(sorted(forgec.compile(sys.argv[1]).signature.outputs['items']))"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "last_hidden_state" in done.stdout


def test_pt2_with_pickled_objects_is_refused(tmp_path):
    path = tmp_path / "objects.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        entry = {"path_name": "custom_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        archive.writestr("m/data/constants/model_constants_config.json", json.dumps({"config": {"o": entry}}))
    with pytest.raises(CaptureError, match="does not unpickle"):
        forgec.compile(path)


class Runs:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("place", ["example inputs", "weights"])
def test_pt2_runs_no_code(tmp_path, place):
    good, path, mark = tmp_path / "good.pt2", tmp_path / "bad.pt2", tmp_path / "mark"
    torch.export.save(torch.export.export(nn.Linear(4, 4).eval(), (values(2, 4),)), good)
    evil = io.BytesIO()
    torch.save(Runs(mark), evil)
    with zipfile.ZipFile(good) as archive, zipfile.ZipFile(path, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            if place == "weights" and name.endswith("weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
                assert b"true" in content
            replaced = "/sample_inputs/" if place == "example inputs" else "/weights/weight_"
            copy.writestr(name, evil.getvalue() if replaced in name else content)
    with pytest.raises(CaptureError, match="does not unpickle"):
        forgec.compile(path)
    assert not mark.exists()


class TestDynamicShapes:
    """Of an exported program: it is compiled for those of the inputs, or of its example."""

    @pytest.fixture
    def program(self) -> torch.export.ExportedProgram:
        model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)).eval()
        rows = torch.export.Dim("rows", min=2, max=6)
        return torch.export.export(model, (values(3, 4),), dynamic_shapes=({0: rows},))

    @pytest.mark.parametrize("rows", [None, 2, 5])
    def test_they_are_those_of_the_inputs(self, program, rows, tmp_path):
        torch.export.save(program, tmp_path / "m.pt2")
        for source in (program, tmp_path / "m.pt2"):
            exe = forgec.compile(source, () if rows is None else (values(rows, 4),))
            x = values(rows or 3, 4, seed=1)
            close(exe(x), program.module()(x))

    def test_inputs_that_do_not_fit(self, program):
        with pytest.raises(CaptureError, match=r"does not take these inputs: Guard failed: .* <= 6"):
            forgec.compile(program, (values(7, 4),))
        static = torch.export.export(nn.Linear(4, 4).eval(), (values(2, 4),))
        with pytest.raises(CaptureError, match="does not take these inputs"):
            forgec.compile(static, (values(3, 4),))

    def test_an_example_is_needed(self, program):
        program.example_inputs = None
        with pytest.raises(CaptureError, match="dynamic shapes and no example"):
            forgec.compile(program)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "there is no file"), (b"hello", "is not a .pt2 file")]
)
def test_bad_pt2(tmp_path, content, message):
    path = tmp_path / "bad.pt2"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CaptureError, match=message):
        forgec.compile(path)


def test_no_example_inputs():
    with pytest.raises(CaptureError, match="no example inputs"):
        forgec.compile(seeded(Tied))


def test_training_mode_names_the_module():
    model = seeded(Nested)
    model.linear.train()
    with pytest.raises(CaptureError, match=r"training mode.*linear"):
        capture(model, (values(2, 4),))


class Layered(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def of_layers(model):
    for number, layer in enumerate(model.layers[1:], 1):
        model.layers[number] = torch.compile(layer)
    return model


def in_place(model):
    model.compile()
    model.layers[0].compile()
    return model


@pytest.mark.parametrize("compiled", [torch.compile, in_place, of_layers])
def test_a_model_that_torch_compiles_is_captured_by_its_code(compiled):
    exe = forgec.compile(compiled(seeded(Layered)), (values(2, 4),))
    assert exe.report.model == "Layered"
    x = values(2, 4, seed=1)
    close(exe(x), seeded(Layered)(x))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("shortcut", [True, False])
def test_an_encoder_of_torch_with_padding(monkeypatch, shortcut):
    """Its shortcut for such a call, nested tensors, is not what a capture sees; it is allowed again after."""
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", shortcut)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    exe = forgec.compile(encoder, (values(2, 5, 16),), {"src_key_padding_mask": padding})
    assert torch.backends.mha.get_fastpath_enabled() is shortcut
    with torch.no_grad():
        x = values(2, 5, 16, seed=1)
        wanted = encoder(x, src_key_padding_mask=padding).numpy()
    got = exe(x, src_key_padding_mask=padding)
    np.testing.assert_allclose(got[~padding.numpy()], wanted[~padding.numpy()], atol=1e-5)


def test_settings_of_torch_come_back_when_the_last_capture_ends():
    """Two threads begin and end in the same order."""
    first, second, compiled = own_code(), own_code(), torch.compile(lambda x: x + 1, backend=lambda *_: 1 / 0)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.mha.get_fastpath_enabled()
    assert compiled(torch.ones(1)) == 2
    second.__exit__(None, None, None)
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(Exception, match="division by zero"):
        compiled(torch.ones(1))


def test_onednn_comes_back_when_the_last_of_two_leaves() -> None:
    before = torch.backends.mkldnn.enabled
    first, second = without_onednn(), without_onednn()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.mkldnn.enabled
    second.__exit__(None, None, None)
    assert torch.backends.mkldnn.enabled is before is True


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
def test_layers_that_torch_quantised_are_named():
    model = torch.ao.quantization.quantize_dynamic(seeded(Nested), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(CaptureError, match=r"linear is a Linear that torch\.ao quantised"):
        capture(model, (values(2, 4),))


class Wrapped(torch.Tensor):
    """A tensor in the place of another, as quantised ones are."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape)

    def __init__(self, inner):
        self.inner = inner

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner, context, size, stride):
        return Wrapped(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        unwrapped = torch.utils._pytree.tree_map_only(Wrapped, lambda x: x.inner, (args, kwargs or {}))
        return func(*unwrapped[0], **unwrapped[1])


def test_weights_that_are_no_plain_tensors_are_named():
    model = seeded(Nested)
    model.linear.register_buffer("codes", Wrapped(torch.ones(2)))
    with pytest.raises(CaptureError, match=r"linear\.codes is a Wrapped"):
        capture(model, (values(2, 4),))


def test_example_inputs_that_are_no_tuple():
    model = nn.Linear(4, 4).eval()
    with pytest.raises(OptionError, match="args is a Tensor") as caught:
        forgec.compile(model, values(2, 4))
    assert "(x,)" in (caught.value.hint or "")
    with pytest.raises(OptionError, match="args is a dict") as caught:
        forgec.compile(model, {"input": values(2, 4)})
    assert "kwargs=" in (caught.value.hint or "")


def test_inputs_that_the_model_rejects_name_its_line():
    with pytest.raises(CaptureError, match="fails on the example inputs") as caught:
        forgec.compile(seeded(Nested), (values(2, 5), (values(4), {"inner": values(4)})))
    assert "capture_models.py" in (caught.value.where or "")


class Branches(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x


class Selects(nn.Module):
    def forward(self, x):
        return x[x > 0]


class Draws(nn.Module):
    def forward(self, x):
        return torch.randn(3) + torch.multinomial(x.exp(), 3)


def test_data_dependent_branch_names_line_and_remedy(capfd):
    with pytest.raises(CaptureError) as caught:
        forgec.compile(Branches().eval(), (values(3),))
    assert "if x.sum() > 0" in (caught.value.where or "")
    assert "torch.where" in (caught.value.hint or "")
    assert capfd.readouterr().err == "", "torch's own dumps must not reach the user"


class Parts(nn.Module):
    """As many rows in each of several results as a value says."""

    def forward(self, x):
        sizes = torch.stack([x > 0, x <= 0]).sum(1).tolist()
        return torch.cat(x.split(sizes)[::-1])


@pytest.mark.parametrize("made", [Selects, Parts])
def test_data_dependent_shape(made):
    with pytest.raises(CaptureError, match="depends on values") as caught:
        forgec.compile(made().eval(), (torch.ones(3),))
    assert "boolean index" in (caught.value.hint or "")


def test_all_unsupported_operators_are_named_at_once():
    with pytest.raises(UnsupportedOpError) as caught:
        forgec.compile(Draws().eval(), (values(3),))
    assert "aten.randn" in str(caught.value) and "aten.multinomial" in str(caught.value)
    assert "test_capture.py" in str(caught.value)


def test_unknown_thing():
    with pytest.raises(CaptureError, match="cannot capture a int"):
        forgec.compile(3)  # type: ignore[arg-type]


def test_nan_weight_is_a_warning():
    model = seeded(Nested)
    with torch.no_grad():
        model.linear.weight[1, 2] = float("nan")
    exe = forgec.compile(model, (values(2, 4), (values(4), {"inner": values(2, 4)})))
    assert any("linear.weight has 1 NaN" in warning for warning in exe.report.warnings)


def test_experts_are_captured_in_the_static_form(capfd):
    """transformers' own default sorts tokens by expert, in sizes that values decide."""
    from transformers import OlmoeConfig, OlmoeForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = OlmoeConfig(**sizes, vocab_size=29, num_hidden_layers=1, num_experts=4, num_experts_per_tok=2)
    config.use_cache = False
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = OlmoeForCausalLM(config).eval()
    before = config._experts_implementation
    exe = forgec.compile(model, (), {"input_ids": torch.arange(7)[None]})
    assert config._experts_implementation == before != "batched_mm"
    ids = torch.arange(20, 27)[None]
    with torch.no_grad():
        close(exe(input_ids=ids)["logits"], model(input_ids=ids).logits)


class Returning(nn.Module):
    """Its blocks pass on an object that is no tensor, and so does it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(3, 3)) for _ in range(2))

    def forward(self, x):
        held = Path("cache")
        for layer in self.layers:
            x = layer(x)
        return {"y": x, "held": held}


def test_results_that_are_no_tensors_are_named():
    """Not what an export says of them, which was tried too."""
    with pytest.raises(CaptureError, match=r"held is a \w*Path; .* must be tensors"):
        forgec.compile(Returning().eval(), (torch.ones(2, 3),))


class Mapping(nn.Module):
    """Functions of one row or number, mapped over a table and over the input."""

    def forward(self, x):
        rows = torch.vmap(lambda row: row * 2 + row.sum())(x)
        return rows + torch.vmap(lambda i: i * 3 + 1)(torch.arange(x.shape[1]))


def test_functions_mapped_over_tensors():
    x, other = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(5))
    executable = forgec.compile(Mapping().eval(), (x,))
    np.testing.assert_allclose(executable(other), Mapping()(other).numpy(), rtol=1e-6, atol=1e-6)


class Clashes(nn.Module):
    """Runs eagerly, and fails on the shapes of a trace."""

    def forward(self, x):
        return x + torch.zeros(7) if torch.compiler.is_exporting() else x


def test_an_error_in_the_trace_is_told_once(capfd):
    with pytest.raises(CaptureError, match="broadcast"):
        forgec.compile(Clashes().eval(), (values(3),))
    assert capfd.readouterr().err == "", "torch logs a traceback of its own"
