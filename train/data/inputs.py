"""The stage's inputs, checked: the conversations, their teacher and their facts.

In: a run's finished conversations. Out: the three splits, the teacher's checkpoint directory and
the conversations' facts, checked against one another.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import datasets
from transformers import AutoTokenizer

from potstill.chat import chat_template_sha256, tokenizer_sha256
from potstill.checkpoints import find_checkpoint, refuse_other_checkpoint
from potstill.errors import ConfigError, ManifestMismatchError, TrainingError
from potstill.facts.conversations import ConversationsFacts
from potstill.rundir import RunDirectory
from potstill.thinking import has_switch, student_template
from train.config import TrainConfig
from train.data.batches import Collator
from train.data.cache import ReadBatches, load_split, share_of, stored_batches, with_replay
from train.data.retokenize import Retokenizer
from train.data.signal_checks import (
    refuse_distilled_prompts,
    refuse_missing_teacher,
    refuse_other_signal,
)


@dataclasses.dataclass(frozen=True)
class Data:
    """Conversations by split, in a student's tokens."""

    tokenizer_dir: Path
    """The checkpoint whose tokenizer and chat template the student has: the teacher's, or a
    student's with a tokenizer of its own."""
    tokenizer: Any
    """With the student's chat template."""
    tokenizer_sha256: str
    tokens_are_draws: bool
    """`ConversationsFacts.tokens_are_draws`."""
    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    collator: Collator
    other_template: str | None = dataclasses.field(default=None, kw_only=True)
    """The student's chat template, where it is not the checkpoint's own."""


@dataclasses.dataclass(frozen=True)
class TeacherData(Data):
    """The teacher's conversations by split, and their facts."""

    facts: ConversationsFacts
    teacher_dir: Path

    @property
    def has_own_tokenizer(self) -> bool:
        """Whether the student has other tokens than the teacher, or the teacher none."""
        return self.facts.teacher.text_only or self.tokenizer_dir != self.teacher_dir


def load_data(
    config: TrainConfig, run_directory: RunDirectory, scratch_dir: Path, *, train_share: float = 1.0
) -> TeacherData:
    """Read and check the conversations of a run; write them into the scratch directory.

    Args:
        train_share: Share of the training conversations to take, see `share_of`.

    Raises:
        ConfigError: The teacher of the on-policy phase is on a server, and the student has other
            tokens.
        ManifestMismatchError: The teacher's tokenizer, chat template or, where the student is made
            of it, checkpoint has changed, or the log-probabilities are not what the loss needs.
        TrainingError: A split is empty, or the student's own chat template cannot be used.
        ArtifactError: A file is damaged.
    """
    conversations_dir = run_directory.stage_dir("conversations")
    facts = run_directory.facts(ConversationsFacts)
    if facts.teacher.text_only:
        refuse_missing_teacher(config)
    refuse_other_signal(config.kd, facts, conversations_dir)
    if config.on_policy.max_steps > 0:
        refuse_distilled_prompts(facts, conversations_dir)
    teacher_dir = find_checkpoint(facts.teacher.path)
    found, expected = tokenizer_sha256(teacher_dir), facts.tokenizer_sha256
    _refuse_changed("tokenizer", "tokenizer_sha256", found, expected, teacher_dir)
    if config.student.checkpoint is None:
        refuse_other_checkpoint(teacher_dir, facts.teacher.fingerprint)
    tokenizer_dir = _tokenizer_dir(config, facts, teacher_dir)
    if config.on_policy.max_steps and config.on_policy.teacher and tokenizer_dir != teacher_dir:
        raise ConfigError(
            "a teacher on a server cannot correct a student with other tokens",
            where="train.on_policy.teacher",
            expected=f"a student with the tokenizer of {teacher_dir}",
            found=tokenizer_dir,
            hint="leave out the table, so that the teacher is loaded beside the student",
        )
    tokenizer, other_template, read = _student_tokens(facts, tokenizer_dir, teacher_dir)
    if train_share < 1.0:
        read = share_of(read, train_share)
    replayed = [_replayed(config, RunDirectory(one), facts) for one in config.replay]
    read = with_replay(read, [directory for directory, _ in replayed])
    train, validation, test = (
        load_split(conversations_dir, split, config.max_length, scratch_dir, read)
        for split in ("train", "validation", "test")
    )
    return TeacherData(
        tokenizer_dir=tokenizer_dir,
        tokenizer=tokenizer,
        tokenizer_sha256=tokenizer_sha256(tokenizer_dir),
        tokens_are_draws=all(
            one.tokens_are_draws for one in (facts, *(one for _, one in replayed))
        ),
        train=train,
        validation=validation,
        test=test,
        collator=Collator(config.max_length, 0),
        other_template=other_template,
        facts=facts,
        teacher_dir=teacher_dir,
    )


