"""A page about a run in progress: stages, the current step, curves, samples to read.

In: the run's files, read at each request. Out: HTML, served read-only on loopback to
whoever has the token in the printed address.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from socket import gethostname
from threading import Thread
from typing import Any

import psutil

from potstill.endpoint import HOST
from potstill.errors import ArtifactError, BackendUnavailableError, PotstillError
from potstill.facts.base import StageName
from potstill.loopback import LoopbackHandler, listen, new_token
from potstill.pages import policy_of, render_page
from potstill.pipeline import PIPELINE, read_estimate
from potstill.progress import Step, read_step
from potstill.rundir import RunDirectory
from potstill.status import stage_rows
from potstill.tables import read_conversation_batches

PORT = 8010
NUM_SAMPLES = 5
CURVE_BYTES, ANSWER_BYTES = 1 << 26, 1 << 16
"""What is read of the metrics and of the student's answers: the newest."""
NUM_POINTS = 400
"""Of a curve; a longer one is thinned."""
STALE_SECONDS = 600.0
"""After which a step is no longer believed: its process may have been killed."""
PAGES: Mapping[str, tuple[StageName, str, str]] = {
    "/data": ("conversations", "summary.html", "the conversations"),
    "/report": ("comparison", "report.html", "the verdict"),
}
"""Pages that stages leave, with their names on this one."""
CURVES = {
    "loss": "loss",
    "eval_loss": "loss, held out",
    "eval_kl_estimate_nats": "KL to the teacher, held out, nats",
    "eval_top1_agreement": "same most probable token, held out",
    "tokens_per_second": "tokens per second",
    "learning_rate": "learning rate",
}
"""What is drawn over the steps of training, by its key in metrics.jsonl."""
WIDTH, HEIGHT = 320, 120


@dataclass(frozen=True)
class Curve:
    """A line, in units of its picture."""

    title: str
    points: str
    first: str
    last: str
    last_step: int
    low: str
    high: str


@dataclass(frozen=True)
class Duration:
    """How long a stage was estimated to take, and took; texts, empty where it is not known."""

    stage: str
    estimated: str
    taken: str


def page_of(run_directory: RunDirectory, query: str = "") -> str:
    """Return the page about a run as it is now.

    Args:
        query: What the addresses of further pages end in, such as `?token=…`.
    """
    try:
        stages, durations, error = stage_rows(run_directory), _durations(run_directory), ""
    except PotstillError as damaged:
        stages, durations, error = [], [], str(damaged)
    step = read_step(run_directory.step_path)
    age = 0.0 if step is None else time.time() - step.time
    memory = None if step is None else _memory_bytes(step)
    pages = {path: PAGES[path][2] for path in PAGES if _is_there(run_directory, path)}
    return render_page(
        "potstill",
        "watch.html.j2",
        script="watch.js",
        run=run_directory.root,
        stages=stages,
        durations=durations,
        error=error,
        step=step if age < STALE_SECONDS and memory != 0 else None,
        memory=f"{memory / 1e9:.1f} GB of memory" if memory else "",
        share=_share(step),
        age=max(0, round(age)),
        curves=curves_of(run_directory.metrics_path),
        samples=_samples(run_directory),
        answers=_answers(run_directory),
        pages=pages,
        query=query,
        width=WIDTH,
        height=HEIGHT,
    )


def curves_of(path: Path) -> list[Curve]:
    """Return the curves of a run's metrics over the steps of training, without damaged lines."""
    if not path.is_file():
        return []
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for row in _newest_rows(path, CURVE_BYTES):
        step = row.get("step")
        if row.get("stage") == "student" and isinstance(step, int) and _is_finite(step):
            # A resumed training measures some steps again.
            for key in CURVES.keys() & row.keys():
                if _is_finite(row[key]):
                    found[key][step] = row[key]
    return [_curve(CURVES[key], found[key]) for key in CURVES if len(found[key]) > 1]


