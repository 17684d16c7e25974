import pytest

from generate.sources.config import SourceConfig
from generate.sources.magpie import MIN_WORDS, write_prompts
from potstill.errors import TeacherError
from potstill.schema import Message, SamplingParams

QUESTIONS = [f"What is number {number}?" for number in range(2000)]
STEERED = SourceConfig(
    kind="magpie",
    system_prompts=["Be kind.", {"text": "Be exact.", "weight": 2.0}],
    topics=["law"],
)
LAW = "You are an assistant for questions about law."


def write(teacher, tmp_path, count=6, seed=0, name="magpie.jsonl", **config):
    sampling = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=40, seed=seed)
    source = config.pop("source", None) or SourceConfig(kind="magpie", **config)
    return write_prompts(teacher, source, count, sampling, tmp_path / name).prompts


def test_the_teacher_goes_on_from_its_templates_empty_user_slot(writing, tmp_path):
    teacher = writing(QUESTIONS)
    prompts = write(teacher, tmp_path)
    assert set(teacher.asked_texts()) == {"<user>"}
    assert prompts[0].messages == (Message(role="user", content=QUESTIONS[0]),)
    assert {(prompt.source, prompt.license) for prompt in prompts} == {("magpie", None)}


def test_a_name_and_a_license_are_the_configurations(writing, tmp_path):
    prompts = write(writing(QUESTIONS), tmp_path, name="x", license="CC0-1.0")
    assert {(prompt.source, prompt.license) for prompt in prompts} == {("magpie", "CC0-1.0")}
    source = SourceConfig(kind="magpie", name="ours", topics=["law"])
    prompts = write(writing(QUESTIONS), tmp_path, source=source)
    assert {prompt.source for prompt in prompts} == {"ours:law"}


@pytest.mark.parametrize("num_words", [MIN_WORDS - 1, MIN_WORDS])
def test_a_question_has_a_few_words(writing, tmp_path, num_words):
    texts = [" ".join(["word"] * num_words), *QUESTIONS]
    first = write(writing(texts), tmp_path)[0].messages[0].content
    assert (first == texts[0]) is (num_words == MIN_WORDS)


def test_system_prompts_and_topics_are_drawn_by_weight(writing, tmp_path):
    teacher = writing(QUESTIONS)
    prompts = write(teacher, tmp_path, count=1000, source=STEERED)
    asked = teacher.asked_texts()
    counts = {text: asked.count(text) / len(asked) for text in set(asked)}
    shares = {
        "<system>Be kind.\0<user>": 0.25,
        "<system>Be exact.\0<user>": 0.5,
        f"<system>{LAW}\0<user>": 0.25,
    }
    expected = {text.replace("\0", "|"): share for text, share in shares.items()}
    assert counts == pytest.approx(expected, abs=0.05)
    assert {prompt.source for prompt in prompts} == {"magpie", "magpie:law"}
    assert {len(prompt.messages) for prompt in prompts} == {1}


def test_a_prompt_bears_the_topic_it_was_steered_by_and_may_keep_the_system_prompt(
    writing, tmp_path
):
    teacher = writing(QUESTIONS)
    source = STEERED.model_copy(update={"keep_system_prompt": True})
    prompts = write(teacher, tmp_path, count=40, source=source)
    asked = {QUESTIONS[int(one.request_id)]: text
             for one, text in zip(teacher.asked, teacher.asked_texts(), strict=True)}  # fmt: skip
    for prompt in prompts:
        system, question = prompt.messages
        assert asked[question.content] == f"<system>{system.content}|<user>"
        assert prompt.source == ("magpie:law" if system.content == LAW else "magpie")


def test_an_interrupted_process_draws_the_same_steering(writing, tmp_path):
    whole = write(writing(QUESTIONS), tmp_path, source=STEERED, count=20, name="whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        write(writing(QUESTIONS, lives=7), tmp_path, source=STEERED, count=20)
    assert write(writing(QUESTIONS), tmp_path, source=STEERED, count=20) == whole
    other = write(writing(QUESTIONS), tmp_path, source=STEERED, count=20, seed=1, name="other")
    assert [prompt.source for prompt in other] != [prompt.source for prompt in whole]


@pytest.mark.parametrize("system", ["leaves out", "refuses"])
def test_a_template_without_system_messages_cannot_be_steered(
    writing, tmp_path, toy_tokenizer, system
):
    teacher = writing(QUESTIONS, tokenizer=toy_tokenizer(system))
    with pytest.raises(TeacherError, match="cannot be steered") as caught:
        write(teacher, tmp_path, source=STEERED)
    assert ("not supported" in str(caught.value.found)) is (system == "refuses")
    assert write(teacher, tmp_path, count=3)
