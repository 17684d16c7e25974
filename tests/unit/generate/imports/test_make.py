import re
from pathlib import Path

import pytest

from generate.imports.make import import_traces
from potstill.errors import ConfigError

SAMPLES = Path(__file__).parents[3] / "fixtures" / "traces"
ROWS = """
{"prompt": "Is <b>ann@example.com</b> a customer?", "answer": "yes"}
{"messages": [{"role": "user", "content": "is <b>ann@example.com</b> a customer"},
 {"role": "assistant", "content": "no"}], "answer": "yes"}
{"messages": [{"role": "user", "content": "Wie ist morgen das Wetter in Linz an der Donau?"},
 {"role": "assistant", "content": "{\\"sky\\": 3}"}]}
not JSON
"""
CONFIG = """
[task]
metrics = [{kind = "json"}, {kind = "exact"}]
"""


@pytest.fixture
def page(tmp_path):
    """The text of the page about rows with known answers and a task, and the printed lines."""
    (tmp_path / "a.jsonl").write_text(ROWS.replace(",\n ", ", "))
    (tmp_path / "task.toml").write_text(CONFIG)
    lines = import_traces(
        [str(tmp_path / "a.jsonl")],
        tmp_path / "b.jsonl",
        page_path=tmp_path / "page.html",
        config_path=tmp_path / "task.toml",
        force=False,
    )
    return (tmp_path / "page.html").read_text(), lines


def test_the_page_counts_what_is_in_the_traces(page):
    html, lines = page
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    assert (
        "3 requests with 2 answers; 0 (0.0%) ended in an error, 1 (33.3%) have no answer." in text
    )
    assert "1 (33.3%) repeat an earlier request." in text
    assert "2 (66.7%) contain personal data." in text
    assert "2 (66.7%) have a known answer." in text
    assert "1 could not be read." in text
    assert "1 of 2 answers (50.0%) fail json." in text
    assert "1 of 1 answers (100.0%) fail exact." in text
    assert "de 1" in text
    assert "email 2" in text
    assert "1 question Is" in text
    assert lines[0].startswith("3 requests with 2 answers, 2 with a known answer; 0 ended")
    assert "1 could not be read; the first is" in lines[1]


def test_texts_on_the_page_are_escaped(page):
    html, _ = page
    assert "&lt;b&gt;ann@example.com" in html
    assert "<b>ann" not in html


def test_a_configuration_without_a_task_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ConfigError, match="has no task"):
        import_traces(
            [str(SAMPLES / "helicone.jsonl")],
            tmp_path / "b.jsonl",
            page_path=tmp_path / "page.html",
            config_path=tmp_path / "empty.toml",
            force=False,
        )
    assert not (tmp_path / "b.jsonl").exists()
