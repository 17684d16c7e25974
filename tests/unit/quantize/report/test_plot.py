import pytest
from matplotlib.figure import Figure

from quantize.report.plot import LOWEST_KL_NATS, draw_quality


@pytest.fixture
def drawn(files, tmp_path, monkeypatch):
    """The picture's bytes, and the panel that was drawn."""
    panels = []
    save = Figure.savefig

    def keep(self, *args, **kwargs):
        panels.append(self.axes[0])
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    draw_quality(files, "student-Q4_K_M", tmp_path / "quality.png")
    return (tmp_path / "quality.png").read_bytes(), panels[0]


def test_every_file_is_named_in_the_picture(drawn):
    content, panel = drawn
    assert content.startswith(b"\x89PNG")
    assert [text.get_text() for text in panel.texts] == ["F16", "Q8_0", "Q4_K_M", "F16"]
    assert panel.get_yscale() == "log"


def test_the_front_of_each_model_is_a_line_from_small_to_large(drawn):
    _, panel = drawn
    lines = {line.get_label(): line for line in panel.lines}
    student, teacher = (lines[f"{role}: Pareto front"] for role in ("student", "teacher"))
    assert student.get_xdata().tolist() == [89.0, 270.0]
    assert student.get_ydata().tolist() == [0.071, LOWEST_KL_NATS]
    assert teacher.get_xdata().tolist() == [300.0]


def test_the_recommended_file_is_a_star(drawn):
    _, panel = drawn
    stars = [line for line in panel.lines if line.get_marker() == "*"]
    assert [line.get_xdata().tolist() for line in stars] == [[89.0]]
