import codecs
import gzip
import json
import os
import tracemalloc

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from generate.sources import files
from generate.sources.config import SourceConfig
from generate.sources.reading import read_source, source_digest
from potstill.errors import ArtifactError, ConfigError
from potstill.files import sha256_bytes, sha256_file
from potstill.schema import Message

GOOD = '{"prompt": "What is 17 plus 25?"}\n'


@pytest.fixture
def prompt_file(tmp_path):
    """Return a function that writes a file of prompts."""

    def write(content: str | bytes, name: str = "mine.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def read(path, last_role="user", **config):
    return list(read_source(SourceConfig(path=str(path), **config), last_role=last_role))


def texts(path, **config):
    return [prompt.messages[0].content for prompt in read(path, **config)]


def user(content: str) -> Message:
    return Message(role="user", content=content)


def test_a_prompt_is_one_turn_of_the_user(prompt_file):
    (prompt,) = read(prompt_file(GOOD))
    assert prompt.messages == (user("What is 17 plus 25?"),)
    assert prompt.source == "mine.jsonl"
    assert prompt.license is None
    assert prompt.tools is None


def test_rows_keep_their_order_and_other_keys_are_left_alone(prompt_file):
    path = prompt_file('{"prompt": "b", "answer": [1, {}]}\n{"id": 7, "prompt": "a"}\n')
    assert texts(path) == ["b", "a"]


def test_source_and_license_are_kept_however_it_is_spelled(prompt_file):
    rows = [
        {"prompt": "a", "source": "a book", "licence": "CC0-1.0"},
        {"prompt": "b", "license": "MIT"},
        {"prompt": "c", "source": "", "license": None, "licence": None},
    ]
    path = prompt_file("\n".join(map(json.dumps, rows)))
    assert [(prompt.source, prompt.license) for prompt in read(path)] == [
        ("a book", "CC0-1.0"),
        ("mine.jsonl", "MIT"),
        ("mine.jsonl", None),
    ]
    named = read(path, name="support", license="CC-BY-4.0")
    assert [(prompt.source, prompt.license) for prompt in named] == [
        ("a book", "CC0-1.0"),
        ("support", "MIT"),
        ("support", "CC-BY-4.0"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        f"\n{GOOD}\n   \n\t\n{GOOD}\n\n",
        codecs.BOM_UTF8 + f"{GOOD}{GOOD}".encode(),
        f"{GOOD}{GOOD}".replace("\n", "\r\n"),
        f"{GOOD}{GOOD}".rstrip("\n"),
    ],
    ids=["empty lines", "byte order mark", "windows", "no newline at the end"],
)
def test_files_of_other_editors_are_read(prompt_file, content):
    assert texts(prompt_file(content)) == ["What is 17 plus 25?"] * 2


def test_separators_of_lines_within_a_prompt_are_text(prompt_file):
    text = "one\u2028two\u0085three\x0bfour"
    assert texts(prompt_file(json.dumps({"prompt": text}, ensure_ascii=False))) == [text]


def test_a_table_of_a_spreadsheet_is_read(prompt_file):
    path = prompt_file("id;prompt;answer\r\n1;What is it?;a card\r\n\r\n2;And, then?;\r\n", "a.csv")
    first, second = read(path)
    assert (first.messages, second.messages) == ((user("What is it?"),), (user("And, then?"),))
    assert (json.loads(first.known)["text"], second.known) == ("a card", None)
    assert texts(path.parent) == texts(path)
    zipped = prompt_file(gzip.compress(b"Ticket\nIt is broken\n"), "messages.csv.gz")
    assert texts(zipped) == ["It is broken"]


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        (b"Ticket,Date\nHi,Monday\n", "line 1", "columns 'Ticket', 'Date'"),
        (b"prompt\nHi\nHi, you\n", "line 3", "cells in the row: 2, columns: 1"),
        (b"prompt\nHi\nGr\xfc\xdfe\n", "line 3", "not UTF-8: byte 0xfc at byte 3"),
    ],
)
def test_a_table_at_fault_is_refused_with_its_line(prompt_file, content, line, found):
    path = prompt_file(content, "mine.csv")
    with pytest.raises(ArtifactError, match="a row of a source of prompts") as caught:
        read(path)
    assert (caught.value.where, caught.value.found) == (f"{path}, {line}", found)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("What is 17 plus 25?", "not JSON: Expecting value: line 1 column 1"),
        ('{"prompt": "cut o', "not JSON: Unterminated string"),
        ("{'prompt': 'a'}", "not JSON: Expecting property name"),
        ('["a", "b"]', "a JSON list"),
        ('{"text": "a", "id": 3}', "keys text, id"),
    ],
)
def test_a_broken_row_is_refused_with_its_line_and_what_was_found(prompt_file, row, found):
    path = prompt_file(f"{GOOD}\n{row}\n{GOOD}")
    with pytest.raises(ArtifactError, match="a row of a source of prompts") as caught:
        read(path)
    assert caught.value.where == f"{path}, line 3"
    assert caught.value.found.startswith(found)
    assert '{"prompt": "..."}' in caught.value.expected


