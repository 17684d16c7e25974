"""The summary page: sample conversations, lengths, entropies, and numbers of dropped rows.

In: the manifest's facts, the summary and a few conversations, which are untrusted text. Out: HTML.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from generate.curation.dropped import counts_by_filter
from generate.dataset.coverage import Coverage
from generate.sampling.summary import ENTROPY_STEP, Summary
from potstill import pages
from potstill.facts.conversations import ConversationsFacts
from potstill.schema import Conversation

NUM_CLASSES = 8
"""Bars of a histogram."""


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram; its length is in percent of the longest."""

    label: str
    text: str
    length: float


@dataclass(frozen=True)
class Chart:
    """A histogram."""

    title: str
    caption: str
    bars: tuple[Bar, ...]


def render_summary(
    facts: ConversationsFacts,
    summary: Summary,
    samples: Sequence[Conversation],
    coverage: Coverage | None = None,
) -> str:
    """Return the whole page.

    Args:
        coverage: How well the conversations cover the run's task; None without one.
    """
    return pages.render_page(
        "generate.dataset",
        "summary.html.j2",
        facts=facts,
        summary=summary,
        stats=summary.stats(),
        sentences=sentences(facts, summary),
        charts=charts(summary),
        filters=counts_by_filter(facts),
        sources=summary.sources.most_common(),
        samples=samples,
        coverage=coverage,
    )


def sentences(facts: ConversationsFacts, summary: Summary) -> list[str]:
    """Return the most important figures as sentences."""
    stats = summary.stats()
    said = [
        f"{summary.truncated_share:.0%} of the answers reached the maximum length.",
        f"{stats.entries_per_token} log-probabilities are stored per token; they leave out "
        f"{stats.mean_tail_mass:.1%} of the probability. The teacher's entropy is at least "
        f"{stats.entropy_bits} bits per token.",
    ]
    if facts.num_failed:
        said.append(f"{facts.num_failed} conversations failed; see samples/failed-*.jsonl.")
    return said


def charts(summary: Summary) -> list[Chart]:
    """Return the histograms of the page."""
    tokens = max(summary.completion_tokens, 1)
    tails = {str(size): mass / tokens for size, mass in summary.tail_by_size.items()}
    return [
        Chart(
            "Answers by length",
            "tokens, end of turn included",
            _bars(*_classes(summary.answer_lengths)),
        ),
        Chart(
            "Conversations by answers",
            "answers in a conversation",
            _bars(*_classes(summary.num_turns)),
        ),
        Chart(
            "Tail mass",
            "mean probability outside the k most probable tokens; constant beyond the number of "
            "stored tokens",
            _bars(list(tails), list(tails.values()), "{:.1%}"),
        ),
        Chart(
            "Tokens by entropy",
            "bits, of the stored tokens with the tail as one category",
            _bars(*_classes(summary.entropies, ENTROPY_STEP)),
        ),
    ]


def _classes(counts: Counter[int], unit: float = 1.0) -> tuple[list[str], list[float]]:
    """Group counts by value into at most NUM_CLASSES classes of equal width."""
    if not counts:
        return [], []
    low, high = min(counts), max(counts)
    width = -(-(high - low + 1) // NUM_CLASSES)
    labels, sums = [], []
    for start in range(low, high + 1, width):
        end = start + width
        sums.append(float(sum(count for value, count in counts.items() if start <= value < end)))
        if unit != 1.0:
            labels.append(f"{start * unit:g}-{end * unit:g}")
        else:
            labels.append(str(start) if width == 1 else f"{start}-{min(end - 1, high)}")
    return labels, sums


def _bars(labels: list[str], values: list[float], form: str = "{:,.0f}") -> tuple[Bar, ...]:
    longest = max(values, default=0.0) or 1.0
    return tuple(
        Bar(label, form.format(value), 100.0 * value / longest)
        for label, value in zip(labels, values, strict=True)
    )
