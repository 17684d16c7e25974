"""Hidden states beside the finished conversations: `hidden_states-train-00000.parquet` and so on.

In: files of conversations, and a reader of the teacher's hidden states. Out: a file beside each,
row for row the same conversations. Knows nothing of filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from generate.hidden_states import HiddenStateReader
from potstill.errors import ArtifactError
from potstill.files import replacing
from potstill.hidden_states import HIDDEN_STATE_COLUMNS, HiddenStateCodec
from potstill.progress import track
from potstill.schema import Conversation
from potstill.tables import read_conversations

PREFIX = "hidden_states-"
ID = pa.field("conversation_id", pa.string())
FITTED_ON, AT_ONCE = 64, 64
"""Conversations whose states measure the dimensions, and that are read together."""


def write_hidden_states(paths: Iterable[Path], reader: HiddenStateReader) -> list[Path]:
    """Write the hidden states of each file's conversations beside it; return the files.

    A file that an interrupted process finished for the same conversations is kept.

    Raises:
        ArtifactError: A file is damaged.
        OSError: A file cannot be written.
    """
    written = [(path, path.with_name(PREFIX + path.name)) for path in paths]
    codec: HiddenStateCodec | None = None
    with track("reading hidden states", len(written), "files") as progress:
        for path, target in written:
            if codec is None:
                sample = list(islice(read_conversations(path), FITTED_ON))
                codec = HiddenStateCodec.fit(reader.read(sample))
            if not _is_finished(target, path):
                _write(target, path, codec, reader)
            progress.advance(1)
    return [target for _, target in written]


def _write(target: Path, path: Path, codec: HiddenStateCodec, reader: HiddenStateReader) -> None:
    schema = pa.schema([ID, *codec.fields()])
    with (
        replacing(target) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for some in _batches(read_conversations(path)):
            columns = codec.encode(reader.read(some))
            ids = pa.array([one.conversation_id for one in some], pa.string())
            arrays = [ids, *(columns[name] for name in HIDDEN_STATE_COLUMNS)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _batches(conversations: Iterator[Conversation]) -> Iterator[list[Conversation]]:
    while some := list(islice(conversations, AT_ONCE)):
        yield some


def _is_finished(target: Path, path: Path) -> bool:
    try:
        found = pq.read_table(target, columns=[ID.name])
    except (OSError, pa.ArrowException, ArtifactError):
        return False
    return bool(found[ID.name] == pq.read_table(path, columns=[ID.name])[ID.name])


def read_hidden_states(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the id and the hidden states [T, D] of each conversation of such a file.

    Raises:
        ArtifactError: The file is damaged.
    """
    with pq.ParquetFile(path, pre_buffer=False) as file:
        codec = HiddenStateCodec.from_schema(file.schema_arrow)
        for batch in file.iter_batches():
            yield from zip(batch[ID.name].to_pylist(), codec.decode(batch), strict=True)
