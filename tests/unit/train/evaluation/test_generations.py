import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from potstill.errors import ArtifactError
from train.data.cache import load_split
from train.evaluation.generations import write_generations

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def split(tiny_conversations, write_conversations, tmp_path_factory):
    directory = tmp_path_factory.mktemp("conversations")
    write_conversations(directory, tiny_conversations)
    return load_split(directory, "validation", 1024, directory / "scratch")


@pytest.fixture
def model(tiny_teacher_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_teacher_dir, dtype=torch.float32).train()


@pytest.fixture(scope="module")
def tokenizer(tiny_teacher_dir):
    return AutoTokenizer.from_pretrained(tiny_teacher_dir)


def answers(path, model, tokenizer, split, *, step=10, num_prompts=3, max_new_tokens=6):
    write_generations(
        path,
        model,
        tokenizer,
        split,
        step=step,
        num_prompts=num_prompts,
        max_new_tokens=max_new_tokens,
    )
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def greedily(model, prompt, num_tokens, ends=()):
    """Take the most probable token again and again, without a cache or padding."""
    model.eval()
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def prompt_of(row):
    return row["token_ids"][: row["turn_starts"][0]].tolist()


def test_answers_are_the_most_probable_ones_of_unpadded_prompts(tmp_path, model, tokenizer, split):
    prompts = [prompt_of(split[n]) for n in range(3)]
    assert len({len(one) for one in prompts}) > 1
    lines = answers(tmp_path / "generations.jsonl", model, tokenizer, split)
    assert [line["conversation_id"] for line in lines] == list(split["conversation_id"][:3])
    for line, prompt in zip(lines, prompts, strict=True):
        assert line["step"] == 10
        assert line["answer"] == tokenizer.decode(greedily(model, prompt, 6))
        assert line["finish_reason"] == "length"


@pytest.mark.parametrize("named_by", ["generation config", "tokenizer"])
def test_an_answer_stops_at_its_end_of_turn(tmp_path, model, tokenizer, split, named_by):
    prompt = prompt_of(split[0])
    plain = greedily(model, prompt, 6)
    end = plain[3]
    assert end not in plain[:3]
    if named_by == "tokenizer":
        tokenizer = deepcopy(tokenizer)
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    else:
        model.generation_config.eos_token_id = [2, end]
    first, second = answers(tmp_path / "g.jsonl", model, tokenizer, split, num_prompts=2)
    assert first["finish_reason"] == "stop"
    assert first["answer"] == tokenizer.decode(plain[:3])
    assert second["finish_reason"] == "length"


def test_steps_are_appended(tmp_path, model, tokenizer, split):
    path = tmp_path / "generations.jsonl"
    answers(path, model, tokenizer, split, step=10, num_prompts=1)
    lines = answers(path, model, tokenizer, split, step=20, num_prompts=1)
    assert [line["step"] for line in lines] == [10, 20]
    assert lines[0]["answer"] == lines[1]["answer"]


def test_equal_prompts_are_asked_once_and_no_more_than_there_are(tmp_path, model, tokenizer, split):
    twice = split.select([0, 0, 1])
    lines = answers(tmp_path / "g.jsonl", model, tokenizer, twice, num_prompts=9)
    assert [line["conversation_id"] for line in lines] == list(split["conversation_id"][:2])


def test_no_prompts_write_nothing(tmp_path, model, tokenizer, split):
    path = tmp_path / "g.jsonl"
    write_generations(path, model, tokenizer, split, step=1, num_prompts=0, max_new_tokens=4)
    assert not path.exists()


def test_training_goes_on_as_before(tmp_path, caplog, recwarn, model, tokenizer, split):
    """Mode, gradient checkpointing and random numbers are as they were; nothing is warned of."""
    model.gradient_checkpointing_enable()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    config, random = model.config.to_dict(), torch.get_rng_state()
    with_cache = answers(tmp_path / "g.jsonl", model, tokenizer, split)
    assert [module.training for module in model.modules()] == modes
    assert model.is_gradient_checkpointing
    assert model.config.to_dict() == config
    assert torch.equal(torch.get_rng_state(), random)
    assert not caplog.records
    assert not [one for one in recwarn if "generation" in str(one.message)]
    model.gradient_checkpointing_disable()
    assert with_cache == answers(tmp_path / "again.jsonl", model, tokenizer, split)
    ids = torch.tensor([prompt_of(split[0])])
    assert model(input_ids=ids, labels=ids).loss.requires_grad


def test_sampling_settings_of_the_model_are_left_out(tmp_path, caplog, model, tokenizer, split):
    plain = answers(tmp_path / "g.jsonl", model, tokenizer, split)
    config = model.generation_config
    config.do_sample, config.temperature, config.repetition_penalty = True, 5.0, 9.0
    assert plain == answers(tmp_path / "again.jsonl", model, tokenizer, split)
    assert not caplog.records
    assert model.generation_config is config


def test_a_full_disk_is_one_clear_error(tmp_path, model, tokenizer, split):
    with pytest.raises(ArtifactError, match="writing generations"):
        answers(tmp_path, model, tokenizer, split)


def test_text_is_kept_as_it_is(tmp_path, monkeypatch, model, tokenizer, split):
    word = tokenizer(" naïve", add_special_tokens=False)["input_ids"]
    size = len(word)

    def generate(input_ids, **_):
        return torch.tensor(np.concatenate([input_ids.numpy(), [word]], axis=1))

    monkeypatch.setattr(model, "generate", generate)
    path = tmp_path / "g.jsonl"
    (line,) = answers(path, model, tokenizer, split, num_prompts=1, max_new_tokens=size)
    assert line["answer"] == " naïve"
    assert "naïve" in path.read_text(encoding="utf-8")
