"""Random values that fit a JSON schema.

In: a schema, values seen in examples, and values or functions that the configuration names. Out:
JSON values. In this order a value comes from the configuration, the schema's `const` and `enum`,
numbers and codes like those of the examples, the schema's `pattern` and `format`, the schema's own
examples, and the values of the examples themselves.
"""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from generate.sources.task.patterns import matching_text
from potstill.errors import ConfigError
from potstill.task.functions import FUNCTION_PATTERN, import_function

Drawing = Callable[[random.Random], Any]
Schema = Mapping[str, Any]

WHERE = "generate.prompts.sources: values"
CODE = re.compile(r"[A-Z0-9][A-Z0-9 ./_-]*")
"""Values such as 4532 or AB-12: their digits and letters are replaced, their form is kept."""
FIRST_DATE, NUM_DAYS = date(2023, 1, 1), 3 * 365
LOW, HIGH = 1.0, 1000.0
"""Range of a number of which neither the schema nor an example says anything."""
NUM_ENTRIES = (1, 3)
"""Entries of a list whose length the schema leaves open."""
OPTIONAL_SHARE = 0.5
"""Probability of an optional field of which no example says whether it is there."""
MAX_DEPTH = 12
NUM_TRIES = 20


class Values:
    """Draws values by their dotted paths, such as `transfer_money.amount`.

    Args:
        given: Lists of values, or `module:function` called with a `random.Random`, by path or by
            the last name of a path.
        seen: Values of the examples, by path.
    """

    def __init__(
        self,
        given: Mapping[str, str | Sequence[Any]],
        seen: Iterable[tuple[str, Any]] = (),
    ) -> None:
        self._given = {path: _drawing(path, source) for path, source in given.items()}
        self._seen: dict[str, list[Any]] = defaultdict(list)
        for path, value in seen:
            for key in {path, _last(path)}:
                self._seen[key].append(value)

    def draw(
        self,
        schema: Schema,
        path: str,
        draw: random.Random,
        *,
        keys: Collection[str] | None = None,
    ) -> Any:  # noqa: ANN401  (any JSON value)
        """Return a value that fits a schema.

        Args:
            path: Its dotted path; empty for a whole answer.
            keys: Keys of an object; None draws the optional ones.

        Raises:
            ConfigError: There is nothing to draw a text from, or nothing drawn fits the schema.
        """
        from jsonschema.validators import validator_for

        validator = validator_for(schema)(schema)
        for _ in range(NUM_TRIES):
            value = self._value(schema, _Place(schema, path, draw), keys)
            if validator.is_valid(value):
                return value
        raise ConfigError(
            "no value was drawn that fits its schema",
            where=f"{WHERE}, {path or 'the answer'}",
            found=value,
            hint=f'name its values: values."{path}" = ["...", "..."], or a module:function',
        )

    def _value(self, schema: Schema, place: _Place, keys: Collection[str] | None = None) -> Any:  # noqa: ANN401
        schema = place.resolved(schema)
        given = self._given.get(place.path) or self._given.get(_last(place.path))
        if given is not None:
            return given(place.draw)
        for combined in ("oneOf", "anyOf"):
            if combined in schema:
                return self._value(place.draw.choice(schema[combined]), place, keys)
        if "allOf" in schema:
            schema = _merged([schema, *map(place.resolved, schema["allOf"])])
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return place.draw.choice(schema["enum"])
        return self._of_type(_type(schema, place.draw), schema, place, keys)

    def _of_type(
        self, kind: str, schema: Schema, place: _Place, keys: Collection[str] | None
    ) -> Any:  # noqa: ANN401
        if kind == "object":
            return self._object(schema, place, keys)
        if kind == "array":
            low = schema.get("minItems", NUM_ENTRIES[0])
            high = schema.get("maxItems", max(low, NUM_ENTRIES[1]))
            items = schema.get("items", {"type": "string"})
            count = place.draw.randint(low, high)
            return [self._value(items, place.inside()) for _ in range(count)]
        if kind == "boolean":
            return place.draw.random() < 0.5
        if kind in {"integer", "number"}:
            return _number(schema, kind == "integer", self._numbers(place.path), place.draw)
        return None if kind == "null" else self._text(schema, place)

    def _object(
        self, schema: Schema, place: _Place, keys: Collection[str] | None
    ) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = schema.get("required", ())
        if keys is None:
            keys = {
                key for key in properties if key in required or place.draw.random() < OPTIONAL_SHARE
            }
        return {
            key: self._value(inner, place.inside(key))
            for key, inner in properties.items()
            if key in keys
        }

    def _text(self, schema: Schema, place: _Place) -> str:
        seen = [value for value in self._of(place.path) if isinstance(value, str)]
        codes = [value for value in seen if CODE.fullmatch(value) and re.search(r"\d", value)]
        if codes and len(codes) == len(seen):
            return _like_code(place.draw.choice(codes), place.draw)
        try:
            if "pattern" in schema:
                return matching_text(schema["pattern"], place.draw)
        except ValueError as error:
            raise _nothing_to_draw(place.path, f"pattern {schema['pattern']}: {error}") from error
        if schema.get("format") in FORMATS:
            return FORMATS[schema["format"]](place.draw)
        known = [*schema.get("examples", ()), *seen]
        if not known:
            raise _nothing_to_draw(place.path, "a text without enum, format, pattern or examples")
        return str(place.draw.choice(known))

    def _numbers(self, path: str) -> list[float]:
        return [
            value
            for value in self._of(path)
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]

    def _of(self, path: str) -> list[Any]:
        return self._seen.get(path) or self._seen.get(_last(path), [])


