"""Reference pages that are generated: each key of the configuration, each command, each preset.

In: the tables of the configuration and the command line, as they are. Out: Markdown pages by their
paths below docs/reference/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import tomli_w
import typer
from pydantic.json_schema import GenerateJsonSchema
from typer.main import get_group

from potstill.cards import MachineConfig
from potstill.cli import app
from potstill.config import Table, preset_names
from potstill.pipeline import STAGES
from potstill.task.config import TaskConfig

Schema = Mapping[str, Any]
"""A JSON schema, as pydantic writes it."""
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "length at least {}",
    "maxLength": "length at most {}",
    "minItems": "length at least {}",
    "maxItems": "length at most {}",
    "pattern": "matching `{}`",
}
FIRST = """# Configuration

One TOML file holds a table for each stage. `--config FILE` names it, or `--preset NAME` one that
[comes with potstill](../presets.md); `--set a.b=c` changes single keys. `extends = "FILE"` takes
another file's tables. A run keeps its own in `config.toml`. Unknown keys are refused.

A key that is left out has its default. *Unset* is what the texts call `None`. `NAME` in a table's
heading stands for a name of your own, and `[[…]]` for a table that may be repeated.

| table | |
|---|---|
"""


class _WithDefaults(GenerateJsonSchema):
    """A schema that has the values of default factories too."""

    def get_default_value(self, schema: Any) -> Any:  # noqa: ANN401  (as the base has it)
        """Return the default of a field."""
        if factory := schema.get("default_factory"):
            return factory()
        return super().get_default_value(schema)


@dataclass(frozen=True)
class Section:
    """A table of the configuration."""

    path: str
    """Its keys' common beginning, such as `compare.judges`."""
    schema: Schema
    is_list: bool = False

    @property
    def kind(self) -> str:
        """The value of `kind` that this table needs; empty if it has no such key."""
        return str(self.schema["properties"].get("kind", {}).get("const", ""))

    @property
    def title(self) -> str:
        """The table's name as TOML writes it, with its kind."""
        name = f"`[[{self.path}]]`" if self.is_list else f"`[{self.path}]`"
        return f"{name} of kind `{self.kind}`" if self.kind else name

    @property
    def anchor(self) -> str:
        """What links to it end with."""
        return f"{self.path}-{self.kind}" if self.kind else self.path


def table_classes() -> dict[str, type[Table]]:
    """Return the classes of all tables of the configuration, in the order of the line."""
    classes: dict[str, type[Table]] = {"task": TaskConfig}
    classes |= {name: stage.table_class() for name, stage in STAGES.items()}
    return classes | {"machine": MachineConfig}


def pages() -> dict[str, str]:
    """Return the generated pages: text by path below docs/reference/."""
    classes = table_classes()
    written = {f"configuration/{name}.md": table_page(name, cls) for name, cls in classes.items()}
    rows = [
        f"| [`[{name}]`]({name}.md) | {_markdown(_sentence(cls.__doc__ or ''))} |"
        for name, cls in classes.items()
    ]
    written["configuration/index.md"] = FIRST + "\n".join(rows) + "\n"
    written["commands.md"] = commands_page()
    written["presets.md"] = presets_page()
    return written


def table_page(name: str, cls: type[Table]) -> str:
    """Return the page of a stage's table and of the tables in it."""
    schema = cls.model_json_schema(schema_generator=_WithDefaults)
    lines = [f"# `[{name}]`", ""]
    for section in _sections(Section(name, schema), schema.get("$defs", {})):
        if section.path != name:
            lines += [f"## {section.title} {{ #{section.anchor} }}", ""]
        lines += [_markdown(section.schema.get("description", "")), ""]
        for key, value in section.schema["properties"].items():
            is_required = key in section.schema.get("required", ())
            lines += _key(section, key, value, schema.get("$defs", {}), is_required=is_required)
    return "\n".join(lines)


def commands_page() -> str:
    """Return the page of all commands, with their arguments and options."""
    group = get_group(app)
    context = typer.Context(group, info_name="potstill")
    verbs = {
        verb: command
        for verb in group.list_commands(context)
        if (command := group.get_command(context, verb))
    }
    lines = ["# Commands", "", _markdown(group.help or ""), "", "| command | |", "|---|---|"]
    for verb, command in verbs.items():
        lines.append(f"| [`{verb}`](#{verb}) | {_markdown(_sentence(command.help or ''))} |")
    for verb, command in verbs.items():
        own = typer.Context(command, parent=context, info_name=verb)
        usage = " ".join([own.command_path, *command.collect_usage_pieces(own)])
        lines += [
            "",
            f"## `{own.command_path}` {{ #{verb} }}",
            "",
            _markdown(command.help or ""),
            "",
        ]
        lines += ["```text", usage, "```", ""]
        for param in command.get_params(own):
            if record := param.get_help_record(own):
                lines.append(f"- `{record[0]}`: {_markdown(record[1])}")
    return "\n".join([*lines, ""])


