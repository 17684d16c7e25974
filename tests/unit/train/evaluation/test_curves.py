import json
import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from potstill.errors import ArtifactError
from potstill.progress import append_metrics
from train.evaluation import curves
from train.evaluation.curves import draw_curves, read_curves


@pytest.fixture
def metrics_path(tmp_path):
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn."""
    made = []

    class Seen(Figure):
        def __init__(self, **options):
            super().__init__(**options)
            made.append(self)

    monkeypatch.setattr(curves, "Figure", Seen)
    return made


def train(path, *steps, loss=1.0, phase="offline", **figures):
    for step in steps:
        figures = {"kd_nats": loss, "ce_nats": 2.0, "learning_rate": 1e-4, **figures}
        append_metrics(path, "student", phase=phase, step=step, loss=loss, **figures)


def hold_out(path, *steps, kl=0.5, **figures):
    for step in steps:
        known = {"eval_loss": kl, "eval_kl_nats": kl, "eval_kl_standard_error": 0.1} | figures
        append_metrics(path, "student", phase="offline", step=step, **known)


def drawn(figures, title):
    """Return the labeled curves of a panel as lists of steps and values."""
    (figure,) = figures
    (panel,) = [one for one in figure.axes if one.get_title() == title]
    return {
        line.get_label(): (np.asarray(line.get_xdata()).tolist(), list(line.get_ydata()))
        for line in panel.lines
    }


def test_curves_are_what_was_measured(metrics_path, tmp_path, figures):
    append_metrics(metrics_path, "samples", step=9, loss=9.0)
    train(metrics_path, 1, 5, loss=3.0)
    hold_out(metrics_path, 5, kl=0.9, eval_top1_agreement=0.4, eval_acceptance_estimate=0.5)
    train(metrics_path, 10, loss=2.0, kd_nats=1.5)
    hold_out(metrics_path, 10, kl=0.7, eval_top1_agreement=0.6, eval_acceptance_estimate=0.7)
    append_metrics(metrics_path, "student", untrained_kl_nats=2.0, trained_kl_nats=0.7)
    draw_curves(metrics_path, tmp_path / "curves.png")
    loss = drawn(figures, "Training loss")
    assert loss["their mix"] == ([1, 5, 10], [3.0, 3.0, 2.0])
    assert loss["divergence from the teacher"] == ([1, 5, 10], [3.0, 3.0, 1.5])
    assert loss["cross-entropy"] == ([1, 5, 10], [2.0, 2.0, 2.0])
    held_out = drawn(figures, "Held-out loss")
    assert held_out["KL to the teacher, at least"] == ([5, 10], [0.9, 0.7])
    assert held_out["best, step 10"][0] == [10, 10]
    agreement = drawn(figures, "Held-out agreement with the teacher")
    assert agreement["same most probable token"] == ([5, 10], [0.4, 0.6])
    assert agreement["drafts accepted"] == ([5, 10], [0.5, 0.7])
    (panel,) = [one for one in figures[0].axes if one.get_title() == "Held-out loss"]
    band = panel.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((0.6, 1.0))


@pytest.mark.parametrize(("measured", "num_panels"), [(True, 6), (False, 3)])
@pytest.mark.parametrize("num_points", [1, 2, 100])
def test_a_picture_of_any_number_of_points(
    metrics_path, tmp_path, measured, num_panels, num_points
):
    train(metrics_path, *range(1, num_points + 1))
    if measured:
        hold_out(metrics_path, 1)
    png_path = tmp_path / "curves.png"
    draw_curves(metrics_path, png_path)
    with Image.open(png_path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert picture.height == pytest.approx(picture.width / 3 * 0.77 * num_panels / 3, rel=0.02)
    assert [one.name for one in tmp_path.iterdir() if one.suffix != ".jsonl"] == ["curves.png"]


def test_no_training_no_picture(metrics_path, tmp_path):
    append_metrics(metrics_path, "samples", step=9, loss=9.0)
    draw_curves(metrics_path, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_steps_that_come_again_after_a_resume_are_drawn_once(metrics_path):
    train(metrics_path, 5, 10, loss=3.0)
    hold_out(metrics_path, 10, kl=0.8)
    train(metrics_path, 15, loss=2.5)
    train(metrics_path, 10, loss=2.9)
    hold_out(metrics_path, 10, kl=0.7)
    train(metrics_path, 15, 20, loss=2.0)
    found = read_curves(metrics_path)
    assert [(one["step"], one["loss"]) for one in found.training] == [
        (5, 3.0),
        (10, 2.9),
        (15, 2.0),
        (20, 2.0),
    ]
    assert [(one["step"], one["eval_kl_nats"]) for one in found.held_out] == [(10, 0.7)]


def test_a_training_begun_anew_replaces_a_longer_one(metrics_path):
    train(metrics_path, 1, 50, 100, loss=3.0)
    hold_out(metrics_path, 100)
    train(metrics_path, 1, 20, loss=1.0)
    found = read_curves(metrics_path)
    assert [one["step"] for one in found.training] == [1, 20]
    assert found.held_out == []


def test_a_line_that_was_cut_off_is_left_out(metrics_path):
    train(metrics_path, 1, 2)
    text = metrics_path.read_text()
    metrics_path.write_text(text + text.splitlines()[0][:30] + "\n")
    train(metrics_path, 3)
    assert [one["step"] for one in read_curves(metrics_path).training] == [1, 2, 3]


def test_own_answers_are_told_apart(metrics_path, tmp_path, figures):
    train(metrics_path, 1, 10)
    for step in (12, 14):
        append_metrics(metrics_path, "student", phase="on_policy", step=step, loss=0.2)
    draw_curves(metrics_path, tmp_path / "curves.png")
    loss = drawn(figures, "Training loss")
    assert loss["their mix"][0] == [1, 10]
    assert loss["divergence on its own answers"] == ([12, 14], [0.2, 0.2])
    assert [10, 10] in [steps for steps, _ in loss.values()]


def test_each_phase_ends_at_a_line(metrics_path, tmp_path, figures):
    train(metrics_path, 1, 10)
    train(metrics_path, 12, 14, phase="on_policy")
    train(metrics_path, 16, 20, phase="quantization_aware")
    draw_curves(metrics_path, tmp_path / "curves.png")
    (panel,) = [one for one in figures[0].axes if one.get_title() == "Learning rate"]
    lines = [line.get_xdata() for line in panel.lines if line.get_linestyle() == "--"]
    assert [list(one) for one in lines] == [[10, 10], [14, 14]]


def test_a_student_with_other_tokens_has_cross_entropy(metrics_path, tmp_path, figures):
    for step in (1, 2):
        append_metrics(metrics_path, "student", step=step, loss=2.0, ce_nats=2.0)
    measured = {"eval_nats_per_token": 1.9, "eval_nats_standard_error": 0.1}
    append_metrics(metrics_path, "student", step=2, eval_loss=1.9, **measured)
    draw_curves(metrics_path, tmp_path / "curves.png")
    assert drawn(figures, "Training loss") == {"cross-entropy": ([1, 2], [2.0, 2.0])}
    assert drawn(figures, "Held-out loss")["cross-entropy"] == ([2], [1.9])
    shown = {one.get_title() for one in figures[0].axes if one.get_visible()}
    assert "Held-out loss" in shown
    assert "Held-out agreement with the teacher" not in shown


def test_bounds_are_drawn_where_nothing_can_be_estimated(metrics_path, tmp_path, figures):
    train(metrics_path, 1)
    hold_out(metrics_path, 1, eval_acceptance_lower_bound=0.6)
    draw_curves(metrics_path, tmp_path / "curves.png")
    assert drawn(figures, "Held-out agreement with the teacher") == {
        "drafts accepted, at least": ([1], [0.6])
    }


def test_what_is_no_number_is_no_point(metrics_path, tmp_path, figures):
    train(metrics_path, 1, loss=2.0)
    train(metrics_path, 2, loss=math.nan)
    train(metrics_path, 3, loss=1.0)
    draw_curves(metrics_path, tmp_path / "curves.png")
    assert drawn(figures, "Training loss")["their mix"] == ([1, 3], [2.0, 1.0])


def test_unreadable_metrics_and_a_full_disk_are_clear_errors(metrics_path, tmp_path):
    with pytest.raises(ArtifactError, match="reading metrics"):
        draw_curves(metrics_path, tmp_path / "curves.png")
    metrics_path.write_text(json.dumps({"stage": "student", "step": 1, "loss": 1.0}) + "\n")
    with pytest.raises(ArtifactError, match="drawing the curves"):
        draw_curves(metrics_path, tmp_path / "absent" / "curves.png")
