"""The parts of docs/style.md that a machine can check: American names, and overused phrases.

codespell reads whole words only; here names are split into theirs.
"""

from __future__ import annotations

import io
import re
import subprocess
import tokenize
from collections import Counter
from functools import cache
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("potstill", "generate", "train", "quantize", "serve", "compare")
AS_OTHERS_SPELL = {"cancelled", "dialogue", "dialogues"}
"""asyncio and OpenAI cancel with two l; the other word is the field's."""
OF_USERS = {
    "licence",
    *("centimetre", "centimetres", "kilometre", "kilometres"),
    *("litre", "millilitre", "millilitres"),
}
"""Names in files of users, and units as they write them."""
FORMER_NAMES = {"former_names.py", "test_former_names.py"}
"""Modules that read what earlier versions wrote."""
ENDING = "is(?:e|ed|er|ers|es|ing|able|ation|ations)$"
OF_THE_FIELD = {"quant", "token"}
"""Stems of verbs that the dictionary does not have."""
IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def tracked(*patterns):
    command = ["git", "ls-files", "-z", "--", *patterns]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in found.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def british() -> re.Pattern[str]:
    """Words of the dictionary, and its verbs with any prefix and ending."""
    path = resources.files("codespell_lib") / "data" / "dictionary_en-GB_to_en-US.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    words = {line.partition("->")[0] for line in lines} - AS_OTHERS_SPELL
    stems = {word[: found.start()] for word in words if (found := re.search(ENDING, word))}
    stems = {stem for stem in stems if len(stem) > 3} | OF_THE_FIELD
    return re.compile(rf"({'|'.join(words)})$|.*({'|'.join(stems)}){ENDING}")


@cache  # Modules share most of their words.
def is_in(british, word):
    return british.match(word) is not None


def not_american(text, british):
    """Return the British words of a text's names."""
    names = set(IDENTIFIER.findall(text)) - OF_USERS
    words = {word.lower() for name in names for word in WORD.findall(name)}
    return {word for word in words if is_in(british, word)}


def test_names_are_american(british):
    paths = tracked(
        "*.py", "*.md", "*.toml", "*.js", "*.html", "*.css", "Makefile", "scripts", "deploy"
    )
    assert len(paths) > 500
    found = {
        str(path.relative_to(ROOT)): not_american(path.read_text(), british)
        for path in paths
        if path != Path(__file__) and path.name not in FORMER_NAMES
    }
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize(
    "name", ["requantise_rows", "TokeniserPool", "num_tokenised", "COLOUR_MAP", "defaultBehaviour"]
)
def test_british_names_are_found(name, british):
    assert not_american(f"{name} = 1", british)


@cache
def prose(path):
    """Return a page, or what a module says in comments and strings, on one line."""
    text = path.read_text()
    if path.suffix == ".py":
        # From Python 3.12 on, the text of f-strings comes in tokens of its own.
        kinds = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", None))
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        text = " ".join(token.string for token in tokens if token.type in kinds)
    return " ".join(text.replace("#", " ").split())


@pytest.mark.parametrize(
    ("phrase", "most"),
    [
        # "Tell apart" is another sense.
        (r"\b(tells?|told|telling)\b(?!( \w+){0,4} apart)", 5),
        (r"\bknows? nothing (of|about)\b", 5),
        (r"[\d}] %(?=[\s,.;:)|\]])", 0),
    ],
    ids=["tell", "knows nothing of", "a space before %"],
)
def test_habits_of_phrase_are_rare(phrase, most):
    pages = tracked("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs", *PRODUCT)
    pages = [path for path in pages if path.suffix in {".py", ".md"} and path.name != "style.md"]
    counts = Counter()
    for path in pages:
        counts[str(path.relative_to(ROOT))] += len(re.findall(phrase, prose(path), re.IGNORECASE))
    assert len(pages) > 300
    assert counts.total() <= most, [name for name, count in counts.most_common() if count]
