"""Another model behind the same name: each answer is one model's, and none is lost."""

import asyncio

import pytest

from potstill.files import file_version
from serve.backends.local.swappable import SwappableBackend
from serve.backends.protocol import Caller
from serve.config import ServeConfig
from serve.following import Follower
from serve.loading import load_models
from serve.metrics import Metrics
from serve.models import Models
from serve.wire.chat import ChatRequest
from tests.fixtures.tiny_gguf import write_tiny_gguf

pytestmark = pytest.mark.slow

CONFIG = ServeConfig(context_tokens=256, max_parallel=2, threads=1, max_batch_tokens=32)
CALLER = Caller()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    directory = tmp_path_factory.mktemp("versions")
    found = {number: directory / f"version-{number}.gguf" for number in (1, 2)}
    for number, path in found.items():
        write_tiny_gguf(path, seed=number)
    return found


@pytest.fixture
def world(paths, tmp_path):
    """Models `student` and `teacher` of the first version, and a follower."""

    class World:
        def __init__(self):
            self.versions_path = tmp_path / "versions.json"
            self.metrics = Metrics()
            self.number = 1
            self.student_path = paths[1]
            loaded = load_models(CONFIG, self.models().paths, self.metrics)
            self.backends = {name: SwappableBackend(one) for name, one in loaded.items()}
            self.follower = Follower(CONFIG, self.models(), self.models, self.load, self.backends)

        def load(self, config, paths, **settings):
            return load_models(config, paths, self.metrics, **settings)

        def models(self):
            return Models(
                {"student": self.student_path, "teacher": paths[1]},
                versions_path=self.versions_path,
                versions_seen=file_version(self.versions_path),
                version=self.number,
                students=frozenset({"student"}),
            )

        def choose(self, number, path):
            self.number, self.student_path = number, path
            self.versions_path.write_text(f"version {number}")

        async def version_is(self, number):
            async with asyncio.timeout(30):
                while self.backends["student"].card.get("version") != number:
                    await asyncio.sleep(0.02)

        async def run(self, work):
            for backend in self.backends.values():
                await backend.start()
            following = asyncio.create_task(self.follower.run())
            try:
                return await work()
            finally:
                following.cancel()
                await asyncio.gather(*(one.stop() for one in self.backends.values()))

    return World()


def chat(text="Hello", **changes):
    body = {"model": "student", "messages": [{"role": "user", "content": text}]}
    return ChatRequest.model_validate({**body, "max_tokens": 8, "temperature": 0, **changes})


async def answer(backend, **changes):
    return await (await backend.chat(chat(**changes), CALLER)).complete()


def test_requests_after_the_change_go_to_the_new_file_and_the_teachers_stays(world, paths):
    async def work():
        student, teacher = world.backends.values()
        first, kept = await answer(student), teacher.card
        before = student.card
        world.choose(2, paths[2])
        await world.version_is(2)
        second = await answer(student)
        assert first["system_fingerprint"] != second["system_fingerprint"]
        assert (before["file"], student.card["file"]) == ("version-1.gguf", "version-2.gguf")
        assert teacher.card == kept, "it has no version"

    asyncio.run(world.run(work))


def test_an_answer_in_progress_is_finished_by_the_model_that_began_it(world, paths):
    async def work():
        student = world.backends["student"]
        alone = await answer(student, max_tokens=200, ignore_eos=True)
        reply = await student.chat(chat(max_tokens=200, ignore_eos=True, stream=True), CALLER)
        chunks = reply.chunks()
        parts = [await anext(chunks), await anext(chunks)]
        world.choose(2, paths[2])
        former = student._now
        await world.version_is(2)
        parts += [part async for part in chunks]
        assert {part["system_fingerprint"] for part in parts} == {alone["system_fingerprint"]}
        text = "".join(part["choices"][0]["delta"].get("content") or "" for part in parts[:-1])
        assert text == alone["choices"][0]["message"]["content"]
        async with asyncio.timeout(30):
            while former.is_ready:
                await asyncio.sleep(0.02)
        assert student._former == []

    asyncio.run(world.run(work))


def test_a_request_that_is_being_prepared_is_not_lost(world, paths):
    """It has a model, and no place in its engine yet."""

    async def work():
        student = world.backends["student"]
        former = student._now
        with student.in_use() as local:
            world.choose(2, paths[2])
            await world.version_is(2)
            await asyncio.sleep(0.5)
            assert former.is_ready
            reply = await local.chat(chat(), CALLER)
        await reply.complete()
        async with asyncio.timeout(30):
            while former.is_ready:
                await asyncio.sleep(0.02)

    asyncio.run(world.run(work))


def test_a_file_that_cannot_be_loaded_leaves_the_served_one(world, paths, tmp_path, caplog):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(paths[2].read_bytes()[:5000])

    async def work():
        student = world.backends["student"]
        before = await answer(student)
        world.choose(2, broken)
        async with asyncio.timeout(30):
            while "the served version stays" not in caplog.text:
                await asyncio.sleep(0.02)
        after = await answer(student)
        assert [one["system_fingerprint"] for one in (before, after)] == 2 * [
            before["system_fingerprint"]
        ]
        assert after["choices"] == before["choices"]
        world.choose(3, paths[2])
        await world.version_is(3)

    asyncio.run(world.run(work))


def test_a_change_while_models_are_loaded_is_not_missed(world, paths):
    world.choose(2, paths[2])

    async def work():
        await world.version_is(2)

    asyncio.run(world.run(work))


def test_a_draft_of_the_student_is_replaced_too(paths, tmp_path):
    config = CONFIG.model_copy(update={"drafts": {"teacher": "student"}})
    versions_path = tmp_path / "versions.json"

    def models(number=1):
        return Models(
            {"student": paths[number], "teacher": paths[1]},
            versions_path=versions_path,
            version=number,
            students=frozenset({"student"}),
        )

    asked = []

    def load(_config, _paths, *, only, **_settings):
        asked.extend(only)
        return {}

    Follower(config, models(), lambda: models(2), load, {})._change()
    assert asked == ["student", "teacher"]
