"""Split the conversations for cross-validation: two transcripts of one sentence stay together.

Usage: python examples/voice-banking/folds.py 3 runs/voice-folds
"""

import json
import sys
from difflib import SequenceMatcher
from pathlib import Path

SIMILAR = 0.6
"""Ratio of matching characters from which two conversations stand in one fold."""


def text_of(row: dict) -> str:
    """Return the user's words in lower case, without spaces, which recognition puts anywhere."""
    said = (message["content"] for message in row["messages"] if message["role"] == "user")
    return "".join(" ".join(said).lower().split())


def groups_of(rows: list[dict]) -> list[list[dict]]:
    """Return the conversations in groups of similar ones."""
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


def main(num_folds: int, directory: Path) -> None:
    """Write `examples` and `references` of each fold, with all tools in all folds."""
    path = Path(__file__).with_name("conversations.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    groups = sorted(groups_of(rows), key=lambda group: group[0]["answer"]["name"])
    for fold in range(num_folds):
        held_out = [row for group in groups[fold::num_folds] for row in group]
        parts = {"references": held_out, "examples": [row for row in rows if row not in held_out]}
        place = directory / str(fold + 1)
        place.mkdir(parents=True, exist_ok=True)
        for name, part in parts.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
            (place / f"{name}.jsonl").write_text(text, encoding="utf-8")
        counts = f"{len(parts['examples'])} examples, {len(held_out)} references"
        sys.stdout.write(f"{place}: {counts}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
