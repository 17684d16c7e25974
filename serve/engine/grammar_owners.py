"""The processes that read grammars for an engine: one owner's grammars do not wait for another's.

A process answers in order, and a grammar may take a fifth of a second for each of its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait

from serve.engine.grammar_client import Grammar, GrammarProcess, Source, Verdict
from serve.engine.model import GgufModel
from serve.engine.request import Request

NUM_PROCESSES = 4
"""Where there are several owners, as far as that many have grammars at a time."""


@dataclass(frozen=True)
class _Place:
    owner: str
    process: GrammarProcess


class GrammarProcesses:
    """Several processes with the methods of one.

    Args:
        model: Whose vocabulary the grammars are over.
        has_owners: True where there are several owners; it may change.
    """

    def __init__(self, model: GgufModel, *, has_owners: object) -> None:
        self._make = partial(GrammarProcess, model.path, model.vocab_size)
        self._has_owners = has_owners
        self._processes: list[GrammarProcess] = []
        self._open: dict[Grammar, _Place] = {}

    @property
    def is_busy(self) -> bool:
        """Whether replies are still to come."""
        return any(one.is_busy for one in self._processes)

    def of(self, request: Request) -> Grammar | None:
        """Begin with the grammar of a request; None if it has none."""
        return None if request.grammar is None else self.open(request.grammar, request.owner)

    def open(self, source: Source, owner: str) -> Grammar:
        """Begin with a grammar; `collect` reports what is wrong with it."""
        process = self._process_of(owner)
        grammar = process.open(source)
        self._open[grammar] = _Place(owner, process)
        return grammar

    def propose(self, grammar: Grammar, token_id: int) -> None:
        """Ask whether a token may come next; `collect` returns the verdict."""
        self._open[grammar].process.propose(grammar, token_id)

    def skip(self, grammar: Grammar, token_id: int) -> None:
        """Count a forced token as part of the text."""
        self._open[grammar].process.skip(grammar, token_id)

    def release(self, grammar: Grammar) -> None:
        """End a grammar; `collect` returns nothing more about it."""
        if place := self._open.pop(grammar, None):
            place.process.release(grammar)

    def close(self) -> None:
        """End the processes."""
        for one in self._processes:
            one.close()

    def collect(self, timeout_seconds: float) -> list[tuple[Grammar, Verdict]]:
        """Return the verdicts that have arrived; wait for the first one."""
        busy = [one for one in self._processes if one.is_busy]
        if len(busy) == 1:
            return busy[0].collect(timeout_seconds)
        running = [one.fileno() for one in busy if one.is_running]
        if timeout_seconds > 0.0 and len(running) == len(busy):
            wait(running, timeout_seconds)
        return [verdict for one in busy for verdict in one.collect(0.0)]

    def _process_of(self, owner: str) -> GrammarProcess:
        """Return the owner's process, else one without work, else the one with the least."""
        places = [*self._open.values()]
        own = [one.process for one in places if one.owner == owner]
        if own:
            return own[0]
        loads = {
            one: one.is_busy + sum(place.process is one for place in places)
            for one in self._processes
        }
        most = NUM_PROCESSES if self._has_owners else 1
        process = min(loads, key=loads.__getitem__, default=None)
        if process is None or (loads[process] and len(loads) < most):
            process = self._make()
            self._processes.append(process)
        return process
