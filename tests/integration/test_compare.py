import json
import logging
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from compare.comparison import Report, read_report
from compare.config import CompareConfig
from compare.measurement.fidelity import measure_fidelity
from compare.measurement.likelihood import answer_ids, mean_logprob
from compare.report.table import cells
from compare.stage import run, run_with_endpoint
from potstill.divergences import NUM_LOWEST, StudentRows, TeacherRows
from potstill.endpoint import running_endpoint
from potstill.errors import ArtifactError, BackendUnavailableError, ManifestMismatchError
from potstill.facts.shared import Fidelity
from potstill.facts.student import StudentFacts
from potstill.fidelity import FidelityMeter
from potstill.llama.context import measuring
from potstill.processes import free_port
from potstill.rundir import RunDirectory
from potstill.schema import Conversation, Message
from potstill.tables import JUDGMENT_SCHEMA, PAIR_SCHEMA, read_rows
from potstill.task.config import TaskConfig
from potstill.task.stage import write_task
from tests.fixtures.facts import evaluation, gguf_facts, gguf_file, student_facts, taken_from
from tests.fixtures.tiny_gguf import smollm2_path

STAND_IN = Path(__file__).parents[1] / "fixtures" / "endpoint_stand_in.py"
QUESTIONS = (
    "Why is the sky blue?",
    "Name three animals that can fly.",
    "Write a short note that thanks a friend for a book.",
)
TOP_K = 20
TEACHER_SHARPNESS = 1.5
"""The stored teacher is the checkpoint with its logits times this, so that its KL to the files is
far from zero, and a row shifted by one token would show."""
CONFIG = CompareConfig(
    num_prompts=2,
    max_tokens=8,
    speed_rounds=1,
    speed_tokens=8,
    num_threads=2,
    max_concurrency=1,
    max_retries=0,
    judges=(
        {"kind": "likelihood"},
        {"kind": "reference", "reference": "teacher"},
        {"kind": "llm", "max_tokens": 64},
    ),
)


@pytest.fixture(scope="module")
def gguf_files(tmp_path_factory) -> dict[str, Path]:
    """The embedded model as F16 and as Q8_0, made by llama.cpp itself."""
    directory = tmp_path_factory.mktemp("gguf")
    source = smollm2_path()
    files = {"teacher-F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16}
    files["student-Q8_0"] = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    for name, ftype in files.items():
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize, params.nthread = ftype, True, 2
        target = directory / f"{name}.gguf"
        assert (
            llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params) == 0
        )
    return {name: directory / f"{name}.gguf" for name in files}


@pytest.fixture(scope="module")
def held_out(teacher_dir, sampled_conversation) -> list[Conversation]:
    """The real teacher's conversations, one of them with two answers."""
    model = AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(teacher_dir)
    torch.manual_seed(0)
    return [
        sampled_conversation(
            model,
            tokenizer,
            (Message(role="user", content=question),),
            [16, 12] if index == 0 else [20],
            TOP_K,
            sharpness=TEACHER_SHARPNESS,
            name=f"prompt{index}",
            split="test",
        )
        for index, question in enumerate(QUESTIONS)
    ]


@pytest.fixture(scope="module")
def torch_measured(teacher_dir, held_out) -> Fidelity:
    """The fidelity of the checkpoint, as torch computes it."""
    model = AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.float32)
    meter = FidelityMeter(drawn=True)
    for conversation in held_out:
        teacher = TeacherRows.of(conversation)
        with torch.no_grad():
            logits_LV = model(torch.tensor(conversation.token_ids[None]).long()).logits[0].double()
        logprobs_TV = logits_LV[conversation.positions_T - 1].log_softmax(-1)
        token_ids_T1 = torch.tensor(teacher.token_ids_T)[:, None]
        top_ids_TK = torch.tensor(teacher.top_token_ids_TK)
        meter.add(
            teacher,
            StudentRows(
                sampled_logprobs_T=logprobs_TV.gather(-1, token_ids_T1)[:, 0].numpy(),
                top_logprobs_TK=logprobs_TV.gather(-1, top_ids_TK).numpy(),
                argmax_ids_T=logprobs_TV.argmax(-1).numpy(),
                max_logprobs_T=logprobs_TV.amax(-1).numpy(),
                lowest_logprobs_TN=logprobs_TV.sort(-1).values[:, :NUM_LOWEST].numpy(),
            ),
        )
    return meter.result()


