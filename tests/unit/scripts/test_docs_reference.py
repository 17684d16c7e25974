"""The generated reference is complete: each key of the configuration, each command and option."""

import re
from typing import get_args

import pytest
import typer
from pydantic import BaseModel
from typer.main import get_command
from typer.testing import CliRunner

from potstill.cli import VERBS, app
from potstill.config import preset_names
from scripts import docs_reference

GROUP = get_command(app)
CONTEXT = typer.Context(GROUP, info_name="potstill")


@pytest.fixture(scope="module")
def pages():
    return docs_reference.pages()


def plain(text):
    """Return Markdown or help without marks, as one line."""
    text = re.sub(r"\[(docs/[^]]+)\]\([^)]+\)", r"\1", text)
    text = re.sub(r"[`\\]|&lt;", lambda found: "<" if found[0] == "&lt;" else "", text)
    return " ".join(text.split())


def models_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {one for argument in get_args(annotation) for one in models_in(argument)}


def keys(cls, path, found):
    """Collect a table's keys as (path, key, field), without what the page's own walk uses."""
    for key, field in cls.model_fields.items():
        found.append((path, key, field))
        for inner in models_in(field.annotation):
            keys(inner, f"{path}.{key}", found)
    return found


@pytest.mark.parametrize("name", docs_reference.table_classes())
def test_each_key_is_on_its_page(name, pages):
    page = pages[f"configuration/{name}.md"]
    sections = re.findall(r"^### `(\w+)` \{ #(\S+) \}\n\n(.+)\n([^#]*)", page, re.MULTILINE)
    assert len({anchor for _, anchor, *_ in sections}) == len(sections)
    wanted = keys(docs_reference.table_classes()[name], name, [])
    shown = {}
    for key, anchor, facts, text in sections:
        table = re.sub(r"\.NAME\b|-\w+(?=\.|$)", "", anchor.removesuffix(f".{key}"))
        shown.setdefault((table, key), []).append((facts, plain(text)))
    assert {(path, key) for path, key, _ in wanted} == set(shown)
    for path, key, field in wanted:
        description = plain(field.description or "")
        # Pydantic leaves out what the table's own section says in the same words.
        texts = [text for _, text in shown[path, key]]
        assert description in texts or f"{{ #{path}.{key} }} {description}" in plain(page), key
        if field.is_required():
            assert any("required" in facts for facts, _ in shown[path, key]), (path, key)
        assert all(facts.split(" · ")[0] for facts, _ in shown[path, key])


@pytest.mark.parametrize(
    ("page", "key", "facts"),
    [
        ("compare", "compare.verdict.margin", "number, above 0.0, below 0.5 · default `0.05`"),
        ("task", "task.shots", '`"same"` or `"nearest"` · default `"same"`'),
        (
            "generate",
            "generate.curation.max_answer_tokens",
            "integer, at least 1 · unset by default",
        ),
        ("serve", "serve.adapters.NAME.path", "path · required"),
        ("serve", "serve.sampling", "number by name · default `{}`"),
    ],
)
def test_type_bounds_and_default_of_a_key(page, key, facts, pages):
    assert f"{{ #{key} }}\n\n{facts}\n" in pages[f"configuration/{page}.md"]


def test_a_table_of_several_kinds_has_a_section_for_each(pages):
    page = pages["configuration/compare.md"]
    for kind in ("llm", "criteria", "votes"):
        assert f"\n## `[[compare.judges]]` of kind `{kind}` {{ #compare.judges-{kind} }}\n" in page
        assert f"](#compare.judges-{kind})" in page


@pytest.mark.parametrize("verb", VERBS)
def test_each_command_is_on_the_page_with_its_options(verb, pages):
    section = pages["commands.md"].split(f"{{ #{verb} }}\n")[1].split("\n## ")[0]
    command = GROUP.get_command(CONTEXT, verb)
    assert plain(command.help) in plain(section)
    for param in command.params:
        for name in param.opts if param.param_type_name == "option" else ():
            assert f"`{name}" in section, name
        assert plain(param.help or "") in plain(section)


@pytest.mark.parametrize("verb", VERBS)
def test_help_on_the_terminal_loses_no_word(verb):
    """Rich reads brackets as markup: `[task]` in a help text would vanish."""
    command = GROUP.get_command(CONTEXT, verb)
    for text in (command.help, *(param.help or "" for param in command.params)):
        assert "[" not in text, text
    assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0


def test_each_preset_is_on_the_page(pages):
    for name in preset_names():
        assert f"\n## {name}\n" in pages["presets.md"]


def test_texts_stay_as_they_are_in_markdown():
    assert docs_reference._markdown("[a] *b* `c_d*` <e>_|") == r"\[a\] \*b\* `c_d*` &lt;e>\_\|"
