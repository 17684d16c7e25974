import numpy as np
import pytest
from scipy.integrate import quad

from potstill.errors import ConfigError, PotstillError
from serve.experiment.rate_guardrail import ANSWERS_PER_START, RateGuardrail


def _answers_until_alarm(guardrail, bad, most):
    for row in range(most):
        if guardrail.update(int(bad()), 1):
            return row + 1
    return None


def test_the_first_test_is_the_mixture_of_likelihood_ratios():
    guardrail = RateGuardrail(limit=0.05)
    guardrail.update(4, 30)

    def prior(rate):
        return rate**-0.5 * (1 - rate) ** -0.5

    def likelihood(rate):
        return rate**4 * (1 - rate) ** 26

    above, _ = quad(lambda rate: prior(rate) * likelihood(rate), 0.05, 1)
    mixture = above / quad(prior, 0.05, 1)[0] / likelihood(0.05)
    assert guardrail.e_value == pytest.approx(mixture / 2 + 1 / 2)


def test_a_rate_at_its_limit_raises_few_alarms_at_all_looks_together():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(150):
        guardrail = RateGuardrail(limit=0.05, alpha=0.1)
        alarms += any(guardrail.update(bad, 40) for bad in rng.binomial(40, 0.05, 100).tolist())
    # Standard error of the share at 0.1: 0.025.
    assert alarms / 150 <= 0.15


@pytest.mark.parametrize("quiet", [0, 1000, 20_000])
def test_a_break_down_is_found_within_a_few_answers_however_long_all_was_well(quiet):
    guardrail = RateGuardrail(limit=0.05)
    for _ in range(quiet // ANSWERS_PER_START):
        assert not guardrail.update(1, ANSWERS_PER_START)
    assert _answers_until_alarm(guardrail, lambda: True, 100) <= 15


def test_a_doubled_rate_is_found():
    rng = np.random.default_rng(1)
    guardrail = RateGuardrail(limit=0.05)
    found = _answers_until_alarm(guardrail, lambda: rng.random() < 0.10, 5000)
    assert found is not None


def test_a_million_good_answers_are_no_evidence():
    guardrail = RateGuardrail(limit=0.05)
    guardrail.update(1000, 1_000_000)
    assert guardrail.e_value == pytest.approx(0.5)
    assert not guardrail.alarm


def test_an_alarm_stays():
    guardrail = RateGuardrail(limit=0.05)
    assert guardrail.update(20, 20)
    assert guardrail.update(0, 10_000)


def test_unsupported_guarantees_are_refused():
    with pytest.raises(ConfigError, match="limit"):
        RateGuardrail(limit=0.0)
    with pytest.raises(ConfigError, match="alpha"):
        RateGuardrail(limit=0.1, alpha=1.0)
    with pytest.raises(PotstillError, match="3 of 2"):
        RateGuardrail(limit=0.1).update(3, 2)
