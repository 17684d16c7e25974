import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from generate.curation.reviews import Decision, ReviewLog, effective, read_decisions, row_id
from potstill.errors import ArtifactError
from potstill.schema import Message

ROOT = Path(__file__).parents[4]
WRITER = """
import sys
from pathlib import Path
from generate.curation.reviews import Decision, ReviewLog
log = ReviewLog(Path(sys.argv[1]))
for line in sys.stdin:
    assert log.add(Decision.model_validate_json(line), 0)
"""


def decision(row="p-0", action="accept", **changes):
    known = {"role": "assistant", "content": "better"} if action in ("edit", "label") else None
    given = {
        "row": row,
        "action": action,
        "reviewer": "ann",
        "time": "2026-11-29T21:00:00+00:00",
        "known": known,
        "messages": [{"role": "user", "content": "Why?"}],
        "answer": [{"role": "assistant", "content": "good"}],
    }
    return Decision.model_validate(given | changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "review.jsonl"


def test_decisions_are_read_back_in_their_order(path):
    log = ReviewLog(path)
    assert log.decisions == []
    made = [decision("a"), decision("b", "edit"), decision("c", "reject", note="no\u2028line")]
    assert all(log.add(one, 0) for one in made)
    assert log.decisions == made
    assert ReviewLog(path).decisions == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_last_decision_counts_and_may_be_taken_back(path):
    log = ReviewLog(path)
    for number, action in enumerate(("accept", "reject", "undo")):
        assert log.add(decision("a", action), number)
    assert log.add(decision("b", "label"), 0)
    assert list(read_decisions([path])) == ["b"]
    assert len(ReviewLog(path).decisions) == 4


def test_later_files_count_before_earlier_ones(path, tmp_path):
    other = tmp_path / "other.jsonl"
    ReviewLog(path).add(decision("a", "reject"), 0)
    ReviewLog(other).add(decision("a", "accept"), 0)
    assert read_decisions([path, other])["a"].action == "accept"
    assert read_decisions([other, path, tmp_path / "missing"])["a"].action == "reject"


def test_a_decision_on_what_another_has_decided_meanwhile_is_refused(path):
    one, two = ReviewLog(path), ReviewLog(path)
    assert one.add(decision("a", "accept"), 0)
    assert not two.add(decision("a", "reject"), 0)
    assert [each.action for each in two.decisions] == ["accept"]
    assert two.add(decision("a", "reject"), 1)
    one.refresh()
    assert [each.action for each in one.decisions] == ["accept", "reject"]


@pytest.mark.slow
def test_threads_and_processes_lose_nothing(path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, text=True)
        for _ in range(2)
    ]
    log = ReviewLog(path)
    threads = [
        threading.Thread(target=lambda name=name: log.add(decision(name), 0))
        for name in map("thread{}".format, range(40))
    ]
    for thread in threads:
        thread.start()
    for number, writer in enumerate(writers):
        lines = [decision(f"{number}-{row}").model_dump_json() for row in range(40)]
        writer.communicate("\n".join(lines), timeout=60)
        assert writer.returncode == 0
    for thread in threads:
        thread.join()
    log.refresh()
    assert len({one.row for one in log.decisions}) == len(log.decisions) == 120
    assert [json.loads(line)["row"] for line in path.read_text().splitlines()] == [
        one.row for one in log.decisions
    ]


def test_a_line_that_a_kill_cut_off_is_no_decision(path):
    ReviewLog(path).add(decision("a"), 0)
    whole = path.read_bytes()
    path.write_bytes(whole + decision("b").model_dump_json()[:-9].encode())
    log = ReviewLog(path)
    assert [one.row for one in log.decisions] == ["a"]
    assert log.add(decision("c"), 0)
    assert [one.row for one in ReviewLog(path).decisions] == ["a", "c"]
    assert path.read_bytes().startswith(whole)


def test_lines_that_somebody_removed_are_gone(path):
    log = ReviewLog(path)
    log.add(decision("a"), 0)
    log.add(decision("b"), 0)
    path.write_text(decision("b").model_dump_json() + "\n")
    log.refresh()
    assert [one.row for one in log.decisions] == ["b"]


@pytest.mark.parametrize("line", ["{", "[]", '{"row": "a"}', '{"row": 1e999}'])
def test_a_damaged_line_is_named(path, line):
    ReviewLog(path).add(decision("a"), 0)
    with path.open("a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(ArtifactError, match="cannot be used") as caught:
        ReviewLog(path)
    assert caught.value.where == f"{path}:2"


def test_a_directory_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ArtifactError, match="storing a decision failed"):
        ReviewLog(tmp_path / "missing" / "review.jsonl").add(decision(), 0)


def test_an_edited_answer_is_needed_where_one_is_edited():
    with pytest.raises(ValidationError, match="known is of edited"):
        decision(action="edit", known=None)
    with pytest.raises(ValidationError, match="known is of edited"):
        decision(known={"role": "assistant", "content": "?"})
    with pytest.raises(ValidationError, match="a call of a tool without"):
        decision(action="edit", known={"role": "assistant", "content": "", "tool_calls": "[{}]"})


def test_what_is_right_is_accepted_edited_or_labeled():
    assert decision().item.known.text == "good"
    assert decision(action="edit").item.known.text == "better"
    assert decision(action="label").item.known.text == "better"
    assert decision(action="reject").item is None
    turns = [Message(role=role, content=role) for role in ("assistant", "user", "assistant")]
    item = decision(answer=turns).item
    assert [one.role for one in item.messages] == ["user", "assistant", "user"]


def test_a_row_is_an_answer_to_a_prompt_without_its_thinking():
    answer = Message(role="assistant", content="yes")
    thought = answer.model_copy(update={"reasoning_content": "hm"})
    assert row_id("p", [answer]) == row_id("p", [thought])
    assert row_id("p", [answer]) != row_id("q", [answer])
    assert row_id("p", [answer]) != row_id("p", [Message(role="assistant", content="no")])
    assert decision(row_id("p-q", [answer])).prompt_id == "p-q"


def test_nothing_is_decided_without_decisions():
    assert effective([]) == {}
