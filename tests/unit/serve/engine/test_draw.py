"""Draws by temperature and top-p, against the formulas in float64."""

import numpy as np
import pytest

from serve.engine.draw import BLOCK, Draw

NUM_DRAWS = 5_000


def reference(logits: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """The distribution to draw from."""
    weights = np.exp((logits - logits.max()).astype(np.float64) / temperature)
    p = weights / weights.sum()
    order = np.argsort(-p, kind="stable")
    kept = order[: int((p[order].cumsum() < top_p).sum()) + 1]
    cut = np.zeros_like(p)
    cut[kept] = p[kept]
    return cut / cut.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("scale", [0.05, 4.0])
def test_draws_have_the_frequencies_of_the_formula(temperature, top_p, scale):
    rng = np.random.default_rng(0)
    logits = (scale * rng.normal(size=3 * BLOCK + 5)).astype(np.float32)
    expected = reference(logits, temperature, top_p)
    draw, best = Draw(temperature, top_p, 7), int(logits.argmax())
    found = np.bincount(
        [draw.choose(logits, best) for _ in range(NUM_DRAWS)], minlength=len(logits)
    )
    assert not found[expected == 0].any()
    likely = expected * NUM_DRAWS >= 5
    pooled = [*found[likely], found[~likely].sum()], [*expected[likely], expected[~likely].sum()]
    counts, shares = (np.array(values, dtype=float) for values in pooled)
    degrees = max(1, (shares > 0).sum() - 1)
    chi_squared = ((counts - NUM_DRAWS * shares) ** 2)[shares > 0] / (
        NUM_DRAWS * shares[shares > 0]
    )
    assert chi_squared.sum() < degrees + 5 * np.sqrt(2 * degrees) + 5


def test_forbidden_tokens_are_not_drawn_and_a_seed_repeats():
    logits = np.full(2 * BLOCK, -np.inf, np.float32)
    logits[[3, 300]] = 1.0
    one, other = ([Draw(1.0, 1.0, seed).choose(logits, 3) for seed in range(20)] for _ in range(2))
    assert one == other
    assert set(one) == {3, 300}
