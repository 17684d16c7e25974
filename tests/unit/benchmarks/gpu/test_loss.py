import pytest

from benchmarks.gpu import _loss
from benchmarks.gpu._loss import Sizes, cost


@pytest.mark.parametrize("error", [ImportError("no package"), RuntimeError("no compiler\nat all")])
def test_a_peer_that_cannot_run_leaves_the_others_their_rows(error, monkeypatch):
    def fail():
        raise error

    monkeypatch.setitem(_loss.PEERS, "TRL", fail)
    sizes = Sizes((100,), 8, 4, (8, 16), top_k=4, rounds=1, peers=("TRL", "potstill"))
    rows = {row.name: row.value for row in cost("cpu", sizes)}
    assert list(rows) == [
        f"loss of {number} tokens, {peer}" for number in (8, 16) for peer in ("TRL", "potstill")
    ]
    assert rows["loss of 8 tokens, TRL"] == f"not run: {str(error).splitlines()[0]}"
    assert "MB" in rows["loss of 16 tokens, potstill"]