def presets_page() -> str:
    """Return the page of the presets that come with potstill."""
    lines = ["# Presets", "", "`--preset NAME` takes one of these configurations.", ""]
    for name in preset_names():
        file = resources.files("potstill") / "presets" / f"{name}.toml"
        lines += [f"## {name}", "", "```toml", file.read_text(encoding="utf-8").rstrip(), "```", ""]
    return "\n".join(lines)


def _sections(section: Section, definitions: Schema) -> Iterator[Section]:
    """Yield a table and all tables in it, each after the one that holds it."""
    yield section
    for key, value in section.schema["properties"].items():
        for found in _tables_in(value, f"{section.path}.{key}", definitions):
            yield from _sections(found, definitions)


def _tables_in(value: Schema, path: str, definitions: Schema) -> Iterator[Section]:
    for one in (*value.get("anyOf", ()), *value.get("oneOf", ())):
        yield from _tables_in(one, path, definitions)
    if "$ref" in value:
        found = _definition(value, definitions)
        if "properties" in found:
            yield Section(path, found)
        else:
            yield from _tables_in(found, path, definitions)
    if items := value.get("items"):
        for section in _tables_in(items, path, definitions):
            yield Section(section.path, section.schema, is_list=True)
    if isinstance(named := value.get("additionalProperties"), Mapping):
        yield from _tables_in(named, f"{path}.NAME", definitions)


def _key(
    section: Section, key: str, value: Schema, definitions: Schema, *, is_required: bool
) -> list[str]:
    facts = [_type(value, definitions)]
    tables = list(_tables_in(value, f"{section.path}.{key}", definitions))
    facts += [f"[{table.title}](#{table.anchor})" for table in tables]
    if is_required:
        facts.append("required")
    elif value.get("default") is not None and not tables:
        facts.append(f"default `{_toml(value['default'])}`")
    elif not tables or _is_optional(value):
        facts.append("unset by default")
    anchor = f"{section.anchor}.{key}"
    text = _markdown(value.get("description", ""))
    return [f"### `{key}` {{ #{anchor} }}", "", " · ".join(facts), "", *([text, ""] * bool(text))]


def _is_optional(value: Schema) -> bool:
    return {"type": "null"} in value.get("anyOf", ())


def _type(value: Schema, definitions: Schema) -> str:
    """Return a value's type in words of TOML, with its bounds."""
    if "$ref" in value:
        return _type(_definition(value, definitions), definitions)
    if alternatives := value.get("anyOf") or value.get("oneOf"):
        names = [_type(one, definitions) for one in alternatives if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(names))
    if choices := value.get("enum") or ([value["const"]] if "const" in value else None):
        return " or ".join(f"`{_toml(choice)}`" for choice in choices)
    if value.get("type") == "array":
        held = _type(value["items"], definitions) if value.get("items") else "values"
        name = f"list of {held}"
    elif value.get("type") == "object":
        named = value.get("additionalProperties")
        is_one_type = isinstance(named, Mapping) and len(named) > 0
        name = f"{_type(named or {}, definitions)} by name" if is_one_type else "table"
    else:
        name = str(value.get("format") or value.get("type") or "any value")
    bounds = [text.format(value[bound]) for bound, text in BOUNDS.items() if bound in value]
    return ", ".join([name, *bounds])


def _definition(value: Schema, definitions: Schema) -> Schema:
    found: Schema = definitions[value["$ref"].rpartition("/")[2]]
    return found


def _toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_toml(one)}' for key, one in value.items())}}}"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def _sentence(text: str) -> str:
    """Return the first paragraph of a docstring as one line."""
    return " ".join(text.strip().partition("\n\n")[0].split())


def _markdown(text: str) -> str:
    """Return a docstring as Markdown: only code in backticks and pages of docs/ mean something."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"([\\*_\[\]#|])", r"\\\1", part) for part in parts[::2]]
    escaped = "".join(part if part[:1] == "`" else part.replace("<", "&lt;") for part in parts)
    return re.sub(r"\bdocs/(\S+?\.md)", r"[docs/\1](../../\1)", escaped)
