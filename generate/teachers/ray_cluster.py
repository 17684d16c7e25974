"""The teacher on a Ray cluster: replicas in Ray actors, and one front end in this process.

A request goes to the replica with the fewest, and results return as they finish. Requests of a lost
replica go to another one, and a new replica takes its place.

The replicas are `VllmTeacher`, as on one machine, and not Ray Data's vLLM processor
(`ray.data.llm` of Ray 2.60, in `ray.llm._internal.batch`): that one turns each log-probability into
a dictionary and drops the finish reason (`stages.vllm_engine_stage.vLLMOutputData`), waits for the
slowest request of a batch (`stages.base.StatefulStageUDF.__call__`), and maps a data set to a data
set (`processor.base.Processor.__call__`), which rules out follow-up turns.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from generate.teachers.config import EngineConfig, RayConfig
from generate.teachers.protocol import Failure, Requests, Sample, SamplingTeacher, ScoreRequests
from generate.teachers.ray_connection import RayConnection
from generate.teachers.ray_replica import Loaded, Replica, Request, Task
from generate.teachers.vllm_engine import EngineSpec, VllmTeacher
from potstill.errors import PotstillError, TeacherError
from potstill.progress import announced

logger = logging.getLogger(__name__)

MAX_LOSSES = 3
"""Number of successive losses of a replica after which it is not replaced, and of losses with the
same request after which the request fails."""
CLOSE_SECONDS = 10


@dataclass(eq=False)
class _Place:
    """One replica and its requests."""

    actor: Any = None
    ready: bool = False
    held: dict[str, Request] = field(default_factory=dict)
    """Requests without a result so far."""
    active: set[str] = field(default_factory=set)
    """Names of calls that have not returned."""
    num_losses: int = 0
    """Successive losses without a result between them."""


class RayTeacher:
    """Replicas of one teacher on a cluster; a `SamplingTeacher`.

    All machines of the cluster need this package with its dependencies, and the checkpoint under
    the same path.

    Args:
        load_teacher: Loads one replica, in a Ray worker.

    Raises:
        TeacherError: Ray or the cluster is missing, or no replica can be loaded.
    """

    def __init__(
        self,
        spec: EngineSpec,
        engine: EngineConfig,
        cluster: RayConfig,
        *,
        load_teacher: Callable[[EngineSpec, EngineConfig], SamplingTeacher] = VllmTeacher,
    ) -> None:
        self.tokenizer: Any = _load_tokenizer(spec.model)
        self._replica_args = (
            partial(load_teacher, spec, engine),
            [Path(path) for path in (spec.model, spec.lora_path) if path],
        )
        self._depth = 2 * engine.max_num_seqs
        self._run = 0
        self._calls: dict[Any, tuple[_Place, str]] = {}
        self._lost: deque[Request] = deque()
        self._times_lost: Counter[str] = Counter()
        self._connection = RayConnection(cluster, engine)
        self._ray = self._connection.ray
        self._places = [_Place() for _ in range(self._connection.num_replicas)]
        self._loaded: Loaded | None = None
        self.max_num_seqs = len(self._places) * engine.max_num_seqs
        try:
            with announced(f"loading the teacher {spec.model} into vLLM on a Ray cluster"):
                for place in self._places:
                    self._fill(place)
                self._await_first(cluster.start_seconds)
        except BaseException:
            self.close()
            raise

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Token ids that end a completion, the same for all replicas."""
        return self._any_loaded().end_token_ids

    def facts(self) -> dict[str, Any]:
        """Return the facts of the replicas, which are the same as without Ray."""
        return self._any_loaded().facts

    def sample(
        self, next_requests: Requests, *, top_logprobs: int | None
    ) -> Iterator[Sample | Failure]:
        """Draw completions on all replicas. See `SamplingTeacher.sample`.

        Raises:
            TeacherError: The last copy is lost.
        """
        yield from self._work("sample", next_requests, top_logprobs)

    def score(
        self, next_requests: ScoreRequests, *, top_logprobs: int
    ) -> Iterator[Sample | Failure]:
        """Score given texts on all replicas. See `SamplingTeacher.score`.

        Raises:
            TeacherError: The last copy is lost.
        """
        yield from self._work("score", next_requests, top_logprobs)

    def close(self) -> None:
        """End the replicas, and the cluster if it was started here."""
        self._end_run()
        ending = [place.actor.close.remote() for place in self._places if place.ready]
        if ending:
            self._ray.wait(ending, num_returns=len(ending), timeout=CLOSE_SECONDS)
        for place in self._places:
            if place.actor is not None:
                self._ray.kill(place.actor)
        self._places = []
        self._connection.close()

    def _work(
        self,
        task: Task,
        next_requests: Callable[[int], Sequence[Request]],
        top_logprobs: int | None,
    ) -> Iterator[Sample | Failure]:
        try:
            while self._deal(next_requests):
                for place in self._places:
                    if place.held and "work" not in place.active:
                        self._call(place, "work", self._run, task, top_logprobs)
                    if place.held and "collect" not in place.active:
                        self._call(place, "collect", self._run, group="collect")
                yield from self._next_results()
        finally:
            self._end_run()

    def _end_run(self) -> None:
        """Drop unfinished requests, here and in the replicas."""
        self._run += 1
        self._lost.clear()
        self._times_lost.clear()
        for place in self._places:
            place.held.clear()
            if place.ready:
                place.active.clear()
                self._feed(place, [])
        self._calls = {call: at for call, at in self._calls.items() if not at[0].ready}

    def _deal(self, next_requests: Callable[[int], Sequence[Request]]) -> bool:
        """Give requests to the replicas with the fewest; return whether there is work left."""
        ready = [place for place in self._places if place.ready]
        room = sum(self._depth - len(place.held) for place in ready)
        requests = [self._lost.popleft() for _ in range(min(room, len(self._lost)))]
        if room > len(requests):
            requests.extend(next_requests(room - len(requests)))
        batches: dict[_Place, list[Request]] = {}
        for request in requests:
            place = min(ready, key=lambda place: len(place.held))
            place.held[request.request_id] = request
            batches.setdefault(place, []).append(request)
        for place, batch in batches.items():
            self._feed(place, batch)
        # While no replica is ready no request was taken, so there may be work.
        return not ready or any(place.held for place in ready)

    def _feed(self, place: _Place, requests: list[Request]) -> None:
        place.actor.feed.options(concurrency_group="feed").remote(self._run, requests)

    def _call(self, place: _Place, name: str, *args: object, group: str | None = None) -> None:
        method = getattr(place.actor, name)
        if group is not None:
            method = method.options(concurrency_group=group)
        place.active.add(name)
        self._calls[method.remote(*args)] = place, name

    def _next_results(self, seconds: float | None = None) -> Iterator[Sample | Failure]:
        """Wait for a call to return; yield the results it brings.

        Raises:
            TeacherError: No call returned in time, the last replica is lost, or replicas differ.
        """
        calls, _ = self._ray.wait(list(self._calls), timeout=seconds)
        if not calls:
            raise TeacherError(
                "no replica of the teacher was ready in time",
                expected=f"room on the Ray cluster, and a loaded checkpoint after {seconds} s",
                found=f"free on the cluster: {self._ray.available_resources()}",
                hint="add machines, or change [generate.ray]",
            )
        place, name = self._calls.pop(calls[0])
        place.active.remove(name)
        try:
            returned = self._ray.get(calls[0])
        except self._ray.exceptions.RayTaskError as error:
            yield from self._lose(place, error.cause)
            return
        except self._ray.exceptions.RayError as error:
            yield from self._lose(place, error)
            return
        if name == "load":
            self._welcome(place, returned)
        elif name == "collect":
            yield from self._accept(place, returned)

    def _accept(
        self, place: _Place, results: Sequence[Sample | Failure]
    ) -> Iterator[Sample | Failure]:
        for result in results:
            place.num_losses = 0
            del place.held[result.request_id]
            self._times_lost.pop(result.request_id, None)
            yield result

    def _welcome(self, place: _Place, loaded: Loaded) -> None:
        self._loaded = self._loaded or loaded
        if loaded != self._loaded:
            raise TeacherError(
                "two machines of the Ray cluster have different teachers",
                expected=self._loaded,
                found=loaded,
                hint="install the same packages and copy the same checkpoint on all machines",
            )
        place.ready = True

    def _any_loaded(self) -> Loaded:
        # `__init__` returns once the first replica is loaded.
        assert self._loaded is not None
        return self._loaded

    def _lose(self, place: _Place, error: Exception) -> Iterator[Failure]:
        """Replace a failed replica; queue its requests again.

        Raises:
            TeacherError: It was the last one.
        """
        logger.warning("a replica of the teacher was lost: %s", type(error).__name__)
        self._calls = {call: at for call, at in self._calls.items() if at[0] is not place}
        self._ray.kill(place.actor)
        self._replace(place, error)
        held = list(place.held.values())
        place.held.clear()
        for request in held:
            self._times_lost[request.request_id] += 1
            if self._times_lost[request.request_id] < MAX_LOSSES:
                self._lost.append(request)
            else:
                reason = f"{MAX_LOSSES} replicas of the teacher were lost with it"
                yield Failure(request.request_id, reason)

    def _replace(self, place: _Place, error: Exception) -> None:
        # A checkpoint that cannot be loaded will not load at the next attempt either.
        hopeless = not place.ready and isinstance(error, PotstillError)
        place.num_losses += 1
        if not hopeless and place.num_losses < MAX_LOSSES:
            self._fill(place)
            return
        self._places.remove(place)
        if self._places:
            return
        if isinstance(error, PotstillError):
            raise error
        raise TeacherError("the last replica of the teacher was lost", found=error) from error

    def _fill(self, place: _Place) -> None:
        replica = self._ray.remote(**self._connection.actor_options)(Replica)
        place.actor, place.ready = replica.remote(*self._replica_args), False
        place.active.clear()
        self._call(place, "load")

    def _await_first(self, seconds: float) -> None:
        while not any(place.ready for place in self._places):
            # No request was taken, so there are no results.
            deque(self._next_results(seconds), maxlen=0)


def _load_tokenizer(model: str) -> Any:  # noqa: ANN401  (untyped library)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model, local_files_only=True)
