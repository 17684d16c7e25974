"""Answers side by side, or below each other in a narrow window.

In: answers that grow. Out: what rich draws. Nothing that a model writes controls the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from potstill.terminal import printable
from serve.terminal.server import Answer
from serve.wire.chunks import thinking_in

LEAST_WIDTH = 40
"""Of one answer, in columns."""
REFRESHES_PER_SECOND = 10


def live(console: Console, answers: Sequence[Answer]) -> Live:
    """Return a display that follows the answers until its block ends, and is gone then."""
    return Live(
        get_renderable=lambda: side_by_side(answers, console.width),
        console=console,
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=True,  # what exceeds the window is cut off, so the whole is printed afterwards
    )


def side_by_side(answers: Sequence[Answer], width: int) -> RenderableType:
    """Return the answers as columns where they fit."""
    share = width // len(answers) - 1
    if len(answers) > 1 and share >= LEAST_WIDTH:
        return Columns([_panel(one, share) for one in answers], padding=(0, 1), expand=True)
    return Group(*(_panel(one, width) for one in answers))


def plain(answer: Answer) -> str:
    """Return an answer as text, for a pipe."""
    return f"{printable(answer.name)}: {_text(answer).plain}"


def _panel(answer: Answer, width: int) -> Panel:
    color = "red" if answer.error else "green" if answer.is_done else "yellow"
    return Panel(
        _text(answer),
        title=Text(printable(answer.name)),
        title_align="left",
        subtitle=_speed(answer),
        subtitle_align="right",
        border_style=color,
        width=width,
    )


def _text(answer: Answer) -> Text:
    message = answer.message
    parts = [
        (thinking_in(message), "dim italic"),
        (message.get("content") or "", ""),
        *((_call(one), "bold cyan") for one in message.get("tool_calls") or ()),
        (answer.error, "red"),
    ]
    said = [Text(printable(text), style) for text, style in parts if text]
    return Text("\n").join(said) or Text("" if answer.is_done else "…")


def _call(call: dict[str, Any]) -> str:
    function = call.get("function", {})
    return f"{function.get('name', '')}({function.get('arguments', '')})"


def _speed(answer: Answer) -> str:
    if answer.is_hidden or not answer.num_tokens or answer.first_seconds is None:
        return ""
    writing = answer.seconds - answer.first_seconds
    speed = f", {(answer.num_tokens - 1) / writing:.0f} tokens/s" if writing > 0 else ""
    tokens = f"{answer.num_tokens} token{'s' if answer.num_tokens > 1 else ''}"
    return f"{answer.seconds:.1f} s, {tokens}{speed}"
