import base64
import hashlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from importlib import resources
from socket import gethostname

import pytest

from potstill import watch
from potstill.progress import published, track
from potstill.rundir import RunDirectory
from potstill.schema import Message
from potstill.watch import NUM_POINTS, STALE_SECONDS, curves_of, page_of, server_of, watched
from tests.fixtures.facts import prompts_facts

HOSTILE = "<script>document.title = 'taken'</script>"


@pytest.fixture
def metrics_path(tmp_path):
    return tmp_path / "metrics.jsonl"


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_step(run_directory, label="sampling", **values):
    step = {"time": time.time(), "label": label} | values
    run_directory.step_path.write_text(json.dumps(step))


def row(step, **values):
    return {"time": 1.0, "stage": "student", "step": step, **values}


def test_a_curve_goes_from_the_first_step_to_the_last(metrics_path):
    write(metrics_path, [row(1, loss=2.0), row(11, loss=1.0), row(21, loss=0.5, eval_loss=1)])
    (curve,) = curves_of(metrics_path)
    assert curve.title == "loss"
    assert curve.points == "0.0,0.0 160.0,80.0 320.0,120.0"
    assert (curve.first, curve.last, curve.low, curve.high) == ("2", "0.5", "0.5", "2")


def test_what_was_measured_on_the_way_is_a_curve(metrics_path):
    write(metrics_path, [row(step, eval_loss=1.0 / step) for step in (5, 10)])
    assert [curve.title for curve in curves_of(metrics_path)] == ["loss, held out"]


def test_other_stages_damaged_lines_and_figures_that_are_none_are_no_points(metrics_path):
    write(metrics_path, [row(1, loss=2.0), row(2, loss=float("nan")), row(3, loss=1.0)])
    with metrics_path.open("a") as stream:
        strange = (row(4, loss="9"), row(5, loss=10**400), row("6", loss=9.0))
        for one in (*strange, row(10**400, loss=9.0)):
            stream.write(f"{json.dumps(one)}\n")
        stream.write("[" * 100_000 + "\n")
        stream.write('{"stage": "gguf", "loss": 9}\n{"stage": "student", "st')
    (curve,) = curves_of(metrics_path)
    assert len(curve.points.split()) == 2
    assert curve.high == "2"


def test_a_step_that_is_trained_again_counts_as_it_was_last(metrics_path):
    write(metrics_path, [row(1, loss=2.0), row(2, loss=7.0), row(2, loss=1.0)])
    assert curves_of(metrics_path)[0].last == "1"


def test_a_long_curve_is_thinned_and_keeps_its_end(metrics_path):
    write(metrics_path, [row(step, loss=step) for step in range(10 * NUM_POINTS + 1)])
    (curve,) = curves_of(metrics_path)
    assert len(curve.points.split()) <= NUM_POINTS + 2
    assert curve.last_step == 10 * NUM_POINTS


def test_of_large_metrics_the_newest_are_read(metrics_path, monkeypatch):
    write(metrics_path, [row(step, loss=9.0 if step < 50 else 1.0) for step in range(100)])
    monkeypatch.setattr(watch, "CURVE_BYTES", metrics_path.stat().st_size // 3)
    assert curves_of(metrics_path)[0].high == "1"


def test_without_metrics_there_are_no_curves(metrics_path):
    assert curves_of(metrics_path) == []


def test_stages_and_the_step_are_shown(run_directory):
    run_directory.open_stage("prompts", {}).finish(facts=prompts_facts())
    with published(run_directory.step_path), track("sampling", 10, "answers") as progress:
        progress.advance(4)
        page = page_of(run_directory)
    assert "No process is working" not in page
    assert "<strong>sampling</strong>" in page
    assert "of 10 answers" in page
    assert 'class="state finished">finished' in page
    assert page.count('class="state missing">missing') == 5
    assert "No process is working on this run" in page_of(run_directory)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"label": "x"}', '{"time": 1, "more": 2}'])
def test_a_step_that_cannot_be_read_is_none(run_directory, content):
    run_directory.root.mkdir()
    run_directory.step_path.write_text(content)
    assert "No process is working on this run" in page_of(run_directory)


def test_a_step_of_a_process_that_was_killed_is_not_believed_for_ever(run_directory):
    run_directory.root.mkdir()
    for age, is_shown in ((60, True), (STALE_SECONDS + 60, False)):
        write_step(run_directory, time=time.time() - age, host="another machine", pid=1)
        assert ("<strong>sampling" in page_of(run_directory)) is is_shown
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid, is_shown in ((os.getpid(), True), (ended.pid, False)):
        write_step(run_directory, host=gethostname(), pid=pid)
        page = page_of(run_directory)
        assert ("<strong>sampling" in page) is ("GB of memory" in page) is is_shown


