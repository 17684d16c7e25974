import json

import pytest

from generate import estimate as module
from generate.estimate import estimate
from generate.sources.attempts import ATTEMPTS_PER_PROMPT
from potstill.checkpoints import ModelShape
from potstill.errors import ArtifactError, ConfigError
from potstill.task.answers import Answer, Item
from potstill.task.task import Task

SHAPE = ModelShape("LlamaForCausalLM", 134_515_008, 30, 576, 49_152, 1536, 106_202_880)


@pytest.fixture
def estimated(configured):
    """Return a function that estimates for the embedded teacher; keywords are tables."""
    return lambda **tables: estimate(configured(**tables))


def test_ten_questions_take_their_tokens_and_the_answers(estimated, question_path):
    cost, workload = estimated()
    characters = sum(len(line) - len('{"prompt": ""}') for line in
                     question_path.read_text().splitlines())  # fmt: skip
    prompt_tokens = characters / 10 / 4.5 + module.TEMPLATE_TOKENS
    assert workload.num_conversations == 10
    assert workload.prompt_tokens == pytest.approx(prompt_tokens)
    assert workload.completion_tokens == 0.8 * 60
    assert workload.test_share == 0.2
    assert workload.teacher == workload.student == SHAPE
    assert cost.stage == "generate"
    cached = module.CACHED_BLOCK_TOKENS  # of the template's own words
    assert cost.tokens == pytest.approx(cached + 10 * (prompt_tokens - cached + 48))
    assert cost.fast_flops == 2.0 * SHAPE.num_parameters * cost.tokens
    logits = 10 * 48 * SHAPE.vocab_size
    weights = 48 * SHAPE.num_parameters
    assert cost.moved_bytes == module.LOGIT_BYTES * logits + module.WEIGHT_BYTES * weights
    assert cost.disk_bytes == 10 * 48 * 2 * 1.9 * 4


def test_no_more_prompts_than_are_wanted(estimated):
    assert estimated(prompts={"num_prompts": 4})[1].num_conversations == 4


def test_only_the_first_of_many_are_read(estimated, monkeypatch):
    monkeypatch.setattr(module, "READ_PROMPTS", 5)
    assert estimated(prompts={"num_prompts": 1000})[1].num_conversations == 1000
    assert estimated(prompts={"num_prompts": 1000})[1].prompt_tokens > module.TEMPLATE_TOKENS


def test_written_prompts_cost_tokens_too(estimated):
    prompts = {"path": None, "num_prompts": 100}
    cost, workload = estimated(prompts=prompts)
    attempt = module.WRITTEN_PROMPT_TOKENS + module.TEMPLATE_TOKENS
    assert workload.num_conversations == 100
    assert workload.prompt_tokens == attempt
    written = ATTEMPTS_PER_PROMPT * 100 * attempt
    cached = module.CACHED_BLOCK_TOKENS
    assert cost.tokens == pytest.approx(written + cached + 100 * (attempt - cached + 48))


def test_a_system_prompt_that_all_prompts_have_is_computed_once(estimated, tmp_path):
    system = {"role": "system", "content": "You are a bank's assistant. " * 100}

    def cost_of(name, *first):
        path = tmp_path / name
        rows = [[*first, {"role": "user", "content": f"{n} items?"}] for n in range(1, 9)]
        path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
        return estimated(prompts={"path": str(path)})

    alone, without = cost_of("alone.jsonl")
    shared, workload = cost_of("shared.jsonl", system)
    num_tokens = len(system["content"]) / module.CHARACTERS_PER_TOKEN
    assert workload.prompt_tokens - without.prompt_tokens == pytest.approx(num_tokens)
    assert workload.shared_tokens - without.shared_tokens == pytest.approx(num_tokens)
    assert 0 < shared.tokens - alone.tokens < 1.5 * num_tokens


def test_written_and_read_prompts_count_by_weight(estimated, question_path):
    sources = [{"path": str(question_path), "weight": 3.0}, {"kind": "magpie"}]
    mixed, _ = estimated(prompts={"path": None, "sources": sources, "num_prompts": 100})
    written, _ = estimated(prompts={"path": None, "num_prompts": 100})
    assert mixed.tokens < written.tokens


