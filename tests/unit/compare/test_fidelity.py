import numpy as np
import pytest

from compare.fidelity import log_softmax, student_rows
from potstill.fidelity import TeacherRows, bucket_kl_nats

VOCAB_SIZE = 7
PROMPT = [1, 2, 3]
COMPLETION = [4, 0, 6, 5, 2]


class Logits:
    """Gives each position logits of its own, in chunks of two."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.all_TV = generator.normal(size=(len(PROMPT) + 4, VOCAB_SIZE)).astype(np.float32)
        self.seen: list[int] = []

    def logits(self, token_ids, start):
        self.seen = list(token_ids)
        for offset in range(start, len(token_ids), 2):
            yield self.all_TV[offset : min(offset + 2, len(token_ids))]


def ragged_row() -> dict:
    """Rows of one, two or three stored log-probabilities."""
    return {
        "completion_token_ids": COMPLETION,
        "num_top_logprobs": [2, 1, 3, 2, 1],
        "top_token_ids": [4, 1, 0, 6, 2, 3, 5, 4, 2],
        "top_logprobs": np.log([0.5, 0.3, 0.9, 0.4, 0.3, 0.2, 0.6, 0.1, 0.7]).tolist(),
    }


def test_rows_match_a_loop_over_tokens():
    model, teacher = Logits(), TeacherRows.from_row(ragged_row())
    student = student_rows(model, PROMPT, teacher)
    assert model.seen == [*PROMPT, *COMPLETION[:-1]]
    kl = bucket_kl_nats(teacher, student)
    stored = iter(zip(ragged_row()["top_token_ids"], ragged_row()["top_logprobs"], strict=True))
    for t, count in enumerate(ragged_row()["num_top_logprobs"]):
        logits_V = model.all_TV[len(PROMPT) - 1 + t].astype(np.float64)
        q_V = np.exp(logits_V) / np.exp(logits_V).sum()
        assert student.sampled_logprobs_T[t] == pytest.approx(np.log(q_V[COMPLETION[t]]))
        assert student.argmax_ids_T[t] == q_V.argmax()
        kept = [next(stored) for _ in range(count)]
        p = np.exp([logprob for _, logprob in kept])
        q = q_V[[token_id for token_id, _ in kept]]
        tail = (1 - p.sum()) * np.log((1 - p.sum()) / (1 - q.sum()))
        assert kl[t] == pytest.approx((p * np.log(p / q)).sum() + tail)


def test_log_softmax_stands_large_logits():
    logprobs_TV = log_softmax(np.array([[1e4, 0.0, -1e4]], dtype=np.float32))
    assert logprobs_TV.tolist() == [[0.0, -1e4, -2e4]]
