import json

import pytest

from generate.sources.task.refill import nearness, refilled
from generate.sources.task.wanted import Turn, Wanted
from potstill.task.answers import Answer

OLD = {
    "name": "Ann Lee", "age": 40, "date": "2024-03-05", "complaint": "back pain", "wt": "71 kg",
    "bp": "120/80", "cough": True, "drug": "naproxen", "dose": "500 mg", "per_day": 2,
}  # fmt: skip
NEW = {
    "name": "Max Ode", "age": 63, "date": "2023-11-30", "complaint": "thirst", "wt": "182 lb",
    "bp": "141/93", "cough": False, "drug": "metformin", "dose": "2.5 mg", "per_day": 3,
}  # fmt: skip
TEXT = (
    "Ann Lee, 40-year-old, 5 Mar 2024. Back pain, cough, weighs 71 kg. BP 120/80. "
    "Naproxen 500mg 2 times a day."
)


def stating(record, text=None):
    known = Answer(text=text or json.dumps(record, separators=(",", ":")))
    return Wanted((Turn(says=record),), known=known, is_exact=True)


def test_values_that_stand_there_literally_are_replaced():
    wanted, text = refilled(stating(OLD), TEXT, stating(NEW))
    assert text == (
        "Max Ode, 63-year-old, 30 Nov 2023. Thirst, cough, weighs 71 kg. BP 141/93. "
        "Metformin 2.5mg 2 times a day."
    )
    kept = {key: OLD[key] for key in ("wt", "cough", "per_day")}
    assert json.loads(wanted.known.text) == {**NEW, **kept}
    assert dict(wanted.turns[0].says) == {**NEW, **kept}
    assert ", " not in wanted.known.text, "compact like the former"


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        ("BP 120/80.", "BP 120/80, later 120/80.", "bp"),
        ("weighs 71 kg", "weighs 71 kg, Ms. Lee says", "name"),
        ("cough", "cough, 40 a day", "age"),
        ("5 Mar 2024", "the fifth of March 2024", "date"),
    ],
)
def test_a_value_that_is_not_there_exactly_once_is_kept(old, new, kept):
    wanted, text = refilled(stating(OLD), TEXT.replace(old, new), stating(NEW))
    assert json.loads(wanted.known.text)[kept] == OLD[kept]
    assert new in text


@pytest.mark.parametrize(
    ("wanted", "donor"),
    [
        (stating(OLD), stating({"name": "Max Ode", "age": 63})),
        (stating(OLD, "no JSON"), stating(NEW)),
        (stating(OLD, '{"other": 1}'), stating(NEW)),
        (Wanted((Turn(says=OLD),), known=Answer(text=json.dumps(OLD))), stating(NEW)),
        (stating(OLD), Wanted((Turn(says=NEW),))),
    ],
)
def test_what_is_no_flat_record_or_hardly_changes_is_not_refilled(wanted, donor):
    assert refilled(wanted, TEXT, donor) is None


def test_a_record_with_the_same_choices_is_nearest():
    wanted = stating({"name": "Ann", "cough": True, "age": 40})
    near, fewer, other = (
        stating(record)
        for record in (
            {"name": "Max", "cough": True},
            {"name": "Max"},
            {"name": "Max", "cough": False, "age": 50},
        )
    )
    assert nearness(wanted, near) > nearness(wanted, other) > nearness(wanted, fewer)
