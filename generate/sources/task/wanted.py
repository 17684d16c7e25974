"""What the teacher is asked for: the turns of one input, and what each has to say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from potstill.schema import Message
from potstill.task.answers import Answer


@dataclass(frozen=True)
class Turn:
    """One message of the user."""

    wants: str = ""
    """What the user wants, in words; empty when the turn goes on with what was wanted before."""
    says: Mapping[str, Any] = field(default_factory=dict)
    """Values that the message mentions, by name."""
    answer: str = ""
    """A text that answers the message, for the teacher only."""
    after: tuple[Message, ...] = ()
    """The messages up to the user's next one."""
    facts: tuple[str, ...] = ()
    """What it says in words, as the teacher is given them; empty: names and values."""


@dataclass(frozen=True)
class Wanted:
    """One input, with its known answer if the answer was drawn."""

    turns: tuple[Turn, ...]
    category: str | None = None
    known: Answer | None = None
    is_exact: bool = False
    """Whether the messages mention exactly the values that they are to say: the answer has them."""
    labels: frozenset[str] = frozenset()
    """Values that are one of a few choices: they may be said in other words."""
    unsaid: frozenset[str] = frozenset()
    """Choices that no message may name, because the known answer does not have them."""
    before: tuple[Message, ...] = ()
    """System messages of the example that the dialogue follows."""

    @property
    def is_bare(self) -> bool:
        """Whether nothing but a category is wanted: one message, of which nothing else is known."""
        if self.category is None or self.is_exact or len(self.turns) > 1:
            return False
        return not self.turns[0].says and not self.turns[0].answer

    @property
    def record(self) -> Mapping[str, Any] | None:
        """The flat record that one message states; None if it states none."""
        if len(self.turns) != 1 or not self.is_exact or self.known is None:
            return None
        try:
            content = json.loads(self.known.text)
        except ValueError:
            return None
        says = self.turns[0].says
        is_flat = isinstance(content, dict) and all(
            says.get(key) == content[key] for key in content
        )
        return content if is_flat else None

    def with_record(self, record: Mapping[str, Any]) -> Wanted:
        """Return the same with another record, as JSON with or without spaces as before."""
        former = self.known.text if self.known else ""
        says = {name: record[name] for name in self.turns[0].says if name in record}
        turn = replace(self.turns[0], says=says)
        is_compact = former == _dumped(json.loads(former), compact=True)
        return replace(self, turns=(turn,), known=Answer(text=_dumped(record, compact=is_compact)))

    @property
    def said(self) -> list[tuple[str, Any]]:
        """What all turns mention together, as names and values."""
        return [pair for turn in self.turns for pair in turn.says.items()]


def _dumped(record: object, *, compact: bool) -> str:
    return json.dumps(record, separators=(",", ":") if compact else None, ensure_ascii=False)
