from io import StringIO

import pytest
from rich.console import Console

from compare.cost_config import CostConfig
from compare.measurement.served import Served
from compare.measurement.speed import Speed
from compare.report.report import Report
from compare.report.summary import parameters, size, summarize
from compare.report.table import cells, fidelity_cells, render_table
from compare.verdict.results import JudgeReport
from potstill.facts.comparison import ModelRow
from potstill.facts.shared import Fidelity
from potstill.facts.student import QuantizationAware

from ..conftest import FILES, SPEED


def nearness(kl, error, top1, nats):
    return Fidelity(
        kl_nats=kl,
        kl_standard_error=error,
        top1_agreement=top1,
        nats_per_token=nats,
        num_tokens=8190,
    )


def test_json_round_trip_keeps_every_number(report):
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_rows_read_from_teacher_to_smallest_student(report):
    assert [row.name for row in report.rows] == [
        "teacher",
        "teacher-F16",
        "teacher-Q4_K_M",
        "student, untrained",
        "student, trained",
        "student-F16",
        "student-Q8_0",
        "student-Q4_K_M",
    ]


def test_ratios_refer_to_the_largest_teacher_file(report):
    assert report.reference == "teacher-F16"
    student = report.recommended_file
    assert student.speed_ratio == pytest.approx(60.2 / 25.3)
    assert student.size_ratio == pytest.approx(89 / 271)


def test_sampled_teacher_is_the_zero_of_the_scale(report):
    teacher = report.rows[0]
    assert (teacher.kl_nats, teacher.top1_agreement) == (0.0, 1.0)
    assert teacher.nats_per_token == pytest.approx(1.7)


def test_no_note_when_training_measured_the_same_tokens(report):
    assert report.notes == ()


def test_note_when_training_measured_other_tokens(make_report):
    (note,) = make_report(trained_tokens=999).notes
    assert "999 held-out tokens and the files on 8,190" in note


def test_step_of_the_teachers_tokens_alone_stands_before_the_trained_student(make_report):
    report = make_report(sft=nearness(0.6, 0.02, 0.6, 2.5))
    names = [row.name for row in report.rows if row.role == "student"]
    assert names[:3] == ["student, untrained", "student, SFT only", "student, trained"]
    assert report.trained.kl_nats == 0.312


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


def test_costs_are_of_what_answers_for_each_side(make_report):
    costs = CostConfig(machine_dollars_per_hour=0.05)
    student, teacher = make_report(costs=costs).cost.rows
    assert (student.name, student.tokens_per_second) == ("student-Q4_K_M", 60.2)
    assert (teacher.name, teacher.bytes) == ("teacher-F16", 271_000_000)
    assert teacher.ratio_to_student == pytest.approx(60.2 / 25.3)
    speed = SPEED | {"teacher": Speed(80.0, 0.2)}
    served = Served(speed=speed, elsewhere=("teacher",), nats_per_token=None)
    teacher = make_report(costs=costs, served=served, teacher="large").cost.rows[1]
    assert (teacher.name, teacher.tokens_per_second, teacher.bytes) == ("large", 80.0, None)
    assert teacher.dollars_per_million_output_tokens is None


@pytest.fixture
def long_report(make_report) -> Report:
    """Return the report of a student that went through all there is."""
    phases = {
        "offline": nearness(0.5, 0.02, 0.6, 2.3),
        "on_policy": nearness(0.4, 0.02, 0.65, 2.2),
        "quantized_plain": nearness(0.45, 0.02, 0.62, 2.25),
        "quantized_aware": nearness(0.33, 0.02, 0.69, 2.1),
    }
    return make_report(
        sft=nearness(0.6, 0.02, 0.6, 2.5),
        phases=phases,
        quantization_aware=QuantizationAware(type="Q4_K_M", kl_nats_plain=0.45, kl_nats_aware=0.39),
        served=Served(speed=SPEED, elsewhere=(), nats_per_token=2.15),
    )


def test_loss_budget_has_every_phase_of_training(long_report):
    rows = [(row.name, row.kl_nats) for row in long_report.checkpoints[1:]]
    assert rows == [
        ("student, untrained", 1.104),
        ("student, SFT only", 0.6),
        ("student, offline", 0.5),
        ("student, on-policy", 0.4),
        ("before, as Q4_K_M", 0.45),
        ("student, trained", 0.312),
        ("after, as Q4_K_M", 0.33),
    ]
    assert long_report.trained.kl_nats == 0.312


def test_loss_budget_ends_with_what_is_served(make_report):
    assert make_report().served is None, "the server tells no log-probabilities"
    served = Served(speed=SPEED, elsewhere=(), nats_per_token=2.15)
    report = make_report(served=served)
    row = report.rows[-1]
    assert row == report.served
    assert (row.name, row.step) == ("student, served", "served")
    assert row.kl_nats == pytest.approx(0.391 + (2.15 - 2.14))
    assert any("served student" in note for note in report.notes)


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


def test_files_stand_beside_their_checkpoints_with_the_gguf_stages_figures(report):
    names = [file.name for file in report.quantized]
    assert names == [
        "teacher-F16",
        "teacher-Q4_K_M",
        "student-F16",
        "student-Q8_0",
        "student-Q4_K_M",
    ]
    facts = {file.name: file.model_dump() for file in FILES}
    for file in report.quantized:
        assert file.model_dump().items() <= facts[file.name].items()


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


def test_a_student_with_other_tokens_has_no_figures_per_token(make_report):
    report = make_report(own_tokenizer=True)
    assert report.own_tokenizer
    assert "tokenizer of its own" in report.notes[0]
    for row in report.rows:
        assert (row.kl_nats is None) == (row.role == "student")
        assert cells(row).count("—") == 2 * (row.role == "student") + 4 * (
            row in report.checkpoints
        )
    text = " ".join(summarize(report))
    assert "student-Q4_K_M has other tokens than the teacher" in text
    assert "from 3.210 to 2.050 nats per token of the student's" in text
    assert "2.38 times its speed" in text
    assert Report.model_validate_json(report.model_dump_json()) == report
