"""The answer's calls of tools are the known ones."""

from __future__ import annotations

from collections import Counter

from potstill.json_text import parse_json
from potstill.task.answers import Answer, Item, Score, ToolCall, canonical, folded
from potstill.task.metrics.config import ToolCallsConfig

NO_CALL = "(no call)"


class ToolCalls:
    """Compares calls by name and by the JSON values of their arguments.

    Calls may stand in any order, since models call in parallel. An argument that is null is the
    same as one that is absent. Where no call is known, calling nothing is right.
    """

    needs_known = True

    def __init__(self, config: ToolCallsConfig) -> None:
        self.name = config.name or config.kind
        self._ignore_case = config.ignore_case

    def score(self, answer: Answer, item: Item) -> Score:
        """Return 1 when all calls agree, else 0."""
        known = item.known.tool_calls if item.known else ()
        expected, found = names(known), names(answer.tool_calls)
        try:
            wanted = Counter(map(self._plain, known))
        except ValueError as error:
            return Score(value=0.0, expected=expected, problem=f"known arguments: {error}")
        try:
            given = Counter(map(self._plain, answer.tool_calls))
        except ValueError as error:
            problem = f"arguments are not a JSON object: {error}"
            return Score(value=0.0, found=found, expected=expected, problem=problem)
        if given == wanted:
            return Score(value=1.0, found=found, expected=expected)
        problem = "other arguments" if found == expected else "other calls"
        return Score(value=0.0, found=found, expected=expected, problem=problem)

    def key(self, answer: Answer) -> str | None:
        """Return the calls in one spelling and order; None where arguments are not JSON objects."""
        try:
            return canonical(sorted(map(self._plain, answer.tool_calls)))
        except ValueError:
            return None

    def _plain(self, call: ToolCall) -> tuple[str, str]:
        arguments = parse_json(call.arguments or "{}")
        if not isinstance(arguments, dict):
            raise ValueError(f"a JSON {type(arguments).__name__}")
        kept = _without_null(arguments)
        text = canonical(kept)
        return call.name, folded(text) if self._ignore_case else text


def names(calls: tuple[ToolCall, ...]) -> str:
    """Return the called functions' names in alphabetical order, as a label."""
    return " + ".join(sorted(call.name for call in calls)) or NO_CALL


def _without_null(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value] if isinstance(value, list) else value
