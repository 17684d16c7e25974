"""The playground in a real browser, served by `potstill serve` with the real SmolLM2."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright import sync_api as playwright
from playwright.sync_api import expect

from potstill.rundir import RunDirectory
from potstill.task.config import TaskConfig
from potstill.task.metrics.config import JsonConfig, LabelConfig
from potstill.task.stage import write_task
from tests.fixtures.browser import chromium
from tests.fixtures.facts import gguf_facts, gguf_file
from tests.fixtures.served import KEY, Server
from tests.fixtures.tiny_gguf import smollm2_path

VISITORS_KEY = "another-secret-key"
HOSTILE = """<img src=x onerror="document.title='taken over'">"""
PATIENCE_SECONDS = 300
expect.set_options(timeout=1000 * PATIENCE_SECONDS)
INSTRUCTIONS = "Answer with the team and a short reply."
EXAMPLES = [
    (f"{text} {number}", team)
    for number in range(1, 5)
    for text, team in ((f"My card is {'long ' * 12}lost.", "cards"), ("I need money.", "loans"))
]
METRICS = (LabelConfig(field="route.team"), JsonConfig())
SCHEMA = {
    "type": "object",
    "properties": {
        "route": {
            "type": "object",
            "properties": {"team": {"enum": ["cards", "loans"]}},
            "required": ["team"],
        },
        "reply": {"type": "string", "maxLength": 30},
    },
    "required": ["route", "reply"],
}
BLOCK = {
    "name": "block_card",
    "parameters": {"properties": {"days": {"enum": [3]}}, "required": ["days"]},
}
TOOLS = [{"type": "function", "function": BLOCK}]
LONG_STORY = "Write a very long story about a lighthouse, with many chapters."
"""Its answer is still being written when somebody wants it to stop."""
PHONE = {"width": 360, "height": 740}
FIGURES = re.compile(r"first token \d+\.\d\d s · \d+\.\d tokens/s · 8 tokens")


def make_run(root: Path) -> RunDirectory:
    directory = RunDirectory(root)
    session = directory.open_stage("gguf", {})
    files = []
    for role in ("student", "teacher"):
        (session.dir / f"{role}.gguf").symlink_to(smollm2_path())
        files.append(gguf_file(f"{role}-Q4_1", file=f"{role}.gguf"))
    session.finish(facts=gguf_facts(*files))
    return directory


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory) -> RunDirectory:
    return make_run(tmp_path_factory.mktemp("playground") / "run")


@pytest.fixture(scope="module")
def serve_task(tmp_path_factory) -> Iterator[Callable[..., str]]:
    """Return a function that serves a run with a task, and gives the playground's address."""
    with ExitStack() as stack:

        def start(**task: object) -> str:
            directory = tmp_path_factory.mktemp("task")
            examples = [{"prompt": text, "answer": team} for text, team in EXAMPLES]
            (directory / "examples.jsonl").write_text("\n".join(map(json.dumps, examples)))
            (directory / "schema.json").write_text(json.dumps(SCHEMA))
            (directory / "tools.json").write_text(json.dumps(TOOLS))
            files = {"examples": "examples.jsonl", "answer_schema": "schema.json"}
            paths = {key: directory / name for key, name in (files | task).items() if name}
            run = make_run(directory / "run")
            write_task(TaskConfig(instructions=INSTRUCTIONS, metrics=METRICS, **paths), run)
            return stack.enter_context(serving(run, directory / "log"))

        yield start


@contextmanager
def serving(run_directory: RunDirectory, log_path: Path, **config: object) -> Iterator[str]:
    """Serve until the block ends; gives the playground's address."""
    server = Server(run_directory, log_path, **config)
    try:
        yield f"{server.root_url}/"
    finally:
        server.stop()


@pytest.fixture(scope="module")
def url(run_directory, tmp_path_factory) -> Iterator[str]:
    with serving(run_directory, tmp_path_factory.mktemp("log") / "log") as url:
        yield url


@pytest.fixture(scope="module")
def live_url(run_directory, tmp_path_factory) -> Iterator[str]:
    """A server that keeps answers, with an experiment, and a second key without administrator's
    rights."""
    directory = tmp_path_factory.mktemp("live")
    digest = hashlib.sha256(VISITORS_KEY.encode()).hexdigest()
    (directory / "keys.toml").write_text(f'[keys.visitor]\nsha256 = "{digest}"\n')
    variants = {"student": {"weight": 1}, "teacher": {"weight": 0}}
    config = {
        "keys_path": str(directory / "keys.toml"),
        "context_tokens": 256,  # an answer without max_tokens may run to its end
        "experiments": {"assistant": {"variants": variants, "judge": "votes"}},
    }
    with serving(run_directory, directory / "log", **config) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., playwright.Page]]:
    """Return a function that opens a page, by default with the key; any console error is a
    failure."""
    complaints: list[str] = []
    contexts = []

    def open_page(url: str, *, key: str | None = KEY, **settings: object) -> playwright.Page:
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(1000 * PATIENCE_SECONDS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text))
        add_to_requests(page, ignore_eos=True)  # each answer has the length that is asked for
        page.goto(url)
        if key is not None:
            page.get_by_label("API key").fill(key)
            page.get_by_role("button", name="Use this key").click()
            expect(page.get_by_role("textbox", name="Message")).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    # A browser reports each refused request by itself.
    assert [text for text in complaints if "Failed to load resource" not in text] == []


