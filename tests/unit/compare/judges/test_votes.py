import json

import pytest

from compare.config import CompareConfig
from compare.judge_config import LlmJudgeConfig, VotesJudgeConfig
from compare.judges.votes import read_votes
from potstill.errors import ArtifactError
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
