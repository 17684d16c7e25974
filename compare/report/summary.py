"""The report in plain sentences.

In: a `Report`. Out: sentences, for the page and the terminal.
"""

from __future__ import annotations

from math import exp

from compare.comparison import Report
from compare.report import gate
from compare.verdict.figures import Basis
from compare.verdict.results import Verdict
from potstill.facts.comparison import FileRow, ModelRow
from potstill.verdict.outcome import Outcome, Plan

BASES: dict[Basis, str] = {
    "first": "The bounds are those of a first comparison by this judge, with an error rate of "
    "{level:g}; the rest of alpha is kept for prompts that are added and for other judges. All "
    "comparisons of this student together pass it wrongly with a probability of at most "
    "{alpha:g}.",
    "followed": "This comparison follows others by the same judge: the evidence of the first one "
    "is multiplied by bets on each prompt added since, as in live traffic. The bounds hold at all "
    "these comparisons together with an error rate of {level:g}, so that prompts may be added "
    "again; with those of other judges, of {alpha:g}.",
    "corrected": "This comparison follows others by the same judge, with votes of people: its "
    "error rate is {level:g}, by the votes that were added, so that all together pass a student "
    "wrongly with a probability of at most {alpha:g}.",
}
"""The claim of a verdict, by what its bounds are."""


def summarize(report: Report) -> list[str]:
    """Return the verdict, the measurements of the files, and what they do not show."""
    if not report.files:
        return verdict_sentences(report.verdict)
    student = report.recommended_file
    return [
        *verdict_sentences(report.verdict),
        *(_against(student, teacher) for teacher in report.teacher_files),
        *_fidelity(student),
        _training(report.untrained, report.trained, student),
        *(
            _quantized(teacher)
            for teacher in report.teacher_files[1:]
            if teacher.kl_nats is not None
        ),
        "Fidelity to the teacher's probabilities is not the quality of answers: only the judge "
        "decides the verdict.",
    ]


def verdict_sentences(verdict: Verdict) -> list[str]:
    """Return the verdict with its judge and reason, and the results of the other judges."""
    decider = verdict.decider
    return [
        f"{verdict.outcome.replace('_', ' ')}: may {verdict.student} replace {verdict.teacher}? "
        f"Judge: {verdict.decided_by or 'none'}; margin {verdict.margin:g}, "
        f"alpha {verdict.alpha:g}, "
        f"{verdict.num_prompts} prompts. {verdict.reason}.",
        *(
            f"For comparison, judge {one.name}: {one.reason}."
            for one in verdict.judges
            if not one.decides
        ),
        *gate.sentences(verdict),
        *([decider.adjusted.in_words()] if decider and decider.adjusted else []),
        *_attempts(verdict),
    ]


def _attempts(verdict: Verdict) -> list[str]:
    """Return the earlier comparisons, and the error rate of this one among all."""
    earlier = ", ".join(
        f"{one.outcome.replace('_', ' ')} ({', '.join(one.judges)}, {one.num_prompts} prompts, "
        f"margin {one.margin:g})"
        for one in verdict.earlier
    )
    number = len(verdict.earlier) + 1
    listed = [f"Comparison {number} of this student; earlier: {earlier}."] if earlier else []
    if verdict.decider is None or verdict.decider.level is None:
        return listed
    claim = BASES[verdict.basis].format(level=verdict.level, alpha=verdict.alpha)
    if any(one.models is None for one in verdict.earlier):
        claim += " Those of earlier versions had all of alpha each, and are not in this sum."
    return [*listed, claim]


def answer(verdict: Verdict) -> str:
    """Return the answer to the question of the verdict, with what it assumes."""
    decider = verdict.decider
    people = decider.people if decider else ""
    judges = f"{verdict.decided_by} and {people}" if people else verdict.decided_by
    by = f"by {judges} on these prompts, the student is"
    margin, share = f"the margin of {verdict.margin:g}", f"{100 * verdict.level:g}%"
    often = f"about {share} of comparisons"
    if verdict.basis == "followed":
        often = f"at most {share} of cases, at any of its comparisons"
    at_margin = (
        f"A student that {'people find' if people else 'this judge finds'} worse by the margin"
    )
    further = decider.further_prompts if decider else None
    more = f"about {further:,}" if further else "more than 100,000"
    undecided = (
        f"Undecided: the interval contains the threshold. At this rate, {more} further prompts, "
        f"added to these, would decide with a probability of {Plan().power:g}."
    )
    if decider and decider.alone:
        undecided = f"Undecided: {decider.reason}."
    if verdict.missed and not (decider and decider.outcome is verdict.outcome):
        return _missed(verdict)
    num_required = sum(row.required for row in verdict.gate)
    met = " It meets all other requirements of the gate, too." if num_required > 1 else ""
    most = f"{100 * verdict.alpha:g}% of comparisons"
    missing = "A student that misses another requirement"
    if_missed = f" {missing} passes in at most {most}." if met else ""
    return {
        Outcome.PASS: f"Yes: {by} worse by less than {margin}.{met} {at_margin} passes in {often}."
        f"{if_missed}",
        Outcome.FAIL: f"No: {by} worse by more than {margin}. {at_margin} fails in {often}.",
        Outcome.INCONCLUSIVE: undecided,
        Outcome.INVALID_JUDGE: "Undecided: there is no valid judge.",
    }[verdict.outcome]