def test_rows_before_a_broken_one_come_first(prompt_file):
    rows = read_source(SourceConfig(path=str(prompt_file(f"{GOOD}oops"))), last_role="user")
    assert next(rows).messages == (user("What is 17 plus 25?"),)
    with pytest.raises(ArtifactError):
        next(rows)


@pytest.mark.parametrize(
    "row",
    [
        r'{"prompt": "\ud83d what?"}',
        r'{"prompt": "a", "source": "\udc00"}',
        "[" * 100_000,
        '{"prompt": "a", "n": ' + "1" * 5000 + "}",
    ],
    ids=["half a character", "half a character in a source", "too deep", "too large a number"],
)
def test_json_that_cannot_be_stored_or_parsed_is_refused(prompt_file, row):
    path = prompt_file(row)
    with pytest.raises(ArtifactError):
        read(path)


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_refused_with_what_a_row_looks_like(prompt_file, content):
    path = prompt_file(content)
    with pytest.raises(ArtifactError, match="the source of prompts is empty") as caught:
        read(path)
    assert caught.value.where == str(path)
    assert '{"messages": [' in caught.value.expected


def test_a_missing_file_is_a_wrong_setting(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        read(tmp_path / "absent.jsonl")
    assert caught.value.where == str(tmp_path / "absent.jsonl")
    assert "no such file" in caught.value.found
    with pytest.raises(ConfigError, match="in the directory"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        source_digest(SourceConfig(path=str(tmp_path / "*.parquet")))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_forbidden_file_is_a_wrong_setting(prompt_file):
    path = prompt_file(GOOD)
    path.chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        read(path)


@pytest.mark.parametrize("url", ["nosuch://bucket/a.jsonl", "s3://bucket/a.jsonl"])
def test_a_url_without_its_file_system_is_a_wrong_setting(url):
    """Neither is installed for the tests: fsspec says which package is missing."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read(url)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_row_that_is_not_utf8_is_named(prompt_file, encoding):
    path = prompt_file('{"prompt": "café"}'.encode(encoding))
    with pytest.raises(ArtifactError, match=r"line 1(.|\n)*not UTF-8: byte 0x"):
        read(path)


def test_directories_and_patterns_are_read_in_the_order_of_names(prompt_file, tmp_path):
    for name in ("b.jsonl", "sub/c.ndjson", "a.jsonl.gz", ".hidden.jsonl", "_x/d.jsonl", "e.txt"):
        row = json.dumps({"prompt": name}).encode()
        prompt_file(gzip.compress(row) if name.endswith(".gz") else row, name)
    found = read(tmp_path)
    assert [prompt.messages[0].content for prompt in found] == [
        "a.jsonl.gz", "b.jsonl", "sub/c.ndjson"
    ]  # fmt: skip
    assert [prompt.source for prompt in found] == ["a.jsonl.gz", "b.jsonl", "c.ndjson"]
    assert texts(tmp_path / "?.jsonl") == ["b.jsonl"]
    assert texts(tmp_path / "*" / "*.jsonl") == ["_x/d.jsonl"]


@pytest.mark.parametrize(
    "content",
    [
        '[{"prompt": "a"}, {"prompt": "b"}]',
        '{"object": "list", "data": [{"prompt": "a"}, {"prompt": "b"}], "has_more": false}',
        '{"prompt": "a"}\n{"prompt": "b"}\n',
        '\ufeff[\n {"prompt": "a"},\n {"prompt": "b"}\n]\n',
    ],
    ids=["a list", "a page", "lines", "indented"],
)
def test_json_files_are_documents_or_lines(prompt_file, content):
    assert texts(prompt_file(content, "a.json")) == ["a", "b"]


def test_a_broken_json_file_is_refused_with_its_place(prompt_file):
    for content, place in (('[{"prompt": "a"}, 3]', "item 2"), ('{"prompt": "a"}\n{', "line 2")):
        path = prompt_file(content, "a.json")
        with pytest.raises(ArtifactError) as caught:
            read(path)
        assert caught.value.where == f"{path}, {place}"


def test_a_line_beyond_the_bound_is_refused_and_not_read_whole(prompt_file, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 40)
    path = prompt_file(GOOD + json.dumps({"prompt": "a" * 99}))
    with pytest.raises(ArtifactError, match="a line of more than 40 bytes") as caught:
        read(path)
    assert caught.value.where == f"{path}, line 2"


def test_a_file_whose_name_looks_like_a_pattern_is_read(prompt_file):
    assert texts(prompt_file(GOOD, "[a]*.jsonl")) == ["What is 17 plus 25?"]


def test_a_damaged_archive_is_refused(prompt_file):
    path = prompt_file(gzip.compress((GOOD * 999).encode())[:-20], "a.jsonl.gz")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(path)


@pytest.fixture
def memory_store():
    """An object store of fsspec's, empty again after the test."""
    store = fsspec.filesystem("memory")
    yield store
    store.rm("/", recursive=True)


def test_object_stores_are_read_through_fsspec(memory_store):
    memory_store.pipe("/logs/one.jsonl", GOOD.encode())
    memory_store.pipe("/logs/two.jsonl", b"\n\nnot JSON\n")
    assert texts("memory://logs/one.jsonl") == ["What is 17 plus 25?"]
    with pytest.raises(ArtifactError) as caught:
        read("memory://logs/*.jsonl")
    assert caught.value.where == "memory:///logs/two.jsonl, line 3"
    digest = source_digest(SourceConfig(path="memory://logs/one.jsonl"))
    assert digest == sha256_bytes(GOOD.encode())


def write_parquet(path, rows, **options):
    parquet.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def test_a_table_is_read_as_the_same_rows_of_json_would_be(tmp_path, prompt_file):
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    rows = [
        {"prompt": "one", "license": "MIT", "score": 0.5},
        {
            "messages": [
                {"role": "user", "content": "Add them."},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "3", "tool_call_id": "c1"},
            ],
            "tools": [TOOL],
        },
        {"prompt": "three", "source": "a book"},
    ]
    lines = prompt_file("\n".join(map(json.dumps, rows)), "rows")
    columns = {key for row in rows for key in row}
    padded = [{key: row.get(key) for key in columns} for row in rows]
    table = write_parquet(tmp_path / "rows.parquet", padded)
    assert read(table, name="a") == read(lines, name="a")
    assert read(table)[0].source == "rows.parquet"


def test_a_broken_row_of_a_table_is_named(tmp_path):
    rows = [{"prompt": "a"}] * 2000 + [{"prompt": "  "}]
    path = write_parquet(tmp_path / "rows.parquet", rows, row_group_size=700)
    with pytest.raises(ArtifactError) as caught:
        read(path)
    assert caught.value.where == f"{path}, row 2001"
    with pytest.raises(ArtifactError, match="keys text, label"):
        read(write_parquet(tmp_path / "other.parquet", [{"text": "a", "label": 1}]))


@pytest.mark.parametrize("has_schema", [True, False], ids=["shared texts", "texts"])
def test_a_small_table_that_holds_gigabytes_is_refused(tmp_path, has_schema):
    path = tmp_path / "rows.parquet"
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 1024), ["a" * 4_000_000])
    table = pa.table({"prompt": repeated})
    parquet.write_table(table, path, compression="zstd", store_schema=has_schema)
    assert path.stat().st_size < 1000
    with pytest.raises(ConfigError, match="2048 MiB of memory"):
        texts(path)


