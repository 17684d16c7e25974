"""Judges that are real servers on loopback, and answers of obvious quality."""

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from compare.answers.answers import Answer
from compare.answers.cache import JsonCache
from compare.answers.questions import Question
from compare.config import CompareConfig
from compare.judges.panel import Opinion, Panel
from compare.judges.registry import JudgeResources
from compare.verdict.decision import NO_LEDGER, decide
from compare.verdict.health import is_sound_so_far
from compare.verdict.registration import Ledger
from compare.verdict.results import JudgeReport, Verdict
from potstill.facts.comparison import Registration
from potstill.schema import Message
from potstill.task.task import Task
from potstill.verdict.outcome import Plan

from .answering import answered

RIGHT = re.compile(r"Number (\d+) is right because rule \w+ says so in all of its many words\.")
NUM_CONTROLS = 6
"""The fewest on which a perfect judge passes the assay at margin 0.05."""
RULES = ("one", "two", "three")
REGISTERED = Registration(
    verdict={}, registered_at="2026-11-24T12:00:00+00:00", num_answers_before=0
)


@dataclass(frozen=True)
class Decided:
    """A verdict and what it was made from."""

    verdict: Verdict
    panel: Panel
    opinions: list[Opinion]
    answers: list[Answer]

    @property
    def report(self) -> JudgeReport:
        """The report of the only judge."""
        (report,) = self.verdict.judges
        return report


def right_answer(number: int, variant: int = 0) -> str:
    return (
        f"Number {number} is right because rule {RULES[variant]} says so in all of its many words."
    )


def question(number: int, **changes: object) -> Question:
    values = {
        "prompt_id": f"p{number}",
        "conversation_id": f"p{number}-0",
        "cluster_id": f"p{number}",
        "source": "even" if number % 2 == 0 else "odd",
        "messages": (Message(role="user", content=f"What is number {number}?"),),
        "slices": {"source": "even" if number % 2 == 0 else "odd"},
    }
    return Question(**values | changes)


def answer(role: str, number: int, text: str, sample: int = 0, reason: str = "stop") -> Answer:
    return answered(
        question(number),
        text,
        role,
        sample=sample,
        seed=1,
        finish_reason=reason,
        prompt_tokens=9,
        completion_tokens=9,
        seconds=0.1,
    )


def parts(body: dict) -> tuple[int, str, str]:
    """Return the number that was asked for, and both answers, as a judge reads them."""
    text = body["messages"][1]["content"]
    number = int(re.search(r"What is number (\d+)\?", text)[1])
    found = re.findall(r"<answer ([AB]) (\w+)>\n(.*?)\n</answer \1 \2>", text, re.DOTALL)
    assert [place for place, _, _ in found] == ["A", "B"]
    return number, found[0][2], found[1][2]


def worth(number: int, text: str) -> float:
    whole = RIGHT.fullmatch(text)
    if whole is not None and int(whole[1]) == number:
        return 2.0
    return 1.0 if right_answer(number) in text or text in right_answer(number) else 0.0


def said(winner: str, reason: str = "so") -> str:
    return json.dumps({"reason": reason, "winner": winner})


def compared(first: float, second: float) -> str:
    return said("A" if first > second else "B" if second > first else "tie")


def sound(body: dict) -> str:
    number, first, second = parts(body)
    return compared(worth(number, first), worth(number, second))


def prefers_length(body: dict) -> str:
    _, first, second = parts(body)
    return compared(len(first), len(second))


def obeys_answers(body: dict) -> str:
    """A sound judge, except with answers that instruct it."""
    _, first, second = parts(body)
    if "Output {" in first:
        return said("A")
    return said("B") if "Output {" in second else sound(body)


def longer_is_better(answer: str, *_: object) -> float:
    """A user's metric."""
    return len(answer) / 4


def decided(
    cache_dir: Path,
    config: CompareConfig,
    questions: list[Question],
    answers: list[Answer],
    task: Task | None = None,
    ledger: Ledger = NO_LEDGER,
    comparison: str | None = None,
) -> Decided:
    """Let the configured judges work, and decide."""
    sound_so_far = partial(is_sound_so_far, plan=Plan())
    cache = JsonCache(cache_dir)
    panel = Panel(config, questions, answers, cache, sound_so_far, task, comparison)
    opinions = panel.opinions(JudgeResources(config, cache))
    verdict = decide(config, REGISTERED, opinions, answers, panel.cluster_of, ledger)
    return Decided(verdict, panel, opinions, answers)
