"""How many prompts and votes a comparison needs, and what its judges cost."""

import io
import math

import pytest
from rich.console import Console

from benchmarks.verdict._exact import least_wins, pass_probability, reweighting
from compare import planning
from compare.config import CompareConfig
from compare.estimate import estimate
from compare.planning import plan_comparison
from compare.sizing import judges_price, needed, with_decider
from compare.verdict.figures import Estimate, Sensitivity
from compare.verdict.results import JudgeReport
from potstill.checkpoints import ModelShape
from potstill.errors import ConfigError
from potstill.pipeline import Choice
from potstill.plan import AskedTask, Workload
from potstill.rundir import RunDirectory
from potstill.verdict.outcome import Outcome
from potstill.verdict.sample_size import votes_for

SHAPE = ModelShape("LlamaForCausalLM", 1_000, 2, 64, 100, 128, 800)
PRICED = {
    "kind": "llm",
    "base_url": "https://judge.example/v1",
    "prompt_price": 2.0,
    "completion_price": 10.0,
}
JUDGED = JudgeReport(
    name="the teacher itself",
    kind="llm",
    claim="quality",
    model="m",
    decides=True,
    outcome=Outcome.INCONCLUSIVE,
    reason="",
    estimate=Estimate(
        scale="win rate",
        value=0.48,
        lower=0.42,
        upper=0.54,
        threshold=0.45,
        standard_error=0.05,
        num_pairs=40,
        num_clusters=40,
        tie_share=0.5,
    ),
    sensitivity=Sensitivity(value=0.7, lower=0.5, num_pairs=48),
)
CRITERIA = {"kind": "criteria", "criteria": ["a", "b"], "labels": "labels.jsonl"}


def need(num_references=0, has_metric=True, **changes):
    task = AskedTask(num_references=num_references, has_metric=has_metric)
    config = CompareConfig.model_validate(changes)
    return needed(config, workload(task))


def workload(task=None):
    return Workload(
        SHAPE,
        SHAPE,
        num_conversations=1000,
        prompt_tokens=50.0,
        completion_tokens=100.0,
        test_share=0.2,
        task=task or AskedTask(),
    )


def test_as_many_prompts_as_it_says_give_the_power_by_the_exact_test():
    found = need(plan={"tie_share": 0.3}, verdict={"margin": 0.1})
    assert found.num_prompts == 200
    alone = need(plan={"tie_share": 0.3}, verdict={"margin": 0.1}, num_prompts=50)
    assert (alone.num_prompts, alone.num_available) == (118, 50)
    least_N = least_wins(reweighting, alone.num_prompts, 0.4, 0.04)
    assert pass_probability(least_N, 0.5, 0.3) == pytest.approx(0.8, abs=0.04)
    assert alone.power_available == pytest.approx(0.33, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "judge", "num_prompts", "num_votes"),
    [
        ({}, "the teacher itself", 471, 471),
        ({"plan": {"tie_share": 1.0}}, "the teacher itself", 200, 50),
        ({"plan": {"tie_share": 0.0, "power": 0.9}}, "the teacher itself", 920, 920),
        ({"plan": {"cluster_size": 3.0}}, "the teacher itself", 565, 565),
        ({"plan": {"variance": 0.1}}, "the teacher itself", 310, 310),
        ({"judges": [{"kind": "votes", "path": "v.jsonl"}]}, "votes", 471, 471),
        ({"judges": [{"kind": "check"}]}, "check", 538, 0),
        ({"judges": [{"kind": "likelihood"}, CRITERIA]}, "criteria", 538, 144),
        ({"num_references": 600}, "metric", 538, 0),
        ({"num_references": 600, "plan": {"tie_share": 1.0}}, "metric", 63, 0),
        ({"num_references": 600, "has_metric": False}, "the teacher itself", 600, 471),
    ],
)
def test_what_a_verdict_needs_is_known_before_it(changes, judge, num_prompts, num_votes):
    found = need(**changes)
    assert (found.judge, found.num_prompts, found.num_votes) == (judge, num_prompts, num_votes)


def test_a_judge_of_known_sensitivity_saves_votes_on_more_prompts():
    assert votes_for(600, 600, 0.36) == 600
    assert votes_for(600, 1200, 0.36) == 469
    assert votes_for(600, math.inf, 0.36) == 384
    found = need(plan={"sensitivity": 0.6})
    assert (found.num_votes, found.votes_on_twice) == (471, 396)
    told = " ".join(found.sentences())
    assert "passes with probability 0.8 on 471 prompts with 471 of people's votes" in told
    assert "30% ties, sensitivity 0.6" in told
    assert "about 2.6 hours of people" in told
    assert "On 942 prompts 396 votes are enough" in told
    assert "asks 200 prompts, with which it passes with probability 0.33 if people vote" in told


def test_requests_to_judges_have_their_price():
    config = CompareConfig.model_validate({"judges": [PRICED], "assay": {"num_prompts": 10}})
    readings = 2 * (200 + 9 * 10)
    assert judges_price(config, workload()) == pytest.approx(
        readings * (600 * 2.0 + 40 * 10.0) / 1e6
    )
    criteria = PRICED | CRITERIA
    config = CompareConfig.model_validate({"judges": [criteria]})
    assert judges_price(config, workload()) == pytest.approx(
        2 * 2 * 200 * (500 * 2.0 + 40 * 10.0) / 1e6
    )
    cost, _ = estimate(config, workload())
    assert cost.price == judges_price(config, workload())
    assert any("judge: criteria" in note for note in cost.notes)


def test_the_judge_is_chosen_by_name_or_kind():
    config = CompareConfig.model_validate({"judges": [PRICED, {"kind": "check", "name": "mine"}]})
    assert [one.name for one in with_decider(config, "check").judges] == ["mine", "llm"]
    assert with_decider(CompareConfig(), "llm").judges[0].name == "the teacher itself"
    with pytest.raises(ConfigError, match="no judge 'human' can decide") as raised:
        with_decider(config, "human")
    assert raised.value.expected == "one of metric, llm, mine"


def printed(found):
    file = io.StringIO()
    Console(width=200, file=file).print(found)
    return file.getvalue()


def test_a_plan_takes_what_a_finished_comparison_found(tmp_path, monkeypatch, make_report):
    monkeypatch.setattr(planning, "measure_machine", lambda _: None)
    run_directory = RunDirectory(tmp_path / "run")
    choice = Choice(preset="small", overrides=("compare.verdict.margin=0.1",))
    assert "on 118 prompts" in printed(plan_comparison(choice, run_directory, None))
    monkeypatch.setattr(RunDirectory, "is_finished", lambda _, name: name == "comparison")
    path = run_directory.stage_dir("comparison")
    path.mkdir(parents=True)
    (path / "report.json").write_text(make_report(judges=(JUDGED,)).model_dump_json())
    found = printed(plan_comparison(choice, run_directory, None))
    assert "variance 0.1 for each prompt, sensitivity 0.5" in found
    assert "on 78 prompts with 78 of people's votes" in found
    given = Choice(preset="small", overrides=(*choice.overrides, "compare.plan.tie_share=0.3"))
    assert "30% ties, sensitivity 0.5" in printed(plan_comparison(given, run_directory, None))
