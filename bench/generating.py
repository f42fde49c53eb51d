"""What the workers of the generation benchmark serve: files for each tool, and prompts read and continued."""

from __future__ import annotations

import json
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

__all__ = ["EXPERTS", "TOOLS", "Generating", "Preparing", "Rates", "last_logits"]

Rates = tuple[float, float]
"""Seconds until a prompt was read, and seconds for the tokens after the first."""


EXPERTS = "olmoe-1b-7b"
"""A mixture of experts that is no preset, with the dimensions of OLMoE-1B-7B."""


def _loaded(model: str, layers: int | None, dtype: str) -> Any:
    """A language model with seeded random weights: a preset, or :data:`EXPERTS`; in 16 bits as in memory."""
    from forgec import models

    if model != EXPERTS:
        loaded = models.load(model, layers=layers, dtype=dtype)
        return loaded if dtype == "float32" else loaded.module
    import torch
    from transformers import OlmoeConfig, OlmoeForCausalLM

    torch.manual_seed(0)
    made = OlmoeForCausalLM(OlmoeConfig(intermediate_size=1024, num_hidden_layers=layers or 16))
    return made.eval().to(getattr(torch, dtype))


class Preparing:
    """Writes the files, in a process of its own."""

    def forgec(
        self,
        model: str,
        layers: int | None,
        weights: str,
        context: int,
        chunk: int,
        path: str,
        dtype: str = "float32",
        passes: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Seconds to load, compile and save, and bytes of weights that a decode step reads."""
        import forgec
        from forgec.ir.program import ConstRef

        start = perf_counter()
        loaded = _loaded(model, layers, dtype)
        begun = perf_counter()
        programs = forgec.compile_language_model(
            loaded, context=context, chunks=[chunk], weights=weights, check=False, passes=tuple(passes)
        )
        compiled = perf_counter()
        programs.save(path)
        done = perf_counter()
        program = programs["decode"].plan.program
        read = {
            x.name
            for instr in program.main.body
            for x in instr.operands
            if isinstance(x, ConstRef) and not instr.op.startswith("embedding")
        }
        return {
            "load_s": begun - start,
            "compile_s": compiled - begun,
            "save_s": done - compiled,
            "read_bytes": sum(program.constants[name].type.nbytes for name in read),
        }

    def forgec_onnx(self, file: str, context: int, chunk: int, path: str) -> None:
        """forgec's file of a language model in an ONNX file."""
        import forgec

        forgec.compile_language_model(file, context=context, chunks=[chunk], check=False).save(path)

    def genai(self, model: str, layers: int | None, precision: str, folder: str) -> None:
        """The file that ONNX Runtime GenAI makes of a model, with its defaults but for a table of its own."""
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformers import PreTrainedTokenizerFast

        from forgec import models

        with TemporaryDirectory() as checkpoint:
            module: Any = models.load(model, layers=layers).module
            module.save_pretrained(checkpoint)
            # The builder wants a tokenizer, and prompts are token ids.
            words = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
            PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(checkpoint)
            builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", checkpoint]
            options = ["-o", folder, "-p", precision, "-e", "cpu", "-c", f"{checkpoint}/cache"]
            # ONNX Runtime GenAI 0.18 crashes on a table of codes that the head shares.
            options += ["--extra_options", "shared_embeddings=false"]
            done = subprocess.run([*builder, *options], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"the builder failed: {done.stderr[-2000:]}")

    def gguf(self, model: str, layers: int | None, weights: str, path: str) -> None:
        """The same model, quantised by the library of GGUF."""
        from forgec import models

        from .gguf_file import write_gguf

        write_gguf(models.load(model, layers=layers).module, weights, Path(path))


class _Tool(ABC):
    """A model in memory that reads a prompt of token ids and writes tokens greedily."""

    @abstractmethod
    def generate(self, ids: Sequence[int], tokens: int) -> Rates:
        """Continue by exactly so many tokens."""


class _Forgec(_Tool):
    def __init__(self, path: str, threads: int, context: int) -> None:
        from forgec import LLM

        self._llm = LLM(path)
        for program in self._llm.programs.values():
            program.threads = threads

    def generate(self, ids: Sequence[int], tokens: int) -> Rates:
        for _ in self._llm.generate(ids, max_tokens=tokens, eos=()):
            pass
        stats = self._llm.stats
        return stats.prefill_s, stats.decode_s


class _OpenVino(_Tool):
    """OpenVINO GenAI from a GGUF file, with its default settings."""

    def __init__(self, path: str, threads: int, context: int) -> None:
        import openvino_genai

        self._pipeline = openvino_genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads)

    def generate(self, ids: Sequence[int], tokens: int) -> Rates:
        import openvino
        import openvino_genai

        settings = openvino_genai.GenerationConfig(
            max_new_tokens=tokens, ignore_eos=True, do_sample=False, apply_chat_template=False
        )
        prompt = np.array([ids], np.int64)
        inputs = openvino_genai.TokenizedInputs(
            openvino.Tensor(prompt), openvino.Tensor(np.ones_like(prompt))
        )
        metrics = self._pipeline.generate(inputs, settings).perf_metrics
        return metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean / 1e3 * (tokens - 1)


