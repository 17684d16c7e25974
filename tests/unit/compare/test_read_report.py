"""A finished comparison's report is read again."""

import json

import pytest

from compare.comparison import read_report
from potstill.errors import ArtifactError


@pytest.fixture
def path(tmp_path, report):
    path = tmp_path / "report.json"
    path.write_text(report.model_dump_json())
    return path


def test_a_report_comes_back_as_it_was_written(path, report):
    assert read_report(path) == report


def test_checks_of_an_earlier_version_are_read(path):
    content = json.loads(path.read_text())
    judge = {"name": "a", "kind": "llm", "claim": "quality", "decides": True, "reason": "?"}
    described = "share of readings that call identical answers equal, at least"
    check = {"name": "readable", "passed": False, "value": 0.0, "limit": 0.8, "detail": described}
    kept = {
        "model": None,
        "estimate": None,
        "outcome": "INVALID_JUDGE",
        "checks": [check],
        "controls": [],
    }
    content["verdict"]["judges"] = [judge | kept]
    path.write_text(json.dumps(content))
    (found,) = read_report(path).verdict.judges[0].checks
    assert found.relation == "at least"
    assert found.detail == "share of readings that call identical answers equal"
    assert found.passed is False


def test_a_report_of_another_form_is_refused_by_name(path):
    content = json.loads(path.read_text())
    content["verdict"]["margins"] = 3
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="another version") as caught:
        read_report(path)
    assert caught.value.where == path
    assert "verdict.margins" in caught.value.found
    assert "--force" in caught.value.hint
