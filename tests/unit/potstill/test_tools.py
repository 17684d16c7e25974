"""Tools: grammars that make a model call, and calls found in what it writes, however it is cut."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.tools.formats import HERMES, LLAMA, MISTRAL, ToolFormat
from potstill.tools.parsing import (
    CallArguments,
    CallBegins,
    PlainText,
    ToolCallParser,
    split_answer,
)
from potstill.tools.rendering import template_input
from serve.engine.grammar_process import SchemaMatcher, Vocabulary

BYTES = Vocabulary(None)
FORMATS = {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL}
SUM = {"name": "sum", "arguments": {"terms": [1, {"x": "}"}], "unit": 'a "b" \\'}}
NOW = {"name": "now", "arguments": {}}


def hermes(*calls: dict) -> str:
    return "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls)


def llama(call: dict) -> str:
    return json.dumps({"name": call["name"], "parameters": call["arguments"]})


WRITTEN = [
    (HERMES, hermes(SUM), "", [SUM]),
    (HERMES, "Let me see.\n" + hermes(SUM, NOW), "Let me see.\n", [SUM, NOW]),
    (HERMES, "no < tool_call, <tool", "no < tool_call, <tool", []),
    (HERMES, '<tool_call>\n{"arguments": {"a": 1}, "name": "f"}\n</tool_call>', "",
     [{"name": "f", "arguments": {"a": 1}}]),
    (HERMES, "<tool_call>\n{broken}\n</tool_call>", "<tool_call>{broken}", []),
    (LLAMA, llama(SUM), "", [SUM]),
    (LLAMA, "<|python_tag|>" + llama(NOW) + "; " + llama(SUM), "", [NOW, SUM]),
    (LLAMA, '{"answer": 42}', '{"answer": 42}', []),
    (LLAMA, "It is {nothing}.", "It is {nothing}.", []),
    (MISTRAL, "[TOOL_CALLS][" + json.dumps(SUM) + ", " + json.dumps(NOW) + "]", "", [SUM, NOW]),
    (MISTRAL, "[TOOL_CALLS] " + json.dumps([{**NOW, "id": "abcdefghi"}]), "", [NOW]),
    (MISTRAL, "plain [TOOL", "plain [TOOL", []),
]  # fmt: skip


@pytest.mark.parametrize(("tool_format", "written", "text", "calls"), WRITTEN)
def test_calls_are_found_whole_and_letter_by_letter(tool_format, written, text, calls):
    for pieces in ([written], list(written)):
        found_text, found = split_answer(tool_format, *pieces)
        assert found_text == text
        assert [{"name": n, "arguments": json.loads(a)} for n, a in found] == calls


@given(st.data())
def test_the_chunking_of_a_text_does_not_matter(data):
    tool_format, written, *_ = data.draw(st.sampled_from(WRITTEN))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(written)))) | {0, len(written)})
    pieces = [written[start:end] for start, end in itertools.pairwise(cuts)]
    assert split_answer(tool_format, *pieces) == split_answer(tool_format, written)


@given(st.text(alphabet='<tool_call>{}"[]TOOL_CALLS,: nm\\\n'), st.sampled_from([*FORMATS]))
def test_nothing_a_model_writes_breaks_the_parser(text, name):
    split_answer(FORMATS[name], *text)


@pytest.mark.parametrize(
    "call",
    [
        '{"name": "a\nb", "arguments": {}}',
        '{"arguments": {"a": "\\ud800"}, "name": "f"}',
        '{"arguments": {}, "name": "\\udc00"}',
        '{"arguments": {"a": NaN}, "name": "f"}',
        '{"arguments": {"a": 1e999}, "name": "f"}',
        '{"arguments": {"a": ' + "[" * 5000 + "]" * 5000 + '}, "name": "f"}',
    ],
)
def test_a_call_that_could_not_be_written_as_json_stays_text(call):
    for pieces in ([call], list(call)):
        assert split_answer(HERMES, "<tool_call>", *pieces) == (f"<tool_call>{call}", [])


def test_arguments_come_as_they_are_written():
    parser = ToolCallParser(HERMES)
    pieces = parser.push('<tool_call>\n{"name": "f", "arguments": {"a": "on')
    assert pieces == [CallBegins("f"), CallArguments('{"a": "on')]
    assert parser.push('e"}') == [CallArguments('e"}')]
    assert parser.push("}\n</tool_call>") == []


@pytest.mark.parametrize(
    ("tool_format", "written"),
    [
        (HERMES, hermes(SUM)),
        (MISTRAL, "[TOOL_CALLS][" + json.dumps(SUM) + "]"),
        (LLAMA, llama(SUM)),
    ],
)
def test_of_a_call_that_is_cut_off_nothing_becomes_text(tool_format, written):
    least = len('{"name":') if tool_format is LLAMA else 1
    for length in range(least, len(written)):
        parser = ToolCallParser(tool_format)
        pieces = [*parser.push(written[:length]), *parser.finish(is_cut=True)]
        assert not any(isinstance(piece, PlainText) for piece in pieces), written[:length]
    parser = ToolCallParser(LLAMA)
    assert [*parser.push('{"answer": 4'), *parser.finish(is_cut=True)] == [
        PlainText('{"answer": 4')
    ]


def test_a_template_shows_the_format():
    assert ToolFormat.of_template("{% if tools %}<tool_call>{% endif %}") is HERMES
    assert ToolFormat.of_template("<|python_tag|>") is LLAMA
    assert ToolFormat.of_template("[AVAILABLE_TOOLS][TOOL_CALLS]") is MISTRAL
    assert ToolFormat.of_template("nothing of tools") is HERMES
    assert len(MISTRAL.new_call_id()) == 9


@pytest.mark.parametrize("name", FORMATS)
def test_the_rules_write_what_the_parser_reads(name):
    tool_format = FORMATS[name]
    begin, end = (tool_format.opening + tool_format.brackets[0]), tool_format.brackets[1]
    schemas = [{"place": "tools", "text": '{"type": "object"}', "is_exact": True}] * 2

    def call(function: str) -> str:
        return f'{{"name": "{function}", "{tool_format.arguments_key}": {{"a": 1}}}}'

    for parallel in (False, True):
        rules = tool_format.rules(["sum", "summary"], parallel=parallel)
        for functions in (["sum"], ["summary"], ["summary", "sum", "summary"]):
            text = begin + tool_format.separator.join(map(call, functions)) + end
            text += tool_format.closing
            matcher = SchemaMatcher(rules, schemas, BYTES, tool_format.opening)
            is_allowed = all(map(matcher.take, text.encode())) and matcher.take(BYTES.end_tokens[0])
            may_be_many = parallel and bool(tool_format.separator)
            assert is_allowed == (len(functions) == 1 or may_be_many)
            if is_allowed:
                assert split_answer(tool_format, text)[1] == [
                    (one, '{"a": 1}') for one in functions
                ]
        matcher = SchemaMatcher(rules, schemas, BYTES, tool_format.opening)
        assert not all(map(matcher.take, (begin + call("other")).encode()))


@pytest.mark.parametrize("name", FORMATS)
def test_the_rules_may_begin_after_the_opening_and_leave_room_for_an_answer(name):
    tool_format = FORMATS[name]
    begin, end = tool_format.brackets
    call = f'{{"name": "now", "{tool_format.arguments_key}": {{}}}}'
    texts = ['{"type": "object"}', '{"const": 42}']
    schemas = [{"place": "tools", "text": text, "is_exact": True} for text in texts]

    def is_allowed(text: str, **options: bool) -> bool:
        rules = tool_format.rules(["now"], parallel=False, **options)
        opening = "" if options.get("is_begun") else tool_format.opening
        matcher = SchemaMatcher(rules, schemas, BYTES, opening)
        return matcher.follow(text) and matcher.take(BYTES.end_tokens[0])

    following = begin + call + end + tool_format.closing
    assert is_allowed(following, is_begun=True)
    assert is_allowed(tool_format.opening + following, or_answer=True)
    assert is_allowed("42", or_answer=True)
    assert not is_allowed("43", or_answer=True)
    assert not is_allowed("42")


def test_what_a_call_follows_is_found():
    for tool_format, text, following in (
        (HERMES, "Well. <tool_call>\n{", "\n{"),
        (MISTRAL, "[TOOL_CALLS][{", "[{"),
        (LLAMA, '<|python_tag|> {"name" : "now"', '{"name" : "now"'),
    ):
        found = tool_format.marker.search(text)
        assert text[found.end() :] == following
    assert LLAMA.marker.search('{"answer": 1}') is None
    assert LLAMA.marker.search('It is {"name": 1}') is None


def test_tools_become_text_for_a_template_without_them():
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": "", "tool_calls": [{"function": NOW}, {"function": NOW}]},
        {"role": "tool", "content": "noon"},
        {"role": "tool", "content": "evening"},
    ]
    tool = {"type": "function", "function": NOW}
    (system, called, gave), tools = template_input("{{ messages }}", messages, [tool])
    assert tools == []
    assert system["content"].startswith("Be kind.\n\nYou may call")
    assert called["content"] == hermes(NOW, NOW)
    results = [f"<tool_response>\n{time}\n</tool_response>" for time in ("noon", "evening")]
    assert gave == {"role": "user", "content": "\n".join(results)}
    assert template_input("", messages[1:], [tool])[0][0]["role"] == "system"
    learned, _ = template_input("", messages)
    assert learned == [messages[0], called, gave]


def test_a_template_with_tools_gets_one_order_of_keys_and_parsed_arguments():
    call = {"function": {"arguments": '{"a": null}', "name": "now"}, "id": ""}
    function = {"parameters": {"default": None}, "x": 1, "strict": None, "name": "now"}
    (message,), (tool,) = template_input(
        "{{ tools }} {{ tool_calls }}",
        [{"role": "assistant", "content": "", "tool_calls": [call]}],
        [{"function": function, "type": "function"}],
    )
    wanted = {"type": "function", "function": {"name": "now", "arguments": {"a": None}}}
    assert json.dumps(message["tool_calls"]) == json.dumps([wanted])
    shown = {"type": "function", "function": {"name": "now", "parameters": {"default": None}}}
    assert json.dumps(tool) == json.dumps(shown)
    broken = {"function": {"name": "now", "arguments": "{"}}
    (message,), _ = template_input("tool_calls", [{"role": "assistant", "tool_calls": [broken]}])
    assert message["tool_calls"][0]["function"]["arguments"] == "{"
