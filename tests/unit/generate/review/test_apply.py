import json

import pytest

from generate.curation.reviews import Decision, ReviewLog
from generate.review.apply import apply_to_file, apply_to_task
from generate.review.file_rows import file_subject, review_path
from generate.review.rows import new_row_id
from potstill.errors import ConfigError
from potstill.schema import Message
from potstill.task.config import TaskConfig
from potstill.task.items import read_items
from potstill.task.stage import load_task

TIME = "2026-11-29T21:00:00+00:00"
SIGNED = {"reviewer": "ann", "reviewed_at": TIME}


def decision(prompt, answer, action="accept", known=None, time=TIME, **changes):
    messages = (Message(role="user", content=prompt),)
    completion = (Message(role="assistant", content=answer),)
    return Decision(
        row=new_row_id(messages, completion),
        action=action,
        reviewer="ann",
        time=time,
        known=None if known is None else Message(role="assistant", content=known),
        messages=messages,
        answer=completion,
        **changes,
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(path):
    items = read_items(path, has_tools=False)
    return {one.messages[-1].content: one.known and one.known.text for one in items}


@pytest.fixture
def config(tmp_path):
    """A task with two examples and two references."""
    for name, rows in (
        ("examples", [{"prompt": "Who painted it?", "answer": "art"}, {"prompt": "Why?"}]),
        (
            "references",
            [
                {"prompt": "Is it far?", "answer": "art", "source": "bank"},
                {"prompt": "Which sea?", "answer": "geography"},
            ],
        ),
    ):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    metrics = ({"kind": "label"},)
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("examples", "references")}
    return TaskConfig.model_validate({**paths, "metrics": metrics})


def test_what_is_right_becomes_an_example_with_author_and_time(config):
    said = apply_to_task(
        [
            decision("New?", "art", use="examples"),
            decision("Other?", "art", "label", "science", use="examples"),
            decision("Bad?", "art", "reject", use="examples"),
            decision("Training?", "art", "edit", "physics"),
        ],
        config,
    )
    assert f"{config.examples}: 2 added, 0 changed, 0 removed" in said
    assert answers(config.examples) == {
        "Who painted it?": "art",
        "Why?": None,
        "New?": "art",
        "Other?": "science",
    }
    assert lines(config.examples)[2].items() >= SIGNED.items()
    assert load_task(config).examples[3].known.text == "science"


def test_a_reference_is_corrected_in_its_line(config):
    apply_to_task([decision("Is it far?", "art", "edit", "geography", use="references")], config)
    first, second = lines(config.references)
    assert first == {
        "messages": [
            {"role": "user", "content": "Is it far?"},
            {"role": "assistant", "content": "geography"},
        ],
        "source": "bank",
        **SIGNED,
    }
    assert second == {"prompt": "Which sea?", "answer": "geography"}


def test_a_prompt_stands_in_one_file_alone(config):
    said = apply_to_task([decision("Who painted it?", "art", use="references")], config)
    assert said == [
        f"{config.references}: 1 added, 0 changed, 0 removed",
        f"{config.examples}: 0 added, 0 changed, 1 removed",
    ]
    assert "Who painted it?" in answers(config.references)
    load_task(config)


def test_the_later_decision_on_a_prompt_counts(config):
    later = "2026-11-29T22:00:00+00:00"
    made = [
        decision("New?", "b", use="references", time=later),
        decision("New?", "a", use="examples"),
    ]
    apply_to_task(made, config)
    assert answers(config.references)["New?"] == "b"
    assert "New?" not in [one.messages[0].content for one in load_task(config).examples]


def test_the_same_decisions_again_change_nothing(config):
    made = [
        decision("New?", "art", use="examples"),
        decision("Is it far?", "art", "edit", "geography", use="references"),
    ]
    apply_to_task(made, config)
    before = config.examples.read_bytes(), config.references.read_bytes()
    said = apply_to_task(made, config)
    assert all(line.endswith("0 added, 0 changed, 0 removed") for line in said)
    assert before == (config.examples.read_bytes(), config.references.read_bytes())


def test_a_dialogue_with_several_answers_is_left_to_people(config):
    turns = [("user", "Is it far?"), ("assistant", "no"), ("user", "And?"), ("assistant", "yes")]
    messages = [{"role": role, "content": content} for role, content in turns]
    dialogue = json.dumps({"messages": messages, "each_turn": True})
    config.references.write_text(dialogue + "\n")
    said = apply_to_task([decision("Is it far?", "no", use="references")], config)
    assert said[0] == f"{config.references}:1 is a dialogue with several answers: change it by hand"
    assert config.references.read_text() == dialogue + "\n"


def test_a_task_without_the_file_is_an_error():
    with pytest.raises(ConfigError, match="no file to write examples to") as caught:
        apply_to_task([decision("New?", "art", use="examples")], TaskConfig())
    assert caught.value.hint == 'name one in [task]: examples = "examples.jsonl"'
    assert apply_to_task([decision("New?", "art")], TaskConfig()) == []


@pytest.fixture
def reviewed(tmp_path):
    """Return a function that decides about the rows of a file, and writes it."""
    path = tmp_path / "mine.jsonl"

    def make(rows, *decisions):
        path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
        log = ReviewLog(review_path(path))
        assert all(log.add(one, 0) for one in decisions)
        return path, apply_to_file(path)

    return make


def test_a_file_is_corrected_and_loses_what_is_rejected(reviewed):
    rows = [{"prompt": f"{number}?", "answer": "no", "tags": [number]} for number in range(5)]
    path, said = reviewed(
        rows,
        decision("0?", "no"),
        decision("1?", "no", "edit", "yes"),
        decision("2?", "no", "reject"),
        decision("3?", "no", "label", "maybe"),
    )
    assert said == [f"{path}: 0 added, 3 changed, 1 removed"]
    assert lines(path) == [
        rows[0] | SIGNED,
        rows[1] | {"answer": "yes"} | SIGNED,
        rows[3] | {"answer": "maybe"} | SIGNED,
        rows[4],
    ]
    assert path.read_text().splitlines()[3] == '{"prompt":"4?","answer":"no","tags":[4]}'
    assert apply_to_file(path) == [f"{path}: 0 added, 0 changed, 0 removed"]
    assert sum(row.reviewed is None for row in file_subject(path, None).rows) == 1


def test_of_several_choices_the_rejected_ones_go(reviewed):
    choices = [{"message": {"role": "assistant", "content": one}} for one in "abc"]
    request = {"messages": [{"role": "user", "content": "0?"}]}
    path, _ = reviewed(
        [{"request": request, "response": {"choices": choices}}],
        decision("0?", "a", "reject"),
        decision("0?", "c", "edit", "d"),
    )
    (row,) = lines(path)
    assert [one["message"]["content"] for one in row["response"]["choices"]] == ["b", "d"]


def test_a_label_stands_beside_a_stored_answer(reviewed):
    stored = [{"role": "user", "content": "0?"}, {"role": "assistant", "content": "art"}]
    path, _ = reviewed([{"messages": stored}], decision("0?", "art", "label", "science"))
    assert lines(path) == [{"messages": stored, "answer": "science", **SIGNED}]
    assert answers(path) == {"0?": "science"}


def test_a_file_without_decisions_stays(reviewed):
    path, said = reviewed([{"prompt": "0?"}])
    assert said == [f"{path}: 0 added, 0 changed, 0 removed"]
    assert not review_path(path).exists()
