"""Arrow schemas of the stored values, and streamed Parquet.

In: schema values. Out: Parquet files that any reader opens, read back row group by row group.
Documented column by column in docs/data-format.md. Knows nothing of run directories.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from potstill.errors import ArtifactError
from potstill.files import replacing
from potstill.schema import Conversation, Message, Prompt, TokenLogprobs

T = TypeVar("T")

_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])

PROMPT_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("split", pa.string()),
        ("messages", pa.list_(_MESSAGE)),
        ("source", pa.string()),
        ("licence", pa.string()),
    ]
)

CONVERSATION_SCHEMA = pa.schema(
    [
        *PROMPT_SCHEMA,
        ("completion", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("completion_token_ids", pa.list_(pa.int32())),
        ("sampled_logprobs", pa.list_(pa.float32())),
        ("num_top_logprobs", pa.list_(pa.uint8())),
        ("top_token_ids", pa.list_(pa.int32())),
        ("top_logprobs", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
        ("seed", pa.int64()),
    ]
)

PAIR_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("messages", pa.list_(_MESSAGE)),
        ("model", pa.string()),
        ("answer", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("seconds", pa.float64()),
    ]
)


def write_rows(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows to a Parquet file, whole or not at all; return their number.

    Raises:
        OSError: The file cannot be written.
    """
    table = pa.Table.from_pylist(list(rows), schema=schema)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    num_rows: int = table.num_rows
    return num_rows


def read_rows(
    path: Path, schema: pa.Schema, columns: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, holding one row group in memory at a time.

    Raises:
        ArtifactError: The file is missing, damaged, or has other columns.
    """
    for batch in read_batches(path, schema, columns):
        yield from batch.to_pylist()


def read_batches(
    path: Path, schema: pa.Schema, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a Parquet file, holding one row group in memory at a time.

    Raises:
        ArtifactError: The file is missing, damaged, or has other columns.
    """
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            if not file.schema_arrow.equals(schema):
                raise ArtifactError(
                    "a table has other columns than this version of potstill writes",
                    where=path,
                    expected=", ".join(schema.names),
                    found=", ".join(file.schema_arrow.names),
                    hint="make the stage again with --force",
                )
            for batch in file.iter_batches(columns=columns):
                batch.validate(full=True)
                yield batch
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(
            "a table cannot be read",
            where=path,
            expected="a whole Parquet file",
            found=str(error).splitlines()[0],
            hint="restore the file, or make the stage again with --force",
        ) from error


def prompt_to_row(prompt: Prompt) -> dict[str, Any]:
    """Lay a prompt out as a row of PROMPT_SCHEMA."""
    return prompt.model_dump()


def prompt_from_row(row: dict[str, Any]) -> Prompt:
    """Rebuild a prompt from a row that has at least the columns of PROMPT_SCHEMA."""
    return Prompt(
        prompt_id=row["prompt_id"],
        split=row["split"],
        messages=tuple(Message(**message) for message in row["messages"]),
        source=row["source"],
        licence=row["licence"],
    )


def conversation_to_row(conversation: Conversation) -> dict[str, Any]:
    """Lay a conversation out as a row of CONVERSATION_SCHEMA."""
    logprobs = conversation.logprobs
    return {
        **prompt_to_row(conversation.prompt),
        "completion": conversation.completion,
        "prompt_token_ids": conversation.prompt_token_ids,
        "completion_token_ids": conversation.completion_token_ids,
        "sampled_logprobs": logprobs.sampled_logprobs,
        "num_top_logprobs": [len(ids) for ids in logprobs.top_token_ids],
        "top_token_ids": [token_id for ids in logprobs.top_token_ids for token_id in ids],
        "top_logprobs": [value for values in logprobs.top_logprobs for value in values],
        "finish_reason": conversation.finish_reason,
        "seed": conversation.seed,
    }


def conversation_from_row(row: dict[str, Any]) -> Conversation:
    """Rebuild a conversation from a whole row of CONVERSATION_SCHEMA."""
    counts = row["num_top_logprobs"]
    return Conversation(
        prompt=prompt_from_row(row),
        completion=row["completion"],
        prompt_token_ids=row["prompt_token_ids"],
        completion_token_ids=row["completion_token_ids"],
        logprobs=TokenLogprobs(
            sampled_logprobs=row["sampled_logprobs"],
            top_token_ids=_split(row["top_token_ids"], counts),
            top_logprobs=_split(row["top_logprobs"], counts),
        ),
        finish_reason=row["finish_reason"],
        seed=row["seed"],
    )


def _split(values: list[T], counts: list[int]) -> tuple[tuple[T, ...], ...]:
    remaining = iter(values)
    return tuple(tuple(next(remaining) for _ in range(count)) for count in counts)
