"""The page on which people review, in a real browser, by its keys."""

import json
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest

from generate.curation.reviews import ReviewLog, effective
from generate.review.file_rows import file_subject
from generate.review.page import Review, server_of
from potstill.task.task import Task
from tests.fixtures.browser import chromium

HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
ROWS = (
    ("How do I block my lost card?", "cards"),
    ("How do I block my lost cards?", "loans"),
    ("Can I borrow more money?", "loans"),
    ("I'd like to speak to somebody.", "I'm sorry, but I can't help with that."),
    (HOSTILE, HOSTILE),
)


@pytest.fixture
def review(tmp_path):
    path = tmp_path / "messages.jsonl"
    rows = ({"prompt": prompt, "answer": answer} for prompt, answer in ROWS)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"metrics": [{"kind": "label", "labels": ["cards", "loans", "other"]}]}
    return Review(file_subject(path, Task.model_validate(task)), "ann")


@contextmanager
def served(review):
    with server_of(review, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/?token={review.token}"
        server.shutdown()


@contextmanager
def opened(browser, url, width=1280, scheme="light"):
    """Open the page; what its console says is a failure."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    page.get_by_text("0 of 5 reviewed").wait_for()
    yield page
    assert [text for text in wrong if "409" not in text] == []
    page.close(run_before_unload=False)


def decisions(review):
    """Return what was decided, by the prompt."""
    found = effective(ReviewLog(review.log.path).decisions).values()
    return {one.messages[0].content: one for one in found}


def look_for(page, words):
    """Filter by words, by the keyboard alone."""
    page.keyboard.press("/")
    page.keyboard.press("Control+a")
    page.keyboard.type(words)
    page.keyboard.press("Enter")
    page.get_by_text("answer 1 of the 1 shown").wait_for()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_answers_are_decided_by_the_keyboard(review, width, scheme):
    with served(review) as url, chromium() as browser, opened(browser, url, width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.get_by_text("I'm sorry, but I can't help").first.is_visible()  # doubtful: first
        page.keyboard.press("r")
        page.get_by_text("1 of 5 reviewed").wait_for()
        look_for(page, "borrow")
        page.keyboard.press("a")
        page.get_by_text("2 of 5 reviewed").wait_for()
        look_for(page, "block loans")
        page.keyboard.press("1")
        page.get_by_text("3 of 5 reviewed").wait_for()
        look_for(page, "onerror")
        page.keyboard.press("n")
        page.keyboard.type("hostile")
        page.keyboard.press("Escape")
        page.keyboard.press("e")
        page.keyboard.press("Control+a")
        page.keyboard.type(f"better {HOSTILE}")
        assert decisions(review).keys().isdisjoint({HOSTILE})  # what is typed is not stored yet
        page.keyboard.press("Control+Enter")
        page.get_by_text("4 of 5 reviewed").wait_for()
        assert page.title() == f"Review of {review.subject.title}"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = decisions(review)
    assert {one.action for one in found.values()} == {"reject", "accept", "label", "edit"}
    assert found["I'd like to speak to somebody."].action == "reject"
    assert found["How do I block my lost cards?"].known.content == "cards"
    assert found[HOSTILE].known.content == f"better {HOSTILE}"
    assert found[HOSTILE].note == "hostile"
    assert {one.reviewer for one in found.values()} == {"ann"}


def test_filters_by_doubt_and_by_similar_prompts(review):
    with served(review) as url, chromium() as browser, opened(browser, url) as page:
        items = page.locator("#list li")
        assert items.count() == 5
        page.get_by_label("doubt").select_option("refusal")
        assert items.count() == 1
        page.get_by_label("doubt").select_option("")
        look_for(page, "borrow")
        page.keyboard.press("/")
        page.keyboard.press("Escape")  # clears it
        assert items.count() == 5
        page.locator("#list li", has_text="lost cards").click()
        page.keyboard.press("c")
        assert items.count() == 2
        page.keyboard.press("c")
        assert items.count() == 5
        page.keyboard.press("?")
        assert page.get_by_role("dialog").is_visible()
        page.keyboard.press("a")  # keys decide nothing while they are explained
        page.keyboard.press("Escape")
    assert not review.log.path.exists()


def test_undo_and_what_is_decided_stays_after_a_reload(review):
    with served(review) as url, chromium() as browser, opened(browser, url) as page:
        page.keyboard.press("a")
        page.get_by_text("1 of 5 reviewed").wait_for()
        page.reload()
        page.get_by_text("1 of 5 reviewed").wait_for()
        page.keyboard.press("r")
        page.get_by_text("2 of 5 reviewed").wait_for()
        page.keyboard.press("u")
        page.get_by_text("1 of 5 reviewed").wait_for()
        page.get_by_label("state").select_option("accept")
        page.get_by_text("accepted by ann").wait_for()
        page.keyboard.press("u")
        page.get_by_text("0 of 5 reviewed").wait_for()
    assert decisions(review) == {}
    assert len(ReviewLog(review.log.path).decisions) == 4


def test_two_tabs_lose_nothing_of_each_other(review):
    with (
        served(review) as url,
        chromium() as browser,
        opened(browser, url) as one,
        opened(browser, url) as two,
    ):
        one.keyboard.press("r")
        one.get_by_text("1 of 5 reviewed").wait_for()
        two.bring_to_front()
        two.keyboard.press("a")  # on the answer that the first one has rejected
        two.get_by_text("ann decided on this answer meanwhile").wait_for()
        two.get_by_text("rejected by ann").wait_for()
        two.keyboard.press("j")
        two.keyboard.press("a")
        two.get_by_text("2 of 5 reviewed").wait_for()
        one.get_by_text("2 of 5 reviewed").wait_for(timeout=10_000)
    assert sorted(one.action for one in decisions(review).values()) == ["accept", "reject"]


def test_where_an_answer_goes_is_chosen(review):
    """As in a run with a task: the training data, the examples or the references."""
    uses = ("training", "examples", "references")
    rows = [replace(row, uses=uses) for row in review.subject.rows]
    subject = replace(review.subject, rows=rows)
    review = Review(subject, "ann")
    with served(review) as url, chromium() as browser, opened(browser, url) as page:
        for number, key in enumerate(("a", "x a", "x x a", "1"), start=1):
            for one in key.split():
                page.keyboard.press(one)
            page.get_by_text(f"{number} of 5 reviewed").wait_for()
    stored = [(one.action, one.use) for one in ReviewLog(review.log.path).decisions]
    assert stored == [
        ("accept", "training"),
        ("accept", "examples"),
        ("accept", "references"),
        ("label", "examples"),
    ]


def test_an_edit_is_kept_while_the_server_is_away(review):
    with served(review) as url, chromium() as browser:
        page = browser.new_page()
        page.goto(url)
        page.get_by_text("0 of 5 reviewed").wait_for()
        page.keyboard.press("e")
        page.keyboard.type("kept ")
        page.route("**/decisions*", lambda route: route.abort())
        page.keyboard.press("Control+Enter")
        page.get_by_text("does not answer: nothing is stored now").wait_for()
        assert "kept " in page.locator("#content").input_value()
        page.unroute("**/decisions*")
        page.locator("#save").click()
        page.get_by_text("1 of 5 reviewed").wait_for()
    assert "kept " in next(iter(decisions(review).values())).known.content
