"""People's labels of a finished comparison's answers, asked for in a terminal.

In: a run whose comparison is finished, a judge of criteria. Out: lines appended to its file of
labels, each as soon as it is given. Prompts come in an order drawn by their ids, always the same;
which model wrote an answer is not shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import typer

from compare.answers.answers import Answer
from compare.answers.jsonl import append_line
from compare.config import CompareConfig
from compare.judge_config import CriteriaJudgeConfig
from compare.judges.labels import Label, Labels, read_labels
from compare.verdict.criteria import LEAST_LABELED_PAIRS, labels_needed
from compare.verdict.following import FIRST
from compare.verdict.registration import last_comparison
from potstill.errors import ConfigError
from potstill.files import sha256_bytes
from potstill.rundir import RunDirectory
from potstill.schema import Message
from potstill.tables import PAIR_SCHEMA, read_rows
from potstill.terminal import echo, key_among
from potstill.verdict.outcome import Plan

KEYS = ("y", "n", "q")
AnswerPair = tuple[Answer, Answer]
Ask = Callable[[Sequence[Message], str, str], bool | None]
"""From a prompt, an answer and a criterion to whether it meets it; None ends the labeling."""


class Terminal:
    """Shows each answer once, and asks for its labels."""

    def __init__(self) -> None:
        self._shown: tuple[Sequence[Message], str] | None = None

    def __call__(self, messages: Sequence[Message], answer: str, criterion: str) -> bool | None:
        """Return whether an answer meets a criterion; None where the labeler ends it."""
        if self._shown != (messages, answer):
            self._shown = messages, answer
            echo(f"\n{shown_turns(messages)}\n\nANSWER\n{answer}\n")
        said: str = typer.prompt(f"{criterion}? [y, n; q ends]", value_proc=key_among(KEYS))
        return None if said == "q" else said == "y"


def collect_labels(
    config: CompareConfig, run_directory: RunDirectory, labeler: str, ask: Ask
) -> Iterator[str]:
    """Ask for labels until all are given or the labeler ends it; yield what is to be shown.

    Raises:
        ArtifactError: The comparison is not finished, or a file is damaged.
        ConfigError: No judge of criteria is configured.
    """
    judge = criteria_judge(config)
    run_directory.require("comparison")
    pairs = drawn_pairs(run_directory.stage_dir("comparison") / "pairs.parquet")
    comparison = last_comparison(run_directory.root)
    labels = read_labels(judge.labels, comparison)
    plan = Plan(margin=config.verdict.margin, alpha=FIRST * config.verdict.alpha)
    for number, pair in enumerate(pairs, start=1):
        if not _is_labeled(pair, labels, judge):
            yield f"Prompt {number} of {len(pairs)}"
            if not _label_pair(pair, judge, labels, (labeler, comparison), ask):
                break
    done = sum(_is_labeled(pair, labels, judge) for pair in pairs)
    yield (
        f"{done} prompts have labels of both answers, in {judge.labels}. The judge needs "
        f"{LEAST_LABELED_PAIRS} or more, and of a student at parity about {labels_needed(plan)}. "
        "Have them before you compare again with --force: a comparison that counts labels leaves "
        "less of alpha to later ones."
    )


def criteria_judge(config: CompareConfig) -> CriteriaJudgeConfig:
    """Return the first judge of criteria.

    Raises:
        ConfigError: There is none.
    """
    for judge in config.judges:
        if isinstance(judge, CriteriaJudgeConfig):
            return judge
    raise ConfigError(
        "there are no criteria to label answers by",
        where="compare.judges",
        expected='a judge of kind "criteria", or of kind "votes" to vote on pairs of answers',
        found=", ".join(judge.kind for judge in config.judges) or "no judge",
    )


def drawn_pairs(path: Path) -> list[AnswerPair]:
    """Return both models' answers to each prompt that differ, in an order drawn by its id."""
    sides: dict[tuple[str, int], dict[str, Answer]] = {}
    for row in read_rows(path, PAIR_SCHEMA):
        answer = Answer.model_validate(row)
        if answer.role in ("student", "teacher"):
            sides.setdefault((answer.prompt_id, answer.sample), {})[answer.role] = answer
    pairs = [
        (found["student"], found["teacher"])
        for found in sides.values()
        if len(found) == 2 and found["student"].shown != found["teacher"].shown
    ]
    return sorted(pairs, key=lambda pair: drawn(pair[0].prompt_id, pair[0].sample))


def shown_turns(messages: Sequence[Message]) -> str:
    """Return a prompt as text."""
    return "\n\n".join(f"{one.role}: {one.content}" for one in messages)


def _label_pair(
    pair: AnswerPair,
    judge: CriteriaJudgeConfig,
    labels: Labels,
    said_by: tuple[str, str | None],
    ask: Ask,
) -> bool:
    """Ask for the labels that a pair lacks; return whether to go on.

    Args:
        said_by: The labeler, and the comparison whose answers are shown.
    """
    labeler, comparison = said_by
    # By their text: an order by model would show which is whose.
    for answer in sorted(pair, key=lambda one: drawn(one.shown)):
        for criterion in judge.criteria:
            if labels.of(answer.messages, answer.shown, criterion) is not None:
                continue
            said = ask(answer.messages, answer.shown, criterion)
            if said is None:
                return False
            given = Label(
                messages=answer.messages,
                answer=answer.shown,
                criterion=criterion,
                label=said,
                labeler=labeler,
                comparison=comparison,
            )
            labels.add(given)
            append_line(judge.labels, given, what="a label")
    return True


def _is_labeled(pair: AnswerPair, labels: Labels, judge: CriteriaJudgeConfig) -> bool:
    return all(labels.value(one.messages, one.shown, judge.criteria) is not None for one in pair)


def drawn(*parts: object) -> str:
    """Return what to sort by for an order that says nothing, always the same."""
    return sha256_bytes(json.dumps(parts).encode())
