"""The summary page: sample conversations, lengths, entropies, and numbers of dropped rows.

In: the manifest's facts, the summary and a few conversations, which are untrusted text. Out: HTML.
"""

from __future__ import annotations

from collections.abc import Sequence

from generate.curation.dropped import counts_by_filter
from generate.dataset.coverage import Coverage
from generate.sampling.summary import ENTROPY_STEP, Summary
from potstill import pages
from potstill.charts import Chart, bar_chart, histogram
from potstill.facts.conversations import ConversationsFacts
from potstill.schema import Conversation


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
        histogram("Answers by length", "tokens, end of turn included", summary.answer_lengths),
        histogram("Conversations by answers", "answers in a conversation", summary.num_turns),
        bar_chart(
            "Tail mass",
            "mean probability outside the k most probable tokens; constant beyond the number of "
            "stored tokens",
            list(tails),
            list(tails.values()),
            "{:.1%}",
        ),
        histogram(
            "Tokens by entropy",
            "bits, of the stored tokens with the tail as one category",
            summary.entropies,
            ENTROPY_STEP,
        ),
    ]