@pytest.mark.parametrize(
    ("turns", "num_conversations", "answers_each", "sampled"),
    [
        ({"num_answers": 3}, 30, 1.0, 30),
        ({"best_of": 8}, 10, 1.0, 80),
        ({"kind": "simulate", "min_turns": 1, "max_turns": 4}, 10, 2.5, 10),
        ({"kind": "replay", "max_turns": 2}, 10, 2.0, 10),
    ],
)
def test_several_answers_and_turns(estimated, turns, num_conversations, answers_each, sampled):
    cost, workload = estimated(turns=turns)
    assert workload.num_conversations == num_conversations
    assert workload.completion_tokens == pytest.approx(48 * answers_each)
    cached = module.CACHED_BLOCK_TOKENS
    read = cached + 10 * (workload.prompt_tokens - cached)
    assert cost.tokens == pytest.approx(read + sampled * workload.completion_tokens)


def test_what_is_improbable_takes_no_disk(estimated):
    sampling = {"max_tokens": 60, "top_logprobs": 128}
    few = estimated(sampling=sampling)[0].disk_bytes
    all_ = estimated(sampling=sampling | {"min_probability": 0.0})[0].disk_bytes
    assert few / all_ == pytest.approx(module.STORED_LOGPROBS / 128)


def test_memory_counts_every_copy_of_this_machine(estimated):
    one, two = (
        estimated(engine={"data_parallel_size": count, "kv_cache_bytes": 10**9})[0].memory_bytes
        for count in (1, 2)
    )
    assert two - one == 2.0 * SHAPE.num_parameters + 10**9 + module.PROCESS_BYTES


def test_a_served_teacher_costs_this_machine_nothing(estimated):
    endpoint = {"base_url": "http://localhost:1/v1", "model": "m", "tokenizer": "t"}
    cost, _ = estimated(teacher={"endpoint": endpoint})
    assert cost.fast_flops == cost.moved_bytes == 0.0
    assert cost.tokens > 0
    assert cost.memory_bytes == module.PROCESS_BYTES


def test_missing_files_are_reported(estimated, tmp_path, question_path):
    with pytest.raises(ConfigError, match="not on this machine") as caught:
        estimated(teacher={"model": str(tmp_path / "no such")})
    assert caught.value.where == "generate.teacher.model"
    with pytest.raises(ConfigError):
        estimated(prompts={"path": str(tmp_path / "no such.jsonl")})
    question_path.write_text("{broken\n")
    with pytest.raises(ArtifactError, match="line 1"):
        estimated()


@pytest.mark.parametrize(("shots", "is_shared"), [("same", True), ("nearest", False)])
def test_a_tasks_prompt_is_read_once_where_all_prompts_share_it(configured, shots, is_shared):
    examples = [
        Item(messages=({"role": "user", "content": "x" * 446},), known=Answer(text="yy"))
    ] * 4  # fmt: skip
    task = Task(instructions="i" * 450, examples=examples, num_shots=2, shots=shots)
    cost, workload = estimate(configured(), task)
    plain, plain_workload = estimate(configured())
    blocks = module.CACHED_BLOCK_TOKENS
    more = cost.tokens - plain.tokens
    if is_shared:
        assert 300 < more < 300 + 10 * blocks
    else:
        assert 100 + 10 * 200 < more < 100 + 10 * (200 + blocks)
    assert workload.prompt_tokens == plain_workload.prompt_tokens


def test_references_that_another_run_has_are_not_answered_again(configured):
    question = Item(messages=({"role": "user", "content": "x" * 446},), known=Answer(text="yy"))
    task = Task(references=[question] * 4)
    plain, _ = estimate(configured(), Task())
    first, _ = estimate(configured(), task)
    again, workload = estimate(configured(reuse="runs/former"), task)
    assert again.tokens == plain.tokens < first.tokens
    assert workload.task.num_references == 4


@pytest.mark.parametrize(("student", "learned"), [("think", 50), ("answer", 0)])
def test_thinking_is_sampled_and_learned_if_the_student_thinks(estimated, student, learned):
    plain, _ = estimated()
    cost, workload = estimated(thinking={"max_tokens": 50, "student": student})
    assert cost.tokens == pytest.approx(plain.tokens + 10 * 0.8 * 50)
    assert workload.completion_tokens == pytest.approx(0.8 * (60 + learned))
