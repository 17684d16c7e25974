"""The categories of a task's answers: labels, or the tools that an answer calls."""

from __future__ import annotations

import json

from potstill.task.answers import Answer
from potstill.task.metrics.config import LabelConfig
from potstill.task.metrics.label import Label
from potstill.task.metrics.tool_calls import names
from potstill.task.task import Task


class Categories:
    """Reads the category of an answer.

    With tools it is the name of the called tool, or "(no call)"; else the label of the task's first
    label metric. A task with neither has no categories.
    """

    def __init__(self, task: Task) -> None:
        config = next((one for one in task.metrics if isinstance(one, LabelConfig)), None)
        self.label = None if config is None or task.tools else config
        """The metric that has the labels; None: categories are tools, or there are none."""
        self._label = None if self.label is None else Label(self.label)
        self._has_tools = task.tools is not None
        seen = [self.of(item.known) for item in task.examples if item.known is not None]
        known = self.label.labels if self.label is not None else tuple(tool_names(task.tools))
        self.names = tuple(dict.fromkeys([*known, *filter(None, seen)]))
        """All categories: those that the task lists, then others among the examples."""

    def of(self, answer: Answer) -> str | None:
        """Return the category of an answer; None when it has none."""
        if self._has_tools:
            return names(answer.tool_calls)
        return None if self._label is None else self._label.read_known(answer.text)


def tool_names(tools: str | None) -> list[str]:
    """Return the names in a JSON list of tools; none for None."""
    return [tool["function"]["name"] for tool in json.loads(tools)] if tools else []
