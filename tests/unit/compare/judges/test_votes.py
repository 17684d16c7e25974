import json
from io import StringIO

import pytest

from compare.answers.answers import REFUSED
from compare.config import CompareConfig
from compare.inputs import settings
from compare.judge_config import LlmJudgeConfig, VotesJudgeConfig
from compare.judges.votes import read_votes
from compare.voting import collect_votes, vote_in_terminal
from potstill.errors import ArtifactError, ConfigError
from potstill.rundir import RunDirectory
from potstill.tables import PAIR_SCHEMA, write_rows
from potstill.verdict.outcome import Outcome

from ..judging import NUM_CONTROLS, answer, decided, question, right_answer, sound


def vote(number, said, *, student_left=True, voter="ann", **changes):
    sides = [
        {"role": "student", "model": "s", "answer": right_answer(number, 2)},
        {"role": "teacher", "model": "t", "answer": right_answer(number)},
    ]
    left, right = sides if student_left else sides[::-1]
    line = {
        "prompt_id": None,
        "messages": [message.model_dump() for message in question(number).messages],
        "left": left,
        "right": right,
        "vote": said,
        "voter": voter,
        "created": "2026-11-24T12:00:00Z",
    }
    return line | changes


def written(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_votes_are_scores_of_the_student(tmp_path):
    lines = [
        vote(1, "left"),
        vote(2, "left", student_left=False),
        vote(3, "right", student_left=False),
        vote(4, "tie"),
        vote(5, "both_bad"),
    ]
    votes = read_votes(written(tmp_path / "votes.jsonl", lines))
    assert [said.score for _, said in votes] == [1.0, 0.0, 1.0, 0.5, 0.5]
    assert votes[0][0].student == right_answer(1, 2)
    assert [said.votes[0].student_place for _, said in votes[:2]] == ["first", "second"]


def test_the_last_vote_of_a_voter_on_a_pair_counts(tmp_path):
    lines = [vote(1, "left"), vote(1, "left", voter="bob"), vote(1, "right")]
    votes = read_votes(written(tmp_path / "votes.jsonl", lines))
    assert sorted(said.score for _, said in votes) == [0.0, 1.0]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        json.dumps(vote(1, "up")),
        json.dumps(vote(1, "left", right=vote(1, "left")["left"])),
    ],
)
def test_bad_line_is_named(tmp_path, line):
    path = tmp_path / "votes.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ArtifactError, match=r"votes\.jsonl:1"):
        read_votes(path)


def decided_by_people(tmp_path, lines):
    path = written(tmp_path / "votes.jsonl", lines)
    return verdict_of(tmp_path, (VotesJudgeConfig(kind="votes", path=path),))


def verdict_of(tmp_path, judges, num_prompts=30):
    config = CompareConfig(judges=judges, max_retries=0, assay={"num_prompts": NUM_CONTROLS})
    answers = []
    for number in range(num_prompts):
        answers.append(answer("student", number, right_answer(number, 2)))
        answers.append(answer("teacher", number, right_answer(number)))
    questions = [question(number) for number in range(num_prompts)]
    return decided(tmp_path / "cache", config, questions, answers).verdict


def test_people_decide(tmp_path):
    lines = [vote(n, "right", student_left=bool(n % 2)) for n in range(60)]
    lines += [vote(n, "right", student_left=not n % 2, voter="bob") for n in range(60)]
    found = decided_by_people(tmp_path, [one for one in lines if one["right"]["role"] == "teacher"])
    assert found.outcome is Outcome.INVALID_JUDGE, "all votes are for what stands right"
    balanced = [vote(n, "left" if n % 2 else "right", student_left=not n % 2) for n in range(30)]
    found = decided_by_people(tmp_path, balanced)
    assert (found.decided_by, found.outcome) == ("votes", Outcome.FAIL)
    assert found.judges[0].estimate.value == 0.0


