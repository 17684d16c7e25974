import re

import pytest

from compare.report.page import loss_budget, render_page
from compare.report.table import cells, nearness_cells

HOSTILE = (
    '<script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(2)>{{ 7*7 }}'
)


def pair(model: str, prompt: str, answer: str) -> dict:
    return {
        "prompt_id": prompt,
        "messages": [{"role": "user", "content": prompt}],
        "model": model,
        "answer": answer,
        "finish_reason": "length",
        "prompt_tokens": 31,
        "completion_tokens": 200,
        "seconds": 4.2,
    }


@pytest.fixture
def page(report):
    models = ("teacher-F16", "student-Q4_K_M")
    pairs = [pair(model, prompt, HOSTILE) for prompt in ("How?", HOSTILE) for model in models]
    return render_page(report, pairs)


def test_untrusted_text_is_text(page):
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 5
    assert "{{ 7*7 }}" in page
    assert not re.search(r"<(script|img|iframe|object|embed|link|form)\b", page)


def test_hostile_teacher_name_is_text(report):
    page = render_page(report.model_copy(update={"teacher": HOSTILE}), [])
    assert "<script" not in page


def test_page_needs_nothing_else(page):
    markup = re.sub(r">[^<]*<", "><", page)
    assert not re.search(r"\b(src|href|srcset|action|xlink:href)\s*=", markup)
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page


@pytest.mark.parametrize(("index", "shown"), [(1, cells), (2, nearness_cells)])
def test_page_shows_the_reports_numbers(page, report, index, shown):
    body = page.split("<tbody>")[index].partition("</tbody>")[0]
    found = re.findall(r"<(?:td|th)[^>]*>([^<]*)</(?:td|th)>", body)
    assert found == [text for row in report.rows for text in shown(row)]


def test_every_prompt_has_both_answers(page):
    assert page.count('class="prompt"') == 2
    assert page.count('class="answer"') == 4


def test_bars_are_proportional_and_fit(report):
    bars = {bar.row.name: bar for bar in loss_budget(report)}
    assert "teacher" not in bars
    untrained, trained = bars["student, untrained"], bars["student, trained"]
    assert trained.length / untrained.length == pytest.approx(0.312 / 1.104)
    assert max(bar.high for bar in bars.values()) == pytest.approx(84.0)
    assert all(0 <= bar.low <= bar.length <= bar.high for bar in bars.values())


def test_a_student_with_other_tokens_has_no_bars(make_report):
    report = make_report(own_tokenizer=True)
    assert [bar.row.name for bar in loss_budget(report)] == ["teacher-F16", "teacher-Q4_K_M"]
    page = render_page(report, [])
    assert "tokenizer of its own" in page
    assert "None" not in page
