"""Calls of tools to be asked for, in one message or in a dialogue after an example.

In: the task's tools and examples. Out: `Wanted` inputs whose known answer is a drawn call.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from generate.sources.task.filling import filled_in, is_filled_in
from generate.sources.task.mentions import VAGUE
from generate.sources.task.values import Values, choices
from generate.sources.task.wanted import Turn, Wanted
from potstill.json_text import parse_object
from potstill.schema import Message
from potstill.task.answers import Answer, Item, ToolCall, folded
from potstill.task.metrics.tool_calls import NO_CALL, names

REWRITTEN_SHARE = 0.5
"""Of dialogues whose turns fill in one call, those that keep their turns' arguments."""
SEEN_KEYS_SHARE = 0.5
"""Probability of the arguments of an example; else each optional one is drawn on its own."""
NUM_TRIES = 20

Arguments = dict[str, Any]


class Calls:
    """Draws calls of a task's tools.

    Args:
        given: See `Values`.
        descriptions: What a tool is for, instead of its own description.
    """

    def __init__(
        self,
        tools: str,
        examples: Sequence[Item],
        given: Mapping[str, str | Sequence[Any]],
        descriptions: Mapping[str, str],
    ) -> None:
        functions = [tool["function"] for tool in json.loads(tools)]
        self._schemas = {one["name"]: one.get("parameters") or {} for one in functions}
        self._wants = {one["name"]: one.get("description", one["name"]) for one in functions}
        self._wants |= descriptions
        self._labels = choices(list(self._schemas.values()))
        calls = [(call.name, _arguments(call)) for item in examples for call in _all_calls(item)]
        seen = [(f"{name}.{key}", one[key]) for name, one in calls for key in one]
        self._given, self._values = given, Values(given, seen)
        self._seen: dict[str, list[Arguments]] = {}
        for name, arguments in calls:
            self._seen.setdefault(name, []).append(arguments)
        self._filling = [
            len(_user_turns(item)) for item in examples if is_filled_in(item.messages, item.known)
        ]
        self._filling_share = len(self._filling) / max(1, len(examples))
        said = {value for _, value in seen if isinstance(value, str)}
        self._drawn_from = {name: _sayable(one, said) for name, one in self._schemas.items()}

    def describe(self, category: str) -> str:
        """Return what the tools of a category are for."""
        return " and ".join(self._wants.get(name, "") for name in category.split(" + "))

    def asked_for(self, known: Answer) -> Wanted:
        """Return one message that asks for given calls."""
        turns = tuple(self._turns((Message(role="user", content=""),), known))
        return self._exact(turns, known, ())

    def read(self, item: Item) -> Wanted:
        """Return what an example asks for."""
        known = item.known or Answer()
        return Wanted(
            turns=tuple(self._turns(item.messages, known)),
            category=names(known.tool_calls),
            known=known,
            is_exact=True,
        )

    def draw(self, category: str, examples: Sequence[Item], draw: random.Random) -> Wanted:
        """Return an input that asks for calls of the category.

        Args:
            category: Names of tools joined by " + ", or "(no call)".
            examples: Those of the category; one with several turns is a pattern for a dialogue.
                As often as in examples of all tools, arguments are named turn by turn.
        """
        example = draw.choice(examples) if examples else None
        if category == NO_CALL:
            wants = "something that the tools are not for, like in the examples"
            return Wanted((Turn(wants),), category, Answer())
        if example is not None and len(_user_turns(example)) > 1:
            is_filled = is_filled_in(example.messages, example.known)
            if not is_filled or draw.random() < REWRITTEN_SHARE:
                return self._rewritten(example, draw)
        calls = tuple(_call(name, self._arguments(name, draw)) for name in category.split(" + "))
        if len(calls) == 1 and draw.random() < self._filling_share:
            return self._filled_in(calls[0], draw)
        return self.asked_for(Answer(tool_calls=calls))

    def _filled_in(self, call: ToolCall, draw: random.Random) -> Wanted:
        """Return a dialogue whose turns name a call's arguments one after another."""
        messages = filled_in(call, draw.choice(self._filling), draw)
        known = Answer(tool_calls=(call,))
        return self._exact(tuple(self._turns(messages, known)), known, messages)

    def _rewritten(self, example: Item, draw: random.Random) -> Wanted:
        """Return an example's dialogue with new values in all calls."""
        known = example.known or Answer()
        changed: dict[tuple[str, str], Any] = {}
        for call in known.tool_calls:
            old = _arguments(call)
            new = self._arguments(call.name, draw, keys=old)
            changed |= {(key, _plain(old[key])): new[key] for key in new}
        for name, old in ((one.name, _arguments(one)) for one in _all_calls(example)):
            new = self._arguments(name, draw, keys=old)
            for key in new:
                changed.setdefault((key, _plain(old[key])), new[key])
        messages = tuple(_message(message, changed) for message in example.messages)
        new_known = Answer(
            text=known.text, tool_calls=tuple(_renewed(one, changed) for one in known.tool_calls)
        )
        return self._exact(tuple(self._turns(messages, new_known)), new_known, messages)

    def _exact(self, turns: tuple[Turn, ...], known: Answer, messages: Sequence[Message]) -> Wanted:
        return Wanted(
            turns=turns,
            category=names(known.tool_calls),
            known=known,
            is_exact=True,
            labels=self._labels,
            unsaid=self._unsaid(known, messages),
            before=tuple(one for one in messages if one.role == "system"),
        )

    def _turns(self, messages: Sequence[Message], known: Answer) -> Iterator[Turn]:
        """Yield the user's turns: each says what the next call adds to the one before."""
        starts = [number for number, one in enumerate(messages) if one.role == "user"]
        tool, said = "", set[tuple[str, str]]()
        for start, end in zip(starts, [*starts[1:], len(messages)], strict=True):
            after = tuple(messages[start + 1 : end])
            is_last = end == len(messages)
            calls = known.tool_calls if is_last else tuple(_calls_of(after))
            called = " + ".join(call.name for call in calls)
            wants = " and ".join(self._wants.get(one.name, one.name) for one in calls)
            values = {key: value for call in calls for key, value in _arguments(call).items()}
            if called == tool:
                wants = ""
            elif calls:
                said = set()
            new = {key: one for key, one in values.items() if (key, _plain(one)) not in said}
            said |= {(key, _plain(one)) for key, one in values.items()}
            tool = called or tool
            yield Turn(wants, new, after=after)

    def _arguments(
        self, name: str, draw: random.Random, keys: Collection[str] | None = None
    ) -> Arguments:
        seen = self._seen.get(name, [])
        schema = self._drawn_from.get(name, {})
        if keys is None and seen and draw.random() < SEEN_KEYS_SHARE:
            keys = draw.choice(seen).keys()
        for _ in range(NUM_TRIES):
            drawn: Arguments = self._values.draw(
                {"type": "object", **schema}, name, draw, keys=keys
            )
            if not _has_unseen_pair(drawn, schema, seen):
                break
        return drawn

    def _unsaid(self, known: Answer, messages: Sequence[Message] = ()) -> frozenset[str]:
        """Return what arguments could be, and neither in the answer nor in a call is.

        That is the choices of the schema, and the listed values of arguments that are left out.
        """
        calls = [*known.tool_calls, *_calls_of(messages)]
        has = {folded(str(one)) for call in calls for one in _arguments(call).values()}
        named = {key for call in calls for key in _arguments(call)}
        possible = {
            value
            for call in known.tool_calls
            for key, inner in self._schemas.get(call.name, {}).get("properties", {}).items()
            for value in (
                *inner.get("enum", ()),
                *(() if key in named else self._listed(call.name, key)),
            )
            if isinstance(value, str)
        }
        return frozenset(value for value in possible if folded(value) not in has)

    def _listed(self, tool: str, key: str) -> Sequence[Any]:
        listed = self._given.get(f"{tool}.{key}", self._given.get(key, ()))
        return () if isinstance(listed, str) else listed


