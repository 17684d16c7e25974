"""Live pairs, judged over real HTTP: verdicts, exit codes, and invalid judges."""

import json

import pytest

from compare.judges.protocol import Pair
from compare.live.experiment import whole_users
from potstill import cli
from potstill.errors import BackendError
from serve.backends.protocol import ANSWER_HEADER, VARIANT_HEADER
from serve.storage import tables
from tests.unit.compare.judging import (
    compared,
    obeys_answers,
    parts,
    prefers_length,
    question,
    sound,
    worth,
)
from tests.unit.compare.judging import (
    said as verdict,
)

pytestmark = pytest.mark.slow

NUM_CONTROLS = 6
FIRST, ALL = range(20), range(80)
"""Too few pairs to decide for an equal student, and enough: 72 ties suffice at margin 0.05."""


@pytest.fixture
def judge(openai_server, tmp_path, monkeypatch, capsys):
    """Return a function that judges an experiment; returns exit code and output."""

    def run(running, says=sound, *more: str, server=None):
        server = server or openai_server(says)
        tables = f'[{{kind = "llm", base_url = "{server.base_url}", model = "judge"}}]'
        arguments = [
            "potstill", "experiment", str(tmp_path / "run"), running.base_url,
            "--quiet-seconds=0", f"--set=compare.judges={tables}",
            f"--set=compare.assay.num_prompts={NUM_CONTROLS}", "--set=compare.max_retries=0", *more,
        ]  # fmt: skip
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, capsys.readouterr()

    return run


def test_a_judge_alone_passes_no_student_and_judges_nothing_twice(experiment, judge, openai_server):
    running, server = experiment(), openai_server(sound)
    running.ask(FIRST)
    code, said = judge(running, server=server)
    assert code == 2, said
    assert "INCONCLUSIVE: assistant (running), 20 judged pairs, win rate 0.500" in said.out
    num_asked = len(server.requests)
    assert judge(running, server=server)[0] == 2
    assert len(server.requests) == num_asked
    running.ask(range(FIRST.stop, ALL.stop))
    code, said = judge(running, sound, "--json", server=server)
    results = json.loads(said.out)
    found = results["verdict"]
    assert (code, found["outcome"], found["alone"]) == (2, "INCONCLUSIVE", "PASS")
    assert found["pairs"] == ALL.stop
    said = judge(running, server=server)[1].out
    assert "Judge not verified on real pairs: it alone would say PASS." in said


def test_a_student_that_is_worse_fails(experiment, judge):
    running = experiment(lambda _: True)
    running.ask(FIRST)
    code, said = judge(running)
    assert code == 1
    assert "FAIL: assistant" in said.out


def length_decides_between_equals(body):
    number, first, second = parts(body)
    worths = worth(number, first), worth(number, second)
    return compared(*worths) if worths[0] != worths[1] else compared(len(first), len(second))


def worse_words_decide_nothing(body):
    """A sound judge, except with truncated answers: it reads only the beginning."""
    number, first, second = parts(body)
    is_beginning = first.startswith(second) or second.startswith(first)
    return verdict("tie") if is_beginning else compared(worth(number, first), worth(number, second))


@pytest.mark.parametrize(
    "says",
    [
        lambda _: verdict("A"),
        lambda _: "garbage",
        prefers_length,
        lambda _: (500, {}),
        obeys_answers,
        worse_words_decide_nothing,
        length_decides_between_equals,
    ],
)
def test_a_judge_that_cannot_tell_decides_nothing(experiment, judge, says, caplog):
    running = experiment()
    running.ask(range(20))
    running.let_the_teacher_vary()
    # One after the other, so that the first of the teacher's two answers is the long one.
    code, said = judge(running, says, "--set=compare.max_concurrency=1")
    assert code == 3
    assert "INVALID_JUDGE: assistant" in said.out
    assert "failed its assay" in caplog.text
    assert running.live.view()["verdict"]["outcome"] == "INVALID_JUDGE"
    assert running.live.view()["verdict"]["pairs"] == 0


