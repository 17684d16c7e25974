import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.sources.raw_prompt import ID_DIGITS, RawPrompt, normalize
from potstill.schema import Message


def test_ids_are_the_same_on_every_machine_and_in_every_version(raw_prompt):
    """Stored prompts are found by them: a change here breaks runs that exist."""
    assert raw_prompt("What is 17 plus 25?").prompt_id == "8c02af732958e55d"
    assert raw_prompt("café", "oui", "東京").prompt_id == "ad34137a99a95c77"


def test_an_id_is_of_the_messages_alone(raw_prompt):
    prompt = raw_prompt("Hello?")
    assert len(prompt.prompt_id) == ID_DIGITS
    assert raw_prompt("Hello?", source="elsewhere", license="MIT").prompt_id == prompt.prompt_id
    others = [raw_prompt("Hello!"), raw_prompt("hello?"), raw_prompt("Hello?", "Yes?", "Well?")]
    system = RawPrompt((Message(role="system", content="Hello?"),), "made in a test")
    ids = {one.prompt_id for one in (prompt, system, *others)}
    assert len(ids) == 5


def test_prompts_that_differ_in_case_spacing_or_punctuation_are_one(raw_prompt):
    same = ["How are you?", "how are you", "How  are\nyou?!", "HOW ARE YOU?", "How are, you?"]
    assert len({raw_prompt(text).key for text in same}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How are you?", "How are they?"),
        ("What is 1 plus 2?", "What is 1 plus 3?"),
        ("東京はどこですか", "京都はどこですか"),
        ("Où est-il ?", "Ou est-il ?"),
        ("🙂", "🙁"),
        ("+?", "-?"),
        ("दिन क्या है", "दान क्या है"),
        ("What is 7 + 2?", "What is 7 - 2?"),
    ],
)
def test_prompts_of_other_words_are_two(raw_prompt, one, other):
    assert raw_prompt(one).key != raw_prompt(other).key


def test_earlier_turns_count(raw_prompt):
    assert raw_prompt("Hi", "Yes?", "Go on.").key != raw_prompt("Hi", "No?", "Go on.").key


def test_the_same_question_with_other_tools_is_another(raw_prompt):
    prompts = [raw_prompt("What now?"), raw_prompt("What now?", tools='[{"name": "clock"}]')]
    assert prompts[0].key != prompts[1].key
    assert prompts[0].prompt_id != prompts[1].prompt_id


@given(st.text())
def test_normalized_text_stays_as_it_is(text):
    assert normalize(normalize(text)) == normalize(text)


def test_case_width_and_punctuation_do_not_count_but_signs_do():
    assert normalize("  Why? WHY,\twhy… ") == normalize("why ｗｈｙ why")  # noqa: RUF001
    assert normalize("5 - 3") != normalize("5 + 3") != normalize("5 * 3")
