import json
import math

import pytest

from generate.config import PromptsConfig
from generate.magpie import (
    ATTEMPTS_PER_PROMPT,
    MAX_ATTEMPTS_PER_PROMPT,
    MIN_WORDS,
    SOURCE,
    write_prompts,
)
from potstill.errors import ArtifactError, TeacherError
from potstill.schema import Message

WANTED = 6
CONFIG = PromptsConfig(num_prompts=WANTED, max_prompt_tokens=40, temperature=0.7, top_p=0.9)
FIRST_ROUND = math.ceil(ATTEMPTS_PER_PROMPT * WANTED)
QUESTIONS = [f"What is number {number}?" for number in range(200)]


@pytest.fixture
def log_path(tmp_path):
    return tmp_path / "magpie.jsonl"


def write(engine, log_path, config=CONFIG, seed=0) -> list[str]:
    prompts = write_prompts(engine, config, seed, log_path)
    assert {prompt.source for prompt in prompts} <= {SOURCE}
    return [prompt.messages[0].content for prompt in prompts]


def logged(log_path) -> list[list]:
    return [json.loads(line) for line in log_path.read_text().splitlines()]


def test_exactly_so_many_prompts_are_written_as_the_users_turn(writing, log_path):
    engine = writing(QUESTIONS)
    prompts = write_prompts(engine, CONFIG, 0, log_path)
    assert len(prompts) == WANTED
    assert prompts[0].messages == (Message(role="user", content=QUESTIONS[0]),)
    assert (prompts[0].source, prompts[0].licence) == ("magpie", None)


def test_the_teacher_goes_on_from_its_templates_empty_user_slot(writing, log_path):
    engine = writing(QUESTIONS)
    write(engine, log_path)
    assert {tuple(request.prompt_token_ids) for request in engine.asked} == {
        tuple(ord(letter) for letter in "<user>")
    }
    assert engine.top_logprobs == {None}
    sampling = engine.asked[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.7, 0.9, 40)


def test_every_attempt_has_a_seed_of_its_own_that_the_stages_seed_decides(writing, tmp_path):
    seeds = []
    for number, seed in enumerate((0, 0, 1)):
        engine = writing(QUESTIONS)
        write(engine, tmp_path / f"{number}.jsonl", seed=seed)
        seeds.append([request.sampling.seed for request in engine.asked])
    assert len(set(seeds[0])) == FIRST_ROUND
    assert seeds[0] == seeds[1]
    assert not set(seeds[0]) & set(seeds[2])


@pytest.mark.parametrize("order", [list, reversed])
def test_a_round_is_finished_and_the_first_attempts_win_not_the_first_to_end(
    writing, log_path, order
):
    engine = writing(QUESTIONS, order=lambda requests: order(list(requests)))
    assert write(engine, log_path) == QUESTIONS[:WANTED]
    assert engine.calls == [[str(number) for number in range(FIRST_ROUND)]]
    assert sorted(logged(log_path)) == [[n, QUESTIONS[n]] for n in range(FIRST_ROUND)]


def test_duplicates_short_and_unfinished_ones_are_dropped_and_more_are_asked_for(writing, log_path):
    texts = ["What is it?", "what IS it", None, "Hi there!", "", "  Who are you?\n", *QUESTIONS]
    engine = writing(texts)
    assert write(engine, log_path) == ["What is it?", "Who are you?", *QUESTIONS[:4]]
    missing = WANTED - 2 - (FIRST_ROUND - 6)
    assert engine.calls[0] == [str(number) for number in range(FIRST_ROUND)]
    second = FIRST_ROUND + math.ceil(ATTEMPTS_PER_PROMPT * missing)
    assert engine.calls[1] == [str(number) for number in range(FIRST_ROUND, second)]
    assert len(engine.calls) == 2


@pytest.mark.parametrize("num_words", [MIN_WORDS - 1, MIN_WORDS])
def test_a_question_has_a_few_words(writing, log_path, num_words):
    texts = [" ".join(["word"] * num_words), *QUESTIONS]
    assert (write(writing(texts), log_path)[0] == texts[0]) is (num_words == MIN_WORDS)


