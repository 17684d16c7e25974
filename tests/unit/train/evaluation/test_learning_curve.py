from tests.fixtures.facts import curve_facts
from train.evaluation.learning_curve import draw_learning_curve


def test_a_curve_is_a_picture(tmp_path):
    path = tmp_path / "curve.png"
    draw_learning_curve(curve_facts(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000
    assert list(tmp_path.iterdir()) == [path]
