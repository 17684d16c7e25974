import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from generate.curation.reviews import Decision, ReviewLog
from generate.review.make import apply, find_subject, sentences
from generate.review.page import Review
from generate.review.rows import Subject
from potstill.errors import ConfigError
from potstill.rundir import RunDirectory
from potstill.schema import Message

ROOT = Path(__file__).parents[4]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "One?", "answer": "art"}\n{"prompt": "Two?", "answer": "sea"}\n')
    return path


@pytest.fixture
def config_path(tmp_path):
    path, examples = tmp_path / "task.toml", tmp_path / "examples.jsonl"
    examples.write_text('{"prompt": "Zero?", "answer": "art"}\n')
    path.write_text(
        f"[task]\nexamples = {json.dumps(str(examples))}\n"
        '[[task.metrics]]\nkind = "label"\nlabels = ["art", "science"]\n'
    )
    return path


def test_a_run_or_a_file_is_reviewed(path, config_path, tmp_path):
    assert find_subject(path, None).labels == ()
    assert find_subject(path, config_path).labels == ("art", "science")
    for call in (find_subject, apply):
        with pytest.raises(ConfigError, match="no such run or file"):
            call(tmp_path / "missing", None)


def test_a_run_without_decisions_writes_nothing_back(tmp_path, config_path):
    run = tmp_path / "run"
    run.mkdir()
    assert apply(run, config_path) == ["no decision has the use examples or references"]


def test_decisions_about_a_run_are_written_to_the_files_of_its_task(tmp_path, config_path):
    run_directory = RunDirectory(tmp_path / "run")
    run_directory.root.mkdir()
    run_directory.config_path.write_text(config_path.read_text())
    question = Message(role="user", content="One?")
    review = Review(Subject("run", [], run_directory.review_path), "ann")
    assert list(sentences(review, run_directory.root)) == ["nothing was decided"]
    for row, use in (("a-0", "examples"), ("b-0", "training")):
        decision = Decision(
            row=row,
            action="accept",
            reviewer="ann",
            time="2026-11-29T21:00:00+00:00",
            use=use,
            messages=(question,),
            answer=(Message(role="assistant", content="science"),),
        )
        assert review.log.add(decision, 0)
    assert list(sentences(review, run_directory.root)) == [
        f"in {run_directory.review_path}: 2 accepted",
        f"potstill run {run_directory.root} makes the training data again with them",
        f"potstill review {run_directory.root} --apply writes examples and references to the "
        "task's files",
    ]
    examples = tmp_path / "examples.jsonl"
    assert apply(run_directory.root, None) == [f"{examples}: 1 added, 0 changed, 0 removed"]
    assert json.loads(examples.read_text().splitlines()[1])["reviewer"] == "ann"


@pytest.mark.slow
def test_the_verb_serves_stores_and_says_what_was_decided(path):
    """A real process: a decision over HTTP, Ctrl-C, and the file with it."""
    command = [sys.executable, "-m", "potstill", "review", str(path), "--port=0", "--reviewer=ann"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        line = process.stdout.readline()
        url, token = re.match(r"(http://[\d.:]+)/\?token=(\S+) until Ctrl-C", line).groups()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

        def ask(name, body=None):
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(url + name, data, headers | {"Origin": url})
            with urllib.request.urlopen(request, timeout=10) as response:
                return json.loads(response.read())

        rows = {row["answer"][0]["content"]: row["id"] for row in ask("/rows")["rows"]}
        ask("/decisions", {"row": rows["sea"], "seen": 0, "action": "reject"})
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
    stored = path.with_name("mine.review.jsonl")
    assert said.splitlines() == [
        f"in {stored}: 1 rejected",
        f"potstill review {path} --apply writes them into the file",
    ]
    (decision,) = ReviewLog(stored).decisions
    assert decision.reviewer == "ann"
    done = subprocess.run(
        [sys.executable, "-m", "potstill", "review", str(path), "--apply"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout == f"{path}: 0 added, 0 changed, 1 removed\n"
    assert path.read_text() == '{"prompt": "One?", "answer": "art"}\n'
