"""A cascade fitted on a finished comparison, with the confidence of a real GGUF file."""

import json

import pytest

from compare.measurement.cost import CostRow
from compare.measurement.likelihood import answer_ids, mean_logprob
from compare.verdict.results import JudgeReport
from potstill import cli
from potstill.llama.context import measuring
from potstill.rundir import RunDirectory
from potstill.tables import JUDGMENT_SCHEMA, PAIR_SCHEMA, write_rows
from tests.fixtures.facts import comparison_facts, gguf_facts, gguf_file, student_facts, taken_from

pytestmark = pytest.mark.slow

NUM_PROMPTS = 40
JUDGE = "a judge"


def answer_row(number: int, role: str) -> dict:
    return {
        "prompt_id": f"p{number}", "conversation_id": f"p{number}-0", "messages": [], "role": role,
        "model": role, "sample": 0, "seed": 1, "answer": f"Answer {number}", "prompt_tokens": 4,
        "completion_tokens": 3, "seconds": 0.1, "finish_reason": "stop",
    }  # fmt: skip


def judgment_row(number: int, score: float, **changes: object) -> dict:
    row = {
        "judge": JUDGE, "control": None, "prompt_id": f"p{number}", "sample": 0,
        "cluster": f"c{number}", "score": score, "student_value": None, "teacher_value": None,
        "votes": [], "failure": None, "note": None,
    }  # fmt: skip
    return row | changes


@pytest.fixture
def compared(
    make_report, tmp_path, tiny_teacher_dir, tiny_gguf, make_conversation, finish_conversations
):
    """Return a function that makes a run with a comparison, judged as a test sets."""

    def make(
        scores, outcome: str = "PASS", prices=(1.0, 4.0), kind: str = "check", **values: float
    ) -> RunDirectory:
        directory = RunDirectory(tmp_path / "run")
        conversations = [
            make_conversation(token_ids=[1, 40 + n, 3, 4], name=f"p{n}", split="test")
            for n in range(NUM_PROMPTS)
        ]
        made = finish_conversations(directory, tiny_teacher_dir, conversations)
        same = taken_from(made.facts)
        directory.open_stage("student", {}).finish(facts=student_facts(**same))
        del same["teacher"]
        session = directory.open_stage("gguf", {})
        (session.dir / "student.gguf").hardlink_to(tiny_gguf)
        files = [gguf_file(name, file="student.gguf") for name in ("student", "teacher")]
        session.finish(facts=gguf_facts(*files, **same))
        session = directory.open_stage("comparison", {})
        roles = ("student", "teacher")
        answers = [answer_row(n, role) for n in range(NUM_PROMPTS) for role in roles]
        judged = [judgment_row(n, score, **values) for n, score in enumerate(scores)]
        judged.append(judgment_row(0, 0.0, control="shuffled words"))
        judged.append(judgment_row(1, 0.0, judge="another"))
        write_rows(session.dir / "pairs.parquet", PAIR_SCHEMA, answers)
        write_rows(session.dir / "judgments.parquet", JUDGMENT_SCHEMA, judged)
        rows = tuple(
            CostRow(name=kind, kind=kind, dollars_per_million_output_tokens=price)
            for kind, price in zip(("student", "teacher"), prices, strict=True)
        )
        decider = JudgeReport(
            name=JUDGE, kind=kind, claim="quality", model=None, decides=True, outcome=outcome,
            reason="so", estimate=None,
        )  # fmt: skip
        report = make_report(decided_by=JUDGE, judges=(decider,))
        priced = report.model_copy(update={"cost": report.cost.model_copy(update={"rows": rows})})
        (session.dir / "report.json").write_text(priced.model_dump_json())
        session.finish(facts=comparison_facts(outcome=outcome))
        return directory

    return make


