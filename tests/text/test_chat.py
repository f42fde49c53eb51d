"""Chat templates run in a sandbox."""

from __future__ import annotations

import pytest

from forgec.errors import ArtifactError, InputError
from forgec.text.chat import render

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
    ],
)
def test_a_template_reaches_nothing_and_a_broken_one_says_so(template):
    with pytest.raises(ArtifactError, match="chat template"):
        render(template, MESSAGES, {})
