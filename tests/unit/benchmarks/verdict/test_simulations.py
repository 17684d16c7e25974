"""The command that makes the tables of docs/explanation/; a small part of its simulations."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.verdict import simulations
from benchmarks.verdict._tables import Table, mapping, stored_or_computed
from potstill.errors import ConfigError

PAGE = "# A page\n\n<!-- simulated: drawn -->\nold\n<!-- end -->\n\nText.\n"


def drawn(name, rng, num_runs):
    return [name, num_runs, f"{rng.random():.6f}"]


TABLE = Table("drawn", ["name", "runs", "draw"], [partial(drawn, name) for name in "ab"])


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Make a page with a place for the only table."""
    monkeypatch.setattr(simulations, "TABLES", (TABLE,))
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def make(tmp_path, *arguments):
    simulations.main(["--processes", "1", "--keep", str(tmp_path / "kept"), *arguments])


def test_tables_are_written_into_the_page_and_kept(tmp_path, page):
    make(tmp_path, "--runs", "3", "--pages", str(page))
    first = page.read_text()
    assert first.startswith(
        "# A page\n\n<!-- simulated: drawn -->\n\n3 runs: standard error 0.126 "
    )
    assert "\n\n| name | runs | draw |\n| --- | --: | --: |\n| a | 3 | 0." in first
    assert first.endswith("|\n\n<!-- end -->\n\nText.\n")
    (kept,) = (tmp_path / "kept").rglob("drawn-3.md")
    kept.write_text("| kept |")
    make(tmp_path, "--runs", "3", "--pages", str(page))
    assert "| kept |" in page.read_text()
    make(tmp_path, "--runs", "4", "--pages", str(page))
    assert "| a | 4 | " in page.read_text()


def test_processes_change_no_draw(tmp_path):
    with mapping(2) as in_two:
        found = stored_or_computed(TABLE, 5, tmp_path / "two", in_two)
    assert found == stored_or_computed(TABLE, 5, tmp_path / "one", map)
    assert len(set(re.findall(r"0[.][0-9]{6}", found))) == 2


def test_what_has_no_place_or_no_name_is_refused(tmp_path, page, capsys):
    other = tmp_path / "other.md"
    other.write_text("Text.\n")
    make(tmp_path, "--pages", str(other), str(page))
    assert other.read_text() == "Text.\n"
    for text in (PAGE, "Text.\n" + PAGE * 2):
        other.write_text(text)
        with pytest.raises(ConfigError, match="no place for a table"):
            make(tmp_path, "--pages", str(other), str(page))
    with pytest.raises(SystemExit):
        make(tmp_path, "--only", "drawn,other")
    assert "no table other; there are drawn" in capsys.readouterr().err


def test_the_pages_have_a_place_for_each_table():
    pages = Path("docs/explanation").glob("*.md")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    names = re.findall(r"<!-- simulated: (\S+) -->\n(?:(?!<!--)(?s:.))*<!-- end -->", text)
    assert sorted(names) == sorted(table.name for table in simulations.TABLES)


@pytest.mark.parametrize("name", ["80% right", "always ties"])
def test_no_judge_passes_a_worse_student_with_the_votes_that_plan_asks_for(name):
    _, _, alone, accepted, votes, worse, _, _ = simulations.judged(
        name, 155, np.random.default_rng(5), 2
    )
    assert (accepted, votes, worse) == ("1.00", 155, "0.00")
    assert alone == ("1.00" if name == "always ties" else "0.00")