def test_votes_on_another_student_pass_none(tmp_path, caplog):
    """A file of votes outlives the student that they were about."""
    former = [vote(n, "tie") for n in range(70)]
    for one in former:
        one["left"]["answer"] += " So said the former student."
    found = decided_by_people(tmp_path, former)
    assert (found.outcome, found.reason) == (Outcome.INVALID_JUDGE, "nothing was judged")
    assert "70 of 70 votes" in caplog.text
    found = decided_by_people(tmp_path, [*former, *(vote(n, "tie") for n in range(20))])
    assert found.judges[0].estimate.num_pairs == 20
    assert {one.key for one in found.judges[0].slices} == {"source"}, "the prompts' own"


@pytest.mark.parametrize(
    ("num_votes", "said", "outcome"),
    [
        (60, "tie", Outcome.PASS),
        (60, "teacher", Outcome.FAIL),
        (49, "tie", Outcome.INCONCLUSIVE),
    ],
)
def test_people_decide_where_a_judge_prefers(tmp_path, openai_server, num_votes, said, outcome):
    """The judge sees ties everywhere; people see ties, or prefer the teacher."""
    llm = LlmJudgeConfig(kind="llm", base_url=openai_server(sound).base_url, model="judge")
    votes = {"tie": ("tie", "tie"), "teacher": ("left", "right")}[said]
    lines = [vote(n, votes[1 - n % 2], student_left=not n % 2) for n in range(num_votes)]
    judges = (llm, VotesJudgeConfig(kind="votes", path=written(tmp_path / "v.jsonl", lines)))
    found = verdict_of(tmp_path, judges, num_prompts=70)
    assert (found.decided_by, found.outcome) == ("llm", outcome)
    corrected = found.judges[0].human_corrected
    if num_votes >= 50:
        assert (corrected.num_human_votes, corrected.num_judged) == (num_votes, 70)
        assert found.judges[0].estimate.value == 0.5
        assert "from 60 votes and 70 judged pairs" in found.reason
    else:
        assert corrected is None


def test_votes_that_are_asked_for_are_of_the_comparisons_pairs(
    tmp_path, openai_server, monkeypatch, capsys
):
    """Ann votes on sixty pairs in two calls, and sees no model's name; bob's votes are others."""
    run_directory = RunDirectory(tmp_path / "run")
    monkeypatch.setattr(RunDirectory, "require", lambda *_: None)
    rows = [
        answer(role, number, right_answer(number, 2 * (role == "student"))).model_dump()
        for number in range(61)
        for role in ("student", "teacher")
    ]
    rows += [answer("student", 99, "", reason=REFUSED).model_dump()]
    rows += [answer("teacher", 99, right_answer(99)).model_dump()]
    path = run_directory.stage_dir("comparison")
    path.mkdir(parents=True)
    write_rows(path / "pairs.parquet", PAIR_SCHEMA, rows)
    llm = LlmJudgeConfig(kind="llm", base_url=openai_server(sound).base_url, model="judge")
    votes = VotesJudgeConfig(kind="votes", path=tmp_path / "new" / "votes.jsonl")
    config = CompareConfig(judges=(llm, votes))

    def asked(keys, voter="ann"):
        monkeypatch.setattr("sys.stdin", StringIO("".join(f"{key}\n" for key in keys)))
        told = [*collect_votes(config, run_directory, voter, vote_in_terminal)]
        shown = capsys.readouterr().out
        assert "student" not in shown
        return told, shown

    told, shown = asked(["t", "up", "l", "q"])
    assert told[:3] == ["Pair 1 of 61", "Pair 2 of 61", "Pair 3 of 61"]
    assert "LEFT\nNumber" in shown
    assert "type one of l, r, t, b, q" in shown
    told, _ = asked(["t"] * 58 + ["q"])
    assert told[0] == "Pair 3 of 61"
    assert told[-1].startswith(
        f"60 pairs have votes, in {votes.path}. A judge that prefers needs 50"
    )
    assert asked(["b", "q"], voter="bob")[0][0] == "Pair 1 of 61"
    left = [json.loads(line)["left"]["role"] for line in votes.path.read_text().splitlines()]
    assert 15 < left.count("student") < 45
    found = verdict_of(tmp_path, config.judges, num_prompts=61)
    assert found.judges[0].human_corrected.num_human_votes == 60


