"""One cache under several texts: threads, interruptions, an emptied cache. A text is right or refused."""

from __future__ import annotations

import sys
from threading import Thread

import pytest
from text_models import generated, load, prompt
from tiers import slow_after

import forgec
from forgec.errors import InputError

COUNT = 6
LENGTHS = (9, 12, 17)


@pytest.fixture(scope="module")
def model():
    return load("llama", None)


@pytest.fixture(scope="module")
def programs(model):
    return forgec.compile_language_model(model, context=32, chunks=[8], check=False)


@pytest.fixture
def llm(programs):
    with forgec.LLM(programs.clone()) as llm:
        yield llm


@pytest.fixture(scope="module")
def expected(model):
    return {length: generated(model, prompt(length), COUNT) for length in LENGTHS}


def written(llm: forgec.LLM, length: int) -> list[int]:
    return [piece.token for piece in llm.generate(prompt(length), eos=(), max_tokens=COUNT)]


@pytest.mark.parametrize(
    "step", slow_after(1, [1, 2, 4]), ids=["end of the prompt", "first step", "third step"]
)
def test_a_text_of_another_thread_waits_for_the_program_that_runs(llm, expected, step, monkeypatch):
    decode = llm.programs["decode"]
    run, calls, found = decode.run_flat, [], []
    other = Thread(target=lambda: found.append(written(llm, 12)))

    def overtaken(inputs):
        calls.append(len(calls))
        if len(calls) == step:
            other.start()
            other.join(0.5)  # long enough for the whole text, which only a lock stops
        return run(inputs)

    monkeypatch.setattr(decode, "run_flat", overtaken)
    text = llm.generate(prompt(9), eos=(), max_tokens=COUNT)
    assert [next(text).token for _ in range(step)] == expected[9][:step]
    other.join()
    assert found == [expected[12]]
    with pytest.raises(InputError, match="another text was begun"):
        next(text)


def test_logits_of_a_text_that_another_ended_are_refused(llm, expected):
    logits = llm.logits(prompt(9), 4)
    next(logits)
    assert written(llm, 12) == expected[12]
    with pytest.raises(InputError, match="another text was begun"):
        next(logits)


def test_threads_get_right_texts_or_errors(llm, expected):
    wrong, right, refused = [], [], []

    def write(first: int) -> None:
        for number in range(first, first + 60):
            length = LENGTHS[number % len(LENGTHS)]
            try:
                found = written(llm, length)
            except InputError as error:
                refused.append(error.what)
            else:
                (right if found == expected[length] else wrong).append(found)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [Thread(target=write, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert len(right) + len(refused) == 240, "a thread ended by another error"
    assert set(refused) <= {"another text was begun, and a model writes one at a time"}


def test_a_text_begins_with_its_first_piece(llm, expected):
    first = llm.generate(prompt(9), eos=(), max_tokens=COUNT)
    assert written(llm, 12) == expected[12]
    assert [piece.token for piece in first] == expected[9]


def test_a_text_goes_on_over_an_emptied_cache_that_keeps_nothing_of_it(llm, model, expected):
    text = llm.generate(prompt(9), eos=(), max_tokens=COUNT)
    tokens = [next(text).token]
    llm.forget()
    tokens += [piece.token for piece in text]
    assert tokens == expected[9]
    ids = [tokens[0], *prompt(4)]
    again = [piece.token for piece in llm.generate(ids, eos=(), max_tokens=COUNT)]
    assert llm.stats.kept_tokens == 0
    assert again == generated(model, ids, COUNT)


def test_a_program_that_was_interrupted_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    model = load("lfm2", tmp_path)
    with forgec.LLM(forgec.compile_language_model(model, context=32, chunks=[4], check=False)) as llm:
        ids, decode = prompt(9), llm.programs["decode"]
        text = llm.generate(ids, eos=())
        first = next(text).token

        def interrupted(inputs, run=decode.run_flat):
            run(inputs)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(decode, "run_flat", interrupted)
            with pytest.raises(KeyboardInterrupt):
                next(text)
        ids = [*ids, first, *prompt(4)]
        tokens = [piece.token for piece in llm.generate(ids, eos=(), max_tokens=COUNT)]
        assert tokens == generated(model, ids, COUNT)
