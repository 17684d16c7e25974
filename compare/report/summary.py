"""The report in plain sentences, each one true of the numbers.

In: a `Report`. Out: sentences. Knows nothing of HTML or terminals.
"""

from __future__ import annotations

from math import exp

from compare.report.report import Report
from compare.verdict.results import Verdict
from potstill.facts.comparison import FileRow, ModelRow
from potstill.verdict.outcome import Outcome


def summarize(report: Report) -> list[str]:
    """Say what was measured, what it means, and what it does not mean."""
    if not report.files:
        return verdict_sentences(report.verdict)
    student = report.recommended_file
    return [
        *verdict_sentences(report.verdict),
        *(_against(student, teacher) for teacher in report.teacher_files),
        *_fidelity(student),
        _training(report.untrained, report.trained, student),
        *(_quantized(teacher) for teacher in report.teacher_files[1:]),
        "Nearness to the teacher's probabilities is not the quality a reader sees: the verdict is "
        "of the judge alone.",
    ]


def verdict_sentences(verdict: Verdict) -> list[str]:
    """Say what the verdict is, who gave it and why, and what the other judges say."""
    who = verdict.decided_by or "nobody"
    return [
        f"{verdict.outcome.replace('_', ' ')}: may {verdict.student} replace {verdict.teacher}? "
        f"Judge: {who}; margin {verdict.margin:g}, alpha {verdict.alpha:g}, "
        f"{verdict.num_prompts} prompts. {verdict.reason}.",
        *(f"Beside it, {one.name}: {one.reason}." for one in verdict.judges if not one.decides),
    ]


def answer(verdict: Verdict) -> str:
    """Answer the question of the verdict in plain words."""
    beside = f"worse than its teacher by more than the margin of {verdict.margin:g}"
    likely = f"with an error rate of {verdict.alpha:g}"
    further = next((one.further_prompts for one in verdict.judges if one.decides), None)
    more = f"about {further:,}" if further else "more than a million"
    return {
        Outcome.PASS: f"Yes: it is not {beside}, {likely}.",
        Outcome.FAIL: f"No: it is {beside}, {likely}.",
        Outcome.INCONCLUSIVE: "Not known yet: so few prompts allow both. At this rate, "
        f"{more} further ones would decide.",
        Outcome.INVALID_JUDGE: "Not known: no judge that can be believed has spoken.",
    }[verdict.outcome]


def size(num_bytes: int) -> str:
    """Return a file's size as text: "89 MB", "4.68 GB"."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def parameters(count: int) -> str:
    """Return a number of parameters as text: "113.3M", "7.24B"."""
    return f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"


def acceptance(row: ModelRow) -> str | None:
    """Return the share of its drafts that the teacher would accept as text, if it is known."""
    if row.acceptance_estimate is not None:
        return f"{row.acceptance_estimate:.0%}"
    if row.acceptance_lower_bound is None or row.acceptance_upper_bound is None:
        return None
    return f"{row.acceptance_lower_bound:.0%} to {row.acceptance_upper_bound:.0%}"


def _against(student: FileRow, teacher: FileRow) -> str:
    return (
        f"{student.name} has {student.bytes / teacher.bytes:.2f} times the size of {teacher.name} "
        f"({size(student.bytes)} against {size(teacher.bytes)}) and writes at "
        f"{student.tokens_per_second / teacher.tokens_per_second:.2f} times its speed "
        f"({student.tokens_per_second:.1f} against {teacher.tokens_per_second:.1f} tokens per "
        "second, one user, this machine)."
    )


def _fidelity(student: FileRow) -> list[str]:
    if student.kl_nats is None or student.top1_agreement is None:
        return [
            f"{student.name} has other tokens than the teacher, so how near its next-token "
            "distributions are to the teacher's cannot be said."
        ]
    share, kl = f"at most {exp(-student.kl_nats):.0%}", "KL of at least "
    kl += f"{student.kl_nats:.3f} ± {student.kl_standard_error:.3f}"
    if student.kl_estimate_nats is not None:
        share, kl = f"about {exp(-student.kl_estimate_nats):.0%}", "full KL estimated at "
        kl += f"{student.kl_estimate_nats:.3f} ± {student.kl_estimate_standard_error:.3f}"
    sentences = [
        f"On conversations it was not trained on, {student.name} gives the teacher's words "
        f"{share} of the probability the teacher gives them (geometric mean; {kl} nats per token, "
        f"where 0 would be the teacher itself), and in {student.top1_agreement:.0%} of the places "
        "its most probable next token is the teacher's."
    ]
    if accepted := acceptance(student):
        sentences.append(
            f"As a draft model for its teacher (speculative decoding), {student.name} would have "
            f"{accepted} of its tokens accepted."
        )
    return sentences


def _training(untrained: ModelRow, trained: ModelRow, student: FileRow) -> str:
    if untrained.kl_nats is None or trained.kl_nats is None or student.kl_nats is None:
        return (
            "Training took the negative log-probability that the student gives the teacher's "
            f"answers from {untrained.nats_per_token:.3f} to {trained.nats_per_token:.3f} nats per "
            "token of its own."
        )
    if trained.kl_nats >= untrained.kl_nats:
        effect = "Training did not bring the student nearer to the teacher"
    else:
        effect = f"Training removed {1 - trained.kl_nats / untrained.kl_nats:.0%} of the KL"
    return (
        f"{effect} (from {untrained.kl_nats:.3f} to {trained.kl_nats:.3f}); making "
        f"{student.name} of it changed it by {student.kl_nats - trained.kl_nats:+.3f}."
    )


def _quantized(teacher: FileRow) -> str:
    return (
        f"For scale: {teacher.name}, which is the teacher itself in fewer bits, has a KL of "
        f"{teacher.kl_nats:.3f} and a top-1 agreement of {teacher.top1_agreement:.0%}."
    )
