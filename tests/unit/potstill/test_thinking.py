import pytest

from potstill.templates import compile_template, render_template
from potstill.thinking import (
    FORMATS,
    ThinkFormat,
    ThinkParser,
    answer_of,
    has_switch,
    split_thinking,
    switched,
)

QWEN, GEMMA, GPT_OSS = FORMATS[0], FORMATS[4], FORMATS[5]
TEMPLATE = (
    "{% for one in messages %}{{ one.content }}\n{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}"
)


def pieces(think_format, text, *, opened, size):
    """Return thinking and answer of a text that arrives in pieces."""
    parser = ThinkParser(think_format, opened=opened)
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    found = [one for part in parts for one in parser.push(part)] + parser.finish()
    return tuple(
        "".join(one.text for one in found if one.is_thinking == wanted) for wanted in (True, False)
    )


@pytest.mark.parametrize(
    ("text", "opened", "thinking", "answer"),
    [
        ("An answer.", False, "", "An answer."),
        ("  An answer. ", False, "", "  An answer. "),
        ("<think>\nHm.\nSo.\n</think>\n\nAn answer.\n", False, "Hm.\nSo.", "An answer.\n"),
        ("\n<think>Hm.</think>42", False, "Hm.", "42"),
        ("Hm.\n</think>\n\n42", True, "Hm.", "42"),
        ("</think>\n\n42", False, "", "42"),
        ("\n\n</think>\n\n42", True, "", "42"),
        ("<think>\n\n</think>\n\n42", False, "", "42"),
        ("42</think>", False, "", "42"),
        ("4</think>2", False, "", "42"),
        ("4</think>2</think>", False, "", "42"),
        ("Hm. 1 < 2 </thin", True, "Hm. 1 < 2 </thin", ""),
        ("Hm.</think>4 < 5 <thin", True, "Hm.", "4 < 5 <thin"),
        ("<th", False, "", "<th"),
        ("<think>Hm.", False, "Hm.", ""),
        ("One.<think>Hm.</think>Two.", False, "Hm.", "One.Two."),
        ("Hm. <think> again </think>42", True, "Hm. <think> again", "42"),
        ("", True, "", ""),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_thinking_and_answer_are_split_as_they_arrive(text, opened, thinking, answer, size):
    assert pieces(QWEN, text, opened=opened, size=size) == (thinking, answer)


@pytest.mark.parametrize("think_format", FORMATS, ids=lambda one: one.opening)
@pytest.mark.parametrize("size", [1, 7, 100])
def test_every_format_is_split(think_format, size):
    text = f"{think_format.opening}Hm.{think_format.closing}42"
    assert pieces(think_format, text, opened=False, size=size) == ("Hm.", "42")
    without = f"{think_format.answer_opening}42"
    assert pieces(think_format, without, opened=False, size=size) == ("", "42")
    assert answer_of(text) == "42"
    assert answer_of("42") == "42"


def test_a_whole_text_may_end_thinking_that_the_prompt_began():
    assert split_thinking(QWEN, "Hm.\n</think>\n\n42") == ("Hm.", "42")
    assert split_thinking(QWEN, "42") == (None, "42")
    assert split_thinking(QWEN, "Hm", opened=True) == ("Hm", "")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TEMPLATE, QWEN),
        ("{{ '<|channel>thought\\n<channel|>' }}", GEMMA),
        ("{{ '<|channel|>analysis<|message|>' }}", GPT_OSS),
        ("{{ messages }}", None),
    ],
)
def test_the_format_is_the_templates(template, expected):
    assert ThinkFormat.of_template(template) == expected


def test_the_format_is_that_of_a_token():
    assert ThinkFormat.of_vocabulary({"a", "</think>"}) == QWEN
    assert ThinkFormat.of_vocabulary({"a"}) is None


@pytest.mark.parametrize("given", [{}, {"enable_thinking": True}, {"enable_thinking": False}])
def test_a_switch_is_set_whatever_a_caller_sets(given):
    def render(template):
        return render_template(compile_template(template), [{"content": "Q"}], {}, **given)

    assert has_switch(TEMPLATE)
    assert render(switched(TEMPLATE, on=False)) == "Q\n<think>\n\n</think>\n\n"
    assert render(switched(TEMPLATE, on=True)) == "Q\n<think>\n"
    assert not has_switch("{% set thinking = 1 %}{{ thinking }}")
    assert switched("{{ messages }}", on=False) == "{{ messages }}"
