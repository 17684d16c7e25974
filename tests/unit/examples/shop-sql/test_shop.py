"""The data of examples/shop-sql: what makes execution a measure of its questions."""

import json
import random
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from potstill.schema import Message
from potstill.task.answers import Answer, Item
from potstill.task.functions import import_function
from potstill.task.metrics.config import SqlConfig
from potstill.task.metrics.sql import Sql

EXAMPLE = Path(__file__).parents[4] / "examples/shop-sql"


def rows_of(query: str) -> list[tuple]:
    with closing(sqlite3.connect(f"file:{EXAMPLE}/shop.sqlite?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def questions(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (EXAMPLE / name).read_text("utf-8").splitlines()]


def test_the_scripts_make_the_committed_files_again(tmp_path):
    for path in EXAMPLE.iterdir():
        if path.suffix in {".py", ".toml"}:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    for script in ("shop.py", "questions.py"):
        subprocess.run([sys.executable, tmp_path / script], check=True, capture_output=True)
    assert (tmp_path / "references.jsonl").read_bytes() == (
        EXAMPLE / "references.jsonl"
    ).read_bytes()
    with (
        closing(sqlite3.connect(tmp_path / "shop.sqlite")) as made,
        closing(sqlite3.connect(EXAMPLE / "shop.sqlite")) as committed,
    ):
        assert list(made.iterdump()) == list(committed.iterdump())


def test_each_test_question_has_rows_of_its_own_and_its_query_scores_one():
    metric = Sql(SqlConfig(database=EXAMPLE / "shop.sqlite"))
    references = questions("references.jsonl")
    assert len(references) >= 300
    results = set()
    for one in references:
        rows = rows_of(one["answer"])
        assert rows, one
        assert rows not in ([(0,)], [(1,)], [(None,)]), one
        results.add(repr(sorted(map(repr, rows))))
        item = Item(
            messages=(Message(role="user", content=one["prompt"]),),
            known=Answer(text=one["answer"]),
        )
        assert metric.score(Answer(text=one["answer"]), item).value == 1
        assert metric.score(Answer(text="SELECT 1"), item).value == 0
    assert len(results) == len(references)


def test_no_query_or_phrasing_of_the_test_is_among_the_examples():
    references, examples = questions("references.jsonl"), questions("examples.jsonl")
    assert len(examples) == 50
    for key in ("prompt", "answer"):
        assert not {one[key] for one in references} & {one[key] for one in examples}
    assert all(rows_of(one["answer"]) for one in examples)


def test_drawn_queries_have_rows_and_name_nothing_that_the_templates_of_the_test_name():
    query = import_function(f"{EXAMPLE}/draws.py:query", "draw")
    drawn = [query(random.Random(seed)) for seed in range(400)]
    assert len({sql for sql, *_ in drawn}) > 350
    tested = {one["answer"] for one in questions("references.jsonl")}
    held_out = re.compile(
        r"'(?:Braga|Verona|Dublin|cast iron pan|floor lamp)'|-(?:02|04|07|09|11)%'"
    )
    for sql, words, said in drawn:
        assert rows_of(sql)
        assert not held_out.search(sql), sql
        assert "{" not in sql + words
        for value in said.values():
            assert value in words, (words, value)
    same = sum(sql in tested for sql, *_ in drawn)
    assert same < 10
