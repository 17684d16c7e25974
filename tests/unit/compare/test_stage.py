"""Two endpoints, no run: the whole stage and the command's exit codes, over real HTTP."""

import json
import re
from io import StringIO

import pytest

from compare.comparison import Report, read_report
from compare.config import CompareConfig
from compare.stage import run
from potstill import cli
from potstill.errors import (
    BackendError,
    ConfigError,
    ManifestMismatchError,
    SchemaVersionError,
)
from potstill.facts.comparison import ComparisonFacts
from potstill.manifest import read_manifest
from potstill.rundir import RunDirectory
from potstill.tables import JUDGMENT_SCHEMA, PAIR_SCHEMA, read_rows
from potstill.verdict.outcome import Outcome

from .judging import right_answer, said, sound

pytestmark = pytest.mark.slow

NUM_PROMPTS = 31
"""The fewest with which a student that ties always passes at margin 0.05."""
FEW, NUM_CONTROLS = 8, 6
NUM_STOPS = 40
METRIC = '{kind = "metric", min_items = 30}'
STOPPING = '{kind = "suite", suite = "stopping", at_least = 0.9, num_items = 40, min_items = 40}'


def world(*, num_bad=0, judge=sound):
    """Student and teacher on one server; the teacher judges, as `judge` does."""

    def answer(body):
        if "response_format" in body:
            return judge(body)
        number = int(re.search(r"number (\d+)", body["messages"][-1]["content"])[1])
        if body["model"] == "student":
            return "Nobody knows." if number < num_bad else right_answer(number, 2)
        return right_answer(number, body["seed"] % 2)

    return answer


