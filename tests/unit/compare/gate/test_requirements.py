"""The gate: rows of requirements, and the verdict of all of them."""

import pytest
from pydantic import ValidationError

from compare.answers.answers import by_role
from compare.config import CompareConfig
from compare.gate.asking import asked_by, role_of
from compare.gate.decision import gated, outcome_of
from compare.gate.defaults import check_gate_is_measurable, default_gate, with_former
from compare.gate.evidence import Evidence
from compare.gate.suites import SUITES
from compare.verdict.figures import Estimate, HumanCorrected
from compare.verdict.intervals import mean_interval
from compare.verdict.results import GateRow, JudgeReport
from potstill.errors import ConfigError
from potstill.facts.memorization import CanaryFigures, Completions, Memorization, Share
from potstill.task.metrics.config import LabelConfig
from potstill.task.task import Task
from potstill.verdict.outcome import Outcome

from ..answering import answered
from ..conftest import ask_about, verdict

PASS, FAIL, OPEN, INVALID = Outcome
TASK = Task(
    answer_schema='{"enum": ["odd", "even"]}', metrics=(LabelConfig(name="right"),), references=()
)
QUESTIONS = [ask_about(number) for number in range(300)]
DECIDES = {"kind": "metric"}


def judge(lower=-0.01, outcome=PASS, num_pairs=300, **changes):
    estimate = Estimate(
        scale="difference", value=0.0, lower=lower, upper=0.02, threshold=-0.05,
        standard_error=0.01, num_pairs=num_pairs, num_clusters=num_pairs, tie_share=0.9,
    )  # fmt: skip
    values = {"name": "right", "decides": True, "estimate": estimate, "outcome": outcome}
    common = {"kind": "metric", "claim": "quality", "model": None, "reason": "so"}
    return JudgeReport(**common | values | changes)


def suite_answers(name, num_wrong, who="student", wrong="x", right="{}", **changes):
    """The student's answers to a suite; `right` and `wrong` may have the known answer's place."""
    found = []
    for index, one in enumerate(SUITES[name].questions()):
        text = wrong if index < num_wrong else right
        known = one.known.text if one.known else ""
        is_cut = name == "stopping" and index < num_wrong
        reason = "length" if is_cut else "stop"
        found.append(
            answered(
                one, text.replace("{}", known), role_of(name, who), finish_reason=reason, **changes
            )
        )
    return found


def judged(
    gate,
    *answers,
    judges=None,
    dollars=None,
    clusters=None,
    shared_level=None,
    former=None,
    memorization=None,
):
    """The verdict of a gate on what a comparison found."""
    judges = (judge(),) if judges is None else judges
    decider = judges[0] if judges else None
    plain = verdict(
        outcome=decider.outcome if decider else INVALID,
        decided_by=decider.name if decider else None,
        judges=judges,
        num_prompts=len(QUESTIONS),
        shared_level=shared_level,
    )
    config = CompareConfig(gate=gate, temperature=0.0)
    everything = by_role(one for several in answers for one in several)
    found = Evidence(config, TASK, plain, everything, clusters or {}, dollars, former, memorization)
    return gated(found)


def row(requirement, *answers, **found):
    return judged([DECIDES, requirement], *answers, **found).gate[1]


def pairs(student, teacher, **changes):
    """Answers of both to the comparison's own prompts."""
    texts = {"student": student, "teacher": teacher}
    return [
        answered(question, text(index), role, **changes)
        for role, text in texts.items()
        for index, question in enumerate(QUESTIONS)
    ]


@pytest.mark.parametrize(("num_wrong", "outcome"), [(0, PASS), (4, PASS), (5, OPEN), (40, FAIL)])
def test_a_suite_with_a_limit_is_the_exact_binomial_test(num_wrong, outcome):
    from scipy.special import betaincinv

    found = row({"kind": "suite", "suite": "stopping"}, suite_answers("stopping", num_wrong))
    assert (found.outcome, found.num_items, found.threshold) == (outcome, 200, 0.95)
    assert found.value == 1 - num_wrong / 200
    assert found.lower == pytest.approx(betaincinv(200 - num_wrong, num_wrong + 1, 0.05), abs=1e-5)


def test_a_suite_against_the_student_before_training_is_a_difference_on_the_same_items():
    requirement = {"kind": "suite", "suite": "arithmetic"}
    before = suite_answers("arithmetic", 100, "untrained")
    same = row(requirement, before, suite_answers("arithmetic", 100))
    assert (same.outcome, same.value, same.threshold) == (PASS, 0.0, -0.05)
    forgot = row(requirement, before, suite_answers("arithmetic", 150))
    assert (forgot.outcome, forgot.value) == (FAIL, -0.25)
    assert "less the student before training" in forgot.measured
    alone = row(requirement, suite_answers("arithmetic", 0))
    assert (alone.outcome, alone.value) == (OPEN, None)
    assert "no file of the student before training" in alone.note


