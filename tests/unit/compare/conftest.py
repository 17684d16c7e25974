import json
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from compare.answers.questions import Question
from compare.candidates.rows import CandidateRow
from compare.comparison import Report, build_report
from compare.cost_config import CostConfig
from compare.measurement.machine import Machine
from compare.measurement.run_files import RunFiles
from compare.measurement.served import Served
from compare.measurement.speed import Speed
from compare.verdict.examples import Example, ShownAnswer
from compare.verdict.results import Verdict
from potstill.endpoint import running_endpoint
from potstill.facts.gguf import GgufFile
from potstill.facts.shared import Fidelity
from potstill.facts.student import QuantizationAware
from potstill.processes import free_port
from potstill.schema import Conversation, Message
from potstill.verdict.outcome import Outcome
from tests.fixtures.facts import (
    conversations_facts,
    evaluation,
    gguf_facts,
    gguf_file,
    student_facts,
    teacher_identity,
)
from tests.fixtures.json_handler import JsonHandler

STAND_IN = Path(__file__).parents[2] / "fixtures" / "endpoint_stand_in.py"


def measured_file(
    name: str, num_bytes: int, kl_nats: float, on_pareto_front: bool = True
) -> GgufFile:
    parameters = 134_515_008 if name.startswith("teacher") else 113_274_432
    return gguf_file(
        name,
        bytes=num_bytes,
        num_parameters=parameters,
        bits_per_weight=8 * num_bytes / parameters,
        kl_to_checkpoint_nats=kl_nats,
        kl_standard_error_nats=kl_nats / 20,
        kl_median_nats=0.7 * kl_nats,
        kl_p99_nats=5 * kl_nats,
        kl_p999_nats=9 * kl_nats,
        top1_agreement_with_checkpoint=1 - 3 * kl_nats,
        rms_delta_p=kl_nats,
        perplexity_ratio=1 + kl_nats / 2,
        prompt_tokens_per_second=512.3,
        decode_tokens_per_second=98.7,
        peak_memory_bytes=num_bytes + 100_000_000,
        on_pareto_front=on_pareto_front,
    )


FILES = [
    measured_file("student-F16", 228_000_000, 3.3e-6),
    measured_file("student-Q8_0", 122_000_000, 0.051, on_pareto_front=False),
    measured_file("student-Q4_K_M", 89_000_000, 0.0376),
    measured_file("teacher-F16", 271_000_000, 0.0),
    measured_file("teacher-Q4_K_M", 105_000_000, 0.0439),
]


def nearness(kl: float, error: float, top1: float, nats: float) -> Fidelity:
    """Return figures that go together."""
    return Fidelity(
        kl_nats=kl,
        kl_standard_error=error,
        top1_agreement=top1,
        nats_per_token=nats,
        num_tokens=8190,
        kl_upper_bound_nats=kl + 2.63,
        kl_estimate_nats=1.15 * kl,
        kl_estimate_standard_error=1.2 * error,
        reverse_kl_nats=0.96 * kl,
        reverse_kl_standard_error=error,
        acceptance_lower_bound=0.95 - 0.5 * kl,
        acceptance_upper_bound=1 - 0.4 * kl,
        acceptance_estimate=0.99 - 0.46 * kl,
        acceptance_standard_error=0.004,
        top1_standard_error=0.006,
        nats_standard_error=0.02,
        calibration_error=0.01 + 0.04 * kl,
    )


UNTRAINED = nearness(1.104, 0.031, 0.489, 3.21)
TRAINED = nearness(0.312, 0.012, 0.701, 2.05)
FIDELITY = {
    "student-F16": nearness(0.312, 0.012, 0.701, 2.05),
    "student-Q8_0": nearness(0.319, 0.012, 0.699, 2.06),
    "student-Q4_K_M": nearness(0.391, 0.014, 0.667, 2.14),
    "teacher-F16": nearness(0.0004, 0.0001, 0.992, 1.71),
    "teacher-Q4_K_M": nearness(0.097, 0.006, 0.815, 1.83),
}
SPEED = {
    "student-F16": Speed(31.4, 0.31),
    "student-Q8_0": Speed(52.7, 0.22),
    "student-Q4_K_M": Speed(60.2, 0.24),
    "teacher-F16": Speed(25.3, 0.39),
    "teacher-Q4_K_M": Speed(49.8, 0.29),
}


