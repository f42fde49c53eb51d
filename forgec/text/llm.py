"""A compiled language model that writes text.

A prompt is read in chunks by the largest prefill program that it fills, the rest by the smallest that holds
it, padded, or where padding would stay in the cache by smaller ones that it fills; then the decode program
reads one token at a time. The cache is a state of the programs; the tokens that it holds are kept here. What
a chunk's padding wrote is written over by what comes next. A prompt that begins like the text before is read
from where they part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import ArtifactError, InputError, OptionError
from ..executable import Programs, load_programs
from ..executable.locks import forkable_lock
from .chat import render
from .info import DECODE, FILE, TEMPLATE_FILE, TOKENIZER_FILE, GenerationInfo, prefill_name
from .sampling import Sampler, Sampling, log_probabilities
from .stats import Stats
from .tokens import StopTexts, Tokenizer, token_ids

__all__ = ["LLM", "Piece"]


@dataclass(frozen=True)
class Piece:
    """One generated token and the text that is certain since: none while a character or a stop text may go
    on, several characters when that is settled."""

    text: str
    token: int
    logprob: float | None = None
    """Natural logarithm of the token's probability, if asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens and their log probabilities, if asked for."""

    def __str__(self) -> str:
        return self.text


class LLM:
    """A ``.forge`` file with prefill and decode programs, as ``forgec compile --context`` writes it.

    One text is generated at a time: starting another, which is asking for its first piece, ends the one
    before, in any thread; going on with that is an :class:`InputError`. What both begin with stays in the
    cache and is not read again. Weights are mapped, and processes share them. Where the system does not map
    the file in large pages, from which decoding reads faster, they are read into such of this process if they
    take at most half of the memory available, unless ``hold_weights=False``. Raises :class:`ArtifactError` if
    the file has no such programs, or its tokenizer does not fit them.
    """

    def __init__(self, source: str | os.PathLike[str] | Programs, hold_weights: bool = True) -> None:
        if not isinstance(source, Programs):
            source = load_programs(source, hold_weights=hold_weights)
        self.programs = source
        main = self.programs.main
        if FILE not in main.extra_names:
            raise ArtifactError(
                f"{main.info.name or 'the file'} has no programs that generate text",
                hint="compile the model with --context N",
            )
        self.info = GenerationInfo.from_bytes(main.extra(FILE))
        # A file of one program has no name for it.
        self._decode = DECODE if self.info.chunks or DECODE in self.programs else ""
        for name in (self._decode, *map(prefill_name, self.info.chunks)):
            if name not in self.programs:
                raise ArtifactError(
                    f"the file lacks the program {name or DECODE!r}", hint="compile the model again"
                )
        self.tokenizer: Tokenizer | None = None
        if TOKENIZER_FILE in main.extra_names:
            self.tokenizer = Tokenizer(main.extra(TOKENIZER_FILE), self.info.vocabulary)
        self.stats = Stats()
        self._lock = forkable_lock()
        """Held while the programs run: the cache, which text it is of and what it holds change together."""
        self._texts = 0
        self._held: list[tuple[int, bool]] = []
        """Tokens in the cache, and whether they were read as part of a text over the border."""

    def generate(
        self, prompt: str | Sequence[int], sampling: Sampling | None = None, **named: Any
    ) -> Iterator[Piece]:
        """Continue a text, given as such or as token ids, piece by piece.

        ``sampling`` and further keywords are those of :class:`Sampling`. ``stats`` has the times of the last
        call. Raises :class:`InputError` for an empty prompt, one that leaves no room in the context, text
        that is no valid unicode, and tokens that the model does not know; :class:`OptionError` for an unknown
        or illegal option.
        """
        chosen = _sampling(sampling, named)
        start = perf_counter()
        ids = self._ids(prompt)
        self.stats = stats = Stats(prompt_tokens=len(ids))
        return self._run(ids, chosen, stats, start)

    def chat(
        self, messages: Sequence[Mapping[str, Any]], sampling: Sampling | None = None, **named: Any
    ) -> Iterator[Piece]:
        """The model's turn in a conversation of messages with ``role`` and ``content``.

        Raises what :meth:`generate` raises, :class:`InputError` if the messages are none, the model has no
        chat template or that refuses the conversation, and :class:`ArtifactError` for a template that fails.
        """
        main = self.programs.main
        if TEMPLATE_FILE not in main.extra_names or self.tokenizer is None:
            raise InputError("the model has no chat template", hint="generate continues a plain text")
        try:
            template = main.extra(TEMPLATE_FILE).decode()
        except UnicodeDecodeError as error:
            raise ArtifactError(f"the chat template cannot be read: {error}") from error
        text = render(template, messages, self.info.special)
        return self.generate(self.tokenizer.encode(text, special=False), sampling, **named)

    def logits(self, ids: Sequence[int], prompt: int) -> Iterator[np.ndarray]:
        """Logits [vocabulary] after the first ``prompt`` tokens of a text, and after each one that follows.

        Raises :class:`InputError` as :meth:`generate` does.
        """
        tokens = self._ids(ids)
        number, _, logits = self._begin(tokens[:prompt])
        yield logits
        for length in range(prompt + 1, len(tokens) + 1):
            yield self._go_on(number, tokens[:length])

    def forget(self) -> None:
        """Empty the cache: the next prompt is read as a whole."""
        with self._lock:
            self._held = []

    def close(self) -> None:
        """Release the memory of the programs."""
        with self._lock:
            self.programs.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise InputError("the file has no tokenizer", hint="pass token ids in place of text")
            ids = self.tokenizer.encode(prompt)
        else:
            ids = token_ids(prompt, "the prompt")
        if not ids:
            raise InputError("the prompt has no tokens", hint="give at least one word or token")
        wrong = next((token for token in ids if not 0 <= token < self.info.vocabulary), None)
        if wrong is not None:
            raise InputError(
                f"the model knows {self.info.vocabulary} tokens, and {wrong} is none of them",
                hint="use the model's own tokenizer",
            )
        if len(ids) >= self.info.context:
            raise InputError(
                f"a prompt of {len(ids)} tokens leaves no room in a context of {self.info.context}",
                hint="shorten it, or compile the model with a larger --context",
            )
        return ids

    def _run(self, ids: list[int], sampling: Sampling, stats: Stats, start: float) -> Iterator[Piece]:
        sampler = Sampler(sampling, ids)
        stream = None if self.tokenizer is None else self.tokenizer.stream(ids)
        stops = StopTexts(sampling.stop)
        eos = set(self.info.eos if sampling.eos is None else sampling.eos)
        room = self.info.context - len(ids)
        limit = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
        number, stats.kept_tokens, logits = self._begin(ids)
        stats.prefill_s = perf_counter() - start
        written = list(ids)
        while True:
            began = perf_counter()
            token = sampler.choose(logits)
            stats.tokens += 1
            ended = token in eos
            text = "" if ended or stream is None else stops.add(stream.add(token))
            if ended or stops.stopped:
                stats.finish = "eos" if ended else "stop"
            elif stats.tokens == limit:
                stats.finish = "context" if limit == room else "length"
            if stats.finish and not stops.stopped:
                text += stops.add(stream.rest() if stream is not None else "") + stops.rest()
            piece = _piece(text, token, logits, sampling.logprobs)
            if stats.tokens == 1:
                stats.first_token_s = perf_counter() - start
            stats.decode_s += perf_counter() - began
            yield piece
            if stats.finish:
                return
            began = perf_counter()
            written.append(token)
            logits = self._go_on(number, written)
            stats.decode_s += perf_counter() - began

    def _begin(self, ids: list[int]) -> tuple[int, int, np.ndarray]:
        """Read a prompt, which ends the text before: the text's number, how many of the tokens were in the
        cache, and the logits."""
        with self._lock:
            self._texts += 1
            kept = self._kept(ids)
            return self._texts, kept, self._prefill(ids, kept)

    def _go_on(self, number: int, ids: list[int]) -> np.ndarray:
        """Logits after the text of that number, whose last token only is not in the cache."""
        with self._lock:
            if number != self._texts:
                raise InputError(
                    "another text was begun, and a model writes one at a time",
                    hint="finish a text before the next, or load the file twice",
                )
            return self._next(ids)

    def _kept(self, ids: list[int]) -> int:
        """How many tokens of a prompt are in the cache; at least the last is to be read, for its logits."""
        limit = min(len(self._held), len(ids) - 1)
        long = self._long(len(ids))
        same = next((i for i in range(limit) if self._held[i] != (ids[i], long)), limit)
        return same if self.info.rewinds or same == len(self._held) else 0

    def _long(self, length: int) -> bool:
        """Whether a text of that length is over the border."""
        return self.info.border is not None and length > self.info.border

    def _prefill(self, ids: list[int], position: int) -> np.ndarray:
        """Logits after a prompt whose tokens before ``position`` are in the cache; from then on all are."""
        logits = np.empty(0)
        while position < len(ids):
            left = len(ids) - position
            chunk = self._chunk(left)
            count = min(chunk, left)
            tokens = np.zeros((1, chunk), np.int64)
            tokens[0, :count] = ids[position : position + count]
            logits = self._read(tokens, position, count, len(ids))
            position += count
        return logits

    def _next(self, ids: list[int]) -> np.ndarray:
        """Logits after a text whose last token only is not in the cache."""
        position = len(ids) - 1
        if self.info.rereads and self._long(len(ids)) and not self._long(position):
            return self._prefill(ids, 0)
        return self._read(np.array([ids[-1:]], np.int64), position, 1, len(ids))

    def _read(self, tokens: np.ndarray, position: int, count: int, length: int) -> np.ndarray:
        """Logits after ``count`` tokens more, read by the program for their number with its padding."""
        size = tokens.shape[1]
        inputs = [tokens, np.array(position)]
        if size > 1:
            inputs.append(np.array(count))
        if self.info.border is not None:
            inputs.append(np.array(length))
        # An interrupted program leaves a cache of which nothing is known.
        held, self._held = self._held, []
        del held[position:]
        program = self.programs[self._decode if size == 1 else prefill_name(size)]
        logits: np.ndarray = program.run_flat(inputs)[0][0]
        if len(held) == position:  # a text that goes on after ``forget`` holds nothing
            held += [(int(token), self._long(length)) for token in tokens[0, :count]]
            self._held = held
        return logits

    def _chunk(self, left: int) -> int:
        """Size of the program that reads the next of ``left`` tokens; 1 for the decode program."""
        chunks = self.info.chunks
        if left == 1 or not chunks:
            return 1
        if left >= chunks[-1]:
            return chunks[-1]
        holding = next(chunk for chunk in chunks if chunk >= left)
        smaller = [chunk for chunk in chunks if chunk <= left]
        if not self.info.pads:
            return smaller[-1] if smaller else 1
        # A chunk that would be mostly padding costs more than smaller ones.
        return smaller[-1] if smaller and holding > 2 * left else holding


def _sampling(given: Sampling | None, named: Mapping[str, Any]) -> Sampling:
    if not isinstance(given, Sampling | None):
        raise OptionError(f"sampling is {given!r:.60}, and must be a Sampling", hint="give options by name")
    unknown = [name for name in named if name not in Sampling.__dataclass_fields__]
    if unknown:
        known = ", ".join(Sampling.__dataclass_fields__)
        raise OptionError(f"unknown option {', '.join(unknown)}", hint=f"the options are {known}")
    return replace(given or Sampling(), **named)


def _piece(text: str, token: int, logits: np.ndarray, count: int | None) -> Piece:
    if count is None:
        return Piece(text, token)
    logs = log_probabilities(logits)
    best = np.argsort(-logs, kind="stable")[:count]
    return Piece(text, token, float(logs[token]), tuple((int(i), float(logs[i])) for i in best))
