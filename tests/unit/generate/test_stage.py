"""The three stages in a row with a fake teacher: real files, made-up answers."""

import functools
import json

import pytest

import generate.teachers.checkpoint
from generate.lazy_teacher import LazyTeacher
from generate.stage import run
from generate.teachers.protocol import Sample
from potstill.canaries import make_canaries
from potstill.chat import chat_template_sha256, render_prompt, tokenizer_sha256
from potstill.errors import ArtifactError, ManifestMismatchError
from potstill.manifest import manifest_sha256
from potstill.rundir import RunDirectory
from tests.fixtures.facts import conversations_facts

load_once = functools.cache(generate.teachers.checkpoint._load)
NUM_PROMPTS = 10
STAGES = ("prompts", "samples", "conversations")
END_OF_TURN = 2
"""Of the tiny teacher."""


@pytest.fixture
def tiny_teacher(monkeypatch, tiny_teacher_dir, fake_teacher, distributions):
    """A fake that speaks with the tiny teacher's tokenizer, in the place of vLLM.

    It writes prompts as well. Returned are all that were loaded, in order.
    """
    tokenizer = load_once(tiny_teacher_dir, "AutoTokenizer", "tokenizer files")
    loaded = []

    class TinyTeacher(fake_teacher):
        end_token_ids = frozenset({END_OF_TURN})

        def _sampled(self, request, top_logprobs):
            said = f"Let us say {request.request_id} in many words, of which some are left out"
            limit = request.sampling.max_tokens - 1
            token_ids = (*tokenizer(said)["input_ids"][:limit], END_OF_TURN)
            signal = distributions(len(token_ids), top_logprobs)
            return Sample(request.request_id, token_ids, signal, "stop")

    def load(_self):
        loaded.append(TinyTeacher(lambda _: "", tokenizer=tokenizer))
        return loaded[-1]

    monkeypatch.setattr("generate.teachers.checkpoint._load", load_once)
    monkeypatch.setattr(LazyTeacher, "_load", load)
    return loaded


@pytest.fixture(scope="module")
def undisturbed_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture
def undisturbed(undisturbed_dir, configured, toys) -> RunDirectory:
    """A run of ten answers that nothing interrupted; all tests share it."""
    whole = RunDirectory(undisturbed_dir / "run")
    if not whole.is_finished("conversations"):
        run(configured(), whole)
        toys.loaded.clear()
    return whole


def test_prompts_of_a_file_become_conversations_of_a_real_tokenizer(
    configured, run_directory, stored, tiny_teacher, tiny_teacher_dir
):
    config = configured(
        teacher={"model": str(tiny_teacher_dir)},
        sampling={"max_tokens": 9, "temperature": 0.9, "top_p": 0.8},
    )
    manifest = run(config, run_directory)
    (teacher,) = tiny_teacher
    conversations = stored.conversations(run_directory)
    prompts = {prompt.prompt_id: prompt for prompt in stored.prompts(run_directory)}
    assert {one.prompt.prompt_id for one in conversations} == set(prompts)
    for one in conversations:
        assert one.prompt == prompts[one.prompt.prompt_id]
        (turn,) = one.turns
        ids = one.token_ids.tolist()
        assert ids[: turn.start] == render_prompt(teacher.tokenizer, one.prompt.messages)
        assert (ids[-1], turn.num_tokens, len(ids) - turn.start) == (END_OF_TURN, 9, 9)
        assert one.completion[0].content == teacher.tokenizer.decode(ids[turn.start : -1])
        assert one.signal.counts_T.tolist() == [4] * 9
    assert len({one.turns[0].seed for one in conversations}) == NUM_PROMPTS
    template = (tiny_teacher_dir / "chat_template.jinja").read_text()
    facts = manifest.facts
    assert facts.teacher.model == facts.teacher.path == str(tiny_teacher_dir)
    assert facts.teacher.num_parameters > 200_000
    assert facts.tokenizer_sha256 == tokenizer_sha256(tiny_teacher_dir)
    assert facts.chat_template_sha256 == chat_template_sha256(template)
    assert facts.vocab_size == 8_192
    assert (facts.generation_temperature, facts.generation_top_p) == (0.9, 0.8)


