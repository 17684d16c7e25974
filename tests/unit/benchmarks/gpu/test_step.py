import pytest

from benchmarks.gpu import _step
from benchmarks.gpu._step import mfu_rows
from potstill.cards import CARDS, Cards


@pytest.mark.parametrize("here", [None, Cards("H100", 1)])
def test_the_target_is_of_the_datasheet_where_the_card_is_known(here, monkeypatch):
    peak = CARDS["H100"].bfloat16_flops
    monkeypatch.setattr(_step, "peak_flops", lambda _device: 0.8 * peak)
    monkeypatch.setattr(_step.Cards, "of", lambda _config: here)
    rows = list(mfu_rows("a step", 0.4 * peak, "cuda", 0.45))
    assert rows[0].value == "50%"
    assert [row.good for row in rows] == ([True] if here is None else [None, False])
    assert [row.name for row in rows][1:] == ["a step: MFU of datasheet of H100"] * bool(here)
    assert all(row.good is None for row in mfu_rows("a step", 1.0, "cuda"))
