"""A chat in a terminal: questions and commands in, answers of all chosen models out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from potstill.errors import ConfigError, PotstillError
from potstill.terminal import printable
from serve.terminal.server import Answer, Server
from serve.terminal.view import live, plain, side_by_side

PROMPT = "> "
SIDES = ("A", "B")
PREFERENCES = {"a": "a", "b": "b", "tie": "tie", "t": "tie"}
HELP = """\
/model [NAME ...]    choose the models that answer; without a name, list them
/system [TEXT]       instructions for all models; without a text, none of your own
/new                 begin a new conversation
/blind               hide who answers, for votes that count; again to end it
/vote a | b | tie    which of two hidden answers is better
/quit                end, as Ctrl-D does; Ctrl-C stops an answer"""


@dataclass
class Session:
    """One chat.

    Attributes:
        known: The server's models.
        models: Who answers, in the order of the columns.
        system: Instructions of the user's own; None leaves the server its own.
    """

    server: Server
    console: Console
    known: Sequence[str]
    models: list[str] = field(default_factory=list)
    system: str | None = None
    is_blind: bool = False
    _histories: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _to_vote_on: list[Answer] = field(default_factory=list)

    def run(self, read: Callable[[], str]) -> None:
        """Read lines until they end.

        Args:
            read: Returns the next line; raises EOFError at the end, KeyboardInterrupt at Ctrl-C.
        """
        while True:
            try:
                line = read().strip()
                if line == "/quit":
                    return
                self.take(line)
            except EOFError:
                return
            except KeyboardInterrupt:
                self._say("")
            except PotstillError as error:
                self._say(str(error), "red")

    def take(self, line: str) -> None:
        """Do what a line says; a line that is no command is a question.

        Raises:
            ConfigError: A command is wrong.
            PotstillError: The server does not take it.
        """
        if not line.startswith("/"):
            if line:
                self._ask(line)
            return
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name == "/model":
            self._choose(rest.split())
        elif name == "/system":
            self.system = rest or None
            self._begin()
        elif name == "/new":
            self._begin()
        elif name == "/blind":
            self._hide()
        elif name == "/vote":
            self._vote(rest.lower())
        elif name == "/help":
            self._say(HELP)
        else:
            raise ConfigError("unknown command", found=name, hint="/help lists the commands")

    def use(self, names: Sequence[str]) -> None:
        """Let models answer, in a new conversation.

        Raises:
            ConfigError: The server has no such model.
        """
        if unknown := [name for name in names if name not in self.known]:
            raise ConfigError(
                "no such model",
                where=self.server.base_url,
                found=" ".join(unknown),
                expected=" | ".join(self.known),
            )
        self.models, self.is_blind = [*dict.fromkeys(names)], False
        self._begin()

    def _choose(self, names: list[str]) -> None:
        if names:
            self.use(names)
        for name in self.known:
            self._say(f"{'*' if name in self.models else ' '} {name}")

    def _hide(self) -> None:
        if not self.is_blind and len(self.models) != len(SIDES):
            raise ConfigError(
                "a blind vote is between two models",
                found=" ".join(self.models),
                hint="/model NAME NAME",
            )
        if not self.is_blind:
            self.server.deal(self.models)  # Raises where votes cannot be stored.
        self.is_blind = not self.is_blind
        self._begin()
        if self.is_blind:
            self._say(
                "Who answers is hidden, in a new order each time. Each question stands alone."
            )

    def _begin(self) -> None:
        self._histories.clear()
        self._to_vote_on.clear()

    def _vote(self, preference: str) -> None:
        if preference not in PREFERENCES:
            raise ConfigError("no such vote", found=preference, expected="/vote a | b | tie")
        if not self._to_vote_on:
            raise ConfigError(
                "there are no two hidden answers to vote on", hint="/blind, then a question"
            )
        ids = [one.answer_id for one in self._to_vote_on]
        models, settings = self.server.vote(ids, PREFERENCES[preference])
        self._to_vote_on.clear()
        shown = zip(SIDES, models, strict=True)
        why = f" It counts for nothing: {', '.join(settings)} was set." if settings else ""
        self._say("Stored. " + ", ".join(f"{side} was {name}" for side, name in shown) + "." + why)

    def _ask(self, question: str) -> None:
        if self.is_blind:
            self._begin()
            asked = dict(zip(SIDES, self.server.deal(self.models), strict=True))
        else:
            asked = {name: name for name in self.models}
        own = [] if self.system is None else [{"role": "system", "content": self.system}]
        user = {"role": "user", "content": question}
        histories = [[*self._histories.get(one, own), user] for one in asked]
        answers = [Answer(name, is_hidden=self.is_blind) for name in asked]
        self._wait_for(answers, list(asked.values()), histories)
        is_whole = not any(one.error for one in answers)
        for one, history in zip(answers, histories, strict=True):
            if is_whole:  # or else the question may be asked again
                self._histories[one.name] = [*history, one.message]
        if self.is_blind and is_whole:
            self._to_vote_on = answers

    def _wait_for(
        self, answers: Sequence[Answer], models: Sequence[str], histories: Sequence[list[Any]]
    ) -> None:
        """Show answers until all are complete; Ctrl-C stops them."""
        stop = threading.Event()
        with ThreadPoolExecutor(len(answers)) as pool:
            asking = [
                pool.submit(self.server.ask, model, history, answer, stop)
                for model, history, answer in zip(models, histories, answers, strict=True)
            ]
            try:
                with self._waiting(answers):
                    wait(asking)
            except KeyboardInterrupt:
                stop.set()
        if self.console.is_terminal:
            self.console.print(side_by_side(answers, self.console.width))
        else:
            for answer in answers:
                self._say(plain(answer))

    def _waiting(self, answers: Sequence[Answer]) -> AbstractContextManager[object]:
        if not self.console.is_terminal:
            return nullcontext()
        # Which of two hidden answers comes first would show whose it is.
        return self.console.status("…") if self.is_blind else live(self.console, answers)

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(
            printable(text), style=style, markup=False, highlight=False, soft_wrap=True
        )
