"""A run that is reviewed in a real browser, and trained again with what was decided.

The teacher is the project's own server of a random model, behind a front that lets text through.
"""

import json
import threading

import pytest

from generate.config import GenerateConfig
from generate.review.page import Review, server_of
from generate.review.run_rows import run_subject
from generate.stage import run as generate
from potstill.facts.conversations import ConversationsFacts
from potstill.manifest import read_manifest
from potstill.rundir import RunDirectory
from potstill.tables import conversation_paths, read_conversations
from tests.fixtures.browser import chromium
from tests.fixtures.served import Server, run_of_gguf
from tests.fixtures.text_front import KEY, TextFront
from train.config import TrainConfig
from train.stage import run as train

pytestmark = pytest.mark.usefixtures("one_thread")

BETTER = "It is nineteen."


@pytest.fixture
def config(tiny_gguf, tiny_student_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", KEY)
    served = run_of_gguf(tmp_path / "served", tiny_gguf)
    server = Server(served, tmp_path / "log", key=None, models=["student"], context_tokens=512)
    front = TextFront(server.url, "openai")
    prompts_path = tmp_path / "prompts.jsonl"
    questions = [f"What is {number} plus seven?" for number in range(8)]
    prompts_path.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in questions))
    endpoint = {
        "base_url": front.base_url,
        "model": "student",
        "text_only": True,
        "terms_allow_training": True,
        "api_key_variable": "A_KEY",
    }
    yield GenerateConfig.model_validate(
        {
            "teacher": {"model": str(tiny_student_dir), "endpoint": endpoint},
            "prompts": {"path": str(prompts_path)},
            "sampling": {"max_tokens": 12},
            "curation": {"prompt_filters": [], "conversation_filters": []},
        }
    )
    front.close()
    server.stop()


def training(run_directory):
    directory = run_directory.stage_dir("conversations")
    return [
        conversation
        for path in conversation_paths(directory, "train")
        for conversation in read_conversations(path)
    ]


def test_the_next_run_trains_on_what_was_decided(config, tiny_student_dir, tmp_path):
    run_directory = RunDirectory(tmp_path / "run")
    settings = {"dtype": "float32", "max_steps": 2, "evaluation": {"num_generations": 0}}
    student = TrainConfig.model_validate(
        settings | {"student": {"checkpoint": str(tiny_student_dir)}}
    )
    generate(config, run_directory)
    train(student, run_directory)
    before = training(run_directory)
    first = read_manifest(run_directory.stage_dir("student"))

    review = Review(run_subject(run_directory), "ann")
    with server_of(review, 0) as server, chromium() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/?token={review.token}")
        page.get_by_text(f"0 of {len(before)} reviewed").wait_for()
        page.keyboard.press("r")
        page.get_by_text(f"1 of {len(before)} reviewed").wait_for()
        page.keyboard.press("e")
        page.keyboard.press("Control+a")
        page.keyboard.type(BETTER)
        page.keyboard.press("Control+Enter")
        page.get_by_text(f"2 of {len(before)} reviewed").wait_for()
        server.shutdown()

    generate(config, run_directory)
    after = training(run_directory)
    assert len(after) == len(before) - 1
    (edited,) = (one for one in after if one.completion[0].content == BETTER)
    turn = edited.turns[0]
    assert turn.finish_reason == "stop"
    facts = run_directory.facts(ConversationsFacts)
    assert facts.num_reviewed == {"reject": 1, "edit": 1}
    old = next(one for one in before if one.conversation_id == edited.conversation_id)
    assert edited.token_ids[: turn.start].tolist() == old.token_ids[: turn.start].tolist()

    train(student, run_directory)
    second = read_manifest(run_directory.stage_dir("student"))
    assert second.inputs != first.inputs
    assert second.created_at != first.created_at
