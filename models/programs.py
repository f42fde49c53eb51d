"""From a Hugging Face model to the single-forward program that is compiled.

Most models are programs already. A sequence-to-sequence model is two: its encoder, used as it is, and a
decoder that takes the encoder's output as an input. The wrappers below call the model's own `forward` with
the encoder's output in place, so its head, logit scaling and final bias are never written a second time, and
they return plain tensors where the model would also return an empty cache object.
"""

import inspect

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from forgec.errors import ModelError

PARTS = ("encoder", "decoder")


class TextDecoder(nn.Module):
    """Decoder of a text-to-text model, with its language-model head."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, decoder_input_ids: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> dict[str, Tensor]:
        """Map [B, T] ids, [B, S, hidden] states and [B, S] mask to {"logits": [B, T, vocabulary]}."""
        out = self.model(
            decoder_input_ids=decoder_input_ids,
            encoder_outputs=(encoder_hidden_states,),
            attention_mask=encoder_attention_mask,
            use_cache=False,
        )
        return {"logits": out.logits}


class SpeechDecoder(nn.Module):
    """Decoder of a speech-to-text model, whose encoder output has a fixed length and so needs no mask."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor) -> dict[str, Tensor]:
        """Map [B, T] ids and [B, S, hidden] states to {"logits": [B, T, vocabulary]}."""
        out = self.model(
            decoder_input_ids=input_ids, encoder_outputs=(encoder_hidden_states,), use_cache=False
        )
        return {"logits": out.logits}


def input_names(cls: type[PreTrainedModel], part: str | None, config: PretrainedConfig) -> tuple[str, ...]:
    """Return the names of a program's inputs, in the order of its `forward`.

    Raises `ModelError` if `part` is missing for a sequence-to-sequence class or given for another, and if
    the class reads something that forgec has no inputs for.
    """
    accepted = inspect.signature(cls.forward).parameters
    main = cls.main_input_name
    if "decoder_input_ids" in accepted:
        return _part_inputs(cls, part)
    if part is not None:
        raise ModelError(f"{cls.__name__} is one program and has no part {part!r}", hint="leave out part")
    if main in ("pixel_values", "input_values") and "input_ids" not in accepted:
        return (main,)
    if "input_ids" not in accepted or main not in ("input_ids", "pixel_values"):
        raise ModelError(
            f"{cls.__name__} reads {main!r}: only token ids, pixel values and speech samples are supported"
        )
    if cls.can_generate():
        return ("input_ids",)
    known = ("input_ids", "pixel_values", "attention_mask", "token_type_ids")
    unused = set() if getattr(config, "type_vocab_size", 0) else {"token_type_ids"}
    return tuple(name for name in known if name in accepted and name not in unused)


def _part_inputs(cls: type[PreTrainedModel], part: str | None) -> tuple[str, ...]:
    if part not in PARTS:
        raise ModelError(
            f"{cls.__name__} is two programs, an encoder and a decoder, and part is {part!r}",
            hint='choose one: part="encoder" or part="decoder" (--part)',
        )
    if part == "decoder" and not cls.can_generate():
        raise ModelError(
            f"{cls.__name__} has no language-model head, so it has no decoder program",
            hint='load part="encoder", or a ...ForConditionalGeneration checkpoint',
        )
    match cls.main_input_name, part:
        case "input_ids", "encoder":
            return ("input_ids", "attention_mask")
        case "input_ids", "decoder":
            return ("decoder_input_ids", "encoder_hidden_states", "encoder_attention_mask")
        case ("input_features" | "input_values") as heard, "encoder":
            return (heard,)
        case "input_features", "decoder":
            return ("input_ids", "encoder_hidden_states")
    raise ModelError(
        f"the {part} of {cls.__name__} reads {cls.main_input_name!r}: only text and speech are supported"
    )


def as_program(model: PreTrainedModel, part: str | None) -> nn.Module:
    """Return the module to compile, frozen and in evaluation mode: `model` itself or one part of it.

    A decoder lets go of the encoder's weights: `model` is changed and must not be used afterwards.
    """
    model.eval().requires_grad_(False)
    if part is None:
        return model
    encoder = model.get_encoder()
    if part == "encoder":
        return encoder
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is encoder:
                setattr(parent, name, None)
    wrapper = SpeechDecoder if model.main_input_name == "input_features" else TextDecoder
    return wrapper(model).eval()
