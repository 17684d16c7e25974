"""One verified Q8_0 file of a checkpoint that was trained for a task.

In: a checkpoint. Out: the file, compared with its checkpoint as the student's files are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from potstill.facts.gguf import GgufFile
from potstill.progress import track
from potstill.task.known_answers import known_conversations
from potstill.task.task import Task
from quantize.config import QuantizeConfig
from quantize.loading import load_tokenizer
from quantize.models import SourceModel
from quantize.quantization.file_types import FileTypeName
from quantize.stage import make_files
from quantize.tokenized import in_tokens_of
from quantize.verification.reference import HeldOut, held_out_of, read_held_out

FILE_TYPE: FileTypeName = "Q8_0"
"""Nearly exact, and made without an importance matrix."""


def convert(
    config: QuantizeConfig,
    source: Task | Path,
    checkpoint_dir: Path,
    directory: Path,
    scratch_dir: Path,
    title: str,
) -> GgufFile:
    """Make `{title}-Q8_0.gguf` in a directory, unless it is there and intact.

    Args:
        source: What the file is compared on: a task's known answers, or the test split of a
            directory of conversations.

    Raises:
        ConversionError: The checkpoint cannot be converted, or the file does not match it.
    """
    tokenizer = load_tokenizer(checkpoint_dir)
    scratch_dir.mkdir(parents=True, exist_ok=True)
    model = SourceModel(
        title=title,
        role="student",
        checkpoint_dir=checkpoint_dir,
        types=(FILE_TYPE,),
        mixes={},
        aware_type=None,
        has_own_tokenizer=True,
        held_out=_held_out(source, config.verification_tokens, tokenizer),
        conversations_dir=None,
        scratch_dir=scratch_dir,
    )
    settings = config.model_copy(update={"imatrix": "never"})
    with track("GGUF files", 1, "files") as progress:
        (file,) = make_files(model, settings, directory, progress)
    return file


def _held_out(source: Task | Path, max_tokens: int, tokenizer: Any) -> HeldOut:  # noqa: ANN401
    if isinstance(source, Path):
        return read_held_out(source, max_tokens, tokenizer)
    known = known_conversations(source, [*source.references, *source.examples])
    tokenized = (in_tokens_of(tokenizer, one.given, [one.answer], one.tools) for one in known)
    return held_out_of(tokenized, max_tokens, "task.examples")
