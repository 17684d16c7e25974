import base64
import hashlib
import re
from pathlib import Path

import pytest

from compare.judges.protocol import Judgment, Vote
from compare.report.charts import CHART_PIXELS, Axis, loss_budget, quality_chart
from compare.report.page import render_page, result
from compare.report.table import cells, fidelity_cells, quantized_cells
from compare.verdict.figures import (
    Adjusted,
    Agreement,
    Control,
    CriterionRow,
    Estimate,
    GradedSet,
    HealthCheck,
    HumanCorrected,
    Sensitivity,
    Slice,
)
from compare.verdict.results import JudgeReport
from potstill.facts.memorization import Completions, Memorization, Share
from potstill.schema import Message
from potstill.verdict.outcome import Outcome
from potstill.versions import VersionRow

from ..conftest import example

HOSTILE = (
    '\'"><script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(2)>{{ 7*7 }}'
)


def estimate(value: float, **changes: object) -> Estimate:
    values = {
        "scale": "win rate",
        "value": value,
        "lower": value - 0.04,
        "upper": value + 0.04,
        "threshold": 0.45,
        "standard_error": 0.02,
        "num_pairs": 400,
        "num_clusters": 390,
        "tie_share": 0.3,
    }
    return Estimate(**values | changes)


def part(value: str, rate: float, outcome: Outcome) -> Slice:
    return Slice(
        key="length", value=value, estimate=estimate(rate), p_adjusted=0.02, outcome=outcome
    )


def check(name: str, value: float | None, limit: float) -> HealthCheck:
    return HealthCheck(name=name, value=value, relation="at most", limit=limit, detail="a share")


def judge(**changes: object) -> JudgeReport:
    """Return a judge that is sound and decides."""
    values = {
        "name": "a judge",
        "kind": "llm",
        "claim": "quality",
        "model": "large",
        "decides": True,
        "outcome": Outcome.PASS,
        "reason": "win rate 0.512",
        "estimate": estimate(0.512),
        "checks": (
            check("length", 0.1, 0.6),
            check("A/A", None, 0.05),
        ),
        "controls": (
            Control(
                name="shuffled words",
                expected="worse",
                num_pairs=24,
                num_failed=1,
                win_rate=0.02,
                lower=0.0,
                upper=0.06,
                tie_share=0.04,
            ),
        ),
        "slices": (
            part("short", 0.53, Outcome.PASS),
            part("long", 0.43, Outcome.INCONCLUSIVE),
        ),
    }
    return JudgeReport(**values | changes)


def hostile_report(make_report):
    said = Judgment(
        score=0.0, votes=(Vote(student_place="first", winner="teacher", reason=HOSTILE),)
    )
    shown = example(
        HOSTILE,
        HOSTILE,
        HOSTILE,
        slices={"source": HOSTILE, "length": "short"},
        messages=(Message(role="system", content=HOSTILE), Message(role="user", content=HOSTILE)),
        judgments={"a judge": said},
    )
    return make_report(
        examples=(shown, example("fine", "fine", prompt_id="other")),
        judges=(judge(model=HOSTILE, reason=HOSTILE),),
        outcome=Outcome.PASS,
        student=HOSTILE,
        teacher=HOSTILE,
    ).model_copy(update={"teacher": HOSTILE, "notes": (HOSTILE,)})


@pytest.fixture
def page(make_report):
    return render_page(
        make_report(
            judges=(judge(),), outcome=Outcome.PASS, examples=(example("mine", "its own"),) * 2
        )
    )


def test_untrusted_text_is_text(make_report):
    page = render_page(hostile_report(make_report))
    assert page.count("&lt;script&gt;alert(1)") >= 12
    assert "{{ 7*7 }}" in page
    assert len(re.findall(r"<script\b", page)) == 1
    assert not re.search(r"<(img|iframe|object|embed|link)\b", page)
    outside_text = re.sub(r">[^<]*<", "><", page)
    assert not re.search(r"""\son\w+\s*=\s*["']?\w""", re.sub(r'"[^"]*"', '""', outside_text))


def test_policy_lets_the_pages_own_script_run_and_no_other(page):
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    source = Path(render_page.__code__.co_filename).with_name("report.js").read_text()
    assert script == source.rstrip("\n")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.split("; ") == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
    ]


def test_page_needs_nothing_else(page):
    markup = re.sub(r">[^<]*<", "><", page.partition("<script>")[0])
    assert not re.search(r"\b(src|href|srcset|action|xlink:href)\s*=", markup)
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_verdict_comes_first(page):
    body = page.partition("<main>")[2]
    places = [
        body.index(text)
        for text in (
            "PASS",
            "May student-Q4_K_M replace teacher-F16?",
            "Yes: by the teacher itself on these prompts, the student is worse by less than",
            "0.472 to 0.552 (90% interval: two one-sided 95% bounds). PASS needs the lower bound",
            "KL to the teacher, step by step",
            "Win rate by kind of prompt",
            "Cost",
            "side by side",
            "Checks of the judges",
        )
    ]
    assert places == sorted(places)


