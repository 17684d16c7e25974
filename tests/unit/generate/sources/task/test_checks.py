import pytest

from generate.sources.task.checks import Checks
from generate.sources.task.wanted import Turn, Wanted
from potstill.errors import ConfigError
from potstill.task.answers import Answer
from potstill.task.categories import Categories

CALL = Wanted(
    (Turn("Move money", {"amount": 1500, "to": "savings"}),),
    is_exact=True,
    labels=frozenset({"savings", "checking"}),
    unsaid=frozenset({"checking"}),
)
LABEL = Wanted((Turn("cards"),), "cards")


@pytest.mark.parametrize(
    "text",
    [
        "Put 1,500 into my savings account",
        "fifteen hundred to savings, señor, one more time",
        "Hi, can you move 1500 to savings? Please let me know.",
    ],
)
def test_an_input_that_says_what_it_should_is_kept(calls, text):
    assert Checks(calls.examples, Categories(calls)).judge(CALL, [text]) is None


@pytest.mark.parametrize(
    ("text", "filter_", "reason"),
    [
        ("Move 500 to savings", "missing_value", "amount 1500 cannot be read in it"),
        ("Move 1500, will you", "missing_value", "to savings cannot be read in it"),
        ("Move 1500 to savings, card 4532", "surplus_value", "mentions 4532, which"),
        ("Move 1500 from checking to savings", "surplus_value", "mentions checking, which"),
        ("1500", "off_task", "no letters"),
        ('{"amount": 1500, "to": "savings"}', "off_task", "JSON or code"),
        ("Move 1500 to savings. " + "Thanks! " * 80, "off_task", "84 words, maximum"),
        ("Purpose: move 1500 to savings", "off_task", "repeats the request: Purpose:"),
        ("Of 1500 for savings: how can I help you?", "off_task", "speaks as an assistant"),
        ("Sorry, I cannot assist with 1500 for savings", "off_task", "speaks as an assistant"),
        ("Your savings account has been credited 1500", "off_task", "speaks as an assistant"),
        ("You can move 1500 to savings", "off_task", "speaks as an assistant"),
        ("Could you provide more details about the 1500", "off_task", "speaks as an assistant"),
        ("Move 1500 to savings 储蓄", "off_task", "has '储', and no example"),
        ("Move 1500 to savings 🙂", "off_task", "has '🙂', and no example"),
        ("Move 1500 to savings for [Your Name]", "placeholder", "has the placeholder: [Your Name]"),
        ("Move 1500 to savings of XXXX", "placeholder", "has the placeholder: XXXX"),
    ],
)
def test_what_is_no_use_is_dropped_with_its_reason(calls, text, filter_, reason):
    found = Checks(calls.examples, Categories(calls)).judge(CALL, [text])
    assert found is not None
    assert (found[0], found[1][: len(reason)]) == (filter_, reason)


def test_values_may_be_said_in_any_of_the_turns(calls):
    checks = Checks(calls.examples, Categories(calls))
    two = Wanted((Turn("Move money", {"amount": 40}), Turn(says={"to": "savings"})), is_exact=True)
    assert checks.judge(two, ["I want to move 40", "to savings"]) is None
    assert checks.judge(two, ["I want to move 40 to savings", " "]) == (
        "off_task", "message 2 is empty",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Is this one for the cards team?", "names the label cards, as no example does"),
        ("Is the cash category right for this?", "calls cash what it is"),
        ("How do I get my cash back?", None),
        ("Where are my two cardss?", None),
    ],
)
def test_a_label_must_not_give_itself_away(labels, text, reason):
    found = Checks(labels.examples, Categories(labels)).judge(LABEL, [text])
    assert found == (None if reason is None else ("gives_away", reason))


OWN = """
def polite(text, known):
    return None if "please" in text else f"no please for {known}"

def raises(text, known):
    return 1 / 0
"""


def test_a_check_of_the_users_own_comes_last(calls, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    wanted = Wanted((Turn(says={"amount": 40}),), known=Answer(text="{}"), is_exact=True)
    checks = Checks(calls.examples, Categories(calls), f"{path}:polite")
    assert checks.judge(wanted, ["Move 40, please"]) is None
    assert checks.judge(wanted, ["Move 40"]) == ("check", "no please for {}")
    assert checks.judge(wanted, ["Move it"])[0] == "missing_value"
    failing = Checks(calls.examples, Categories(calls), f"{path}:raises")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        failing.judge(wanted, ["Move 40"])
    with pytest.raises(ConfigError, match="cannot be imported"):
        Checks(calls.examples, Categories(calls), f"{path}:missing")