class _OnnxRuntimeGenAI(_Tool):
    """ONNX Runtime GenAI from a folder of its own."""

    def __init__(self, path: str, threads: int, context: int) -> None:
        import onnxruntime_genai

        config = onnxruntime_genai.Config(path)
        session = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = onnxruntime_genai.Model(config)
        self._context = context

    def generate(self, ids: Sequence[int], tokens: int) -> Rates:
        import onnxruntime_genai

        settings = onnxruntime_genai.GeneratorParams(self._model)
        settings.set_search_options(max_length=self._context, min_length=self._context, do_sample=False)
        generator = onnxruntime_genai.Generator(self._model, settings)
        start = perf_counter()
        generator.append_tokens(np.array([ids], np.int32))
        generator.generate_next_token()
        read = perf_counter()
        for _ in range(tokens - 1):
            generator.generate_next_token()
        return read - start, perf_counter() - read


class _LlamaCpp(_Tool):
    def __init__(self, path: str, threads: int, context: int) -> None:
        import llama_cpp

        self._model = llama_cpp.Llama(
            path,
            n_ctx=context,
            n_batch=512,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def generate(self, ids: Sequence[int], tokens: int) -> Rates:
        model = self._model
        model.reset()
        start = perf_counter()
        model.eval(list(ids))
        read = perf_counter()
        for _ in range(tokens - 1):
            model.eval([int(np.argmax(last_logits(model)))])
        return read - start, perf_counter() - read


def last_logits(model: Any) -> np.ndarray:
    """Logits [vocabulary] after the last token that a ``llama_cpp.Llama`` read."""
    import llama_cpp

    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), (model.n_vocab(),))


TOOLS: dict[str, Callable[[str, int, int], _Tool]] = {
    "forgec": _Forgec,
    "openvino": _OpenVino,
    "llama.cpp": _LlamaCpp,
    "onnxruntime-genai": _OnnxRuntimeGenAI,
}


class Generating:
    """One tool and one model at a time."""

    def __init__(self) -> None:
        self._tool: _Tool | None = None

    def load(self, tool: str, path: str, threads: int, context: int) -> float:
        """Open a model's file; seconds."""
        self._tool = None
        start = perf_counter()
        self._tool = TOOLS[tool](path, threads, context)
        return perf_counter() - start

    def generate(self, ids: Sequence[int], tokens: int) -> Rates:
        """Seconds of the prompt, and of the tokens after the first."""
        assert self._tool is not None
        return self._tool.generate(ids, tokens)

    def resident(self) -> int:
        """Bytes resident in this process."""
        import psutil

        return int(psutil.Process().memory_info().rss)

    def read_bandwidth(self, threads: int) -> float:
        """Bytes per second of a loop that only reads memory."""
        from forgec.backends.cpu import native

        return native.read_bandwidth(threads)