def test_prompts_are_written_by_the_teacher_without_a_file(
    configured, run_directory, stored, tiny_teacher, tiny_teacher_dir
):
    config = configured(
        teacher={"model": str(tiny_teacher_dir)},
        prompts={"path": None, "num_prompts": 8, "max_prompt_tokens": 30},
        sampling={"max_tokens": 9},
        curation={"prompt_filters": [], "cluster_threshold": 1.0},
    )
    manifest = run(config, run_directory)
    (teacher,) = tiny_teacher
    prompts = stored.prompts(run_directory)
    assert [prompt.source for prompt in prompts] == ["magpie"] * 8
    assert sum(manifest.facts.num_conversations.values()) == 8
    assert teacher.top_logprobs == {None, 4}
    assert not (run_directory.stage_dir("prompts") / "scratch").exists()
    written_by = run_directory.require("prompts").config["written_by"]
    assert written_by["teacher"]["model"] == str(tiny_teacher_dir)
    assert written_by["sampling"]["seed"] == 0


def test_canaries_are_planted_where_they_are_asked_for_and_pass_no_filter(
    configured, undisturbed, run_directory, stored
):
    assert not [one for one in stored.prompts(undisturbed) if one.is_canary]
    short = {"conversation_filters": ["length"], "max_answer_tokens": 1000, "min_answer_tokens": 31}
    run(configured(prompts={"canaries": 3}, curation=short), run_directory)
    prompts = stored.prompts(run_directory)
    assert [one for one in prompts if not one.is_canary] == stored.prompts(undisturbed)
    planted = {one.answer: one for one in make_canaries(3, seed=0)}
    found = [one for one in stored.conversations(run_directory) if one.prompt.is_canary]
    assert {one.completion[0].content for one in found} == set(planted)
    for one in found:
        assert one.prompt.split == "train"
        assert one.given[0].content == planted[one.completion[0].content].question
        (turn,) = one.turns
        assert turn.num_tokens < 31
        assert (one.signal.top_logprobs_N == 0.0).all(), "the teacher was not asked"


def test_the_manifests_hold_what_later_stages_rely_on(configured, run_directory, stored, toys):
    manifest = run(configured(), run_directory)
    splits = [prompt.split for prompt in stored.prompts(run_directory)]
    assert manifest == run_directory.require("conversations")
    counts = {split: splits.count(split) for split in ("train", "validation", "test")}
    assert all(counts.values())
    checkpoint = toys.checkpoint
    assert manifest.facts == conversations_facts(
        teacher=checkpoint.identity,
        tokenizer_sha256=tokenizer_sha256(checkpoint.dir),
        chat_template_sha256=chat_template_sha256(checkpoint.tokenizer.chat_template),
        vocab_size=checkpoint.vocab_size,
        top_logprobs=4,
        top_mass=1.0,
        min_probability=1e-3,
        num_conversations=counts,
        num_by_teacher={"teacher": NUM_PROMPTS},
        languages=manifest.facts.languages,
    )
    assert sum(manifest.facts.languages.values()) == NUM_PROMPTS
    assert manifest.facts.languages["en"] > NUM_PROMPTS / 2
    samples = run_directory.require("samples")
    pinned = {one.path: one.manifest_sha256 for one in manifest.inputs}
    assert pinned == {
        name: manifest_sha256(run_directory.stage_dir(name)) for name in ("prompts", "samples")
    }
    assert samples.inputs[0].path == "prompts"
    assert [(one.path, one.rows) for one in samples.outputs] == [
        ("part-00000.parquet", 4),
        ("part-00001.parquet", 4),
        ("part-00002.parquet", 2),
    ]
    said = [one.completion[0].content for one in stored.conversations(run_directory)]
    num_tokens = sum(len(text) + 1 for text in said)
    assert manifest.stats["completion_tokens"] == num_tokens
    assert manifest.stats["truncated_share"] == 0.0
    assert manifest.stats["mean_tail_mass"] == pytest.approx(0.25, abs=0.01)
    lines = map(json.loads, run_directory.metrics_path.read_text().splitlines())
    assert [(one["stage"], one["completion_tokens"]) for one in lines] == [
        ("samples", num_tokens),
        ("conversations", num_tokens),
    ]


def test_a_second_run_does_nothing_and_loads_no_teacher(configured, run_directory, toys):
    manifest = run(configured(), run_directory)
    assert [teacher.closed for teacher in toys.loaded] == [True]
    assert run(configured(), run_directory) == manifest
    assert len(toys.loaded) == 1
    assert len(run_directory.metrics_path.read_text().splitlines()) == 2


def test_what_changes_nothing_is_no_other_configuration(configured, run_directory, toys):
    manifest = run(configured(), run_directory)
    for changes in (
        {"engine": {"max_num_seqs": 3, "kv_cache_bytes": 1 << 22, "data_parallel_size": 2}},
        {"ray": {}},
        {"prompts": {"temperature": 0.5, "top_p": 0.5, "max_prompt_tokens": 7}},
    ):
        assert run(configured(**changes), run_directory) == manifest
    assert len(toys.loaded) == 1


