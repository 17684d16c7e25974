"""The answer is one JSON value, or one that fits a schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from potstill.errors import ConfigError
from potstill.json_text import parse_json
from potstill.task.answers import Answer, Item, Score, canonical
from potstill.task.metrics.config import JsonConfig, SchemaConfig


class JsonValid:
    """Parses the answer."""

    needs_known = False

    def __init__(self, config: JsonConfig) -> None:
        self.name = config.name or config.kind

    def score(self, answer: Answer, item: Item) -> Score:  # noqa: ARG002
        """Return 1 for JSON, else 0."""
        try:
            parse_json(answer.text)
        except ValueError as error:
            return Score(value=0.0, problem=f"not JSON: {error}")
        return Score(value=1.0)

    def key(self, answer: Answer) -> str | None:
        """Return the value in one spelling; None for an answer that is not JSON."""
        try:
            return canonical(parse_json(answer.text))
        except ValueError:
            return None


class SchemaValid:
    """Validates the answer against a JSON schema.

    Raises:
        ConfigError: The schema is not a valid one.
    """

    needs_known = False

    def __init__(self, config: SchemaConfig, schema: Mapping[str, Any]) -> None:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import validator_for

        self.name = config.name or config.kind
        validator = validator_for(schema)
        try:
            validator.check_schema(schema)
        except SchemaError as error:
            raise ConfigError(
                "the schema of answers is not a JSON schema",
                where=f"task.answer_schema: {error.json_path}",
                found=error.message,
            ) from error
        self._validator = validator(schema)

    def score(self, answer: Answer, item: Item) -> Score:  # noqa: ARG002
        """Return 1 for JSON that fits the schema, else 0."""
        try:
            content = parse_json(answer.text)
        except ValueError as error:
            return Score(value=0.0, problem=f"not JSON: {error}")
        first = next(self._validator.iter_errors(content), None)
        if first is None:
            return Score(value=1.0)
        return Score(value=0.0, problem=f"{first.json_path}: {first.message}"[:200])

    def key(self, answer: Answer) -> str | None:
        """Return the value in one spelling; None for one that does not fit the schema."""
        try:
            content = parse_json(answer.text)
        except ValueError:
            return None
        return canonical(content) if self._validator.is_valid(content) else None
