"""What `potstill init` asks on a terminal: examples or a kind of answers, the job, the teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer

from generate.init.make import DEFAULT_TEMPLATE, Wanted
from potstill.models.named import NAMED_MODELS, QWEN_CODER_1_5B
from potstill.terminal import key_among

KINDS = {
    "answers": "answers from a text that comes with the question",
    "chat": "open conversation",
    "classify": "a label",
    "extract": "a JSON record",
    "sql": "a query of a database",
    "tools": "calls of tools",
}
"""What the answers of each template are."""


def ask(wanted: Wanted) -> Wanted:
    """Return what is wanted, with the user's answers; an empty answer takes the default."""
    like = _existing_file("JSONL or CSV file of examples, prompts with answers (Enter: none yet)")
    template = wanted.template
    if like is None:
        for name, text in KINDS.items():
            typer.echo(f"  {name:9} {text}")
        template = typer.prompt(
            "What an answer is", default=DEFAULT_TEMPLATE, value_proc=key_among(KINDS)
        )
    about = wanted.about
    if about is None:
        about = typer.prompt("The job, in a sentence", default="", show_default=False) or None
    teacher = wanted.teacher
    if teacher is None:
        typer.echo(f"  {', '.join(NAMED_MODELS)}, or a checkpoint or a GGUF file of yours")
        teacher = typer.prompt("The teacher", default=QWEN_CODER_1_5B.name)
    return replace(wanted, like=like, template=template, about=about, teacher=teacher)


def _existing_file(question: str) -> Path | None:
    while given := typer.prompt(question, default="", show_default=False):
        path = Path(given).expanduser()
        if path.is_file():
            return path
        typer.echo(f"there is no file {path}", err=True)
    return None
