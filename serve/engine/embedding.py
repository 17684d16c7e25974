"""Embeddings of texts, computed by the same model between the engine's steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

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

Vectors = list[list[float]]


class Embedder:
    """A queue of texts to embed.

    An embedding is the mean of the final hidden states, scaled to unit length.
    The context is created with the first text, and holds `context_tokens` tokens.
    """

    def __init__(self, model: GgufModel, limits: EngineLimits, *, threads: int) -> None:
        self._model = model
        self._limits = limits
        self._threads = threads
        self._context: DecodeContext | None = None
        self._jobs: deque[tuple[Sequence[Sequence[int]], Future[Vectors]]] = deque()
        self._work: Iterator[Vectors | None] | None = None

    @property
    def has_work(self) -> bool:
        """Whether texts wait."""
        return bool(self._jobs)

    @property
    def decode_seconds(self) -> float:
        """Time spent in llama.cpp."""
        return self._context.decode_seconds if self._context else 0.0

    def submit(self, texts: Sequence[Sequence[int]]) -> Future[Vectors]:
        """Queue texts; from any thread. A cancelled future drops the rest of them.

        Raises:
            QueueFullError: Too many texts wait.
        """
        if len(self._jobs) >= self._limits.max_queue:
            raise QueueFullError("too many texts are waiting for this model")
        future: Future[Vectors] = Future()
        self._jobs.append((texts, future))
        return future

    def step(self) -> None:
        """Decode one batch of the oldest list of texts."""
        texts, future = self._jobs[0]
        try:
            if self._work is None:
                self._work = self._embed(texts)
            vectors = None if future.cancelled() else next(self._work)
            if vectors is None and not future.cancelled():
                return
            if vectors is not None and future.set_running_or_notify_cancel():
                future.set_result(vectors)
        except PotstillError as error:
            future.set_exception(error)
        self._jobs.popleft()
        self._work = None

    def close(self, error: PotstillError) -> None:
        """Free the context; waiting texts fail with the error."""
        while self._jobs:
            _, future = self._jobs.popleft()
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        if self._context is not None:
            self._context.close()

    def _embed(self, texts: Sequence[Sequence[int]]) -> Iterator[Vectors | None]:
        """Yield None after each batch, then the embeddings."""
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
                yield None
            vectors += [_unit(vector) for vector in sums]
        yield vectors

    def _groups(self, texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
        """Group as many texts as the context has room for."""
        group: list[Sequence[int]] = []
        for text in texts:
            num_tokens = sum(map(len, group)) + len(text)
            if len(group) == MAX_TEXTS_PER_BATCH or num_tokens > self._limits.context_tokens:
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