class _Place:
    """Where in a schema a value is drawn."""

    def __init__(self, root: Schema, path: str, draw: random.Random, depth: int = 0) -> None:
        self._root, self.path, self.draw, self._depth = root, path, draw, depth

    def inside(self, key: str | None = None) -> _Place:
        if self._depth == MAX_DEPTH:
            raise _nothing_to_draw(self.path, "a schema that refers to itself")
        path = self.path if key is None else f"{self.path}.{key}".lstrip(".")
        return _Place(self._root, path, self.draw, self._depth + 1)

    def resolved(self, schema: Schema) -> Schema:
        """Follow references inside the schema."""
        while isinstance(schema, Mapping) and "$ref" in schema:
            found: Any = self._root
            for key in schema["$ref"].removeprefix("#").strip("/").split("/"):
                found = found.get(key.replace("~1", "/").replace("~0", "~"), {}) if key else found
            schema = found
        return schema if isinstance(schema, Mapping) else {}


def choices(schema: object) -> frozenset[str]:
    """Return the texts that stand in any `enum` of a schema."""
    if isinstance(schema, Mapping):
        own = [one for one in schema.get("enum", ()) if isinstance(one, str)]
        return frozenset(own).union(*map(choices, schema.values()))
    return frozenset().union(*map(choices, schema)) if isinstance(schema, list) else frozenset()


def _drawing(path: str, source: str | Sequence[Any]) -> Drawing:
    if not isinstance(source, str):
        return lambda draw: draw.choice(source)
    if not re.match(FUNCTION_PATTERN, source):
        raise ConfigError(
            "values are neither a list nor a function",
            where=f"{WHERE}, {path}",
            expected="a list, or module:function",
            found=source,
        )
    return import_function(source, f"{WHERE}, {path}")


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _type(schema: Schema, draw: random.Random) -> str:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return str(kind if isinstance(kind, str) else draw.choice(kind))


def _merged(schemas: Sequence[Schema]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for schema in schemas:
        properties = {**merged.get("properties", {}), **schema.get("properties", {})}
        required = [*merged.get("required", ()), *schema.get("required", ())]
        merged |= schema
        if properties:
            merged |= {"properties": properties, "required": required}
    merged.pop("allOf", None)
    return merged


def _number(
    schema: Schema, is_integer: bool, seen: Sequence[float], draw: random.Random
) -> int | float:
    """Return a number, mostly a round one, in the schema's range or around those seen."""
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        low = min(seen) / 2 if seen and min(seen) > 0 else min([*seen, LOW])
    if high is None:
        high = max([2 * max(seen)] if seen else [HIGH], default=HIGH)
    high = max(low, high)
    step = schema.get("multipleOf")
    if step:
        return _plain(step * draw.randint(math.ceil(low / step), math.floor(high / step)))
    if high - low <= 100 and is_integer:
        return draw.randint(math.ceil(low), math.floor(high))
    value = (
        math.exp(draw.uniform(math.log(low), math.log(high)))
        if low > 0
        else draw.uniform(low, high)
    )
    has_decimals = not is_integer and any(one != int(one) for one in seen)
    value = round(value, 2) if has_decimals and draw.random() < 0.5 else _rounded(value, draw)
    value = min(max(value, low), high)
    return round(value) if is_integer or not (has_decimals or high < 10) else _plain(value)


def _rounded(value: float, draw: random.Random) -> float:
    """Round to one to three significant digits, as people do."""
    if not value:
        return value
    digits = draw.choice((1, 2, 2, 3)) - 1 - math.floor(math.log10(abs(value)))
    return round(value, digits)


def _plain(value: float) -> int | float:
    rounded = round(value, 6)
    return int(rounded) if rounded == int(rounded) else rounded


def _like_code(code: str, draw: random.Random) -> str:
    kinds = ("0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return "".join(
        draw.choice(next((kind for kind in kinds if letter in kind), letter)) for letter in code
    )


def _date(draw: random.Random) -> date:
    return FIRST_DATE + timedelta(days=draw.randrange(NUM_DAYS))


def _time(draw: random.Random) -> time:
    return time(draw.randrange(24), draw.choice(range(0, 60, 5)))


def _email(draw: random.Random) -> str:
    name = "".join(
        draw.choice(("ba", "lo", "mi", "ra", "ten", "sol", "vi", "ko")) for _ in range(3)
    )
    return f"{name}@example.{draw.choice(('com', 'org', 'net'))}"


FORMATS: dict[str, Callable[[random.Random], str]] = {
    "date": lambda draw: _date(draw).isoformat(),
    "time": lambda draw: _time(draw).isoformat(),
    "date-time": lambda draw: datetime.combine(_date(draw), _time(draw)).isoformat() + "Z",
    "email": _email,
    "uri": lambda draw: f"https://example.com/{draw.randrange(10_000)}",
    "uuid": lambda draw: str(UUID(int=draw.getrandbits(128), version=4)),
    "ipv4": lambda draw: ".".join(str(draw.randint(1, 254)) for _ in range(4)),
}
"""Generators of texts, by the schema's `format`."""


def _nothing_to_draw(path: str, found: str) -> ConfigError:
    return ConfigError(
        "there is nothing to draw a value from",
        where=f"{WHERE}, {path or 'the answer'}",
        expected="values in the examples, the schema or the configuration",
        found=found,
        hint=f'name some: values."{path}" = ["...", "..."], or a module:function',
    )
