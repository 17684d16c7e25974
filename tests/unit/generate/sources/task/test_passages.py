import json
import random

from generate.sources.task.passages import Passage, compose
from generate.sources.task.wanted import Turn, Wanted
from potstill.task.answers import Answer

PARTS = {"who": ("name", "age"), "vitals": ("bp", "hr"), "plan": ("drug", "cough")}
DONOR = {"name": "Max Ode", "age": 63, "bp": "141/93", "drug": "metformin", "cough": True}


def stating(record):
    known = Answer(text=json.dumps(record, separators=(",", ":")))
    return Wanted((Turn(says=record),), known=known, is_exact=True)


PASSAGES = {
    "who": [Passage(stating({"name": "Ann Lee", "age": 40}), "Ann Lee, 40")],
    "vitals": [
        Passage(stating({"bp": "120/80"}), "BP 120/80."),
        Passage(stating({"hr": 71}), "Pulse of 71"),
    ],
    "plan": [
        Passage(stating({"drug": "naproxen", "cough": True}), "Cough: naproxen."),
        Passage(stating({"drug": "naproxen", "cough": False}), "No cough, gets naproxen."),
    ],
}


def made(donor, seed, passages=PASSAGES):
    return compose(passages, PARTS, stating(donor), random.Random(seed))


def test_an_input_has_a_passage_of_each_part_with_the_values_of_one_record():
    texts = set()
    for seed in range(30):
        record, text = made(DONOR, seed)
        assert record == DONOR
        texts.add(text)
    first = "Max Ode, 63. BP 141/93. Cough: metformin."
    assert first in texts
    assert first.replace(". ", "\n").replace("93\n", "93.\n") in texts, "on lines of their own"
    assert "BP 141/93. Max Ode, 63. Cough: metformin." in texts, "in another order"


def test_a_part_of_which_the_record_has_nothing_is_left_out():
    record, text = made({"name": "Max Ode", "age": 63}, 0)
    assert (record, text.rstrip(".")) == ({"name": "Max Ode", "age": 63}, "Max Ode, 63")


def test_what_a_passage_states_stays_in_the_record():
    only = {**PASSAGES, "vitals": PASSAGES["vitals"][1:], "plan": PASSAGES["plan"][1:]}
    record, text = made(DONOR, 0, only)
    assert record["hr"] == 71
    assert record["cough"] is False
    assert "71" in text
    assert "bp" not in record


def test_a_part_without_passages_is_left_out():
    record, text = made(DONOR, 0, {"who": PASSAGES["who"]})
    assert set(record) == {"name", "age"}
    assert text.startswith("Max Ode, 63")
