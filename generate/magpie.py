"""Prompts written by the teacher itself, from its chat template's empty user slot.

In: a loaded teacher. Out: distinct `RawPrompt`s. Every attempt is written down as it ends, so that
an interrupted run goes on.

Source: Xu et al. 2024, "Magpie: Alignment Data Synthesis from Scratch by Prompting Aligned LLMs
with Nothing", section 2.1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from generate.config import PromptsConfig
from generate.engine import SampleRequest, TeacherEngine, derive_seed
from generate.prompts import RawPrompt, distinct
from potstill.chat import control_texts, user_slot_prefix
from potstill.errors import TeacherError
from potstill.files import disk_errors
from potstill.progress import track
from potstill.schema import Message, SamplingParams

SOURCE = "magpie"
LABEL = "the teacher writes prompts"
ATTEMPTS_PER_PROMPT = 1.3
"""Attempts in a round per prompt still missing: about a quarter are unfinished or no question."""
MAX_ATTEMPTS_PER_PROMPT = 20
"""A teacher that writes a new question less often than this writes no useful ones."""
MIN_WORDS = 3
"""Shorter texts are greetings and fragments."""

Attempts = dict[int, str | None]
"""What was written, by number of the attempt; None where it did not end."""


def write_prompts(
    engine: TeacherEngine, config: PromptsConfig, seed: int, log_path: Path
) -> list[RawPrompt]:
    """Let the teacher write `config.num_prompts` distinct prompts.

    Attempts are made in rounds that are always finished: taking the first that end would prefer
    short prompts.

    Args:
        log_path: JSONL file of all attempts, those of an earlier process included.

    Raises:
        TeacherError: Too few attempts end in a usable prompt.
        ArtifactError: The log cannot be written.
    """
    wanted, num_attempts = config.num_prompts, 0
    with disk_errors("writing prompts down", log_path):
        attempts = _read_log(log_path)
        prompts: list[RawPrompt] = []
        while len(prompts) < wanted:
            if num_attempts >= MAX_ATTEMPTS_PER_PROMPT * wanted:
                raise _refusal(wanted, len(prompts))
            num_attempts += math.ceil(ATTEMPTS_PER_PROMPT * (wanted - len(prompts)))
            _make_attempts(engine, config, seed, attempts, num_attempts, log_path)
            prompts = usable(attempts, num_attempts)
    return prompts[:wanted]


def usable(attempts: Attempts, num_attempts: int) -> list[RawPrompt]:
    """Return the distinct questions among the first attempts, in their order."""
    texts = (attempts.get(number) for number in range(num_attempts))
    return distinct(
        RawPrompt((Message(role="user", content=text),), SOURCE)
        for text in texts
        if text is not None and len(text.split()) >= MIN_WORDS
    )


def _make_attempts(
    engine: TeacherEngine,
    config: PromptsConfig,
    seed: int,
    attempts: Attempts,
    num_attempts: int,
    log_path: Path,
) -> None:
    """Make the attempts below `num_attempts` that were not made before."""
    todo = [number for number in range(num_attempts) if number not in attempts]
    controls = control_texts(engine.tokenizer)
    with (
        log_path.open("a", encoding="utf-8") as log,
        track(LABEL, num_attempts, "attempts", engine.max_num_seqs) as progress,
    ):
        progress.resume_from(num_attempts - len(todo))
        for sample in engine.sample(_requests(engine, config, seed, todo), top_logprobs=None):
            number, text = int(sample.request_id), engine.tokenizer.decode(sample.token_ids[:-1])
            is_whole = sample.finish_reason == "stop" and not any(one in text for one in controls)
            attempts[number] = text.strip() if is_whole else None
            log.write(json.dumps([number, attempts[number]]) + "\n")
            log.flush()
            progress.advance()


def _requests(
    engine: TeacherEngine, config: PromptsConfig, seed: int, numbers: Iterable[int]
) -> Iterator[SampleRequest]:
    prefix = user_slot_prefix(engine.tokenizer)
    token_ids = engine.tokenizer(prefix, add_special_tokens=False)["input_ids"]
    for number in numbers:
        sampling = SamplingParams(
            temperature=config.temperature,
            top_p=config.top_p,
            max_tokens=config.max_prompt_tokens,
            seed=derive_seed(seed, f"prompt {number}"),
        )
        yield SampleRequest(str(number), token_ids, sampling)


def _read_log(path: Path) -> Attempts:
    """Read the attempts; a last line that a kill cut off is taken out of the file as well."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return dict(json.loads(line) for line in whole.splitlines())


def _refusal(wanted: int, found: int) -> TeacherError:
    return TeacherError(
        "the teacher does not write enough prompts of its own",
        where="generate.prompts",
        expected=f"{wanted} distinct prompts in {MAX_ATTEMPTS_PER_PROMPT * wanted} attempts",
        found=found,
        hint="raise generate.prompts.max_prompt_tokens, ask for fewer prompts, or name a file "
        "with --set generate.prompts.path=FILE",
    )
