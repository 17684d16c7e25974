import json
import math

import pytest

from generate.sources.attempts import (
    ATTEMPTS_PER_PROMPT,
    MAX_ATTEMPTS_PER_PROMPT,
    Writing,
    write_until_enough,
)
from generate.sources.raw_prompt import RawPrompt
from generate.teachers.protocol import Failure
from potstill.errors import ArtifactError, TeacherError
from potstill.schema import Message, SamplingParams

WANTED = 6
FIRST_ROUND = math.ceil(ATTEMPTS_PER_PROMPT * WANTED)
QUESTIONS = [f"What is number {number}?" for number in range(200)]
REFUSED = "nothing of use"


def sampling(seed: int = 0) -> SamplingParams:
    return SamplingParams(temperature=0.7, top_p=0.9, max_tokens=40, seed=seed)


def to_prompt(number: int, text: str) -> RawPrompt | None:
    if text == REFUSED:
        return None
    return RawPrompt((Message(role="user", content=text),), f"attempt {number}")


@pytest.fixture
def log_path(tmp_path):
    return tmp_path / "attempts.jsonl"


def write(teacher, log_path, count=WANTED, seed=0) -> list[str]:
    writing = Writing("writing", lambda number: [number + 1, 7], to_prompt, sampling(seed))
    written = write_until_enough(teacher, writing, count, log_path)
    return [prompt.messages[0].content for prompt in written.prompts]


def logged(log_path) -> list[list]:
    return [json.loads(line) for line in log_path.read_text().splitlines()]


def test_exactly_so_many_prompts_are_written(writing, log_path):
    teacher = writing(QUESTIONS)
    assert write(teacher, log_path) == QUESTIONS[:WANTED]
    assert [request.prompt_token_ids for request in teacher.asked[:2]] == [[1, 7], [2, 7]]
    assert teacher.top_logprobs == {None}
    params = teacher.asked[0].sampling
    assert (params.temperature, params.top_p, params.max_tokens) == (0.7, 0.9, 40)


def test_none_are_asked_for_when_none_are_wanted(writing, log_path):
    assert write(writing([]), log_path, count=0) == []


def test_every_attempt_has_a_seed_of_its_own_that_the_given_one_decides(writing, tmp_path):
    seeds = []
    for number, seed in enumerate((0, 0, 1)):
        teacher = writing(QUESTIONS)
        write(teacher, tmp_path / f"{number}.jsonl", seed=seed)
        seeds.append([request.sampling.seed for request in teacher.asked])
    assert len(set(seeds[0])) == FIRST_ROUND
    assert seeds[0] == seeds[1]
    assert not set(seeds[0]) & set(seeds[2])


@pytest.mark.parametrize("order", [list, reversed])
def test_a_round_is_finished_and_the_first_attempts_win_not_the_first_to_end(
    writing, log_path, order
):
    teacher = writing(QUESTIONS, order=lambda requests: order(list(requests)))
    assert write(teacher, log_path) == QUESTIONS[:WANTED]
    assert teacher.calls == [list(range(FIRST_ROUND))]
    assert sorted(logged(log_path)) == [[n, QUESTIONS[n]] for n in range(FIRST_ROUND)]


def test_duplicates_useless_and_unfinished_ones_are_dropped_and_more_are_asked_for(
    writing, log_path
):
    texts = ["What is it?", "what IS it", None, REFUSED, None, "  Who are you?\n", *QUESTIONS]
    teacher = writing(texts)
    assert write(teacher, log_path) == ["What is it?", "Who are you?", *QUESTIONS[:4]]
    found = 2 + FIRST_ROUND - 6
    second = FIRST_ROUND + math.ceil(FIRST_ROUND / found * (WANTED - found))
    assert teacher.calls == [list(range(FIRST_ROUND)), list(range(FIRST_ROUND, second))]


def test_a_teacher_that_rarely_writes_what_is_wanted_is_asked_in_few_rounds(
    writing, log_path, caplog
):
    caplog.set_level("INFO")
    texts = [None if number % 10 else f"What is {number}?" for number in range(500)]
    teacher = writing(texts)
    assert len(write(teacher, log_path)) == WANTED
    assert len(teacher.calls) <= 5
    assert f"{WANTED} of {WANTED} inputs" in caplog.text


def test_the_last_prompts_do_not_take_a_round_each(writing, log_path):
    # The first round brings 315 of 320; afterwards every tenth attempt brings one.
    texts = [
        f"What is {number}?" if number < 315 or (number > 415 and number % 10 == 0) else None
        for number in range(600)
    ]
    teacher = writing(texts)
    assert len(write(teacher, log_path, count=320)) == 320
    assert [len(call) for call in teacher.calls[1:]] == [10] * 5


