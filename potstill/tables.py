"""Arrow schemas of the stored values, and streamed Parquet.

In: schema values. Out: Parquet files that any reader opens, read back row group by row group.
Documented column by column in docs/reference/data-format.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from potstill import former_names
from potstill.distributions import (
    SIGNAL_COLUMNS,
    decode,
    encode,
    parquet_options,
    signal_fields,
    token_id_type,
)
from potstill.errors import ArtifactError, first_line
from potstill.files import replacing
from potstill.schema import Conversation, Message, Prompt, Split, Turn

_MESSAGE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("tool_calls", pa.string()),
        ("tool_call_id", pa.string()),
        ("reasoning_content", pa.string()),
    ]
)

_FORMER_MESSAGE = pa.struct([field for field in _MESSAGE if field.name != "reasoning_content"])

PROMPT_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("cluster_id", pa.string()),
        ("split", pa.string()),
        ("messages", pa.list_(_MESSAGE)),
        ("source", pa.string()),
        ("license", pa.string()),
        ("tools", pa.string()),
        ("known", pa.string()),
    ]
)

_TURN = pa.struct(
    [
        ("start", pa.int32()),
        ("num_tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("seed", pa.int64()),
    ]
)

BATCH_ROWS = 1024
"""Maximum number of rows in memory at a time."""

PAIR_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("conversation_id", pa.string()),
        ("messages", pa.list_(_MESSAGE)),
        ("role", pa.string()),
        ("model", pa.string()),
        ("sample", pa.int32()),
        ("seed", pa.int64()),
        ("answer", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("seconds", pa.float64()),
        ("tool_calls", pa.string()),
    ]
)

_VOTE = pa.struct(
    [("student_place", pa.string()), ("winner", pa.string()), ("reason", pa.string())]
)

_READING = pa.struct(
    [
        ("side", pa.string()),
        ("criterion", pa.string()),
        ("meets", pa.bool_()),
        ("reason", pa.string()),
    ]
)

JUDGMENT_SCHEMA = pa.schema(
    [
        ("judge", pa.string()),
        ("control", pa.string()),
        ("prompt_id", pa.string()),
        ("sample", pa.int32()),
        ("cluster", pa.string()),
        ("score", pa.float64()),
        ("student_value", pa.float64()),
        ("teacher_value", pa.float64()),
        ("votes", pa.list_(_VOTE)),
        ("readings", pa.list_(_READING)),
        ("failure", pa.string()),
        ("note", pa.string()),
        ("expected", pa.string()),
        ("student_found", pa.string()),
        ("teacher_found", pa.string()),
        ("student_problem", pa.string()),
        ("teacher_problem", pa.string()),
    ]
)

NEWER_COLUMNS = frozenset(
    {
        "tool_calls",
        "readings",
        "expected",
        "student_found",
        "teacher_found",
        "student_problem",
        "teacher_problem",
        "teacher",
    }
)
"""Columns that a table of an earlier version may lack."""


def conversation_schema(vocab_size: int) -> pa.Schema:
    """Return the schema of conversations: token ids are as narrow as the vocabulary allows."""
    return pa.schema(
        [
            ("conversation_id", pa.string()),
            *(field for field in PROMPT_SCHEMA if field.name != "messages"),
            ("prompt", pa.list_(_MESSAGE)),
            ("completion", pa.list_(_MESSAGE)),
            ("token_ids", pa.list_(token_id_type(vocab_size))),
            ("turns", pa.list_(_TURN)),
            *signal_fields(vocab_size),
            ("score", pa.float32()),
            ("teacher", pa.string()),
        ]
    )


CONVERSATION_SCHEMAS = tuple(map(conversation_schema, (1 << 16, 1 << 17)))
"""For vocabularies whose ids take two bytes, and for larger ones."""


def conversation_paths(directory: Path, split: Split) -> list[Path]:
    """Return the files of a split in a finished stage of conversations, in order; may be none."""
    return sorted(directory.glob(f"{split}-*.parquet"))


def write_rows(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows to a Parquet file atomically; return their number.

    Raises:
        OSError: The file cannot be written.
    """
    table = pa.Table.from_pylist(list(rows), schema=schema)
    write_table(path, table)
    num_rows: int = table.num_rows
    return num_rows


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table to a Parquet file atomically.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path) as temporary:
        pq.write_table(table, temporary, **parquet_options(table.schema))


