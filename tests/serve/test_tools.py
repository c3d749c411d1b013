"""Tool calls: what a request may ask, and how each format is recognised and read, wherever the text is cut."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brigade.errors import RequestError
from brigade.serve.json_scanner import JSONScanner, NotJSON
from brigade.serve.qwen_xml import typed
from brigade.serve.template_traits import TemplateTraits
from brigade.serve.tool_events import CallArguments, CallBegan, CallEnded, Content, Event, joined
from brigade.serve.tool_formats import (
    DS_CALL,
    DS_CALL_END,
    DS_CALLS,
    DS_CALLS_END,
    DS_SEP,
    FORMATS,
    detect_format,
    format_for,
)
from brigade.serve.tools import ToolChoice, ToolUse, call_id
from tests.serve import templates
from tests.serve.templates import WITH_TOOLS, chat


def tool(name: str = "now", **fields: object) -> dict:
    return {"type": "function", "function": {"name": name, **fields}}


WEATHER = {"type": "object", "required": ["city"], "properties": {
    "city": {"type": "string"}, "days": {"type": "integer"}, "near": {"type": "array", "items": {"type": "string"}}}}  # fmt: skip
TOOLS = [tool("get_weather", description="The weather", parameters=WEATHER), tool("now")]
BY_NAME = {row.name: row for row in FORMATS}


def read(name: str, text: str, sizes: int = 1, **request: object) -> list[Event]:
    parser = BY_NAME[name].parser(ToolUse.read(TOOLS, **request), random.Random(0).randrange)
    pieces = [text[at : at + sizes] for at in range(0, len(text), sizes)]
    return joined([event for piece in pieces for event in parser.feed(piece)] + parser.finish())


def outline(events: list[Event]) -> list:
    """Content as text; a call as its name and arguments, with "..." behind them where it is not whole."""
    found: list = []
    for event in events:
        match event:
            case Content(text):
                found.append(text)
            case CallBegan(index, _, name):
                assert index == sum(isinstance(one, tuple) for one in found)
                found.append((name, ""))
            case CallArguments(index, text):
                found[-1] = (found[-1][0], found[-1][1] + text)
            case CallEnded(_, whole):
                if whole:
                    assert isinstance(json.loads(found[-1][1]), dict)
                else:
                    found[-1] = (found[-1][0], found[-1][1] + "...")
    return found


HELLO, PARIS = ("now", "{}"), ("get_weather", '{"city": "Paris"}')
# Two calls as each format writes them.
TWO = {
    "Hermes": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    "Llama": '{"name": "get_weather", "parameters": {"city": "Paris"}}; {"name": "now", "parameters": {}}',
    "Mistral": '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "now", "arguments": {}}]',
    "Mistral [ARGS]": '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[ARGS]{}',
    "Qwen XML": "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>\n"
    "<tool_call>\n<function=now>\n</function>\n</tool_call>",
    "DeepSeek V3": f'{DS_CALLS}{DS_CALL}function{DS_SEP}get_weather\n```json\n{{"city": "Paris"}}\n```{DS_CALL_END}\n'
    f"{DS_CALL}function{DS_SEP}now\n```json\n{{}}\n```{DS_CALL_END}{DS_CALLS_END}",
    "DeepSeek V3.1": f'{DS_CALLS}{DS_CALL}get_weather{DS_SEP}{{"city": "Paris"}}{DS_CALL_END}'
    f"{DS_CALL}now{DS_SEP}{{}}{DS_CALL_END}{DS_CALLS_END}",
}
FORMAT_NAMES = list(TWO)


# Recognising


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_a_template_tells_the_format(name: str) -> None:
    assert detect_format(WITH_TOOLS[name]).name == name
    assert detect_format(templates.MISTRAL.replace("[TOOL_CALLS] [", "[TOOL_CALLS][")).name == "Mistral without a space"


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_what_a_template_writes_is_what_its_format_reads(name: str) -> None:
    """The past calls of a conversation, rendered, are read back as those calls."""
    traits = TemplateTraits(chat(WITH_TOOLS[name]), with_tools=True)
    given = '{"city": "Paris"}' if traits.calls.arguments_as_text else {"city": "Paris"}
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": given}}
    user, shown = {"role": "user", "content": "x"}, ToolUse.read(TOOLS).for_template
    before = traits.chat.render([user], add_generation_prompt=False, tools=shown)
    past = traits.chat.render(
        [user, {"role": "assistant", "content": traits.calls.no_content, "tool_calls": [call]}], False, tools=shown
    )
    if name in ("Mistral", "Llama"):  # the first shows tools beside the last message alone; the second writes a header
        before, past = "", past[past.index({"Mistral": "[TOOL_CALLS]", "Llama": '{"name": "get'}[name]) :]
    assert PARIS in outline(read(name, past[len(before) :])), past


def test_a_request_with_tools_gets_a_format_or_one_line() -> None:
    use = ToolUse.read(TOOLS)
    assert format_for(use, TemplateTraits(chat(templates.HERMES), True)).name == "Hermes"
    assert format_for(ToolUse.read(), TemplateTraits(chat(templates.PLAIN), True)) is None
    assert format_for(ToolUse.read(TOOLS, "none"), TemplateTraits(chat(templates.PLAIN), True)) is None
    with pytest.raises(RequestError, match="no place for tools"):
        format_for(use, TemplateTraits(chat(templates.PLAIN), True))
    with pytest.raises(RequestError, match="format that is not known here"):
        format_for(use, TemplateTraits(chat(templates.UNKNOWN_FORMAT), True))


def test_a_template_that_writes_one_call_ends_the_answer_with_it() -> None:
    tools_format = format_for(ToolUse.read(TOOLS), TemplateTraits(chat(templates.LLAMA), True))
    parser = tools_format.parser(ToolUse.read(TOOLS), random.Random(0).randrange)
    assert outline(parser.feed(TWO["Llama"])) == [PARIS] and parser.is_done


# Reading


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_calls_are_read(name: str) -> None:
    assert outline(read(name, TWO[name])) == [PARIS, HELLO]


@pytest.mark.parametrize("name", sorted(set(FORMAT_NAMES) - {"Llama"}))
def test_content_stands_before_calls_without_the_white_space_between(name: str) -> None:
    assert outline(read(name, f" Let me <see>.\n\n{TWO[name]}\n")) == [" Let me <see>.", PARIS, HELLO]


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_an_answer_without_calls_is_content_to_the_last_bit(name: str) -> None:
    for text in ("", " \n", "Hello <b> [TOOL] {x} \n ", '{"a": 1}', "<", "[TOOL_CALLS", "<tool_cal", "<｜tool", '{"na'):
        assert outline(read(name, text)) == ([text] if text else [])


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_function_that_is_no_tool_is_content_with_its_marks(name: str) -> None:
    text = TWO[name].replace("get_weather", "get_whether").replace("now", "then")
    assert outline(read(name, text)) == [text]
    assert outline(read(name, TWO[name], tool_choice={"type": "function", "function": {"name": "now"}}))[-1] == (
        TWO[name] if name in ("Llama", "Mistral", "DeepSeek V3", "DeepSeek V3.1") else HELLO
    )


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_an_answer_cut_anywhere_has_what_was_said(name: str) -> None:
    """Nothing of a whole call is lost, a call that began keeps its arguments, and one that did not is content."""
    for end in range(len(TWO[name])):
        found = outline(read(name, TWO[name][:end], sizes=1000))
        calls = [one for one in found if isinstance(one, tuple)]
        for call, whole in zip(calls, (PARIS, HELLO), strict=False):
            arguments = call[1].removesuffix("...")
            assert call[0] == whole[0] and whole[1].startswith(arguments)
            assert call[1].endswith("...") == (arguments != whole[1])
        contents = [one for one in found if isinstance(one, str)]
        assert found == calls + contents  # what is no call yet stands at the end
        assert all(TWO[name][:end].endswith(one) for one in contents)


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_without_parallel_calls_the_first_ends_the_answer(name: str) -> None:
    parser = BY_NAME[name].parser(ToolUse.read(TOOLS, parallel_tool_calls=False), random.Random(0).randrange)
    said = [event for char in TWO[name] + " and more" for event in parser.feed(char)]
    assert outline(said) == [PARIS] and parser.is_done
    assert parser.feed("more") == [] and parser.finish() == []


FRAGMENTS = [
    '{"name": "now"', ', "arguments": {}}', "<function=now>", "[", "]", "}", " ", "\n", "é", "</function>", "<parameter=days>",
    "3\n", "</parameter>", "now", "[ARGS]{}", '"arguments": "{}"', '{"arguments": {"a": 1}',
]  # fmt: skip


def pieces_of(name: str) -> list[str]:
    """Fragments that make texts which are nearly calls."""
    return [*BY_NAME[name].markers * 3, *TWO[name].split(" "), TWO[name], *FRAGMENTS]


@pytest.mark.parametrize("name", FORMAT_NAMES)
@given(data=st.data())
def test_cuts_change_nothing(name: str, data: st.DataObject) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from(pieces_of(name)), max_size=10)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parser = BY_NAME[name].parser(ToolUse.read(TOOLS), random.Random(0).randrange)
    said: list[Event] = []
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        said += parser.feed(text[begin:end])
    assert joined(said + parser.finish()) == read(name, text, sizes=len(text) + 1)
    outline(joined(said))


@given(
    st.lists(st.sampled_from(["<tool_call>", "<", "tool", " ", "\n", "a", '{"name": "', "now", '"', "get_"]), max_size=12).map(
        "".join
    )
)
def test_what_is_held_back_can_still_become_a_call(text: str) -> None:
    """With what is missing behind it, it does."""
    parser = BY_NAME["Hermes"].parser(ToolUse.read(TOOLS), random.Random(0).randrange)
    said = parser.feed(text)
    held = text[sum(len(event.text) for event in said) :]
    if not held.strip():
        return
    calls = [f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>' for name in ("now", "get_weather")]
    plain = "".join(held.split())
    assert any("".join(call.split()).startswith(plain) for call in calls)


BROKEN = [
    ('<tool_call>\n{"name": "now", "arguments": {"a": 1,}}\n</tool_call>', [("now", '{"a": 1,...'), "}}\n</tool_call>"]),
    (
        '<tool_call>\n{"name": "now", "arguments": [1]}\n</tool_call>',
        ['<tool_call>\n{"name": "now", "arguments": [1]}\n</tool_call>'],
    ),
    ('<tool_call>\n{"name": "now"\n</tool_call>', ['<tool_call>\n{"name": "now"\n</tool_call>']),
    ('<tool_call>{"name": "now", "name": "now"}</tool_call>', ['<tool_call>{"name": "now", "name": "now"}</tool_call>']),
    ('<tool_call>{"arguments": {}}</tool_call>', ['<tool_call>{"arguments": {}}</tool_call>']),
    ('<tool_call>{"name": "now", "colour": 1}</tool_call>', ['<tool_call>{"name": "now", "colour": 1}</tool_call>']),
    ("<tool_call>now()</tool_call>", ["<tool_call>now()</tool_call>"]),
    ('<tool_call><tool_call>{"name": "now"}</tool_call>', ["<tool_call>", HELLO]),
    # What is missing behind whole arguments breaks nothing.
    ('<tool_call>{"name": "now", "arguments": {}}\n<tool_call>{"name": "now"}</tool_call>', [HELLO, HELLO]),
    ('<tool_call>{"name": "now", "arguments": {}</tool_call>Hi', [HELLO, "</tool_call>Hi"]),
]


@pytest.mark.parametrize(("text", "expected"), BROKEN)
def test_what_is_no_call_is_content_and_a_call_that_breaks_keeps_what_was_said(text: str, expected: list) -> None:
    assert outline(read("Hermes", text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"arguments": {"city": "Paris"}, "name": "get_weather"}',
        '{"name": "get_weather", "parameters": {"city": "Paris"}}',
        '{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}',
        '{"arguments": "{\\"city\\": \\"Paris\\"}", "type": "function", "id": "x", "name": "get_weather"}',
        '{ "name" : "get_weather" , "arguments" : {"city": "Paris"} , "index" : 0 }',
    ],
)
def test_a_json_call_may_be_written_in_other_ways(text: str) -> None:
    assert outline(read("Hermes", f"<tool_call>{text}</tool_call>")) == [PARIS]


def test_no_arguments_are_an_empty_object() -> None:
    for text in ('{"name": "now"}', '{"name": "now", "arguments": null}', '{"name": "now", "arguments": ""}'):
        expected = [f"<tool_call>{text}</tool_call>"] if '""' in text else [HELLO]
        assert outline(read("Hermes", f"<tool_call>{text}</tool_call>")) == expected


def test_half_a_surrogate_pair_inside_a_text_of_arguments_is_no_call() -> None:
    text = '<tool_call>{"name": "now", "arguments": "{\\"a\\": \\"\\ud800\\"}"}</tool_call>'
    assert outline(read("Hermes", text)) == [text]


def test_arguments_come_as_they_are_written() -> None:
    parser = BY_NAME["Hermes"].parser(ToolUse.read(TOOLS), random.Random(0).randrange)
    assert parser.feed('<tool_call>{"name": "get_weather", "arguments": ') == []
    assert [type(event) for event in parser.feed("{")] == [CallBegan, CallArguments]
    assert parser.feed('"city": "Par') == [CallArguments(0, '"city": "Par')]
    assert parser.feed('is\n"}') == [CallArguments(0, 'is\\n"}')]  # a line break in a string is no JSON, its escape is
    assert parser.feed("}</tool_call") == [CallEnded(0, True)] and parser.num_calls == 1


@pytest.mark.parametrize(
    "text", ['<|python_tag|>{"name": "now"}', '\n<|python_tag|>{"name": "now"}\n', '{"name": "now"}{"name": "now"}']
)
def test_llamas_answer_is_calls_from_its_first_character(text: str) -> None:
    assert outline(read("Llama", text)) == [HELLO] * text.count("now")
    assert outline(read("Llama", "Hi " + text)) == ["Hi " + text]


def test_llamas_code_is_content() -> None:
    for text in ('<|python_tag|>search.call(query="x")', '{"answer": {"name": "now"}}', '{"name": "Ada"}'):
        assert outline(read("Llama", text)) == [text]
    assert outline(read("Llama", '{"name": "now", "parameters": {}} is it')) == [HELLO, "is it"]


def test_mistral_may_write_ids_of_its_own() -> None:
    assert outline(read("Mistral [ARGS]", '[TOOL_CALLS]now[CALL_ID]a1B2c3D4e[ARGS]{"a": 1}')) == [("now", '{"a": 1}')]
    assert outline(read("Mistral", '[TOOL_CALLS][{"name": "now", "arguments": {}, "id": "a1B2c3D4e"}]')) == [HELLO]
    assert outline(read("Mistral", '[TOOL_CALLS] {"name": "now"}')) == [HELLO]


def test_xml_arguments_get_the_types_of_the_schema() -> None:
    text = (
        '<function=get_weather>\n<parameter=city>\n"Köln"\n\n</parameter>\n<parameter=days>3</parameter>\n'
        '<parameter=near>\n["a",\n "b"]\n</parameter>\n</function>'
    )
    for marked in (text, f"<tool_call>\n{text}\n</tool_call>"):
        [(_, arguments)] = outline(read("Qwen XML", marked))
        assert json.loads(arguments) == {"city": '"Köln"\n', "days": 3, "near": ["a", "b"]}


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("3", {"type": "integer"}, 3),
        ("3.0", {"type": "integer"}, 3.0),
        ("three", {"type": "integer"}, "three"),
        ("3", {"type": "number"}, 3),
        ("True", {"type": "boolean"}, True),
        ("null", {"type": ["string", "null"]}, None),
        ("null", {"type": "integer"}, "null"),
        ("5", {"anyOf": [{"type": "string"}, {"type": "object"}]}, "5"),
        ('{"a": 1}', {}, {"a": 1}),
        ("{'a': 1}", {"type": "object"}, "{'a': 1}"),
        ("5", {"enum": ["5", "6"]}, "5"),
        ('"x"', {}, '"x"'),
        ("NaN", {"type": "number"}, "NaN"),
        ("3", True, 3),
    ],
)
def test_an_xml_argument_is_what_the_schema_says_or_a_text(text: str, schema: object, value: object) -> None:
    assert json.loads(typed(text, schema)) == value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_the_scanner_knows_where_a_json_value_ends(value: object, ascii: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    scanner = JSONScanner()
    for char in text:
        assert not scanner.is_done and scanner.push(char) == char
    assert scanner.is_done or (scanner.push(" ") is None and scanner.is_done)


@given(st.text('{}[]",:0123456789.eE+-truefalsn\\ \n', max_size=12))
def test_the_scanner_takes_what_json_is(text: str) -> None:
    scanner, passed = JSONScanner(), ""
    try:
        for char in text + " ":
            piece = scanner.push(char)
            if piece is None:
                break
            passed += piece
            if scanner.is_done:
                break
        taken = scanner.is_done
    except NotJSON:
        taken = False
    if taken:
        json.loads(passed, parse_int=str)
    else:
        with pytest.raises(ValueError):
            json.loads(text, parse_int=str)


def test_nesting_takes_no_stack() -> None:
    text = '<tool_call>{"name": "now", "arguments": {"a": ' + "[" * 100_000 + "]" * 100_000 + "}}</tool_call>"
    events = read("Hermes", text, sizes=len(text))
    assert events[-1] == CallEnded(0, True)


def test_ids_are_equal_where_the_draws_are() -> None:
    ids = [call_id(random.Random(7).randrange) for _ in range(2)]
    assert ids[0] == ids[1] and len(ids[0]) == len("call_") + 24 and ids[0][5:].isalnum()
    first, second = (event.id for event in read("Hermes", TWO["Hermes"]) if isinstance(event, CallBegan))
    assert first != second


# Asking

DEEP: list = []
for _ in range(1_000):
    DEEP = [DEEP]


def test_tools_are_shown_as_they_were_given_without_strict() -> None:
    use = ToolUse.read([tool("f", strict=True, parameters={"type": "object", "properties": {}}, description="d")])
    shown = [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}, "description": "d"}}
    ]
    assert use.for_template == shown and list(use.for_template[0]["function"]) == ["name", "parameters", "description"]
    assert ToolUse.read([tool("f")]).for_template[0]["function"] == {
        "name": "f",
        "parameters": {"type": "object", "properties": {}},
    }
    assert use.tools[0].strict and use.choice == ToolChoice("auto") and use.parallel


def test_a_choice_of_none_hides_the_tools() -> None:
    use = ToolUse.read(TOOLS, "none")
    assert not use.is_on and use.for_template is None and use.callable == ()
    assert ToolUse.read() == ToolUse.read(None, "none") and not ToolUse.read().is_on


def test_a_named_function_alone_may_be_called_but_all_are_shown() -> None:
    use = ToolUse.read(TOOLS, {"type": "function", "function": {"name": "now"}})
    assert [one.name for one in use.callable] == ["now"] and len(use.for_template) == 2 and use.choice.forces


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"tools": []}, "tools is []"),
        ({"tools": {}}, "tools is {}"),
        ({"tools": [tool(f"f{n}") for n in range(129)]}, "tools has 129 entries; at most 128"),
        ({"tools": [5]}, "tools[0] is 5"),
        ({"tools": [{"type": "web_search"}]}, 'tools[0].type is "web_search"'),
        ({"tools": [{"type": "function"}]}, "tools[0].function is null"),
        ({"tools": [tool("a b")]}, 'tools[0].function.name is "a b"'),
        ({"tools": [tool("a\n")]}, "tools[0].function.name is"),
        ({"tools": [tool("x" * 65)]}, "tools[0].function.name is"),
        ({"tools": [tool(), tool()]}, "tools[1].function.name is 'now' again"),
        ({"tools": [tool(parameters="x")]}, 'tools[0].function.parameters is "x"'),
        ({"tools": [tool(parameters={"type": "array"})]}, 'tools[0].function.parameters.type is "array"'),
        ({"tools": [tool(parameters={"properties": []})]}, "tools[0].function.parameters.properties is []"),
        ({"tools": [tool(parameters={"properties": {"a": 5}})]}, "tools[0].function.parameters.properties.a is 5"),
        ({"tools": [tool(parameters={"required": "a"})]}, 'tools[0].function.parameters.required is "a"'),
        ({"tools": [tool(parameters={"default": DEEP})]}, "levels deep; 64 are allowed"),
        ({"tools": [tool(strict="yes")]}, 'tools[0].function.strict is "yes"'),
        ({"tools": [tool(description=5)]}, "tools[0].function.description is 5"),
        ({"tools": [tool(returns={})]}, "tools[0].function.returns is not known"),
        ({"tools": TOOLS, "tool_choice": "any"}, 'tool_choice is "any"'),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice is {"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice names 'x'"),
        ({"tool_choice": "auto"}, 'tool_choice is "auto" but there are no tools'),
        ({"tools": TOOLS, "parallel_tool_calls": 1}, "parallel_tool_calls is 1"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls is given but there are no tools"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(request_: dict, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        ToolUse.read(**request_)
    assert words in str(caught.value) and "\n" not in str(caught.value)