def test_votes_on_a_former_student_do_not_count_where_both_say_the_same(tmp_path):
    """The answers that did not change are no random ones: a next version at 0.45, unchanged in 80%
    of its answers, passed with 0.5 to 0.67 by votes on the student before it, at parity."""
    lines = [vote(n, "tie", comparison="former" if n < 30 else "this") for n in range(40)]
    path = written(tmp_path / "votes.jsonl", [*lines, vote(40, "tie")])
    config = CompareConfig(judges=({"kind": "votes", "path": path},))
    sides = (("student", 2), ("teacher", 0))
    answers = [answer(role, n, right_answer(n, v)) for n in range(60) for role, v in sides]
    questions = [question(n) for n in range(60)]
    found = decided(tmp_path, config, questions, answers, comparison="this")
    assert found.report.estimate.num_pairs == 11, "ten of this one, and one that states none"
    assert decided(tmp_path, config, questions, answers).report.estimate.num_pairs == 41


def test_a_vote_states_the_comparison_that_it_is_of(tmp_path, monkeypatch):
    run_directory = RunDirectory(tmp_path / "run")
    monkeypatch.setattr(RunDirectory, "require", lambda *_: None)
    path = run_directory.stage_dir("comparison")
    path.mkdir(parents=True)
    rows = [
        answer(role, number, f"{role} {number}").model_dump()
        for number in range(3)
        for role in ("student", "teacher")
    ]
    write_rows(path / "pairs.parquet", PAIR_SCHEMA, rows)
    llm = LlmJudgeConfig(kind="llm", base_url="http://127.0.0.1:1/v1", model="judge")
    votes = VotesJudgeConfig(kind="votes", path=tmp_path / "votes.jsonl")
    config = CompareConfig(judges=(llm, votes))

    def asked(comparison):
        line = {"registered_at": "2026", "judges": ["llm"], "num_prompts": 3, "margin": 0.05}
        line |= {"outcome": "INCONCLUSIVE", "comparison": comparison}
        (run_directory.root / "comparisons.jsonl").write_text(json.dumps(line) + "\n")
        return [*collect_votes(config, run_directory, "ann", lambda *_: "tie")]

    assert asked("former")[-1].startswith("3 pairs have votes")
    assert asked("former")[0].startswith("3 pairs have votes"), "no pair is asked again"
    assert asked("this")[0] == "Pair 1 of 3"
    stated = [json.loads(line)["comparison"] for line in votes.path.read_text().splitlines()]
    assert stated == ["former"] * 3 + ["this"] * 3


def test_votes_that_do_not_exist_yet_are_none(tmp_path, openai_server):
    llm = LlmJudgeConfig(kind="llm", base_url=openai_server(sound).base_url, model="judge")
    votes = VotesJudgeConfig(kind="votes", path=tmp_path / "votes.jsonl")
    found = verdict_of(tmp_path, (llm, votes), num_prompts=20)
    assert (found.outcome, found.judges[1].reason) == ("INCONCLUSIVE", "nothing was judged")
    with pytest.raises(ConfigError, match="a file is missing"):
        settings(CompareConfig(judges=(votes,)), None)
    assert settings(CompareConfig(judges=(llm, votes)), None)["content"] == {}


def test_a_judge_is_the_same_under_another_name(tmp_path):
    """Else a new name would begin a new line of comparisons, with less of alpha."""
    path = written(tmp_path / "votes.jsonl", [vote(1, "left")])
    questions, answers = [question(1)], [answer("student", 1, "a"), answer("teacher", 1, "b")]
    keys = set()
    for name in ("votes", "others"):
        judges = ({"kind": "votes", "path": path, "name": name},)
        found = decided(tmp_path, CompareConfig(judges=judges), questions, answers)
        keys.add(found.opinions[0].key)
    assert len(keys) == 1
