"""The generate stage: prompts → the teacher's conversations with log-probabilities.

In: the config, and a file of prompts if it names one. Out: the stages `prompts` and
`conversations` of a run. vLLM is loaded only when there is something to sample.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from generate.config import GenerateConfig
from generate.conversations import (
    build_requests,
    sample_conversations,
    split_into_parts,
    summarise,
    unfinished_parts,
)
from generate.engine import TeacherEngine
from generate.magpie import write_prompts
from generate.prompt_file import read_prompt_file
from generate.prompts import RawPrompt, assign_splits, choose, distinct
from generate.teacher import Teacher, find_teacher
from potstill.chat import control_texts, render_prompt
from potstill.errors import ArtifactError, ConfigError, TeacherError
from potstill.files import disk_errors, sha256_file
from potstill.manifest import Manifest
from potstill.progress import append_metrics
from potstill.rundir import RunDirectory, StageSession
from potstill.schema import Message, Prompt
from potstill.tables import PROMPT_SCHEMA, prompt_from_row, prompt_to_row, read_rows, write_rows

logger = logging.getLogger(__name__)

PROMPTS_NAME = "prompts.parquet"
ATTEMPTS_NAME = "magpie.jsonl"
LOGPROBS_MODE = "raw_logprobs"
SPARE_TOKENS = 32
"""A written prompt may take a few tokens more when its text is tokenised again."""


def run(config: GenerateConfig, run_directory: RunDirectory) -> Manifest:
    """Make or read the prompts, and let the teacher answer them; go on where a run was cut off.

    Raises:
        ConfigError: The file of prompts is missing.
        ArtifactError: A row of it is no prompt, or the disk is full.
        TeacherError: The teacher cannot be loaded or sampled, or a prompt is too long for it.
    """
    teacher = _TeacherAtHand(config)
    try:
        _make_prompts(config, teacher, run_directory)
        return _make_conversations(config, teacher, run_directory)
    finally:
        teacher.close()


class _TeacherAtHand:
    """The teacher, found and loaded when it is first needed: a finished stage needs neither."""

    def __init__(self, config: GenerateConfig) -> None:
        self._config = config
        self._engine: TeacherEngine | None = None

    @cached_property
    def checkpoint(self) -> Teacher:
        """The teacher on disk."""
        return find_teacher(self._config.teacher)

    def engine(self, max_tokens: int) -> TeacherEngine:
        """Return the teacher in vLLM, able to hold `max_tokens` of prompt and completion."""
        if self._engine is None:
            engine = self._config.engine
            self._engine = TeacherEngine(
                str(self.checkpoint.dir),
                dtype=self.checkpoint.dtype,
                max_model_len=engine.max_model_len or max_tokens,
                top_logprobs=self._config.sampling.top_logprobs,
                max_num_seqs=engine.max_num_seqs,
                kv_cache_bytes=engine.kv_cache_bytes,
                enforce_eager=engine.enforce_eager,
                tensor_parallel_size=engine.tensor_parallel_size,
                seed=self._config.sampling.seed,
            )
        return self._engine

    def close(self) -> None:
        """Free the teacher's memory, if it was loaded."""
        if self._engine is not None:
            self._engine.close()


def _make_prompts(
    config: GenerateConfig, teacher: _TeacherAtHand, run_directory: RunDirectory
) -> None:
    path = config.prompts.path
    if path is not None and not path.exists() and run_directory.is_finished("prompts"):
        logger.warning("%s is gone: the prompts that were read from it are kept", path)
        return
    raw = _read_file(path, config.prompts.num_prompts) if path else None
    session = run_directory.open_stage("prompts", _prompts_config(config))
    if session.finished:
        return
    if raw is None:
        room = _room_for_written_prompts(config, teacher.checkpoint)
        _refuse_too_long(
            room, config, teacher.checkpoint, where="generate.prompts.max_prompt_tokens"
        )
        with disk_errors("making prompts", session.dir):
            session.scratch_dir.mkdir(exist_ok=True)
        attempts_path = session.scratch_dir / ATTEMPTS_NAME
        engine = teacher.engine(room)
        raw = write_prompts(engine, config.prompts, config.sampling.seed, attempts_path)
    else:
        _refuse_control_tokens(raw, teacher.checkpoint)
    shares = config.prompts.validation_share, config.prompts.test_share
    prompts = assign_splits(raw, *shares)
    with disk_errors("writing prompts", session.dir):
        num_rows = write_rows(
            session.dir / PROMPTS_NAME, PROMPT_SCHEMA, map(prompt_to_row, prompts)
        )
    session.finish(rows={PROMPTS_NAME: num_rows}, facts={"num_prompts": num_rows})


def _refuse_control_tokens(raw: Sequence[RawPrompt], teacher: Teacher) -> None:
    texts = control_texts(teacher.tokenizer)
    for prompt in raw:
        for message in prompt.messages:
            if found := [text for text in texts if text in message.content]:
                raise ArtifactError(
                    "a prompt contains the text of a control token, which would end its turn",
                    where=f"a {message.role}'s message of {prompt.source}",
                    found=", ".join(found),
                    hint="search for it, remove it or the prompt, then run the same command again",
                )


