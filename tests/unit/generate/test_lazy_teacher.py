import sys
from types import ModuleType, SimpleNamespace

import pytest

from generate.config import GenerateConfig
from generate.lazy_teacher import LONGEST_MODEL_LEN, LazyTeacher
from generate.teachers import vllm_engine
from generate.teachers.checkpoint import TeacherCheckpoint
from generate.teachers.vllm_engine import EngineSpec

ENDPOINT = {"base_url": "http://127.0.0.1:1/v1", "model": "toy"}


@pytest.fixture
def found(monkeypatch, tmp_path, toy_tokenizer) -> list:
    """Replaces the checkpoint by one without files; the requested configurations."""
    asked: list = []

    def find_teacher(config):
        asked.append(config)
        return TeacherCheckpoint(
            "toy", tmp_path, "bfloat16", toy_tokenizer, 2048, 1 << 16, 7, "f", None
        )

    monkeypatch.setattr("generate.lazy_teacher.find_teacher", find_teacher)
    return asked


@pytest.fixture
def loaded(monkeypatch, answering) -> list:
    """Fakes of vLLM, Ray and a server; the arguments with which each was loaded."""
    made: list = []

    def stand_in(kind):
        def load(*arguments, **options):
            teacher = answering()
            given = {"arguments": arguments, "options": options}
            made.append(SimpleNamespace(kind=kind, teacher=teacher, **given))
            return teacher

        return load

    monkeypatch.setattr(vllm_engine, "VllmTeacher", stand_in("vllm"))
    for name, attribute in {"ray_cluster": "RayTeacher", "endpoint.teacher": "connect"}.items():
        module = ModuleType(name)
        setattr(module, attribute, stand_in(name))
        monkeypatch.setitem(sys.modules, f"generate.teachers.{name}", module)
    return made


def configured(**tables) -> GenerateConfig:
    return GenerateConfig.model_validate(tables)


def test_nothing_is_found_or_loaded_before_it_is_needed(found, loaded):
    teacher = LazyTeacher(configured())
    teacher.close()
    assert found == loaded == []


def test_the_checkpoint_is_found_once(found):
    config = configured(teacher={"model": "toy"})
    teacher = LazyTeacher(config)
    assert teacher.checkpoint is teacher.checkpoint
    assert found == [config.teacher]


@pytest.mark.parametrize(
    ("wanted", "expected"), [(None, 2048), (300, 300), (2048, 2048), (5000, 2048)]
)
@pytest.mark.usefixtures("found")
def test_the_longest_conversation_is_what_is_wanted_and_the_checkpoint_can(wanted, expected):
    assert LazyTeacher(configured(engine={"max_model_len": wanted})).max_model_len == expected


@pytest.mark.usefixtures("found")
def test_a_long_context_is_not_used_up_where_nobody_asks_for_it(monkeypatch):
    teacher = LazyTeacher(configured())
    long = SimpleNamespace(context_tokens=1 << 20)
    monkeypatch.setattr("generate.lazy_teacher.find_teacher", lambda _: long)
    assert teacher.max_model_len == LONGEST_MODEL_LEN


@pytest.mark.usefixtures("found")
def test_it_is_loaded_once_and_after_closing_anew(loaded):
    teacher = LazyTeacher(configured())
    first = teacher.load()
    assert teacher.load() is first
    assert not first.closed
    teacher.close()
    assert first.closed
    teacher.close()
    assert teacher.load() is not first
    assert len(loaded) == 2


@pytest.mark.parametrize("ray", [None, {}])
@pytest.mark.usefixtures("found")
def test_vllm_gets_the_checkpoint_and_the_limits_of_requests(loaded, tmp_path, ray):
    config = configured(
        teacher={"model": "toy", "lora": str(tmp_path / "adapter")},
        sampling={"top_logprobs": 9, "seed": 4},
        engine={"max_model_len": 500},
        ray=ray,
    )
    teacher = LazyTeacher(config).load()
    (one,) = loaded
    assert one.teacher is teacher
    assert one.kind == ("vllm" if ray is None else "ray_cluster")
    spec, *rest = one.arguments
    assert spec == EngineSpec(
        model=str(tmp_path),
        dtype="bfloat16",
        max_model_len=500,
        max_logprobs=9,
        seed=4,
        lora_path=tmp_path / "adapter",
    )
    assert rest == [config.engine] + ([] if ray is None else [config.ray])


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize("thinks", [None, False])
def test_a_served_teacher_is_connected_to(loaded, tmp_path, thinks):
    config = configured(
        teacher={"model": "toy", "endpoint": ENDPOINT}, thinking={"teacher": thinks}
    )
    teacher = LazyTeacher(config).load()
    (one,) = loaded
    assert (one.kind, one.teacher) == ("endpoint.teacher", teacher)
    assert one.arguments == (config.teacher.endpoint, tmp_path)
    assert one.options == {"thinks": thinks}
