"""What the stage trains on, checked: the conversations, their teacher, and what they promise.

In: a run's finished conversations. Out: the three splits, the teacher's checkpoint directory and
the conversations' facts, known to fit one another. Knows nothing of the student.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import datasets
from transformers import AutoTokenizer

from potstill.chat import chat_template_sha256
from potstill.checkpoints import find_checkpoint, refuse_other_checkpoint
from potstill.errors import ManifestMismatchError
from potstill.manifest import read_manifest
from potstill.rundir import RunDirectory
from train.batches import Collator
from train.cache import load_split
from train.checkpoints import refuse_other_tokenizer
from train.config import TrainConfig

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Data:
    """The conversations, split, and what they say about themselves."""

    facts: dict[str, Any]
    teacher_dir: Path
    tokenizer: Any
    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    collator: Collator


def load_data(config: TrainConfig, run_directory: RunDirectory, scratch_dir: Path) -> Data:
    """Read and check the conversations of a run; lay them out in the scratch directory.

    Raises:
        ManifestMismatchError: The teacher's tokenizer, chat template or, where the student is made
            of it, checkpoint has changed, or the log-probabilities are of another kind.
        TrainingError: A split is empty, or a signal that the loss needs is missing.
        ArtifactError: A file is damaged.
    """
    conversations_dir = run_directory.stage_dir("conversations")
    facts = read_manifest(conversations_dir).facts
    _refuse_other_signal(config, facts, conversations_dir)
    teacher_dir = find_checkpoint(facts["teacher"]["path"])
    if config.student.checkpoint is None:
        refuse_other_checkpoint(teacher_dir, facts["teacher"]["fingerprint"])
    refuse_other_tokenizer(teacher_dir, facts["tokenizer_sha256"])
    tokenizer = AutoTokenizer.from_pretrained(teacher_dir)
    _refuse_other_template(tokenizer.chat_template, facts["chat_template_sha256"], teacher_dir)
    train, validation, test = (
        load_split(conversations_dir, split, config.max_length, scratch_dir)
        for split in ("train", "validation", "test")
    )
    collator = Collator(config.max_length, 0)
    return Data(facts, teacher_dir, tokenizer, train, validation, test, collator)


def _refuse_other_template(template: str | None, expected: str, teacher_dir: Path) -> None:
    found = chat_template_sha256(template)
    if found != expected:
        raise ManifestMismatchError(
            "the teacher's chat template has changed since the conversations were made",
            where=teacher_dir,
            expected=f"chat_template_sha256 {expected} (conversations)",
            found=f"chat_template_sha256 {found}",
            hint="restore the template, or make the conversations again",
        )


def _refuse_other_signal(config: TrainConfig, facts: dict[str, Any], where: Path) -> None:
    """Check that the stored log-probabilities are what the token-level loss needs.

    They are the raw model's at temperature 1 whatever the sampling was, so the loss at each prefix
    is right in any case; sampling otherwise only changes which prefixes are seen, and makes the
    cross-entropy pull towards another distribution than the token-level loss.
    """
    if config.kd.weight == 0.0:
        return
    if facts["logprobs_mode"] != "raw_logprobs":
        raise ManifestMismatchError(
            "the stored log-probabilities are not the teacher's own distribution",
            where=where,
            expected="logprobs_mode raw_logprobs",
            found=facts["logprobs_mode"],
            hint="make the conversations again, or train with --set train.kd.weight=0",
        )
    temperature, top_p = facts["generation_temperature"], facts["generation_top_p"]
    if (temperature, top_p) != (1.0, 1.0) and config.kd.weight < 1.0:
        how = f"were sampled at temperature {temperature} and top-p {top_p}"
        logger.warning(
            "completions %s: cross-entropy pulls towards that distribution, the token-level loss "
            "towards the teacher's own; train.kd.weight=1 avoids the conflict",
            "were written by others" if temperature is None else how,
        )
