"""Known answers of a task as training data, in the tokens of a student.

In: conversations of the task's examples and references. Out: the three splits, as from a teacher's
conversations, without distributions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from transformers import AutoTokenizer

from potstill.chat import tokenizer_sha256
from potstill.schema import Split
from potstill.task.known_answers import KnownConversation
from train.data.batches import Collator
from train.data.cache import load_split
from train.data.inputs import Data, refuse_no_template
from train.data.retokenize import Retokenizer


def load_known_answers(
    splits: Mapping[Split, Sequence[KnownConversation]],
    tokenizer_dir: Path,
    max_length: int,
    scratch_dir: Path,
) -> Data:
    """Lay known answers out in a scratch directory, unless they are there already.

    Args:
        splits: Conversations of each split, at least one.
        tokenizer_dir: The student's checkpoint.

    Raises:
        TrainingError: The student's chat template cannot be used, or no conversation of a split
            fits into `max_length` tokens.
        ArtifactError: The disk is full.
    """
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    refuse_no_template(tokenizer, tokenizer_dir)
    retokenizer = Retokenizer(tokenizer, tokenizer_dir)

    def read(_directory: Path, split: Split) -> Iterator[pa.RecordBatch]:
        rows = [_row(split, index, one) for index, one in enumerate(splits[split])]
        return retokenizer.batches_of([rows], split)

    train, validation, test = (
        load_split(tokenizer_dir, split, max_length, scratch_dir, read)
        for split in ("train", "validation", "test")
    )
    return Data(
        tokenizer_dir=tokenizer_dir,
        tokenizer=tokenizer,
        tokenizer_sha256=tokenizer_sha256(tokenizer_dir),
        tokens_are_draws=False,
        train=train,
        validation=validation,
        test=test,
        collator=Collator(max_length, 0),
    )


def _row(split: Split, index: int, one: KnownConversation) -> dict[str, object]:
    return {
        "conversation_id": f"{split}-{index}",
        "prompt": [message.model_dump() for message in one.given],
        "completion": [one.answer.model_dump()],
        "tools": one.tools,
        "turns": [{"finish_reason": "stop"}],
    }
