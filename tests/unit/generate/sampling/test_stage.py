import json
from collections import Counter
from dataclasses import replace

import pytest

from generate.lazy_teacher import LazyTeacher
from generate.prompts.stage import make_prompts
from generate.sampling.stage import finish_samples, make_parts, num_parts, open_samples
from generate.teachers.protocol import Failure
from potstill.errors import ConfigError, TeacherError


@pytest.fixture
def sampled(configured, run_directory, toys):
    """Return a function that makes and finishes the stage; keywords are tables."""

    def make(**tables):
        config = configured(**tables)
        teacher = LazyTeacher(config)
        make_prompts(config, teacher, run_directory)
        session = open_samples(config, run_directory)
        make_parts(config, teacher, run_directory, session)
        assert toys.loaded
        return finish_samples(config, teacher, session, run_directory)

    return make


def test_all_samples_are_stored_in_the_order_of_the_prompts(sampled, run_directory, stored):
    manifest = sampled(turns={"num_answers": 2})
    table = stored.samples(run_directory)
    ids = [f"{prompt.prompt_id}-{n}" for prompt in stored.prompts(run_directory) for n in (0, 1)]
    assert table["conversation_id"].to_pylist() == ids
    assert [output.rows for output in manifest.outputs] == [8, 8, 4]
    assert manifest.facts.num_sampled_per_prompt == 2
    assert manifest.facts.num_kept_per_prompt == 2
    assert sum(manifest.facts.num_conversations.values()) == 20
    assert manifest.stats["completion_tokens"] == sum(
        turn["num_tokens"] for turns in table["turns"].to_pylist() for turn in turns
    )


def test_the_best_of_several_are_kept(sampled, run_directory, stored, toys):
    toys.answer = lambda request: "so" * (3 - int(request.request_id.split()[0][-1])) + "|"
    manifest = sampled(turns={"best_of": 3, "best_by": "length", "num_answers": 1})
    assert stored.samples(run_directory)["score"].to_pylist() == [7.0] * 10
    assert len(toys.loaded[0].asked) == 30
    assert (manifest.facts.num_sampled_per_prompt, manifest.facts.num_kept_per_prompt) == (
        3,
        1,
    )


def test_of_scored_conversations_no_sampling_is_claimed(
    sampled, run_directory, stored, write_questions, question_path
):
    roles = ("user", "assistant", "user", "assistant")
    write_questions(
        question_path,
        [
            {"messages": [{"role": role, "content": f"{text} {role}"} for role in roles]}
            for text in ("Why is the sky blue?", "How do I boil an egg?", "Explain gravity.")
        ],
    )
    manifest = sampled(turns={"kind": "score"})
    assert manifest.facts.generation_temperature is None
    assert manifest.facts.generation_top_p is None
    assert manifest.facts.turns == "score"
    for turns in stored.samples(run_directory)["turns"].to_pylist():
        assert len(turns) == 2


def test_failures_are_tried_again_then_listed_beside_their_part(
    sampled, run_directory, stored, toys, caplog
):
    bad: set[str] = set()

    def answer(request):
        name = request.request_id.split()[0]
        if int(name[0], 16) < 8:
            bad.add(name)
            return Failure(request.request_id, "the server said 500")
        return "So.|"

    toys.answer = answer
    with caplog.at_level("WARNING"):
        manifest = sampled()
    assert 0 < len(bad) < 10
    tries = Counter(request.request_id.split()[0] for request in toys.loaded[0].asked)
    assert {name: tries[name] for name in bad} == dict.fromkeys(bad, 3)
    listed = [
        json.loads(line)
        for path in sorted(run_directory.stage_dir("samples").glob("failed-*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert {one["conversation_id"] for one in listed} == bad
    assert {one["reason"] for one in listed} == {"the server said 500"}
    assert manifest.facts.num_failed == len(bad)
    assert f"{len(bad)} conversations failed" in caplog.text
    assert bad.isdisjoint(stored.samples(run_directory)["conversation_id"].to_pylist())


def test_nothing_but_failures_is_an_error_that_says_the_first(sampled, run_directory, toys):
    toys.answer = lambda request: Failure(request.request_id, "no memory left")
    with pytest.raises(TeacherError, match="every conversation failed") as caught:
        sampled()
    assert caught.value.found == "no memory left"
    assert "--force" in caught.value.hint
    assert not run_directory.is_finished("samples")


def test_answers_without_a_schema_or_labels_cannot_be_bound(sampled, toys):
    with pytest.raises(ConfigError, match="no schema to bind answers by"):
        sampled(sampling={"structured": True})
    assert not toys.loaded


def test_a_chat_template_that_refuses_a_prompt_does_not_stop_the_others(
    sampled, run_directory, toys, monkeypatch
):
    import jinja2

    render = type(toys.checkpoint.tokenizer).apply_chat_template

    def refuse_eggs(self, conversation, **options):
        if "egg" in conversation[0]["content"]:
            raise jinja2.TemplateError("no eggs")
        return render(self, conversation, **options)

    monkeypatch.setattr(type(toys.checkpoint.tokenizer), "apply_chat_template", refuse_eggs)
    assert sampled().facts.num_failed == 1
    (path,) = run_directory.stage_dir("samples").glob("failed-*.jsonl")
    assert json.loads(path.read_text())["reason"] == "the chat template rejects it: no eggs"


@pytest.mark.parametrize("what", ["checkpoint", "facts"])
def test_another_teacher_does_not_go_on(sampled, run_directory, toys, fake_teacher, what,
                                        monkeypatch):  # fmt: skip
    toys.lives = 4
    with pytest.raises(KeyboardInterrupt):
        sampled()
    toys.lives = None
    if what == "checkpoint":
        toys.checkpoint = replace(toys.checkpoint, fingerprint="0" * 64)
    else:
        facts = {"logprobs_mode": "processed_logprobs"}
        monkeypatch.setattr(fake_teacher, "facts", lambda _: facts)
    with pytest.raises(
        TeacherError, match="the conversations on disk are from another teacher"
    ) as caught:
        sampled()
    assert caught.value.where == run_directory.partial_dir("samples")
    assert caught.value.expected != caught.value.found
    assert toys.loaded[1].asked == []


def test_a_damaged_part_is_made_again(sampled, run_directory, stored, toys):
    toys.lives = 8
    with pytest.raises(KeyboardInterrupt):
        sampled()
    path = run_directory.partial_dir("samples") / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    toys.lives = None
    sampled()
    assert len(toys.loaded[1].asked) == 6
    assert stored.samples(run_directory).num_rows == 10


@pytest.mark.parametrize(("per_part", "count"), [(1, 10), (4, 3), (5, 2), (64, 1)])
def test_the_last_part_may_be_shorter(configured, run_directory, toys, per_part, count):
    config = configured(engine={"conversations_per_part": per_part})
    make_prompts(config, LazyTeacher(config), run_directory)
    assert num_parts(config, run_directory) == count
    assert toys.loaded == []


def test_the_teacher_is_given_as_much_at_once_as_it_takes(sampled, toys):
    sampled()
    (teacher,) = toys.loaded
    assert teacher.most_held == teacher.max_num_seqs
    assert teacher.top_logprobs == {4}
