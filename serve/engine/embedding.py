"""Embeddings of texts, computed by the same model between the engine's steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from potstill.errors import BackendError, PotstillError
from serve.engine.context import Chunk, DecodeContext
from serve.engine.model import GgufModel
from serve.engine.request import EngineLimits
from serve.errors import QueueFullError

MAX_TEXTS_PER_BATCH = 16
"""Texts that are decoded together; more would not fill a batch of 256 tokens better."""

MAX_TOKENS_PER_BATCH = 64
"""Tokens that are decoded together: running answers wait for them between two of their tokens."""

MAX_TOKENS_PER_TURN = 512
"""Tokens of the texts after which another owner has a turn; a longer text is read to its end."""

Vectors = list[list[float]]


@dataclass(eq=False)
class _Job:
    """Texts of one request, and how far they are."""

    future: Future[Vectors]
    owner: str
    work: Generator[bool, None, Vectors]


class Embedder:
    """A queue of texts to embed; owners take turns, after each group of texts.

    An embedding is the mean of the final hidden states, scaled to unit length.
    The context is created with the first text, and holds `context_tokens` tokens.
    """

    def __init__(self, model: GgufModel, limits: EngineLimits, *, threads: int) -> None:
        self._model = model
        self._limits = limits
        self._threads = threads
        self._context: DecodeContext | None = None
        self._jobs: deque[_Job] = deque()
        self._current: _Job | None = None
        """The one whose group of texts is in the context."""
        self._last_turns: dict[str, int] = {}
        """When each owner who waits had a turn."""

    @property
    def has_work(self) -> bool:
        """Whether texts wait."""
        return bool(self._jobs)

    @property
    def decode_seconds(self) -> float:
        """Time spent in llama.cpp."""
        return self._context.decode_seconds if self._context else 0.0

    def submit(self, texts: Sequence[Sequence[int]], owner: str = "") -> Future[Vectors]:
        """Queue texts; from any thread. A cancelled future drops the rest of them.

        Raises:
            QueueFullError: Too many texts wait, of the owner or in all.
        """
        most, jobs = self._limits.max_queue, [*self._jobs]
        num_owned = sum(job.owner == owner for job in jobs)
        if len(jobs) >= most or num_owned >= self._limits.share_of(most):
            raise QueueFullError("too many texts are waiting for this model")
        future: Future[Vectors] = Future()
        self._jobs.append(_Job(future, owner, self._embed(texts)))
        return future

    def step(self) -> None:
        """Decode one batch."""
        job = self._current = self._current or self._next()
        try:
            if not job.future.cancelled():
                if next(job.work):
                    self._current = None
                return
        except StopIteration as done:
            if job.future.set_running_or_notify_cancel():
                job.future.set_result(done.value)
        except PotstillError as error:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)
        self._jobs.remove(job)
        self._current = None

    def _next(self) -> _Job:
        """Return the first job of the owner whose last turn is the longest ago."""
        jobs, turns = [*self._jobs], self._last_turns
        job = min(jobs, key=lambda one: turns.get(one.owner, 0))
        turns[job.owner] = max(turns.values(), default=0) + 1
        self._last_turns = {one.owner: turns.get(one.owner, 0) for one in jobs}
        return job

    def close(self, error: PotstillError) -> None:
        """Free the context; waiting texts fail with the error."""
        while self._jobs:
            future = self._jobs.popleft().future
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        if self._context is not None:
            self._context.close()

    def _embed(self, texts: Sequence[Sequence[int]]) -> Generator[bool, None, Vectors]:
        """Return the embeddings; yield after each batch whether it was a group's last."""
        if self._context is None:
            self._context = DecodeContext(
                self._model,
                num_sequences=MAX_TEXTS_PER_BATCH,
                context_tokens=self._limits.context_tokens,
                max_batch_tokens=self._limits.max_batch_tokens,
                threads=self._threads,
                max_outputs=self._limits.max_batch_tokens,
                embeddings=True,
                reproducible=self._limits.reproducible,
            )
        vectors: Vectors = []
        for group in self._groups(texts):
            sums = [np.zeros(self._model.embedding_width) for _ in group]
            self._context.clear()
            for chunks in self._batches(group):
                for chunk, states_TE in zip(chunks, self._context.decode(chunks), strict=True):
                    sums[chunk.sequence_id] += states_TE.sum(axis=0, dtype=np.float64)
                yield False
            vectors += [_unit(vector) for vector in sums]
            yield True
        return vectors

    def _groups(self, texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
        """Group as many texts as the context has room for, or as one turn has."""
        room = self._limits.context_tokens
        if self._limits.has_owners:
            room = min(room, MAX_TOKENS_PER_TURN)
        group: list[Sequence[int]] = []
        for text in texts:
            num_tokens = sum(map(len, group)) + len(text)
            if group and (len(group) == MAX_TEXTS_PER_BATCH or num_tokens > room):
                yield group
                group = []
            group.append(text)
        if group:
            yield group

    def _batches(self, group: Sequence[Sequence[int]]) -> Iterator[list[Chunk]]:
        """Split the texts of a group into batches."""
        chunks: list[Chunk] = []
        most = min(MAX_TOKENS_PER_BATCH, self._limits.max_batch_tokens)
        room = most
        for number, text in enumerate(group):
            start = 0
            while start < len(text):
                part = text[start : start + room]
                chunks.append(Chunk(number, start, part, num_outputs=len(part)))
                start, room = start + len(part), room - len(part)
                if room == 0:
                    yield chunks
                    chunks, room = [], most
        if chunks:
            yield chunks


def _unit(vector_E: npt.NDArray[np.float64]) -> list[float]:
    length = float(np.linalg.norm(vector_E))
    if not np.isfinite(length) or length == 0.0:
        raise BackendError("the model's hidden states have no direction", found=f"length {length}")
    return [float(value) for value in vector_E / length]
