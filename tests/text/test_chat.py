"""Chat templates run in a sandbox."""

from __future__ import annotations

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from forgec.errors import ArtifactError, InputError
from forgec.text import chat
from forgec.text.chat import broken, render

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi <b>!"}]
CHATML = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n{{ message['content'] | trim }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def test_a_conversation_becomes_the_prompt():
    assert (
        render(CHATML, MESSAGES, {"bos_token": "<s>"})
        == "<s><|system|>\nBe short.\n<|user|>\nHi <b>!\n<|assistant|>\n"
    )


def test_a_template_can_refuse():
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match="roles must alternate"):
        render(template, MESSAGES, {})


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append({}) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% include '/etc/hostname' %}",
        "{% for message in messages %}",
        "{{ messages[0] + 1 }}",
        "{{ 1 // 0 }}",
        "{{ range(10 ** 6) | list | length }}",
        "{{ 'a' * 10 ** 15 }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% generation %}",
    ],
)
def test_a_template_reaches_nothing_and_a_broken_one_says_so(template):
    with pytest.raises(ArtifactError, match="chat template"):
        render(template, MESSAGES, {})


@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        "{% for m in messages %}{% generation %}{{ m.content }}\n{% endgeneration %}{% endfor %}",
        "{%- generation -%} a {%- set x = 1 %}{%- endgeneration -%}{{ x is defined }}",
        "{{ messages | tojson }}",
        "{{ messages | tojson(separators=(',', ':')) }}",
        "{{ messages | tojson(sort_keys=true) }}",
        "{{ messages | tojson(indent=2) }}",
        "{{ 'naïve' | tojson }}{{ 'naïve' | tojson(ensure_ascii=true) }}{{ 'naïve' | tojson(true, 1) }}",
        "{% if tools is not none %}tools{% endif %}{% if documents is not none %}documents{% endif %}",
        "{{ tools is defined }}{{ documents is defined }}",
    ],
)
def test_templates_render_as_in_transformers(template):
    special = {"bos_token": "<s>"}
    (want,), _ = render_jinja_template(
        [MESSAGES], chat_template=template, add_generation_prompt=True, **special
    )
    assert render(template, MESSAGES, special) == want


def test_a_prompt_that_grows_too_large_is_stopped(monkeypatch):
    monkeypatch.setattr(chat, "_LARGEST", 1000)
    template = "{% for a in range(2000) %}x{% endfor %}{{ raise_exception('came to its end') }}"
    with pytest.raises(InputError, match="a prompt of more than 1000 characters"):
        render(template, MESSAGES, {})
    assert len(render("{{ 'x' * 1000 }}", MESSAGES, {})) == 1000


def test_special_tokens_do_not_hide_the_conversation():
    assert render("{{ messages | length }}", MESSAGES, {"messages": "<m>"}) == "2"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hi", "the conversation is 'hi'"),
        ({"role": "user", "content": "hi"}, "the conversation is"),
        (None, "the conversation is None"),
        ([5], "message 0 is 5"),
        ([MESSAGES[0], "hi"], "message 1 is 'hi'"),
        ([{"content": "hi"}], "message 0 has the role None"),
        ([{"role": 1, "content": "hi"}], "message 0 has the role 1"),
        ([{"role": "user"}], "message 0 has the content None"),
        ([{"role": "user", "content": 5}], "message 0 has the content 5"),
        ([{"role": "user", "content": b"hi"}], "message 0 has the content b'hi'"),
    ],
)
def test_what_is_no_conversation_is_refused_with_an_example(messages, message):
    with pytest.raises(InputError, match=message) as error:
        render(CHATML, messages, {})
    assert '"role": "user"' in str(error.value)


def test_contents_may_be_parts_and_calls_of_tools_need_none():
    template = "{% for m in messages %}{{ m.content is string }},{{ m.content is none }};{% endfor %}"
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "clock"}]},
    ]
    assert render(template, messages, {}) == "False,False;False,True;"


def test_a_template_that_does_not_compile_is_found_without_a_conversation():
    assert broken(CHATML) is None
    assert broken("{{ raise_exception('no') }}") is None
    assert broken("a\n{% for message in messages %}").startswith("line 2: Unexpected end of template")
    assert broken("{{ " + "(" * 100_000) is not None
