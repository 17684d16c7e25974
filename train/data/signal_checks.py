"""Checks that the stored log-probabilities are what the token-level loss assumes.

In: the loss's settings and the conversations' facts. Out: an error, a warning, or nothing.
"""

from __future__ import annotations

import logging
from pathlib import Path

from potstill.errors import ManifestMismatchError, TrainingError
from potstill.facts.conversations import ConversationsFacts
from train.config import KDConfig, TrainConfig

logger = logging.getLogger(__name__)


def refuse_other_signal(config: KDConfig, facts: ConversationsFacts, where: Path) -> None:
    """Check that the stored log-probabilities are what the token-level loss needs.

    They are the raw model's at temperature 1 for any sampling, so the loss at each prefix is right.
    Other sampling only changes the prefixes, and makes the cross-entropy pull towards another
    distribution than the token-level loss.

    Raises:
        ManifestMismatchError: They are of another kind.
    """
    if config.weight == 0.0:
        return
    if facts.logprobs_mode != "raw_logprobs":
        raise ManifestMismatchError(
            "the stored log-probabilities are not the teacher's own distribution",
            where=where,
            expected="logprobs_mode raw_logprobs",
            found=facts.logprobs_mode,
            hint="make the conversations again, or train with --set train.kd.weight=0",
        )
    if config.tail == "sample":
        _refuse_chosen_tokens(facts, where)
    elif config.weight < 1.0 and not facts.sampled_unchanged:
        logger.warning(
            "completions were %s: cross-entropy pulls towards that distribution, the token-level "
            "loss towards the teacher's own; train.kd.weight=1 avoids the conflict",
            _how(facts),
        )


def at_sequence_level(config: TrainConfig, facts: ConversationsFacts) -> TrainConfig:
    """Return the settings without token-level KD where the teacher gave text alone."""
    if not facts.teacher.text_only or config.kd.weight == 0.0:
        return config
    logger.info(
        "%s gave text alone: the student learns at sequence level, train.kd.weight = 0",
        facts.teacher.model,
    )
    return config.model_copy(update={"kd": config.kd.model_copy(update={"weight": 0.0})})


def refuse_missing_teacher(config: TrainConfig) -> None:
    """Check that nothing needs the weights of a teacher that gave text alone.

    Raises:
        TrainingError: The student would be made of it, or it would have to be in memory.
    """
    for is_asked, setting, hint in (
        (
            config.student.checkpoint is None,
            "train.student.checkpoint",
            "name the checkpoint that the student starts from",
        ),
        (
            config.on_policy.max_steps > 0,
            "train.on_policy.max_steps",
            "set it to 0, or use a teacher whose weights are on this machine",
        ),
    ):
        if is_asked:
            raise TrainingError(
                "a teacher that gave text alone has no weights on this machine",
                where=setting,
                expected="a student and phases that need none of its weights",
                hint=hint,
            )


def refuse_distilled_prompts(facts: ConversationsFacts, where: Path) -> None:
    """Check that the teacher can judge the student's own answers after the stored prompts.

    Raises:
        ManifestMismatchError: The stored prompts are the student's, without the instructions that
            the teacher needs.
    """
    if facts.stands_under_other_prompt:
        raise ManifestMismatchError(
            "the teacher cannot judge answers after the student's prompt, which lacks its "
            "instructions or its thinking",
            where=where,
            expected="conversations under the teacher's own prompt",
            found="prompt_distilled" if facts.prompt_distilled else f"thinking {facts.thinking}",
            hint="use --set train.on_policy.max_steps=0, or give the student the teacher's prompt",
        )


def _refuse_chosen_tokens(facts: ConversationsFacts, where: Path) -> None:
    """Check that each token is one draw from the teacher's distribution, as the tail needs it."""
    if facts.tokens_are_draws:
        if facts.num_dropped:
            logger.warning(
                "filters left out %d conversations: if they depend on the answers, the other "
                "answers are not plain draws from the teacher, and the tail 'sample' is biased",
                facts.num_dropped,
            )
        return
    sampled, kept = facts.num_sampled_per_prompt, facts.num_kept_per_prompt
    chosen = f"{kept} answers chosen of {sampled} sampled for each prompt"
    raise ManifestMismatchError(
        "the tail 'sample' treats each token of an answer as a draw from the teacher's "
        "distribution, which these are not",
        where=where,
        expected="all answers that were sampled, at temperature 1 and top-p 1",
        found=chosen if facts.sampled_unchanged else f"answers {_how(facts)}",
        hint="use --set train.kd.tail=bucket, or generate so with --force",
    )


def _how(facts: ConversationsFacts) -> str:
    if facts.generation_temperature is None:
        return "written by others"
    how = (
        f"sampled at temperature {facts.generation_temperature} and top-p {facts.generation_top_p}"
    )
    return how + (" under a schema" if facts.structured else "")
