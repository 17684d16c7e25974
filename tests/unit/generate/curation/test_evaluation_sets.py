import gzip
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from generate.curation.config import EvaluationSetConfig
from generate.curation.evaluation_sets import Question, read_evaluation_set
from potstill.errors import ConfigError


def questions(path) -> list[Question]:
    return list(read_evaluation_set(EvaluationSetConfig(name="exam", path=path)))


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"prompt": "Why?"}, ("Why?",)),
        ({"prompt": "", "question": "Why?", "answer": "Because"}, ("Why?",)),
        ({"turns": ["Why?", "Why not?"]}, ("Why?", "Why not?")),
        ({"turns": [{"content": "Why?"}]}, ("Why?",)),
        ({"text": "Why?", "choices": ["a", "b"]}, ("Why?",)),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Why?"},
                    {"role": "assistant", "content": "Because."},
                    {"role": "user", "content": "Why not?"},
                ]
            },
            ("Why?", "Why not?"),
        ),
    ],
)
def test_rows_of_usual_shapes_are_read(tmp_path, row, turns):
    path = tmp_path / "exam.jsonl"
    path.write_text(json.dumps(row) + "\n")

    assert questions(path) == [Question("exam, row 1", turns)]


def test_ids_name_the_questions(tmp_path):
    path = tmp_path / "exam.jsonl.gz"
    rows = [{"question_id": 81, "text": "Why?"}, {"id": "b", "text": "How?"}, {"text": "Who?"}]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))

    assert [question.name for question in questions(path)] == [
        "exam, question 81",
        "exam, question b",
        "exam, row 3",
    ]


def test_parquet_and_text_files_are_read(tmp_path):
    parquet.write_table(
        pa.table({"prompt_id": [7], "question": ["Why?"], "weight": [1.0]}),
        tmp_path / "exam.parquet",
    )
    (tmp_path / "exam.txt").write_text("\ufeffWhy?\n\n  How? \n", encoding="utf-8")

    assert questions(tmp_path / "exam.parquet") == [Question("exam, question 7", ("Why?",))]
    assert [question.turns for question in questions(tmp_path / "exam.txt")] == [
        ("Why?",),
        ("How?",),
    ]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("missing.jsonl", None, "no such file"),
        ("missing.txt", None, "No such file"),
        ("empty.txt", "\n\n", "no question"),
        ("empty.jsonl", "", "no question"),
        ("exam.jsonl", '{"text": "Why?"}\n{"answer": "42"}\n', "line 2"),
        ("exam.jsonl", "not json\n", "line 1"),
        ("exam.json", '[{"text": "Why?"}]', "JSON file"),
        ("exam.parquet", "no table", "magic bytes"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, content, found):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigError, match="an evaluation set cannot be read") as refusal:
        questions(path)
    assert found in str(refusal.value.found)
    assert "evaluation_sets, exam" in str(refusal.value.where)
