from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq

from generate.curation.dropped import (
    DROPPED_NAME,
    dropped_schema,
    with_reasons,
    write_dropped_prompts,
)
from generate.sources.raw_prompt import DroppedPrompt
from potstill.tables import PROMPT_SCHEMA


def test_prompts_are_written_with_filter_and_reason(raw_prompt, tmp_path):
    tools = '[{"type": "function"}]'
    known = '{"text": "4", "tool_calls": []}'
    origin = {"source": "a", "license": "MIT", "tools": tools, "known": known}
    asked = raw_prompt("One?", "Two.", "Three?", **origin)
    dropped = [
        DroppedPrompt(asked, "length", "9 characters"),
        DroppedPrompt(raw_prompt("No"), "mine:own", "no reason"),
        DroppedPrompt(raw_prompt("Also no"), "length", "7 characters"),
    ]
    counts = write_dropped_prompts(tmp_path, dropped)
    table = pq.read_table(tmp_path / DROPPED_NAME)
    assert counts == {"length": 2, "mine:own": 1} == Counter(table["filter"].to_pylist())
    assert table.schema == dropped_schema(PROMPT_SCHEMA)
    rows = table.to_pylist()
    assert [(row["prompt_id"], row["filter"], row["reason"]) for row in rows] == [
        (one.prompt.prompt_id, one.filter, one.reason) for one in dropped
    ]
    assert rows[0] | {"messages": [one["content"] for one in rows[0]["messages"]]} == {
        "prompt_id": asked.prompt_id,
        "cluster_id": None,
        "split": None,
        "messages": ["One?", "Two.", "Three?"],
        **origin,
        "filter": "length",
        "reason": "9 characters",
    }


def test_a_file_is_there_when_nothing_was_dropped(tmp_path):
    assert write_dropped_prompts(tmp_path, []) == {}
    table = pq.read_table(tmp_path / DROPPED_NAME)
    assert (table.num_rows, table.schema) == (0, dropped_schema(PROMPT_SCHEMA))
    assert Counter(table["filter"].to_pylist()) == {}


def test_reasons_stand_beside_their_rows():
    rows = with_reasons(pa.table({"n": [1, 2]}), ["a", "b"], ["x", "y"])
    assert rows.schema == dropped_schema(pa.schema([("n", pa.int64())]))
    assert rows.to_pylist() == [
        {"n": 1, "filter": "a", "reason": "x"},
        {"n": 2, "filter": "b", "reason": "y"},
    ]
    assert with_reasons(pa.table({"n": []}), [], []).num_rows == 0
