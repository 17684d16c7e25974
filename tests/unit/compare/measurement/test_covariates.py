import math

import pytest

from compare.measurement import covariates
from compare.measurement.covariates import read_covariates
from potstill.schema import REFERENCES
from potstill.tables import read_conversation_batches


def test_prompts_of_all_splits_have_their_length_and_the_teachers_certainty(
    tmp_path, make_conversation, write_conversations, monkeypatch
):
    made = [
        make_conversation(
            [1, 2, 3, 4, 5], [(3, 2)], name=f"p{n}", split=split, sampled_logprobs=[-1.0, -n]
        )
        for n, split in enumerate(["train", "validation", "test"])
    ]
    again = make_conversation([1, 2], [(1, 1)], name="p0", split="train", answer_index=1)
    known = make_conversation(name="r0", split="test", source=REFERENCES)
    write_conversations(tmp_path, [*made, again, known])
    found = read_covariates(tmp_path, {"p2"}, of_references=False)
    assert found.keys() == {"p0", "p1", "p2"}
    assert found["p1"] == (pytest.approx(math.log(3)), pytest.approx(-1.0))
    assert found["p2"] == (pytest.approx(math.log(3)), pytest.approx(-1.5))
    assert found["p0"][1] == pytest.approx(-0.5)
    assert read_covariates(tmp_path, set(), of_references=True).keys() == {"r0"}

    def no_signal(path, columns):
        assert "sampled_logprobs" not in columns
        return read_conversation_batches(path, columns)

    monkeypatch.setattr(covariates, "read_conversation_batches", no_signal)
    assert read_covariates(tmp_path, {"r0"}, of_references=True) == {}
    assert read_covariates(tmp_path, {"p0", "unknown"}, of_references=False) == {}
