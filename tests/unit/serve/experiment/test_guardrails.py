"""Whose bad answers count."""

from serve.experiment.config import GuardrailsConfig
from serve.experiment.guardrails import FREE_EVENTS, ExperimentGuardrails
from serve.storage.records import AnswerRecord


def record(outcome: str) -> AnswerRecord:
    return AnswerRecord(
        id="1", model="student", created=0.0, seconds=0.1, outcome=outcome, messages=(),
        conversation="c", prompt="p",
    )  # fmt: skip


def breach(*answers: tuple[str, str]) -> str | None:
    """Return what answers of keys breach: pairs of a key and an outcome."""
    guardrails = ExperimentGuardrails(GuardrailsConfig())
    found = [guardrails.update(record(outcome), owner) for owner, outcome in answers]
    return next((one for one in found if one), None)


GOOD, BAD = ("alice", "whole"), ("bob", "failed")


def test_one_key_of_many_cannot_end_an_experiment_by_failures():
    assert breach(*[GOOD] * 300, *[BAD, GOOD] * 100) is None


def test_failures_of_all_keys_count():
    all_fail = [("alice", "failed"), BAD]
    assert breach(*[GOOD] * 100, *all_fail * (10 * FREE_EVENTS)) == "error_rate"


def test_failures_of_the_only_key_or_the_one_with_most_answers_count():
    assert breach(*[BAD] * 40) == "error_rate"
    assert breach(*[GOOD] * 10, *[BAD] * 40) == "error_rate"
