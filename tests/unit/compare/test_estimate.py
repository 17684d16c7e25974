import pytest

from compare import estimate as module
from compare.config import CompareConfig
from compare.estimate import estimate
from potstill.checkpoints import ModelShape
from potstill.errors import ArtifactError
from potstill.plan import AskedTask, Workload

TEACHER = ModelShape("LlamaForCausalLM", 1_000_000, 30, 576, 49_152, 1536, 800_000)
NUM_TESTED, NUM_ASSAYED = 100, 24
NUM_COMPLETED = 2 * 100 + 100
"""Training answers by the student and by its start, held-out ones by the student."""
MEASURED = 4 * 64 * 200 + 5 * 3 * 64 + NUM_COMPLETED * 200
"""Tokens of fidelity, speed and memorization."""


def estimated(*, prompt_tokens=50.0, shared_tokens=0.0, task=None, **changes):
    workload = Workload(
        teacher=TEACHER,
        student=TEACHER,
        num_conversations=1000,
        prompt_tokens=prompt_tokens,
        completion_tokens=150.0,
        shared_tokens=shared_tokens,
        test_share=0.1,
        num_files=3,
        task=task or AskedTask(),
    )
    return estimate(CompareConfig.model_validate(changes), workload)[0]


def test_tokens_are_those_of_fidelity_speed_answers_and_judgments():
    found = estimated()
    timed = 5 * 3 * 64
    answers = 2 * (NUM_TESTED + NUM_ASSAYED)
    judged = NUM_TESTED + module.NUM_CONTROLS * NUM_ASSAYED
    read = answers * 50 + judged * (50 + 4 * 150)
    decoded = answers * 150 + judged * 2 * module.JUDGMENT_TOKENS
    assert found.tokens == pytest.approx(MEASURED + read + decoded)
    assert found.float32_flops == pytest.approx(2 * 1_000_000 * found.tokens)
    assert found.moved_bytes == pytest.approx(2 * 1_000_000 * (timed + decoded / 8))


def test_a_prompt_that_all_share_is_answered_and_judged_once():
    """Fidelity reads each conversation whole."""
    alone = estimated()
    shared = estimated(prompt_tokens=1050.0, shared_tokens=1000.0)
    assert shared.tokens - alone.tokens == pytest.approx((4 * 64 + NUM_COMPLETED + 2) * 1000)


def test_short_answers_are_not_completed():
    found = [estimated(memorization={"min_tokens": number}).tokens for number in (75, 76)]
    assert found[0] - found[1] == pytest.approx(NUM_COMPLETED * 200)


def test_a_tasks_prompts_are_those_of_its_references_and_candidates():
    task = AskedTask(
        num_references=600,
        prompt_tokens=20.0,
        answer_tokens=10.0,
        teacher_tokens=900.0,
        student_tokens=5.0,
        num_shots=50,
    )
    whole = estimated(task=task)
    alone = estimated(task=task, candidates=[])
    suites = 2 * 200
    assert alone.tokens == pytest.approx(MEASURED + (600 + suites) * 30 + 905)
    deciding = {"kind": "metric"}
    ungated = estimated(task=task, candidates=[], gate=[deciding])
    assert alone.tokens - ungated.tokens == pytest.approx(suites * 30)
    compared = {"kind": "suite", "suite": "json", "against": "teacher", "num_items": 50}
    gated = estimated(task=task, candidates=[], gate=[deciding, compared])
    assert gated.tokens - ungated.tokens == pytest.approx(2 * 50 * 30)
    served = estimated(task=task, candidates=[], teacher_answers="served")
    assert served.tokens - alone.tokens == pytest.approx(600 * 30)
    kinds = ("its file", "zero-shot", "untrained", "instructed", "known answers", "one more file")
    assert whole.tokens - alone.tokens == pytest.approx(len(kinds) * 100 * 30)
    assert estimated(task=task, prompts="other.jsonl").tokens == estimated().tokens


@pytest.mark.parametrize(
    ("judges", "tokens"),
    [
        ([{"kind": "llm", "base_url": "http://localhost:1/v1"}], 0),
        ([{"kind": "reference"}], 0),
        ([{"kind": "llm"}], 50 + 4 * 150 + 2 * module.JUDGMENT_TOKENS),
        ([{"kind": "likelihood"}], 2 * 200),
        ([{"kind": "llm", "name": "a"}, {"kind": "likelihood"}], 650 + 80 + 400),
    ],
)
def test_judges_on_this_machine_read_each_pair(judges, tokens):
    without = estimated(judges=[{"kind": "reference"}])
    found = estimated(judges=judges).tokens - without.tokens
    assert found == pytest.approx(tokens * (NUM_TESTED + module.NUM_CONTROLS * NUM_ASSAYED))


def test_criteria_are_read_of_both_answers_and_of_no_control():
    judge = {"kind": "criteria", "criteria": ["a", "b", "c"], "labels": "labels.jsonl"}
    without = estimated(judges=[{"kind": "reference"}])
    found = estimated(judges=[judge]).tokens - without.tokens
    assert found == pytest.approx(NUM_TESTED * 2 * 3 * (50 + 150 + module.JUDGMENT_TOKENS))
    elsewhere = estimated(judges=[judge | {"base_url": "http://localhost:1/v1"}])
    assert elsewhere.tokens == without.tokens


def test_a_teacher_of_text_must_be_named_before_work_begins():
    workload = Workload(teacher=TEACHER, student=TEACHER, num_files=1, text_only=True)
    with pytest.raises(ArtifactError, match="no file to compare with") as caught:
        estimate(CompareConfig(), workload)
    assert caught.value.where == "compare.teacher"
    served = {"base_url": "http://127.0.0.1:1/v1", "model": "large"}
    estimate(CompareConfig.model_validate({"teacher": served}), workload)