def ask(page: playwright.Page, text: str, *, max_tokens: int | None = 8) -> None:
    """Send a message, with the keyboard alone."""
    page.locator("#max_tokens").evaluate(
        "(field, value) => { field.value = value }", max_tokens or ""
    )
    page.get_by_role("textbox", name="Message").fill(text)
    page.keyboard.press("Enter")


def add_to_requests(page: playwright.Page, **parameters: object) -> None:
    """Add request parameters for which the page has no field."""
    page.route(
        "**/v1/chat/completions",
        lambda route: route.continue_(post_data={**route.request.post_data_json, **parameters}),
    )


def answered(page: playwright.Page) -> None:
    """Wait until nothing is written any more."""
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def width(page: playwright.Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth")


def test_nothing_is_shown_before_the_key_which_stays_in_this_tab(url, open_page):
    page = open_page(url, key=None)
    page.get_by_label("API key").fill("a-wrong-key")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This key does not open the server.")
    expect(page.get_by_role("textbox", name="Message")).to_be_hidden()

    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("textbox", name="Message")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.get_by_label("API key")).to_be_hidden()

    page.reload()
    expect(page.get_by_role("textbox", name="Message")).to_be_visible()
    assert KEY not in page.evaluate("JSON.stringify([localStorage, document.cookie])")
    another_tab = page.context.new_page()
    another_tab.goto(url)
    expect(another_tab.get_by_label("API key")).to_be_visible()


def test_an_answer_streams_and_can_be_stopped_and_the_chat_goes_on(url, open_page):
    page = open_page(url)
    ask(page, LONG_STORY, max_tokens=1500)
    answer = page.locator(".answer").first
    expect(answer.locator(".text")).to_have_text(re.compile(r"\S"))
    expect(answer).to_have_attribute("aria-busy", "true")
    page.get_by_role("button", name="Stop").click()
    answered(page)
    expect(answer.locator(".figures")).to_contain_text("stopped")
    written = answer.locator(".text").text_content()
    assert written

    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "Go on.")
    answered(page)
    assert sent.value.post_data_json["messages"] == [
        {"role": "user", "content": LONG_STORY},
        {"role": "assistant", "content": written},
        {"role": "user", "content": "Go on."},
    ]
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".turn")).to_have_count(0)


def test_student_and_teacher_answer_the_same_message_with_their_figures(url, open_page):
    page = open_page(url)
    page.get_by_text("Settings").click()
    page.get_by_label("System prompt").fill("Answer in French.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Seed").fill("7")
    page.get_by_text("Side by side").click()
    bodies = []
    page.on("request", lambda one: bodies.append(one.post_data_json) if one.post_data else None)

    ask(page, "Name a color.")
    answered(page)

    expect(page.locator(".answer h3")).to_have_text(["A: student", "B: teacher"])
    expect(page.locator(".figures")).to_have_text([FIGURES, FIGURES])
    # Both names stand for one file here, and an equal seed repeats an answer.
    first, second = page.locator(".answer .text").all_text_contents()
    assert first == second != ""
    assert sorted(body["model"] for body in bodies) == ["student", "teacher"]
    for body in bodies:
        assert body["messages"][0] == {"role": "system", "content": "Answer in French."}
        assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.5, 7, 8)


def test_a_failure_is_shown_and_the_message_restored(url, open_page):
    page = open_page(url)
    ask(page, "Too much. " * 2000)
    answered(page)
    expect(page.locator(".figures")).to_contain_text("failed: ")
    assert page.get_by_role("textbox", name="Message").input_value().startswith("Too much.")


def test_an_answer_is_copied_and_asked_for_again(url, open_page):
    page = open_page(url, permissions=["clipboard-read", "clipboard-write"])
    expect(page.locator("#first")).to_have_value("student")
    expect(page.locator("#second")).to_have_value("teacher")
    ask(page, "Name a color.")
    answered(page)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    written = page.locator(".answer .text").text_content()
    assert page.evaluate("navigator.clipboard.readText()") == written
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_role("button", name="Retry").click()
    answered(page)
    expect(page.locator(".turn")).to_have_count(1)
    assert [one["role"] for one in sent.value.post_data_json["messages"]] == ["user"]


