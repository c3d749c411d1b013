"""Chat templates give the text that `transformers` gives, and refuse in one line what cannot be rendered."""

from __future__ import annotations

import pytest

from brigade.errors import CheckpointError, RequestError
from brigade.tokenizer import Tokenizer
from tests.tokenizer.builders import byte_level

MESSAGES = [
    {"role": "system", "content": "Be <brief> & 'kind'"},
    {"role": "user", "content": "  Grüße, 世界 "},
    {"role": "assistant", "content": "ok\n"},
    {"role": "user", "content": "1 < 2?"},
]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "a & b <é>", "parameters": {"b": 1, "a": [2]}}}]
TEMPLATES = {
    "llama 2": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
        "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for message in rest %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}"
        "{% endif %}{% endfor %}"
    ),
    "blocks on their own lines": (
        "{%- for message in messages %}\n    {% if loop.first %}\n<first>\n    {% endif %}\n"
        "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}\n"
        "{% if add_generation_prompt %}\n<|im_start|>assistant\n{% endif %}"
    ),
    "tools and json": (
        "{%- if tools is not none %}{% for tool in tools %}{{ tool | tojson(indent=2) }}|{{ tool | tojson }}{% endfor %}{% endif %}"
        "{% if documents is none %}no documents{% endif %}{{ messages | tojson }}{{ pad_token is defined }}"
    ),
    "generation tag and loop control": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}\n"
        "{% else %}{{ ns.n }}: {{ m.content | trim }}\n{% endif %}{% if ns.n == 3 %}{% break %}{% endif %}{% endfor %}"
    ),
    "date": "{{ strftime_now('%Y') }} {{ messages | length }} {{ dict(a=1) | tojson }}",
    "a variable of its own": (
        "{% if not enable_thinking is defined %}{% set enable_thinking = true %}{% endif %}"
        "{{ enable_thinking }}{{ messages[0].role }}"
    ),
}


def ours(template: str | dict[str, str], **options) -> Tokenizer:
    return Tokenizer(byte_level(), bos_id=0, eos_ids=(0,), chat_template=template, **options)


def theirs(template: str | dict[str, str]):
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(tokenizer_object=byte_level(), bos_token="<end>", eos_token="<end>")
    made.chat_template = template
    return made


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_text_equals_that_of_transformers(name: str, prompt: bool) -> None:
    template = TEMPLATES[name]
    text = ours(template).apply_chat_template(MESSAGES, add_generation_prompt=prompt)
    assert text == theirs(template).apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=prompt)


def test_tools_and_own_variables_reach_the_template() -> None:
    template = TEMPLATES["tools and json"]
    expected = theirs(template).apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True, tools=TOOLS)
    assert ours(template).apply_chat_template(MESSAGES, tools=TOOLS) == expected
    assert ours(TEMPLATES["a variable of its own"]).apply_chat_template(MESSAGES, enable_thinking=False) == "Falsesystem"


def test_tools_choose_the_template_that_is_for_them() -> None:
    named = {"default": "plain", "tool_use": "{{ tools | length }} tools"}
    assert ours(named).apply_chat_template(MESSAGES) == "plain"
    assert ours(named).apply_chat_template(MESSAGES, tools=TOOLS) == "1 tools"
    with pytest.raises(CheckpointError, match="named 'default', only rag"):
        ours({"rag": "x"}).apply_chat_template(MESSAGES)


def test_a_variable_that_the_template_never_reads_is_refused() -> None:
    with pytest.raises(RequestError, match="does not read 'tools'"):
        ours("{{ messages[0].role }}").apply_chat_template(MESSAGES, tools=TOOLS)
    assert ours("{{ messages[0].role }}").apply_chat_template(MESSAGES, tools=None) == "system"


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles\nmust alternate') }}",
        "{{ messages[0].nothing.more }}",
        "{{ messages + 1 }}",
        "{{ messages[0]['role'].__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ 1 // 0 }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_what_a_template_cannot_render_is_one_line(template: str) -> None:
    with pytest.raises(RequestError) as caught:
        ours(template).apply_chat_template(MESSAGES)
    assert "\n" not in str(caught.value) and "chat template refuses" in str(caught.value)


def test_a_template_that_is_no_jinja_is_the_checkpoints_fault() -> None:
    tokenizer = ours("{% for %}")
    assert tokenizer.has_chat_template
    with pytest.raises(CheckpointError, match="not valid jinja"):
        tokenizer.apply_chat_template(MESSAGES)


@pytest.mark.parametrize("messages", ["hello", [{"content": "x"}], ["x"]])
def test_messages_that_are_none_are_refused(messages) -> None:
    with pytest.raises(RequestError, match="messages"):
        ours("x").apply_chat_template(messages)


def test_a_model_without_a_template_says_so() -> None:
    assert not Tokenizer(byte_level()).has_chat_template
    with pytest.raises(RequestError, match="no chat template"):
        Tokenizer(byte_level()).apply_chat_template(MESSAGES)
