"""Why a written input cannot be used.

In: what was wanted, and the texts of the user's turns. Out: a filter's name with the reason, as
`dropped.parquet` has them, or None.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from generate.sources.raw_prompt import normalize
from generate.sources.task.mentions import mentions, names, numbers_in
from generate.sources.task.requests import user_texts
from generate.sources.task.wanted import Wanted
from potstill.errors import ConfigError
from potstill.task.answers import Item
from potstill.task.categories import Categories
from potstill.task.functions import import_function

WHERE = "generate.prompts.sources"
PLACEHOLDER = re.compile(
    r"\[[^\]\d]{2,40}\]|<[a-z][^>]{1,40}>|\{[a-z_ ]{2,40}\}|\b[xX]{3,}\b|#{3,}|_{3,}", re.IGNORECASE
)
ECHO = re.compile(
    r"\b(?:not to be named|word for word|realistic message|as an ai\b|"
    r"as a language model|numbered line|purpose:|answered by:|length: about|"
    r"here(?: is|['\u2019]s) (?:a|the|your|my) "
    r"(?:new |sample |possible )?(?:message|request|question|input))",
    re.IGNORECASE,
)
"""Words of the request, and of a model about itself."""
ASSISTANT = re.compile(
    r"\b(?:how (?:can|may) i (?:help|assist) you|"
    r"thank you for (?:contacting|reaching out|your (?:patience|inquiry|message))|"
    r"i(?: am|['\u2019]m) here to (?:help|assist)|"
    r"i(?:['\u2019]d| would) be happy to (?:help|assist)|"
    r"(?:i|we) apologi[sz]e|our (?:\w+ )?(?:team|support|service)\b|"
    r"please provide (?:me|us)? ?(?:with )?your|(?:i|we) can (?:help|assist) you|"
    r"(?:i|we)(?: am| are|['\u2019]m|['\u2019]re)? (?:can(?:no|['\u2019])t|unable to) "
    r"(?:assist|help)|"
    r"your [\w ]{2,30} ha(?:s|ve) been (?:successfully )?(?!affected|compromised)\w+ed\b|"
    r"if you (?:have|need|encounter) any (?:\w+ )?(?:questions|issues|problems|help|assistance)|"
    r"(?:let (?:me|us) know if|feel free to|don['\u2019]t hesitate to)|"
    r"(?:provide|share)(?: (?:me|us))?(?: with)?(?: (?:a|some))? (?:more|further|the specific) "
    r"(?:details|information)(?: (?:about|on|regarding) (?:the|your)\b| to (?:assist|help)|\W*$)|"
    r"sorry to hear|would you like (?:me|us) to\b|(?:to (?:better )?(?:assist|help) you|"
    r"anything else (?:you|i can)|you(?:['\u2019]re| are) referring to))|"
    r"^(?:(?:yes|absolutely|certainly|sure),? )?you can\b",
    re.IGNORECASE,
)
"""What an assistant says, and no user."""
GIVEN_AWAY_BY = ("team", "department", "category", "label", "queue", "class", "intent")
LONGEST_FACTOR, LONGEST_EXTRA_WORDS = 3, 40
"""A text longer than this multiple of the longest example, and this number of words more."""
LAST_LATIN = 0x24F
"""Letters and signs up to here are taken everywhere."""
FEW = 10
"""Smaller numbers are words such as "one" that mean no value."""


class Checks:
    """Judges the inputs of one task.

    Args:
        own: The user's `module:function`, see `TaskKeys.check`.

    Raises:
        ConfigError: There is no such function.
    """

    def __init__(
        self, examples: Sequence[Item], categories: Categories, own: str | None = None
    ) -> None:
        self._own_name = own
        self._own = None if own is None else import_function(own, f"{WHERE}: check")
        texts = ["\n".join(user_texts(item)) for item in examples]
        self._seen = "\n".join(f" {normalize(text)} " for text in texts)
        self._scripts = {"", *map(_script, "".join(texts))}
        self._has_json = any(text.lstrip().startswith("{") for text in texts)
        longest = max((len(text.split()) for text in texts), default=100)
        self._most_words = LONGEST_FACTOR * longest + LONGEST_EXTRA_WORDS
        self._labels = categories.names if categories.label is not None else ()

    def judge(self, wanted: Wanted, turns: Sequence[str]) -> tuple[str, str] | None:
        """Return the filter and the reason for dropping an input, or None."""
        text = "\n".join(turns)
        for name, check in self._checks.items():
            reason = check(wanted, text)
            if reason is not None:
                return name, reason
        empty = [number for number, turn in enumerate(turns, start=1) if not turn.strip()]
        return ("off_task", f"message {empty[0]} is empty") if empty else None

    @property
    def _checks(self) -> dict[str, Callable[[Wanted, str], str | None]]:
        return {
            "off_task": self._off_task,
            "placeholder": lambda _, text: _found(PLACEHOLDER, text, "has the placeholder"),
            "gives_away": self._given_away,
            "missing_value": _missing,
            "surplus_value": _surplus,
            "check": self._judged_by_own,
        }

    def _judged_by_own(self, wanted: Wanted, text: str) -> str | None:
        if self._own is None:
            return None
        try:
            reason = self._own(text, None if wanted.known is None else wanted.known.text)
        except Exception as error:
            raise ConfigError(
                "the function that checks inputs failed",
                where=f"{WHERE}: check = {self._own_name}",
                found=f"{type(error).__name__}: {error}",
            ) from error
        return None if reason is None else str(reason)

    def _off_task(self, _wanted: Wanted, text: str) -> str | None:
        if not any(letter.isalpha() for letter in text):
            return "no letters"
        if not self._has_json and text.lstrip().startswith(("{", "[{", "```")):
            return "JSON or code"
        num_words = len(text.split())
        if num_words > self._most_words:
            return f"{num_words} words, maximum {self._most_words}"
        foreign = next((one for one in text if _script(one) not in self._scripts), None)
        if foreign is not None:
            return f"has {foreign!r}, and no example anything like it"
        return _found(ECHO, text, "repeats the request") or _found(
            ASSISTANT, text, "speaks as an assistant"
        )

    def _given_away(self, _wanted: Wanted, text: str) -> str | None:
        """Return which label is in the text, if no example has it or it is called one."""
        found = f" {normalize(text)} "
        for label in self._labels:
            name = f" {normalize(label.replace('_', ' '))} "
            if name not in found:
                continue
            if name not in self._seen:
                return f"names the label {label}, as no example does"
            called = (f"{name}{word} " for word in GIVEN_AWAY_BY)
            if any(one in found for one in called):
                return f"calls {label} what it is"
        return None


def _script(character: str) -> str:
    """Return the script of a letter by its Unicode name, or what an emoji is; else nothing."""
    if ord(character) <= LAST_LATIN:
        return ""
    if character.isalpha():
        return unicodedata.name(character, "").split(" ", 1)[0]
    return "symbol" if unicodedata.category(character) == "So" else ""


def _found(pattern: re.Pattern[str], text: str, what: str) -> str | None:
    found = pattern.search(text)
    return f"{what}: {found[0]}" if found else None


def unread(wanted: Wanted, turns: Sequence[str]) -> list[tuple[str, object]]:
    """Return the values, with their names, that cannot be read in the texts of the turns."""
    text = "\n".join(turns)
    return [
        (name, value)
        for name, value in wanted.said
        if not (names if isinstance(value, str) and value in wanted.labels else mentions)(
            text, value
        )
    ]


def _missing(wanted: Wanted, text: str) -> str | None:
    missing = unread(wanted, [text])
    return f"{missing[0][0]} {missing[0][1]} cannot be read in it" if missing else None


def _surplus(wanted: Wanted, text: str) -> str | None:
    if not wanted.is_exact:
        return None
    said = [str(value) for _, value in wanted.said]
    digits = [re.sub(r"\D", "", one) for one in said]
    for number in sorted(numbers_in(text)):
        if number >= FEW and not any(_digits(number) in one for one in digits):
            return f"mentions {number:g}, which the answer does not have"
    words = f" {normalize(text)} "
    for value in sorted(wanted.unsaid):
        phrase = f" {normalize(value.replace('_', ' '))} "
        if phrase in words and not any(phrase in f" {normalize(one)} " for one in said):
            return f"mentions {value}, which the answer does not have"
    return None


def _digits(number: float) -> str:
    return re.sub(r"\D", "", f"{number:g}")
