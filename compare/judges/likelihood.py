"""A judge by the teacher's probabilities: the more probable answer wins.

In: the teacher's GGUF file, pairs with the prompt's token ids. Out: judgments with both mean
log-probabilities. It measures similarity to the teacher, not quality: the teacher's answers are
samples from these probabilities, and dull answers are the most probable.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compare.answers.cache import JsonCache
from compare.judge_config import LikelihoodJudgeConfig
from compare.judges.protocol import Judge, Judgment, Pair
from potstill.files import sha256_bytes
from potstill.progress import track

SPARE_TOKENS = 8


class LikelihoodJudge(Judge):
    """Compares mean log-probabilities per token under the teacher."""

    kind = "likelihood"
    measures = False
    needs_assay = False
    claim = "similarity"

    def __init__(
        self,
        config: LikelihoodJudgeConfig,
        gguf_path: Path,
        identity: str,
        cache: JsonCache,
        num_threads: int | None,
    ) -> None:
        self.name = config.name
        self.model = gguf_path.stem
        self._path, self._identity, self._cache = gguf_path, identity, cache
        self._num_threads = num_threads

    def judge(self, pairs: Sequence[Pair], label: str) -> list[Judgment]:
        """Compute both log-probabilities of each pair, one after another."""
        wanted = [pair for pair in pairs if pair.question.prompt_token_ids is not None]
        missing = [pair for pair in wanted if self._cache.get(self._key(pair)) is None]
        if missing:
            self._measure(missing, label)
        return [self._judge(pair) for pair in pairs]

    def _measure(self, pairs: Sequence[Pair], label: str) -> None:
        from compare.measurement.likelihood import answer_ids, mean_logprob
        from potstill.llama.context import measuring

        # A token has at least one byte.
        longest = max(
            len(pair.question.prompt_token_ids or ())
            + max(len(pair.student.encode()), len(pair.teacher.encode()))
            for pair in pairs
        )
        with (
            track(f"{self.name} judges {label}", len(pairs), "pairs") as progress,
            measuring(self._path, longest + SPARE_TOKENS, self._num_threads) as context,
        ):
            for pair in pairs:
                prompt_ids = pair.question.prompt_token_ids or ()
                answers = (
                    ("student", pair.student, pair.student_finished),
                    ("teacher", pair.teacher, pair.teacher_finished),
                )
                values = {
                    role: mean_logprob(
                        context, prompt_ids, answer_ids(context.model, text, finished=ended)
                    )
                    for role, text, ended in answers
                }
                self._cache.put(self._key(pair), values)
                progress.advance()

    def _judge(self, pair: Pair) -> Judgment:
        if pair.question.prompt_token_ids is None:
            return Judgment(score=None, failure="the prompt's token ids are not stored")
        values = self._cache.get(self._key(pair)) or {}
        student, teacher = values.get("student"), values.get("teacher")
        if student is None or teacher is None:
            return Judgment(score=None, failure="an answer has no tokens")
        score = 0.5 if student == teacher else float(student > teacher)
        return Judgment(score=score, student_value=student, teacher_value=teacher)

    def _key(self, pair: Pair) -> str:
        prompt = " ".join(map(str, pair.question.prompt_token_ids or ()))
        ends = f"{pair.student_finished} {pair.teacher_finished}"
        content = "\0".join([self._identity, prompt, pair.student, pair.teacher, ends])
        return f"likelihood-{sha256_bytes(content.encode())[:32]}"
