"""Conventions that no linter checks."""

import ast
import re
import sys
from pathlib import Path

import pytest

from potstill.pipeline import PIPELINE, STAGES

ROOT = Path(__file__).parents[2]
ROOMS = ("potstill", "generate", "train", "quantize", "serve", "compare")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def source_id(path):
    return str(path.relative_to(ROOT))


def test_a_module_says_what_it_is_and_stays_short():
    assert len(SOURCES) > 400
    for path in SOURCES:
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), source_id(path)
        assert text.count("\n") <= 400, source_id(path)
        assert path.stem not in {"utils", "common", "helpers", "misc"}, source_id(path)
        assert path.stem not in sys.stdlib_module_names, source_id(path)


@pytest.mark.parametrize("room", ROOMS[1:])
def test_every_room_has_the_same_doors(room):
    doors = {"stage.py", "config.py"}
    if STAGES[room] in PIPELINE:
        doors.add("estimate.py")
    assert doors <= {path.name for path in (ROOT / room).iterdir()}


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_every_setting_is_explained(stage):
    """Each field of a table has a docstring, unless it is a table itself."""
    tree = ast.parse((ROOT / stage.name / "config.py").read_text())
    for table in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        assert ast.get_docstring(table), table.name
        for field, after in zip(table.body, [*table.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and not ast.unparse(field.annotation).endswith(
                "Config"
            ):
                explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert explained, f"{table.name}.{ast.unparse(field.target)}"


def test_what_verbs_print_passes_through_one_place():
    """Names and texts in files of others would control the terminal."""
    own_words = {
        "potstill/cli.py",
        "potstill/commands/fetch.py",
        "potstill/loopback.py",
        "potstill/progress.py",  # texts of bars are replaced there
        "potstill/terminal.py",
        "generate/init/questions.py",
        "serve/terminal/start.py",  # and those of a chat, word by word, in serve/terminal
    }
    raw = re.compile(r"typer\.echo\(|\bConsole\(")
    found = {source_id(path) for path in SOURCES if raw.search(path.read_text())}
    assert found == own_words


def test_unit_tests_mirror_the_tree():
    for path in (ROOT / "tests" / "unit").rglob("test_*.py"):
        folder = ROOT / path.parent.relative_to(ROOT / "tests" / "unit")
        subject = path.stem.removeprefix("test_")
        assert (folder / f"{subject}.py").is_file() or (folder / subject).is_dir(), source_id(path)


def test_the_tree_in_the_documents_is_the_tree():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    core = text.split("potstill/    ")[1].split("generate/")[0]
    named = set(re.findall(r"^  ([a-z_]+)/?  ", core, re.MULTILINE))
    found = (ROOT / "potstill").glob("[!_]*")
    assert named == {path.stem for path in found if path.is_dir() or path.suffix == ".py"}