@pytest.fixture
def finished_run(
    tmp_path, gguf_files, held_out, torch_measured, teacher_dir, finish_conversations
) -> RunDirectory:
    """A run whose conversations, student and gguf stages are finished."""
    run_directory = RunDirectory(tmp_path / "run")
    run_directory.root.mkdir()
    made = finish_conversations(run_directory, teacher_dir, held_out)
    session = run_directory.open_stage("student", {}, inputs=("conversations",))
    student = student_facts(
        **taken_from(made.facts),
        removed_layers=(),
        pruned=False,
        num_parameters=134_515_008,
        evaluation=evaluation(untrained=torch_measured, trained=torch_measured),
    )
    session.finish(facts=student)
    finish_gguf(run_directory, gguf_files, student)
    return run_directory


def finish_gguf(
    run_directory: RunDirectory, gguf_files: dict[str, Path], student: StudentFacts, **changes: str
) -> None:
    session = run_directory.open_stage("gguf", {}, inputs=("student", "conversations"))
    files = []
    for name, path in gguf_files.items():
        os.link(path, session.dir / path.name)
        size = path.stat().st_size
        files.append(gguf_file(name, file=path.name, bytes=size, num_parameters=134_515_008))
    hashes = student.model_dump(include={"tokenizer_sha256", "chat_template_sha256"}) | changes
    session.finish(facts=gguf_facts(*files, recommended="student-Q8_0", **hashes))


def stand_in(log_path: Path, *options: str):
    @contextmanager
    def open_endpoint(models, context_tokens, max_parallel, endpoint_log_path):
        assert set(models) <= {"teacher-F16", "student-Q8_0"}
        assert max_parallel == 1
        assert context_tokens >= 64
        port = free_port()
        command = [sys.executable, str(STAND_IN), str(port), str(log_path), *options]
        with running_endpoint(command, port, endpoint_log_path, 20.0) as base_url:
            yield base_url

    return open_endpoint


@pytest.mark.parametrize(("name", "tolerance"), [("teacher-F16", 2e-3), ("student-Q8_0", 3e-2)])
def test_gguf_fidelity_is_torchs(gguf_files, held_out, torch_measured, name, tolerance):
    expected, calls = torch_measured, []
    found = measure_fidelity(gguf_files[name], held_out, 2, lambda: calls.append(1), drawn=True)
    assert expected.kl_nats > 10 * tolerance / 3
    assert found.num_tokens == expected.num_tokens
    assert found.kl_nats == pytest.approx(expected.kl_nats, abs=tolerance)
    assert found.kl_standard_error == pytest.approx(expected.kl_standard_error, abs=tolerance)
    assert found.nats_per_token == pytest.approx(expected.nats_per_token, abs=2 * tolerance)
    assert found.top1_agreement == pytest.approx(1.0, abs=0.1)
    assert found.kl_upper_bound_nats == pytest.approx(expected.kl_upper_bound_nats, rel=0.1)
    for figure in ("kl_estimate_nats", "reverse_kl_nats", "acceptance_estimate"):
        assert getattr(found, figure) == pytest.approx(getattr(expected, figure), abs=2 * tolerance)
    assert len(calls) == len(held_out)


def test_interrupted_comparison_goes_on(finished_run, tmp_path, capsys):
    log_path = tmp_path / "requests.jsonl"
    with pytest.raises(BackendUnavailableError):
        run_with_endpoint(CONFIG, finished_run, stand_in(log_path, "3"))
    assert not finished_run.is_finished("comparison")
    stored = sorted((finished_run.partial_dir("comparison") / "scratch").glob("*.json"))
    assert len(stored) == 2 + 1 + 1 + 1 + 3, "fidelity, speed, memorization, the plan, answers"
    log_path.unlink()
    manifest = run_with_endpoint(CONFIG, finished_run, stand_in(log_path))
    requests = [json.loads(line) for line in log_path.read_text().splitlines()]
    answered = [one for one in requests if "response_format" not in one]
    assert {one["model"] for one in answered} == {"student-Q8_0", "teacher-F16"}
    assert len(answered) == 3
    report = check_result(finished_run, manifest, capsys.readouterr().out)
    assert report.served is None, "the stand-in tells no log-probabilities"
    templates = [note for note in report.notes if "its chat template differs" in note]
    assert len(templates) == 2, "the stand-in says that every prompt has five tokens"
    log_path.unlink()
    patient = CONFIG.model_copy(update={"request_timeout_seconds": 1200.0, "num_threads": 1})
    assert run_with_endpoint(patient, finished_run, stand_in(log_path)) == manifest
    assert not log_path.exists()


