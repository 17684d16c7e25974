"""Values come back from their tables as they were; a damaged table is an error that names it."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.distributions import MAX_LEVEL, SIGNAL_COLUMNS, TokenDistributions
from potstill.errors import ArtifactError
from potstill.schema import Conversation, Message, Prompt, Turn
from potstill.tables import (
    JUDGMENT_SCHEMA,
    NEWER_COLUMNS,
    PROMPT_SCHEMA,
    conversation_paths,
    conversation_schema,
    conversations_to_table,
    prompt_from_row,
    prompt_to_row,
    read_conversation_batches,
    read_conversations,
    read_rows,
    write_rows,
    write_table,
)

VOCAB_SIZE, LARGE_VOCAB_SIZE = 1 << 16, 200_000
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
FEW = 4
"""Entries at a position whose levels are at most half of the greatest: their mass is below 1, so
that they are stored exactly."""


@st.composite
def messages(draw) -> Message:
    role = draw(st.sampled_from(["system", "user", "assistant", "tool"]))
    calls = draw(st.none() | st.lists(TEXTS, max_size=2).map(json.dumps))
    return Message(
        role=role, content=draw(TEXTS), tool_calls=calls, tool_call_id=draw(st.none() | TEXTS)
    )


@st.composite
def prompts(draw) -> Prompt:
    return Prompt(
        prompt_id=draw(TEXTS),
        cluster_id=draw(TEXTS),
        split=draw(st.sampled_from(["train", "validation", "test"])),
        messages=tuple(draw(st.lists(messages(), min_size=1, max_size=3))),
        source=draw(TEXTS),
        license=draw(st.none() | TEXTS),
        tools=draw(st.none() | TEXTS),
    )


@st.composite
def signals(draw, num_tokens: int, vocab_size: int) -> TokenDistributions:
    """Numbers that are stored without rounding."""
    levels = st.lists(st.integers(1, MAX_LEVEL // 2), min_size=1, max_size=FEW)
    rows = [sorted(draw(levels), reverse=True) for _ in range(num_tokens)]
    flat = np.array([level for row in rows for level in row])
    token_ids = st.lists(st.integers(0, vocab_size - 1), min_size=len(flat), max_size=len(flat))
    eighths = st.lists(st.integers(-500, 0), min_size=num_tokens, max_size=num_tokens)
    return TokenDistributions(
        np.array(draw(eighths), dtype=np.float32) / 8,
        np.array([len(row) for row in rows], dtype=np.int64),
        np.array(draw(token_ids), dtype=np.int32),
        (2 * np.log(flat / MAX_LEVEL)).astype(np.float32),
    )


@st.composite
def conversations(draw, vocab_size: int) -> Conversation:
    turns, end = [], 1
    for _ in range(draw(st.integers(1, 3))):
        start = end + draw(st.integers(0, 2))
        length, seed = draw(st.integers(1, 3)), draw(st.integers(-(2**63), 2**63 - 1))
        reason = draw(st.sampled_from(["stop", "length"]))
        turns.append(Turn(start=start, num_tokens=length, finish_reason=reason, seed=seed))
        end = start + length
    num_tokens = end + draw(st.integers(0, 2))
    ids = st.lists(st.integers(0, vocab_size - 1), min_size=num_tokens, max_size=num_tokens)
    prompt = draw(prompts())
    return Conversation(
        prompt=prompt,
        answer_index=draw(st.integers(0, 99)),
        given=prompt.messages,
        completion=tuple(draw(st.lists(messages(), max_size=3))),
        token_ids=np.array(draw(ids), dtype=np.int32),
        turns=tuple(turns),
        signal=draw(signals(sum(turn.num_tokens for turn in turns), vocab_size)),
        score=draw(st.none() | st.integers(-9, 9).map(float)),
    )


def plain(conversation: Conversation) -> dict:
    """What two conversations that are the same share, arrays as lists."""
    fields = vars(conversation) | vars(conversation.signal)
    del fields["signal"]
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in fields.items()
    }


def prompt_row(number: int) -> dict:
    prompt = Prompt(
        prompt_id=f"p{number}",
        cluster_id="c",
        split="train",
        messages=(Message(role="user", content=f"What is number {number}?"),),
        source="made in a test",
    )
    return prompt_to_row(prompt)


@pytest.fixture
def table_path(tmp_path):
    path = tmp_path / "prompts.parquet"
    write_rows(path, PROMPT_SCHEMA, [prompt_row(number) for number in range(8)])
    return path


@given(st.lists(prompts(), max_size=4))
@settings(max_examples=40)
def test_prompts_come_back_as_they_were(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "round_trip_prompts.parquet"
    assert write_rows(path, PROMPT_SCHEMA, map(prompt_to_row, values)) == len(values)
    assert [prompt_from_row(row) for row in read_rows(path, PROMPT_SCHEMA)] == values


@pytest.mark.parametrize("vocab_size", [VOCAB_SIZE, LARGE_VOCAB_SIZE])
@given(data=st.data())
@settings(max_examples=30)
def test_conversations_come_back_as_they_were(tmp_path_factory, vocab_size, data):
    values = data.draw(st.lists(conversations(vocab_size), max_size=3))
    path = tmp_path_factory.getbasetemp() / "round_trip_conversations.parquet"
    write_table(path, conversations_to_table(values, vocab_size))
    assert list(map(plain, read_conversations(path))) == list(map(plain, values))


def test_conversations_of_several_row_groups_come_in_stored_order(tmp_path, make_conversation):
    made = [make_conversation(range(9), [(1, 1 + n)], name=f"p{n}") for n in range(7)]
    path = tmp_path / "groups.parquet"
    pq.write_table(conversations_to_table(made, VOCAB_SIZE), path, row_group_size=3)
    assert pq.ParquetFile(path).num_row_groups == 3
    assert [one.prompt.prompt_id for one in read_conversations(path)] == [f"p{n}" for n in range(7)]
    assert [len(one.signal.counts_T) for one in read_conversations(path)] == list(range(1, 8))


def test_token_ids_are_as_narrow_as_the_vocabulary_allows(tmp_path, make_conversation):
    for vocab_size, width in ((VOCAB_SIZE, pa.uint16()), (LARGE_VOCAB_SIZE, pa.uint32())):
        largest = vocab_size - 1
        made = make_conversation([1, largest], [(1, 1)])
        path = tmp_path / f"{vocab_size}.parquet"
        write_table(path, conversations_to_table([made], vocab_size))
        assert pq.read_schema(path).field("token_ids").type == pa.list_(width)
        (back,) = read_conversations(path)
        assert back.token_ids.tolist() == [1, largest]
        assert back.signal.top_token_ids_N.tolist() == [largest]


def test_the_files_of_a_split_are_found_in_order_and_no_others(tmp_path):
    for name in ("train-00010", "train-00002", "test-00000", "dropped", "validation-00000"):
        (tmp_path / f"{name}.parquet").touch()
    (tmp_path / "train-00000.json").touch()
    names = [path.name for path in conversation_paths(tmp_path, "train")]
    assert names == ["train-00002.parquet", "train-00010.parquet"]
    assert len(conversation_paths(tmp_path, "validation")) == 1
    (tmp_path / "test-00000.parquet").unlink()
    assert conversation_paths(tmp_path, "test") == []


def test_hugging_face_datasets_finds_the_splits(tmp_path, make_conversation, write_conversations):
    """With the other files of a finished stage in the same directory."""
    import datasets

    directory = tmp_path / "conversations"
    directory.mkdir()
    counts = {"train": 3, "validation": 1, "test": 2}
    splits = [split for split, count in counts.items() for _ in range(count)]
    made = [make_conversation([n, 7], [(1, 1)], split=split) for n, split in enumerate(splits)]
    write_conversations(directory, made)
    write_conversations(directory, made[:1], part=1)
    write_rows(directory / "dropped.parquet", PROMPT_SCHEMA, [prompt_row(0)])
    (directory / "manifest.json").write_text("{}")
    (directory / "summary.html").touch()
    found = datasets.load_dataset(str(directory), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in found.items()} == counts | {"train": 4}
    assert found["test"]["token_ids"][:] == [[4, 7], [5, 7]]


def test_any_reader_opens_the_file(table_path):
    assert pq.read_table(table_path).column("prompt_id").to_pylist() == [
        f"p{number}" for number in range(8)
    ]
    chunk = pq.ParquetFile(table_path).metadata.row_group(0).column(0)
    assert chunk.compression == "ZSTD"


def test_only_the_columns_asked_for_are_read(table_path):
    rows = list(read_rows(table_path, PROMPT_SCHEMA, ["split", "prompt_id"]))
    assert len(rows) == 8
    assert set(rows[0]) == {"prompt_id", "split"}


def test_rows_of_several_row_groups_come_in_stored_order(tmp_path):
    path = tmp_path / "groups.parquet"
    table = pa.Table.from_pylist([prompt_row(number) for number in range(9)], schema=PROMPT_SCHEMA)
    pq.write_table(table, path, row_group_size=4)
    assert pq.ParquetFile(path).num_row_groups == 3
    assert [row["prompt_id"] for row in read_rows(path, PROMPT_SCHEMA)] == [
        f"p{number}" for number in range(9)
    ]


def test_only_some_columns_of_conversations_are_read(tmp_path, make_conversation):
    path = tmp_path / "some.parquet"
    write_table(path, conversations_to_table([make_conversation(license="MIT")], VOCAB_SIZE))
    (batch,) = read_conversation_batches(path, ["license", "turns", *SIGNAL_COLUMNS])
    assert set(batch.schema.names) == {"license", "turns", *SIGNAL_COLUMNS}
    assert batch["license"].to_pylist() == ["MIT"]


def test_a_table_of_other_columns_is_refused_with_both_lists(table_path):
    with pytest.raises(ArtifactError, match="other columns") as caught:
        list(read_conversations(table_path))
    assert caught.value.where == table_path
    assert caught.value.expected == ", ".join(conversation_schema(VOCAB_SIZE).names)
    assert caught.value.found == ", ".join(PROMPT_SCHEMA.names)


@pytest.mark.parametrize(
    ("missing", "is_read"),
    [({"readings"}, True), (NEWER_COLUMNS, True), ({"readings", "judge"}, False)],
)
def test_a_table_of_an_earlier_version_lacks_newer_columns(tmp_path, missing, is_read):
    path = tmp_path / "judgments.parquet"
    kept = [field for field in JUDGMENT_SCHEMA if field.name not in missing]
    write_rows(path, pa.schema(kept), [{"prompt_id": "p", "score": 0.5}])
    if is_read:
        (row,) = read_rows(path, JUDGMENT_SCHEMA)
        assert (row["score"], "readings" in row) == (0.5, False)
    else:
        with pytest.raises(ArtifactError, match="other columns"):
            list(read_rows(path, JUDGMENT_SCHEMA))


def test_a_column_of_another_type_is_refused(tmp_path):
    path = tmp_path / "wide.parquet"
    schema = conversation_schema(VOCAB_SIZE)
    wider = schema.set(schema.get_field_index("score"), pa.field("score", pa.float64()))
    pq.write_table(pa.Table.from_pylist([], schema=wider), path)
    with pytest.raises(ArtifactError, match="other columns"):
        list(read_conversations(path))


@pytest.mark.parametrize("kept", [0, 1, 4, 0.1, 0.5, 0.9, -9, -8, -4, -1])
def test_a_truncated_table_is_an_error_that_names_it(table_path, kept):
    content = table_path.read_bytes()
    table_path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else kept])
    with pytest.raises(ArtifactError, match="a table cannot be read") as caught:
        list(read_rows(table_path, PROMPT_SCHEMA))
    assert caught.value.where == table_path
    assert caught.value.found


def test_a_damaged_page_is_an_error(table_path):
    content = bytearray(table_path.read_bytes())
    chunk = pq.ParquetFile(table_path).metadata.row_group(0).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + 24] = bytes(24)
    table_path.write_bytes(content)
    with pytest.raises(ArtifactError, match="a table cannot be read"):
        list(read_rows(table_path, PROMPT_SCHEMA))


@pytest.mark.parametrize("content", [b"PAR1", b"not a table at all", b"PAR1" * 9])
def test_something_else_is_an_error(tmp_path, content):
    path = tmp_path / "other.parquet"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="a table cannot be read"):
        list(read_rows(path, PROMPT_SCHEMA))


def test_a_missing_table_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ArtifactError, match="a table cannot be read") as caught:
        list(read_rows(tmp_path / "absent.parquet", PROMPT_SCHEMA))
    assert caught.value.where == tmp_path / "absent.parquet"


def test_damaged_text_is_an_error(tmp_path):
    path = tmp_path / "damaged.parquet"
    table = pa.Table.from_pylist([prompt_row(0)], schema=PROMPT_SCHEMA)
    pq.write_table(table, path, compression="none", use_dictionary=False)
    content = path.read_bytes()
    assert content.count(b"What is number") >= 1
    path.write_bytes(content.replace(b"What is number", b"What \xff\xff number"))
    with pytest.raises(ArtifactError):
        list(read_rows(path, PROMPT_SCHEMA))


def test_a_failure_while_writing_leaves_the_former_table(table_path):
    def rows():
        yield prompt_row(100)
        raise KeyboardInterrupt

    before = table_path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_rows(table_path, PROMPT_SCHEMA, rows())
    with pytest.raises(pa.ArrowTypeError):
        write_rows(table_path, PROMPT_SCHEMA, [{"messages": "none"}])
    assert table_path.read_bytes() == before
    assert list(table_path.parent.iterdir()) == [table_path]
