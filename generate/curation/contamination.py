"""Detect prompts that leak questions of an evaluation set.

In: prompts and evaluation sets. Out: the prompts that are similar to a question, or share a run of
words with one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from generate.curation.clusters import user_turns
from generate.curation.config import CurationConfig
from generate.curation.evaluation_sets import read_evaluation_set
from generate.curation.similarity import pairs_between
from generate.sources.raw_prompt import RawPrompt, normalize

RUN_WORDS = 13
"""Number of consecutive words that are not equal by chance (Brown et al. 2020, "Language Models
are Few-Shot Learners", arXiv:2005.14165, appendix C). Languages without spaces between words rarely
have such runs: there only similarity counts."""


class Contamination:
    """Drops prompts that are similar to a question of an evaluation set.

    First user turns are compared, and all user turns together: a later turn alone, such as "Why?",
    leaks nothing.

    Raises:
        ConfigError: A set cannot be read.
    """

    def __init__(self, config: CurationConfig) -> None:
        self._threshold = config.contamination_threshold
        self._questions: dict[str, str] = {}
        """Names of questions by their normalized texts."""
        self._runs: dict[int, str] = {}
        """Names of questions by the hashes of their runs of words."""
        for evaluation_set in config.evaluation_sets:
            for question in read_evaluation_set(evaluation_set):
                for text in _compared(question.turns):
                    self._questions.setdefault(text, question.name)
                    for run in _runs(text):
                        self._runs.setdefault(run, question.name)

    def judge_all(self, prompts: Sequence[RawPrompt]) -> dict[int, str]:
        """Return the reasons to drop prompts, by their positions."""
        if not self._questions:
            return {}
        texts = [
            (position, text)
            for position, prompt in enumerate(prompts)
            for text in _compared(user_turns(prompt.messages))
        ]
        reasons = self._near([text for _, text in texts])
        found: dict[int, str] = {}
        for index, (position, text) in enumerate(texts):
            reason = reasons.get(index) or self._shared_run(text)
            if reason is not None:
                found.setdefault(position, reason)
        return found

    def _near(self, texts: Sequence[str]) -> dict[int, str]:
        """Return the reasons to drop texts that are similar to a question, naming the nearest."""
        names = list(self._questions.values())
        nearest: dict[int, tuple[float, str]] = {}
        for text, question, similarity in pairs_between(
            texts, list(self._questions), self._threshold
        ):
            if similarity > nearest.get(text, (0.0, ""))[0]:
                nearest[text] = similarity, names[question]
        return {
            text: f"similarity {similarity:.2f} to {name}"
            for text, (similarity, name) in nearest.items()
        }

    def _shared_run(self, text: str) -> str | None:
        names = (self._runs[run] for run in _runs(text) if run in self._runs)
        name = next(names, None)
        return name and f"{RUN_WORDS} words in a row of {name}"


def _compared(turns: Sequence[str]) -> Iterable[str]:
    """Return the normalized texts by which a conversation is compared, without empty ones."""
    texts = (normalize("\n".join(part)) for part in (turns[:1], turns))
    return dict.fromkeys(text for text in texts if text)


def _runs(text: str) -> Iterator[int]:
    """Yield a hash of each run of words in a normalized text."""
    words = text.split()
    for start in range(len(words) - RUN_WORDS + 1):
        yield hash(" ".join(words[start : start + RUN_WORDS]))
