"""The report in a real browser: filters work, nothing from a model runs, nothing is fetched."""

import pytest

from compare.comparison import Report
from compare.cost_config import CostConfig
from compare.judges.protocol import Judgment
from compare.measurement.cost import Running, price
from compare.measurement.machine import Machine
from compare.report.page import render_page
from compare.verdict.examples import Example, ShownAnswer
from compare.verdict.figures import Estimate
from compare.verdict.results import JudgeReport, Verdict
from potstill.schema import Message
from potstill.verdict.outcome import Outcome
from tests.fixtures.browser import chromium

HOSTILE = (
    '"><script>document.title = "taken"</script><img src="http://127.0.0.1:9/x" onerror=alert(1)>'
)
SCORES = (0.0, 0.5, 1.0, 1.0)


def example(number: int, score: float) -> Example:
    shown = ShownAnswer(text=f"{HOSTILE} {number}", num_tokens=9, seconds=0.1, finish_reason="stop")
    return Example(
        prompt_id=f"p{number}",
        sample=0,
        slices={"source": "even" if number % 2 == 0 else HOSTILE},
        messages=(Message(role="user", content=f"Question {number} {HOSTILE}"),),
        student=shown,
        teacher=shown,
        judgments={"judge": Judgment(score=score)},
    )


@pytest.fixture(scope="module")
def report() -> Report:
    interval = Estimate(
        scale="win rate",
        value=0.62,
        lower=0.3,
        upper=0.9,
        threshold=0.45,
        standard_error=0.2,
        num_pairs=4,
        num_clusters=4,
        tie_share=0.25,
    )
    judge = JudgeReport(
        name="judge",
        kind="llm",
        claim="quality",
        model=HOSTILE,
        decides=True,
        outcome=Outcome.INCONCLUSIVE,
        reason=HOSTILE,
        estimate=interval,
        further_prompts=50,
    )
    verdict = Verdict(
        outcome=Outcome.INCONCLUSIVE,
        reason=HOSTILE,
        margin=0.05,
        alpha=0.05,
        cluster_by="cluster",
        registered_at="2026-11-24T12:00:00+00:00",
        num_answers_before=0,
        power_at_parity=0.06,
        decided_by="judge",
        judges=(judge,),
        num_prompts=4,
        num_refused={"student": 0, "teacher": 0},
        samples_per_prompt=1,
        temperature=0.7,
        max_tokens=64,
        seed=0,
        student=HOSTILE,
        teacher="large",
    )
    return Report(
        teacher="large",
        reference="large",
        recommended=HOSTILE,
        verdict=verdict,
        cost=price(CostConfig(), Running("small", 20.0), Running("large", 5.0), 1.0),
        examples=tuple(example(number, score) for number, score in enumerate(SCORES)),
        notes=(),
        num_prompts=4,
        settings={},
        machine=Machine(cpu="a CPU", num_cpus=2, memory_bytes=8_000_000_000, platform="Linux"),
    )


@pytest.fixture(scope="module")
def browser():
    with chromium() as launched:
        yield launched


@pytest.fixture
def opened(browser, report, tmp_path):
    """Return a function that opens the page in a window, and what the page then asked for."""
    path = tmp_path / "report.html"
    path.write_text(render_page(report), encoding="utf-8")
    asked: list[str] = []

    def open_page(**window):
        page = browser.new_page(**window)
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: asked.append(dialog.message))
        page.goto(path.as_uri())
        return page

    return open_page, asked, path


def test_examples_are_chosen_by_result_kind_and_text(opened):
    open_page, asked, path = opened
    page = open_page(viewport={"width": 1100, "height": 900})
    shown = page.locator("article.prompt:visible")
    told = page.locator("#filters output")
    assert (shown.count(), told.text_content()) == (4, "4 of 4 shown")
    page.get_by_label("result").select_option("student")
    assert (shown.count(), told.text_content()) == (2, "2 of 4 shown")
    page.get_by_label("source").select_option("even")
    assert shown.count() == 1
    page.get_by_label("text").fill("QUESTION 3")
    assert shown.count() == 0
    page.get_by_role("button", name="reset").click()
    page.wait_for_function("document.querySelector('#filters output').textContent.startsWith('4')")
    assert shown.count() == 4
    page.get_by_label("source").select_option(HOSTILE)
    assert shown.count() == 2
    assert page.title().startswith("INCONCLUSIVE")
    assert asked == [path.as_uri()], "no script of a model ran, and nothing was fetched"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone_in_light_and_dark(opened, scheme):
    open_page, _, _ = opened
    page = open_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    background, text = page.evaluate(
        "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
    )
    light = [sum(map(int, one[4:-1].split(","))) for one in (background, text)]
    assert (light[0] > light[1]) is (scheme == "light")


def test_print_leaves_out_what_only_a_screen_can_do(opened):
    open_page, _, _ = opened
    page = open_page()
    assert page.locator("#filters").is_visible()
    page.emulate_media(media="print")
    assert not page.locator("#filters").is_visible()
    assert page.locator("article.prompt:visible").count() == 4
