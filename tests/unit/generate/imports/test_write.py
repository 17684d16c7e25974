import json
from pathlib import Path

import pytest

from generate.imports.reading import Request, Unreadable, read_requests
from generate.imports.write import unreadable_path, write_requests
from generate.sources.config import SourceConfig
from generate.sources.reading import read_source
from potstill.errors import ArtifactError, ConfigError

SAMPLES = Path(__file__).parents[3] / "fixtures" / "traces"
HELICONE, LANGFUSE = str(SAMPLES / "helicone.jsonl"), str(SAMPLES / "langfuse.json")


@pytest.fixture
def written(tmp_path):
    """A file of the requests of two tools, and what was found."""
    path = tmp_path / "mine.jsonl"
    return path, write_requests(read_requests([HELICONE, LANGFUSE]), path)


def requests(*paths):
    return [one for one in read_requests(map(str, paths)) if isinstance(one, Request)]


def test_what_is_written_is_read_back_the_same(written):
    path, found = written
    assert (found.num_requests, found.num_answers, found.num_failed) == (8, 8, 2)
    assert requests(path) == requests(HELICONE, LANGFUSE)
    assert path.stat().st_mode & 0o077 == 0


def test_what_is_written_is_a_source_of_prompts(written):
    path, _ = written
    asked = list(read_source(SourceConfig(path=str(path)), last_role="user"))
    assert [one.messages[-1].role for one in asked[:4]] == ["user", "user", "tool", "user"]
    assert asked[1].source == "helicone.jsonl"
    failed = [json.loads(line) for line in path.read_text().splitlines()][3]
    assert failed["response"] == {"choices": [], "error": {"message": "refused"}}


def test_each_choice_is_a_stored_answer_to_score(tmp_path):
    kept = [json.loads(line) for line in Path(HELICONE).read_text().splitlines()][:1]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, kept)))
    scored = list(read_source(SourceConfig(path=str(path)), last_role="assistant"))
    assert [one.messages[-1].content for one in scored] == ["42", "It is 42."]


def test_what_cannot_be_read_is_listed_with_its_line(tmp_path):
    path = tmp_path / "a.jsonl"
    good = '{"prompt": "Hello"}'
    rows = f'{good}\nnot JSON\n{{"text": 3}}\n{good}\n' + '{"prompt": 3}\n{"prompt": "é"}\n'
    path.write_bytes(rows.encode("latin-1"))
    found = write_requests(read_requests([str(path)]), tmp_path / "b.jsonl")
    assert found.num_requests == 2
    assert [(one.where, one.found[:8]) for one in found.unreadable] == [
        (f"{path}, line 2", "not JSON"),
        (f"{path}, line 3", "keys tex"),
        (f"{path}, line 5", "content:"),
        (f"{path}, line 6", "not UTF-"),
    ]
    assert "4 could not be read; the first is" in found.sentences()[1]
    listed = unreadable_path(tmp_path / "b.jsonl").read_text().splitlines()
    assert [json.loads(line)["where"] for line in listed] == [one.where for one in found.unreadable]


def test_nothing_to_read_is_an_error_with_what_was_found(tmp_path):
    out = tmp_path / "b.jsonl"
    with pytest.raises(ArtifactError, match="no request to a model") as caught:
        write_requests([Unreadable("a.jsonl, line 1", "not JSON")], out)
    assert caught.value.where == "a.jsonl, line 1"
    assert not out.exists()
    with pytest.raises(ArtifactError, match="rows of other things only"):
        write_requests([], out)


def test_an_existing_file_is_kept_unless_forced(written):
    path, _ = written
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        write_requests(read_requests([HELICONE]), path)
    assert path.read_bytes() == before
    assert write_requests(read_requests([HELICONE]), path, force=True).num_requests == 4
