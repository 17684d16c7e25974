"""A model's logits meet the teacher's stored rows, token by token and turn by turn."""

import numpy as np
import pytest

from compare.measurement import fidelity
from compare.measurement.fidelity import student_rows
from potstill.divergences import TeacherRows, bucket_kl_nats

VOCAB_SIZE = 7
TOKEN_IDS = [1, 2, 3, 4, 0, 6, 5, 2, 1, 4, 3]
ONE_ANSWER = [(3, 5)]
TWO_ANSWERS = [(3, 2), (8, 3)]
ENTRIES = [
    [(4, 0.5), (1, 0.3)],
    [(0, 0.9)],
    [(6, 0.4), (2, 0.3), (3, 0.2)],
    [(5, 0.6), (4, 0.1)],
    [(2, 0.7)],
]


class Logits:
    """Gives each position logits of its own, in chunks."""

    def __init__(self, chunk: int) -> None:
        generator = np.random.default_rng(0)
        self.all_LV = generator.normal(size=(len(TOKEN_IDS), VOCAB_SIZE)).astype(np.float32)
        self.seen: list[int] = []
        self._chunk = chunk

    def logits(self, token_ids, start):
        self.seen = list(token_ids)
        for offset in range(start, len(token_ids), self._chunk):
            yield self.all_LV[offset : min(offset + self._chunk, len(token_ids))]


@pytest.mark.parametrize("chunk", [1, 2, 3, 64])
@pytest.mark.parametrize("turns", [ONE_ANSWER, TWO_ANSWERS])
def test_rows_match_a_loop_over_the_answers_tokens(monkeypatch, make_conversation, turns, chunk):
    monkeypatch.setattr(fidelity, "NUM_LOWEST", 3)
    conversation = make_conversation(TOKEN_IDS, turns, entries=ENTRIES)
    model, teacher = Logits(chunk), TeacherRows.of(conversation)
    student = student_rows(model, conversation, teacher)
    positions = [start + t for start, length in turns for t in range(length)]
    assert model.seen == TOKEN_IDS[: positions[-1]]
    kl_T = bucket_kl_nats(teacher, student)
    assert len(kl_T) == len(student.sampled_logprobs_T) == len(positions)
    for t, (position, stored) in enumerate(zip(positions, ENTRIES, strict=True)):
        logits_V = model.all_LV[position - 1].astype(np.float64)
        q_V = np.exp(logits_V) / np.exp(logits_V).sum()
        assert student.sampled_logprobs_T[t] == pytest.approx(np.log(q_V[TOKEN_IDS[position]]))
        assert student.argmax_ids_T[t] == q_V.argmax()
        assert student.max_logprobs_T[t] == pytest.approx(np.log(q_V.max()))
        assert student.lowest_logprobs_TN[t] == pytest.approx(np.log(np.sort(q_V)[:3]))
        p = np.array([probability for _, probability in stored])
        q = q_V[[token_id for token_id, _ in stored]]
        tail = (1 - p.sum()) * np.log((1 - p.sum()) / (1 - q.sum()))
        assert kl_T[t] == pytest.approx((p * np.log(p / q)).sum() + tail, abs=1e-6)
