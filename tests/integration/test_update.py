"""The whole way of a next version, from what a server recorded to what the same server answers."""

import json
import subprocess
import sys
import threading

import pytest

from potstill.facts.comparison import ComparisonFacts
from potstill.facts.student import StudentFacts
from potstill.facts.update import UpdateFacts
from potstill.pipeline import STAGES, Choice, run_stage
from potstill.rundir import RunDirectory
from potstill.versions import ancestry, read_versions
from tests.fixtures.served import Server
from tests.fixtures.waiting import eventually

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(1800)]

NUM_REFERENCES = 31
"""Enough for a student that ties to pass at margin 0.2."""
THINGS = ["rivers", "clocks", "violins", "glaciers", "passports"]
THINGS += ["lighthouses", "beetles", "harbors", "comets", "novels"]
VERBS = ["repair", "describe", "sell", "photograph", "avoid", "measure"]


def questions(count, start=0):
    pairs = [f"How would you {verb} {thing}?" for verb in VERBS for thing in THINGS]
    return pairs[start : start + count]


@pytest.fixture
def run(tiny_run, tiny_teacher_dir, tmp_path):
    """A run with a student and its files; its task's label is never in a random model's answer."""
    references = tmp_path / "references.jsonl"
    rows = [{"prompt": one, "answer": "quartz"} for one in questions(NUM_REFERENCES, 20)]
    references.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "config.toml"
    path.write_text(
        f"""
[task]
references = {json.dumps(str(references))}
metrics = [{{kind = "label", labels = ["quartz", "basalt"]}}]

[generate]
teacher = {{model = {json.dumps(str(tiny_teacher_dir))}}}
sampling = {{max_tokens = 8, top_logprobs = 8}}
prompts = {{path = "gone.jsonl", validation_share = 0.3}}

[train]
student = {{num_layers = 3}}
dtype = "float32"
learning_rate = 1e-3
batch_size = 4
max_steps = 4
evaluation = {{num_generations = 0}}

[quantize]
types = ["Q8_0"]
teacher_types = ["F16"]
verification_tokens = 64
kl_bounds_nats = {{Q8_0 = 0.5}}

[compare]
candidates = []
verdict = {{margin = 0.2, cluster_by = "conversation"}}
gate = [{{kind = "metric", min_items = 30}}, {{kind = "former", min_items = 30}}]
former_run = "set by the update"
max_tokens = 4
speed_rounds = 1
speed_tokens = 4
max_conversations = 4
"""
    )
    for name in ("train", "quantize"):
        run_stage(STAGES[name], Choice(path=path), tiny_run)
    return tiny_run


@pytest.fixture
def server(run, tmp_path):
    settings = {"record_path": str(tmp_path / "record.jsonl"), "context_tokens": 256}
    server = Server(run, tmp_path / "log", key=None, max_parallel=4, **settings)
    yield server
    server.stop()


def ask(server, text):
    return server.client.chat.completions.create(
        model="student", messages=[{"role": "user", "content": text}], temperature=0, max_tokens=3
    )


def potstill(*arguments):
    command = [sys.executable, "-m", "potstill", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def version_of(server):
    cards = {one.id: one for one in server.client.models.list().data}
    assert not hasattr(cards["teacher"], "version")
    return getattr(cards["student"], "version", None)


def test_recorded_failures_become_the_version_that_is_served(run, server, tmp_path):
    for text in questions(16):
        ask(server, text)
    endpoint = {"base_url": server.url, "model": "teacher"}
    given = ", ".join(f"{key} = {json.dumps(value)}" for key, value in endpoint.items())
    failures, ends = [], threading.Event()

    def go_on():
        while not ends.wait(0.2):
            try:
                ask(server, "How would you spell names?")
            except Exception as error:
                failures.append(repr(error))

    client = threading.Thread(target=go_on)
    client.start()
    try:
        done = potstill(
            "update",
            run.root,
            f"--set=serve.record_path={tmp_path / 'record.jsonl'}",
            f"--set=generate.teacher.endpoint={{{given}}}",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert eventually(lambda: version_of(server) == 2)
    finally:
        ends.set()
        client.join()
    assert failures == []
    next_run = RunDirectory(run.root.with_name(f"{run.root.name}-v2"))
    counts = next_run.facts(UpdateFacts).num_prompts
    assert counts.keys() == {"cut off"}
    assert counts["cut off"] >= 16
    student = json.loads((next_run.stage_dir("student") / "manifest.json").read_text())
    assert student["config"]["student"]["checkpoint"] == str(run.stage_dir("student").absolute())
    assert len(student["config"]["replay"]) == 1
    assert student["stats"]["train_conversations"] > 24, "the first run's, and its own"
    first, second = (one.facts(StudentFacts).evaluation for one in (run, next_run))
    assert first.untrained != second.untrained
    judged = next_run.facts(ComparisonFacts)
    assert judged.outcome == "PASS"
    assert [one.name for one in judged.gate] == ["label", "last student"]
    page = (next_run.stage_dir("comparison") / "report.html").read_text()
    assert "Versions of the student" in page
    assert f"{counts['cut off']} cut off" in page
    assert [row.outcome for row in ancestry(next_run)] == [None, "PASS"]
    shown = potstill("versions", run.root).stdout
    assert f"{run.root.name}-v2" in shown
    assert "(now)" in shown
    back = potstill("update", run.root, "--rollback")
    assert back.returncode == 0, back.stderr
    assert eventually(lambda: version_of(server) == 1)
    assert read_versions(run).current.number == 1
