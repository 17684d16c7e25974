import json

import pytest

from generate.sources.config import OPERATIONS, SourceConfig
from generate.sources.evolve import usable_seeds, write_evolved
from generate.sources.raw_prompt import first_question
from generate.sources.rewriting import INSTRUCTIONS, evolution_messages
from potstill.errors import ConfigError
from potstill.schema import Message, SamplingParams

EVOLVE = SourceConfig(kind="evolve", license="CC0-1.0")
VARIANTS = [f"Why is number {number} so?" for number in range(2000)]


@pytest.fixture
def seeds(asking):
    return [
        asking("How do I boil an egg?", license="MIT", source="eggs.jsonl"),
        asking("How do I bake bread?", system="You are a baker.", source="bread.jsonl"),
    ]


def write(teacher, tmp_path, seeds, config=EVOLVE, count=6, seed=0, name="evolve.jsonl"):
    sampling = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=40, seed=seed)
    return write_evolved(teacher, config, seeds, count, sampling, tmp_path / name).prompts


def test_variants_keep_source_license_and_system_prompt_of_their_seeds(writing, tmp_path, seeds):
    prompts = write(writing(VARIANTS), tmp_path, seeds, count=30)
    kept = {(prompt.source, prompt.license, prompt.messages[:-1]) for prompt in prompts}
    assert kept == {
        ("evolve:eggs.jsonl", "MIT", ()),
        (
            "evolve:bread.jsonl",
            "CC0-1.0",
            (Message(role="system", content="You are a baker."),),
        ),
    }
    assert [prompt.messages[-1].content for prompt in prompts] == VARIANTS[:30]


def test_every_seed_is_rewritten_in_every_way(writing, tmp_path, seeds):
    teacher = writing(VARIANTS)
    write(teacher, tmp_path, seeds, count=200)
    asked = teacher.asked_texts()
    for seed in seeds:
        for operation in OPERATIONS:
            (message,) = evolution_messages(first_question(seed.messages), operation)
            share = asked.count(f"<user>{message.content}|<assistant>") / len(asked)
            assert share == pytest.approx(0.1, abs=0.07)


def test_only_the_operations_that_were_asked_for_are_used(writing, tmp_path, seeds):
    teacher = writing(VARIANTS)
    config = SourceConfig(kind="evolve", operations=["breadth"])
    write(teacher, tmp_path, seeds, config)
    assert all(INSTRUCTIONS["breadth"] in text for text in teacher.asked_texts())


def test_seeds_in_another_order_are_drawn_alike(writing, tmp_path, seeds):
    one = write(writing(VARIANTS), tmp_path, seeds, name="one")
    assert write(writing(VARIANTS), tmp_path, seeds[::-1], name="other") == one
    other = write(writing(VARIANTS), tmp_path, seeds, seed=1, name="third")
    assert [prompt.source for prompt in other] != [prompt.source for prompt in one]


def test_copies_of_any_seed_and_useless_answers_are_not_taken(writing, tmp_path, seeds):
    texts = ["how do i boil an egg", "How do I bake bread?", "Sure!", *VARIANTS]
    prompts = write(writing(texts), tmp_path, seeds)
    assert [first_question(prompt.messages) for prompt in prompts] == VARIANTS[:6]


def test_what_a_kill_interrupts_is_gone_on_with(writing, tmp_path, seeds):
    whole = write(writing(VARIANTS), tmp_path, seeds, name="whole")
    with pytest.raises(KeyboardInterrupt):
        write(writing(VARIANTS, lives=4), tmp_path, seeds)
    assert write(writing(VARIANTS), tmp_path, seeds) == whole


def test_the_first_question_of_a_conversation_is_its_seed(asking):
    first, second = asking("One thing, please?"), asking("And another one?")
    answer = Message(role="assistant", content="Yes.")
    conversation = type(first)((*first.messages, answer, *second.messages), "made in a test")
    assert first_question(conversation.messages) == "One thing, please?"


def test_seeds_with_tools_control_tokens_or_nothing_to_ask_and_long_ones_are_left_out(
    toy_tokenizer, asking, writing, tmp_path
):
    tools = json.dumps([{"type": "function", "function": {"name": "add"}}])
    useless = [
        asking("Add one and two.", tools=tools),
        asking("What does | mean?"),
        asking("Be brief?", system="Say |."),
        asking(" "),
        asking("long " * 9),
    ]
    good = asking("What is it?")
    assert usable_seeds(toy_tokenizer(), [*useless, good, good], 40) == [good]
    with pytest.raises(ConfigError, match="no prompts to rewrite"):
        write(writing([]), tmp_path, useless)