def test_another_margin_passes_no_judge_of_criteria_without_labels():
    requirement = {"kind": "metric", "metric": "said", "margin": 0.2}
    said = {"name": "said", "kind": "criteria", "decides": False, "outcome": OPEN, "alone": PASS}
    found = row(requirement, judges=(judge(), judge(**said)))
    assert (found.outcome, found.note) == (OPEN, "so")
    by_labels = HumanCorrected(
        rate=-0.1, lower=-0.15, upper=-0.05, num_human_votes=90, num_judged=300, outcome=OPEN
    )
    labeled = row(requirement, judges=(judge(), judge(**said, human_corrected=by_labels)))
    assert (labeled.outcome, labeled.value, labeled.threshold) == (PASS, -0.1, -0.2)


def test_a_schema_is_kept_as_often_as_by_the_teacher():
    requirement = {"kind": "schema"}

    def valid(_index):
        return '"odd"'

    assert row(requirement, pairs(valid, valid)).outcome is PASS
    broken = pairs(lambda index: '"neither"' if index < 30 else '"odd"', valid)
    found = row(requirement, broken)
    assert (found.outcome, found.value) == (FAIL, pytest.approx(-0.1))
    assert row(requirement, pairs(lambda _: "odd", lambda _: "odd")).outcome is PASS, "both invalid"


def test_refusals_are_of_the_comparisons_own_prompts():
    def polite(index):
        return '{"reply": "I\'m sorry, I can\'t help with that."}' if index % 10 == 0 else "odd"

    assert row({"kind": "refusals"}, pairs(polite, polite)).outcome is PASS
    assert row({"kind": "refusals"}, pairs(polite, lambda _: "odd")).outcome is FAIL


def test_latency_and_length_are_shares_of_answers():
    answers = pairs(lambda _: "four", lambda _: "words", seconds=2.0)
    outcomes = {
        seconds: row({"kind": "latency", "seconds": seconds}, answers) for seconds in (1, 3)
    }
    assert [one.outcome for one in outcomes.values()] == [FAIL, PASS]
    untimed = [one.model_copy(update={"seconds": None}) for one in answers]
    assert row({"kind": "latency", "seconds": 3}, untimed).note == "not measured"
    long = pairs(lambda _: "far too long", lambda _: "short")
    assert row({"kind": "length"}, answers).outcome is PASS
    assert row({"kind": "length"}, long).outcome is FAIL
    assert row({"kind": "length", "ratio": 3.0}, long).outcome is PASS


@pytest.mark.parametrize(("dollars", "outcome"), [(None, OPEN), (0.5, PASS), (0.51, FAIL)])
def test_a_cost_is_one_number(dollars, outcome):
    found = row({"kind": "cost", "dollars": 0.5}, dollars=dollars)
    assert (found.outcome, found.value, found.lower) == (outcome, dollars, None)


MEMORIZATION = {"kind": "memorization"}


def memorized(surplus=(0.0, -0.03, 0.03), num_answers=100, **changes):
    share = Share(value=surplus[0], lower=surplus[1], upper=surplus[2])
    known = {"trained": Completions(num_answers=num_answers, share=share), "surplus": share}
    return Memorization(**{"min_tokens": 20, "num_distinct": 900} | known | changes)


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (memorized(), PASS),
        (memorized((0.03, 0.01, 0.08)), OPEN),
        (memorized((0.2, 0.1, 0.3)), FAIL),
        (memorized(num_answers=49), OPEN),
        (Memorization(min_tokens=20, num_distinct=0), OPEN),
        (None, OPEN),
    ],
)
def test_a_surplus_of_verbatim_completions_is_bounded_from_above(found, outcome):
    result = row(MEMORIZATION, memorization=found)
    assert (result.outcome, result.threshold, result.required) == (outcome, -0.05, False)
    if found is not None and found.surplus is not None:
        assert (result.value, result.upper) == (-found.surplus.value, -found.surplus.lower)
    else:
        assert result.note


def test_what_is_memorized_decides_only_where_it_is_required():
    found = memorized((0.2, 0.1, 0.3))
    assert judged([DECIDES, MEMORIZATION], memorization=found).outcome is PASS
    strict = [DECIDES, MEMORIZATION | {"required": True}]
    assert judged(strict, memorization=found).outcome is FAIL
    assert judged(strict).outcome is OPEN


