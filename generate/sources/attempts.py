"""The teacher writes prompts until there are enough, in rounds of attempts.

In: a teacher, and a description of the attempts. Out: distinct `RawPrompt`s, and what was written
but cannot be used. Each attempt is logged when it ends, so that an interrupted run can resume.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

from generate.sources.raw_prompt import DroppedPrompt, RawPrompt
from generate.teachers.protocol import Failure, Sample, SampleRequest, SamplingTeacher, derive_seed
from potstill.chat import control_texts
from potstill.errors import TeacherError
from potstill.files import disk_errors
from potstill.progress import track
from potstill.schema import Message, SamplingParams
from potstill.thinking import answer_of

logger = logging.getLogger(__name__)

ATTEMPTS_PER_PROMPT = 1.3
"""Attempts of the first round per prompt: about a quarter end unfinished or without a question."""
LEAST_ROUND = 1 / 32
"""Fewest attempts of a round per wanted prompt, so that the last ones do not take a round each."""
MAX_ATTEMPTS_PER_PROMPT = 20
"""Most attempts per prompt; a teacher that needs more writes no useful prompts."""

REPEATED = "repeated"
"""Filter of prompts that were written before."""

Texts = dict[int, str | None]
"""The written texts by number of the attempt; None for unfinished or failed ones."""


class Plan(Protocol):
    """Decides what the attempts of a round are for, from what the earlier rounds have made."""

    def plan(self, numbers: range, made: Mapping[int, RawPrompt]) -> None:
        """Prepare the attempts of a round."""

    def choose(self, made: Mapping[int, RawPrompt]) -> list[RawPrompt]:
        """Return the prompts to keep among those made so far, by number of the attempt."""
        ...


class _FirstOnes:
    """All attempts are alike, and the first prompts are kept."""

    def plan(self, numbers: range, made: Mapping[int, RawPrompt]) -> None:
        pass

    def choose(self, made: Mapping[int, RawPrompt]) -> list[RawPrompt]:
        return [made[number] for number in sorted(made)]


@dataclass(frozen=True)
class Writing:
    """Parameters common to all attempts."""

    label: str
    """Label of the progress bar."""
    prompt_token_ids: Callable[[int], list[int]]
    """The prompt's token ids, by number of the attempt."""
    to_prompt: Callable[[int, str], RawPrompt | DroppedPrompt | None]
    """Returns the prompt for an attempt's number and text; None for a text that is nothing."""
    sampling: SamplingParams
    """Sampling parameters, from whose seed each attempt's is derived."""
    known: Container[RawPrompt] = frozenset()
    """Keys of prompts of other sources, which are not written again."""
    plan: Plan = field(default_factory=_FirstOnes)
    messages: Callable[[int], tuple[Message, ...]] | None = None
    """The prompt as messages, for servers that do not accept token ids."""


@dataclass(frozen=True)
class Written:
    """What the teacher has written."""

    prompts: list[RawPrompt]
    dropped: list[DroppedPrompt]


def write_until_enough(
    teacher: SamplingTeacher, writing: Writing, count: int, log_path: Path
) -> Written:
    """Let the teacher write `count` distinct prompts.

    Rounds of attempts always run to their end: taking the first to finish would favor short
    prompts.

    Args:
        log_path: JSONL file of all attempts, including those of an earlier process.

    Raises:
        TeacherError: Too few attempts end in a usable prompt, or all of a round fail.
        ArtifactError: The log cannot be written.
    """
    num_attempts = 0
    failed: list[int] = []
    with disk_errors("logging written prompts", log_path):
        texts = _read_log(log_path)
        prompts: list[RawPrompt] = []
        made: dict[int, RawPrompt] = {}
        dropped: list[DroppedPrompt] = []
        while len(prompts) < count:
            if num_attempts >= MAX_ATTEMPTS_PER_PROMPT * count:
                raise _refusal(count, len(prompts))
            start = num_attempts
            num_attempts += _round_size(count, num_attempts, len(prompts))
            writing.plan.plan(range(start, num_attempts), made)
            failed += _make_attempts(teacher, writing, texts, num_attempts, log_path)
            made, dropped = _usable(writing, texts, num_attempts)
            prompts = writing.plan.choose(made)
            reasons = Counter(one.filter for one in dropped)
            logger.info(
                "%d attempts, %d of %d inputs; dropped: %s",
                num_attempts,
                min(count, len(prompts)),
                count,
                ", ".join(f"{name} {number}" for name, number in reasons.most_common()) or "none",
            )
        _give_up(failed, log_path)
    return Written(prompts[:count], dropped)


