import pytest

from potstill.task.answers import Score
from potstill.task.metrics.config import LabelConfig
from potstill.task.metrics.label import Label, label_report


@pytest.mark.parametrize(
    ("field", "said", "known", "value", "found"),
    [
        (None, "cards", "cards", 1.0, "cards"),
        (None, " cards\n", "cards", 1.0, "cards"),
        (None, "cash", "cards", 0.0, "cash"),
        (None, "I think cards", "cards", 0.0, None),
        (None, "", "cards", 0.0, None),
        ("team", '{"team": "cards", "reply": "Hi"}', '{"team": "cards"}', 1.0, "cards"),
        ("a.team", '{"a": {"team": "cash"}}', '{"a": {"team": "cash"}}', 1.0, "cash"),
        ("a.team", '{"a": "cash"}', '{"a": {"team": "cash"}}', 0.0, None),
        ("team", "cards", '{"team": "cards"}', 0.0, None),
        ("team", '{"team": ["cards"]}', '{"team": "cards"}', 0.0, None),
        ("team", '{"team": "loans"}', '{"team": "cards"}', 0.0, None),
        ("team", '{"team": "cards"}', " cards", 1.0, "cards"),
    ],
)
def test_a_label_is_read_and_compared(scored, field, said, known, value, found):
    metric = Label(LabelConfig(field=field, labels=("cards", "cash")))
    score = scored(metric, said, known)
    assert (score.value, score.found) == (value, found)
    assert score.expected in {"cards", "cash"}


def test_an_unreadable_known_answer_is_reported(scored):
    score = scored(Label(LabelConfig(field="team")), '{"team": "x"}', '{"reply": "Hi"}')
    assert (score.value, score.expected) == (0.0, None)
    assert score.problem == "no label in the known answer"


def test_a_report_agrees_with_counting_by_hand():
    """Two of three cards and the one cash are found; one card has no label."""
    pairs = [("cards", "cards"), ("cards", "cards"), ("cards", None), ("cash", "cash")]
    scores = [
        Score(value=float(known == found), found=found, expected=known) for known, found in pairs
    ]
    report = label_report(scores)
    assert report.labels == ("cards", "cash")
    assert report.counts == ((2, 0, 1), (0, 1, 0))
    assert report.accuracy == 0.75
    assert report.macro_f1 == pytest.approx((2 * 2 / (3 + 2) + 1.0) / 2)


def test_labels_without_known_answers_do_not_count_in_the_mean():
    scores = [Score(value=1.0, found="a", expected="a")]
    report = label_report(scores, labels=("a", "b"))
    assert (report.macro_f1, report.accuracy) == (1.0, 1.0)
    assert report.counts == ((1, 0, 0), (0, 0, 0))


def test_a_report_of_nothing_has_no_share():
    assert label_report([]).accuracy == 0.0
