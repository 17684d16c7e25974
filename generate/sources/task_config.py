"""Keys of a source of kind `task`: what the teacher is asked to write."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field

from potstill.config import Table
from potstill.task.functions import FUNCTION_PATTERN

Direction = Literal["input", "answer"]

PERSONAS = (
    "a student",
    "a retired person",
    "somebody in a hurry",
    "a patient and polite person",
    "an annoyed person",
    "a worried person",
    "somebody who explains everything that happened",
    "somebody who comes straight to the point",
    "somebody who is new to this",
    "an expert",
    "a parent",
    "the owner of a small business",
    "somebody on a journey abroad",
    "somebody whose first language is another one",
)
NOISES = {"none": 4.0, "lowercase": 1.0, "typos": 1.0}


class TaskKeys(Table):
    """Keys for sources of kind `task` only."""

    direction: Direction = "input"
    """`input`: the teacher writes new inputs in the style of the examples. `answer`: the answer is
    drawn first, and the teacher writes the input that asks for it, so that the known answer is
    exact: a call of a tool, a label, a record of `task.answer_schema`, an answer of an example."""
    request: str = ""
    """One or two sentences for the teacher about who writes and what, such as "Customers of a bank
    write to its chat."; empty: the task's instructions stand in their place."""
    num_shots: int = Field(default=5, ge=0)
    """Examples in the teacher's prompt, most of the wanted label; each label has four sets of them,
    which the engine reads once."""
    balance: Literal["even", "examples"] = "even"
    """Shares of labels or tools: all the same, or as among the examples."""
    shares: dict[str, float] = Field(default={})
    """Factors on the share that `balance` gives a label or tool; 0 leaves it out."""
    descriptions: dict[str, str] = Field(default={})
    """What belongs to a label or tool. Else a line of the instructions such as `- cards: orders,
    delivery, limits`, or the tool's description. Of a list with commas one entry is drawn each
    time, so a long list gives varied inputs."""
    known_labels: bool = True
    """With `direction = "input"`, whether the label that an input was asked for is its known
    answer. false: it only keeps the balance."""
    personas: tuple[str, ...] = PERSONAS
    """Who writes, one drawn for each input; empty: nobody in particular."""
    lengths: tuple[str, ...] = ()
    """Lengths, such as "two sentences", one drawn for each input; empty: those of the examples."""
    noise: dict[str, float] = NOISES
    """Relative frequency of each kind of noise. `none`, `lowercase`, `capitals`, `typos` and
    `speech` (what English speech recognition leaves: fillers, spelled numbers, homophones) are
    applied to the teacher's text; any other name is asked of the teacher in these words."""
    values: dict[str, str | tuple[Any, ...]] = Field(default={})
    """Values of fields and arguments by their path (`pay_bill.payee`) or name (`payee`): a list, or
    `module:function` or `file.py:function` called with a `random.Random`. Others are drawn from the
    schema and from the examples."""
    draw: str | None = Field(default=None, pattern=FUNCTION_PATTERN)
    """`module:function` or `file.py:function` that draws whole answers, called with a
    `random.Random`: returns a text, or a JSON value; with tools a call
    {"name", "arguments"} or a list of them. A tuple is a text with what its input wants, in words,
    and perhaps the values that it must mention, by name."""
    phrases: dict[str, str | dict[str, str]] = Field(default={})
    """Words for the fields of a record: a text with `{}` for the value, or a table of
    words by value, such as `{ true = "has a fever", false = "denies fever" }` or
    `{ none = "no known allergies", "*" = "allergic to {}" }`. Others are names with values, which
    a small teacher tends to leave out."""
    check: str | None = Field(default=None, pattern=FUNCTION_PATTERN)
    """`module:function` or `file.py:function` that judges written inputs after the other checks:
    called with the text of the user's turns and the text of the known answer (None: unknown);
    returns None, or the reason for dropping the input."""
    may_omit: list[str] = Field(default=[])
    """Fields of a record that an input may leave out: its known answer then leaves them out too.
    Name only those whose value the checks find in any wording, such as numbers and
    dates. Without it an input that leaves a value out is dropped."""
    refills: int = Field(default=0, ge=0)
    """With `direction = "answer"` and records, copies of each written input that are made
    without the teacher: values that it contains literally are replaced by those of another drawn
    record, and the result passes the same checks. 2 makes three inputs of one."""
    refill_draw: str | None = Field(default=None, pattern=FUNCTION_PATTERN)
    """Like `draw`, for the records of `refills` and `parts`: with names and terms that no other
    input has, even made-up ones, the student learns to copy them. None: those of `draw`."""

    parts: dict[str, tuple[str, ...]] = Field(default={})
    """With `direction = "answer"` and records: the fields of each part of an input, by any name,
    such as `{ patient = ["name", "age"], plan = ["drug", "dose"] }`. The teacher writes passages,
    each for one part of a record, and an input is made of one of each, with the values of a record
    of `refill_draw`. A small teacher forgets fewer of a few facts, and some hundred passages make
    any number of inputs. Fields in no part are in no input."""
    num_passages: int = Field(default=100, ge=2)
    """Passages that the teacher writes for each of the `parts`."""

    def num_to_write(self, count: int) -> int:
        """Return how many inputs or passages the teacher writes for so many inputs."""
        if self.parts:
            return len(self.parts) * self.num_passages
        return math.ceil(count / (1 + self.refills))

    @property
    def for_refills(self) -> Self:
        """The same with what draws the whole records of refills and of inputs in parts."""
        return self.model_copy(update={"draw": self.refill_draw or self.draw, "parts": {}})
