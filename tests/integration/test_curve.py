"""What shares of the data reach, through the doors of three rooms."""

import json

import pytest

from potstill.curve import make_curve
from potstill.errors import ConfigError
from potstill.facts.curve import CurveFacts
from potstill.manifest import verify_manifest
from potstill.pipeline import STAGES, Choice, resolve

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def choice(tmp_path):
    """A task on which answers score between 0 and 1: how much of a pattern's letters they have."""
    references = tmp_path / "references.jsonl"
    rows = [{"prompt": f"Tell me about number {n}"} for n in range(6)]
    references.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "config.toml"
    path.write_text(
        f"""
[task]
references = {json.dumps(str(references))}
metrics = [{{kind = "regex", pattern = "[aeiou]"}}]

[train]
student = {{num_layers = 3}}
dtype = "float32"
learning_rate = 1e-3
batch_size = 4
max_steps = 8

[quantize]
types = ["Q8_0"]
teacher_types = []
verification_tokens = 64
kl_bounds_nats = {{Q8_0 = 0.5}}

[compare]
max_tokens = 4
max_concurrency = 2
"""
    )
    return Choice(path=path)


def test_a_curve_is_measured_and_resumed(choice, tiny_run, monkeypatch):
    for name in ("train", "quantize"):
        STAGES[name].run(resolve(choice, tiny_run)[name], tiny_run)
    calls = []
    original = type(STAGES["train"]).call

    def call(self, module, function, *arguments):
        calls.append((self.name, function))
        if function == "measure" and len(calls) < 7:
            raise KeyboardInterrupt
        return original(self, module, function, *arguments)

    monkeypatch.setattr("potstill.pipeline.Stage.call", call)
    with pytest.raises(KeyboardInterrupt):
        make_curve(choice, tiny_run)
    scratch = tiny_run.partial_dir("curve") / "scratch"
    made = {path: path.stat().st_mtime_ns for path in scratch.rglob("*.safetensors")}
    assert len([path for path in made if path.parent.name.startswith("share-")]) == 2
    files = {path: path.stat().st_mtime_ns for path in scratch.glob("*.gguf")}
    assert sorted(path.stem for path in files) == [
        "share-0.25-Q8_0",
        "share-0.5-Q8_0",
        "share-1-Q8_0",
    ]
    steps = json.loads((scratch / "share-0.5" / "scratch" / "job.json").read_text())
    assert steps["config"]["max_steps"] == 4

    kept = {}

    def look(self, module, function, *arguments):
        if function == "measure":
            kept.update({path: path.stat().st_mtime_ns for path in (*made, *files)})
        return original(self, module, function, *arguments)

    monkeypatch.setattr("potstill.pipeline.Stage.call", look)
    facts = make_curve(choice, tiny_run).facts
    assert kept == made | files
    assert isinstance(facts, CurveFacts)
    assert [point.share for point in facts.points] == [0.25, 0.5, 1.0]
    counts = [point.num_conversations for point in facts.points]
    assert counts == sorted(counts)
    assert counts[-1] == 24
    assert facts.num_references == 6
    directory = tiny_run.stage_dir("curve")
    verify_manifest(directory)
    values = json.loads((directory / "values.json").read_text())
    assert {share: len(row) for share, row in values.items()} == {"0.25": 6, "0.5": 6, "1": 6}
    assert (directory / "curve.png").is_file()
    assert make_curve(choice, tiny_run).facts == facts


def test_a_curve_needs_references(choice, tiny_run):
    with pytest.raises(ConfigError, match="a learning curve needs something to measure"):
        make_curve(Choice(path=choice.path, overrides=("task={}",)), tiny_run)
