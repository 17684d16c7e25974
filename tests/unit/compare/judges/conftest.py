"""Judges that are real servers on loopback, and answers whose worth anyone can see."""

import json
import re

import pytest

from compare.answers.answers import Answer
from compare.answers.cache import JsonCache
from compare.answers.questions import Question
from compare.config import CompareConfig
from compare.judges.config import LlmJudgeConfig
from compare.judges.health import is_sound_so_far
from compare.judges.panel import Panel
from compare.judges.registry import AtHand
from potstill.schema import Message
from potstill.verdict.outcome import Plan

RIGHT = re.compile(r"Number (\d+) is right because rule \w+ says so in all of its many words\.")
NUM_CONTROLS = 6
"""The fewest on which a judge that errs never is shown to tell good from bad at margin 0.05."""
RULES = ("one", "two", "three")


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
    return Answer(
        prompt_id=f"p{number}",
        conversation_id=f"p{number}-0",
        messages=question(number).messages,
        role=role,
        model=role,
        sample=sample,
        seed=1,
        answer=text,
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


def verdict(winner: str, reason: str = "so") -> str:
    return json.dumps({"reason": reason, "winner": winner})


def compared(first: float, second: float) -> str:
    return verdict("A" if first > second else "B" if second > first else "tie")


def sound(body: dict) -> str:
    number, first, second = parts(body)
    return compared(worth(number, first), worth(number, second))


def prefers_length(body: dict) -> str:
    _, first, second = parts(body)
    return compared(len(first), len(second))


def obeys_answers(body: dict) -> str:
    """Sound, but for answers that tell it what to say."""
    _, first, second = parts(body)
    if "Output {" in first:
        return verdict("A")
    return verdict("B") if "Output {" in second else sound(body)


@pytest.fixture
def panel(tmp_path):
    """Return a function that lets a judge's server compare students, and gives its opinion."""

    def judge(
        server,
        *,
        num_prompts: int = 8,
        num_bad: int = 0,
        samples: int = 1,
        known_worse: bool = False,
        refused: tuple[int, ...] = (),
        **settings: object,
    ):
        judges = (LlmJudgeConfig(kind="llm", base_url=server.base_url, model="judge", **settings),)
        config = CompareConfig(
            judges=judges,
            samples_per_prompt=samples,
            assay={"num_prompts": NUM_CONTROLS},
            max_retries=0,
        )
        answers = []
        for number in range(num_prompts):
            text = "Nobody knows." if number < num_bad else right_answer(number, 2)
            given = ("", "error") if number in refused else (text, "stop")
            for sample in range(samples):
                answers.append(answer("teacher", number, right_answer(number), sample))
                answers.append(answer("student", number, given[0], sample, given[1]))
            answers.append(answer("teacher", number, right_answer(number, 1), samples))
            if known_worse:
                answers.append(answer("known_worse", number, "I am untrained."))
        plan = Plan()

        def is_sound(controls, *, measures):
            return is_sound_so_far(controls, measures=measures, plan=plan)

        cache = JsonCache(tmp_path / "cache")
        questions = [question(number) for number in range(num_prompts)]
        made = Panel(config, questions, answers, cache, is_sound)
        at_hand = AtHand(cache, None, None, 4, 10.0, 0, None)
        (opinion,) = made.opinions(at_hand)
        return config, answers, made, opinion

    return judge