def verdict(**changes: object) -> Verdict:
    """Return a verdict whose judge has failed the assay."""
    values = {
        "outcome": Outcome.INVALID_JUDGE,
        "reason": "known worse: shuffled words: 0.50, but below 0.45",
        "margin": 0.05,
        "alpha": 0.05,
        "cluster_by": "cluster",
        "registered_at": "2026-11-24T12:00:00+00:00",
        "num_answers_before": 0,
        "power_at_parity": 0.06,
        "decided_by": "the teacher itself",
        "judges": (),
        "num_prompts": 2,
        "num_refused": {"student": 0, "teacher": 0},
        "samples_per_prompt": 1,
        "temperature": 0.7,
        "max_tokens": 200,
        "seed": 0,
        "student": "student-Q4_K_M",
        "teacher": "teacher-F16",
    }
    return Verdict(**values | changes)


@pytest.fixture
def report(make_report) -> Report:
    return make_report()


@pytest.fixture
def make_report(tmp_path: Path, make_conversation):
    held_out = [make_conversation(sampled_logprobs=[-1.5, -1.9])]
    return partial(build, tmp_path, held_out)


def build(
    tmp_path: Path,
    held_out: list[Conversation],
    trained_tokens: int = 8190,
    own_tokenizer: bool = False,
    sft: Fidelity | None = None,
    costs: CostConfig | None = None,
    phases: dict[str, Fidelity] | None = None,
    quantization_aware: QuantizationAware | None = None,
    served: Served | None = None,
    examples: tuple[Example, ...] = (),
    candidates: tuple[CandidateRow, ...] = (),
    **verdict_changes: object,
) -> Report:
    untrained, trained = UNTRAINED, TRAINED.model_copy(update={"num_tokens": trained_tokens})
    fidelity = FIDELITY
    if own_tokenizer:
        unknown = dict.fromkeys(("kl_nats", "kl_standard_error", "top1_agreement"))
        untrained, trained = (one.model_copy(update=unknown) for one in (untrained, trained))
        fidelity = {name: FIDELITY[name] for name in FIDELITY if name.startswith("teacher")}
    run = RunFiles(
        manifests={},
        conversations=conversations_facts(
            teacher=teacher_identity(model="smollm2-135m-instruct", num_parameters=134_515_008),
            num_conversations={"train": 900, "validation": 50, "test": 64},
            top_logprobs=64,
        ),
        student=student_facts(
            num_layers=24,
            removed_layers=(19, 20, 21, 22, 23, 24),
            num_parameters=113_274_432,
            own_tokenizer=own_tokenizer,
            evaluation=evaluation(untrained=untrained, trained=trained, **phases or {}),
            quantization_aware=quantization_aware,
        ),
        gguf=gguf_facts(*FILES, recommended="student-Q4_K_M"),
        conversations_dir=tmp_path,
        student_dir=tmp_path,
        gguf_dir=tmp_path,
        held_out=held_out,
    )
    return build_report(
        run,
        fidelity,
        served or Served(speed=SPEED, elsewhere=(), nats_per_token=None),
        verdict=verdict(**verdict_changes),
        sft=sft and student_facts(num_parameters=113_274_432, evaluation=evaluation(trained=sft)),
        candidates=candidates,
        costs=costs or CostConfig(),
        prompt_tokens_per_output_token=0.5,
        notes=[],
        examples=examples,
        settings={"speed_rounds": 5, "temperature": 0.7, "max_tokens": 200},
        machine=Machine(cpu="AMD EPYC", num_cpus=2, memory_bytes=16_000_000_000, platform="Linux"),
    )