def endless(answer):
    """The same, but what is no number is answered up to the limit of tokens."""

    def never_ends(body):
        text = answer(body)
        is_number = "number " in body["messages"][-1]["content"]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop" if is_number or "stream" in body else "length",
        }
        usage = {"prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70}
        whole = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        return 200, whole | {"choices": [choice], "usage": usage}

    return never_ends


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": f"What is number {n}?", "source": "even" if n % 2 == 0 else "odd"}
        for n in range(NUM_PROMPTS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(server, prompts, **changes):
    values = {
        "student": {"base_url": server.base_url, "model": "student"},
        "teacher": {"base_url": server.base_url, "model": "teacher"},
        "prompts": prompts,
        "num_prompts": FEW,
        "assay": {"num_prompts": NUM_CONTROLS},
        "max_retries": 0,
    }
    return CompareConfig(**values | changes)


def options(server, prompts, out, num_prompts=FEW):
    return [
        out,
        f"--student={server.base_url}#student",
        f"--teacher={server.base_url}#teacher",
        f"--prompts={prompts}",
        f"--set=compare.num_prompts={num_prompts}",
        f"--set=compare.assay.num_prompts={NUM_CONTROLS}",
    ]


def exit_code(monkeypatch, *arguments, verb="compare"):
    monkeypatch.setattr("sys.argv", ["potstill", verb, *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def test_two_endpoints_give_a_verdict_and_all_files(
    openai_server, prompts, tmp_path, monkeypatch, capsys
):
    server = openai_server(world())
    run_directory = RunDirectory(tmp_path / "out")
    given = options(server, prompts, run_directory.root, NUM_PROMPTS)
    assert exit_code(monkeypatch, *given) == 2, "no people have voted"
    directory = run_directory.stage_dir("comparison")
    manifest = read_manifest(directory)
    assert {one.path for one in manifest.outputs} == {
        "pairs.parquet",
        "judgments.parquet",
        "report.json",
        "report.html",
    }
    report = Report.model_validate_json((directory / "report.json").read_text())
    assert report.verdict.outcome is Outcome.INCONCLUSIVE
    assert manifest.facts.outcome == "INCONCLUSIVE"
    assert report.verdict.decided_by == "the teacher itself"
    assert report.verdict.registered_at == manifest.facts.registration.registered_at
    assert report.verdict.num_answers_before == 0
    assert {one.value for one in report.verdict.judges[0].slices} == {"even", "odd"}
    pairs = list(read_rows(directory / "pairs.parquet", PAIR_SCHEMA))
    assert len(pairs) == 2 * NUM_PROMPTS + NUM_CONTROLS
    assert {pair["role"] for pair in pairs} == {"student", "teacher"}
    judged = list(read_rows(directory / "judgments.parquet", JUDGMENT_SCHEMA))
    assert sum(row["control"] is None for row in judged) == NUM_PROMPTS
    assert "INCONCLUSIVE: may student replace teacher?" in capsys.readouterr().out
    page = (directory / "report.html").read_text()
    assert "INCONCLUSIVE" in page
    assert page.count('<article class="prompt"') == len(report.examples) == NUM_PROMPTS
    assert report.cost.rows[0].tokens_per_second is None, "this server does not stream"
    num_requests = len(server.requests)
    assert exit_code(monkeypatch, run_directory.root) == 2
    assert len(server.requests) == num_requests


def test_earlier_comparisons_of_a_run_are_told(
    openai_server, prompts, tmp_path, monkeypatch, capsys
):
    given = options(openai_server(world(num_bad=FEW)), prompts, tmp_path / "out")
    assert exit_code(monkeypatch, *given) == 1
    assert "of this student; earlier:" not in capsys.readouterr().out
    again = [*given, "--force", "--set=compare.verdict.margin=0.1"]
    assert exit_code(monkeypatch, *again) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert f"Comparison 2 of this student; earlier: FAIL (the teacher itself, {FEW} prompts" in told
    directory = RunDirectory(tmp_path / "out").stage_dir("comparison")
    (earlier,) = read_report(directory / "report.json").verdict.earlier
    assert (earlier.outcome, earlier.margin) == ("FAIL", 0.05)


def test_labels_let_a_judge_of_criteria_decide(
    openai_server, prompts, tmp_path, monkeypatch, capsys
):
    """The judge sees no number in the student's answers, and people see one in all."""

    def judge(body):
        is_met = "rule three" not in body["messages"][1]["content"]
        return json.dumps({"reason": "so", "meets": "yes" if is_met else "no"})

    server = openai_server(world(judge=judge))
    labels = tmp_path / "new" / "labels.jsonl"
    table = {
        "kind": '"criteria"',
        "criteria": '["names the number"]',
        "labels": json.dumps(str(labels)),
        "base_url": json.dumps(server.base_url),
        "model": '"judge"',
    }
    judges = ", ".join(f"{key} = {value}" for key, value in table.items())
    settings = ["--set=compare.verdict.margin=0.3", f"--set=compare.judges=[{{{judges}}}]"]
    given = [*options(server, prompts, tmp_path / "out", NUM_PROMPTS), *settings]
    assert exit_code(monkeypatch, *given) == 2
    told = " ".join(capsys.readouterr().out.split())
    assert "and 25 of the 25 are missing; the judge alone: FAIL" in told
    num_answers = sum("response_format" not in body for body in server.requests)

    def labeled(keys):
        monkeypatch.setattr("sys.stdin", StringIO("".join(f"{key}\n" for key in keys)))
        assert exit_code(monkeypatch, tmp_path / "out", verb="label") == 0
        return capsys.readouterr().out

    assert "0 prompts have labels of both answers" in labeled(["q"])
    out = labeled(["y", "maybe", "y", "y", "q"])
    assert "1 prompts have labels of both answers" in out
    assert "type one of y, n, q" in out
    assert "student" not in out.replace(str(tmp_path), "").partition("prompts have")[0]
    assert len(labels.read_text().splitlines()) == 3
    out = labeled("y" * (2 * NUM_PROMPTS - 3))
    assert f"{NUM_PROMPTS} prompts have labels" in out
    assert f"Prompt 1 of {NUM_PROMPTS}" not in out, "it is labeled"
    assert f"Prompt 2 of {NUM_PROMPTS}" in out

    assert exit_code(monkeypatch, *given, "--force") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "PASS: may student replace teacher?" in told
    assert f"from both answers to {NUM_PROMPTS} labeled prompts and {NUM_PROMPTS} judged" in told
    asked = sum("response_format" not in body for body in server.requests)
    assert asked == num_answers + 2, "the labeled answers are kept, and only timed ones are new"


def test_a_task_is_decided_by_its_metric_at_temperature_0(
    openai_server, tmp_path, monkeypatch, capsys
):
    """The student is asked without instructions, the teacher with them and an example."""

    def team(body):
        asked = re.search(r"number (\d+)", body["messages"][-1]["content"])
        number = int(asked[1]) if asked else 0  # speed is measured with other words first
        is_wrong = body["model"] == "teacher" and number % 10 == 0
        return "odd" if number % 2 or is_wrong else "even"

    server = openai_server(team)
    files = {
        "references": [(f"number {n}", "odd" if n % 2 else "even") for n in range(NUM_PROMPTS)],
        "examples": [("number 100", "even"), ("number 101", "odd")],
    }
    for name, items in files.items():
        rows = (json.dumps({"prompt": prompt, "answer": known}) + "\n" for prompt, known in items)
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    out = RunDirectory(tmp_path / "out")
    given = [
        out.root,
        f"--student={server.base_url}#student",
        f"--teacher={server.base_url}#teacher",
        '--set=task.instructions="Odd or even?"',
        '--set=task.student_instructions=""',
        *(f'--set=task.{name}="{tmp_path / name}.jsonl"' for name in files),
        "--set=task.num_shots=1",
        '--set=task.metrics=[{kind = "label"}]',
        f"--set=compare.gate=[{METRIC}, {STOPPING}]",
    ]
    assert exit_code(monkeypatch, *given) == 0
    report = read_report(out.stage_dir("comparison") / "report.json")
    assert (report.verdict.decided_by, report.verdict.temperature) == ("label", 0.0)
    assert report.verdict.decider.estimate.teacher_mean == pytest.approx(27 / NUM_PROMPTS)
    asked = {
        body["model"]: [one["role"] for one in body["messages"]]
        for body in server.requests
        if "stream" not in body
    }
    assert asked == {"student": ["user"], "teacher": ["system", "user"]}
    assert {body["temperature"] for body in server.requests} == {0.0}
    assert [one.key for one in report.candidates] == [
        "teacher",
        "teacher_zero_shot",
        "student",
        "linear_classifier",
    ]
    assert sum("stream" not in body for body in server.requests) == 3 * NUM_PROMPTS + NUM_STOPS
    told = capsys.readouterr().out
    assert "PASS: 1.00 right, the teacher 0.87 (difference +0.13" in " ".join(told.split())
    assert "linear classifier" in told
    assert "stopping PASS (answers that end by themselves 1.000 [" in " ".join(told.split())
    assert "Who can do the task" in (out.stage_dir("comparison") / "report.html").read_text()
    num_requests = len(server.requests)
    assert exit_code(monkeypatch, *given) == 0
    assert len(server.requests) == num_requests
    changed = exit_code(monkeypatch, *given, '--set=task.metrics=[{kind = "exact"}]')
    assert changed == 70, "another metric after the fact is refused"
    assert exit_code(monkeypatch, *given, "--force") == 0
    verdict = read_report(out.stage_dir("comparison") / "report.json").verdict
    assert (verdict.basis, len(verdict.earlier)) == ("followed", 1)
    changed = exit_code(monkeypatch, *given, f"--set=compare.gate=[{METRIC}]")
    assert changed == 70, "so is another gate"
    server.answer = endless(team)
    assert exit_code(monkeypatch, *given, "--force") == 1, "answers to unusual prompts never end"
    told = " ".join(capsys.readouterr().out.split())
    assert "FAIL: 1.00 right" in told
    assert "label PASS (" in told
    assert "stopping FAIL (" in told
    assert exit_code(monkeypatch, out.root, verb="status") == 0
    assert "(gate: stopping not passed)" in " ".join(capsys.readouterr().out.split())
    gate = out.facts(ComparisonFacts).gate
    assert [(one.name, one.outcome) for one in gate] == [("label", "PASS"), ("stopping", "FAIL")]
    page = (out.stage_dir("comparison") / "report.html").read_text()
    assert "No: the student does not meet stopping (part of the gate)." in page


def test_killed_comparison_asks_only_for_the_rest(openai_server, prompts, tmp_path):
    ill = openai_server(world())
    healthy = ill.answer

    def dies(body):
        if sum("stream" not in one for one in ill.requests) > 10:
            return 404, {"error": {"message": "gone"}}
        return healthy(body)

    ill.answer = dies
    run_directory = RunDirectory(tmp_path / "out")
    settings = config(ill, prompts, max_concurrency=1)
    with pytest.raises(BackendError, match="gone"):
        run(settings, run_directory)
    registered = json.loads(
        (run_directory.partial_dir("comparison") / "scratch" / "registration.json").read_text()
    )
    ill.answer = healthy
    manifest = run(settings, run_directory)
    assert manifest.facts.registration.model_dump(mode="json") == registered
    answered = [one for one in ill.requests if not {"response_format", "stream"} & one.keys()]
    in_flight = 2
    assert len(answered) <= 2 * FEW + NUM_CONTROLS + in_flight


def test_a_finished_report_of_another_version_is_left_as_it_is(
    openai_server, prompts, tmp_path, monkeypatch, caplog
):
    server = openai_server(world())
    run_directory = RunDirectory(tmp_path / "out")
    manifest = run(config(server, prompts), run_directory)

    def refuse(path):
        raise SchemaVersionError("the report was written by another version", where=path)

    monkeypatch.setattr("compare.stage.read_report", refuse)
    assert run(config(server, prompts), run_directory) == manifest
    assert "written by another version" in caplog.text


def test_another_margin_after_the_fact_is_refused(openai_server, prompts, tmp_path):
    server = openai_server(world())
    run_directory = RunDirectory(tmp_path / "out")
    run(config(server, prompts), run_directory)
    with pytest.raises(ManifestMismatchError, match="margin"):
        run(config(server, prompts, verdict={"margin": 0.2}), run_directory)


def test_prompts_count_by_their_content(openai_server, prompts, tmp_path):
    server = openai_server(world())
    run_directory = RunDirectory(tmp_path / "out")
    manifest = run(config(server, prompts), run_directory)
    moved = prompts.rename(tmp_path / "moved.jsonl")
    assert run(config(server, moved), run_directory) == manifest
    moved.write_text('{"prompt": "What is number 3?"}\n')
    with pytest.raises(ManifestMismatchError, match="content"):
        run(config(server, moved), run_directory)


def test_answers_are_kept_for_another_comparison(openai_server, prompts, tmp_path):
    server = openai_server(world())
    kept = tmp_path / "kept"
    run(config(server, prompts, cache_dir=kept), RunDirectory(tmp_path / "first"))
    num_requests = len(server.requests)
    settings = config(server, prompts, cache_dir=kept, verdict={"margin": 0.2})
    second = RunDirectory(tmp_path / "second")
    run(settings, second)
    assert all("stream" in one for one in server.requests[num_requests:]), "speed is of its time"
    registration = read_manifest(second.stage_dir("comparison")).facts.registration
    assert registration.num_answers_before == 2 * FEW + NUM_CONTROLS


def test_kept_verdicts_are_of_their_own_answers(openai_server, prompts, tmp_path):
    """Another student under the same judge is judged anew."""
    kept = tmp_path / "kept"
    outcomes = []
    for num_bad, name in ((FEW, "bad"), (0, "good")):
        server = openai_server(world(num_bad=num_bad))
        run_directory = RunDirectory(tmp_path / name)
        manifest = run(config(server, prompts, cache_dir=kept), run_directory)
        outcomes.append(manifest.facts.outcome)
    assert outcomes == ["FAIL", "INCONCLUSIVE"]


def test_absent_file_is_named(openai_server, tmp_path):
    server = openai_server(world())
    judge = {"kind": "votes", "path": str(tmp_path / "absent.jsonl")}
    settings = config(server, tmp_path / "prompts.jsonl", judges=[judge])
    with pytest.raises(ConfigError, match=r"absent\.jsonl"):
        run(settings.model_copy(update={"prompts": None}), RunDirectory(tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"num_bad": FEW}, 1), ({"num_bad": 1}, 2), ({"judge": lambda _: said("A")}, 3)],
)
def test_exit_code_is_the_verdict(openai_server, prompts, tmp_path, monkeypatch, changes, code):
    server = openai_server(world(**changes))
    out = tmp_path / "out"
    assert exit_code(monkeypatch, *options(server, prompts, out)) == code
    assert exit_code(monkeypatch, out, "compare", verb="stage") == 0, "a verdict fails no run"


def test_errors_have_codes_that_are_no_verdict(prompts, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert exit_code(monkeypatch, out, "--nonsense") == 64
    assert exit_code(monkeypatch, out, "--set", "compare.nonsense=1") == 64
    assert exit_code(monkeypatch, out, "--preset=small", "--config=x") == 64
    assert exit_code(monkeypatch, out) == 70, "no run is there"
    nobody = ["--student=http://127.0.0.1:9/v1#s", "--teacher=http://127.0.0.1:9/v1#t"]
    retries = "--set=compare.max_retries=0"
    assert exit_code(monkeypatch, out, *nobody, f"--prompts={prompts}", retries) == 70
    assert "does not answer" in capsys.readouterr().err
    assert exit_code(monkeypatch, "--help") == 0