def _read_file(path: Path, num_prompts: int) -> list[RawPrompt]:
    read = read_prompt_file(path)
    different = distinct(read)
    raw = choose(different, num_prompts)
    logger.info(
        "%s: %d prompts, %d of them distinct, %d taken", path, len(read), len(different), len(raw)
    )
    if len(raw) < 3:
        raise ConfigError(
            "the file has too few distinct prompts for three splits",
            where=path,
            expected="at least 3",
            found=len(raw),
        )
    return raw


def _prompts_config(config: GenerateConfig) -> dict[str, Any]:
    """Return what decides the prompts: a file by its content, or the teacher that writes them."""
    settings = config.prompts.to_json()
    if config.prompts.path is None:
        return settings | {"teacher": _teacher_config(config), "seed": config.sampling.seed}
    read = {"num_prompts", "validation_share", "test_share"}
    return {key: settings[key] for key in read} | {"sha256": sha256_file(config.prompts.path)}


def _teacher_config(config: GenerateConfig) -> dict[str, Any]:
    return config.teacher.model_dump(mode="json", include={"model", "dtype"})


def _make_conversations(
    config: GenerateConfig, teacher: _TeacherAtHand, run_directory: RunDirectory
) -> Manifest:
    stage_config = {
        "teacher": _teacher_config(config),
        "sampling": config.sampling.to_json(),
        "conversations_per_part": config.engine.conversations_per_part,
    }
    session = run_directory.open_stage("conversations", stage_config, inputs=("prompts",))
    if session.finished:
        return session.finished
    rows = read_rows(run_directory.stage_dir("prompts") / PROMPTS_NAME, PROMPT_SCHEMA)
    _answer(config, teacher, session, [prompt_from_row(row) for row in rows])
    return _finish(config, teacher.checkpoint, session, run_directory)


def _answer(
    config: GenerateConfig,
    teacher: _TeacherAtHand,
    session: StageSession,
    prompts: Sequence[Prompt],
) -> None:
    missing = unfinished_parts(
        split_into_parts(prompts, config.engine.conversations_per_part), session.dir
    )
    if not missing:
        return
    asked = [prompt for part in missing.values() for prompt in part]
    requests = build_requests(teacher.checkpoint.tokenizer, config.sampling, asked)
    longest = max(asked, key=lambda prompt: len(requests[prompt.prompt_id].prompt_token_ids))
    needed = len(requests[longest.prompt_id].prompt_token_ids) + config.sampling.max_tokens
    _refuse_too_long(
        needed, config, teacher.checkpoint, where=f"prompt {longest.prompt_id} of {longest.source}"
    )
    sample_conversations(
        teacher.engine(needed),
        config.sampling.top_logprobs,
        missing,
        requests,
        session.dir,
        num_done=len(prompts) - len(asked),
    )


def _finish(
    config: GenerateConfig, teacher: Teacher, session: StageSession, run_directory: RunDirectory
) -> Manifest:
    summary = summarise(session.dir)
    measured = {
        "prompt_tokens": summary.prompt_tokens,
        "completion_tokens": summary.completion_tokens,
        "truncated_share": round(summary.truncated_share, 4),
        "mean_tail_mass": round(summary.mean_tail_mass, 6),
    }
    append_metrics(run_directory.metrics_path, "conversations", **measured)
    logger.info(
        "%d conversations, %d completion tokens, %.0f%% cut off at %d tokens; the top %d tokens "
        "leave out %.1f%% of the probability on average",
        sum(summary.num_conversations.values()),
        summary.completion_tokens,
        100 * summary.truncated_share,
        config.sampling.max_tokens,
        config.sampling.top_logprobs,
        100 * summary.mean_tail_mass,
    )
    return session.finish(
        rows=summary.rows_by_part,
        facts=teacher.facts()
        | {
            "logprobs_mode": LOGPROBS_MODE,
            "top_logprobs": config.sampling.top_logprobs,
            "generation_temperature": config.sampling.temperature,
            "generation_top_p": config.sampling.top_p,
            "num_conversations": summary.num_conversations,
        },
        stats=measured,
    )


def _room_for_written_prompts(config: GenerateConfig, teacher: Teacher) -> int:
    around = len(render_prompt(teacher.tokenizer, [Message(role="user", content="")]))
    return around + config.prompts.max_prompt_tokens + SPARE_TOKENS + config.sampling.max_tokens


def _refuse_too_long(
    num_tokens: int, config: GenerateConfig, teacher: Teacher, *, where: str
) -> None:
    limit = min(config.engine.max_model_len or teacher.context_tokens, teacher.context_tokens)
    if num_tokens > limit:
        raise TeacherError(
            "a prompt and its completion do not fit the teacher's context",
            where=where,
            expected=f"at most {limit} tokens, {config.sampling.max_tokens} of them for the "
            "completion (generate.sampling.max_tokens)",
            found=f"{num_tokens} tokens",
            hint="shorten or remove the prompt, or lower generate.sampling.max_tokens",
        )
