"""What drafts from the prompt would save: `python benchmarks/serving/lookup.py RUN`.

Prompt look-up (Saxena 2023, the `prompt_lookup_num_tokens` of transformers) drafts what followed
the last occurrence of the latest tokens. Nothing is generated here: the drafts are compared with
the answers that a finished run's student gave, and counted. Tokens per step are an upper bound of
the gain, since a step that verifies drafts takes longer.

Usage: lookup.py RUN [--answers N]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from potstill.chat import render_prompt, tokenize
from potstill.rundir import RunDirectory
from potstill.schema import Message
from quantize.loading import load_tokenizer

SETTINGS = (((3, 2), 2), ((3, 2), 4), ((3, 2, 1), 4))
"""Numbers of tokens that are looked up, the longest first, and of drafted tokens."""


def draft(token_ids: Sequence[int], lengths: Sequence[int], num_tokens: int) -> Sequence[int]:
    """Return what followed the last tokens where they stood before."""
    for length in lengths:
        latest = token_ids[-length:]
        for start in range(len(token_ids) - length - 1, -1, -1):
            if token_ids[start : start + length] == latest:
                return token_ids[start + length : start + length + num_tokens]
    return []


def count(
    prompt: list[int], answer: list[int], lengths: Sequence[int], num_tokens: int
) -> tuple[int, int, int]:
    """Return the numbers of steps, of drafted and of accepted tokens."""
    token_ids, num_steps, num_drafted, num_accepted = list(prompt), 0, 0, 0
    while len(token_ids) < len(prompt) + len(answer):
        left = answer[len(token_ids) - len(prompt) :]
        drafted = draft(token_ids, lengths, num_tokens)[: len(left) - 1]
        same = next((n for n, one in enumerate(drafted) if one != left[n]), len(drafted))
        token_ids += left[: same + 1]
        num_steps += 1
        num_drafted, num_accepted = num_drafted + len(drafted), num_accepted + same
    return num_steps, num_drafted, num_accepted


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"))
    parser.add_argument("--answers", type=int, default=60)
    given = parser.parse_args()
    run = RunDirectory(given.run)
    tokenizer = load_tokenizer(run.stage_dir("student"))
    report = json.loads((run.stage_dir("comparison") / "report.json").read_text(encoding="utf-8"))
    pairs = [
        (
            render_prompt(tokenizer, [Message.model_validate(one) for one in example["messages"]]),
            tokenize(tokenizer, example["student"]["text"]),
        )
        for example in report["examples"][: given.answers]
    ]
    num_tokens = sum(len(answer) for _, answer in pairs)
    print(f"{len(pairs)} answers of {num_tokens / len(pairs):.0f} tokens")
    print("| looked up | drafted | tokens a step | accepted |\n|---|---|---|---|")
    for lengths, longest in SETTINGS:
        counts = [count(prompt, answer, lengths, longest) for prompt, answer in pairs]
        num_steps, num_drafted, num_accepted = (sum(column) for column in zip(*counts, strict=True))
        shown = " or ".join(map(str, lengths))
        accepted = f"{num_accepted / max(1, num_drafted):.0%}"
        print(f"| {shown} | up to {longest} | {num_tokens / num_steps:.2f} | {accepted} |")


if __name__ == "__main__":
    main()
