"""A split's conversations as one memory-mapped Arrow file: memory does not grow with their number.

In: a split's Parquet files, and a scratch directory. Out: a dataset that is read from the disk by
index.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from potstill.distributions import SIGNAL_COLUMNS
from potstill.errors import TrainingError
from potstill.files import disk_errors, replacing
from potstill.schema import Split, prompt_id_of
from potstill.tables import conversation_paths, read_conversation_batches

logger = logging.getLogger(__name__)

STORED_COLUMNS = ["conversation_id", "token_ids", "turns", *SIGNAL_COLUMNS]
ReadBatches = Callable[[Path, Split], Iterable[pa.RecordBatch]]
"""Yields the conversations of a split in a directory: `conversation_id`, `token_ids`,
`turn_starts`, `turn_lengths`, and the columns of the signal where there is one."""


def stored_batches(conversations_dir: Path, split: Split) -> Iterator[pa.RecordBatch]:
    """Yield a split's conversations as the teacher saw and sampled them.

    Raises:
        ArtifactError: A file is damaged.
    """
    for path in conversation_paths(conversations_dir, split):
        yield from map(_with_turns, read_conversation_batches(path, STORED_COLUMNS))


def share_of(read: ReadBatches, share: float) -> ReadBatches:
    """Return what reads a share of the train split, and other splits whole.

    Conversations are chosen by a hash of their prompt, so that a share is a part of every larger
    one, and a prompt's conversations stay together.
    """

    def is_chosen(conversation_id: str) -> bool:
        digest = hashlib.sha256(f"share {prompt_id_of(conversation_id)}".encode()).digest()
        return int.from_bytes(digest[:8]) < share * 2**64

    def read_share(conversations_dir: Path, split: Split) -> Iterator[pa.RecordBatch]:
        for batch in read(conversations_dir, split):
            if split != "train":
                yield batch
                continue
            names = batch["conversation_id"].to_pylist()
            yield batch.filter(pa.array(map(is_chosen, names), pa.bool_()))

    return read_share


def with_replay(read: ReadBatches, replayed: Sequence[Path]) -> ReadBatches:
    """Return what reads the train splits of further directories too, and other splits alone.

    Further conversations about a prompt that is held out in the first directory are left out.
    """

    def read_all(conversations_dir: Path, split: Split) -> Iterator[pa.RecordBatch]:
        yield from read(conversations_dir, split)
        if split != "train" or not replayed:
            return
        held_out = {*_prompt_ids(conversations_dir, "validation")}
        held_out |= {*_prompt_ids(conversations_dir, "test")}
        for directory in replayed:
            for batch in read(directory, split):
                names = batch["conversation_id"].to_pylist()
                is_new = [prompt_id_of(name) not in held_out for name in names]
                yield batch.filter(pa.array(is_new, pa.bool_()))

    return read_all


def _prompt_ids(conversations_dir: Path, split: Split) -> Iterator[str]:
    for path in conversation_paths(conversations_dir, split):
        for batch in read_conversation_batches(path, ["conversation_id"]):
            yield from map(prompt_id_of, batch["conversation_id"].to_pylist())


def load_split(
    conversations_dir: Path,
    split: Split,
    max_length: int,
    scratch_dir: Path,
    read: ReadBatches = stored_batches,
) -> datasets.Dataset:
    """Return a split's conversations whose prompt leaves room for a token of the first answer.

    They are written into the scratch directory unless they are there already, with one more column:
    `length`, that of the whole conversation cut at `max_length`.

    Args:
        read: The reader: `stored_batches`, or the `batches` of a `Retokenizer`.

    Raises:
        ArtifactError: A file is damaged, or the disk is full.
        TrainingError: No conversation is left.
    """
    path = _path(scratch_dir, split)
    if not path.is_file():
        with disk_errors("writing the conversations for training", path):
            scratch_dir.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                batches = read(conversations_dir, split)
                num_stored, num_fitting = _write(temporary, batches, max_length)
                if num_fitting == 0:
                    raise _none_left(conversations_dir, split, max_length, num_stored)
        if num_fitting < num_stored:
            logger.warning(
                "%s split: %d of %d conversations are left out, their prompts reach "
                "max_length = %d",
                split,
                num_stored - num_fitting,
                num_stored,
                max_length,
            )
    return open_split(scratch_dir, split)


def open_split(scratch_dir: Path, split: Split) -> datasets.Dataset:
    """Open the file that `load_split` wrote; rows are read from disk on demand."""
    return datasets.Dataset.from_file(str(_path(scratch_dir, split))).with_format("numpy")


def largest_token_id(dataset: datasets.Dataset) -> int:
    """Return the largest token id anywhere in a split, stored alternatives included."""
    columns = [name for name in ("token_ids", "top_token_ids") if name in dataset.column_names]
    table = dataset.data.table
    chunks = (chunk for name in columns for chunk in table[name].chunks)
    return max(pc.max(chunk.flatten()).as_py() or 0 for chunk in chunks)


def _path(scratch_dir: Path, split: Split) -> Path:
    return scratch_dir / f"{split}.arrow"


def _write(path: Path, batches: Iterable[pa.RecordBatch], max_length: int) -> tuple[int, int]:
    """Write the conversations that fit, batch by batch; return their number before and after."""
    num_stored = num_fitting = 0
    with ExitStack() as stack:
        writer = None
        for batch in batches:
            fitting = _fitting(batch, max_length)
            if writer is None:
                writer = stack.enter_context(pa.ipc.new_stream(path, fitting.schema))
            writer.write_batch(fitting)
            num_stored += batch.num_rows
            num_fitting += fitting.num_rows
    return num_stored, num_fitting


def _fitting(batch: pa.RecordBatch, max_length: int) -> pa.RecordBatch:
    if batch.num_rows:
        batch = batch.filter(pc.less(pc.list_element(batch["turn_starts"], 0), max_length))
    lengths = pc.list_value_length(batch["token_ids"])
    cut = pc.min_element_wise(lengths, pa.scalar(max_length, pa.int32()))
    return batch.append_column("length", cut)


def _none_left(where: Path, split: Split, max_length: int, num_stored: int) -> TrainingError:
    return TrainingError(
        f"the {split} split has no conversation to work with",
        where=where,
        expected=f"conversations whose prompt is shorter than max_length = {max_length} tokens",
        found=f"{num_stored} conversations, all with longer prompts" if num_stored else "none",
        hint="generate more conversations, or raise train.max_length",
    )


def _with_turns(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Replace the turns by columns of their starts and lengths."""
    turns = batch["turns"]
    for name, field in (("turn_starts", "start"), ("turn_lengths", "num_tokens")):
        column = pa.ListArray.from_arrays(turns.offsets, pc.struct_field(turns.values, field))
        batch = batch.append_column(name, column)
    return batch.drop_columns(["turns"])
