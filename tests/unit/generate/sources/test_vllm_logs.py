"""Lines of vLLM's log, as they are joined; the sample in the fixtures is by its own logger."""

import json

import pytest

from generate.sources import vllm_logs
from generate.sources.files import find_files, read_file
from generate.sources.formats.registry import COLUMNS
from generate.sources.rows import RowError
from generate.sources.vllm_logs import read_lines

BEFORE = "(APIServer pid=7) DEBUG 11-30 21:00:00 [entrypoints/.../request_logger.py:74] "


def asked(name, text="Hello", **fields):
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    return f"{BEFORE}Request {name} JSON body: {json.dumps(body)}\n"


def chosen(name, text, state=""):
    return (
        f"{BEFORE}Generated response chatcmpl-{name}{state}: output: {text!r}, "
        "finish_reason: stop\n"
    )


def answers(row):
    return [one["message"] for one in (row["response"] or {"choices": []})["choices"]]


def test_choices_are_joined_with_their_request_however_they_lie_between():
    lines = [
        asked("a", "one", n=2),
        "INFO: 127.0.0.1 - GET /health\n",
        asked("b", "two", stream=True),
        chosen("b", "'Tis", " (streaming delta)"),
        chosen("a", "first"),
        chosen("b", '\'Tis "so"\n', " (streaming complete)"),
        chosen("elsewhere", "not asked here"),
        chosen("a", "second"),
    ]
    (second, two), (first, one) = read_lines(lines)
    assert (first, second) == (1, 3)
    assert [message["content"] for message in answers(one)] == ["first", "second"]
    assert [message["content"] for message in answers(two)] == ['\'Tis "so"\n']
    assert one["request"]["messages"][0]["content"] == "one"


def test_calls_are_read_back_and_a_text_like_them_is_a_text():
    calls = '[tool_calls: look_up({"a": "x, y({"}), stop({})]'
    odd = "[tool_calls: none of these]"
    lines = [asked("a"), chosen("a", calls), asked("b"), chosen("b", odd)]
    (_, called), (_, said) = read_lines(lines)
    (message,) = answers(called)
    assert message["content"] is None
    functions = [one["function"] for one in message["tool_calls"]]
    assert functions == [
        {"name": "look_up", "arguments": '{"a": "x, y({"}'},
        {"name": "stop", "arguments": "{}"},
    ]
    assert answers(said) == [{"role": "assistant", "content": odd}]


def test_a_request_without_all_of_its_choices_keeps_those_it_has():
    (_, some), (_, none) = read_lines([asked("a", n=2), chosen("a", "one"), asked("b")])
    assert len(answers(some)) == 1
    assert none["response"] is None


def test_requests_that_are_never_answered_are_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr(vllm_logs, "MOST_OPEN_BYTES", 2.5 * len(asked("0")))
    found = read_lines(asked(str(number)) for number in range(5))
    assert next(found)[0] == 1
    assert len(list(found)) == 4


def test_of_two_requests_with_one_name_the_later_one_is_answered():
    (_, later), (_, earlier) = read_lines([asked("a", "one"), asked("a", "two"), chosen("a", "x")])
    assert later["request"]["messages"][0]["content"] == "two"
    assert earlier["response"] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (asked("a")[:-9] + "\n", "--max-log-len"),
        ("INFO: a log of something else\n", "--enable-log-requests"),
        (asked("a") + "\n", None),
    ],
)
def test_what_cannot_be_read_says_what_to_do(line, message):
    ((number, row),) = read_lines([line])
    assert number == 1
    assert isinstance(row, RowError) == (message is not None)
    assert message is None or message in str(row)


def test_an_answer_with_half_a_surrogate_pair_is_refused():
    ((_, row),) = read_lines([asked("a"), chosen("a", "\ud800")])
    assert isinstance(row, RowError)


def test_embeddings_are_no_requests_to_a_chat():
    line = f'{BEFORE}Request e JSON body: {{"model": "m", "input": "text"}}'
    assert list(read_lines([line])) == []


def test_a_log_of_json_lines_is_read_as_such(tmp_path):
    path = tmp_path / "requests.log"
    path.write_text('{"prompt": "Hello"}\n')
    (file,) = find_files(str(tmp_path))
    (row,) = read_file(file, COLUMNS)
    assert row.values == {"prompt": "Hello"}
