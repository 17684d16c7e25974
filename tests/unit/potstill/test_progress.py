import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from socket import gethostname
from types import SimpleNamespace

import pytest

from potstill.progress import (
    LINE_EVERY_SECONDS,
    Progress,
    Step,
    _console,
    announced,
    append_metrics,
    published,
    read_step,
    track,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture
def clock(monkeypatch):
    """A clock that changes only when it is set."""
    clock = SimpleNamespace(now=1000.0, time=lambda: 1_700_000_000.12345)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("potstill.progress.time", clock)
    return clock


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="potstill.progress")
    return lambda: [record.message for record in caplog.records]


def run_python(source: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=True
    )


def test_a_log_line_that_quotes_others_does_not_control_the_terminal():
    source = """
import logging
from potstill.progress import set_up_logging
set_up_logging()
logging.getLogger("mine").warning("a model: %s", "\\x1b[2J\\u202e")
"""
    line = run_python(source).stderr
    assert "a model: \N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}" in line


def test_before_the_first_unit_there_is_no_estimate(clock):
    progress = Progress("distilling", 10, "casks")
    clock.now += 65
    assert progress.timing() == "1:05 elapsed"


def test_what_is_left_is_estimated_from_the_pace(clock):
    progress = Progress("distilling", 10, "casks")
    clock.now += 30
    progress.advance(2, note="4 casks/min")
    assert progress.timing() == "0:30 elapsed, 2:00 left, 4 casks/min"


def test_earlier_work_does_not_bend_the_estimate(clock):
    progress = Progress("distilling", 1000, "casks")
    progress.resume_from(990)
    clock.now += 60
    assert progress.timing() == "1:00 elapsed"
    progress.advance()
    assert progress.timing() == "1:00 elapsed, 9:00 left"


def test_what_is_under_way_counts_for_half(clock):
    progress = Progress("distilling", 100, "casks", at_once=40)
    clock.now += 60
    assert progress.timing() == "1:00 elapsed, 4:00 left"
    progress.advance(20)
    assert progress.timing() == "1:00 elapsed, 1:30 left"
    progress.advance(60)
    assert progress.timing() == "1:00 elapsed, 0:06 left"


def test_nothing_is_left_at_the_end_and_hours_are_shown(clock):
    progress = Progress("distilling", 1, "casks")
    progress.advance()
    clock.now += 3600 + 61
    assert progress.timing() == "1:01:01 elapsed"


def test_a_line_a_minute_and_one_at_the_end(clock, lines):
    with track("distilling", 10, "casks") as progress:
        for _ in range(8):
            clock.now += LINE_EVERY_SECONDS / 4
            progress.advance()
    assert lines() == [
        "distilling: 4/10 casks, 1:00 elapsed, 1:30 left",
        "distilling: 8/10 casks, 2:00 elapsed, 0:30 left",
        "distilling: 8/10 casks, 2:00 elapsed, 0:30 left",
    ]


def test_work_that_fails_still_says_how_far_it_came(clock, lines):
    def work():
        with track("distilling", 3, "casks") as progress:
            progress.advance()
            clock.now += 5
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert lines() == ["distilling: 1/3 casks, 0:05 elapsed, 0:10 left"]


def test_a_step_without_a_count_is_announced(clock, lines):
    with announced("heating the still"):
        assert lines() == ["heating the still …"]
        clock.now += 61
    assert lines()[1:] == ["heating the still: done in 1:01"]


def test_metrics_are_one_json_object_a_line(tmp_path, clock):
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, "student", loss=0.5, step=1)
    append_metrics(path, "gguf", file="a\nb é")
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first == {"time": round(clock.time(), 3), "stage": "student", "loss": 0.5, "step": 1}
    assert second["file"] == "a\nb é"
    assert path.read_text().endswith("}\n")


def test_log_lines_bars_and_warnings_leave_stdout_to_data():
    answer = run_python(
        "import logging, warnings\n"
        "from potstill.progress import announced, set_up_logging, track\n"
        "set_up_logging(verbose=True)\n"
        "logging.getLogger('mine').info('an information')\n"
        "logging.getLogger('mine').debug('a detail')\n"
        "warnings.warn('a warning')\n"
        "with track('distilling', 2, 'casks') as progress:\n"
        "    progress.advance()\n"
        "with announced('heating the still'):\n"
        "    pass\n"
    )
    assert answer.stdout == ""
    for text in ("an information", "a detail", "a warning", "distilling: 1/2", "heating the still"):
        assert text in answer.stderr


def test_without_verbose_there_are_no_details_and_other_libraries_are_quiet():
    answer = run_python(
        "import logging, os\n"
        "from potstill.progress import set_up_logging\n"
        "set_up_logging()\n"
        "logging.getLogger('mine').debug('a detail')\n"
        "logging.getLogger('mine').info('an information')\n"
        "logging.getLogger('httpx').info('a request')\n"
        "logging.getLogger('vllm').warning('a remark')\n"
        "print(os.environ['TQDM_DISABLE'])\n"
    )
    assert answer.stdout == "1\n"
    assert answer.stderr.rstrip().endswith("mine: an information")
    assert len(answer.stderr.splitlines()) == 1


def test_a_bar_on_a_terminal_counts_as_the_lines_do(monkeypatch, lines):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with track("distilling", 10, "casks") as progress:
        progress.resume_from(4)
        progress.advance(2, note="fast")
        assert type(progress) is not Progress
        (task,) = progress._bar.tasks
        assert (task.completed, task.total) == (6, 10)
        assert task.fields["timing"].endswith("left, fast")
    assert lines() == []


def test_a_name_on_a_terminal_controls_nothing_and_is_no_markup(monkeypatch, capfd):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    _console.cache_clear()  # its stream is that of an earlier test
    with announced("fetching \x1b]0;title[/b]"), track("a[/b]\x1b]0;title", 2, "files"):
        pass
    shown = capfd.readouterr().err
    assert "\x1b]" not in shown
    assert "a[/b]\ufffd]0;title (files)" in shown


def test_the_step_can_be_read_by_others_while_it_lasts(tmp_path, clock):
    path = tmp_path / "step.json"
    assert read_step(path) is None
    with published(path):
        with announced("loading"):
            here = {"host": gethostname(), "pid": os.getpid()}
            assert read_step(path) == Step(clock.time(), "loading", **here)
        with track("sampling", 10, "answers") as progress:
            clock.now += 10
            clock.time = lambda: 1_700_000_010.0
            progress.advance(5)
            step = read_step(path)
    assert (step.label, step.done, step.total, step.unit) == ("sampling", 5, 10, "answers")
    assert step.timing == "0:10 elapsed, 0:10 left"
    assert not path.exists()


def test_the_step_is_written_at_most_once_a_second(tmp_path, clock):
    path = tmp_path / "step.json"
    with published(path), track("sampling", 10, "answers") as progress:
        progress.advance()
        assert read_step(path).done == 0
        clock.time = lambda: 1_700_000_002.0
        progress.advance()
        assert read_step(path).done == 2


def test_a_step_that_cannot_be_written_ends_nothing(tmp_path):
    with published(tmp_path / "absent" / "step.json"), track("reading", 1, "files") as progress:
        progress.advance()
