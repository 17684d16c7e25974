"""The chat template's text between two turns, so that a conversation grows by appending token ids.

In: a tokenizer with a chat template. Out: the token ids between the teacher's last sampled token
and the next turn. Sampled text is never tokenized again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from potstill.chat import ChatTokenizer, render_text, tokenize
from potstill.errors import TeacherError
from potstill.schema import Message

MARKS = [f"\N{LEFT WHITE SQUARE BRACKET}{number}\N{RIGHT WHITE SQUARE BRACKET}" for number in "123"]
SYSTEM = "Be brief."
THOUGHT = f"<think>\n{MARKS[1]}\n</think>\n\n{MARKS[2]}"
"""An answer that is rewritten by templates that drop the thinking of earlier turns."""


@dataclass(frozen=True)
class TurnSeparators:
    """The text between turns, end-of-turn tokens included."""

    before_user: str
    """From the end of an answer to the start of the user's turn."""
    before_answer: str
    """From the end of a user's turn to the start of the answer."""
    after_answer: str
    """From the end of an answer to the end of its turn."""


def find_turn_separators(
    tokenizer: ChatTokenizer, *, has_system: bool = False, tools: str | None = None
) -> TurnSeparators:
    """Derive the separators from what the chat template renders.

    Args:
        has_system: Whether the conversation begins with a system message.
        tools: JSON list of its tools. Some templates render either only before the last turn.

    Raises:
        TeacherError: The template changes earlier turns when a turn is added, so that the teacher
            would see other tokens than it sampled.
    """

    def render(*turns: Message, add_generation_prompt: bool = True) -> str:
        system = [Message(role="system", content=SYSTEM)] if has_system else []
        return render_text(
            tokenizer,
            [*system, *turns],
            tools=tools,
            add_generation_prompt=add_generation_prompt,
        )

    asked = Message(role="user", content=MARKS[0])
    answered = Message(role="assistant", content=MARKS[1])
    again = Message(role="user", content=MARKS[2])
    thought = Message(role="assistant", content=THOUGHT)
    first = render(asked)
    second = render(asked, answered, again)
    prefix, _, before_answer = first.partition(MARKS[0])
    _, _, rest = second.partition(MARKS[1])
    before_user = rest.partition(MARKS[2])[0]
    turn = MARKS[1] + before_user + MARKS[2] + before_answer
    if (
        second != prefix + MARKS[0] + before_answer + turn
        or render(asked, answered, again, answered, again) != second + turn
        or THOUGHT not in render(asked, thought, again)
    ):
        raise TeacherError(
            "the teacher's chat template rewrites earlier turns when a turn is added",
            where="the tokenizer's chat template",
            expected="a template that only appends, so that the teacher sees the tokens it sampled",
            hint="ask for one turn (generate.turns.kind = 'single'), or score whole conversations "
            "(generate.turns.kind = 'score')",
        )
    ended = render(asked, answered, add_generation_prompt=False)
    return TurnSeparators(before_user, before_answer, ended.partition(MARKS[1])[2])


def after(tokenizer: ChatTokenizer, last_token_id: int, separator: str) -> list[int] | None:
    """Return a separator's ids after a sampled token; None when that token does not begin it.

    A turn that ended with another token, or at its maximum length, cannot be continued.
    """
    token_ids = tokenize(tokenizer, separator)
    return token_ids[1:] if token_ids[:1] == [last_token_id] else None


def require_user_turns_end(
    tokenizer: ChatTokenizer, separators: TurnSeparators, end_token_ids: Collection[int]
) -> None:
    """Check that the teacher, in the user's turn, stops at the token that ends it.

    Raises:
        TeacherError: The template ends a user's turn with another token, or with none.
    """
    first = tokenize(tokenizer, separators.before_answer)[:1]
    if not set(first) & set(end_token_ids):
        raise TeacherError(
            "the teacher cannot play the user: its template does not end a user's turn with a "
            "token that ends sampling",
            where="the tokenizer's chat template",
            expected=f"one of the token ids {sorted(end_token_ids)}",
            found=first or "nothing",
            hint="name another model in [generate.turns.user], or replay stored user turns",
        )