def _round_size(count: int, num_attempts: int, num_prompts: int) -> int:
    """Return how many attempts to make at once: at the rate of earlier ones, but not too many."""
    per_prompt = max(ATTEMPTS_PER_PROMPT, num_attempts / max(1, num_prompts))
    most = max(num_attempts, ATTEMPTS_PER_PROMPT * count)
    left = MAX_ATTEMPTS_PER_PROMPT * count - num_attempts
    wanted = max(per_prompt * (count - num_prompts), LEAST_ROUND * count)
    return min(left, math.ceil(min(wanted, most)))


def _usable(
    writing: Writing, texts: Texts, num_attempts: int
) -> tuple[dict[int, RawPrompt], list[DroppedPrompt]]:
    """Return the distinct prompts among the first attempts, and what cannot be used."""
    made: dict[int, RawPrompt] = {}
    dropped: list[DroppedPrompt] = []
    first_by_key: dict[str, RawPrompt] = {}
    for number in range(num_attempts):
        text = texts.get(number)
        prompt = None if text is None else writing.to_prompt(number, text)
        if isinstance(prompt, DroppedPrompt):
            dropped.append(prompt)
        elif prompt is not None:
            first = first_by_key.setdefault(prompt.key, prompt)
            if prompt in writing.known:
                dropped.append(DroppedPrompt(prompt, REPEATED, "another source has it"))
            elif first is not prompt:
                dropped.append(DroppedPrompt(prompt, REPEATED, f"the same as {first.prompt_id}"))
            else:
                made[number] = prompt
    return made, dropped


def _make_attempts(
    teacher: SamplingTeacher, writing: Writing, texts: Texts, num_attempts: int, log_path: Path
) -> list[int]:
    """Make the missing attempts below `num_attempts`; return which failed."""
    todo = [number for number in range(num_attempts) if number not in texts]
    requests = _requests(writing, todo)
    controls = control_texts(teacher.tokenizer)
    failures: list[Failure] = []
    with (
        log_path.open("a", encoding="utf-8") as log,
        track(writing.label, num_attempts, "attempts", teacher.max_num_seqs) as progress,
    ):
        progress.resume_from(num_attempts - len(todo))
        for result in teacher.sample(lambda n: list(islice(requests, n)), top_logprobs=None):
            number = int(result.request_id)
            if isinstance(result, Failure):
                # Not logged yet, so that a resumed run tries it again.
                texts[number] = None
                failures.append(result)
            else:
                texts[number] = _text(teacher, result, controls)
                log.write(json.dumps([number, texts[number]]) + "\n")
                log.flush()
            progress.advance()
    _report(failures, len(todo))
    return [int(failure.request_id) for failure in failures]


def _give_up(failed: list[int], log_path: Path) -> None:
    """Log failures once they are replaced, so that a resumed run finds the same prompts."""
    if failed:
        with log_path.open("a", encoding="utf-8") as log:
            log.writelines(json.dumps([number, None]) + "\n" for number in failed)


def _requests(writing: Writing, numbers: list[int]) -> Iterator[SampleRequest]:
    for number in numbers:
        seed = derive_seed(writing.sampling.seed, f"prompt {number}")
        sampling = writing.sampling.model_copy(update={"seed": seed})
        messages = writing.messages and writing.messages(number)
        yield SampleRequest(str(number), writing.prompt_token_ids(number), sampling, messages)


def _text(teacher: SamplingTeacher, sample: Sample, controls: list[str]) -> str | None:
    """Return the written text; None if it did not end, or contains a control token."""
    if sample.finish_reason != "stop":
        return None
    if sample.message is not None:
        text = sample.message.content
    else:
        kept = sample.token_ids
        if kept and kept[-1] in teacher.end_token_ids:
            kept = kept[:-1]
        text = str(teacher.tokenizer.decode(kept))
    text = answer_of(text)
    return None if any(control in text for control in controls) else text.strip()


def _report(failures: list[Failure], num_attempts: int) -> None:
    if not failures:
        return
    if len(failures) == num_attempts:
        raise TeacherError("every attempt of the teacher failed", found=failures[0].reason)
    logger.warning(
        "%d of %d attempts failed, the first one: %s",
        len(failures),
        num_attempts,
        failures[0].reason,
    )


def _read_log(path: Path) -> Texts:
    """Read the attempts; remove an incomplete last line from the file."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        os.truncate(path, len(whole.encode()))
    return dict(json.loads(line) for line in whole.splitlines())


def _refusal(wanted: int, found: int) -> TeacherError:
    return TeacherError(
        "the teacher does not write enough prompts",
        where="generate.prompts",
        expected=f"{wanted} distinct prompts in {MAX_ATTEMPTS_PER_PROMPT * wanted} attempts",
        found=found,
        hint="raise generate.prompts.max_prompt_tokens, lower num_prompts, or name a file "
        "with --set generate.prompts.path=FILE",
    )