@pytest.mark.parametrize("lives", range(10))
def test_an_interrupted_process_is_gone_on_with(writing, log_path, tmp_path, lives):
    texts = ["What is it?", "what IS it", None, REFUSED, *QUESTIONS]
    whole = writing(texts)
    expected = write(whole, tmp_path / "whole.jsonl")
    assert len(whole.calls) == 2
    with pytest.raises(KeyboardInterrupt):
        write(writing(texts, lives=lives), log_path)
    teacher = writing(texts)
    assert write(teacher, log_path) == expected
    asked = [request.request_id for request in teacher.asked]
    assert asked == [request.request_id for request in whole.asked][lives:]
    assert logged(log_path) == logged(tmp_path / "whole.jsonl")


def test_what_was_finished_out_of_order_is_not_asked_again(writing, log_path):
    with pytest.raises(KeyboardInterrupt):
        write(writing(QUESTIONS, order=lambda asked: asked[::-1], lives=3), log_path)
    teacher = writing(QUESTIONS)
    assert write(teacher, log_path) == QUESTIONS[:WANTED]
    assert teacher.calls == [list(range(FIRST_ROUND - 3))]


def test_with_all_attempts_written_down_the_teacher_is_asked_for_nothing(writing, log_path):
    write(writing(QUESTIONS), log_path)
    teacher = writing([])
    assert write(teacher, log_path) == QUESTIONS[:WANTED]
    assert teacher.asked == []


@pytest.mark.parametrize("kept", [1, 10, -1])
def test_a_last_line_that_was_cut_off_is_healed(writing, log_path, kept):
    write(writing(QUESTIONS), log_path)
    *whole, last = log_path.read_text().splitlines(keepends=True)
    log_path.write_text("".join(whole) + last[:kept])
    teacher = writing(QUESTIONS)
    assert write(teacher, log_path) == QUESTIONS[:WANTED]
    assert teacher.calls == [[FIRST_ROUND - 1]]
    assert logged(log_path) == [[n, QUESTIONS[n]] for n in range(FIRST_ROUND)]


def test_texts_of_any_letters_survive_the_log(writing, log_path):
    texts = ["东京 🙂", "a\u2028b\x1cc", '"[\\', "é\n\ny", *QUESTIONS]
    first = write(writing(texts), log_path)
    assert first[:4] == texts[:4]
    assert write(writing([]), log_path) == first


def test_a_text_with_a_control_token_inside_is_no_prompt(writing, log_path):
    texts = write(writing(["How is \0 this?", *QUESTIONS]), log_path)
    assert len(texts) == WANTED
    assert not any("\0" in text or "|" in text for text in texts)


@pytest.mark.parametrize("text", [None, REFUSED, "What is it?"])
def test_a_teacher_that_writes_too_few_is_refused(writing, log_path, text):
    teacher = writing([text] * 10_000)
    with pytest.raises(TeacherError, match="does not write enough prompts") as caught:
        write(teacher, log_path)
    limit = MAX_ATTEMPTS_PER_PROMPT * WANTED
    assert caught.value.found == (1 if text == "What is it?" else 0)
    assert f"{WANTED} distinct prompts in {limit} attempts" in caught.value.expected
    assert "generate.prompts.path" in caught.value.hint
    assert len(teacher.asked) == limit


def test_an_attempt_that_fails_is_replaced_for_good(writing, log_path, caplog):
    texts = [Failure("0", "timed out"), *QUESTIONS]
    assert write(writing(texts), log_path, count=8) == QUESTIONS[:8]
    assert "1 of 11 attempts failed, the first one: timed out" in caplog.text
    again = writing([])
    assert write(again, log_path, count=8) == QUESTIONS[:8]
    assert again.asked == []


def test_an_attempt_that_failed_is_tried_again_by_a_process_that_goes_on(writing, log_path):
    texts = [Failure("0", "timed out"), *QUESTIONS]
    with pytest.raises(KeyboardInterrupt):
        write(writing(texts, lives=5), log_path, count=8)
    again = writing(["What now, then?", *QUESTIONS])
    assert write(again, log_path, count=8) == ["What now, then?", *QUESTIONS[:7]]
    assert again.calls[0][0] == 0


def test_prompts_that_are_there_already_are_not_written_again(writing, log_path):
    known = {to_prompt(number, QUESTIONS[number]) for number in (0, 2)}
    writing_now = Writing("writing", lambda _: [1], to_prompt, sampling(), known)
    prompts = write_until_enough(writing(QUESTIONS), writing_now, 3, log_path).prompts
    assert [prompt.messages[0].content for prompt in prompts] == [QUESTIONS[n] for n in (1, 3, 4)]


def test_a_teacher_that_always_fails_is_not_asked_for_ever(writing, log_path):
    teacher = writing([Failure(str(number), "no route to host") for number in range(999)])
    with pytest.raises(TeacherError, match="every attempt of the teacher failed") as caught:
        write(teacher, log_path)
    assert caught.value.found == "no route to host"
    assert len(teacher.calls) == 1


def test_a_log_that_cannot_be_written_is_an_error_that_names_it(writing, tmp_path):
    path = tmp_path / "absent" / "attempts.jsonl"
    with pytest.raises(ArtifactError, match="logging written prompts failed") as caught:
        write(writing(QUESTIONS), path)
    assert caught.value.where == str(path)
