"""From a `config.json` dictionary to a Hugging Face model, with random or stored weights.

Architectures are resolved by name among the classes of the installed transformers; code that comes with a
model is never run and only safetensors files are read.

Random models are laid out on the meta device, given uninitialised memory, and initialised once by the
family's own rule. The usual constructor draws every linear layer twice, which triples the time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from forgec.capture.experts import STATIC_EXPERTS
from forgec.errors import ModelError

# Standard deviation added to every vector parameter. The families start biases at 0 and norm weights at 1,
# values with which a compiler that drops or swaps them would still be right.
_VECTOR_NOISE = 0.05

# Standard deviation of parameters that a family's own rule leaves as they are (those of weight norm, say).
_FORGOTTEN = 0.02

# Mixtures of experts in the form whose shapes do not depend on which experts are chosen; others ignore it.
_STATIC = {"experts_implementation": STATIC_EXPERTS}

# Depth fields besides num_hidden_layers, which every family has, and lists with one entry a layer.
_DEPTHS = ("num_decoder_layers", "encoder_layers", "decoder_layers")
_LAYER_LISTS = ("layer_types", "mlp_layer_types")


def make_config(content: dict[str, Any], layers: int | None, where: str | None = None) -> PretrainedConfig:
    """Return the configuration for the content of a `config.json`, without KV cache, `layers` deep.

    `layers` sets the depth of both stacks of a sequence-to-sequence model. Lists with one entry a layer are
    cut, or repeated from their start. Raises `ModelError`, naming `where`, for an unknown model type or
    invalid values.
    """
    if "quantization_config" in content:
        refuse_quantised(content["quantization_config"].get("quant_method", "unknown"), where)
    if "model_type" not in content:
        raise ModelError(
            "the configuration has no model_type", where=where, hint="take the model's own config.json"
        )
    model_type = str(content["model_type"])
    if model_type not in transformers.CONFIG_MAPPING:
        raise ModelError(
            f"model type {model_type!r} is not known to transformers {transformers.__version__}",
            where=where,
            hint="a newer transformers may know it; code that comes with a model is never run",
        )
    fields = {key: value for key, value in content.items() if key != "model_type"} | {"use_cache": False}
    if layers is not None:
        fields |= _depth_fields(transformers.CONFIG_MAPPING[model_type], fields, layers)
    try:
        return AutoConfig.for_model(model_type, **fields)
    except Exception as err:  # each family validates with its own exception types
        raise ModelError(f"the {model_type} configuration is not valid: {err}", where=where) from err


def refuse_quantised(how: str, where: str | None = None) -> NoReturn:
    """Raise the `ModelError` for weights that come quantised."""
    raise ModelError(
        f"the weights are already quantised (method {how})",
        where=where,
        hint="load the float checkpoint; forgec quantises when it compiles",
    )


def _depth_fields(cls: type[PretrainedConfig], fields: dict[str, Any], layers: int) -> dict[str, Any]:
    if layers < 1:
        raise ModelError(f"a model has at least one layer, and layers is {layers}")
    main = cls.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    depth: dict[str, Any] = {name: layers for name in (main, *_DEPTHS) if hasattr(cls, name)}
    for name in _LAYER_LISTS:
        if types := fields.get(name):
            depth[name] = [types[i % len(types)] for i in range(layers)]
    return depth


def model_class(config: PretrainedConfig, where: str | None = None) -> type[PreTrainedModel]:
    """Return the transformers class named by `config.architectures[0]`, or raise `ModelError`."""
    if not config.architectures:
        raise ModelError(
            "the configuration names no architecture",
            where=where,
            hint=f'add "architectures": ["..."] with the {config.model_type} class to load',
        )
    name = config.architectures[0]
    cls = getattr(transformers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, PreTrainedModel)):
        raise ModelError(
            f"architecture {name!r} is not a model of transformers {transformers.__version__}",
            where=where,
            hint="a newer transformers may have it; code that comes with a model is never run",
        )
    return cls


def random_model(
    cls: type[PreTrainedModel], config: PretrainedConfig, *, seed: int, attn: str | None, dtype: torch.dtype
) -> PreTrainedModel:
    """Return `cls` with weights drawn from `seed`: equal seeds give equal weights.

    The global random state is left as it was. Under `torch.device("meta")` no memory is used and the
    weights have no values. Raises `ModelError` if the class refuses the configuration or the attention.
    """
    wanted = torch.get_default_device()
    try:
        with torch.device("meta"):
            model = cls._from_config(config, attn_implementation=attn, dtype=dtype, **_STATIC)
    except Exception as err:  # inconsistent sizes surface as whatever the layers raise
        raise ModelError(f"{cls.__name__} cannot be built: {err}") from err
    if wanted.type == "meta":
        return model
    model.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for parameter in model.parameters():
            parameter.view(-1)[:1] = torch.nan
        model.init_weights()
        for parameter in model.parameters():
            if torch.isnan(parameter.view(-1)[:1]).any():  # the family's rule knows nothing of it
                parameter.normal_(0, _FORGOTTEN)
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape), alpha=_VECTOR_NOISE)
    return model


def stored_model(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    folder: Path,
    *,
    attn: str | None,
    dtype: torch.dtype,
) -> PreTrainedModel:
    """Return `cls` with the weights of the safetensors files in `folder`, converted to `dtype`.

    Raises `ModelError` if a file is damaged or a weight is absent or of another shape; weights of the files
    that the model does not have are ignored.
    """
    if torch.get_default_device().type == "meta":
        raise ModelError(
            "a checkpoint cannot be read onto the meta device",
            where=str(folder),
            hint="load its config.json instead of the directory",
        )
    try:
        with _quiet_transformers(), torch.random.fork_rng(devices=[]):
            loaded: Any = cls.from_pretrained(
                folder,
                config=config,
                attn_implementation=attn,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **_STATIC,
            )
    except Exception as err:  # transformers, safetensors and the operating system each raise their own
        raise ModelError(f"the weights cannot be loaded: {err}", where=str(folder)) from err
    model, report = loaded
    if wrong := sorted(report["mismatched_keys"]):
        sizes = "; ".join(f"{name} is {list(stored)}, not {list(made)}" for name, stored, made in wrong[:5])
        raise ModelError(f"the weights do not fit {cls.__name__}: {sizes}", where=str(folder))
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"the checkpoint lacks {len(missing)} of the weights of {cls.__name__}: {', '.join(missing[:5])}"
            + (", ..." if len(missing) > 5 else ""),
            where=str(folder),
            hint="check `architectures` in config.json, and that layers is not more than the checkpoint has",
        )
    return model


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing progress bars and loading reports; restores its settings."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