def test_another_answer_of_the_teacher_is_among_the_tests(experiment, judge, openai_server):
    running, server = experiment(), openai_server(sound)
    running.ask(FIRST)
    running.let_the_teacher_vary()
    assert judge(running, server=server)[0] == 2
    num_asked = len(server.requests)
    assert judge(running, sound, "--set=compare.temperature=0", server=server)[0] == 2
    # Nothing was judged again, and there was nothing new to be tested on.
    assert len(server.requests) == num_asked


def test_who_fails_loses_and_is_never_read(experiment, judge, openai_server):
    running, server = experiment(), openai_server(sound)
    running.ask(FIRST)
    judge(running, server=server)
    num_asked = len(server.requests)
    running.live.teacher.error = BackendError("away")
    running.ask(range(FIRST.stop, FIRST.stop + 5))
    code, said = judge(running, server=server)
    assert len(server.requests) == num_asked
    assert code == 2
    assert "25 judged pairs, win rate 0.600" in said.out
    assert "did not answer: student 0, teacher 5" in said.out


def test_ratings_are_told_with_their_interval(experiment, judge):
    running = experiment(teacher=1)
    running.ask(FIRST)
    for number in FIRST:
        answer = running.live.ask(f"What is number {number}?", user=f"u{number}")
        is_student = answer.headers[VARIANT_HEADER] == "student"
        said = {"response_id": answer.headers[ANSWER_HEADER], "score": 0 if is_student else 1}
        assert running.live.client.post("/v1/feedback", json=said).status_code == 200
    said = judge(running)[1]
    assert "Difference of user ratings, student - teacher: -1.000," in said.out


def test_a_broken_split_is_told(experiment, judge):
    running = experiment(teacher=1)
    running.ask(FIRST)
    assert "The split is broken" not in judge(running)[1].out
    shares = json.dumps({"student": 0.5, "teacher": 0.5})
    rows = [
        {"experiment": "assistant", "user": f"x{n}", "variant": "student", "shares": shares}
        for n in range(100)
    ]
    running.live.storage.submit(
        lambda connection: connection.execute(tables.users.insert(), rows)
    ).result(30)
    told = " ".join(judge(running)[1].out.split())
    assert "The split is broken: users are not shared as the weights say (p = " in told


def test_what_a_judge_did_not_say_is_asked_again(experiment, judge, openai_server):
    is_ill = True

    def sometimes(body):
        number, _, _ = parts(body)
        return (500, {}) if is_ill and number == 15 else sound(body)

    running, server = experiment(), openai_server(sometimes)
    running.ask(range(20))
    judge(running, server=server)
    assert running.live.view()["verdict"]["pairs"] == 19
    is_ill = False
    judge(running, server=server)
    assert running.live.view()["verdict"]["pairs"] == 20


def test_a_reply_without_a_verdict_counts_against_the_student(experiment, judge):
    running = experiment()
    running.ask(range(20))
    judge(running, lambda body: "garbage" if parts(body)[0] == 15 else sound(body))
    verdict = running.live.view()["verdict"]
    assert (verdict["pairs"], verdict["win_rate"]) == (20, pytest.approx(19 * 0.5 / 20))


def pair_of(user: str) -> Pair:
    return Pair(question(0, cluster_id=user), 0, "a", "b")


def test_a_batch_never_divides_a_user():
    """3,000 pairs of 30 interleaved conversations all count."""
    pairs = [pair_of(f"u{number % 30}") for number in range(3000)]
    batches = list(whole_users(pairs, 50))
    assert sum(map(len, batches)) == 3000
    seen = [{pair.question.cluster_id for pair in batch} for batch in batches]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 30
    assert [len(one) for one in whole_users(pairs[:60], 50)] == [50, 10]


def test_a_judge_is_tested_on_enough_pairs_or_not_yet(experiment, judge):
    running = experiment()
    running.ask(range(3))
    code, said = judge(running)
    assert code == 2
    assert "3 pairs, none of them judged" in said.out


def test_conversations_under_way_are_left_for_later(experiment, judge):
    running = experiment()
    running.ask(range(20))
    assert judge(running, sound, "--quiet-seconds=3600")[0] == 2
    assert running.live.view()["verdict"] is None


def test_what_is_not_there_is_told(experiment, judge):
    running = experiment()
    running.base_url += "#other"
    code, said = judge(running)
    assert code == 70
    assert "there is no experiment with this name" in said.err
