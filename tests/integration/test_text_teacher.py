"""A teacher that gives text alone: the project's own server behind a front that hides the rest."""

import json
import logging

import pytest

from compare.config import CompareConfig
from compare.stage import run as compare
from generate.config import GenerateConfig
from generate.stage import run as generate
from potstill.errors import ArtifactError, TeacherError
from potstill.facts.student import StudentFacts
from potstill.rundir import RunDirectory
from potstill.tables import conversation_paths, read_conversations
from quantize.config import QuantizeConfig
from quantize.stage import run as quantize
from tests.fixtures.served import Server, run_of_gguf
from tests.fixtures.text_front import KEY, TextFront
from train.config import TrainConfig
from train.data.inputs import load_data
from train.stage import run as train

pytestmark = pytest.mark.usefixtures("one_thread")

MAX_TOKENS = 12
NUM_PROMPTS = 6


@pytest.fixture(scope="module")
def served(tiny_gguf, tmp_path_factory):
    """The base URL of a server of a random model."""
    run_directory = run_of_gguf(tmp_path_factory.mktemp("run"), tiny_gguf)
    log_path = tmp_path_factory.mktemp("log") / "log"
    server = Server(run_directory, log_path, key=None, models=["student"], context_tokens=512)
    yield server.url
    server.stop()


@pytest.fixture
def front(served):
    """Return a function that puts a front before the server."""
    fronts = []

    def start(kind: str) -> TextFront:
        fronts.append(TextFront(served, kind))
        return fronts[-1]

    yield start
    for one in fronts:
        one.close()


@pytest.fixture
def configured(tiny_student_dir, tmp_path, monkeypatch):
    """Return a function that configures the stage for a teacher behind a front."""
    monkeypatch.setenv("A_KEY", KEY)
    prompts_path = tmp_path / "prompts.jsonl"
    prompts_path.write_text(
        "".join(json.dumps({"prompt": f"What is {n} plus seven?"}) + "\n" for n in range(6))
    )

    def configure(base_url: str, api: str = "openai", **endpoint) -> GenerateConfig:
        endpoint |= {"base_url": base_url, "model": "student", "api": api, "text_only": True}
        endpoint |= {"terms_allow_training": True, "api_key_variable": "A_KEY"}
        return GenerateConfig.model_validate(
            {
                "teacher": {"model": str(tiny_student_dir), "endpoint": endpoint},
                "prompts": {"path": str(prompts_path), "num_prompts": NUM_PROMPTS},
                "sampling": {"max_tokens": MAX_TOKENS},
                "curation": {"prompt_filters": [], "conversation_filters": []},
                "engine": {"conversations_per_part": 1},
            }
        )

    return configure


def conversations(run_directory: RunDirectory) -> list:
    return [
        one
        for split in ("train", "validation", "test")
        for path in conversation_paths(run_directory.stage_dir("conversations"), split)
        for one in read_conversations(path)
    ]


@pytest.mark.parametrize("kind", ["openai", "new", "anthropic"])
def test_its_text_is_stored_in_the_students_tokens(front, configured, tmp_path, kind, caplog):
    api = front(kind)
    config = configured(api.base_url, "anthropic" if kind == "anthropic" else "openai")
    run_directory = RunDirectory(tmp_path / "run")
    facts = generate(config, run_directory).facts
    assert (facts.logprobs_mode, facts.served_as) == ("none", "student")
    assert facts.teacher.text_only
    assert not facts.tokens_are_draws
    assert ("takes no sampling parameters" in caplog.text) == (kind == "new")
    stored = conversations(run_directory)
    assert len(stored) == NUM_PROMPTS
    card = (run_directory.stage_dir("conversations") / "README.md").read_text()
    assert "behind an API that gave text alone" in card
    assert "terms_allow_training" in card
    for one in stored:
        (turn,), (answer,) = one.turns, one.completion
        assert one.signal.sampled_logprobs_T.tolist() == [0.0] * turn.num_tokens
        assert one.signal.top_token_ids_N.tolist() == one.token_ids[turn.start :].tolist()
        assert answer.content.strip()


SETTINGS = {"dtype": "float32", "max_steps": 2, "evaluation": {"num_generations": 0}}


