"""Which teachers answer a prompt: by rule, drawn by weight, or all of them.

In: the configuration, and prompts. Out: names of teachers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import accumulate

from generate.config import FIRST_TEACHER, GenerateConfig
from generate.curation.language import Detector
from generate.sampling.settings import ConversationSettings
from generate.sources.raw_prompt import first_question
from generate.teachers.config import FurtherTeacherConfig
from generate.teachers.protocol import derive_seed
from potstill.errors import ConfigError
from potstill.schema import Prompt
from potstill.task.answers import Answer
from potstill.task.categories import tool_names

SEEDS = 1 << 31
"""Number of seeds that `derive_seed` returns."""


class Assignment:
    """Assigns prompts to the configured teachers, always in the same way.

    Raises:
        ConfigError: A rule's language is unknown to the detector.
    """

    def __init__(self, config: GenerateConfig) -> None:
        self._config = config
        self._ruled = {name: one for name, one in config.further_teachers.items() if one.rules}
        for name, teacher in self._ruled.items():
            unknown = teacher.languages and set(teacher.languages) - self._detector.languages
            if unknown:
                raise ConfigError(
                    f"unknown languages: {', '.join(sorted(unknown))}",
                    where=f"generate.further_teachers.{name}.languages",
                    expected="codes of ISO 639, such as de",
                )
        weights = {FIRST_TEACHER: config.teacher.weight} | {
            name: one.weight for name, one in config.further_teachers.items() if not one.rules
        }
        self._drawn = [name for name, weight in weights.items() if weight]
        total = sum(weights.values())
        self._bounds = [bound / total for bound in accumulate(filter(None, weights.values()))]
        self._languages: dict[str, str | None] = {}

    def teachers_of(self, prompt: Prompt) -> tuple[str, ...]:
        """Return who answers a prompt.

        What is measured, and answers that are known, are the first teacher's.
        """
        if prompt.split == "test" or prompt.is_reference or prompt.is_given:
            return (FIRST_TEACHER,)
        if self._config.turns.known_answers and prompt.known is not None:
            return (FIRST_TEACHER,)
        if self._config.choose_teacher == "best":
            return self._config.teacher_names
        by_rule = (name for name, one in self._ruled.items() if self._applies(one, prompt))
        return (next(by_rule, None) or self._draw(prompt),)

    def _draw(self, prompt: Prompt) -> str:
        share = derive_seed(self._config.sampling.seed, f"teacher {prompt.prompt_id}") / SEEDS
        places = (name for name, end in zip(self._drawn, self._bounds, strict=True) if share < end)
        return next(places, self._drawn[-1])

    def _applies(self, teacher: FurtherTeacherConfig, prompt: Prompt) -> bool:
        return (
            (not teacher.sources or any(fnmatchcase(prompt.source, one) for one in teacher.sources))
            and (not teacher.tools or not set(teacher.tools).isdisjoint(_tools(prompt)))
            and (not teacher.languages or self._language(prompt) in teacher.languages)
        )

    def _language(self, prompt: Prompt) -> str | None:
        """Detect the language of a prompt once: each teacher's parts ask for it twice."""
        question = first_question(prompt.messages)
        if question not in self._languages:
            self._languages[question] = self._detector.language(question)
        return self._languages[question]

    @cached_property
    def _detector(self) -> Detector:
        return Detector()


@dataclass(frozen=True)
class Work:
    """What one teacher samples.

    Attributes:
        config: As if it were the only teacher.
        name, number: Its name, and its place among the teachers.
        first_part: The number of its first part, that of the first prompts.
        mine: The numbers of this process's parts of it; some of them are done.
    """

    config: GenerateConfig
    name: str
    number: int
    first_part: int
    assignment: Assignment
    mine: Sequence[int]
    done: Collection[int]

    def answers(self, settings: ConversationSettings, prompt: Prompt) -> range:
        """Return the numbers of its answers to a prompt; where all answer, each has its own."""
        names = self.assignment.teachers_of(prompt)
        if self.name not in names:
            return range(0)
        count = settings.num_answers(prompt)
        first = self.number * count if len(names) > 1 else 0
        return range(first, first + count)


def _tools(prompt: Prompt) -> Iterator[str]:
    """Yield the names of the tools that a prompt offers or its known answer calls."""
    yield from tool_names(prompt.tools)
    if prompt.known is not None:
        for call in Answer.model_validate_json(prompt.known).tool_calls:
            yield call.name
