import io

import pytest
from rich.console import Console

from serve.terminal.server import Answer
from serve.terminal.view import plain, side_by_side


def shown(answers, width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(side_by_side(answers, width))
    return console.file.getvalue()


def answer(name, **fields):
    return Answer(name, is_done=True, **fields)


BOTH = [
    answer("student", message={"content": "Rain."}, num_tokens=3, first_seconds=0.5, seconds=1.5),
    answer("teacher", message={"content": "It rains."}),
]


def test_two_answers_stand_side_by_side_where_they_fit():
    lines = shown(BOTH, 100).splitlines()
    assert "student" in lines[0]
    assert "teacher" in lines[0]
    assert "Rain." in lines[1]
    assert "It rains." in lines[1]
    assert "1.5 s, 3 tokens, 2 tokens/s" in lines[2]
    assert max(map(len, lines)) <= 100


def test_a_hidden_answer_shows_no_speed():
    one = answer("A", is_hidden=True, num_tokens=3, first_seconds=0.5, seconds=1.5)
    assert "tokens" not in shown([one], 80)


def test_in_a_narrow_window_they_stand_below_each_other():
    lines = shown(BOTH, 60).splitlines()
    assert len(lines) == 6
    assert "teacher" in lines[3]
    assert max(map(len, lines)) <= 60


def test_calls_thinking_and_errors_are_shown():
    call = {"id": "c", "type": "function", "function": {"name": "pay", "arguments": '{"to": "x"}'}}
    message = {"content": None, "reasoning_content": "They owe.", "tool_calls": [call]}
    assert plain(answer("student", message=message)) == 'student: They owe.\npay({"to": "x"})'
    assert plain(answer("teacher", error="it is full")) == "teacher: it is full"
    assert plain(answer("teacher")) == "teacher: "


@pytest.mark.parametrize("text", ["\x1b[2J", "\x1b]0;title\x07", "\x9b2J", "\r", "\u202e"])
def test_nothing_that_a_model_writes_controls_the_terminal(text):
    answers = [answer(f"name{text}", message={"content": f"a{text}b"}, error=text)]
    assert text not in shown(answers, 80)
    assert text not in plain(answers[0])


def test_markup_is_text():
    assert "[bold]x[/bold]" in shown([answer("[red]n", message={"content": "[bold]x[/bold]"})], 80)
