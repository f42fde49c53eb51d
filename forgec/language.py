"""Compile a decoder-only language model into one file that writes text: prefill and decode programs over one
cache, the tokenizer, the chat template."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import backends
from .capture.rows import CACHE
from .check import Rounding, checking_together
from .compile import Progress, planned
from .decoders import Decoder, read_json, source_of
from .errors import CaptureError, InputError, ModelError
from .executable import Programs
from .executable.constants import Kept
from .ir.calibrate import Calibration
from .options import Options
from .plan.plan import HOST
from .report.bounds import CODES
from .report.metrics import max_abs
from .text.chat import broken
from .text.info import DECODE, FILE, TEMPLATE_FILE, TOKENIZER_FILE, GenerationInfo, prefill_name
from .text.llm import LLM
from .text.tokens import Tokenizer, token_ids
from .together import finished_together
from .weights import EIGHT_BIT_ACTIVATIONS, WeightSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .models import LoadedModel

__all__ = ["compile_language_model"]

_CHUNKS = (128,)
_SHORT_CHUNK = 16
"""Of models whose chunks are not padded, for what is left of a prompt."""
_UNCHUNKED = (
    "prompts are read token by token: the model's own code forgets the states of its recurrent layers where "
    "it reads several"
)
_COMPARED = 3
"""Logits of the text of the check that are compared: after the prompt and after each token behind it."""
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


def compile_language_model(
    model: LoadedModel | PreTrainedModel | str | Path,
    *,
    context: int,
    chunks: Sequence[int] | None = None,
    target: str = HOST,
    options: Options | Mapping[str, Any] | None = None,
    calibration: str | Sequence[int] | None = None,
    progress: Progress | None = None,
    **named_options: Any,
) -> Programs:
    """Compile programs that read a prompt in ``chunks`` and write a text of up to ``context`` tokens.

    ``model`` is what ``forgec.models`` loads, or an ONNX file with a cache (``past_key_values`` as inputs);
    the tokenizer and chat template beside it, if there are any, come along. A Hugging Face model in memory
    stays as it is (``forgec.models.LoadedModel.of`` takes its tokenizer too). A chunk longer than the context
    is cut to it; with an empty list prompts are read token by token. Left out it is 128, and for models with
    recurrent layers 16 too: their chunks cannot be padded.
    ``calibration`` is a text like those that the model will meet, or its tokens: weights of 4 bits (int4,
    w4a8) are fitted to it (see ``forgec.compile``). The result is for :class:`forgec.LLM`, directly or saved.

    Raises what ``forgec.compile`` raises, ``ModelError`` for a model that writes no text or a context that
    it does not know, and ``ArtifactError`` for a tokenizer that does not fit the model.
    """
    context, given = _sizes(context, _CHUNKS if chunks is None else chunks)
    chosen = Options.of(options, **named_options)
    sizes = sorted({min(chunk, context) for chunk in given} - {1})
    weights = WeightSpec.parse(chosen.weights)
    source = source_of(
        model,
        context,
        sizes,
        cache=chosen.cache,
        compresses=weights.compresses,
        on_host=backends.resolve(target) == HOST,
    )
    decoder = source.decoder
    if not decoder.chunked:
        sizes = []
    elif chunks is None and decoder.recurrent:
        sizes = sorted({*sizes, min(_SHORT_CHUNK, context)})
    long = decoder.long_rope
    info = GenerationInfo(
        context,
        tuple(sizes),
        source.vocabulary,
        source.eos,
        rewinds=decoder.rewinds,
        pads=not decoder.recurrent,
        border=None if long is None else long.border,
        rereads=long is not None and long.rereads,
    )
    extra = _extra(source.folder, info)
    known = None
    if calibration is not None:
        ids = _tokens(calibration, extra, source.vocabulary)
        known = Calibration(_runs(ids, max(sizes, default=1), context, long is not None))
    plans, kept = {}, Kept(several=True)
    # The largest chunk comes first: it reads the calibration text fastest.
    for tokens in [*sizes[::-1], 1]:
        args, kwargs = decoder.example(tokens)
        try:
            plans[tokens] = planned(
                source.module,
                args,
                kwargs,
                target=target,
                chosen=chosen,
                name=source.name,
                origin=source.weights,
                states={CACHE: CACHE},
                readers=source.readers,
                calibration=known,
                kept=kept,
                progress=progress,
            )
        except CaptureError as error:
            raise CaptureError(
                f"with a cache that is an input and an output, for {tokens} tokens: {error.what}",
                error.where,
                "compile the model without a context, as one program that keeps no cache",
            ) from error
    entries = dict(zip(plans, finished_together(list(plans.values())), strict=True))
    entries[1].add_extra(extra)
    programs = Programs({DECODE: entries[1], **{prefill_name(size): entries[size] for size in sizes}})
    _tell(programs, extra)
    if not decoder.chunked:
        programs.main.report.warnings.append(_UNCHUNKED)  # type: ignore[union-attr]
    if chosen.check:
        with checking_together(programs):
            # Of states it is also what a chunk leaves to the next.
            count = 2 if decoder.recurrent else 1
            length = min(context, count * max(sizes, default=1) + _COMPARED)
            _check_text(decoder, programs, length)
    return programs


def _sizes(context: int, chunks: Sequence[int]) -> tuple[int, list[int]]:
    try:
        whole = operator.index(context), [operator.index(chunk) for chunk in chunks]
    except TypeError as error:
        raise ModelError(f"context is {context!r} and chunks are {chunks!r}, not whole numbers") from error
    if whole[0] < 2:
        raise ModelError(
            f"context is {context}, and must be at least 2: room for a prompt and for a token",
            hint="give the length of the longest text, prompt and answer",
        )
    return whole


def _tell(programs: Programs, files: Mapping[str, bytes]) -> None:
    """Put what the user should know of prefill and of the template into the report of decode, which is the
    one that is shown."""
    shown = programs.main.report
    assert shown is not None
    for name in programs:
        report = programs[name].report
        if report is not None and report is not shown:
            shown.warnings += [f"{name}: {text}" for text in report.warnings]
    reason = broken(files[TEMPLATE_FILE].decode()) if TEMPLATE_FILE in files else None
    if reason is not None:
        shown.warnings.append(f"the chat template does not compile, so the model cannot chat: {reason}")


def _tokens(text: str | Sequence[int], files: Mapping[str, bytes], vocabulary: int) -> list[int]:
    """Token ids of a calibration text; :class:`InputError` if there are none or one is unknown."""
    if isinstance(text, str):
        if TOKENIZER_FILE not in files:
            raise InputError("the model has no tokenizer", hint="give the calibration as token ids")
        ids = Tokenizer(files[TOKENIZER_FILE], vocabulary).encode(text)
    else:
        ids = token_ids(text, "the calibration")
    wrong = next((token for token in ids if not 0 <= token < vocabulary), None)
    if not ids or wrong is not None:
        found = f"the token {wrong}, and the model knows {vocabulary}" if ids else "no tokens"
        raise InputError(
            f"the calibration has {found}",
            hint="give a text of some thousand words like those that the model will meet",
        )
    return ids


def _runs(ids: Sequence[int], chunk: int, context: int, lengths: bool = False) -> list[dict[str, np.ndarray]]:
    """Calls that read a text by whole chunks, from the start of the context again when it is full; with the
    ``lengths`` of these texts, if the model reads them."""
    step = context // chunk * chunk
    calls = []
    for start in range(0, max(len(ids) - chunk, 0) + 1, chunk):
        tokens = np.zeros((1, chunk), np.int64)
        part = ids[start : start + chunk]
        tokens[0, : len(part)] = part
        call = {"input_ids": tokens, "position": np.array(start % step)}
        if chunk > 1:
            call["count"] = np.array(len(part))
        if lengths:
            call["length"] = np.array(min(step, len(ids) - start // step * step))
        calls.append(call)
    return calls


def _check_text(decoder: Decoder, programs: Programs, length: int) -> None:
    """A text over the border of prefill and decode against the model without a cache; ``FidelityError`` if
    they differ by more than rounding can explain.

    The programs were checked one by one before; this is whether they work on one cache. Where weights are
    compressed their rounding could hide that, so prefill is what decode is compared to, by the same codes.
    """
    long = decoder.long_rope
    if long is not None and length - _COMPARED <= long.border < length:
        length = long.border + 1  # a text on both sides of the border is read in another way without a cache
    if length < _COMPARED:
        return
    # Weights are f32. Programs over one cache of 16 bits round alike, the model without a cache does not.
    rounding = Rounding.of(programs.values(), decoder.reference_dtypes)
    compresses = rounding.compresses
    if compresses:
        rounding = Rounding.of(programs.values(), [])
        # What differs between programs with the same codes, or none: activations may be rounded elsewhere.
        same = {"w8a8"} if not rounding.formats.isdisjoint(EIGHT_BIT_ACTIVATIONS) else set()
        rounding = replace(rounding, formats=frozenset(same | (rounding.formats & {CODES})))
    ids = decoder.text(length - 1)
    text, prompt = ids[0].tolist(), max(1, length - _COMPARED)
    with LLM(programs.clone()) as llm:
        ours = dict(enumerate(llm.logits(text, prompt), prompt))
        if compresses:
            llm.forget()
            (read,) = llm.logits(text, len(text))
            wanted, reference = {len(text): read}, "those of prefill"
        else:
            wanted = dict(enumerate(decoder.plain(ids, prompt - 1).float().numpy(), prompt))
            reference = decoder.plain_reference
    for tokens, theirs in wanted.items():
        rounding.require(
            f"the logits after {tokens} tokens differ from {reference}",
            ours[tokens],
            theirs,
            max_abs(theirs, ours[tokens]),
            hint="the model may use its cache in a way that forgec does not know; please report it",
        )


def _extra(folder: Path | None, info: GenerationInfo) -> dict[str, bytes]:
    """Further files of the artifact."""
    files: dict[str, bytes] = {}
    special: dict[str, str] = {}
    if folder is not None and (folder / TOKENIZER_FILE).is_file():
        files[TOKENIZER_FILE] = (folder / TOKENIZER_FILE).read_bytes()
        Tokenizer(files[TOKENIZER_FILE], info.vocabulary)
        settings = read_json(folder / "tokenizer_config.json")
        special = {name: text for name in _SPECIAL if (text := _text(settings.get(name))) is not None}
        template = settings.get("chat_template")
        if isinstance(template, list):  # several by name
            entries = [entry for entry in template if isinstance(entry, dict)]
            template = next((x.get("template") for x in entries if x.get("name") == "default"), None)
        if (folder / TEMPLATE_FILE).is_file():
            template = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
        if isinstance(template, str):
            files[TEMPLATE_FILE] = template.encode()
    return {FILE: replace(info, special=special).to_bytes(), **files}


def _text(token: Any) -> str | None:
    """A special token's text, which is a string or an object with its content."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
