"""The data set card: README.md with Hugging Face's metadata.

In: the manifest's facts and the summary. Out: Markdown.
"""

from __future__ import annotations

import json
from typing import Any

from generate.config import FIRST_TEACHER
from generate.curation.dropped import counts_by_filter, format_counts
from generate.sampling.summary import Summary
from potstill.distributions import ERROR_BOUNDS
from potstill.facts.conversations import ConversationsFacts
from potstill.facts.samples import SignalStats
from potstill.facts.shared import TeacherIdentity

UNKNOWN = "unknown"
THINKING = {
    "answer": "without the thinking after which the teacher answered with its log-probabilities",
    "both": "twice each, with the thinking and without",
}
TERMS = (
    "the terms of its API allow training on them, according to whoever made this data set\n"
    "(`terms_allow_training`)"
)
DECODE = """```python
from pathlib import Path
from potstill.tables import read_conversations

for path in sorted(Path(".").glob("train-*.parquet")):
    for conversation in read_conversations(path):
        conversation.token_ids, conversation.turns, conversation.signal
```"""


def render_card(facts: ConversationsFacts, summary: Summary) -> str:
    """Return the card of the finished conversations.

    Args:
        facts: The manifest's.
        summary: Statistics of the files.
    """
    stats, text_only = summary.stats(), facts.teacher.text_only
    licenses = sorted({license or UNKNOWN for _, license in summary.sources})
    splits = [split for split, count in summary.num_conversations_by_split.items() if count]
    front = [
        "---",
        f"license: {_text(licenses[0].lower() if len(licenses) == 1 else 'other')}",
        *_listed("language", sorted(facts.languages)),
        *_listed("task_categories", ["text-generation"]),
        *_listed(
            "tags", ["distillation", "chat", *([] if text_only else ["logprobs"]), "synthetic"]
        ),
        "configs:",
        "- config_name: default",
        "  data_files:",
        *(f"  - {{split: {split}, path: '{split}-*.parquet'}}" for split in splits),
        "---",
    ]
    return (
        "\n".join(front)
        + f"""

# Conversations of {facts.teacher.model}{"" if text_only else " with log-probabilities"}

{summary.num_conversations:,} conversations, {summary.completion_tokens:,} tokens of the teacher's
answers, {stats.bytes_per_token} bytes per token, all columns included. Made by potstill for the
distillation of a smaller model.

## Origin

- Teacher: {_teacher(facts.teacher)}{_further(facts)}
- Tokenizer `{facts.tokenizer_sha256[:16]}`, chat template `{facts.chat_template_sha256[:16]}`
  (sha256)
- {_how(facts)}{_prompts(facts)}

| source | license of the prompts | conversations |
|---|---|--:|
{
            _rows(
                f"| {_cell(source)} | {_cell(license or UNKNOWN)} | {count:,} |"
                for (source, license), count in sorted(
                    summary.sources.items(), key=lambda item: (item[0][0], item[0][1] or "")
                )
            )
        }
{_by_teacher(facts)}
The answers are the teacher's: {TERMS if text_only else "its license may limit their use"}.

## Content

| split | conversations |
|---|--:|
{_rows(f"| {split} | {count:,} |" for split, count in summary.num_conversations_by_split.items())}

Similar prompts are in the same split. Detected languages of the prompts:
{", ".join(f"{code} {count:,}" for code, count in facts.languages.items()) or UNKNOWN}.

## Dropped

| filter | prompts | conversations |
|---|--:|--:|
{
            _rows(
                f"| {name} | {prompts:,} | {conversations:,} |"
                for name, prompts, conversations in counts_by_filter(facts)
            )
            or "| nothing | 0 | 0 |"
        }

`dropped.parquet` here and beside the prompts has every dropped row with its reason.

## The signal

{_signal(facts, stats)}

{DECODE}

Any Parquet reader and `datasets.load_dataset` open the files; potstill's
docs/reference/data-format.md says how to decode the columns by hand.
"""
    )


def _teacher(teacher: TeacherIdentity) -> str:
    if teacher.text_only:
        return f"{teacher.model}, behind an API that gave text alone"
    return f"{teacher.model}, {teacher.dtype}, fingerprint\n  `{teacher.fingerprint[:16]}`"


def _further(facts: ConversationsFacts) -> str:
    """Return the lines on teachers beside the first one; empty without any."""
    return "".join(
        f"\n- Further teacher `{name}`: {_teacher(teacher.identity)}"
        for name, teacher in facts.further_teachers.items()
    )


def _by_teacher(facts: ConversationsFacts) -> str:
    """Return the table of who answered; empty with one teacher. The column `teacher` has it too."""
    if not facts.further_teachers:
        return ""
    levels = {FIRST_TEACHER: "sequence" if facts.teacher.text_only else "token"}
    levels |= {name: teacher.level for name, teacher in facts.further_teachers.items()}
    rows = _rows(
        f"| {_cell(name)} | {level} | {facts.num_by_teacher.get(name, 0):,} |"
        for name, level in levels.items()
    )
    return f"""
| teacher | level | conversations |
|---|---|--:|
{rows}
"""


def _signal(facts: ConversationsFacts, stats: SignalStats) -> str:
    if facts.teacher.text_only:
        return (
            "There is none but the text: it is stored in the tokens of the student, each with\n"
            "probability 1."
        )
    return f"""Per token of an answer: the token's own log-probability, and at most the
{facts.top_logprobs} most probable tokens with a probability of at least {facts.min_probability}
({stats.entries_per_token} on average). They leave out {stats.mean_tail_mass:.1%} of the
probability; the entropy is at least {stats.entropy_bits} bits. {ERROR_BOUNDS}"""


def _how(facts: ConversationsFacts) -> str:
    if facts.turns == "score":
        return "Stored answers, scored by the teacher"
    how = (
        f"Sampled at temperature {facts.generation_temperature} and top-p "
        f"{facts.generation_top_p}, turns: {facts.turns}"
    )
    if facts.num_sampled_per_prompt > facts.num_kept_per_prompt:
        how += (
            f"; {facts.num_kept_per_prompt} kept of {facts.num_sampled_per_prompt} sampled "
            "for each prompt"
        )
    if facts.structured:
        how += "; bound by a schema, which the log-probabilities leave out"
    if facts.known_answers:
        how += "; known answers, where there are some, instead (certain: probability 1 each token)"
    if facts.num_reviewed:
        how += f"; reviewed by people ({format_counts(facts.num_reviewed)})"
    if facts.student_noise:
        how += f"; errors put into users' messages ({format_counts(facts.student_noise)})"
    if facts.thinking != "think":
        how += f"; {THINKING[facts.thinking]}"
    return how


def _prompts(facts: ConversationsFacts) -> str:
    """Return the line on rewritten prompts; empty without any."""
    if not facts.prompt_distilled:
        return ""
    return f"""
- Prompts are the student's ({facts.student_prompt_tokens} tokens on average); the log-probabilities
  are the teacher's under its own prompts ({facts.teacher_prompt_tokens} tokens)"""


def _rows(lines: Any) -> str:  # noqa: ANN401  (an iterable of lines)
    return "\n".join(lines)


def _listed(key: str, values: list[str]) -> list[str]:
    return [f"{key}:", *(f"- {_text(value)}" for value in values)] if values else []


def _text(value: str) -> str:
    """Quote a text for YAML, which takes `no`, the code of Norwegian, for false."""
    return json.dumps(value)


def _cell(text: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
