"""What the answers of a task are: labels, JSON, calls of tools, queries, numbers or text.

In: known answers. Out: the template that suits them, metrics, and schemas drawn from the answers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from generate.init.schemas import object_schema
from potstill.json_text import parse_json
from potstill.task.answers import Answer

MOST_LABELS = 100
"""More different answers are no labels."""
FEWEST_PER_LABEL = 2
"""Mean number of answers per label: values that hardly repeat are no labels."""
LONGEST_LABEL = 60
"""In characters."""
MOST_FIELDS_OF_LABEL = 3
"""JSON answers with more fields are records, whatever their values."""
SQL = re.compile(r"^\s*(select|with)\b", re.IGNORECASE)
NUMBER = re.compile(r"-?[\d.,]*\d\s*\D{0,3}$")
FEWEST_WORDS = 5
"""Mean number of words of a sentence: names and dates have fewer."""
DECLINING = "We cannot help with that."
NO_LABEL = "none"
"""Label of harmful requests, which are declined. With the label of others these are, too."""
GROUNDED = {"answer", "quote"}
"""Fields of answers from a context, see the metric `grounded`."""


@dataclass(frozen=True)
class Detected:
    """What the answers are, and what follows from it.

    Attributes:
        template: Name of the template.
        found: In words.
        metrics: Tables of `[[task.metrics]]`; the first one decides.
        answer_schema: JSON schema of the answers; None where they are no JSON.
        tools: Definitions of the called tools, as OpenAI spells them; None: no calls.
        declining: Answer to a harmful request. None: answers say nothing that could do harm, or
            the template has one.
    """

    template: str
    found: str
    metrics: tuple[dict[str, Any], ...] = ()
    answer_schema: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    declining: str | None = None


def detect(known: Sequence[Answer]) -> Detected:
    """Return what known answers are; without any they are taken for free text."""
    if any(answer.tool_calls for answer in known):
        return _calls(known)
    texts = [answer.text for answer in known]
    contents = _objects(texts)
    if contents is not None:
        return _records(contents)
    if texts and all(map(SQL.match, texts)):
        return Detected("sql", "answers are SQL queries", ({"kind": "sql"},))
    if _are_labels(texts):
        labels = _by_frequency(texts)
        metric = {"kind": "label", "labels": labels}
        return Detected("classify", f"answers are {len(labels)} labels", (metric,))
    if texts and all(map(NUMBER.match, texts)):
        return Detected("chat", "answers are numbers", ({"kind": "numeric"},))
    if len(texts) > 1 and len(set(texts)) == 1:
        return Detected("chat", "all answers are the same: add examples with other answers")
    free = "answers are free text, which no metric measures: judges compare it"
    return Detected("chat", free if texts else "no answer is known")


def _calls(known: Sequence[Answer]) -> Detected:
    arguments: dict[str, list[Mapping[str, Any]]] = {}
    for answer in known:
        for call in answer.tool_calls:
            arguments.setdefault(call.name, []).append(parse_json(call.arguments))
    tools = tuple(
        {
            "type": "function",
            "function": {"name": name, "description": "", "parameters": object_schema(given)},
        }
        for name, given in sorted(arguments.items())
    )
    num_without = sum(not answer.tool_calls for answer in known)
    found = f"answers are calls of {len(tools)} tools"
    if num_without:
        found += f", {num_without} call none"
    return Detected("tools", found, ({"kind": "tool_calls"},), tools=tools)


def _records(contents: Sequence[Mapping[str, Any]]) -> Detected:
    schema = object_schema(contents)
    fields = list(schema["properties"])
    found = f"answers are JSON with {len(fields)} fields"
    valid = {"kind": "schema"}
    if set(fields) >= GROUNDED:
        return Detected("answers", found, ({"kind": "grounded"}, valid), schema)
    if len(fields) <= MOST_FIELDS_OF_LABEL:
        for field in fields:
            values = [content[field] for content in contents if isinstance(content.get(field), str)]
            if len(values) == len(contents) and _are_labels(values):
                labels = _by_frequency(values)
                metric = {"kind": "label", "field": field, "labels": labels}
                declining = _declining(contents, field)
                allowed = {*labels, NO_LABEL} if declining else labels
                schema["properties"][field] = {"enum": sorted(allowed)}
                found += f"; {field} is one of {len(labels)} labels"
                return Detected("classify", found, (metric, valid), schema, declining=declining)
    return Detected("extract", found, ({"kind": "fields"}, valid), schema)


def _declining(contents: Sequence[Mapping[str, Any]], label: str) -> str | None:
    """Return an answer that declines, in the form of the others; None where none has a sentence.

    Args:
        label: Name of the field that has the label.
    """
    sentences = {
        field: DECLINING
        for field in contents[0]
        if field != label
        and _num_words([content.get(field) for content in contents]) >= FEWEST_WORDS
    }
    answer = {**contents[0], **sentences, label: NO_LABEL}
    return json.dumps(answer, ensure_ascii=False) if sentences else None


def _num_words(values: Sequence[object]) -> float:
    """Return the mean number of words; 0 if a value is no text."""
    words = [len(value.split()) for value in values if isinstance(value, str)]
    return sum(words) / len(values) if len(words) == len(values) else 0.0


def _objects(texts: Sequence[str]) -> list[Mapping[str, Any]] | None:
    """Return the JSON objects that texts are; None when one is something else."""
    try:
        contents = [parse_json(text) for text in texts]
    except ValueError:
        return None
    return contents if contents and all(isinstance(one, Mapping) for one in contents) else None


def _are_labels(values: Sequence[Any]) -> bool:
    distinct = set(values)
    few = 2 <= len(distinct) <= min(MOST_LABELS, len(values) / FEWEST_PER_LABEL)
    return few and all(0 < len(value.strip()) <= LONGEST_LABEL for value in distinct)


def _by_frequency(values: Sequence[str]) -> list[str]:
    return [value for value, _ in Counter(value.strip() for value in values).most_common()]


def dump_json(content: object) -> str:
    """Return JSON for a file that people read and change."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
