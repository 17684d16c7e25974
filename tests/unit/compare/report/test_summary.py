from io import StringIO

from rich.console import Console

from compare.report.summary import parameters, size, summarize
from compare.report.table import cells, fidelity_cells, render_table
from compare.verdict.results import JudgeReport
from potstill.facts.comparison import ModelRow


def test_verdict_comes_first_and_fidelity_is_no_part_of_it(report):
    first, *_, last = summarize(report)
    assert first.startswith("INVALID JUDGE: may student-Q4_K_M replace teacher-F16?")
    assert "shuffled words" in first
    assert "only the judge decides the verdict" in last


def test_other_judges_are_told_beside_the_one_that_decides(report):
    said = {"model": None, "outcome": None, "estimate": None}
    judges = (
        JudgeReport(name="a model", kind="llm", claim="quality", decides=True, reason="?", **said),
        JudgeReport(
            name="words", kind="reference", claim="similarity", decides=False, reason="0.4", **said
        ),
    )
    verdict = report.verdict.model_copy(update={"judges": judges})
    sentences = summarize(report.model_copy(update={"verdict": verdict}))
    assert sentences[1] == "For comparison, judge words: 0.4."


def test_summary_compares_with_every_teacher_file(report):
    text = " ".join(summarize(report))
    assert "0.33 times the size of teacher-F16 (89 MB against 271 MB)" in text
    assert "2.38 times its speed (60.2 against 25.3 tokens per second" in text
    assert "0.85 times the size of teacher-Q4_K_M" in text
    assert "about 64% of the teacher's probability" in text
    assert "full KL estimated at 0.450 ± 0.017 nats" in text
    assert "would have 81% of its tokens accepted" in text
    assert "Training removed 72% of the KL (from 1.104 to 0.312)" in text
    assert "changed it by +0.079" in text


def test_summary_gives_bounds_where_nothing_can_be_estimated(report):
    unknown = {"kl_estimate_nats": None, "acceptance_estimate": None}
    files = tuple(file.model_copy(update=unknown) for file in report.files)
    text = " ".join(summarize(report.model_copy(update={"files": files})))
    assert "at most 68% of the teacher's probability" in text
    assert "KL of at least 0.391 ± 0.014 nats" in text
    assert "would have 75% to 84% of its tokens accepted" in text


def test_figures_that_an_earlier_measurement_lacks_are_left_out(report):
    old = {"name", "role", "step", "num_parameters", "kl_nats", "kl_standard_error"}
    old |= {"top1_agreement", "nats_per_token", "num_tokens"}
    row = ModelRow(**report.trained.model_dump(include=old))
    assert "|".join(fidelity_cells(row)) == "student, trained|0.312 ± 0.012|—|—|—|—|—|2.050"
    assert cells(row) == cells(report.trained)


def test_summary_says_when_training_did_not_help(report):
    untrained, trained = report.untrained, report.trained
    worse = trained.model_copy(update={"kl_nats": 1.2})
    changed = report.model_copy(update={"checkpoints": (report.rows[0], untrained, worse)})
    text = " ".join(summarize(changed))
    assert "Training did not lower the KL" in text


def test_terminal_table_shows_every_row_and_figure(long_report):
    stream = StringIO()
    Console(file=stream, width=80).print(render_table(long_report))
    lines = stream.getvalue().splitlines()
    for row in long_report.rows:
        assert any(all(text in line for text in cells(row)) for line in lines), row.name


def test_units_follow_the_magnitude():
    assert [size(89_000_000), size(4_683_000_000)] == ["89 MB", "4.68 GB"]
    assert [parameters(113_274_432), parameters(7_241_700_000)] == ["113.3M", "7.24B"]