def test_what_a_verdict_rests_on_stands_below_it(make_report):
    graded = GradedSet(true_rate=0.45, seen=0.465, lower=0.431, upper=0.502)
    by_covariates = Adjusted(
        value=0.498,
        standard_error=0.02,
        variance_saved=0.12,
        covariates=("the length of the prompt",),
        num_prompts=2000,
    )
    decider = judge(
        basis="followed",
        level=0.045,
        sensitivity=Sensitivity(value=0.7, lower=0.52, num_pairs=48, sets=(graded,)),
        adjusted=by_covariates,
    )
    found = make_report(judges=(decider,), outcome=Outcome.PASS, power_at_parity=None)
    text = " ".join(re.sub(r"<[^>]*>", " ", render_page(found)).split())
    assert "each bound holds at all comparisons together with probability 0.955" in text
    assert "passes in at most 4.5% of cases, at any of its comparisons" in text
    assert "(at least 52%); 0.465 (0.431 to 0.502) where 0.45 is true." in text
    assert "Adjusted by the length of the prompt to all 2,000 prompts of the run (CUPED)" in text
    assert "12% less variance" in text
    assert "would pass with probability" not in text


def test_criteria_stand_with_the_judges_errors_by_side(report):
    seen = Agreement(num_met=30, num_met_seen=28, num_unmet=10, num_unmet_seen=4)
    sides = {"student": seen, "teacher": seen}
    row = CriterionRow(criterion=HOSTILE, shares={"student": 0.5, "teacher": 0.75}, agreement=sides)
    corrected = HumanCorrected(
        rate=-0.01, lower=-0.04, upper=0.02, num_human_votes=40, num_judged=400, outcome="PASS"
    )
    of_criteria = judge(
        kind="criteria", alone=Outcome.FAIL, human_corrected=corrected, criteria=(row,)
    )
    verdict = report.verdict.model_copy(
        update={"judges": (of_criteria,), "outcome": Outcome.PASS, "decided_by": "a judge"}
    )
    shown = render_page(report.model_copy(update={"verdict": verdict}))
    assert "by a judge and people&#39;s labels of both answers to 40 prompts" in shown
    assert "The judge alone would say FAIL." in shown
    rows = shown.partition("Criteria of a judge")[2].partition("</table>")[0]
    assert "<script>alert" not in rows
    assert rows.count("28 of 30</td><td>4 of 10</td>") == 2


def test_slices_stand_worst_first(page):
    rows = page.partition("Win rate by kind of prompt</h2>")[2].partition("</table>")[0]
    names = re.findall(r'<th scope="row">([^<]*)</th>', rows)
    assert names == ["all", "length: long (worst)", "length: short"]


def test_judges_health_is_told(page):
    told = page.partition("Checks of the judges")[2]
    assert "a share: at most 0.60" in told
    assert "not computed" in told
    assert "0.020 [0.000, 0.060]" in told


def test_judge_that_failed_has_no_interval(make_report):
    failed = judge(
        outcome=Outcome.INVALID_JUDGE,
        reason="length: 0.90",
        estimate=None,
        slices=(),
        checks=(check("length", 0.9, 0.6),),
    )
    page = render_page(make_report(judges=(failed,)))
    head = page.partition("<header")[2].partition("</header>")[0]
    assert "INVALID JUDGE" in head
    assert "<svg" not in head
    assert "failed" in page
    assert "Win rate by kind of prompt" not in page


@pytest.mark.parametrize(
    ("table", "rows", "shown"),
    [
        ("Table of models", "rows", cells),
        ("Table of fidelity", "rows", fidelity_cells),
        ("Files beside their checkpoints", "quantized", quantized_cells),
    ],
)
def test_page_shows_the_reports_numbers(page, report, table, rows, shown):
    body = page.partition(f'aria-label="{table}"')[2].partition("</table>")[0]
    body = body.partition("<tbody>")[2]
    found = re.findall(r"<(?:td|th)[^>]*>([^<]*)</(?:td|th)>", body)
    assert found == [text for row in getattr(report, rows) for text in shown(row)]
    (chosen,) = re.findall(r'class="recommended[^"]*">\s*<th scope="row">([^<]*)', body)
    assert chosen == report.recommended


def test_figures_of_files_keep_their_digits_however_small(report):
    texts = {file.name: quantized_cells(file) for file in report.quantized}
    assert texts["student-F16"][3:5] == ("3.3e-06 ± 2e-07", "2.3e-06")
    assert texts["student-Q4_K_M"][2:5] == ("6.29", "0.0376 ± 0.002", "0.026")


def test_every_prompt_has_both_answers(page):
    assert page.count('class="prompt"') == 2
    assert page.count('class="answer"') == 4


