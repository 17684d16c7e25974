import json
import random
from pathlib import Path

import jsonschema
import pytest

from generate.sources.task.mentions import mentions, names
from potstill.task.functions import import_function

EXAMPLE = Path(__file__).parents[4] / "examples" / "clinical-notes"


@pytest.fixture
def function(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    return lambda name: import_function(f"{EXAMPLE / 'references.py'}:{name}", "here")


@pytest.fixture
def rows():
    return [json.loads(line) for line in (EXAMPLE / "references.jsonl").read_text().splitlines()]


def test_the_file_is_what_the_program_writes(function, rows):
    module = function("references").__globals__
    made = function("references")(module["NUM_REFERENCES"], module["SEED"], module["TEMPLATES"])
    assert made == rows
    assert len(rows) == 300


@pytest.mark.slow
def test_every_reference_is_readable_and_invents_nothing(rows):
    check = import_function(f"{EXAMPLE / 'records.py'}:check", "here")
    schema = json.loads((EXAMPLE / "schema.json").read_text())
    for row in rows:
        record = json.loads(row["answer"])
        jsonschema.validate(record, schema)
        assert check(row["prompt"], row["answer"]) is None, row
        for field, value in record.items():
            read = names if field == "sex" else mentions
            assert read(row["prompt"], value), (field, value, row["prompt"])


def test_names_drugs_and_complaints_are_not_those_of_training(function):
    module = function("references").__globals__
    training, test = function("draw_record").__globals__["TRAINING"], module["TEST"]
    for kind in ("women", "men", "surnames", "allergies", "stopped"):
        assert not set(getattr(training, kind)) & set(getattr(test, kind)), kind
    seen, unseen = ({drug for case in one.cases for drug, _, _ in case.drugs} for one in
                    (training, test))  # fmt: skip
    assert not (seen | {*training.stopped}) & (unseen | {*test.stopped})
    complaints = [{case.complaint for case in one.cases} for one in (training, test)]
    assert not complaints[0] & complaints[1]


@pytest.mark.slow
def test_no_made_up_word_is_one_of_the_references(rows):
    draw = import_function(f"{EXAMPLE / 'records.py'}:draw_unseen", "here")
    fields = ("drug", "stopped", "allergy", "complaint", "dx")
    made_up, known = (
        {name for record in records for name in record["name"].split()}
        | {record[field] for record in records for field in fields if field in record} - {"none"}
        for records in (
            [json.loads(draw(random.Random(seed))) for seed in range(3000)],
            [json.loads(row["answer"]) for row in rows],
        )
    )
    assert not made_up & known


def test_templates_to_calibrate_on_are_others(function):
    module = function("references").__globals__
    clauses = [{one for template in templates for one in template}
               for templates in (module["TEMPLATES"], module["CALIBRATION"])]  # fmt: skip
    shared = clauses[0] & clauses[1]
    assert all(len(clause) == 1 and len(clause[0].split()) <= 3 for clause in shared), shared
    draw = random.Random(1)
    record = function("draw_record")(draw, module["TEST"])
    note = function("write_note")(record, module["CALIBRATION"][0], draw)
    assert record["name"] in note