def check_result(run_directory: RunDirectory, manifest, stdout: str) -> Report:
    directory = run_directory.stage_dir("comparison")
    names = {output.path for output in manifest.outputs}
    assert names == {"pairs.parquet", "judgments.parquet", "report.json", "report.html"}
    report = Report.model_validate_json((directory / "report.json").read_text())
    page = (directory / "report.html").read_text()
    for row in report.rows:
        assert all(f">{text}<" in page for text in cells(row))
        assert row.name in stdout
    pairs = list(read_rows(directory / "pairs.parquet", PAIR_SCHEMA))
    models = ["teacher-F16", "student-Q8_0"] * 2 + ["teacher-F16"] * 2
    assert [pair["model"] for pair in pairs] == models
    assert list(manifest.facts.rows) == report.rows
    assert manifest.facts.memorization == report.memorization
    assert report.memorization.num_distinct == 0, "nothing of this run was trained on"
    assert report.memorization.sentences[0] in " ".join(stdout.split())
    likelihood, similarity, llm = report.verdict.judges
    assert likelihood.estimate.num_pairs == similarity.estimate.num_pairs == 2
    assert (likelihood.outcome, similarity.outcome) == (None, None)
    assert [one.judgments["likelihood"].teacher_value < 0 for one in report.examples] == [True] * 2
    assert llm.decides
    assert report.verdict.outcome == "INVALID_JUDGE"
    assert "INVALID JUDGE: may student-Q8_0 replace teacher-F16?" in stdout
    return report


def test_likelihood_of_an_answer_is_torchs(gguf_files, teacher_dir, held_out):
    tokenizer = AutoTokenizer.from_pretrained(teacher_dir)
    torch_model = AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.float32)
    conversation = held_out[1]
    prompt_ids = conversation.token_ids[: conversation.turns[0].start].tolist()
    text = "The sky is blue, isn't it? <|im_end|> \n\n 42 Grüße 🙂"
    with measuring(gguf_files["teacher-F16"], 512, 2) as context:
        ids = answer_ids(context.model, text, finished=True)
        found = mean_logprob(context, prompt_ids, ids)
        assert mean_logprob(context, prompt_ids, []) is None
    plain = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert ids == [*plain, tokenizer.eos_token_id]
    with torch.no_grad():
        logits_LV = torch_model(torch.tensor([prompt_ids + ids])).logits[0].double()
    logprobs_TV = logits_LV[len(prompt_ids) - 1 : -1].log_softmax(-1)
    expected = logprobs_TV.gather(-1, torch.tensor(ids)[:, None]).mean().item()
    assert found == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("name", ["tokenizer_sha256", "chat_template_sha256"])
def test_other_tokenizer_or_template_is_refused(finished_run, gguf_files, name):
    finished_run.set_aside("gguf")
    finish_gguf(finished_run, gguf_files, finished_run.facts(StudentFacts), **{name: "c" * 64})
    with pytest.raises(ManifestMismatchError, match="gguf stage"):
        run(CONFIG, finished_run)


def test_missing_teacher_file_is_refused(finished_run, gguf_files):
    finished_run.set_aside("gguf")
    student_only = {"student-Q8_0": gguf_files["student-Q8_0"]}
    finish_gguf(finished_run, student_only, finished_run.facts(StudentFacts))
    with pytest.raises(ArtifactError, match="no GGUF file of the teacher"):
        run(CONFIG, finished_run)


