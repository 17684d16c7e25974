"""Requests that wait for a slot, and how much of an engine each owner has."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Sequence

from serve.engine.request import EngineLimits, Request
from serve.errors import InvalidRequestError, QueueFullError

RESERVED = 4
"""Where there are several owners, one slot in so many is for those of whom nothing is answered."""


class Waiting:
    """The queue of an engine. With several owners, none may fill more than half of the engine."""

    def __init__(self, limits: EngineLimits) -> None:
        self._limits = limits
        self._requests: deque[Request] = deque()
        self._num_owned: Counter[str] = Counter()
        """Requests that wait or are being answered, by owner."""

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, requests: Sequence[Request]) -> None:
        """Queue requests of one owner, all of them or none.

        Raises:
            InvalidRequestError: There will never be room for so many.
            QueueFullError: Too many requests wait, of the owner or in all.
        """
        room = self._limits.max_parallel + self._limits.max_queue
        share = self._limits.share_of(room)
        if len(requests) > share:
            raise InvalidRequestError("too many choices", where="n", expected=f"at most {share}")
        num_owned = self._num_owned[requests[0].owner] if requests else 0
        if max(self._num_owned.total() - room, num_owned - share) + len(requests) > 0:
            raise QueueFullError(
                "too many requests are waiting for this model", hint="try again in a moment"
            )
        self._requests.extend(requests)
        self._num_owned.update(one.owner for one in requests)

    def next(self, active: Collection[Request]) -> Request | None:
        """Take the request to start next: of the owner with the fewest that are being answered.

        It counts until `end`. The last slots are for owners who have none, so that nobody waits for
        another's long answer.
        """
        num_free = self._limits.max_parallel - len(active)
        if not num_free or not self._requests:
            return None
        num_active = Counter(one.owner for one in active)
        request = min(self._requests, key=lambda one: num_active[one.owner])
        num_reserved = self._limits.max_parallel // RESERVED if self._limits.has_owners else 0
        if num_active[request.owner] and num_free <= num_reserved:
            return None
        self._requests.remove(request)
        return request

    def end(self, request: Request) -> None:
        """Note that a started request is answered."""
        self._num_owned[request.owner] -= 1
        self._num_owned += Counter()  # drops owners without requests

    def drop(self, requests: Collection[Request]) -> None:
        """Remove those of the requests that wait."""
        for request in [one for one in self._requests if one in requests]:
            self._requests.remove(request)
            self.end(request)

    def clear(self) -> list[Request]:
        """Remove and return all that wait."""
        waiting = [*self._requests]
        self.drop(waiting)
        return waiting
