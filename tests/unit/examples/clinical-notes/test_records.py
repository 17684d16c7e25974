import json
import random
from pathlib import Path

import jsonschema
import pytest

from potstill.task.functions import import_function

EXAMPLE = Path(__file__).parents[4] / "examples" / "clinical-notes"
RECORD = {
    "name": "Ann Lee", "age": 40, "sex": "female", "date": "2024-03-05", "complaint": "back pain",
    "fever": False, "cough": True, "allergy": "none", "drug": "naproxen", "dose": "500 mg",
    "per_day": 2,
}  # fmt: skip
NOTE = (
    "Ann Lee, 40-year-old woman, 5 March 2024. Back pain with cough but no fever. No known "
    "allergies. Naproxen 500 mg twice daily."
)


@pytest.fixture
def check():
    return import_function(f"{EXAMPLE / 'records.py'}:check", "here")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["draw", "draw_unseen"])
def test_drawn_records_fit_the_schema_and_leave_fields_out(name):
    draw = import_function(f"{EXAMPLE / 'records.py'}:{name}", "here")
    schema = json.loads((EXAMPLE / "schema.json").read_text())
    records = [json.loads(draw(random.Random(seed))) for seed in range(300)]
    for record in records:
        jsonschema.validate(record, schema)
    assert {field for record in records for field in record} == set(schema["properties"])
    assert len(schema["properties"]) >= 20
    sizes = [len(record) for record in records]
    assert min(sizes) < 13 < 17 < max(sizes)
    assert draw(random.Random(5)) == draw(random.Random(5))


def test_an_exact_note_is_kept(check):
    assert check(NOTE, json.dumps(RECORD)) is None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("but no fever", "and fever", "fever is False and read as True"),
        ("with cough but no fever", "without cough or fever", "cough is True and read as False"),
        ("with cough but no fever", "with cough", "fever is False and read as None"),
        ("No known allergies.", "", "does not say that no allergy is known"),
        ("No known", "No known rash or", "mentions rash, which the record does not have"),
        ("5 March 2024", "5 March", "has no year"),
        ("twice daily", "twice daily for 5 days", "mentions 5 days, which the record"),
        ("twice daily", "twice daily. Review in 7 days", "mentions review, which the record"),
        ("Naproxen", "Diagnosed with strain. Naproxen", "mentions dx, which the record"),
        ("twice daily", "twice daily, ibuprofen too", "mentions ibuprofen, which the record"),
        ("no fever", "no fever, pulse 9", "mentions hr, which the record does not have"),
        ("but no fever", "fever: false", "reads like a record"),
    ],
)  # fmt: skip
def test_another_note_is_dropped_with_its_reason(check, old, new, reason):
    assert (check(NOTE.replace(old, new), json.dumps(RECORD)) or "kept").startswith(reason)


@pytest.mark.parametrize(
    ("text", "change", "reason"),
    [
        (NOTE.replace("no fever", "afebrile"), {}, None),
        (NOTE.replace("woman", "woman, nonsmoker"), {"smoker": False}, None),
        (NOTE, {"stopped": "aspirin"}, "does not say what was stopped"),
        (NOTE, {"allergy": "latex"}, None),
        (NOTE.replace("allergies", "problems"), {"allergy": "latex"},
         "does not name the allergy as one"),
        (NOTE.replace("cough", "cough, 98"), {"spo2": 98}, "spo2 is not named"),
    ],
)  # fmt: skip
def test_what_a_record_has_must_be_named(check, text, change, reason):
    assert check(text, json.dumps(RECORD | change)) == reason


def test_the_examples_are_exact(check):
    rows = [json.loads(line) for line in (EXAMPLE / "examples.jsonl").read_text().splitlines()]
    assert len(rows) >= 10
    for row in rows:
        assert check(row["prompt"], row["answer"]) is None
