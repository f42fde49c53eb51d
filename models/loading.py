"""A preset name, a Hugging Face directory, a `config.json` file or a model in memory becomes a program to
compile."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from forgec.errors import ModelError

from .building import make_config, model_class, random_model, stored_model
from .in_memory import float32_copy
from .inputs import MAKERS, TOKEN_INPUTS, Draw
from .programs import as_program, input_names
from .sources import has_tokenizer, resolve
from .streaming import Readers, check_types, stand_in_model

_ATTENTIONS = ("auto", "sdpa", "eager")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_DEFAULT_TOKENS = 128


@dataclass
class LoadedModel:
    """A program ready to capture, in evaluation mode and without gradients.

    `module` takes the inputs called `inputs`, all by keyword, and returns tensors in a Hugging Face output or
    a dictionary. `weights` says where its values come from. `tokenizer_dir` is the directory that it was
    loaded from, if that holds a tokenizer.
    """

    name: str
    module: nn.Module = field(repr=False)
    config: PretrainedConfig = field(repr=False)
    family: str
    weights: Literal["random", "checkpoint", "module"]
    inputs: tuple[str, ...]
    tokenizer_dir: Path | None = None
    readers: Readers = field(default_factory=dict, repr=False)
    """What reads each weight of a model that was loaded with `stream`, by its name in the module."""

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        *,
        part: str | None = None,
        tokenizer_dir: str | os.PathLike[str] | None = None,
    ) -> "LoadedModel":
        """The program of a Hugging Face model in memory, which stays as it is.

        float32 weights are shared with it; those of float16 and bfloat16, as checkpoints often have them, are
        converted, so that the reference of all checks is eager PyTorch in float32. `part` is "encoder" or
        "decoder" for a sequence-to-sequence model; `tokenizer_dir` is a directory to which the tokenizer was
        saved. Raises `ModelError` for other objects, a part that the model has not, weights that are not on
        the CPU or are quantised, and a directory without tokenizer.
        """
        if not isinstance(model, PreTrainedModel):
            raise ModelError(
                f"a {type(model).__module__}.{type(model).__qualname__} is no model of transformers",
                hint="give a PreTrainedModel (of adapters: model.merge_and_unload()); forgec.compile takes "
                "any module",
            )
        folder = None if tokenizer_dir is None else Path(tokenizer_dir)
        if folder is not None and not has_tokenizer(folder):
            raise ModelError("the directory holds no tokenizer", where=str(folder))
        inputs = input_names(type(model), part, model.config)
        twin = float32_copy(model)
        name = Path(str(model.config.name_or_path)).name or type(model).__name__
        return cls(
            name=name if part is None else f"{name}.{part}",
            module=as_program(twin, part),
            config=twin.config,
            family=twin.config.model_type,
            weights="module",
            inputs=inputs,
            tokenizer_dir=folder,
        )

    @property
    def max_tokens(self) -> int | None:
        """The longest token sequence that the program takes.

        None if nothing limits it (relative positions) or if the program has no token axis.
        """
        if TOKEN_INPUTS.isdisjoint(self.inputs):
            return None
        config = getattr(self.config, "text_config", self.config)
        for key in ("max_target_positions", "max_position_embeddings"):
            if (limit := getattr(config, key, None) or 0) > 0:
                return int(limit) - reserved_positions(self.module)
        return None

    def example_inputs(
        self, tokens: int | None = None, batch: int = 1, seed: int = 0
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Return random valid inputs `(args, kwargs)` for `module`; args is empty.

        `tokens` is the length of the token axis, 128 or `max_tokens` if that is less unless given. Token ids,
        token types and masks are int64 [batch, tokens]; pixels, features and encoder states have the
        model's data type. Seed 0 gives masks of ones; with any other seed each row ends in a random number
        of zeros. Images have the configuration's size or 224 pixels on a side, speech is a second of
        samples. The global random state is not touched.

        Raises `ModelError` if `tokens` is given for a program without token axis, or a size is out of range.
        """
        if tokens is not None and TOKEN_INPUTS.isdisjoint(self.inputs):
            raise ModelError(
                f"{self.name} has no token axis, and tokens is {tokens}",
                hint=f"leave out tokens; the shape of {', '.join(self.inputs)} is fixed by the model",
            )
        longest = self.max_tokens
        if tokens is None:
            tokens = min(_DEFAULT_TOKENS, longest or _DEFAULT_TOKENS)
        if tokens < 1 or batch < 1:
            raise ModelError(f"tokens and batch must be at least 1, and are {tokens} and {batch}")
        if longest is not None and tokens > longest:
            raise ModelError(f"{self.name} takes at most {longest} tokens, and tokens is {tokens}")
        draw = Draw(
            config=self.config,
            dtype=next(self.module.parameters()).dtype,
            batch=batch,
            tokens=tokens,
            generator=torch.Generator().manual_seed(seed),
            padded=seed != 0,
        )
        with torch.device("cpu"):
            return (), {name: MAKERS[name](draw) for name in self.inputs}