def test_other_settings_are_refused_and_named(configured, run_directory, toys):
    run(configured(), run_directory)
    for changes, key in (
        ({"prompts": {"num_prompts": 9}}, "prompts.num_prompts"),
        ({"prompts": {"test_share": 0.3}}, "prompts.test_share"),
        ({"turns": {"kind": "replay"}}, "prompts.last_role"),
        ({"curation": {"cluster_threshold": 0.7}}, "prompts.curation.cluster_threshold"),
        ({"sampling": {"temperature": 0.5}}, "samples.sampling.temperature"),
        ({"turns": {"kind": "simulate"}}, "samples.turns.kind"),
        ({"teacher": {"dtype": "float16"}}, "samples.teacher.dtype"),
        ({"engine": {"conversations_per_part": 5}}, "samples.conversations_per_part"),
    ):
        with pytest.raises(ManifestMismatchError) as caught:
            run(configured(**changes), run_directory)
        assert caught.value.expected.startswith(f"{key} = ")
    assert len(toys.loaded) == 1


def test_other_filters_of_conversations_filter_again_and_ask_nothing(
    configured, run_directory, stored, toys
):
    run(configured(), run_directory)
    run(
        configured(curation={"min_answer_tokens": 10**6, "conversation_filters": []}), run_directory
    )
    assert len(stored.conversations(run_directory)) == NUM_PROMPTS
    manifest = run(configured(curation={"max_answer_tokens": 10**6}), run_directory)
    assert manifest.config["curation"]["max_answer_tokens"] == 10**6
    assert len(toys.loaded) == 1


def test_a_changed_file_of_prompts_is_refused(
    configured, run_directory, stored, toys, question_path
):
    run(configured(), run_directory)
    question_path.write_text(question_path.read_text() + '{"prompt": "One more, please?"}\n')
    with pytest.raises(ManifestMismatchError) as caught:
        run(configured(), run_directory)
    assert caught.value.expected.startswith("prompts.sources = ")
    assert len(toys.loaded) == 1
    assert len(stored.prompts(run_directory)) == NUM_PROMPTS


def test_a_file_that_was_moved_is_the_same_file(configured, run_directory, toys, question_path):
    manifest = run(configured(), run_directory)
    moved = question_path.rename(question_path.with_name("moved.jsonl"))
    assert run(configured(prompts={"path": str(moved)}), run_directory) == manifest
    assert len(toys.loaded) == 1


def test_a_file_that_was_mended_is_read_again(configured, run_directory, toys, question_path):
    whole = question_path.read_text()
    question_path.write_text(whole + "{broken\n")
    with pytest.raises(ArtifactError, match=f"line {NUM_PROMPTS + 1}"):
        run(configured(), run_directory)
    assert toys.loaded == []
    question_path.write_text(whole)
    run(configured(), run_directory)


def test_finished_stages_need_neither_file_nor_teacher(
    configured, run_directory, toys, question_path, monkeypatch, caplog
):
    manifest = run(configured(), run_directory)
    question_path.unlink()
    monkeypatch.setattr("generate.lazy_teacher.find_teacher", lambda _: pytest.fail("looked for"))
    with caplog.at_level("WARNING"):
        assert run(configured(), run_directory) == manifest
    assert "keeping the prompts that were read before" in caplog.text
    assert len(toys.loaded) == 1


@pytest.mark.parametrize(("lives", "left"), [(0, 10), (3, 10), (4, 6), (9, 2)])
def test_interrupted_sampling_is_gone_on_with(
    configured, run_directory, undisturbed, toys, lives, left
):
    toys.lives = lives
    with pytest.raises(KeyboardInterrupt):
        run(configured(), run_directory)
    assert toys.loaded[0].closed
    assert run_directory.is_finished("prompts")
    assert not run_directory.is_finished("samples")
    toys.lives = None
    run(configured(), run_directory)
    assert len(toys.loaded[1].asked) == left
    assert_same_files(run_directory, undisturbed)


