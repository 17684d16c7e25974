"""Facts of a manifest are read as attributes of their models, never by string key."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("potstill", "generate", "train", "quantize", "serve", "compare", "tests", "benchmarks")
SOURCES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if not path.is_relative_to(ROOT / "potstill" / "facts")
)


def look_ups(tree: ast.Module) -> list[int]:
    """Return the lines where facts are subscripted or asked with `get`."""
    nodes = list(ast.walk(tree))
    names = _names_of_facts(nodes)
    found = set()
    for node in nodes:
        is_get = isinstance(node, ast.Attribute) and node.attr == "get"
        if (is_get or isinstance(node, ast.Subscript)) and _is_facts(node.value, names):
            found.add(node.lineno)
    return sorted(found)


def _names_of_facts(nodes: list[ast.AST]) -> set[str]:
    names = {
        one.arg
        for one in nodes
        if isinstance(one, ast.arg)
        and one.annotation is not None
        and ast.unparse(one.annotation).endswith("Facts")
    }
    bindings = [one for one in nodes if isinstance(one, ast.Assign | ast.AnnAssign | ast.NamedExpr)]
    num_before = -1
    while num_before < len(names):  # a name may be bound to another one
        num_before = len(names)
        for one in bindings:
            targets = one.targets if isinstance(one, ast.Assign) else [one.target]
            if one.value is not None and _is_facts(one.value, names):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _is_facts(node: ast.expr, names: set[str]) -> bool:
    match node:
        case ast.Name(id=name):
            return name in names
        case ast.Attribute(attr="facts"):
            return True
        case ast.Call(func=ast.Attribute(attr="facts"), args=[_, *_]):
            return True
        case ast.Call(func=ast.Attribute(attr="model_dump", value=value)):
            return _is_facts(value, names)
        case ast.Call(func=ast.Name(id="dict" | "vars"), args=[value]):
            return _is_facts(value, names)
        case ast.Subscript(slice=ast.Constant(value="facts")):
            return True
    return False


def test_facts_are_read_as_attributes():
    assert len(SOURCES) > 400
    texts = {path: path.read_text() for path in SOURCES}
    found = {
        path: look_ups(ast.parse(text)) for path, text in texts.items() if "facts" in text.lower()
    }
    assert len(found) > 40
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        'manifest.facts["num_layers"]',
        'manifest.facts.get("num_layers")',
        'facts = read_manifest(directory).facts\nfacts["num_layers"]',
        'def f(run):\n    known = run.facts(StudentFacts).model_dump()\n    return known["method"]',
        'first = manifest.facts\nsecond = first\nsecond.get("method")',
        'def f(student: StudentFacts):\n    return student.model_dump(mode="json")["method"]',
        'if (found := manifest.facts):\n    found["method"]',
        'dict(manifest.facts)["method"]',
        'json.loads(text)["facts"]["method"]',
    ],
)
def test_a_look_up_by_key_is_found(source):
    assert look_ups(ast.parse(source)) == [source.count("\n") + 1]


@pytest.mark.parametrize(
    "source",
    [
        "manifest.facts.num_layers",
        'run.facts(ConversationsFacts).languages["en"]',
        'teacher.facts()["logprobs_mode"]',
        'StudentFacts(**facts)["method"]',
    ],
)
def test_other_look_ups_are_none(source):
    assert look_ups(ast.parse(source)) == []
