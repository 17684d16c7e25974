import re
from collections import Counter

import pytest

from generate.dataset.page import charts, render_summary, sentences
from generate.sampling.summary import TAIL_SIZES, Summary
from potstill.charts import NUM_CLASSES
from potstill.schema import Message
from tests.fixtures.facts import conversations_facts, teacher_identity

HOSTILE = (
    '<script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(2)>{{ 7*7 }}'
)
DROPPED = {
    "dropped_prompts": {"length": 2},
    "dropped_conversations": {"looping": 7000, "length": 1},
}
FACTS = conversations_facts(**DROPPED)


@pytest.fixture
def summary():
    return Summary(
        rows_by_part={"train-00000.parquet": 1234},
        sources=Counter({("mine.jsonl", "MIT"): 4, ("magpie", None): 1230}),
        num_turns=Counter({1: 1000, 3: 234}),
        answer_lengths=Counter({1: 4, 9: 10, 16: 2}),
        entropies=Counter({0: 60, 1: 30, 8: 36}),
        num_tokens=300,
        num_truncated=4,
        tail_mass=12.6,
        entropy_bits=252.0,
        tail_by_size={size: 126.0 / (1 + size) for size in TAIL_SIZES},
        num_entries=1260,
        num_bytes=5040,
    )


def bars(summary: Summary, title: str) -> list[tuple[str, str, float]]:
    (chart,) = (one for one in charts(summary) if one.title == title)
    return [(bar.label, bar.text, bar.length) for bar in chart.bars]


def test_counts_of_few_values_have_a_bar_each(summary):
    assert bars(summary, "Conversations by answers") == [
        ("1", "1,000", 100.0),
        ("2", "0", 0.0),
        ("3", "234", pytest.approx(23.4)),
    ]


def test_counts_of_many_values_are_gathered(summary):
    assert bars(summary, "Answers by length") == [
        ("1-2", "4", 40.0),
        ("3-4", "0", 0.0),
        ("5-6", "0", 0.0),
        ("7-8", "0", 0.0),
        ("9-10", "10", 100.0),
        ("11-12", "0", 0.0),
        ("13-14", "0", 0.0),
        ("15-16", "2", 20.0),
    ]


@pytest.mark.parametrize(("low", "high"), [(5, 5), (1, 8), (1, 9), (3, 256), (0, 100_000)])
def test_bars_are_few_and_hold_every_count(low, high):
    lengths = Counter({low: 3, (low + high) // 2: 4, high: 5})
    found = bars(Summary(answer_lengths=lengths), "Answers by length")
    assert len(found) <= NUM_CLASSES
    assert sum(int(text) for _, text, _ in found) == sum(lengths.values())


def test_entropy_is_in_bits(summary):
    assert [(label, text) for label, text, _ in bars(summary, "Tokens by entropy")] == [
        ("0-1", "90"),
        ("1-2", "0"),
        ("2-3", "0"),
        ("3-4", "0"),
        ("4-5", "36"),
    ]


def test_the_mass_outside_the_most_probable_is_a_mean_over_tokens(summary):
    assert summary.completion_tokens == 126
    found = bars(summary, "Tail mass")
    assert [label for label, _, _ in found] == ["1", "2", "5", "10", "20", "50", "100"]
    assert found[0][1:] == ("50.0%", 100.0)
    assert found[3][1:] == ("9.1%", pytest.approx(200 / 11))


def test_nothing_at_all_is_a_page_too():
    page = render_summary(
        FACTS.model_copy(update={"dropped_prompts": {}, "dropped_conversations": {}}), Summary(), []
    )
    assert '<th scope="row">nothing</th>' in page


def test_sentences_say_what_a_reader_should_know(summary):
    said = sentences(FACTS, summary)
    assert said == [
        "25% of the answers reached the maximum length.",
        "10.0 log-probabilities are stored per token; they leave out 10.0% of the probability. The "
        "teacher's entropy is at least 2.0 bits per token.",
    ]
    assert sentences(conversations_facts(num_failed=3), summary)[2].startswith(
        "3 conversations failed"
    )


def test_the_page_has_the_numbers(summary):
    page = render_summary(FACTS, summary, [])
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "1,234 conversations, 126 tokens of answers, 40.0 bytes per token" in text
    for row in ("length 2 1", "looping 0 7,000", "magpie unknown 1,230", "mine.jsonl MIT 4"):
        assert row in text
    for bar in [bar for chart in charts(summary) for bar in chart.bars]:
        assert f'width="{bar.length * 0.55:.2f}%"' in page
        assert f">{bar.label}</text>" in page


def test_untrusted_text_is_text(summary, make_conversation):
    message = Message(role="user", content=HOSTILE)
    answer = Message(role="assistant", content=HOSTILE)
    sample = make_conversation(given=(message,), completion=(answer,), source=HOSTILE)
    summary.sources = Counter({(HOSTILE, HOSTILE): 1})
    changes = DROPPED | {"dropped_prompts": {HOSTILE: 1}}
    facts = conversations_facts(teacher=teacher_identity(model=HOSTILE), **changes)
    page = render_summary(facts, summary, [sample])
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 8
    assert "{{ 7*7 }}" in page
    assert not re.search(r"<(script|img|iframe|object|embed|link|form)\b", page)


def test_an_answer_that_was_cut_off_is_marked(summary, make_conversation):
    whole = make_conversation()
    cut_off = make_conversation()
    turns = (cut_off.turns[0].model_copy(update={"finish_reason": "length"}),)
    object.__setattr__(cut_off, "turns", turns)
    assert "2 tokens, truncated;" in render_summary(FACTS, summary, [cut_off])
    assert "2 tokens;" in render_summary(FACTS, summary, [whole])