def test_a_small_row_of_ten_million_values_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    values = pa.array(np.zeros(10_000_000, bool))
    many = pa.ListArray.from_arrays(pa.array([0, 10_000_000], pa.int32()), values)
    parquet.write_table(pa.table({"prompt": ["a"], "messages": many}), path, compression="zstd")
    assert path.stat().st_size < 10_000
    with pytest.raises(ConfigError, match="a row of more than"):
        read(path)


def test_a_damaged_table_is_refused(tmp_path):
    path = write_parquet(tmp_path / "rows.parquet", [{"prompt": f"{n}"} for n in range(5000)])
    whole = path.read_bytes()
    for content in (b"", b"not a table", whole[:-30], whole[:40] + bytes(400) + whole[440:]):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="cannot be read"):
            read(path)


def test_a_digest_is_of_the_content(prompt_file, tmp_path):
    path = prompt_file(GOOD, "a/x.jsonl")
    one = SourceConfig(path=str(path))
    assert source_digest(one) == sha256_file(path)
    assert source_digest(SourceConfig(path=str(tmp_path / "a"))) == sha256_file(path)
    prompt_file(GOOD, "a/y.jsonl")
    both = SourceConfig(path=str(tmp_path / "a"))
    before = source_digest(both)
    assert before == source_digest(both) != sha256_file(path)
    prompt_file(GOOD + GOOD, "a/y.jsonl")
    assert source_digest(both) != before


def test_a_source_that_the_teacher_writes_cannot_be_read():
    with pytest.raises(ValueError, match="magpie"):
        next(read_source(SourceConfig(kind="magpie"), last_role="user"))


def test_memory_stays_flat_however_many_rows_there_are(prompt_file, tmp_path):
    row = json.dumps({"prompt": "word " * 400}) + "\n"
    paths = [
        prompt_file(row * 4000),
        write_parquet(tmp_path / "a.parquet", [json.loads(row)] * 4000, row_group_size=2000),
    ]
    for path in paths:
        tracemalloc.start()
        for _ in read_source(SourceConfig(path=str(path)), last_role="user"):
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4e6, path  # the rows are 8 MB