@pytest.fixture
def trained(front, configured, tmp_path, tiny_student_dir):
    """The run of a student that learned from the API, the API and the settings of training."""
    api = front("openai")
    run_directory = RunDirectory(tmp_path / "run")
    generate(configured(api.base_url), run_directory)
    settings = SETTINGS | {"student": {"checkpoint": str(tiny_student_dir)}}
    train(TrainConfig.model_validate(settings), run_directory)
    return run_directory, api, settings


def test_its_student_learns_the_text_in_its_own_tokens(caplog, request, tmp_path):
    caplog.set_level(logging.INFO)
    run_directory, _, settings = request.getfixturevalue("trained")
    assert "train.kd.weight = 0" in caplog.text
    student = run_directory.facts(StudentFacts)
    assert student.own_tokenizer
    assert student.teacher.text_only
    assert student.evaluation.trained.kl_nats is None
    at_text = settings | {"kd": {"weight": 0.0}}
    data = load_data(TrainConfig.model_validate(at_text), run_directory, tmp_path)
    # Training puts the text into the same tokens, and the template's end of turn after it.
    learned = {row["conversation_id"]: row["token_ids"].tolist() for row in data.train}
    for one in conversations(run_directory):
        if one.prompt.split == "train":
            token_ids = one.token_ids.tolist()
            assert learned[one.conversation_id][: len(token_ids)] == token_ids


@pytest.mark.nightly
def test_its_student_is_quantized_and_compared_with_the_api(trained):
    run_directory, api, _ = trained
    files = QuantizeConfig(types=("F16",), verification_tokens=32)
    assert [file.name for file in quantize(files, run_directory).facts.files] == ["student-F16"]
    assert "kd.weight = 0" in (run_directory.stage_dir("gguf") / "README.md").read_text()
    settings = {
        "num_prompts": 2,
        "max_tokens": 8,
        "speed_rounds": 1,
        "speed_tokens": 8,
        "judges": [{"kind": "llm", "max_tokens": 16}],
    }
    with pytest.raises(ArtifactError, match="no file to compare with"):
        compare(CompareConfig.model_validate(settings), run_directory)
    served = {"base_url": api.base_url, "model": "student", "api_key_variable": "A_KEY"}
    compare(CompareConfig.model_validate(settings | {"teacher": served}), run_directory)
    page = (run_directory.stage_dir("comparison") / "report.html").read_text()
    assert "The teacher gave text alone" in page


def test_a_run_that_reaches_the_cap_is_resumed(front, configured, tmp_path):
    api = front("anthropic")
    run_directory = RunDirectory(tmp_path / "run")
    prices = {"prompt_price": 1.0, "completion_price": 1.0, "max_concurrency": 1}
    first = configured(api.base_url, "anthropic", **prices, max_cost=0.00135)
    with pytest.raises(TeacherError, match="the cost cap is reached"):
        generate(first, run_directory)
    num_asked = len(api.asked)
    assert 1 < num_asked < NUM_PROMPTS
    generate(configured(api.base_url, "anthropic", **prices, max_cost=1.0), run_directory)
    # Each process greets the server once.
    assert len(api.asked) == NUM_PROMPTS + 2
    assert len(conversations(run_directory)) == NUM_PROMPTS


@pytest.mark.parametrize("text_only", [True, False])
def test_a_web_page_is_one_clear_error(front, configured, tmp_path, text_only):
    config = configured(front("page").base_url)
    endpoint = config.teacher.endpoint.model_copy(update={"text_only": text_only})
    teacher = config.teacher.model_copy(update={"endpoint": endpoint})
    with pytest.raises(TeacherError, match="answers with a web page instead of JSON"):
        generate(config.model_copy(update={"teacher": teacher}), RunDirectory(tmp_path / "run"))


@pytest.mark.parametrize(
    ("kind", "api", "message"),
    [
        ("openai", "anthropic", "answers with an error"),
        ("anthropic", "openai", "refuses the key"),
    ],
)
def test_an_api_of_another_kind_is_refused(front, configured, tmp_path, kind, api, message):
    config = configured(front(kind).base_url, api)
    with pytest.raises(TeacherError, match=message):
        generate(config, RunDirectory(tmp_path / "run"))
