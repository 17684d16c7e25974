"""What is refused before anything is loaded."""

import pytest
from pydantic import ValidationError

from potstill.errors import ConfigError
from serve.experiment.config import CascadeConfig, ExperimentConfig
from serve.experiment.construction import check_names

from .conftest import split


def test_a_cascade_may_be_a_variant():
    variants = {"both": {"weight": 1}, "teacher": {"weight": 1}}
    one = ExperimentConfig.model_validate({"variants": variants, "student": "both"})
    check_names({"both": CascadeConfig()}, {"assistant": one}, ["student", "teacher"])


@pytest.mark.parametrize(
    ("cascades", "experiments", "match"),
    [
        ({}, {"e": split()}, r"'teacher' is not served(.|\n)*serve\.experiments\.e"),
        ({"c": CascadeConfig()}, {}, r"'teacher' is not served(.|\n)*serve\.cascades\.c"),
        ({"student": CascadeConfig(teacher="other")}, {}, "'student' is used twice"),
    ],
)
def test_models_that_are_not_served_and_names_that_are_taken(cascades, experiments, match):
    with pytest.raises(ConfigError, match=match):
        check_names(cascades, experiments, ["student", "other"])


@pytest.mark.parametrize(
    "table",
    [
        {"variants": {"student": {"weight": 1}}},
        {"variants": {"student": {"weight": 1}, "other": {"weight": 1}}},
        {"variants": {"student": {"weight": 0}, "teacher": {"weight": 0}}},
        {"variants": {"student": {"weight": -1}, "teacher": {"weight": 1}}},
        {"variants": {"student": {"weight": 1}, "teacher": {"weight": 1}}, "teacher": "student"},
    ],
)
def test_a_split_that_means_nothing_is_refused(table):
    with pytest.raises(ValidationError):
        ExperimentConfig.model_validate(table)


def test_a_rule_that_is_not_a_regular_expression_is_refused():
    with pytest.raises(ValidationError, match="not a regular expression"):
        CascadeConfig(answer_pattern="(")