def test_text_is_never_markup(url, open_page):
    page = open_page(url)
    add_to_requests(page, grammar=f"root ::= {json.dumps(HOSTILE)}")
    ask(page, HOSTILE, max_tokens=100)
    answered(page)

    expect(page.locator(".question")).to_have_text(HOSTILE)
    expect(page.locator(".answer .text")).to_have_text(HOSTILE)
    assert page.locator("img").count() == 0
    assert page.title() == "potstill playground"
    other = page.context.new_page()
    other.goto(url)
    with pytest.raises(playwright.Error, match="TrustedHTML"):
        other.evaluate("document.body.innerHTML = 'text'")


def test_a_task_has_examples_to_click_and_answers_as_tables(serve_task, open_page):
    page = open_page(serve_task())
    expect(page.locator("#serving")).to_have_text(f"student is {smollm2_path().name}")
    task = page.get_by_role("region", name="Task")
    expect(task).to_contain_text("Answers are measured by label, json.")
    expect(task.get_by_role("button")).to_have_count(6)

    page.locator("#max_tokens").evaluate("field => { field.value = 80 }")
    with page.expect_request("**/v1/chat/completions") as sent:
        task.get_by_role("button", name="I need money. 1").click()
    answered(page)
    asked = [{"role": "user", "content": "I need money. 1"}]
    assert sent.value.post_data_json["messages"] == asked
    answer = page.locator(".answer")
    label = answer.locator("tr.label")
    expect(label).to_have_count(1)
    expect(label).to_have_text(re.compile("^route.team(cards|loans)$"))
    expect(answer.get_by_role("rowheader")).to_have_text(["route.team", "reply"])
    json.loads(answer.locator(".text").text_content())

    page.set_viewport_size(PHONE)
    assert width(page) == PHONE["width"]


def test_calls_of_tools_are_shown_as_tables(serve_task, open_page):
    page = open_page(serve_task(tools="tools.json", answer_schema=None))
    add_to_requests(page, tool_choice="required", ignore_eos=False)
    ask(page, "My card is lost.", max_tokens=80)
    answered(page)
    table = page.get_by_role("table", name="calls block_card").first
    expect(table).to_be_visible()
    add_to_requests(page, tool_choice="none", ignore_eos=False)
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "Thanks.")
    answered(page)
    _, called, _ = sent.value.post_data_json["messages"]
    assert {call["function"]["name"] for call in called["tool_calls"]} == {"block_card"}
    assert sent.value.response().status == 200


def test_without_storage_there_are_no_votes_and_the_page_says_so(url, open_page):
    page = open_page(url)
    expect(page.get_by_text("Blind vote")).to_be_hidden()
    expect(page.get_by_text("This server stores no answers")).to_be_visible()
    ask(page, "Hello!")
    answered(page)
    expect(page.get_by_role("button", name="Good answer")).to_have_count(0)
    page.get_by_role("link", name="Experiments").click()
    expect(page.get_by_text("This server runs no experiment")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_one_way_only(url, open_page, scheme):
    page = open_page(url, viewport=PHONE, is_mobile=True, has_touch=True, color_scheme=scheme)
    page.get_by_text("Side by side").click()
    page.get_by_text("Settings").click()
    ask(page, "A" * 300, max_tokens=48)
    answered(page)
    above, below = page.locator("#log").evaluate(
        "log => [log.scrollTop, log.scrollHeight - log.scrollTop - log.clientHeight]"
    )
    assert above > 0
    assert below < 2
    a, b = page.locator(".answer").all()
    expect(a).to_be_visible()
    expect(b).to_be_hidden()
    page.get_by_role("group", name="Answer shown").get_by_role("button", name="B").click()
    expect(a).to_be_hidden()
    expect(b).to_be_visible()
    assert width(page) == PHONE["width"]


def test_a_blind_vote_hides_the_models_until_it_is_cast(live_url, open_page):
    page = open_page(live_url)
    page.get_by_text("Blind vote").click()
    shown: list[str] = []

    def note_answer(response: playwright.Response) -> None:
        if response.url.endswith("/chat/completions"):
            shown.append(response.text())

    page.on("requestfinished", lambda request: note_answer(request.response()))
    ask(page, "Name a color.")
    answered(page)
    expect(page.locator(".answer h3")).to_have_text(["A", "B"])
    expect(page.locator(".answer .text")).to_have_text([re.compile(r"\S")] * 2)
    assert "tokens/s" not in page.locator("#log").text_content()
    assert len(shown) == 2
    assert all('"model":"blind-' in one and "fp_" not in one for one in shown)

    with page.expect_request("**/v1/votes") as sent:
        page.get_by_role("button", name="B is better").click()
    expect(page.locator(".vote")).to_contain_text("Your vote: B is better.")
    expect(page.locator(".vote")).to_contain_text(
        "It counts for nothing: ignore_eos, max_tokens was set."
    )
    models = sent.value.response().json()["models"]
    assert sorted(models) == ["student", "teacher"]
    expect(page.locator(".answer h3")).to_have_text([f"A: {models[0]}", f"B: {models[1]}"])
    expect(page.locator(".figures")).to_have_text([FIGURES, FIGURES])
    vote = sent.value.post_data_json
    assert (vote["preference"], vote["blind"]) == ("b", True)

    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "Name another.")
    answered(page)
    assert len(sent.value.post_data_json["messages"]) == 1