@pytest.fixture
def fit(monkeypatch, capsys):
    def run(directory: RunDirectory, *more: str):
        settings = ("--set=compare.verdict.margin=0.2", "--set=compare.num_threads=1")
        arguments = ["potstill", "cascade", str(directory.root), *settings]
        monkeypatch.setattr("sys.argv", [*arguments, *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, capsys.readouterr()

    return run


def test_a_student_that_ties_answers_alone(compared, fit):
    code, said = fit(compared([0.5] * NUM_PROMPTS))
    assert code == 0, said
    assert said.out.startswith("PASS: the student answers 100% of the prompts, the teacher 0%.")
    assert "win rate against the teacher alone is 0.500" in said.out
    assert "passes without the teacher" in said.out
    assert "[serve.cascades.NAME]\nleast_mean_logprob = -" in said.out


@pytest.mark.parametrize("kind", ["llm", "criteria"])
def test_a_judge_that_needs_people_passes_no_cascade(compared, fit, kind):
    values = {"student_value": 0.5, "teacher_value": 0.5} if kind == "criteria" else {}
    code, said = fit(compared([0.5] * NUM_PROMPTS, kind=kind, **values))
    assert code == 2, said
    assert said.out.startswith("INCONCLUSIVE: the student answers")
    assert "it alone would say PASS" in said.out
    assert "passes without the teacher" not in said.out


def test_what_the_student_is_unsure_of_is_the_teachers(compared, fit):
    directory = compared([0.5] * NUM_PROMPTS)
    prompts = {n: [1, 40 + n] for n in range(NUM_PROMPTS)}
    with measuring(directory.stage_dir("gguf") / "student.gguf", 64, 1) as context:
        model = context.model
        confidence = {
            n: mean_logprob(context, prompt, answer_ids(model, f"Answer {n}", finished=True))
            for n, prompt in prompts.items()
        }  # fmt: skip
    unsure = sorted(confidence, key=confidence.__getitem__)[: NUM_PROMPTS // 2]
    for stage in ("conversations", "student", "gguf", "comparison"):
        directory.set_aside(stage)
    scores = [0.0 if n in unsure else 0.5 for n in range(NUM_PROMPTS)]
    code, said = fit(compared(scores), "--json")
    found = json.loads(said.out)
    threshold = found["threshold"]
    assert threshold["student_lead"] < -0.1
    assert 0.1 < threshold["share_escalated"] < 0.9
    assert threshold["lead"] > threshold["student_lead"]
    assert threshold["num_fitted"] + threshold["num_checked"] == NUM_PROMPTS
    assert found["judge"] == JUDGE
    assert found["relative_cost"] == pytest.approx(0.25 + threshold["share_escalated"])
    assert code in (0, 2)


def test_of_a_judge_that_measures_the_margin_is_of_the_difference(compared, fit):
    """A difference of -0.3 is a score of 0.35, which a win rate of 0.3 would let pass."""
    measured = {"student_value": 0.4, "teacher_value": 0.7}
    code, said = fit(compared([0.35] * NUM_PROMPTS, **measured))
    assert code in (0, 2), said
    assert "difference against the teacher alone is" in said.out
    assert "The student alone has -0.300" in said.out
    assert "the teacher 0%" not in said.out


def test_without_a_price_of_the_machine_no_cost_is_told(compared, fit):
    code, said = fit(compared([0.5] * NUM_PROMPTS, prices=(None, None)))
    assert code == 0, said
    assert "costs" not in said.out


def test_what_no_sound_judge_has_judged_fits_nothing(compared, fit):
    code, said = fit(compared([0.5] * NUM_PROMPTS, outcome="INVALID_JUDGE"))
    assert code == 70
    assert "no valid judge" in said.err


def test_prompts_of_elsewhere_have_no_tokens_here(compared, fit):
    code, said = fit(compared([0.5] * NUM_PROMPTS), "--set=compare.prompts=elsewhere.jsonl")
    assert code == 64
    assert "confidence cannot be computed" in said.err