def kill_and_go_on(writing, log_path, texts, lives):
    """Return the prompts of a second process and what it asked for."""
    with pytest.raises(KeyboardInterrupt):
        write(writing(texts, lives=lives), log_path)
    engine = writing(texts)
    return write(engine, log_path), [request.request_id for request in engine.asked]


@pytest.mark.parametrize("lives", range(10))
def test_an_interrupted_process_is_gone_on_with(writing, log_path, tmp_path, lives):
    texts = ["What is it?", "what IS it", None, "Hello", *QUESTIONS]
    whole = writing(texts)
    expected = write(whole, tmp_path / "whole.jsonl")
    assert len(whole.calls) == 2
    prompts, asked = kill_and_go_on(writing, log_path, texts, lives)
    assert prompts == expected
    assert asked == [request.request_id for request in whole.asked][lives:]
    assert logged(log_path) == logged(tmp_path / "whole.jsonl")


def test_what_was_finished_out_of_order_is_not_asked_again(writing, log_path):
    with pytest.raises(KeyboardInterrupt):
        write(writing(QUESTIONS, order=lambda asked: asked[::-1], lives=3), log_path)
    engine = writing(QUESTIONS)
    assert write(engine, log_path) == QUESTIONS[:WANTED]
    assert engine.calls == [[str(number) for number in range(FIRST_ROUND - 3)]]


def test_with_all_attempts_written_down_the_teacher_is_not_asked(writing, log_path):
    write(writing(QUESTIONS), log_path)
    engine = writing([])
    assert write(engine, log_path) == QUESTIONS[:WANTED]
    assert engine.asked == []


@pytest.mark.parametrize("kept", [1, 10, -1])
def test_a_last_line_that_was_cut_off_is_healed(writing, log_path, kept):
    write(writing(QUESTIONS), log_path)
    *whole, last = log_path.read_text().splitlines(keepends=True)
    log_path.write_text("".join(whole) + last[:kept])
    engine = writing(QUESTIONS)
    assert write(engine, log_path) == QUESTIONS[:WANTED]
    assert engine.calls == [[str(FIRST_ROUND - 1)]]
    assert logged(log_path) == [[n, QUESTIONS[n]] for n in range(FIRST_ROUND)]


def test_texts_of_any_letters_survive_the_log(writing, log_path):
    texts = [f"{text} one two three" for text in ("东京 🙂", "a\u2028b\x1cc", '"[\\', "é\n\ny")]
    texts += QUESTIONS
    first = write(writing(texts), log_path)
    assert first[:4] == texts[:4]
    assert write(writing([]), log_path) == first


def test_a_text_with_a_control_token_inside_is_no_prompt(writing, log_path):
    texts = write(writing(["How is \0 this?", *QUESTIONS]), log_path)
    assert len(texts) == WANTED
    assert not any("\0" in text or "|" in text for text in texts)


@pytest.mark.parametrize("text", [None, "Hello", "What is it?"])
def test_a_teacher_that_writes_too_few_is_refused(writing, log_path, text):
    engine = writing([text] * 10_000)
    with pytest.raises(TeacherError, match="does not write enough prompts") as caught:
        write(engine, log_path)
    limit = MAX_ATTEMPTS_PER_PROMPT * WANTED
    assert caught.value.found == (1 if text == "What is it?" else 0)
    assert f"{WANTED} distinct prompts in {limit} attempts" in caught.value.expected
    assert "generate.prompts.path" in caught.value.hint
    assert limit <= len(engine.asked) < limit + FIRST_ROUND


def test_a_log_that_cannot_be_written_is_an_error_that_names_it(writing, tmp_path):
    path = tmp_path / "absent" / "magpie.jsonl"
    with pytest.raises(ArtifactError, match="writing prompts down failed") as caught:
        write(writing(QUESTIONS), path)
    assert caught.value.where == str(path)
