"""Results of the calls in an answer, simulated so that a conversation goes on.

In: an answer that calls tools. Out: a message with the result of each call.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from potstill.schema import Message
from potstill.task.functions import import_function

ECHO = "echo"
Result = Callable[[str, dict[str, Any]], object]
"""Returns the result of a call, a text or a JSON value, from the tool's name and the arguments."""


def find_result(name: str) -> Result:
    """Return the function that `generate.turns.tool_results` names.

    Raises:
        ConfigError: There is none.
    """
    return _echo if name == ECHO else import_function(name, "generate.turns.tool_results")


def results_of(answer: Message, result: Result) -> tuple[Message, ...]:
    """Return the results of an answer's calls; none if it calls nothing.

    A function that raises gives a result with its error, as a tool would.
    """
    return tuple(
        Message(
            role="tool",
            content=_text(result, call["function"]["name"], call["function"]["arguments"]),
            tool_call_id=call["id"],
        )
        for call in answer.calls
    )


def _text(result: Result, name: str, arguments: str) -> str:
    try:
        found = result(name, json.loads(arguments or "{}"))
    except Exception as error:  # Whatever a simulator raises is what its tool answers.
        found = {"error": f"{type(error).__name__}: {error}"}
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _echo(_name: str, arguments: dict[str, Any]) -> object:
    return {"status": "success", **arguments}