@pytest.mark.parametrize(("num_verbatim", "outcome"), [(0, PASS), (1, FAIL)])
def test_a_canary_that_is_completed_fails_the_requirement(num_verbatim, outcome):
    canaries = CanaryFigures(
        num_candidates=128, exposures_bits=(7.0, 0.5), num_verbatim=num_verbatim, p_value=0.1
    )
    found = row(MEMORIZATION, memorization=memorized(canaries=canaries))
    assert found.outcome is outcome
    assert found.note == f"{num_verbatim} of 2 canaries completed, mean exposure 3.8 bits"


def test_clusters_of_the_comparison_are_kept():
    answers = pairs(lambda index: '"odd"' if index % 50 else '"no"', lambda _: '"odd"')
    alone = row({"kind": "schema"}, answers)
    twins = {one.prompt_id: str(number // 10) for number, one in enumerate(QUESTIONS)}
    assert row({"kind": "schema"}, answers, clusters=twins).lower < alone.lower


def test_several_comparisons_of_a_student_share_alpha_but_for_suites():
    """The prompts of another comparison may be others, a suite is the same."""
    own = {one.prompt_id: one.prompt_id for one in QUESTIONS}
    answers = pairs(lambda _: "four", lambda _: "four", seconds=1.0)
    suite = suite_answers("stopping", 4)

    def error_rate(level):
        gate = [{"kind": "latency", "seconds": 2}, {"kind": "suite", "suite": "stopping"}]
        found = judged([DECIDES, *gate], answers, suite, clusters=own, shared_level=level)
        latency, stopping = found.gate[1:]
        assert stopping.lower == pytest.approx(0.9548, abs=1e-4)
        return latency.lower ** len(QUESTIONS)  # without a miss, that of Clopper and Pearson

    errors = [error_rate(level) for level in (None, 0.0025)]
    assert errors == pytest.approx([0.04, 0.0025], rel=1e-3)


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        ({"judges": (judge(),)}, PASS),
        ({"judges": (judge(outcome=FAIL),)}, FAIL),
        ({"judges": (judge(num_pairs=199),)}, OPEN),
        ({"judges": (judge(outcome=FAIL, num_pairs=199),)}, FAIL),
        ({"judges": (judge(outcome=INVALID, estimate=None),)}, INVALID),
        ({"judges": ()}, INVALID),
    ],
)
def test_the_metric_that_decides_keeps_its_outcome_but_for_too_few_items(found, outcome):
    assert judged([DECIDES], **found).outcome is outcome


def test_another_metric_has_a_margin_of_its_own():
    other = judge(name="style", decides=False, lower=-0.2, outcome=OPEN)
    judges = (judge(), other)
    outcomes = [
        row({"kind": "metric", "metric": "style", "margin": margin}, judges=judges).outcome
        for margin in (0.1, 0.25)
    ]
    assert outcomes == [OPEN, PASS]
    assert row({"kind": "metric", "metric": "style"}, judges=judges).outcome is OPEN


@pytest.mark.parametrize(
    ("outcomes", "outcome"),
    [
        ((PASS, PASS), PASS),
        ((PASS, OPEN), OPEN),
        ((PASS, FAIL), FAIL),
        ((OPEN, FAIL), FAIL),
        ((INVALID, OPEN), INVALID),
        ((INVALID, FAIL), FAIL),
    ],
)
def test_all_must_pass(outcomes, outcome):
    rows = tuple(
        GateRow(name=str(index), measured="", required=True, outcome=one)
        for index, one in enumerate(outcomes)
    )
    optional = GateRow(name="optional", measured="", required=False, outcome=FAIL)
    assert outcome_of(verdict(gate=(*rows, optional))) is outcome


def test_what_is_not_required_is_only_reported():
    requirement = {"kind": "suite", "suite": "stopping", "required": False}
    found = judged([DECIDES, requirement], suite_answers("stopping", 100))
    assert (found.outcome, found.gate[1].outcome, found.missed) == (PASS, FAIL, [])


def test_a_student_that_misses_one_requirement_passes_with_at_most_alpha():
    """Exactly: at the limit of one suite, with all others perfect, and at the limit of two."""
    from scipy.special import bdtrc

    def passes(num_right):
        found = mean_interval([1.0] * num_right + [0.0] * (200 - num_right), alpha=0.05)
        return found.lower > 0.95

    fewest = next(number for number in range(190, 201) if passes(number))
    missed = bdtrc(fewest - 1, 200, 0.95)
    assert 0.01 < missed <= 0.05
    assert missed**2 < 0.05, "independent suites, both missed"


def test_without_a_gate_the_judge_decides():
    plain = verdict(outcome=PASS, judges=(judge(),))
    assert gated(Evidence(CompareConfig(), None, plain, {}, {}, None)) is plain


