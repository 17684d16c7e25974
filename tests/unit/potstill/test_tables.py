import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.errors import ArtifactError
from potstill.schema import Conversation, Message, Prompt, TokenLogprobs
from potstill.tables import (
    CONVERSATION_SCHEMA,
    PROMPT_SCHEMA,
    conversation_from_row,
    conversation_to_row,
    prompt_from_row,
    prompt_to_row,
    read_batches,
    read_rows,
    write_rows,
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
TOKEN_IDS = st.integers(0, 2**31 - 1)
LOGPROBS = st.floats(max_value=0.0, allow_nan=False, width=32)


@st.composite
def prompts(draw) -> Prompt:
    roles = [*draw(st.lists(st.sampled_from(["system", "user", "assistant"]), max_size=3)), "user"]
    return Prompt(
        prompt_id=draw(TEXTS),
        split=draw(st.sampled_from(["train", "validation", "test"])),
        messages=tuple(Message(role=role, content=draw(TEXTS)) for role in roles),
        source=draw(TEXTS),
        licence=draw(st.none() | TEXTS),
    )


@st.composite
def conversations(draw) -> Conversation:
    """Rows of zero to four stored log-probabilities, as they come."""
    completion = draw(st.lists(TOKEN_IDS, min_size=1, max_size=5))
    rows = [draw(st.lists(st.tuples(TOKEN_IDS, LOGPROBS), max_size=4)) for _ in completion]
    return Conversation(
        prompt=draw(prompts()),
        completion=draw(TEXTS),
        prompt_token_ids=tuple(draw(st.lists(TOKEN_IDS, max_size=4))),
        completion_token_ids=tuple(completion),
        logprobs=TokenLogprobs(
            sampled_logprobs=tuple(draw(LOGPROBS) for _ in completion),
            top_token_ids=tuple(tuple(token_id for token_id, _ in row) for row in rows),
            top_logprobs=tuple(tuple(logprob for _, logprob in row) for row in rows),
        ),
        finish_reason=draw(st.sampled_from(["stop", "length"])),
        seed=draw(st.integers(-(2**63), 2**63 - 1)),
    )


def prompt_row(number: int) -> dict:
    prompt = Prompt(
        prompt_id=f"p{number}",
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
@settings(max_examples=40, deadline=None)
def test_prompts_come_back_as_they_were(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "round_trip_prompts.parquet"
    assert write_rows(path, PROMPT_SCHEMA, map(prompt_to_row, values)) == len(values)
    assert [prompt_from_row(row) for row in read_rows(path, PROMPT_SCHEMA)] == values


@given(st.lists(conversations(), max_size=3))
@settings(max_examples=60, deadline=None)
def test_conversations_come_back_as_they_were_ragged_rows_included(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "round_trip_conversations.parquet"
    assert write_rows(path, CONVERSATION_SCHEMA, map(conversation_to_row, values)) == len(values)
    assert [conversation_from_row(row) for row in read_rows(path, CONVERSATION_SCHEMA)] == values


def test_ragged_rows_lie_flat_beside_their_counts():
    conversation = Conversation(
        prompt=prompt_from_row(prompt_row(0)),
        completion="yes",
        prompt_token_ids=(1,),
        completion_token_ids=(3, 4, 5),
        logprobs=TokenLogprobs(
            sampled_logprobs=(-0.5, -4.0, -0.25),
            top_token_ids=((3, 9), (), (5,)),
            top_logprobs=((-0.5, -1.0), (), (-0.25,)),
        ),
        finish_reason="stop",
        seed=7,
    )
    row = conversation_to_row(conversation)
    assert row["num_top_logprobs"] == [2, 0, 1]
    assert row["top_token_ids"] == [3, 9, 5]
    assert row["top_logprobs"] == [-0.5, -1.0, -0.25]
    assert prompt_from_row(row) == conversation.prompt


def test_the_widest_row_the_settings_allow_fits_its_column(tmp_path):
    row = {field.name: None for field in CONVERSATION_SCHEMA} | {"num_top_logprobs": [255]}
    write_rows(tmp_path / "wide.parquet", CONVERSATION_SCHEMA, [row])
    (back,) = read_rows(tmp_path / "wide.parquet", CONVERSATION_SCHEMA, ["num_top_logprobs"])
    assert back == {"num_top_logprobs": [255]}


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
    assert sum(batch.num_rows for batch in read_batches(path, PROMPT_SCHEMA)) == 9
    assert [row["prompt_id"] for row in read_rows(path, PROMPT_SCHEMA)] == [
        f"p{number}" for number in range(9)
    ]


def test_a_table_of_other_columns_is_refused_with_both_lists(table_path):
    with pytest.raises(ArtifactError, match="other columns") as caught:
        list(read_rows(table_path, CONVERSATION_SCHEMA))
    assert caught.value.where == table_path
    assert caught.value.expected == ", ".join(CONVERSATION_SCHEMA.names)
    assert caught.value.found == ", ".join(PROMPT_SCHEMA.names)


def test_a_column_of_another_type_is_refused(tmp_path):
    path = tmp_path / "wide.parquet"
    index = CONVERSATION_SCHEMA.get_field_index("seed")
    wider = CONVERSATION_SCHEMA.set(index, pa.field("seed", pa.float64()))
    pq.write_table(pa.Table.from_pylist([], schema=wider), path)
    with pytest.raises(ArtifactError, match="other columns"):
        list(read_rows(path, CONVERSATION_SCHEMA))


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
    with pytest.raises(pa.ArrowInvalid):
        write_rows(table_path, CONVERSATION_SCHEMA, [{"num_top_logprobs": [256]}])
    assert table_path.read_bytes() == before
    assert list(table_path.parent.iterdir()) == [table_path]