@pytest.fixture
def long_report(make_report) -> Report:
    """Return the report of a student with all phases of training."""
    phases = {
        "offline": nearness(0.5, 0.02, 0.6, 2.3),
        "on_policy": nearness(0.4, 0.02, 0.65, 2.2),
        "quantized_plain": nearness(0.45, 0.02, 0.62, 2.25),
        "quantized_aware": nearness(0.33, 0.02, 0.69, 2.1),
    }
    return make_report(
        sft=nearness(0.6, 0.02, 0.6, 2.5),
        phases=phases,
        quantization_aware=QuantizationAware(type="Q4_K_M", kl_nats_plain=0.45, kl_nats_aware=0.39),
        served=Served(speed=SPEED, elsewhere=(), nats_per_token=2.15),
    )


def example(student: str, teacher: str, prompt: str = "How?", **changes: object) -> Example:
    """Return a prompt with two answers without judgments."""
    values = {
        "prompt_id": "id0",
        "sample": 0,
        "slices": {"source": "a test", "length": "short", "turns": "one"},
        "messages": (Message(role="user", content=prompt),),
        "student": ShownAnswer(text=student, num_tokens=200, seconds=4.2, finish_reason="length"),
        "teacher": ShownAnswer(text=teacher, num_tokens=31, seconds=2.1, finish_reason="stop"),
        "judgments": {},
    }
    return Example(**values | changes)


@pytest.fixture
def questions() -> list[Question]:
    """Prompts, each with a question of its own."""
    return [ask_about(index) for index in range(3)]


def ask_about(index: int, **fields: object) -> Question:
    values = {
        "prompt_id": f"id{index}",
        "conversation_id": f"id{index}-0",
        "cluster_id": f"id{index}",
        "source": "a test",
        "messages": (Message(role="user", content=f"question {index}"),),
        "slices": {"source": "a test", "length": "short", "turns": "one"},
        "teacher_answer": "An answer.",
    }
    return Question(**values | fields)


@pytest.fixture
def stand_in(tmp_path: Path):
    """Return a context manager that runs the stand-in endpoint, and a reader of its requests."""
    log_path = tmp_path / "requests.jsonl"

    @contextmanager
    def running(*options: str):
        port = free_port()
        command = [sys.executable, str(STAND_IN), str(port), str(log_path), *options]
        with running_endpoint(command, port, tmp_path / "endpoint.log", 20.0) as base_url:
            yield base_url

    def requests() -> list[dict]:
        return [json.loads(line) for line in log_path.read_text().splitlines()]

    return running, requests


class OpenAIServer(ThreadingHTTPServer):
    """A real server on loopback that answers chats as a function of the request says."""

    daemon_threads = True
    request_queue_size = 64  # with the default of 5, many concurrent connections wait for a second

    def __init__(self, answer: Callable[[dict], tuple[int, object] | str]) -> None:
        self.answer = answer
        self.requests: list[dict] = []
        self.models: list[dict] | None = [{"id": "only", "object": "model"}]
        """What it lists; None: nothing."""
        super().__init__(("127.0.0.1", 0), _Chat)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Chat(JsonHandler):
    server: OpenAIServer

    def do_GET(self) -> None:
        models = self.server.models
        status = 404 if models is None else 200
        self.reply(status, {"object": "list", "data": models or []})

    def do_POST(self) -> None:
        body = self.read()
        self.server.requests.append(body)
        said = self.server.answer(body)
        if isinstance(said, str):
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": said},
                "finish_reason": "stop",
            }
            usage = {"prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70}
            whole = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
            said = 200, whole | {"choices": [choice], "usage": usage}
        self.reply(*said)


@pytest.fixture
def openai_server():
    """Return a function that starts a server whose answers a function of the request gives."""
    servers = []

    def start(answer: Callable[[dict], tuple[int, object] | str]) -> OpenAIServer:
        server = OpenAIServer(answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