def test_only_first_answers_are_voted_on_beside_each_other(live_url, open_page):
    page = open_page(live_url)
    page.get_by_text("Side by side").click()
    votes = page.get_by_role("group", name="Which answer is better?")
    ask(page, "Name a color.")
    answered(page)
    expect(votes).to_have_count(1)
    ask(page, "Name another.")
    answered(page)
    expect(votes).to_have_count(0)


def test_an_experiment_is_watched_stopped_and_resumed(live_url, open_page):
    page = open_page(live_url)
    page.locator("#first").select_option("assistant")
    ask(page, "Name a color.")
    answered(page)
    expect(page.locator(".figures").last).to_contain_text("variant student")
    page.get_by_role("button", name="Good answer").click()
    expect(page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")

    page.get_by_role("link", name="Experiments").click()
    card = page.get_by_role("region", name="Experiment assistant")
    expect(card.get_by_role("status")).to_have_text("running")
    student = card.get_by_role("row").filter(has=page.get_by_role("rowheader", name="student"))
    expect(student).to_contain_text("1.00 (1)")

    page.on("dialog", lambda dialog: dialog.accept())
    card.get_by_role("button", name="Stop experiment").click()
    expect(card.get_by_role("status")).to_have_text("stopped by hand: the teacher answers")
    page.get_by_role("link", name="Chat").click()
    ask(page, "Name another.")
    answered(page)
    expect(page.locator(".figures").last).to_contain_text("variant teacher")

    someone_else = open_page(live_url)
    someone_else.locator("#first").select_option("assistant")
    ask(someone_else, "Name a third.")
    answered(someone_else)
    good = someone_else.get_by_role("button", name="Good answer")
    good.click()
    expect(good).to_have_attribute("aria-pressed", "true")

    page.get_by_role("link", name="Experiments").click()
    expect(card).to_contain_text("student \N{MINUS SIGN} teacher 0.00, within")
    card.get_by_role("button", name="Resume experiment").click()
    expect(card.get_by_role("status")).to_have_text("running")


def many_votes(route: playwright.Route) -> None:
    """Answer with the verdict that twenty more ties would give."""
    response = route.fetch()
    found = response.json()
    if found.get("verdict"):
        found["verdict"] |= {"pairs": 20, "lower": 0.3, "upper": 0.7}
    route.fulfill(response=response, json=found)


def test_the_win_rate_of_votes_is_drawn_on_a_phone_too(live_url, open_page):
    page = open_page(live_url, viewport=PHONE, is_mobile=True, has_touch=True)
    page.get_by_text("Blind vote").click()
    page.unroute("**/v1/chat/completions")  # A vote counts under the server's own settings.
    ask(page, "Name a fruit.", max_tokens=None)
    answered(page)
    page.get_by_role("button", name="A tie").click()
    expect(page.locator(".vote")).to_contain_text("Your vote: A tie.")
    expect(page.locator(".vote")).not_to_contain_text("counts for nothing")

    page.get_by_role("link", name="Experiments").click()
    expect(page.get_by_text(re.compile(r"\d blind votes?: too few to tell"))).to_be_visible()
    page.route("**/v1/experiments/assistant", many_votes)
    expect(page.get_by_text("INCONCLUSIVE so far")).to_be_visible()
    expect(page.get_by_text("of 20 blind votes; ties count half.")).to_be_visible()
    drawing = page.get_by_role("img", name=re.compile(r"Win rate .+ margin at 0\.450, parity"))
    left, right = (drawing.locator(part).bounding_box()["x"] for part in (".limit", ".parity"))
    assert left < right
    assert width(page) == PHONE["width"]


def test_results_need_an_administrators_key(live_url, open_page):
    page = open_page(f"{live_url}#experiments", key=None)
    page.get_by_label("API key").fill(VISITORS_KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_text("need an administrator's key")).to_be_visible()
    page.get_by_role("button", name="Key", exact=True).click()
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Experiment assistant")).to_be_visible()
