import json
from collections import Counter

import pytest

from compare.gate.generated import read_lines
from generate.sources.collect import collect_prompts, sources_digest
from generate.sources.config import SourceConfig
from generate.sources.raw_prompt import RawPrompt, normalize
from generate.sources.reading import read_source
from potstill.errors import ArtifactError, ConfigError
from potstill.schema import SamplingParams
from potstill.task.task import Task

WRITTEN = [f"What did the teacher think at {number}?" for number in range(2000)]
MAGPIE, EVOLVE = SourceConfig(kind="magpie"), SourceConfig(kind="evolve", operations=["breadth"])


@pytest.fixture
def file_source(tmp_path):
    """Return a function that makes a source of a file with so many questions."""

    def make(name: str, count: int, /, **config: object) -> SourceConfig:
        rows = [{"prompt": f"What is {name} number {number}?"} for number in range(count)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return SourceConfig(path=str(path), **config)

    return make


@pytest.fixture
def collect(tmp_path):
    """Return a function that collects with a teacher, or with none to be loaded."""

    def run(sources, num_prompts=40, teacher=None, last_role="user", task=None) -> list[RawPrompt]:
        def load():
            assert teacher is not None, "loaded for nothing"
            return teacher

        return collect_prompts(
            sources,
            num_prompts,
            last_role=last_role,
            load_teacher=load,
            sampling=SamplingParams(temperature=1.0, top_p=1.0, max_tokens=40, seed=0),
            scratch_dir=tmp_path,
            task=task,
        ).prompts

    return run


def by_id(prompts) -> list[RawPrompt]:
    return sorted(prompts, key=lambda one: one.prompt_id)


def counted(prompts) -> Counter[str]:
    return Counter(prompt.source for prompt in prompts)


def test_files_are_mixed_by_weight_and_need_no_teacher(collect, file_source):
    sources = [file_source("a", 100, weight=3), file_source("b", 100)]
    prompts = collect(sources)
    assert counted(prompts) == {"a.jsonl": 30, "b.jsonl": 10}
    assert prompts == by_id(prompts)
    assert collect(sources) == prompts


def test_one_file_is_chosen_from_as_if_there_were_no_weights(collect, file_source):
    source = file_source("a", 100, weight=0.3)
    assert collect([source], 20) == by_id(read_source(source, last_role="user"))[:20]


def test_a_file_that_runs_short_leaves_its_rest_to_the_others_and_to_the_teacher(
    collect, file_source, writing, caplog
):
    caplog.set_level("INFO")
    short, long = file_source("short", 5, weight=9, name="few"), file_source("long", 50)
    assert counted(collect([short, long])) == {"few": 5, "long.jsonl": 35}
    assert counted(collect([short, MAGPIE], teacher=writing(WRITTEN))) == {"few": 5, "magpie": 35}
    assert counted(collect([short])) == {"few": 5}
    assert "few: 5 prompts, 5 of them its own and distinct, 5 taken" in caplog.text


def test_a_source_whose_share_is_nothing_loads_no_teacher(collect, file_source):
    sources = [file_source("a", 10, weight=100), SourceConfig(kind="magpie", weight=0.1)]
    assert counted(collect(sources, 3)) == {"a.jsonl": 3}


def test_sources_are_weighed_whether_read_or_written(collect, file_source, writing):
    sources = [MAGPIE, file_source("a", 50, weight=2, license="MIT"), EVOLVE]
    prompts = collect(sources, teacher=writing(WRITTEN))
    kinds = Counter(prompt.source.split(":")[0] for prompt in prompts)
    assert kinds == {"a.jsonl": 20, "magpie": 10, "evolve": 10}
    assert len({prompt.key for prompt in prompts}) == 40
    licenses = {(prompt.source, prompt.license) for prompt in prompts}
    assert licenses >= {("a.jsonl", "MIT"), ("magpie", None), ("evolve:a.jsonl", "MIT")}


def test_seeds_are_what_was_read_and_written_before(collect, file_source, writing):
    magpies = {prompt.source for prompt in collect([EVOLVE, MAGPIE], teacher=writing(WRITTEN))}
    assert magpies == {"magpie", "evolve:magpie"}
    rounds = collect([file_source("a", 10), EVOLVE, EVOLVE], 90, writing(WRITTEN))
    assert set(counted(rounds)) == {"a.jsonl", "evolve:a.jsonl", "evolve:evolve:a.jsonl"}


def test_the_teacher_does_not_repeat_what_another_source_has(collect, tmp_path, writing):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": text.upper()}) for text in WRITTEN[:10]))
    sources = [SourceConfig(path=str(path)), MAGPIE, SourceConfig(kind="magpie", name="again")]
    prompts = collect(sources, 30, teacher=writing(WRITTEN))
    assert counted(prompts) == {"mine.jsonl": 10, "magpie": 10, "again": 10}
    assert len({prompt.key for prompt in prompts}) == 30


def test_two_sources_of_a_kind_are_written_with_seeds_of_their_own(collect, writing):
    teacher = writing(WRITTEN)
    collect([MAGPIE, SourceConfig(kind="magpie", name="other")], teacher=teacher)
    seeds = [request.sampling.seed for request in teacher.asked]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("lives", [0, 7, 20, 31, 40])
def test_a_killed_process_is_gone_on_with(collect, file_source, writing, tmp_path, lives):
    sources = [file_source("a", 10), MAGPIE, EVOLVE]
    whole_teacher = writing(WRITTEN)
    whole = collect(sources, 60, whole_teacher)
    for log in ("magpie-0.jsonl", "evolve-0.jsonl"):
        (tmp_path / log).unlink()
    with pytest.raises(KeyboardInterrupt):
        collect(sources, 60, writing(WRITTEN, lives=lives))
    again = writing(WRITTEN)
    assert collect(sources, 60, again) == whole
    assert len(again.asked) == len(whole_teacher.asked) - lives


def test_unusable_sources_are_errors_before_the_teacher_is_loaded(collect, tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"prompt": "What is it?"}\noops')
    with pytest.raises(ConfigError, match="no answers to score"):
        collect([MAGPIE], last_role="assistant")
    with pytest.raises(ArtifactError, match="a row of a source"):
        collect([MAGPIE, SourceConfig(path=str(path))])
    with pytest.raises(ConfigError, match="cannot be read"):
        collect([MAGPIE, SourceConfig(path=str(tmp_path / "absent.jsonl"))])


def test_a_digest_is_of_content_and_settings_not_of_places(file_source, tmp_path):
    source = file_source("a", 3, license="MIT")
    before = sources_digest([source, MAGPIE])
    assert before == json.loads(json.dumps(before))
    assert before[1] == {"kind": "magpie"}
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / "a.jsonl").rename(tmp_path / "moved" / "b.jsonl")
    source = source.model_copy(update={"path": str(moved)})
    assert sources_digest([source, MAGPIE]) == before
    others = [
        [source.model_copy(update={"license": None}), MAGPIE],
        [source.model_copy(update={"weight": 2.0}), MAGPIE],
        [MAGPIE, source],
        [source, SourceConfig(kind="magpie", topics=["law"])],
    ]
    assert all(sources_digest(other) != before for other in others)
    moved.write_text('{"prompt": "What is new?"}')
    assert sources_digest([source, MAGPIE]) != before


