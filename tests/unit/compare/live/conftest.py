"""A live experiment on a real server in a thread, with models that answer as a test sets."""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvicorn

from serve.wire.chat import ChatRequest
from tests.unit.compare.judging import right_answer
from tests.unit.serve.experiment.conftest import LiveServer, split


class Running:
    """An experiment that answers over real HTTP."""

    def __init__(self, live: LiveServer, base_url: str) -> None:
        self.live, self.base_url = live, base_url

    def ask(self, numbers: range) -> None:
        """Let users ask for numbers, and wait for the shadows."""
        for number in numbers:
            assert self.live.ask(f"What is number {number}?", user=f"u{number}").status_code == 200
        self.live.shadows(numbers.stop)

    def let_the_teacher_vary(self) -> None:
        """Let its answers to one number be long and short in turns, and right each time."""
        num_asked: dict[int, int] = defaultdict(int)

        def says(request: ChatRequest) -> str:
            number = number_in(request)
            num_asked[number] += 1
            return right_answer(number, 2 * (num_asked[number] % 2))

        self.live.teacher.says = says


def number_in(request: ChatRequest) -> int:
    found = re.search(r"number (\d+)", request.messages[-1].text)
    assert found is not None
    return int(found[1])


@pytest.fixture
def experiment(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Return a function that serves an experiment whose student is wrong on some numbers."""
    with ExitStack() as stack:

        def serve(is_wrong: Callable[[int], bool] = lambda _: False, teacher: float = 0) -> Running:
            path = tmp_path / "traffic.sqlite"
            settings = split(student=1, teacher=teacher)
            live = LiveServer(stack, path, experiments={"assistant": settings})
            live.teacher.says = lambda request: right_answer(number_in(request))
            live.student.says = lambda request: (
                "Nobody knows." if is_wrong(number_in(request)) else
                right_answer(number_in(request), 2)
            )  # fmt: skip
            # The same application, but for its lifespan, which the test's client has begun.
            app = live.client.app
            config = uvicorn.Config(app, port=0, lifespan="off", log_config=None)
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, daemon=True)
            thread.start()
            while not server.started:
                time.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]

            def stop() -> None:
                server.should_exit = True
                thread.join(10)

            stack.callback(stop)
            return Running(live, f"http://127.0.0.1:{port}/v1")

        yield serve