@pytest.mark.parametrize(
    ("score", "expected"), [(1.0, "student"), (0.25, "teacher"), (0.5, "tie"), (None, "none")]
)
def test_result_of_a_pair_is_the_deciding_judges(score, expected):
    judgments = {"a judge": Judgment(score=score), "another": Judgment(score=1.0)}
    assert result(example("a", "b", judgments=judgments), judge()) == expected
    assert result(example("a", "b", judgments=judgments), None) == "none"


def test_two_endpoints_have_a_page_without_files(report):
    no_files = {"files": (), "quantized": (), "checkpoints": ()}
    page = render_page(report.model_copy(update=no_files))
    assert "INVALID JUDGE" in page
    assert "KL to the teacher, step by step" not in page
    assert "None" not in page


def test_bars_are_proportional_and_fit(report):
    bars = {bar.row.name: bar for bar in loss_budget(report)}
    assert "teacher" not in bars
    untrained, trained = bars["student, untrained"], bars["student, trained"]
    assert trained.length / untrained.length == pytest.approx(0.312 / 1.104)
    assert max(bar.high for bar in bars.values()) == pytest.approx(84.0)
    assert all(0 <= bar.low <= bar.length <= bar.high for bar in bars.values())


def test_chart_of_files_has_the_better_ones_below_and_left_and_a_line_along_each_front(report):
    chart = quality_chart(report.quantized)
    points = {point.file.name: point for point in chart.points}
    small, large = points["student-Q4_K_M"], points["student-F16"]
    assert small.x < points["student-Q8_0"].x < large.x
    assert points["student-Q8_0"].y < small.y < large.y
    assert small.step == (large.x, large.y), "past the one that is beaten"
    assert points["student-Q8_0"].step is None is large.step
    assert points["teacher-Q4_K_M"].step == (points["teacher-F16"].x, points["teacher-F16"].y)
    assert all(0 < point.x < 100 and 0 < point.y < CHART_PIXELS for point in chart.points)
    assert next(iter(chart.decades)) == "1e-08", "where a KL of 0 is drawn"
    assert quality_chart(report.quantized[:1]) is None


def test_axis_shows_intervals_equality_and_the_threshold():
    axis = Axis.of([estimate(0.6), estimate(0.55)])
    places = [axis.at(value) for value in (0.45, 0.5, 0.51, 0.64)]
    assert places == sorted(places)
    assert all(0 < place < 100 for place in places)
    assert axis.ticks == [0.45, 0.5, 0.55, 0.6, 0.65]
    below = estimate(-0.3, scale="difference", threshold=-0.05)
    assert Axis.of([below]).ticks == [-0.3, -0.2, -0.1, 0.0]


def test_a_student_with_other_tokens_has_no_bars(make_report):
    report = make_report(own_tokenizer=True)
    assert [bar.row.name for bar in loss_budget(report)] == ["teacher-F16", "teacher-Q4_K_M"]
    page = render_page(report)
    assert "tokenizer of its own" in page
    assert "None" not in page


def test_the_versions_of_the_student_are_a_table(report):
    def version(number, outcome, **changes):
        values = {
            "number": number, "run": f"mine-v{number}", "made_at": "2026-11-29T21:00:00+00:00",
            "parent": number - 1 or None, "file": "student-Q8_0", "outcome": outcome,
        }  # fmt: skip
        return VersionRow(**values | changes)

    assert "Versions of the student" not in render_page(report)
    learned = {"rated": 1200, "escalated": 30, HOSTILE: 1}
    history = (version(1, "FAIL"), version(2, None, num_prompts=learned))
    page = render_page(report.model_copy(update={"history": history}))
    table = page.partition("<h2>Versions of the student</h2>")[2].partition("</table>")[0]
    texts = re.sub(r"<[^>]*>", " ", table).split()
    assert " ".join(texts).startswith(
        "version run made trained from learned from file verdict "
        "1 mine-v1 2026-11-29 21:00 — — student-Q8_0 ✗ FAIL "
        "2 mine-v2 2026-11-29 21:00 version 1 1,200 rated, 30 escalated, 1 "
    )
    assert texts[-2:] == ["INVALID", "JUDGE"], "its own verdict is this report's"
    assert "<script>alert" not in table


def test_what_was_memorized_stands_on_the_page_with_its_conversations(make_report):
    share = Share(value=0.5, lower=0.2, upper=0.8)
    found = Memorization(
        min_tokens=20,
        num_distinct=4,
        trained=Completions(num_answers=4, share=share),
        surplus=share,
        verbatim=(f"{HOSTILE}-0", "a1-0"),
    )
    plain = make_report()
    page = render_page(plain.model_copy(update={"memorization": found}))
    for sentence in found.sentences:
        assert sentence in page
    assert "<script>alert(1)" not in page
    assert "-0, a1-0 (conversation_id" in page
    assert "memorized" not in render_page(plain)