def _replayed(
    config: TrainConfig, run_directory: RunDirectory, own: ConversationsFacts
) -> tuple[Path, ConversationsFacts]:
    """Return the conversations of another run, and their facts.

    Raises:
        ManifestMismatchError: They are of another tokenizer or chat template, or of another kind.
        ArtifactError: A file is missing or damaged.
    """
    directory = run_directory.stage_dir("conversations")
    run_directory.require("conversations")
    facts = run_directory.facts(ConversationsFacts)
    for key in ("tokenizer_sha256", "chat_template_sha256", "thinking"):
        found, expected = getattr(facts, key), getattr(own, key)
        if found != expected:
            raise ManifestMismatchError(
                "conversations that are replayed are not of this run's kind",
                where=f"train.replay: {directory}",
                expected=f"{key} {expected}",
                found=found,
                hint="leave the run out of train.replay",
            )
    refuse_other_signal(config.kd, facts, directory)
    return directory, facts


def _student_tokens(
    facts: ConversationsFacts, tokenizer_dir: Path, teacher_dir: Path
) -> tuple[Any, str | None, ReadBatches]:
    """Return the student's tokenizer, its chat template if it is another one, and the reader.

    Raises:
        ManifestMismatchError: The teacher's chat template has changed.
        TrainingError: The student's own chat template cannot be used.
    """
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    own_tokens = facts.teacher.text_only or tokenizer_dir != teacher_dir
    template = tokenizer.chat_template
    if template is not None:
        thinks = facts.teacher_thinks if tokenizer_dir == teacher_dir else None
        tokenizer.chat_template = student_template(template, facts.thinking, thinks)
    changed = tokenizer.chat_template
    other_template = None if changed == template else changed
    if not own_tokens:
        expected = facts.chat_template_sha256
        hashed = None if changed is None else chat_template_sha256(changed)
        _refuse_changed("chat template", "chat_template_sha256", hashed, expected, teacher_dir)
        return tokenizer, other_template, stored_batches
    refuse_no_template(tokenizer, tokenizer_dir)
    both = facts.thinking == "both"
    if both and not has_switch(changed):
        raise TrainingError(
            "the student's chat template has no switch for thinking",
            where=tokenizer_dir,
            expected="a template with enable_thinking, since it learns both ways",
            hint="generate conversations with generate.thinking.student think or answer",
        )
    return tokenizer, other_template, Retokenizer(tokenizer, tokenizer_dir, both=both).batches


def _refuse_changed(what: str, key: str, found: str | None, expected: str, where: Path) -> None:
    """Check a hash of the teacher's checkpoint.

    Raises:
        ManifestMismatchError: It is not that of the conversations.
    """
    if found != expected:
        raise ManifestMismatchError(
            f"the teacher's {what} has changed since the conversations were made",
            where=where,
            expected=f"{key} {expected} (conversations)",
            found=f"{key} {found}",
            hint=f"restore the {what}, or make the conversations again",
        )


def _tokenizer_dir(config: TrainConfig, facts: ConversationsFacts, teacher_dir: Path) -> Path:
    """Return the directory of the student's tokenizer; with its own it can learn from text only.

    Raises:
        ManifestMismatchError: A student with a tokenizer of its own would have to learn the stored
            distributions.
    """
    if config.student.checkpoint is None:
        return teacher_dir
    student_dir = find_checkpoint(config.student.checkpoint)
    expected, found = facts.tokenizer_sha256, tokenizer_sha256(student_dir)
    if found == expected:
        return teacher_dir
    if config.kd.weight > 0.0:
        raise ManifestMismatchError(
            "the student has another tokenizer than the teacher, whose stored distributions are "
            "over tokens that it lacks",
            where=student_dir,
            expected=f"tokenizer_sha256 {expected} (conversations)",
            found=f"tokenizer_sha256 {found} (student)",
            hint="train on the teacher's text alone with --set train.kd.weight=0, and then on the "
            "student's own answers if need be (train.on_policy does so across tokenizers); or use "
            "a student of the teacher's family",
        )
    return student_dir


def refuse_no_template(tokenizer: Any, student_dir: Path) -> None:  # noqa: ANN401
    """Make sure that a student has a chat template.

    Raises:
        TrainingError: It has none.
    """
    if tokenizer.chat_template is None:
        raise TrainingError(
            "the student has a tokenizer of its own but no chat template to put conversations in",
            where=student_dir,
            expected="chat_template.jinja, or a template in tokenizer_config.json",
            found="none",
            hint="write one with the student's own special tokens into its checkpoint",
        )