def test_what_a_run_holds_is_text(tmp_path, write_conversations, make_conversation):
    root = tmp_path / HOSTILE.replace("/", "")
    run_directory = RunDirectory(root)
    directory = run_directory.partial_dir("samples")
    directory.mkdir(parents=True)
    conversation = make_conversation(given=(Message(role="user", content=HOSTILE),))
    write_conversations(directory, [conversation])
    (directory / "train-00000.parquet").rename(directory / "part-00000.parquet")
    (run_directory.partial_dir("student")).mkdir()
    answers = run_directory.partial_dir("student") / "generations.jsonl"
    answers.write_text(json.dumps({"step": 1, "answer": HOSTILE, "finish_reason": "stop"}) + "\n")
    write_step(run_directory, HOSTILE)
    page = page_of(run_directory)
    assert "Latest conversations" in page
    assert "Latest answers of the student, after 1 steps" in page
    assert "<script>document" not in page


def test_the_newest_answers_of_the_student_are_shown(run_directory):
    directory = run_directory.partial_dir("student")
    directory.mkdir(parents=True)
    rows = [
        {"step": step, "answer": f"answer {number} of {step}", "finish_reason": reason}
        for step in (10, 20)
        for number, reason in enumerate(("stop", "length"))
    ]
    write(directory / "generations.jsonl", rows)
    with (directory / "generations.jsonl").open("a") as stream:
        stream.write('{"step": 30, "ans')
    page = page_of(run_directory)
    assert "after 20 steps" in page
    assert "answer 0 of 20" in page
    assert page.count("(cut off)") == 1
    assert "of 10" not in page


def test_the_estimate_stands_beside_what_stages_took(run_directory):
    assert "<h2>Time" not in page_of(run_directory)
    run_directory.root.mkdir()
    run_directory.estimate_path.write_text('{"generate": 600, "train": 90}')
    run_directory.open_stage("student", {}).finish(stats={"seconds": 123.0})
    table = re.sub(r"<[^>]*>|\s+", " ", page_of(run_directory).split("<h2>Time")[1])
    assert "generate 10.0 min train 1.5 min 2.0 min" in " ".join(table.split())
    run_directory.estimate_path.write_text("[")
    assert "<h2>Time" not in page_of(run_directory)


def test_a_run_is_watched_beside_another(run_directory):
    with watched(run_directory) as first, watched(run_directory) as second:
        assert first != second
        assert "?token=" in first
        for address in (first, second):
            with urllib.request.urlopen(address, timeout=5) as answer:
                assert b"No process is working on this run" in answer.read()


def test_a_damaged_manifest_is_said(run_directory):
    run_directory.open_stage("prompts", {}).finish(facts=prompts_facts())
    (run_directory.stage_dir("prompts") / "manifest.json").write_text("{")
    assert "manifest" in page_of(run_directory)


class Asked:
    def __init__(self, run_directory):
        self.server = server_of(run_directory, 0, "secret")
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=5)
        connection.request(method, f"{path}?token=secret", headers=headers)
        return connection.getresponse()

    def status(self, *request, **headers):
        return self.answer(*request, **headers).status


def test_only_its_pages_are_read_and_only_under_its_own_name(run_directory):
    run_directory.root.mkdir()
    (run_directory.root / "config.toml").write_text("secret")
    asked = Asked(run_directory)
    with asked.server:
        assert asked.status("/") == 200
        assert asked.status("/", Host="localhost:8010") == 200
        assert asked.status("/", Host="evil.example") == 421
        for path in ("/report", "/config.toml", "/../config.toml", "//etc/passwd"):
            assert asked.status(path) == 404
        assert asked.status("/", method="POST") == 501
        asked.server.shutdown()


def test_a_page_of_the_run_runs_the_script_of_reports_alone(run_directory):
    report_path = run_directory.stage_dir("comparison") / "report.html"
    report_path.parent.mkdir(parents=True)
    report_path.write_text("a report")
    asked = Asked(run_directory)
    with asked.server:
        for path, policies in (("/", 1), ("/report", 2)):
            found = asked.answer(path).headers.get_all("Content-Security-Policy")
            assert len(found) == policies, path
        assert found[0].startswith("sandbox allow-scripts; default-src 'none'; ")
        asked.server.shutdown()
    (source,) = re.findall("sha256-[^']+", found[0])
    script = (resources.files("compare") / "report" / "report.js").read_bytes().rstrip()
    assert base64.b64decode(source.removeprefix("sha256-")) == hashlib.sha256(script).digest()


def test_other_users_of_the_machine_read_nothing(run_directory):
    asked = Asked(run_directory)
    with asked.server:
        for path in ("/", "/?token=", "/?token=wrong", "/report", "/?token=%ff"):
            connection = http.client.HTTPConnection("127.0.0.1", asked.server.server_port)
            connection.request("GET", path)
            assert connection.getresponse().status == 401, path
        with socket.create_connection(("127.0.0.1", asked.server.server_port)) as connection:
            connection.sendall(b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 401 " in connection.recv(100)
        asked.server.shutdown()


def test_a_training_that_diverged_at_once_has_no_curve_and_a_page(run_directory):
    run_directory.root.mkdir()
    write(run_directory.metrics_path, [row(1, loss=float("nan")), row(2, loss=float("inf"))])
    assert curves_of(run_directory.metrics_path) == []
    assert "No process is working on this run" in page_of(run_directory)
