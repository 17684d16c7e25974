"""Ollama's Modelfile for a GGUF file.

Ollama does not run the Jinja template in the file: it looks for a similar one in its own list and
otherwise sends bare text. So a template that puts fixed texts before and after each turn is
translated to Ollama's template language (Go), and the translation is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from potstill.schema import Message, Role

ROLES: tuple[Role, ...] = ("system", "user", "assistant")
MARKS = {
    role: f"\N{LEFT WHITE SQUARE BRACKET}{role}\N{RIGHT WHITE SQUARE BRACKET}" for role in ROLES
}


@dataclass(frozen=True)
class PlainTemplate:
    """A chat template that puts fixed texts before and after each turn.

    Attributes:
        before: Text before a turn's content, by role.
        after: Text after it.
        opening: Text that opens the assistant's turn.
        default_system: System message used when a chat has none; None when there is none.
    """

    before: dict[Role, str]
    after: dict[Role, str]
    opening: str
    default_system: str | None

    def render(self, messages: Sequence[Message]) -> str:
        """Render a chat up to the assistant's turn, as Ollama will."""
        turns = list(messages)
        if self.default_system is not None and turns[0].role != "system":
            turns.insert(0, Message(role="system", content=self.default_system))
        texts = [self.before[m.role] + m.content + self.after[m.role] for m in turns]
        return "".join(texts) + self.opening

    def to_go(self) -> str:
        """Return the template in Go's language, as Ollama reads it."""
        branches = "".join(
            f'{{{{ {"if" if number == 0 else "else if"} eq .Role "{role}" }}}}'
            f"{self.before[role]}{{{{ .Content }}}}{self.after[role]}"
            for number, role in enumerate(ROLES)
        )
        return f"{{{{ range .Messages }}}}{branches}{{{{ end }}}}{{{{ end }}}}{self.opening}"


def write_modelfile(
    file_name: str,
    tokenizer: Any,  # noqa: ANN401  (a transformers tokenizer)
    stops: Sequence[str],
    chats: Sequence[list[Message]],
    adapter_name: str | None = None,
) -> str:
    """Return the Modelfile of a GGUF file in the same directory.

    Args:
        stops: Texts of the tokens that end a turn.
        chats: Chats on which a translated template must agree with the checkpoint's, which is
            expected of chats without tools only.
        adapter_name: The adapter's file in the same directory; None: none.
    """
    lines = [f"FROM ./{file_name}"]
    if adapter_name is not None:
        lines.append(f"ADAPTER ./{adapter_name}")
    template = translate_template(tokenizer, chats)
    if template is None:
        lines.append("# TEMPLATE left out: the file's own template cannot be translated to Go.")
    else:
        lines.append(f'TEMPLATE """{template.to_go()}"""')
        if template.default_system is not None:
            lines.append(f'SYSTEM """{template.default_system}"""')
    # Ollama has no escapes: what could end the quotation would be read as further instructions.
    plain = [stop for stop in stops if not set('"\\\r\n') & set(stop)]
    lines += [f'PARAMETER stop "{stop}"' for stop in plain]
    if len(plain) < len(stops):
        lines.append("# Texts that end an answer are left out: they cannot be quoted.")
    lines.append("PARAMETER temperature 1")
    return "\n".join(lines) + "\n"


def translate_template(
    tokenizer: Any,  # noqa: ANN401
    chats: Sequence[list[Message]],
) -> PlainTemplate | None:
    """Return the fixed texts of a chat template; None if it does not consist of such."""
    template = _probe(tokenizer)
    if template is None:
        return None
    literals = [*template.before.values(), *template.after.values(), template.opening]
    if any(mark in text for text in literals for mark in ("{{", "}}")):
        return None
    if not all(map(can_be_quoted, (template.to_go(), template.default_system or ""))):
        return None
    dialogue = [Message(role=role, content=f"{role} {n}") for n in (1, 2) for role in ROLES[1:]]
    system = Message(role="system", content="Be brief.")
    plain = [
        chat for chat in chats if all(one.role in ROLES and not one.tool_calls for one in chat)
    ]
    checks = [*plain, dialogue[:3], [system, *dialogue[:3]], [system, dialogue[0]]]
    agrees = all(_render(tokenizer, chat, opened=True) == template.render(chat) for chat in checks)
    return template if agrees else None


def can_be_quoted(text: str) -> bool:
    """Return whether a text can stand between three quotation marks, which cannot be escaped."""
    return '"""' not in text and not text.startswith('"') and not text.endswith('"')


def _probe(tokenizer: Any) -> PlainTemplate | None:  # noqa: ANN401
    user, assistant = (Message(role=role, content=MARKS[role]) for role in ROLES[1:])
    system = Message(role="system", content=MARKS["system"])
    turn = _render(tokenizer, [system, user])
    longer = _render(tokenizer, [system, user, assistant, user])
    if not longer.startswith(turn) or MARKS["system"] not in turn or MARKS["user"] not in turn:
        return None
    opening = _render(tokenizer, [system, user], opened=True).removeprefix(turn)
    # Both user turns of `longer` have the same text, which shows where they begin.
    before_system, _, rest = turn.partition(MARKS["system"])
    between, _, after_user = rest.partition(MARKS["user"])
    tail = longer.removeprefix(turn)
    before_assistant, _, rest = tail.partition(MARKS["assistant"])
    after_and_before = rest.partition(MARKS["user"])[0]
    alone = _render(tokenizer, [system])
    after_system = alone.removeprefix(before_system + MARKS["system"])
    before_user = between.removeprefix(after_system)
    return PlainTemplate(
        before={"system": before_system, "user": before_user, "assistant": before_assistant},
        after={
            "system": after_system,
            "user": after_user,
            "assistant": after_and_before.removesuffix(before_user),
        },
        opening=opening,
        default_system=_default_system(
            _render(tokenizer, [user]),
            before_system,
            after_system + before_user + MARKS["user"] + after_user,
        ),
    )


def _default_system(text: str, before: str, rest: str) -> str | None:
    has_one = text.startswith(before) and text.endswith(rest) and len(text) > len(before + rest)
    return text[len(before) : -len(rest)] if has_one else None


def _render(tokenizer: Any, messages: Sequence[Message], *, opened: bool = False) -> str:  # noqa: ANN401
    return str(
        tokenizer.apply_chat_template(
            [message.to_chat() for message in messages],
            tokenize=False,
            add_generation_prompt=opened,
        )
    )
