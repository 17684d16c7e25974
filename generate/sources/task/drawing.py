"""Draws what the teacher is asked for: a label, a call, a record, or an answer of the examples.

In: the task and the table of a source. Out: `Wanted` inputs by category.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from generate.sources.task.calls import Calls
from generate.sources.task.values import Values, choices
from generate.sources.task.wanted import Turn, Wanted
from generate.sources.task_config import TaskKeys
from potstill.errors import ConfigError
from potstill.task.answers import Answer, Item
from potstill.task.categories import Categories
from potstill.task.functions import import_function
from potstill.task.items import tool_calls_in
from potstill.task.metrics.fields import leaves
from potstill.task.metrics.tool_calls import NO_CALL
from potstill.task.task import Task

LIST = re.compile(r"\s*[;,\n]\s*(?:(?:and|or)\s+)?")
"""What separates the entries of a description."""
OTHER_VALUE = "*"
"""Key of the words for all values that a table of phrases does not name."""
MAX_DRAWS = 200
"""Drawn records of which one has a field of a part."""
MIN_ENTRIES = 3
"""A description with fewer entries is one sentence."""


class Drawing:
    """Draws inputs of a task.

    Raises:
        ConfigError: The source names a category or a function that does not exist, or the task has
            nothing to draw from.
    """

    def __init__(self, task: Task, config: TaskKeys) -> None:
        self.categories = Categories(task)
        self._task, self._config = task, config
        known = [item for item in task.examples if item.known is not None]
        self._by_category: dict[str | None, list[Item]] = {}
        for item in filter(_is_asked_at_once, known):
            category = self.categories.of(item.known) if item.known else None
            self._by_category.setdefault(category, []).append(item)
        self._calls = (
            Calls(task.tools, known, config.values, config.descriptions) if task.tools else None
        )
        fields = [leaf for item in known if item.known for leaf in _fields(item.known)]
        self._values = Values(config.values, fields)
        self._function = (
            import_function(config.draw, "generate.prompts.sources: draw") if config.draw else None
        )
        self._check()

    @property
    def weights(self) -> dict[str, float]:
        """The wanted share of each category, not normalized; one empty name without categories.

        The parts of records are categories, too.
        """
        if self._config.parts:
            return dict.fromkeys(self._config.parts, 1.0)
        if self._function is not None:
            return {"": 1.0}
        weights = {name: self._weight(name) for name in self.categories.names}
        if not self.examples(NO_CALL):
            weights.pop(NO_CALL, None)
        return {name: weight for name, weight in weights.items() if weight > 0} or {"": 1.0}

    def examples(self, category: str) -> list[Item]:
        """Return the examples of a category with known answers."""
        return self._by_category.get(category, [])

    def read(self, item: Item) -> Wanted:
        """Return what an example is, as if it had been drawn."""
        if self._calls is not None and item.known is not None:
            return self._calls.read(item)
        category = self.categories.of(item.known) if item.known else None
        known = item.known if category is None and self._config.direction == "answer" else None
        turn = self._turn(category, None) if known is None else self._of(known).turns[0]
        num_turns = sum(message.role == "user" for message in item.messages)
        return Wanted((*[Turn()] * (num_turns - 1), turn), category)

    def draw(self, category: str, draw: random.Random) -> Wanted:
        """Return an input of a category; of any kind for the empty name.

        Raises:
            ConfigError: A value cannot be drawn, or the user's function fails.
        """
        if self._config.parts:
            return self._part(category, draw)
        return self._whole(category, draw)

    def stating(self, record: Mapping[str, Any], like: Wanted) -> Wanted:
        """Return an input that states a record, its fields in the order of the task's schema."""
        schema = self._task.schema_content or {}
        order = [*schema.get("properties", {}), *record]
        ordered = {name: record[name] for name in dict.fromkeys(order) if name in record}
        known = like.with_record(ordered).known
        return self._of(known or Answer())

    def _part(self, name: str, draw: random.Random) -> Wanted:
        """Return an input for the fields of one part, of the first record that has some."""
        fields = self._config.parts[name]
        for _ in range(MAX_DRAWS):
            whole = self._whole("", draw)
            if whole.record is None:
                raise ConfigError(
                    "only records that are flat objects have parts",
                    where="generate.prompts.sources: parts",
                    found="an answer of another kind was drawn",
                )
            record = {key: one for key, one in whole.record.items() if key in fields}
            if record:
                return self.stating(record, whole)
        raise ConfigError(
            "a part has none of the fields that records have",
            where=f"generate.prompts.sources: parts.{name}",
            found=f"no field in {MAX_DRAWS} drawn records",
        )

    def _whole(self, category: str, draw: random.Random) -> Wanted:
        if self._function is not None:
            return self._own(draw)
        if self._config.direction == "input":
            return self._input(category, draw)
        if self._calls is not None:
            return self._calls.draw(category, self.examples(category), draw)
        if category:
            return Wanted((self._turn(category, draw),), category, self._labeled(category))
        schema = self._task.schema_content
        if schema is not None:
            record = self._values.draw(schema, "", draw)
            return self._of(Answer(text=json.dumps(record, ensure_ascii=False)))
        answers = [item.known for items in self._by_category.values() for item in items]
        return self._of(draw.choice(answers) or Answer())

    def _input(self, category: str, draw: random.Random) -> Wanted:
        turn = self._turn(category or None, draw)
        is_known = category and self.categories.label and self._config.known_labels
        return Wanted((turn,), category or None, self._labeled(category) if is_known else None)

    def _own(self, draw: random.Random) -> Wanted:
        if self._function is None:
            raise ValueError("no function")
        try:
            answer = self._function(draw)
        except Exception as error:
            raise ConfigError(
                "the function that draws answers failed",
                where=f"generate.prompts.sources: draw = {self._config.draw}",
                found=f"{type(error).__name__}: {error}",
            ) from error
        if isinstance(answer, tuple):
            return _described(*answer)
        calls = tool_calls_in(answer) if self._task.tools else None
        if calls is not None and self._calls is not None:
            return self._calls.asked_for(Answer(tool_calls=calls))
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        return self._of(Answer(text=text))

    def _of(self, known: Answer) -> Wanted:
        """Return one message for a known answer: with all its facts if it is a record."""
        category, fields = self.categories.of(known), dict(_numbered(_fields(known)))
        if category is not None:
            return Wanted((self._turn(category),), category, known)
        if not fields or "" in fields:
            return Wanted((Turn(answer=known.text),), known=known)
        labels = choices(self._task.schema_content)
        turn = Turn(says=fields, facts=tuple(self._facts(fields)))
        return Wanted((turn,), known=known, is_exact=True, labels=labels)

    def _facts(self, fields: Mapping[str, object]) -> Iterator[str]:
        """Yield the fields in words, if the configuration has words for any."""
        phrases = self._config.phrases
        for name, value in fields.items() if phrases else ():
            phrase = phrases.get(name, f"{_words(name)}: {{}}")
            plain = value if isinstance(value, str) else json.dumps(value)
            if not isinstance(phrase, str):
                phrase = phrase.get(plain, phrase.get(OTHER_VALUE, f"{_words(name)}: {{}}"))
            yield phrase.replace("{}", plain)

    def _turn(self, category: str | None, draw: random.Random | None = None) -> Turn:
        if category is None:
            return Turn()
        described = self._description(category)
        entries = [one.strip(" .") for one in LIST.split(described) if one.strip(" .")]
        if draw is not None and len(entries) >= MIN_ENTRIES:
            return Turn(f"{_words(category)}, about: {draw.choice(entries)}")
        return Turn(f"{_words(category)} ({described})" if described and draw else _words(category))

    def _description(self, category: str) -> str:
        if category in self._config.descriptions:
            return self._config.descriptions[category]
        if self._calls is not None:
            return self._calls.describe(category)
        line = re.search(
            rf"^[\W_]*{re.escape(category)}[\W_]*?\s*(?::|=|\(|\s-)\s*(.+?)\)?\.?$",
            self._task.instructions,
            re.MULTILINE | re.IGNORECASE,
        )
        return line[1].strip() if line else ""

    def _labeled(self, label: str) -> Answer:
        field = self.categories.label.field if self.categories.label else None
        content: Any = label
        for key in reversed(field.split(".") if field else []):
            content = {key: content}
        return Answer(text=content if field is None else json.dumps(content, ensure_ascii=False))

    def _weight(self, name: str) -> float:
        base = 1.0 if self._config.balance == "even" else float(len(self.examples(name)))
        return base * self._config.shares.get(name, 1.0)

    def _check(self) -> None:
        for key in ("shares", "descriptions"):
            unknown = set(getattr(self._config, key)) - set(self.categories.names)
            if unknown:
                raise ConfigError(
                    "a source names a label or tool that the task does not have",
                    where=f"generate.prompts.sources: {key}",
                    expected=", ".join(self.categories.names) or "none: the task has no labels",
                    found=", ".join(sorted(unknown)),
                )
        has_answers = self._task.tools or self._task.answer_schema or self.categories.names
        if self._config.direction == "answer" and not (
            has_answers or self._function or self._by_category
        ):
            raise ConfigError(
                "there is nothing to draw answers from",
                where='generate.prompts.sources: direction = "answer"',
                expected="tools, labels, an answer_schema, examples with known answers, or draw",
            )
        if self._config.parts and (self._config.direction == "input" or self._task.tools):
            raise ConfigError(
                "only drawn records have parts",
                where="generate.prompts.sources: parts",
                expected='direction = "answer", and no tools',
            )
        fields = [field for part in self._config.parts.values() for field in part]
        if twice := sorted(field for field, count in Counter(fields).items() if count > 1):
            raise ConfigError(
                "a field is in two parts",
                where="generate.prompts.sources: parts",
                expected="each field in one part at most",
                found=", ".join(twice),
            )
        if self._config.direction == "input" and not self._task.examples:
            raise ConfigError(
                "inputs are written in the style of examples, and there are none",
                where="task.examples",
                expected="a JSONL file with some inputs",
            )


def _described(answer: str, wants: str, says: Mapping[str, Any] = MappingProxyType({})) -> Wanted:
    """Return one message for an answer that comes with its description in words."""
    return Wanted((Turn(wants, says, answer),), known=Answer(text=answer))


def _is_asked_at_once(item: Item) -> bool:
    """Return whether an answer without calls follows no call: such inputs can be asked for."""
    has_called = any(message.tool_calls for message in item.messages)
    return not has_called or bool(item.known and item.known.tool_calls)


def _fields(known: Answer) -> list[tuple[str, object]]:
    try:
        return leaves(json.loads(known.text))
    except ValueError:
        return []


def _numbered(fields: Sequence[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    """Give entries of a list names of their own."""
    counts = Counter(name for name, _ in fields)
    seen: Counter[str] = Counter()
    for name, value in fields:
        seen[name] += 1
        yield (name if counts[name] == 1 else f"{name} {seen[name]}"), value


def _words(category: str) -> str:
    return category.replace("_", " ")
