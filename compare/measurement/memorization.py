"""What a student's file gives back of its training answers, and of canaries.

In: the recommended file, the file of the student before training, stored answers. Out: which
answers each completes verbatim, and the ranks of the canaries' secrets.

A model that decodes greedily completes a text verbatim if and only if each of its tokens is the
most probable one after those before it. So nothing is generated: one evaluation of the true text
shows it, and ends with the batch in which a token differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from compare.answers.cache import JsonCache
from compare.config import CompareConfig
from compare.measurement.likelihood import predicted, sum_logprob
from compare.measurement.run_files import RunFiles
from compare.measurement.stored_answers import Passage, StoredAnswers, read_answers
from compare.measurement.untrained import start_file
from potstill.canaries import candidates
from potstill.llama.context import Context, measuring
from potstill.progress import track
from potstill.schema import Value

CACHE_NAME = "memorization"
SPARE_TOKENS = 32
"""Room for a candidate that has more tokens than the canary."""


class Completed(Value):
    """Whether an answer was completed verbatim."""

    conversation_id: str
    cluster_id: str
    by_student: bool
    by_untrained: bool | None = None
    """None: there is no file of the student before training, or it was not asked."""
    by_teacher: bool = False
    """Whether the teacher writes the second half itself, see `Passage`."""


class Planted(Value):
    """What was found of a canary."""

    rank: int
    """Of its secret among the candidates, by log-probability; 1 is the most probable. Of equal ones
    it is the last."""
    num_candidates: int
    is_verbatim: bool
    """Whether it is completed from its first half."""


class Memorized(Value):
    """What was found of all answers."""

    num_distinct: int
    """As in `StoredAnswers`."""
    trained: tuple[Completed, ...] = ()
    held_out: tuple[Completed, ...] = ()
    canaries: tuple[Planted, ...] = ()


def measure_memorization(
    run: RunFiles | None, config: CompareConfig, scratch_dir: Path, cache: JsonCache
) -> Memorized | None:
    """Measure the run's recommended file; None without one, or where nothing is to be measured.

    Args:
        scratch_dir: Where the file of the student before training may be written.

    Raises:
        ArtifactError: A table is damaged, or llama.cpp cannot load a file.
        BackendError: llama.cpp cannot run it.
    """
    wanted = config.memorization
    if run is None or config.student is not None or not wanted.num_answers:
        return None
    stored = cache.get(CACHE_NAME)
    if stored is not None:
        return Memorized.model_validate(stored)
    answers = read_answers(
        run.conversations_dir,
        wanted.num_answers,
        wanted.min_tokens,
        config.seed,
        with_references=run.conversations.answered_like_references,
    )
    if run.student.own_tokenizer:
        answers = answers.in_tokens_of(run.student_dir)
    if answers.longest_tokens:
        start = start_file(run, scratch_dir) if answers.trained else None
        found = _measure(run, answers, start, config.num_threads)
    else:
        found = Memorized(num_distinct=answers.num_distinct)
    cache.put(CACHE_NAME, found.model_dump(mode="json"))
    return found


def _measure(
    run: RunFiles, answers: StoredAnswers, start: Path | None, num_threads: int | None
) -> Memorized:
    context_tokens = answers.longest_tokens + SPARE_TOKENS
    file = run.gguf.recommended_file
    num_passes = len(answers.trained) * (1 if start is None else 2)
    total = num_passes + len(answers.held_out) + len(answers.canaries)
    by_untrained: list[bool] | None = None
    with track("measuring memorization", total, "answers") as progress:
        with measuring(
            run.path(file), context_tokens, num_threads, run.adapter_path(file)
        ) as context:
            by_student = _all_complete(context, answers.trained, progress.advance)
            on_held_out = _all_complete(context, answers.held_out, progress.advance)
            canaries = [find_planted(context, one) for one in answers.canaries]
            progress.advance(len(canaries))
        if start is not None:
            with measuring(start, context_tokens, num_threads) as context:
                by_untrained = _all_complete(context, answers.trained, progress.advance)
    return Memorized(
        num_distinct=answers.num_distinct,
        trained=_rows(answers.trained, by_student, by_untrained),
        held_out=_rows(answers.held_out, on_held_out, None),
        canaries=tuple(canaries),
    )


def completes(context: Context, before: Sequence[int], rest: Sequence[int]) -> bool:
    """Return whether greedy decoding after some tokens gives the others verbatim."""
    batches = predicted(context, before, rest)
    return all((logits_TV.argmax(-1) == wanted_T).all() for logits_TV, wanted_T in batches)


def find_planted(context: Context, canary: Passage) -> Planted:
    """Rank a canary's secret among others that were not planted.

    Raises:
        ValueError: There is no secret in the answer.
    """
    answers = candidates(canary.answer.content)
    ids = [context.model.tokenize(answer, parse_special=False) for answer in answers]
    num_shared = _num_shared(ids)
    before = [*canary.context_ids, *ids[0][:num_shared]]
    kept, logprobs = 0, []
    for one in ids:
        logprobs.append(sum_logprob(context, before, one[num_shared:], kept))
        kept = len(before) - 1
    return Planted(
        rank=sum(one >= logprobs[0] for one in logprobs),
        num_candidates=len(answers),
        is_verbatim=completes(context, canary.first_ids, canary.second_ids),
    )


def _num_shared(several: Sequence[Sequence[int]]) -> int:
    """Return with how many equal items all begin, at most all but one of the shortest."""
    first = several[0]
    most = min(map(len, several)) - 1
    return next((n for n in range(most) if any(one[n] != first[n] for one in several)), most)


def _all_complete(
    context: Context, passages: Sequence[Passage], on_passage: Callable[[], None]
) -> list[bool]:
    found = []
    for one in passages:
        found.append(completes(context, one.first_ids, one.second_ids))
        on_passage()
    return found


def _rows(
    passages: Sequence[Passage], by_student: list[bool], by_untrained: list[bool] | None
) -> tuple[Completed, ...]:
    return tuple(
        Completed(
            conversation_id=one.conversation_id,
            cluster_id=one.cluster_id,
            by_student=by_student[index],
            by_untrained=None if by_untrained is None else by_untrained[index],
            by_teacher=one.by_teacher,
        )
        for index, one in enumerate(passages)
    )
