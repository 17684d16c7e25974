"""Cross-validate on the 77 conversations: what is measured never seeds what the student learns.

Usage, from the project's root:

    examples/voice-banking/cross_validate.py [FOLDS [NAME [OVERRIDE ...]]]

NAME is the configuration's, voice or voice-0.5b. Runs `potstill generate`, `train`, `quantize`,
`baseline` and `compare` for each fold, in runs/NAME-1, runs/NAME-2, ...; resumes what was
interrupted; prints a table at the end. Overrides are those of `--set`.
"""

import json
import subprocess
import sys
from collections import defaultdict
from difflib import SequenceMatcher
from pathlib import Path

import pyarrow.parquet as pq

from compare.answers.questions import messages_id
from compare.verdict.intervals import mean_interval
from potstill.rundir import RunDirectory
from potstill.schema import Message
from potstill.task.answers import Answer
from potstill.task.stage import read_task

HERE = Path(__file__).parent
SIMILAR = 0.6
"""Ratio of matching characters from which two conversations stand in one fold: two transcripts of
one sentence must not be on both sides."""
ALPHA = 0.05


def text_of(row: dict) -> str:
    """Return the user's words in lower case, without spaces, which recognition puts anywhere."""
    said = (message["content"] for message in row["messages"] if message["role"] == "user")
    return "".join(" ".join(said).lower().split())


def groups_of(rows: list[dict]) -> list[list[dict]]:
    """Return the conversations in groups of similar ones with the same answer."""
    groups: list[list[dict]] = []
    for row in rows:
        for group in groups:
            if any(
                one["answer"] == row["answer"]
                and SequenceMatcher(None, text_of(one), text_of(row)).ratio() > SIMILAR
                for one in group
            ):
                group.append(row)
                break
        else:
            groups.append([row])
    return groups


def write_fold(fold: int, num_folds: int, directory: Path) -> list[str]:
    """Write a fold's examples and references, and return the overrides that name them."""
    text = (HERE / "conversations.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    groups = sorted(groups_of(rows), key=lambda group: group[0]["answer"]["name"])
    held_out = [row for group in groups[fold::num_folds] for row in group]
    parts = {"references": held_out, "examples": [row for row in rows if row not in held_out]}
    directory.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return [f"task.{name}={directory / f'{name}.jsonl'}" for name in parts]


def run_fold(root: Path, name: str, overrides: list[str]) -> None:
    """Run all stages; those that are finished are skipped."""
    settings = [f"--config={HERE / name}.toml", *(f"--set={one}" for one in overrides)]
    for stage in ("generate", "train", "quantize", "baseline", "compare"):
        options = [] if stage == "baseline" else settings
        command = [sys.executable, "-m", "potstill", stage, str(root), *options]
        subprocess.run(command, check=True)


def values_of(root: Path) -> dict[str, dict[str, float]]:
    """Return the first metric's value of each answer, by who answered and by prompt."""
    task = read_task(RunDirectory(root))
    metric = task.make_metrics()[0]
    items = {messages_id(item.messages): item for item in task.references}
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in pq.read_table(root / "comparison" / "pairs.parquet").to_pylist():
        if row["prompt_id"] not in items:  # the gate's own suites
            continue
        message = Message(role="assistant", content=row["answer"], tool_calls=row["tool_calls"])
        score = metric.score(Answer.from_message(message), items[row["prompt_id"]])
        found[row["role"]][f"{root.name} {row['prompt_id']}"] = score.value
    return found


def interval(values: list[float], least: float) -> str:
    """Return a mean and its 90% interval, as the verdict has it."""
    found = mean_interval(values, alpha=ALPHA, bounds=(least, 1.0))
    return f"{found.mean:+.3f} [{found.lower:+.3f}, {found.upper:+.3f}]"


def main(num_folds: int, name: str, overrides: list[str]) -> None:
    """Run the folds and print who has how many calls right, over all of them."""
    pooled: dict[str, dict[str, float]] = defaultdict(dict)
    for fold in range(num_folds):
        root = Path(f"runs/{name}-{fold + 1}")
        parts = write_fold(fold, num_folds, Path("runs/voice-folds") / str(fold + 1))
        run_fold(root, name, [*parts, *overrides])
        for role, values in values_of(root).items():
            pooled[role] |= values
    student = pooled["student"]
    lines = ["| who | right call | the student is ahead by | prompts |", "|---|---|---|--:|"]
    for role, values in pooled.items():
        ahead = [student[prompt] - value for prompt, value in values.items()]
        own, lead = interval(list(values.values()), 0.0), interval(ahead, -1.0)
        lines.append(f"| {role} | {own} | {lead} | {len(values)} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]) if given else 3, given[1] if given[1:] else "voice", given[2:])