def test_damaged_file_is_refused(finished_run):
    path = finished_run.stage_dir("gguf") / "student-Q8_0.gguf"
    content = path.read_bytes()
    path.unlink()  # It is a link to the file of all tests.
    path.write_bytes(content[:1_000_000])
    with pytest.raises(ArtifactError, match="changed or damaged"):
        run(CONFIG, finished_run)


def test_real_endpoint_answers_for_the_report(finished_run, capsys, monkeypatch):
    monkeypatch.setenv("POTSTILL_API_KEY", "for users of potstill serve")
    manifest = run(CONFIG, finished_run)
    report = check_result(finished_run, manifest, capsys.readouterr().out)
    # Activations are rounded to 8 bits: another order of sums moves a token by 0.1 nats.
    assert report.served.kl_nats == pytest.approx(report.recommended_file.kl_nats, abs=5e-2)
    assert not [note for note in report.notes if "chat template" in note]
    assert all(row.tokens_per_second > 0.5 for row in report.files)
    pairs = read_rows(
        finished_run.stage_dir("comparison") / "pairs.parquet", PAIR_SCHEMA, ["answer"]
    )
    assert all(pair["answer"].strip() for pair in pairs)
    # A model of 135M parameters is no judge: the assay says so, and it is asked no more.
    directory = finished_run.stage_dir("comparison")
    judgments = read_rows(directory / "judgments.parquet", JUDGMENT_SCHEMA)
    said = [row for row in judgments if row["judge"] == report.verdict.judges[-1].name]
    assert said
    assert all(row["control"] for row in said)


def test_a_task_is_asked_of_real_files_and_its_label_decides(finished_run, tmp_path, capsys):
    for name, numbers in (("references", range(4)), ("examples", range(10, 14))):
        rows = [
            {"prompt": f"Is {n} odd or even?", "answer": "odd" if n % 2 else "even"}
            for n in numbers
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = TaskConfig(
        instructions="Answer with one word: odd or even.",
        student_instructions="",
        examples=tmp_path / "examples.jsonl",
        references=tmp_path / "references.jsonl",
        num_shots=2,
        metrics=[{"kind": "label", "labels": ["odd", "even"]}],
    )
    write_task(task, finished_run)
    gate = [
        {"kind": "metric", "min_items": 4},
        {"kind": "suite", "suite": "stopping", "num_items": 4},
        {"kind": "suite", "suite": "arithmetic", "num_items": 4, "against": "teacher"},
    ]
    changed = {"judges": (), "num_prompts": 4, "gate": CompareConfig(gate=gate).gate}
    run(CONFIG.model_copy(update=changed), finished_run)
    report = read_report(finished_run.stage_dir("comparison") / "report.json")
    assert (report.verdict.decided_by, report.verdict.num_prompts) == ("label", 4)
    label, stopping, arithmetic = report.verdict.gate
    assert label.outcome is report.verdict.decider.outcome
    assert (stopping.num_items, stopping.outcome) != (4, "PASS"), "eight tokens, four items"
    assert 0 <= stopping.value <= 1
    assert -1 <= arithmetic.value <= 1
    assert report.verdict.outcome in {"FAIL", "INCONCLUSIVE"}
    rows = {row.key: row for row in report.candidates}
    assert set(rows) == {"teacher", "teacher_zero_shot", "student", "linear_classifier"}
    assert rows["teacher"].prompt_tokens > rows["teacher_zero_shot"].prompt_tokens + 10
    # Without instructions the template adds a system prompt of its own.
    assert rows["student"].prompt_tokens < rows["teacher"].prompt_tokens
    for key in ("teacher", "teacher_zero_shot", "student"):
        assert 0 < rows[key].completion_tokens <= CONFIG.max_tokens
        assert rows[key].seconds > 0
        assert rows[key].watt_hours > 0
    assert rows["linear_classifier"].num_examples == 4
    assert "the teacher" in capsys.readouterr().out
    pairs = read_rows(finished_run.stage_dir("comparison") / "pairs.parquet", PAIR_SCHEMA)
    asked = {row["role"]: row["messages"] for row in pairs}
    suites = {"stopping/student", "arithmetic/student", "arithmetic/teacher"}
    assert set(asked) == {"teacher", "student", "teacher_zero_shot"} | suites