def _has_unseen_pair(
    drawn: Arguments, schema: Mapping[str, Any], seen: Sequence[Arguments]
) -> bool:
    """Return whether two arguments with the same choices are equal, as in no example.

    Nobody moves money from an account to itself.
    """
    choices = {
        key: tuple(map(str, inner.get("enum", ())))
        for key, inner in schema.get("properties", {}).items()
    }
    pairs = [
        (one, other)
        for one in drawn
        for other in drawn
        if one < other and choices.get(one) and choices.get(one) == choices.get(other)
    ]
    return any(
        drawn[one] == drawn[other]
        and not any(one in call and call[one] == call.get(other) for call in seen)
        for one, other in pairs
    )


def _sayable(schema: Mapping[str, Any], said: Collection[str]) -> dict[str, Any]:
    """Leave out choices that nobody says, such as "other", unless an example has them."""
    properties = {}
    for key, inner in schema.get("properties", {}).items():
        kept = [one for one in inner.get("enum", ()) if one not in VAGUE or one in said]
        properties[key] = {**inner, "enum": kept} if kept else inner
    return {**schema, "properties": properties}


def _all_calls(item: Item) -> list[ToolCall]:
    return [*_calls_of(item.messages), *(item.known.tool_calls if item.known else ())]


def _calls_of(messages: Sequence[Message]) -> list[ToolCall]:
    return [call for one in messages for call in Answer.from_message(one).tool_calls]


def _user_turns(item: Item) -> list[Message]:
    return [message for message in item.messages if message.role == "user"]


def _arguments(call: ToolCall) -> Arguments:
    return parse_object(call.arguments)


def _call(name: str, arguments: Arguments) -> ToolCall:
    return ToolCall(name=name, arguments=json.dumps(arguments, ensure_ascii=False))


def _plain(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _renewed(call: ToolCall, changed: Mapping[tuple[str, str], Any]) -> ToolCall:
    arguments = _arguments(call)
    return _call(
        call.name, {key: changed.get((key, _plain(one)), one) for key, one in arguments.items()}
    )


def _message(message: Message, changed: Mapping[tuple[str, str], Any]) -> Message:
    """Return a message with the new values in its calls, and in the text of results and answers."""
    if message.role == "user":
        return message
    content = message.content
    for (_, old), new in changed.items():
        plain = old.strip('"')
        if len(plain) > 2:
            content = content.replace(plain, str(new))
    if message.tool_calls is None:
        return message.model_copy(update={"content": content})
    calls = json.loads(message.tool_calls)
    renewed = [_renewed(one, changed) for one in Answer.from_message(message).tool_calls]
    for call, new_call in zip(calls, renewed, strict=True):
        call["function"]["arguments"] = new_call.arguments
    text = json.dumps(calls, ensure_ascii=False)
    return message.model_copy(update={"content": content, "tool_calls": text})