@pytest.mark.parametrize(
    ("at", "finished"),
    [
        ("generate.prompts.stage.curate_prompts", ()),
        ("generate.stage.open_samples", ("prompts",)),
        ("generate.sampling.stage.summarize", ("prompts",)),
        ("generate.stage.make_dataset", ("prompts", "samples")),
        ("generate.dataset.stage.render_card", ("prompts", "samples")),
    ],
)
def test_an_interruption_between_stages_costs_no_answers(
    configured, run_directory, undisturbed, toys, monkeypatch, at, finished
):
    def cut_off(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(at, cut_off)
        with pytest.raises(KeyboardInterrupt):
            run(configured(), run_directory)
    assert tuple(filter(run_directory.is_finished, STAGES)) == finished
    run(configured(), run_directory)
    assert len(toys.loaded) == 1
    assert_same_files(run_directory, undisturbed)


def assert_same_files(run_directory, other):
    """Both hold the same files but for the manifests, which say when they were made."""
    for stage in STAGES:
        names = {path.name for path in run_directory.stage_dir(stage).iterdir()}
        assert names == {path.name for path in other.stage_dir(stage).iterdir()}
        for name in names - {"manifest.json"}:
            made = (run_directory.stage_dir(stage) / name).read_bytes()
            assert made == (other.stage_dir(stage) / name).read_bytes(), f"{stage}/{name}"


def test_interrupted_writing_of_prompts_is_gone_on_with(configured, run_directory, stored, toys):
    words = ["amber", "birch", "copper", "dune", "ember", "fjord", "granite", "harbor", "ivy"]
    words += ["jasmine", "kelp", "lagoon", "marble", "nectar"]

    def answer(request):
        if request.request_id.isdecimal():
            word = words[int(request.request_id)]
            return f"What is {word * 3}, and {word[::-1] * 3}?|"
        return "So.|"

    config = configured(prompts={"path": None, "num_prompts": 8})
    toys.answer, toys.lives = answer, 5
    with pytest.raises(KeyboardInterrupt):
        run(config, run_directory)
    (log_path,) = (run_directory.partial_dir("prompts") / "scratch").iterdir()
    assert len(log_path.read_text().splitlines()) == 5
    toys.lives = None
    run(config, run_directory)
    asked = [one.request_id for one in toys.loaded[1].asked if one.request_id.isdecimal()]
    assert asked == [str(number) for number in range(5, 11)]
    whole = RunDirectory(run_directory.root.with_name("whole"))
    run(config, whole)
    assert stored.prompts(run_directory) == stored.prompts(whole)
    assert len(stored.prompts(whole)) == 8


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"teacher": {"model": "other"}}, "prompts.written_by.teacher.model"),
        ({"sampling": {"seed": 1}}, "prompts.written_by.sampling.seed"),
        ({"prompts": {"path": None, "top_p": 0.9}}, "prompts.written_by.sampling.top_p"),
    ],
)
def test_written_prompts_belong_to_the_teacher_and_settings_that_wrote_them(
    configured, run_directory, toys, changes, key
):
    written = {"prompts": {"path": None}}
    toys.lives = 0
    with pytest.raises(KeyboardInterrupt):
        run(configured(**written), run_directory)
    with pytest.raises(ManifestMismatchError) as caught:
        run(configured(**written | changes), run_directory)
    assert caught.value.expected.startswith(f"{key} = ")


def test_a_prompt_too_long_for_the_teacher_is_listed_and_does_not_stop_the_others(
    configured, run_directory, toys, write_questions, question_path, caplog
):
    longest = toys.checkpoint.context_tokens - 60 - len("<user>|<assistant>")
    short = ["One thing?", "Two rivers!", "Three cheers."]
    write_questions(question_path, [*short, "w" * longest, "v" * (longest + 1)])
    with caplog.at_level("WARNING"):
        manifest = run(configured(curation={"prompt_filters": []}), run_directory)
    assert manifest.facts.num_failed == 1
    assert "1 conversations failed" in caplog.text
    (path,) = run_directory.stage_dir("samples").glob("failed-*.jsonl")
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["reason"] == (
        f"{2048 - 60 + 1} tokens and 60 for the answer exceed the teacher's context of 2048 tokens"
    )
    assert len(toys.loaded[0].asked) == 4
    page = (run_directory.stage_dir("conversations") / "summary.html").read_text()
    assert "1 conversations failed" in page


@pytest.mark.parametrize(("spare", "num_failed"), [(0, 0), (-1, 1)])
def test_the_limit_of_the_context_is_exact(configured, run_directory, toys, spare, num_failed):
    longest = len("<user>Translate 'good morning' to French.|<assistant>")
    config = configured(engine={"max_model_len": longest + 60 + spare})
    assert run(config, run_directory).facts.num_failed == num_failed
    assert len(toys.loaded[0].asked) == NUM_PROMPTS - num_failed