DECLINE = {"kind": "decline", "answer": '{"reply": "I cannot help with that."}'}


def test_harmful_requests_are_declined_without_a_teacher(collect, file_source):
    prompts = collect([file_source("a", 30, weight=3), SourceConfig(**DECLINE)])
    assert counted(prompts) == {"a.jsonl": 30, "declined": 10}
    declined = [one for one in prompts if one.source == "declined"]
    assert {json.loads(one.known)["text"] for one in declined} == {DECLINE["answer"]}
    assert all(one.messages[0].role == "user" for one in declined)


TOOLS = json.dumps([{"type": "function", "function": {"name": "escalate", "parameters": {}}}])
CALL = {"kind": "decline", "answer": '{"name": "escalate", "arguments": {}}'}


def test_a_task_with_tools_declines_with_a_call(collect):
    prompts = collect([SourceConfig(**CALL)], task=Task(tools=TOOLS))
    known = {one.known for one in prompts}
    assert [json.loads(one) for one in known] == [
        {"text": "", "tool_calls": [{"name": "escalate", "arguments": "{}"}]}
    ]


@pytest.mark.parametrize(
    ("source", "task", "message"),
    [
        (DECLINE, {"answer_schema": '{"type": "object", "required": ["team"]}'},
         "'team' is a required property"),
        (CALL | {"answer": '{"name": "give_up", "arguments": {}}'}, {"tools": TOOLS},
         "calls a tool that the task does not have"),
    ],
)  # fmt: skip
def test_an_answer_that_declines_fits_the_task(tmp_path, source, task, message):
    with pytest.raises(ConfigError, match=message):
        collect_prompts(
            [SourceConfig(**source)],
            10,
            last_role="user",
            load_teacher=pytest.fail,
            sampling=SamplingParams(temperature=1.0, top_p=1.0, max_tokens=40, seed=0),
            scratch_dir=tmp_path,
            task=Task(**task),
        )


def test_no_request_to_learn_from_is_in_the_suite_that_measures():
    # Rewordings keep the deed: they share no more with the suite than an opening.
    learned = [
        one.messages[0].content for one in read_source(SourceConfig(**DECLINE), last_role="user")
    ]
    measured = [one.messages[0].content for one in read_lines("refusing")]
    assert len(learned) > 600
    words = {one: set(normalize(one).split()) for one in learned + measured}
    shared = [
        len(words[a] & words[b]) / len(words[a] | words[b]) for a in learned for b in measured
    ]
    assert max(shared) < 0.5
