"""All figures of the files as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from potstill.facts.gguf import GgufFile

Column = tuple[str, Callable[[GgufFile], str]]

DISTANCE: tuple[Column, ...] = (
    (
        "KL, nats",
        lambda f: f"{f.kl_to_checkpoint_nats:.6f} ± {f.kl_standard_error_nats:.6f}",
    ),
    ("Bound", lambda f: f"{f.kl_bound_nats:g}"),
    ("Median", lambda f: f"{f.kl_median_nats:.6f}"),
    ("99%", lambda f: f"{f.kl_p99_nats:.4f}"),
    ("99.9%", lambda f: f"{f.kl_p999_nats:.4f}"),
    ("Maximum", lambda f: f"{f.kl_max_nats:.4f}"),
    ("Top-1 agreement", lambda f: f"{f.top1_agreement_with_checkpoint:.2%}"),
    ("Mean Δp", lambda f: f"{f.mean_delta_p:+.3%}"),
    ("RMS Δp", lambda f: f"{f.rms_delta_p:.3%}"),
    ("Perplexity", lambda f: f"{f.perplexity:.3f}"),
    ("Ratio", lambda f: f"{f.perplexity_ratio:.4f}"),
)

COST: tuple[Column, ...] = (
    ("Bytes", lambda f: f"{f.bytes:,}"),
    ("Bits per weight", lambda f: f"{f.bits_per_weight:.2f}"),
    ("Prompt tokens/s", lambda f: f"{f.prompt_tokens_per_second:,.0f}"),
    ("Decode tokens/s", lambda f: f"{f.decode_tokens_per_second:,.1f}"),
    ("16 at once", lambda f: _rate(f.batch_decode_tokens_per_second)),
    ("Peak memory, MB", lambda f: f"{f.peak_memory_bytes / 1e6:,.0f}"),
    ("Pareto front", lambda f: "yes" if f.on_pareto_front else "no"),
)


def distance_table(files: Sequence[GgufFile], recommended: str) -> str:
    """Return the table of each file's distance from its checkpoint."""
    return _table(files, recommended, DISTANCE)


def cost_table(files: Sequence[GgufFile], recommended: str) -> str:
    """Return the table of each file's size, speed and memory."""
    return _table(files, recommended, COST)


def _rate(tokens_per_second: float | None) -> str:
    return "" if tokens_per_second is None else f"{tokens_per_second:,.0f}"


def _table(files: Sequence[GgufFile], recommended: str, columns: Sequence[Column]) -> str:
    rows = [["File", *(title for title, _ in columns)], ["---", *("---:" for _ in columns)]]
    for file in files:
        name = f"**{file.file}**" if file.name == recommended else file.file
        rows.append([name, *(text(file) for _, text in columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
