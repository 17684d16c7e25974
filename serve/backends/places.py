"""Places for requests at another server: how many it is sent at a time, and whose.

In: requests with their owners. Out: their turns. Another server answers in the order of arrival;
what waits here instead waits fairly.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from serve.engine.waiting import RESERVED
from serve.errors import InvalidRequestError, QueueFullError


@dataclass(frozen=True)
class Room:
    """How many choices of answers there is room for."""

    max_parallel: int
    """In progress together."""
    max_queue: int
    """Waiting together."""
    has_owners: object = False
    """True where there are several owners: then none of them may take all. It may change."""

    @property
    def reserved(self) -> int:
        """What is left to owners who have nothing in progress."""
        return self.max_parallel // RESERVED if self.has_owners else 0

    @property
    def total(self) -> int:
        """In progress and waiting together."""
        return self.max_parallel + self.max_queue

    @property
    def of_one(self) -> int:
        """The same of one owner."""
        return max(1, self.total // 2) if self.has_owners else self.total


@dataclass(eq=False)
class Place:
    """A request with its choices."""

    owner: str
    num_choices: int
    begun: asyncio.Future[None] = field(default_factory=asyncio.Future)


class Places:
    """The requests that a server is sent, and those that wait."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._waiting: list[Place] = []
        self._begun: set[Place] = set()
        self._num_begun: Counter[str] = Counter()
        """Choices in progress, by owner."""
        self._num_owned: Counter[str] = Counter()
        """Choices that are in progress or wait, by owner."""

    async def take(self, owner: str, num_choices: int = 1) -> Place:
        """Wait for a place, which must be left.

        Raises:
            InvalidRequestError: There will never be room for so many choices.
            QueueFullError: Too many requests wait, of the owner or in all.
        """
        room = self._room
        most = max(1, room.max_parallel - room.reserved)
        if num_choices > most:
            raise InvalidRequestError("too many choices", where="n", expected=f"at most {most}")
        beyond = max(self._num_owned.total() - room.total, self._num_owned[owner] - room.of_one)
        if beyond + num_choices > 0:
            raise QueueFullError(
                "too many requests are waiting for this model", hint="try again in a moment"
            )
        place = Place(owner, num_choices)
        self._num_owned[owner] += num_choices
        self._waiting.append(place)
        self._begin()
        try:
            await place.begun
        except BaseException:
            self.leave(place)
            raise
        return place

    def leave(self, place: Place) -> None:
        """End a request; does nothing the second time."""
        if place in self._begun:
            self._begun.remove(place)
            self._num_begun[place.owner] -= place.num_choices
            self._num_begun += Counter()  # drops owners without requests
        elif place in self._waiting:
            self._waiting.remove(place)
        else:
            return
        self._num_owned[place.owner] -= place.num_choices
        self._num_owned += Counter()
        self._begin()

    def _begin(self) -> None:
        """Begin the requests of the owners with the fewest in progress, as far as there is room.

        Nothing overtakes a request of several choices: it would wait for ever.
        """
        while self._waiting:
            place = min(self._waiting, key=lambda one: self._num_begun[one.owner])
            reserved = self._room.reserved if self._num_begun[place.owner] else 0
            num_begun = self._num_begun.total()
            if num_begun and num_begun + place.num_choices > self._room.max_parallel - reserved:
                return
            self._waiting.remove(place)
            self._begun.add(place)
            self._num_begun[place.owner] += place.num_choices
            if not place.begun.done():
                place.begun.set_result(None)
