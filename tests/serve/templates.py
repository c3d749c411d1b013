"""Chat templates with the shapes of those that models are published with: how each shows tools, calls, answers and reasoning."""

from __future__ import annotations

from brigade.tokenizer import Tokenizer
from brigade.tokenizer.chat_template import ChatTemplate
from tests.tokenizer.builders import byte_level

_CHATML_END = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

HERMES = (
    """{%- if tools %}
    {{- '<|im_start|>system\\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}{%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- '\\n</tools>\\nAnswer with <tool_call>\\n{"name": <name>, "arguments": <arguments>}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- set call = tool_call.function %}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}{{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
"""
    + _CHATML_END
)

# As Qwen3: the same calls, reasoning that is told by its marks, and a variable that turns it off.
THINKING = HERMES.replace(
    "{%- elif message.role == 'assistant' %}\n",
    """{%- elif message.role == 'assistant' %}
        {%- if message.reasoning_content is string and loop.last %}
            {{- '<think>' + message.reasoning_content + '</think>' }}
        {%- endif %}
""",
).replace(
    "<|im_start|>assistant\n{% endif %}",
    "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}",
)

LLAMA = """{{- bos_token }}
{%- if tools is not none %}{{- "<|start_header_id|>system<|end_header_id|>\\n\\nEnvironment: ipython\\n" }}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.\\n' }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}{{- "<|eot_id|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls|length != 1 %}{{- raise_exception("one call at once") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- "}<|eot_id|>" }}
    {%- elif message.role == 'tool' or message.role == 'ipython' %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}{{- "<|eot_id|>" }}
    {%- else %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""

# Two users may not follow each other, and an id must have nine letters and digits.
MISTRAL = """{{- bos_token }}
{%- set ns = namespace(index=0) %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'assistant' and message.tool_calls is undefined) %}
        {%- if (message.role == 'user') != (ns.index % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
    {%- if message.role == 'user' %}
        {%- if tools is not none and loop.last %}{{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}
        {{- '[INST] ' + message.content + '[/INST]' }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- '[TOOL_CALLS] [' }}
        {%- for tool_call in message.tool_calls %}
            {{- (tool_call.function | tojson)[:-1] }}
            {%- if tool_call.id is undefined or tool_call.id|length != 9 %}{{- raise_exception('ids have length 9') }}{%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}{%- if not loop.last %}{{- ', ' }}{%- else %}{{- ']' + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message.role == 'assistant' %}{{- ' ' + message.content + eos_token }}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + (message.content | tojson) }}
        {{- ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}{{- raise_exception('Only user, assistant and tool roles are supported') }}{%- endif %}
{%- endfor %}
"""

# As Magistral: reasoning in marks of its own, a system prompt, and calls with [ARGS].
MISTRAL_ARGS = """{{- bos_token }}
{%- if tools %}{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{{- '[SYSTEM_PROMPT]' + message.content + ' Think in [THINK]...[/THINK].[/SYSTEM_PROMPT]' }}
    {%- elif message.role == 'user' %}{{- '[INST]' + message.content + '[/INST]' }}
    {%- elif message.role == 'assistant' %}{{- message.content }}
        {%- for tool_call in message.tool_calls or [] %}
            {%- set arguments = tool_call.function.arguments %}
            {%- if arguments is not string %}{%- set arguments = arguments | tojson %}{%- endif %}
            {{- '[TOOL_CALLS]' + tool_call.function.name + '[ARGS]' + arguments }}
        {%- endfor %}{{- eos_token }}
    {%- elif message.role == 'tool' %}{{- '[TOOL_RESULTS]' + message.content + '[/TOOL_RESULTS]' }}{%- endif %}
{%- endfor %}
"""

QWEN_XML = (
    """{%- if tools %}{{- '<|im_start|>system\\n<tools>' }}
    {%- for tool in tools %}{%- set f = tool.function %}{{- '\\n<function><name>' + f.name + '</name>' }}
        {%- for name, fields in f.parameters.properties | items %}
            {{- '<parameter>' + name + ' ' + fields.type + '</parameter>' }}
        {%- endfor %}
        {{- '</function>' }}
    {%- endfor %}
    {{- '</tools>\\n<tool_call>\\n<function=example>\\n<parameter=example>\\nvalue\\n</parameter>\\n</function>\\n</tool_call>' }}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and message.tool_calls is defined and message.tool_calls is iterable %}
        {{- '<|im_start|>assistant\\n' + (message.content or '') }}
        {%- for tool_call in message.tool_calls %}
            {{- '\\n<tool_call>\\n<function=' + tool_call.function.name + '>\\n' }}
            {%- for name, value in tool_call.function.arguments | items %}
                {{- '<parameter=' + name + '>\\n' }}
                {{- value if value is string else value | tojson }}
                {{- '\\n</parameter>\\n' }}
            {%- endfor %}{{- '</function>\\n</tool_call>' }}
        {%- endfor %}{{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
"""
    + _CHATML_END
)

# As R1: arguments must be text, content must be none beside calls, and the answer begins inside its reasoning.
DEEPSEEK = """{{- bos_token }}
{%- if tools %}
    {%- for tool in tools %}{{- tool.function.name + ': ' + (tool.function.parameters | tojson) + '\\n' }}{%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{{- message.content }}
    {%- elif message.role == 'user' %}{{- '<｜User｜>' + message.content }}
    {%- elif message.role == 'assistant' and message.content is none %}{{- '<｜Assistant｜><｜tool▁calls▁begin｜>' }}
        {%- for tool in message.tool_calls %}
            {{- '<｜tool▁call▁begin｜>' + tool.type + '<｜tool▁sep｜>' + tool.function.name + '\\n```json\\n' }}
            {{- tool.function.arguments }}
            {{- '\\n```<｜tool▁call▁end｜>' }}{%- if not loop.last %}{{- '\\n' }}{%- endif %}
        {%- endfor %}{{- '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' }}
    {%- elif message.role == 'assistant' %}
        {{- '<｜Assistant｜>' + message.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}
    {%- elif message.role == 'tool' %}{{- '<｜tool▁output▁begin｜>' + message.content + '<｜tool▁output▁end｜>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\\n' }}{%- endif %}
"""

DEEPSEEK_31 = (
    DEEPSEEK.replace("tool.type + '<｜tool▁sep｜>' + tool.function.name + '\\n```json\\n'", "tool.function.name + '<｜tool▁sep｜>'")
    .replace("'\\n```<｜tool▁call▁end｜>'", "'<｜tool▁call▁end｜>'")
    .replace("{{- '\\n' }}", "")
)

PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + _CHATML_END
UNKNOWN_FORMAT = "{% for t in tools %}<|tool|>{{ t | tojson }}{% endfor %}" + PLAIN
PARTS = "{% for m in messages %}{{ m.role }}:{% for part in m.content %}{{ part['text'] }}|{% endfor %}{% endfor %}"
DEVELOPER = PLAIN + "{# #}{% if messages[0].role == 'developer' %}{% endif %}"

WITH_TOOLS = {
    "Hermes": HERMES,
    "Llama": LLAMA,
    "Mistral": MISTRAL,
    "Mistral [ARGS]": MISTRAL_ARGS,
    "Qwen XML": QWEN_XML,
    "DeepSeek V3": DEEPSEEK,
    "DeepSeek V3.1": DEEPSEEK_31,
}


def chat(template: str | dict[str, str]) -> ChatTemplate:
    return Tokenizer(byte_level(), bos_id=0, eos_ids=(0,), chat_template=template).chat


def theirs(template: str, messages: list, tools: list | None = None, **variables) -> str:
    """What `transformers` renders, with messages exactly as given: its tokenizers drop fields that are none, and some templates ask
    whether `content` is."""
    from transformers.utils.chat_template_utils import render_jinja_template

    tokens = {"bos_token": "<end>", "eos_token": "<end>"}
    rendered, _ = render_jinja_template(
        conversations=[messages], tools=tools, chat_template=template, add_generation_prompt=True, **tokens, **variables
    )
    return rendered[0]