def reserved_positions(module: nn.Module) -> int:
    """Rows of a position table that no token uses: the RoBERTa families start after the padding index."""
    for name, child in module.named_modules():
        if name.endswith("position_embeddings") and getattr(child, "padding_idx", None) is not None:
            return int(child.padding_idx) + 1
    return 0


def load(
    spec: str | os.PathLike[str],
    *,
    part: str | None = None,
    seed: int = 0,
    attn: str = "auto",
    layers: int | None = None,
    dtype: str = "float32",
    stream: bool = False,
) -> LoadedModel:
    """Load a program.

    `spec` is a preset name, a Hugging Face directory, or a `config.json` file. A directory with safetensors
    files keeps their weights; anything else gets random ones drawn from `seed`. A string that is a preset
    name is the preset even if a directory has the same name: write "./gpt2" for the directory.

    `part` is "encoder" or "decoder" for the directory of a sequence-to-sequence model (presets carry it in
    their name). `attn` is "sdpa", which traces to one attention op, "eager", which traces to the matrix
    products and the softmax, or "auto": sdpa where the model has it. `layers` overrides the depth. `dtype` is
    "float32", "float16" or "bfloat16".

    With `stream` the large weights of a checkpoint are not read: the module has stand-ins for them, and can
    be compiled, without the check against eager, but not run.

    Under `torch.device("meta")` a model with random weights is laid out without using memory.

    Raises `ModelError` for whatever is wrong with the arguments or the files.
    """
    if attn not in _ATTENTIONS:
        raise ModelError(f"attn is {attn!r}", hint=f"use one of {', '.join(_ATTENTIONS)}")
    if dtype not in _DTYPES:
        raise ModelError(f"dtype is {dtype!r}", hint=f"use one of {', '.join(_DTYPES)}")

    source = resolve(spec)
    name = source.name
    if part is not None:
        if source.part is not None:
            raise ModelError(f"preset {name} is already one part of its model", hint="leave out part")
        name = f"{name}.{part}"
    part = part or source.part

    config = make_config(source.content, layers, source.where)
    cls = model_class(config, source.where)
    inputs = input_names(cls, part, config)
    if attn == "sdpa" and not cls._supports_sdpa:
        raise ModelError(f"{cls.__name__} has no attention of kind sdpa", hint="leave out attn (--attn)")
    readers: Readers = {}
    kwargs: dict[str, Any] = {"attn": None if attn == "auto" else attn, "dtype": _DTYPES[dtype]}
    if source.checkpoint is None:
        model = random_model(cls, config, seed=seed, **kwargs)
    else:
        if stream:
            model, readers = stand_in_model(cls, config, source.checkpoint, **kwargs)
        else:
            model = stored_model(cls, config, source.checkpoint, **kwargs)
            check_types(model, source.checkpoint)
    return LoadedModel(
        name=name,
        module=as_program(model, part),
        config=model.config,
        family=config.model_type,
        weights="random" if source.checkpoint is None else "checkpoint",
        inputs=inputs,
        tokenizer_dir=source.tokenizer_dir,
        readers=readers,
    )
