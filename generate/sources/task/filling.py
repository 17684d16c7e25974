"""Dialogues that fill in one call: turns name arguments, and the assistant calls with those so far.

In: a call, or the messages of an example. Out: messages; whether an example is such a dialogue.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import pairwise

from potstill.json_text import parse_object
from potstill.schema import Message
from potstill.task.answers import Answer, ToolCall

USER = Message(role="user", content="")


def is_filled_in(messages: Sequence[Message], known: Answer | None) -> bool:
    """Return whether a dialogue has calls of one tool only, each with the arguments before it."""
    between = [message for message in messages if message.role not in ("system", "user")]
    if known is None or not between or any(message.content for message in between):
        return False
    answers = [*map(Answer.from_message, between), known]
    if any(len(answer.tool_calls) != 1 for answer in answers):
        return False
    calls = [answer.tool_calls[0] for answer in answers]
    return all(
        one.name == other.name and _pairs(one) <= _pairs(other) for one, other in pairwise(calls)
    )


def filled_in(call: ToolCall, num_turns: int, draw: random.Random) -> tuple[Message, ...]:
    """Return the messages of a dialogue up to the user's last, whose texts are empty.

    Args:
        num_turns: Of the user; fewer where the call has fewer arguments. The first may name none.
    """
    arguments = json.loads(call.arguments)
    names = draw.sample(list(arguments), len(arguments))
    num_calls = min(num_turns - 1, len(names))
    # Each turn but the first names at least one.
    ends = sorted(draw.sample(range(len(names)), num_calls))
    messages = [USER]
    for end in ends:
        so_far = {name: value for name, value in arguments.items() if name in names[:end]}
        made = ToolCall(name=call.name, arguments=json.dumps(so_far, ensure_ascii=False))
        messages += [Answer(tool_calls=(made,)).to_message(), USER]
    return tuple(messages)


def _pairs(call: ToolCall) -> set[str]:
    return {json.dumps(pair, sort_keys=True) for pair in parse_object(call.arguments).items()}
