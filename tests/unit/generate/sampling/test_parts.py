import json

import pyarrow.parquet as pq
import pytest

from generate.sampling.parts import (
    WHOLE,
    FailedConversation,
    Shard,
    failures_path,
    finished_parts,
    part_path,
    part_paths,
    read_failures,
    read_prompts,
    write_part,
)
from potstill.errors import ArtifactError, ConfigError
from potstill.tables import PROMPT_SCHEMA, prompt_to_row, read_conversations, write_rows

VOCAB_SIZE = 49_152


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def write(tmp_path, make_conversation):
    """Return a function that writes a part of conversations of these prompts."""

    def make(index, *prompt_ids, failures=()):
        conversations = [make_conversation(name=name) for name in prompt_ids]
        write_part(tmp_path, index, conversations, failures, VOCAB_SIZE)

    return make


def test_parts_are_named_so_that_they_sort(tmp_path, write):
    for index in (10, 0, 9):
        write(index, "a")
    assert part_path(tmp_path, 7) == tmp_path / "part-00007.parquet"
    assert part_paths(tmp_path) == [part_path(tmp_path, index) for index in (0, 9, 10)]


def test_what_is_written_is_read_again_in_order(tmp_path, write):
    write(3, "b", "a", "c")
    stored = list(read_conversations(part_path(tmp_path, 3)))
    assert [one.conversation_id for one in stored] == ["b-0", "a-0", "c-0"]
    assert finished_parts(tmp_path) == {3}


def test_a_part_of_which_all_failed_or_nothing_was_asked_is_there_and_empty(tmp_path, write):
    write(0, failures=[FailedConversation("a-0", "too long")])
    write(1)
    assert finished_parts(tmp_path) == {0, 1}
    assert list(read_conversations(part_path(tmp_path, 0))) == []
    assert names(tmp_path) == ["failed-00000.jsonl", "part-00000.parquet", "part-00001.parquet"]


def test_failures_are_listed_beside_their_part(tmp_path, write):
    first, second = (
        FailedConversation("a-0", "too long"),
        FailedConversation("b-1", "the server said „no“"),
    )
    write(2, "c", failures=[second])
    write(1, failures=[first, second])
    lines = failures_path(tmp_path, 1).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"conversation_id": "a-0", "reason": "too long"},
        {"conversation_id": "b-1", "reason": "the server said „no“"},
    ]
    assert read_failures(tmp_path) == [first, second, second]


def test_failures_are_there_before_their_part_is(tmp_path, write, monkeypatch):
    """A part that exists implies that its failures exist."""

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("generate.sampling.parts.write_table", die)
    with pytest.raises(KeyboardInterrupt):
        write(0, "a", failures=[FailedConversation("b-0", "too long")])
    assert names(tmp_path) == ["failed-00000.jsonl"]
    assert finished_parts(tmp_path) == set()


def test_failures_of_a_killed_attempt_do_not_outlive_it(tmp_path, write):
    failures_path(tmp_path, 0).write_text('{"conversation_id": "a-0", "reason": "an outage"}\n')
    write(0, "a")
    assert read_failures(tmp_path) == []


@pytest.mark.parametrize("kept_bytes", [0, 4, 700])
def test_a_damaged_part_is_removed_to_be_made_again_and_only_it(tmp_path, write, kept_bytes):
    write(0, "a")
    write(1, "b")
    damaged = part_path(tmp_path, 1)
    content = damaged.read_bytes()
    damaged.write_bytes(content[:kept_bytes])
    assert finished_parts(tmp_path) == {0}
    assert names(tmp_path) == ["part-00000.parquet"]
    write(1, "b")
    assert damaged.read_bytes() == content


def test_a_part_with_a_byte_changed_inside_is_made_again(tmp_path, write):
    write(0, "a")
    content = bytearray(part_path(tmp_path, 0).read_bytes())
    start = pq.read_metadata(part_path(tmp_path, 0)).row_group(0).column(0).data_page_offset
    content[start : start + 8] = b"\xff" * 8
    part_path(tmp_path, 0).write_bytes(content)
    assert finished_parts(tmp_path) == set()


def test_a_part_of_other_columns_is_made_again(tmp_path):
    write_rows(part_path(tmp_path, 0), PROMPT_SCHEMA, [])
    assert finished_parts(tmp_path) == set()


def test_a_part_that_cannot_be_written_is_an_error_that_names_it(tmp_path, make_conversation):
    with pytest.raises(ArtifactError, match="writing conversations failed") as caught:
        write_part(tmp_path / "absent", 0, [make_conversation()], [], VOCAB_SIZE)
    assert "absent" in str(caught.value.where)


def test_prompts_are_read_part_by_part_and_the_last_may_be_short(tmp_path, prompts):
    path = tmp_path / "prompts.parquet"
    write_rows(path, PROMPT_SCHEMA, map(prompt_to_row, prompts))
    assert list(read_prompts(path, 2)) == [(0, prompts[:2]), (1, prompts[2:4]), (2, prompts[4:])]
    assert list(read_prompts(path, 5)) == [(0, prompts)]
    assert list(read_prompts(path, 9)) == [(0, prompts)]


def test_no_prompts_make_no_parts(tmp_path):
    write_rows(tmp_path / "prompts.parquet", PROMPT_SCHEMA, [])
    assert list(read_prompts(tmp_path / "prompts.parquet", 2)) == []


def test_prompts_are_read_as_they_are_asked_for(tmp_path, prompts, monkeypatch):
    read = []

    def rows(*_):
        for prompt in prompts:
            read.append(prompt.prompt_id)
            yield prompt_to_row(prompt)

    monkeypatch.setattr("generate.sampling.parts.read_rows", rows)
    parts = read_prompts(tmp_path / "prompts.parquet", 2)
    assert read == []
    next(parts)
    assert read == ["p", "q"]


def test_damaged_prompts_are_an_error(tmp_path):
    (tmp_path / "prompts.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError):
        next(read_prompts(tmp_path / "prompts.parquet", 2))


@pytest.mark.parametrize(
    ("text", "expected"), [("1/1", WHOLE), ("1/4", Shard(0, 4)), ("4/4", Shard(3, 4))]
)
def test_a_shard_is_counted_from_one(text, expected):
    assert Shard.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b", "1.5/2"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="shard") as caught:
        Shard.parse(text)
    assert caught.value.where == f"--shard {text}"


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_part_belongs_to_one_shard(count):
    shards = [Shard(index, count) for index in range(count)]
    for part in range(20):
        assert sum(shard.has(part) for shard in shards) == 1
