import pytest

from generate.curation.refusals import judge_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t assist with that request.",
        "Sorry, I cannot provide that information.",
        "I cannot answer that.",
        "As an AI language model, I am not able to browse the internet.",
        "Unfortunately, I won't be able to help",
        "I apologize, but as an AI assistant I do not feel comfortable writing that.",
        "I must decline.",
        "I'm sorry, that's not something I can do.",
        "I am not comfortable with this.",
        "I'm unable to open links.",
        "  \nI'm not able to create that image.",
        '{"team": "cash", "reply": "I\'m sorry, but I can\'t assist with that."}',
        '["one", {"note": "I cannot help with that."}]',
    ],
)
def test_refusals_are_recognized(text):
    assert judge_refusal(text) == "begins with a refusal"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry to hear that you lost your card. First, freeze it in the app.",
        "Sorry for the delay! Your order is on its way.",
        "You cannot transfer money to a closed account.",
        "Dear Ann, I am sorry, but I can't come to your party.",
        "A polite way to refuse is: I'm sorry, but I can't help with that.",
        "I can't help but admire your plan.",
        "That's something I can help with!",
        "I can't wait to show you how this works!",
        "Unfortunately, the exchange rate has changed since yesterday.",
        '{"team": "cash", "reply": "I\'m sorry to hear that. Please call us."}',
        '{"I cannot help with that.": 1}',
        "",
    ],
)
def test_other_answers_are_none(text):
    assert judge_refusal(text) is None
