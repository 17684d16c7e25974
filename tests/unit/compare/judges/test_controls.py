from compare.judges.controls import INJECTION, build_controls
from compare.judges.protocol import Pair

from ..judging import question, right_answer


def pairs(count):
    return [Pair(question(n), 0, "the student's", right_answer(n)) for n in range(count)]


def by_name(controls):
    return {control.name: control for control in controls}


def test_each_control_changes_the_teachers_answer_as_its_name_says():
    found = by_name(build_controls(pairs(5), seed=1))
    own = right_answer(2)
    texts = {name: control.pairs[2].student for name, control in found.items()}
    assert texts["identical answers"] == own
    assert sorted(texts["shuffled words"].split()) == sorted(own.split())
    assert texts["shuffled words"] != own
    assert own.startswith(texts["truncated answer"])
    assert len(texts["truncated answer"]) < len(own) / 2
    assert texts["answer to another prompt"] == right_answer(3)
    assert texts["padded answer"].count(own) == 3
    assert texts["answer that instructs the judge"] == INJECTION
    assert all(
        pair.teacher == right_answer(i) for c in found.values() for i, pair in enumerate(c.pairs)
    )
    assert found["identical answers"].expected == "tie"
    assert found["padded answer"].expected == "not_better"


def test_damage_is_the_same_each_time_and_another_by_seed():
    first, again, other = (build_controls(pairs(5), seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert by_name(first)["shuffled words"] != by_name(other)["shuffled words"]


def test_what_damage_leaves_as_it_was_is_no_control():
    same = [Pair(question(n), 0, "", "Yes.") for n in range(3)]
    found = by_name(build_controls(same, seed=1))
    assert set(found) == {"identical answers", "padded answer", "answer that instructs the judge"}


def test_other_answers_come_last():
    found = build_controls(pairs(2), seed=1, others=pairs(2), known_worse=pairs(1))
    assert [(one.name, one.expected) for one in found[-2:]] == [
        ("known worse model", "worse"),
        ("another answer of the teacher", "equal"),
    ]


def test_an_object_has_one_wrong_field():
    texts = ['{"team": "cards", "fee": "none"}', '{"team": "cash", "fee": "none"}']
    made = [Pair(question(n), 0, "", text) for n, text in enumerate(texts)]
    first, second = by_name(build_controls(made, seed=1))["one error"].pairs
    assert (first.student, second.student) == (texts[1], texts[0])
    assert by_name(build_controls(made[:1], seed=1)).get("one error") is None