def _missed(verdict: Verdict) -> str:
    """Return which requirements of the gate are not met, where the judge alone would say else."""
    names = [one.name for one in verdict.missed if one.outcome is verdict.outcome]
    parts = f"{', '.join(names)} ({'part' if len(names) == 1 else 'parts'} of the gate)"
    if verdict.outcome is Outcome.FAIL:
        return f"No: the student does not meet {parts}."
    return f"Undecided: it is not shown that the student meets {parts}."


def size(num_bytes: int) -> str:
    """Return a file's size as text: "89 MB", "4.68 GB"."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def parameters(count: int) -> str:
    """Return a number of parameters as text: "113.3M", "7.24B"."""
    return f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"


def acceptance(row: ModelRow) -> str | None:
    """Return the share of drafts that the teacher would accept as text; None if unknown."""
    if row.acceptance_estimate is not None:
        return f"{row.acceptance_estimate:.0%}"
    if row.acceptance_lower_bound is None or row.acceptance_upper_bound is None:
        return None
    return f"{row.acceptance_lower_bound:.0%} to {row.acceptance_upper_bound:.0%}"


def _against(student: FileRow, teacher: FileRow) -> str:
    return (
        f"{student.name} has {student.bytes / teacher.bytes:.2f} times the size of {teacher.name} "
        f"({size(student.bytes)} against {size(teacher.bytes)}) and decodes at "
        f"{student.tokens_per_second / teacher.tokens_per_second:.2f} times its speed "
        f"({student.tokens_per_second:.1f} against {teacher.tokens_per_second:.1f} tokens per "
        "second, one user, this machine)."
    )


def _fidelity(student: FileRow) -> list[str]:
    if student.kl_nats is None or student.top1_agreement is None:
        return [
            f"{student.name} has other tokens than the teacher, so its next-token distributions "
            "cannot be compared with the teacher's."
        ]
    share, kl = f"at most {exp(-student.kl_nats):.0%}", "KL of at least "
    kl += f"{student.kl_nats:.3f} ± {student.kl_standard_error:.3f}"
    if student.kl_estimate_nats is not None:
        share, kl = f"about {exp(-student.kl_estimate_nats):.0%}", "full KL estimated at "
        kl += f"{student.kl_estimate_nats:.3f} ± {student.kl_estimate_standard_error:.3f}"
    sentences = [
        f"On held-out conversations, {student.name} gives a token that the teacher draws {share} "
        f"of the teacher's probability (geometric mean, in expectation; {kl} nats per token), and "
        f"its most probable next token is the teacher's in {student.top1_agreement:.0%} of the "
        "positions."
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
            "Training changed the student's negative log-probability of the teacher's answers "
            f"from {untrained.nats_per_token:.3f} to {trained.nats_per_token:.3f} nats per token "
            "of the student's tokenizer."
        )
    if trained.kl_nats >= untrained.kl_nats:
        effect = "Training did not lower the KL to the teacher"
    else:
        effect = f"Training removed {1 - trained.kl_nats / untrained.kl_nats:.0%} of the KL"
    return (
        f"{effect} (from {untrained.kl_nats:.3f} to {trained.kl_nats:.3f}); converting it to "
        f"{student.name} changed it by {student.kl_nats - trained.kl_nats:+.3f}."
    )


def _quantized(teacher: FileRow) -> str:
    return (
        f"For scale: {teacher.name}, the teacher itself in fewer bits, has a KL of "
        f"{teacher.kl_nats:.3f} and a top-1 agreement of {teacher.top1_agreement:.0%}."
    )