def _is_finite(value: object) -> bool:
    """Return whether a JSON value is a number that a float can hold."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _curve(title: str, values: dict[int, float]) -> Curve:
    steps = sorted(values)
    steps = sorted({*steps[:: max(1, len(steps) // NUM_POINTS)], steps[-1]})
    low, high = min(values[one] for one in steps), max(values[one] for one in steps)
    length, height = max(1, steps[-1] - steps[0]), (high - low) or 1.0
    points = (
        f"{WIDTH * (one - steps[0]) / length:.1f},{HEIGHT * (high - values[one]) / height:.1f}"
        for one in steps
    )
    texts = (f"{one:.3g}" for one in (values[steps[0]], values[steps[-1]], low, high))
    first, last, lowest, highest = texts
    return Curve(title, " ".join(points), first, last, steps[-1], lowest, highest)


def _share(step: Step | None) -> float | None:
    return None if step is None or not step.total else min(1.0, step.done / step.total)


def _durations(run_directory: RunDirectory) -> list[Duration]:
    estimated = read_estimate(run_directory)
    if not estimated:
        return []
    taken = {stage.name: stage.seconds(run_directory) for stage in PIPELINE}
    rows = [(name, estimated.get(name), seconds) for name, seconds in taken.items()]
    if all(taken.values()):
        rows.append(("all", sum(estimated.values()), sum(one or 0.0 for one in taken.values())))
    return [Duration(name, *map(_minutes, both)) for name, *both in rows]


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.1f} min"


def _memory_bytes(step: Step) -> int | None:
    """Return what a step's process and its children hold; 0: it has ended; None: not known here."""
    if step.host != gethostname():
        return None
    try:
        process = psutil.Process(step.pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for one in family:
        with suppress(psutil.Error):  # it has ended meanwhile
            total += one.memory_info().rss
    return total


def _answers(run_directory: RunDirectory) -> list[Mapping[str, Any]]:
    """Return what the student answered when it was last measured during its training."""
    for directory in (run_directory.partial_dir("student"), run_directory.stage_dir("student")):
        path = directory / "generations.jsonl"
        if path.is_file():
            rows = [
                row
                for row in _newest_rows(path, ANSWER_BYTES)
                if {"step", "answer", "finish_reason"} <= row.keys()
            ]
            return [row for row in rows if row["step"] == rows[-1]["step"]]
    return []


def _newest_rows(path: Path, num_bytes: int) -> Iterator[dict[str, Any]]:
    """Yield the objects at the end of a file of JSON lines, without damaged lines."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - num_bytes))
        lines = stream.read(num_bytes).splitlines()
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def _samples(run_directory: RunDirectory) -> Sequence[Mapping[str, Any]]:
    """Return the latest conversations that the teacher has sampled."""
    for directory in (run_directory.partial_dir("samples"), run_directory.stage_dir("samples")):
        if parts := [*directory.glob("part-*.parquet")]:
            newest = max(parts, key=lambda part: part.stat().st_mtime)
            try:
                batches = [*read_conversation_batches(newest, ["prompt", "completion"])]
            except ArtifactError:  # it was moved meanwhile
                return []
            return [row for batch in batches for row in batch.to_pylist()][-NUM_SAMPLES:]
    return []


def _is_there(run_directory: RunDirectory, path: str) -> bool:
    stage, name, _ = PAGES[path]
    return (run_directory.stage_dir(stage) / name).is_file()


def server_of(run_directory: RunDirectory, port: int, token: str) -> ThreadingHTTPServer:
    """Return a server of the page on loopback; it answers GET alone, with a token.

    Raises:
        BackendUnavailableError: The address cannot be listened on.
    """

    class Handler(LoopbackHandler):
        def do_GET(self) -> None:
            path = self.url.path
            if not self.has_token(token):
                return
            if path == "/":
                self.send(page_of(run_directory, f"?token={token}"))
            elif path in PAGES and _is_there(run_directory, path):
                stage, name, _ = PAGES[path]
                page = (run_directory.stage_dir(stage) / name).read_text(encoding="utf-8")
                # The run may be somebody else's.
                self.send(page, policy=policy_of("compare", "report/report.js"))
            else:
                self.send_error(404)

    return listen(Handler, port)


@contextmanager
def watched(run_directory: RunDirectory) -> Iterator[str]:
    """Serve the page for the duration of the block; yields its address."""
    token = new_token()
    try:
        server = server_of(run_directory, PORT, token)
    except BackendUnavailableError:  # another run is watched
        server = server_of(run_directory, 0, token)
    with server:
        Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        yield f"http://{HOST}:{server.server_port}/?token={token}"
        server.shutdown()
