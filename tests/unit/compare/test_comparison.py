import json

import pytest

from compare.comparison import Report, read_report
from compare.cost_config import CostConfig
from compare.measurement.served import Served
from compare.measurement.speed import Speed
from compare.report.summary import summarize
from compare.report.table import cells
from potstill.errors import ArtifactError

from .conftest import FILES, SPEED, nearness


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


def test_a_report_of_another_version_is_refused(report, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(report.model_dump_json())
    assert read_report(path) == report
    path.write_text(report.model_dump_json().replace('"num_prompts"', '"number_of_prompts"'))
    with pytest.raises(ArtifactError, match="another version"):
        read_report(path)


def test_checks_of_an_earlier_version_are_read(report, tmp_path):
    path = tmp_path / "report.json"
    content = json.loads(report.model_dump_json())
    judge = {"name": "a", "kind": "llm", "claim": "quality", "decides": True, "reason": "?"}
    described = "share of readings that call identical answers equal, at least"
    check = {"name": "readable", "passed": False, "value": 0.0, "limit": 0.8, "detail": described}
    kept = {
        "model": None,
        "estimate": None,
        "outcome": "INVALID_JUDGE",
        "checks": [check],
        "controls": [],
        "sensitivity": {"value": 0.8, "lower": 0.6, "num_pairs": 24, "win_rate_upper": 0.2},
    }
    content["verdict"]["judges"] = [judge | kept]
    path.write_text(json.dumps(content))
    read = read_report(path).verdict
    assert (read.level, read.judges[0].sensitivity.lower) == (read.alpha, 0.6)
    (found,) = read.judges[0].checks
    assert found.relation == "at least"
    assert found.detail == "share of readings that call identical answers equal"
    assert found.passed is False
