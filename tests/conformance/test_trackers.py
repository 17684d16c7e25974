"""TensorBoard and trackio, which show the metrics of many trainings, show those of potstill's."""

from __future__ import annotations

import json
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conformance.conftest import CACHE, run

TRACKERS = ("tensorboard==2.21.0", "trackio==0.43.0")
SETTINGS = (
    "train.report_to=['tensorboard','trackio']",
    "train.max_steps=4",
    "train.batch_size=4",
    "train.student.num_layers=2",
    "train.evaluation.every_steps=2",
)


@pytest.fixture(scope="module")
def python() -> Path:
    """An interpreter with the project's packages, and with both trackers in front of them."""
    directory = CACHE / "-".join(TRACKERS)
    interpreter = directory / "bin" / "python"
    if not (directory / "ready").is_file():
        run(sys.executable, "-m", "venv", "--clear", directory)
        paths = run(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
        (Path(paths.strip()) / "project.pth").write_text(sysconfig.get_path("purelib"))
        run(interpreter, "-m", "pip", "install", "--quiet", *TRACKERS)
        (directory / "ready").touch()
    return interpreter


SHOWN = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
print(json.dumps([[one.step, one.value] for one in events.Scalars("eval/loss")]))
"""


def test_training_is_shown_by_both(python, tiny_run, tmp_path):
    tracked = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    settings = [f"--set={setting}" for setting in SETTINGS]
    run(python, "-m", "potstill", "train", tiny_run.root, *settings, **tracked)
    own = [json.loads(line) for line in tiny_run.metrics_path.read_text().splitlines()]
    losses = [[row["step"], row["eval_loss"]] for row in own if "eval_loss" in row]
    assert [step for step, _ in losses] == [2, 4]
    shown = json.loads(run(python, "-c", SHOWN, tiny_run.tensorboard_dir).splitlines()[-1])
    assert shown == [pytest.approx(one, rel=1e-6) for one in losses]
    asked = ("--project", "potstill", "--run", tiny_run.root.name, "--metric", "eval/loss")
    answer = run(python.with_name("trackio"), "get", "metric", *asked, "--json", **tracked)
    values = [one["value"] for one in json.loads(answer)["values"]]
    assert values == [loss for _, loss in losses]
