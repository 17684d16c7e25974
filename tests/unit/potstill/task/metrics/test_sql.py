import sqlite3
import time
from contextlib import closing

import pytest

from potstill.errors import ConfigError
from potstill.task.answers import Answer
from potstill.task.metrics.config import SqlConfig
from potstill.task.metrics.sql import Sql


@pytest.fixture
def shop(tmp_path):
    path = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table items (id integer primary key, name text, price real)")
        rows = [(1, "cup", 2.5), (2, "pan", 20.0), (3, "pot", 20.0)]
        connection.executemany("insert into items values (?, ?, ?)", rows)
    return path


@pytest.mark.parametrize(
    ("said", "known", "value"),
    [
        ("select name from items", "SELECT name FROM items;", 1.0),
        ("select name from items order by id desc", "select name from items", 1.0),
        ("select name from items", "select name from items order by id desc", 0.0),
        ("```sql\nselect count(*) from items\n```", "select 3", 1.0),
        ("select sum(price) from items", "select 42.5", 1.0),
        ("select 0.1 + 0.2", "select 0.3", 1.0),
        ("select name, id from items", "select id, name from items", 0.0),
        ("select 20.0", "select price from items where id > 1", 0.0),
        ("select nothing from items", "select 3", 0.0),
        ("I would count them.", "select 3", 0.0),
        ("", "select 3", 0.0),
    ],
)
def test_results_are_compared(scored, shop, said, known, value):
    assert scored(Sql(SqlConfig(database=shop)), said, known).value == value


@pytest.mark.parametrize(
    "attack",
    [
        "delete from items",
        "drop table items",
        "insert into items values (4, 'x', 1)",
        "create temp table t as select 1",
        "attach 'other.sqlite' as other",
        "pragma table_info(items)",
        "select * from pragma_database_list",
        "select 1; delete from items",
        "select load_extension('x')",
    ],
)
def test_a_query_can_only_read(scored, shop, attack, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = shop.read_bytes()
    score = scored(Sql(SqlConfig(database=shop)), attack, "select 1")
    assert score.value == 0.0
    assert score.problem
    assert shop.read_bytes() == before
    assert not (tmp_path / "other.sqlite").exists()


LETTERS = "replace(hex(zeroblob({})), '0', 'a')"
ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select"


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        (f"{ENDLESS} max(i) from n", "no result within"),
        (f"{ENDLESS} i from n", "more than"),
        (f"{ENDLESS} hex(zeroblob(400000)) from n", "more than"),
        ("select zeroblob(2000000000)", "too big"),
        ("select hex(zeroblob(900000))", "too big"),
        (f"select instr({LETTERS.format(400_000)}, {LETTERS.format(200_000)} || 'b')", "no result"),
        (
            f"select {LETTERS.format(400_000)} like '%' || {LETTERS.format(9_000)} || '_b%'",
            "no result within",
        ),
    ],
)
def test_time_rows_and_bytes_are_bounded(scored, shop, query, problem):
    metric = Sql(SqlConfig(database=shop, timeout_seconds=0.3, max_rows=100))
    scored(metric, "select 1", "select 1")  # its process has started
    started = time.monotonic()
    score = scored(metric, query, "select 1")
    assert time.monotonic() - started < 10
    assert score.value == 0.0
    assert problem in score.problem


def test_a_query_fills_neither_memory_nor_disk(scored, shop):
    metric = Sql(SqlConfig(database=shop, timeout_seconds=60))
    query = f"{ENDLESS} count(distinct hex(zeroblob(400000)) || i) from n"
    assert "memory" in (scored(metric, query, "select 1").problem or "")
    assert scored(metric, "select 1", "select 1").value == 1.0


def test_blobs_are_compared(scored, shop):
    metric = Sql(SqlConfig(database=shop))
    assert scored(metric, "select x'00ff'", "select x'00ff'").value == 1.0
    assert scored(metric, "select x'00ff'", "select x'00fe'").value == 0.0
    assert scored(metric, "select x'6162'", "select 'ab'").value == 0.0


def test_a_missing_database_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Sql(SqlConfig(database=tmp_path / "none.sqlite"))


def test_queries_with_the_same_rows_have_the_same_key(shop):
    metric = Sql(SqlConfig(database=shop))
    key = metric.key(Answer(text="select name from items"))
    assert key == metric.key(Answer(text="```sql\nselect name from items order by id desc;\n```"))
    assert key != metric.key(Answer(text="select id from items"))
    assert metric.key(Answer(text="drop table items")) is None