def read_rows(
    path: Path, schema: pa.Schema, columns: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, holding BATCH_ROWS in memory.

    Raises:
        ArtifactError: The file is missing, damaged, or has other columns.
    """
    for batch in _read_batches(path, (schema,), columns):
        yield from batch.to_pylist()


def read_conversation_batches(
    path: Path, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a Parquet file of conversations.

    Raises:
        ArtifactError: The file is missing, damaged, or has other columns.
    """
    return _read_batches(path, CONVERSATION_SCHEMAS, columns)


def count_sources(conversations_dir: Path) -> Counter[tuple[str, str | None]]:
    """Count the conversations of all splits by source and license; None: it is not stated."""
    counts: Counter[tuple[str, str | None]] = Counter()
    for split in get_args(Split):
        for path in conversation_paths(conversations_dir, split):
            for batch in read_conversation_batches(path, ["source", "license"]):
                columns = (batch[name].to_pylist() for name in ("source", "license"))
                counts.update(zip(*columns, strict=True))
    return counts


def read_conversations(path: Path) -> Iterator[Conversation]:
    """Yield a file's conversations, holding one row group in memory at a time.

    Raises:
        ArtifactError: The file is missing, damaged, or has other columns.
    """
    for batch in read_conversation_batches(path):
        yield from conversations_from_batch(batch)


def _read_batches(
    path: Path, schemas: Sequence[pa.Schema], columns: list[str] | None
) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            if not _is_one_of(schema_of(file), schemas):
                raise ArtifactError(
                    "a table has other columns than this version of potstill writes",
                    where=path,
                    expected=", ".join(schemas[0].names),
                    found=", ".join(file.schema_arrow.names),
                    hint="make the stage again with --force",
                )
            stored = columns and former_names.of_columns(columns, file.schema_arrow.names)
            for batch in file.iter_batches(BATCH_ROWS, columns=stored):
                batch.validate(full=True)
                yield batch.rename_columns(former_names.columns(batch.schema.names))
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(
            "a table cannot be read",
            where=path,
            expected="a complete Parquet file",
            found=first_line(error),
            hint="restore the file, or make the stage again with --force",
        ) from error


def _is_one_of(found: pa.Schema, schemas: Sequence[pa.Schema]) -> bool:
    """Return whether a table has the columns of one of the schemas, newer ones aside."""
    missing = NEWER_COLUMNS.difference(found.names)
    named = ([field for field in schema if field.name not in missing] for schema in schemas)
    return any(
        found in (pa.schema(fields), pa.schema(map(_former_field, fields))) for fields in named
    )


def _former_field(field: pa.Field) -> pa.Field:
    """Return a field as it was when messages had no thinking."""
    if field.type != pa.list_(_MESSAGE):
        return field
    return field.with_type(pa.list_(_FORMER_MESSAGE))


def schema_of(file: pq.ParquetFile) -> pa.Schema:
    """Return a file's schema with today's names of columns."""
    schema = file.schema_arrow
    names = former_names.columns(schema.names)
    return pa.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])


def prompt_to_row(prompt: Prompt) -> dict[str, Any]:
    """Return a prompt as a row of PROMPT_SCHEMA."""
    return prompt.model_dump()


def prompt_from_row(row: dict[str, Any]) -> Prompt:
    """Rebuild a prompt from a row of PROMPT_SCHEMA."""
    return Prompt(**row | {"messages": _messages(row["messages"])})


def conversations_to_table(conversations: Sequence[Conversation], vocab_size: int) -> pa.Table:
    """Return conversations as rows of `conversation_schema(vocab_size)`."""
    schema = conversation_schema(vocab_size)
    if not conversations:
        return schema.empty_table()
    plain = [
        {
            **conversation.prompt.model_dump(exclude={"messages"}),
            "conversation_id": conversation.conversation_id,
            "prompt": [message.model_dump() for message in conversation.given],
            "completion": [message.model_dump() for message in conversation.completion],
            "turns": [turn.model_dump() for turn in conversation.turns],
            "score": conversation.score,
            "teacher": conversation.teacher,
        }
        for conversation in conversations
    ]
    ids = [conversation.token_ids for conversation in conversations]
    packed = encode([conversation.signal for conversation in conversations], vocab_size)
    packed["token_ids"] = _ragged(ids, token_id_type(vocab_size))
    arrays = {
        field.name: pa.array([row[field.name] for row in plain], field.type)
        for field in schema
        if field.name not in packed
    }
    return pa.table({name: (arrays | packed)[name] for name in schema.names}, schema=schema)


def conversations_from_batch(batch: pa.RecordBatch) -> list[Conversation]:
    """Rebuild conversations from a batch with all columns of a conversations' schema."""
    plain = batch.drop_columns([*SIGNAL_COLUMNS, "token_ids"]).to_pylist()
    ids = [np.asarray(row.values).astype(np.int32) for row in batch["token_ids"]]
    return [
        Conversation(
            prompt=Prompt(
                **{name: row[name] for name in PROMPT_SCHEMA.names if name != "messages"},
                messages=_messages(row["prompt"]),
            ),
            answer_index=int(row["conversation_id"].rpartition("-")[2]),
            given=_messages(row["prompt"]),
            completion=_messages(row["completion"]),
            token_ids=token_ids,
            turns=tuple(Turn(**turn) for turn in row["turns"]),
            signal=signal,
            score=row["score"],
            teacher=row.get("teacher"),
        )
        for row, token_ids, signal in zip(plain, ids, decode(batch), strict=True)
    ]


def _ragged(parts: Sequence[NDArray[np.int32]], element: pa.DataType) -> pa.Array:
    ends = np.cumsum([0, *map(len, parts)])
    values = np.concatenate(parts).astype(element.to_pandas_dtype())
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values))


def _messages(rows: Iterable[dict[str, Any]]) -> tuple[Message, ...]:
    return tuple(Message(**row) for row in rows)