@pytest.mark.parametrize(
    ("gate", "problem"),
    [
        ([], "an empty gate would pass every student"),
        ([{"kind": "schema"}], "is not required"),
        ([DECIDES | {"required": False}], "is not required"),
        ([DECIDES, {"kind": "schema"}, {"kind": "schema"}], "same requirement twice"),
        ([DECIDES | {"margin": 0.1}], "is compare.verdict.margin"),
        (
            [DECIDES, {"kind": "suite", "suite": "json", "at_least": 0.5, "against": "teacher"}],
            "not both",
        ),
        ([DECIDES, {"kind": "suite", "suite": "poetry"}], "stopping"),
        ([DECIDES, {"kind": "latency"}], "seconds"),
    ],
)
def test_a_gate_that_stops_nothing_or_says_two_things_is_an_error(gate, problem):
    with pytest.raises(ValidationError, match=problem):
        CompareConfig(gate=gate)


@pytest.mark.parametrize(
    ("requirement", "task", "where"),
    [
        ({"kind": "metric", "metric": "tone"}, TASK, "compare.gate.1.metric"),
        ({"kind": "schema"}, None, "compare.gate.1"),
        ({"kind": "schema"}, Task(metrics=TASK.metrics), "compare.gate.1"),
        ({"kind": "cost", "dollars": 1.0}, TASK, "compare.gate.1"),
    ],
)
def test_what_is_never_measured_is_an_error_before_anything_is_asked(requirement, task, where):
    with pytest.raises(ConfigError) as raised:
        check_gate_is_measurable(CompareConfig(gate=[DECIDES, requirement]), task)
    assert where in str(raised.value)


def test_the_default_requires_metric_schema_refusals_and_two_suites_with_200_items_each():
    *gate, memorization = default_gate(has_schema=True)
    assert (memorization.kind, memorization.required) == ("memorization", False)
    named = [(one.kind, getattr(one, "suite", None)) for one in gate]
    suites = [("suite", "stopping"), ("suite", "refusing")]
    assert named == [("metric", None), ("schema", None), ("refusals", None), *suites]
    assert {one.min_items for one in gate} == {200}
    kinds = [one.kind for one in default_gate(has_schema=False)]
    assert kinds == ["metric", "refusals", "suite", "suite", "memorization"]


def test_suites_are_asked_as_the_task_where_they_are_about_it(tmp_path):
    gate = [
        DECIDES,
        {"kind": "suite", "suite": "stopping", "num_items": 20},
        {"kind": "suite", "suite": "json", "against": "teacher"},
        {"kind": "suite", "suite": "choice"},
    ]

    def own(_question):
        raise AssertionError("not called")

    sides, asks = {"student": "s", "teacher": "t"}, {"student": own, "teacher": own}
    asked = asked_by(CompareConfig(gate=gate), None, sides, asks, tmp_path)
    sizes = {role: len(questions) for role, questions in asked.questions.items()}
    assert sizes == {
        "stopping/student": 20,
        "json/student": 200,
        "json/teacher": 200,
        "choice/student": 200,
    }, "there is no student before training"
    assert {role for role, ask in asked.asks.items() if ask is own} == {"stopping/student"}
    assert asked.sides["json/teacher"] == "t"


def former(**changes):
    judges = (judge(**changes),)
    return verdict(outcome=judges[0].outcome, judges=judges, num_prompts=300, decided_by="right")


@pytest.mark.parametrize(("lower", "outcome"), [(-0.01, PASS), (-0.08, OPEN)])
def test_the_last_student_stands_in_the_teachers_place(lower, outcome):
    found = former(lower=lower, outcome=outcome)
    gate = judged([DECIDES, {"kind": "former"}], former=found)
    row = gate.gate[1]
    assert (row.name, row.outcome, row.lower, row.num_items) == (
        "last student", outcome, lower, 300,
    )  # fmt: skip
    assert row.measured == "right, student less the last student"
    assert gate.outcome is outcome


def test_a_last_student_that_no_judge_compared_is_not_passed():
    gate = judged([DECIDES, {"kind": "former"}])
    assert (gate.gate[1].outcome, gate.gate[1].note) == (INVALID, "not measured")
    assert gate.outcome is INVALID


def test_few_prompts_do_not_pass_against_the_last_student():
    found = former(num_pairs=40)
    assert judged([DECIDES, {"kind": "former"}], former=found).gate[1].outcome is OPEN


def test_a_former_run_adds_its_requirement_once():
    plain = with_former(None)
    assert [one.kind for one in plain] == ["metric", "former"]
    assert with_former(plain) == plain
    assert [one.kind for one in with_former(default_gate(has_schema=False))][-1] == "former"
    config = CompareConfig(gate=plain)
    with pytest.raises(ConfigError, match="none is named"):
        check_gate_is_measurable(config, None)
