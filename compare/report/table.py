"""The report's figures as text, and as a table for the terminal.

In: a `Report`. Out: cells, a rich table.
"""

from __future__ import annotations

from rich import box
from rich.table import Table

from compare.comparison import Report
from compare.report.summary import acceptance, parameters, size
from potstill.facts.comparison import FileRow, ModelRow
from potstill.facts.gguf import GgufFile

HEADINGS = (
    "model",
    "params",
    "size",
    "tok/s",
    "speed",
    "first\ntoken",
    "KL to\nteacher",
    "top-1",
)
FIDELITY_HEADINGS = (
    "model",
    "KL,\nlower bound",
    "KL,\nestimate",
    "KL,\nupper bound",
    "reverse KL,\nlower bound",
    "drafts\naccepted",
    "calibration\nerror",
    "nats per\ntoken",
)
QUANTIZED_HEADINGS = (
    "file",
    "size",
    "bits/\nweight",
    "mean KL",
    "median",
    "99%",
    "99.9%",
    "top-1",
    "RMS Δp",
    "perplexity\nratio",
    "prompt\ntok/s",
    "decode\ntok/s",
    "peak\nmemory",
)
NOT_MEASURED = "—"


def cells(row: ModelRow) -> tuple[str, ...]:
    """Return a row as text under HEADINGS, for the page and the terminal."""
    top1 = NOT_MEASURED if row.top1_agreement is None else f"{row.top1_agreement:.1%}"
    served = (NOT_MEASURED,) * 4
    if isinstance(row, FileRow):
        served = (
            size(row.bytes),
            f"{row.tokens_per_second:.1f}",
            f"{row.speed_ratio:.2f}x",
            f"{row.time_to_first_token_seconds:.2f} s",
        )
    return (
        row.name,
        parameters(row.num_parameters),
        *served,
        _with_error(row.kl_nats, row.kl_standard_error),
        top1,
    )


def fidelity_cells(row: ModelRow) -> tuple[str, ...]:
    """Return a row's fidelity as text under FIDELITY_HEADINGS."""
    return (
        row.name,
        _with_error(row.kl_nats, row.kl_standard_error),
        _with_error(row.kl_estimate_nats, row.kl_estimate_standard_error),
        _with_error(row.kl_upper_bound_nats, None),
        _with_error(row.reverse_kl_nats, None),
        acceptance(row) or NOT_MEASURED,
        NOT_MEASURED if row.calibration_error is None else f"{row.calibration_error:.1%}",
        _with_error(row.nats_per_token, None),
    )


def quantized_cells(file: GgufFile) -> tuple[str, ...]:
    """Return a file's losses and costs as text under QUANTIZED_HEADINGS."""
    return (
        file.name,
        size(file.bytes),
        f"{file.bits_per_weight:.2f}",
        f"{file.kl_to_checkpoint_nats:.3g} ± {file.kl_standard_error_nats:.1g}",
        f"{file.kl_median_nats:.2g}",
        f"{file.kl_p99_nats:.2g}",
        f"{file.kl_p999_nats:.2g}",
        f"{file.top1_agreement_with_checkpoint:.1%}",
        f"{file.rms_delta_p:.2%}",
        f"{file.perplexity_ratio:.4f}",
        f"{file.prompt_tokens_per_second:,.0f}",
        f"{file.decode_tokens_per_second:,.1f}",
        size(file.peak_memory_bytes),
    )


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value:.3f} ± {error:.3f}" if error else f"{value:.3f}" if value else "0"


def render_table(report: Report) -> Table:
    """Return the report's rows as a rich table of 80 columns; the recommended file is in bold."""
    table = Table(
        title=f"student and teacher on {report.num_held_out} held-out conversations",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
        caption=f"speed: ratio to {report.reference}; KL: lower bound in nats per token, ± one "
        "standard error; top-1: share of positions with the teacher's most probable token",
    )
    for heading in HEADINGS:
        is_name = heading == "model"  # Names may take a second line, figures may not.
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=not is_name)
    for row in report.rows:
        table.add_row(*cells(row), style="bold" if row.name == report.recommended else None)
    return table
