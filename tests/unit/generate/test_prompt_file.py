import codecs
import json

import pytest

from generate.prompt_file import read_prompt_file
from potstill.errors import ArtifactError, ConfigError
from potstill.schema import Message

GOOD = '{"prompt": "What is 17 plus 25?"}\n'


@pytest.fixture
def prompt_file(tmp_path):
    """Return a function that writes a file of prompts."""

    def write(content: str | bytes):
        path = tmp_path / "mine.jsonl"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def user(content: str) -> Message:
    return Message(role="user", content=content)


def test_a_prompt_is_one_turn_of_the_user(prompt_file):
    (prompt,) = read_prompt_file(prompt_file(GOOD))
    assert prompt.messages == (user("What is 17 plus 25?"),)
    assert prompt.source == "mine.jsonl"
    assert prompt.licence is None


def test_messages_are_taken_as_they_are(prompt_file):
    turns = [
        {"role": "system", "content": "You answer in French."},
        {"role": "user", "content": "Hello\n  there"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": " Go on. "},
    ]
    (prompt,) = read_prompt_file(prompt_file(json.dumps({"messages": turns})))
    assert [message.model_dump() for message in prompt.messages] == turns


def test_rows_keep_their_order_and_other_keys_are_left_alone(prompt_file):
    path = prompt_file('{"prompt": "b", "answer": [1, {}]}\n{"id": 7, "prompt": "a"}\n')
    assert [prompt.messages for prompt in read_prompt_file(path)] == [(user("b"),), (user("a"),)]


def test_source_and_licence_are_kept_however_it_is_spelled(prompt_file):
    rows = [
        {"prompt": "a", "source": "a book", "licence": "CC0-1.0"},
        {"prompt": "b", "license": "MIT"},
        {"prompt": "c", "source": "", "licence": None, "license": None},
    ]
    prompts = read_prompt_file(prompt_file("\n".join(map(json.dumps, rows))))
    assert [(prompt.source, prompt.licence) for prompt in prompts] == [
        ("a book", "CC0-1.0"),
        ("mine.jsonl", "MIT"),
        ("mine.jsonl", None),
    ]


@pytest.mark.parametrize(
    "content",
    [
        f"\n{GOOD}\n   \n\t\n{GOOD}\n\n",
        codecs.BOM_UTF8 + f"{GOOD}{GOOD}".encode(),
        f"{GOOD}{GOOD}".replace("\n", "\r\n"),
        f"{GOOD}{GOOD}".rstrip("\n"),
    ],
    ids=["empty lines", "byte order mark", "windows", "no newline at the end"],
)
def test_files_of_other_editors_are_read(prompt_file, content):
    prompts = read_prompt_file(prompt_file(content))
    assert [prompt.messages[0].content for prompt in prompts] == ["What is 17 plus 25?"] * 2


def test_separators_of_lines_within_a_prompt_are_text(prompt_file):
    text = "one\u2028two\u0085three\x0bfour"
    path = prompt_file(json.dumps({"prompt": text}, ensure_ascii=False))
    assert read_prompt_file(path)[0].messages[0].content == text


NO_USER = "no user's message at the end, or an empty one"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("What is 17 plus 25?", "not JSON: Expecting value: line 1 column 1"),
        ('{"prompt": "cut o', "not JSON: Unterminated string"),
        ("{'prompt': 'a'}", "not JSON: Expecting property name"),
        ('["a", "b"]', "a JSON list"),
        ('"a"', "a JSON str"),
        ("null", "a JSON NoneType"),
        (
            '{"prompt": "a", "messages": [{"role": "user", "content": "a"}]}',
            "keys prompt, messages",
        ),
        ('{"text": "a", "id": 3}', "keys text, id"),
        ("{}", "keys none"),
        ('{"prompt": ""}', NO_USER),
        ('{"prompt": " \\n\\t"}', NO_USER),
        ('{"prompt": 3}', "content: Input should be a valid string"),
        ('{"prompt": null}', "content: Input should be a valid string"),
        ('{"messages": []}', NO_USER),
        ('{"messages": "a"}', "messages that are no list"),
        ('{"messages": {"role": "user", "content": "a"}}', "messages that are no list"),
        ('{"messages": ["a"]}', "message: Input should be a valid dictionary"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', NO_USER),
        ('{"messages": [{"role": "user", "content": "  "}]}', NO_USER),
        (
            '{"messages": [{"role": "tool", "content": "a"}]}',
            "role: Input should be 'system', 'user'",
        ),
        ('{"messages": [{"role": "user"}]}', "content: Field required"),
        ('{"messages": [{"role": "user", "content": "a", "name": "b"}]}', "name: Extra inputs"),
        ('{"prompt": "a", "licence": 3}', "licence is no text"),
        ('{"prompt": "a", "license": ["MIT"]}', "license is no text"),
        ('{"prompt": "a", "source": {}}', "source is no text"),
    ],
)
def test_a_broken_row_is_refused_with_its_line_and_what_was_found(prompt_file, row, found):
    path = prompt_file(f"{GOOD}\n{row}\n{GOOD}")
    with pytest.raises(
        ArtifactError, match="a row of the file of prompts cannot be used"
    ) as caught:
        read_prompt_file(path)
    assert caught.value.where == f"{path}, line 3"
    assert caught.value.found.startswith(found)
    assert '{"prompt": "..."}' in caught.value.expected


@pytest.mark.parametrize(
    "row", [r'{"prompt": "\ud83d what?"}', r'{"prompt": "a", "source": "\udc00"}']
)
def test_half_a_character_is_refused(prompt_file, row):
    """It can be written neither to Parquet nor to a tokenizer, so it must be told here."""
    path = prompt_file(row)
    with pytest.raises(ArtifactError):
        read_prompt_file(path)


@pytest.mark.parametrize("row", ["[" * 100_000, '{"prompt": "a", "n": ' + "1" * 5000 + "}"])
def test_json_beyond_the_parsers_limits_is_refused(prompt_file, row):
    path = prompt_file(row)
    with pytest.raises(ArtifactError):
        read_prompt_file(path)


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_refused_with_what_a_row_looks_like(prompt_file, content):
    path = prompt_file(content)
    with pytest.raises(ArtifactError, match="the file of prompts is empty") as caught:
        read_prompt_file(path)
    assert caught.value.where == path
    assert '{"messages": [' in caught.value.expected


def test_a_missing_file_is_a_wrong_setting(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        read_prompt_file(tmp_path / "absent.jsonl")
    assert caught.value.where == tmp_path / "absent.jsonl"
    assert caught.value.found == "No such file or directory"
    with pytest.raises(ConfigError, match="Is a directory"):
        read_prompt_file(tmp_path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_that_is_not_utf8_is_a_wrong_setting(prompt_file, encoding):
    path = prompt_file('{"prompt": "café"}'.encode(encoding))
    with pytest.raises(ConfigError, match=r"in UTF-8(.|\n)*codec can't decode"):
        read_prompt_file(path)
