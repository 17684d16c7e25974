import pytest

from generate.sources.config import OPERATIONS
from generate.sources.rewriting import INSTRUCTIONS, evolution_messages, parse_evolved

SEED = "How do I boil an egg?"
VARIANT = "How do I boil an egg at 3,000 meters without a timer?"


def test_a_request_holds_the_seed_and_what_to_do_with_it():
    contents = set()
    for operation in OPERATIONS:
        (message,) = evolution_messages("  What is 100% of {x}?\n", operation)
        assert message.role == "user"
        assert "<request>\nWhat is 100% of {x}?\n</request>" in message.content
        assert INSTRUCTIONS[operation] in message.content
        contents.add(message.content)
    assert len(contents) == len(OPERATIONS)


@pytest.mark.parametrize(
    "text",
    [
        VARIANT,
        f"\n{VARIANT}  \n",
        f"<request>{VARIANT}</request>",
        f"Here it is:\n<request>\n{VARIANT}\n</request>\nI hope that helps!",
        f"<request>{VARIANT}",
        f"{VARIANT}</request>",
        f'"{VARIANT}"',
        f"“{VARIANT}”",
        f"```\n{VARIANT}\n```",
        f"```text\n{VARIANT}\n```",
        f"#Rewritten Prompt#:\n{VARIANT}",
        f"#Rewritten Prompt#\n{VARIANT}",
        f"**Rewritten request:** {VARIANT}",
        f"## New prompt:\n{VARIANT}",
        f'Sure, here is the rewritten prompt: "{VARIANT}"',
        f"Certainly! Here\u2019s a more complex version:\n\n{VARIANT}",
    ],
)
def test_what_a_teacher_puts_around_a_variant_is_taken_off(text):
    assert parse_evolved(SEED, text) == VARIANT


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "<request></request>",
        "An egg?",
        SEED,
        f"<request>{SEED}</request>",
        "how do i BOIL an egg",
        f'Rewritten prompt: "{SEED}"',
        "Sure! Put the egg into boiling water.",
        "Certainly, put the egg into boiling water for six minutes.",
        "I'm sorry, but I cannot do that for you.",
        "I can\u2019t help with that request, it is unsafe.",
        "As an AI language model, I have no eggs to boil.",
        "Here are the steps to boil an egg: put it into water.",
        "The answer is six minutes in boiling water.",
        "Make the given prompt harder by asking about altitude.",
        "Is this rewritten prompt more complex than before?",
        "How long? #Created Prompt# How do I boil two eggs?",
        " ".join(["Put the egg into water."] * 40),
    ],
)
def test_what_is_no_request_of_a_user_is_dropped(text):
    assert parse_evolved(SEED, text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Okay so I have a dog. What does it eat?",
        "How do I file a new request with the city: by letter or online?",
        "Surely there is a way to boil an egg without water?",
        'Translate "egg" into French, and "bread" as well',
        '"Egg" or "eggs": which one is right?',
        "Hereford cattle: how much do they weigh?",
    ],
)
def test_requests_that_look_a_little_like_answers_are_kept(text):
    assert parse_evolved(SEED, text) == text


def test_a_seed_about_prompts_may_have_variants_about_them():
    seed = "How do I improve a given prompt?"
    assert parse_evolved(seed, "How do I shorten a given prompt by half?")
