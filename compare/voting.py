"""People's votes on a finished comparison's pairs, asked for in a terminal.

In: a run whose comparison is finished, a judge of kind "votes". Out: lines appended to its file of
votes, each as soon as it is given. Prompts come in an order drawn by their ids, always the same;
which model wrote an answer is not shown, and its text decides where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import typer

from compare.answers.answers import Answer
from compare.answers.jsonl import append_line
from compare.config import CompareConfig
from compare.judge_config import VotesJudgeConfig
from compare.judges.votes import HumanVote, Said, VotedAnswer, pair_id, read_human_votes
from compare.labeling import drawn, drawn_pairs, shown_turns
from compare.verdict.following import FIRST
from compare.verdict.preference import LEAST_HUMAN_VOTES, planned_votes
from compare.verdict.registration import last_comparison
from potstill.rundir import RunDirectory
from potstill.schema import Message
from potstill.terminal import echo, key_among
from potstill.verdict.outcome import Plan

SAID: dict[str, Said] = {"l": "left", "r": "right", "t": "tie", "b": "both_bad"}
AskVote = Callable[[Sequence[Message], str, str], Said | None]
"""From a prompt and two answers to the vote; None ends the voting."""


def vote_in_terminal(messages: Sequence[Message], left: str, right: str) -> Said | None:
    """Show a prompt with both answers, and return the vote; None where the voter ends it."""
    echo(f"\n{shown_turns(messages)}\n\nLEFT\n{left}\n\nRIGHT\n{right}\n")
    question = "Which is better? [l, r; t is a tie, b both bad, q ends]"
    return SAID.get(typer.prompt(question, value_proc=key_among((*SAID, "q"))))


def collect_votes(
    config: CompareConfig, run_directory: RunDirectory, voter: str, ask: AskVote
) -> Iterator[str]:
    """Ask for votes until all are given or the voter ends it; yield what is to be shown.

    Raises:
        ArtifactError: The comparison is not finished, or a file is damaged.
    """
    judge = next(one for one in config.judges if isinstance(one, VotesJudgeConfig))
    run_directory.require("comparison")
    found = drawn_pairs(run_directory.stage_dir("comparison") / "pairs.parquet")
    pairs = {_id(pair): pair for pair in found if not any(one.is_refused for one in pair)}
    comparison = last_comparison(run_directory.root)
    votes = read_human_votes(judge.path, comparison)
    voted = {vote.pair_id for vote in votes}
    own = {vote.pair_id for vote in votes if vote.voter == voter}
    for number, (name, pair) in enumerate(pairs.items(), start=1):
        if name not in own:
            yield f"Pair {number} of {len(pairs)}"
            if not _vote(pair, judge.path, voter, comparison, ask):
                break
            voted.add(name)
    plan = Plan(margin=config.verdict.margin)
    needed = planned_votes(replace(plan, alpha=FIRST * config.verdict.alpha))
    yield (
        f"{len(voted & pairs.keys())} pairs have votes, in {judge.path}. A judge that prefers "
        f"needs {LEAST_HUMAN_VOTES} or more, and of a student at parity about {needed} (`potstill "
        "plan`). Have them before you compare again with --force: a comparison that counts votes "
        "leaves less of alpha to later ones."
    )


def _vote(
    pair: Sequence[Answer], path: Path, voter: str, comparison: str | None, ask: AskVote
) -> bool:
    """Ask for the vote on a pair and store it; return whether to go on."""
    left, right = sorted(pair, key=lambda one: drawn(one.prompt_id, one.shown))
    said = ask(left.messages, left.shown, right.shown)
    if said is None:
        return False
    sides = (
        VotedAnswer.model_validate({"role": one.role, "model": one.model, "answer": one.shown})
        for one in (left, right)
    )
    vote = HumanVote(
        messages=left.messages,
        left=next(sides),
        right=next(sides),
        vote=said,
        voter=voter,
        prompt_id=left.prompt_id,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        comparison=comparison,
    )
    append_line(path, vote, what="a vote")
    return True


def _id(pair: Sequence[Answer]) -> tuple[str, ...]:
    return pair_id(pair[0].messages, [one.shown for one in pair])
