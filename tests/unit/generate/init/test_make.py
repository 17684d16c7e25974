import json
import sqlite3
import tomllib
from dataclasses import replace

import pytest

from generate.init.files import template_names
from generate.init.make import Wanted, make
from potstill.errors import ConfigError
from potstill.pipeline import Choice, estimate, resolve
from potstill.rundir import RunDirectory
from potstill.task.config import TaskConfig
from potstill.task.known_answers import whole_answer
from potstill.task.stage import load_task

TEAMS = ("cards", "transfers", "account")
EMBEDDED = tuple(
    f"{key}=smollm2-135m-instruct" for key in ("generate.teacher.model", "train.student.checkpoint")
)


def wanted(directory, like=None, template=None, *, test_share=0.3, force=False):
    return Wanted(directory, like, template, test_share, 0, force)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def written(directory):
    """Return the configuration's tables and the task that it names."""
    content = tomllib.loads((directory / "potstill.toml").read_text())
    return content, load_task(TaskConfig.model_validate(content["task"]))


@pytest.mark.parametrize("name", template_names())
def test_a_template_is_a_task_with_commented_settings(tmp_path, name):
    lines = make(wanted(tmp_path / name, template=name))
    assert lines[0].startswith(f"template {name}")
    content, task = written(tmp_path / name)
    text = (tmp_path / name / "potstill.toml").read_text()
    assert text.startswith("# ")
    assert text.count("#") >= 3
    assert "DIR" not in text
    assert task.num_shots >= 2
    assert content["generate"]["sampling"]["max_tokens"] == content["compare"]["max_tokens"]
    for item in (*task.examples, *task.references):
        for metric in task.make_metrics():
            assert metric.score(whole_answer(task, item.known), item).value == 1.0
    resolve(Choice(path=tmp_path / name / "potstill.toml"), RunDirectory(tmp_path / "run"))


@pytest.mark.parametrize("name", template_names())
def test_messages_take_the_place_of_inputs_that_the_teacher_writes(tmp_path, name):
    messages = jsonl(tmp_path / "messages.jsonl", [{"prompt": f"number {n}"} for n in range(10)])
    asked = replace(wanted(tmp_path / name, template=name), messages=str(messages))
    assert f"10 messages of {messages} for the teacher to answer" in make(asked)
    generate = written(tmp_path / name)[0]["generate"]
    first, *others = generate["prompts"]["sources"]
    assert first == {"path": str(messages)}
    assert all(one["kind"] == "decline" for one in others)
    assert generate["prompts"]["num_prompts"] == (12 if others else 10)
    assert "turns" not in generate
    assert "temperature" not in generate["prompts"]
    assert "known" not in generate.get("curation", {}).get("conversation_filters", [])
    assert ("student_noise" in generate.get("curation", {})) == (name == "classify")
    resolve(Choice(path=tmp_path / name / "potstill.toml"), RunDirectory(tmp_path / "run"))


def test_any_name_of_a_directory_is_written_as_toml(tmp_path):
    directory = tmp_path / 'a "b" \\c é'
    make(wanted(directory, template="classify"))
    content, task = written(directory)
    assert content["task"]["examples"] == str(directory / "examples.jsonl")
    assert task.examples
    command = f"""'runs/a "b" \\c é' --config '{directory / "potstill.toml"}'"""
    assert command in (directory / "potstill.toml").read_text().splitlines()[1]


def test_messages_that_are_not_there_are_an_error_and_nothing_is_written(tmp_path):
    asked = replace(wanted(tmp_path / "task", template="classify"), messages="absent.jsonl")
    with pytest.raises(ConfigError, match=r"absent\.jsonl|no file"):
        make(asked)
    assert not (tmp_path / "task").exists()


@pytest.mark.parametrize("name", template_names())
def test_the_cost_of_a_template_is_estimated(tmp_path, name):
    """With the one model that set-up installs as teacher and student."""
    make(wanted(tmp_path, template=name))
    choice = Choice(path=tmp_path / "potstill.toml", overrides=EMBEDDED)
    run_directory = RunDirectory(tmp_path)
    estimates, workload = estimate(resolve(choice, run_directory), run_directory)
    assert [one.stage for one in estimates] == ["generate", "train", "quantize", "compare"]
    assert workload.num_conversations > 0
    assert estimates[1].tokens > 0


def test_templates_are_of_every_kind():
    assert template_names() == ["answers", "chat", "classify", "extract", "sql", "tools"]


def test_a_database_is_made_of_its_script(tmp_path):
    make(wanted(tmp_path, template="sql"))
    with sqlite3.connect(tmp_path / "database.sqlite") as connection:
        assert connection.execute("SELECT COUNT(*) FROM orders").fetchone() == (5,)
    assert not (tmp_path / "database.sql").exists()


def test_examples_become_a_task(tmp_path):
    rows = [
        {
            "messages": [
                {"role": "system", "content": 'Name the "team".'},
                {"role": "user", "content": f"{TEAMS[n % 3] * 3} {n * 7919}"},
            ],
            "answer": {"team": TEAMS[n % 3], "reply": f"Hello {n}"},
        }
        for n in range(30)
    ]
    lines = make(wanted(tmp_path / "bank", jsonl(tmp_path / "logs.jsonl", rows)))
    content, task = written(tmp_path / "bank")
    assert "team is one of 3 labels" in lines[0]
    assert len(task.examples) + len(task.references) == 30
    assert len(task.references) == 9
    assert task.instructions.strip() == 'Name the "team".'
    assert task.student_instructions == ""
    assert {len(item.messages) for item in task.examples} == {1}
    assert [metric.name for metric in task.make_metrics()] == ["label", "schema"]
    assert content["task"]["metrics"][0]["field"] == "team"
    assert content["generate"]["sampling"]["structured"]
    assert task.schema_content["properties"]["team"] == {"enum": sorted(TEAMS)}
    assert 16 <= content["generate"]["sampling"]["max_tokens"] <= 96


def test_a_student_that_writes_sentences_learns_to_decline(tmp_path):
    answers = [{"team": team, "reply": "We will look into it."} for team in TEAMS]
    rows = [{"prompt": f"number {n}", "answer": answers[n % 3]} for n in range(30)]
    messages = jsonl(tmp_path / "messages.jsonl", [{"prompt": f"m {n}"} for n in range(10)])
    asked = wanted(tmp_path / "bank", jsonl(tmp_path / "logs.jsonl", rows))
    lines = make(replace(asked, messages=str(messages)))
    generate = written(tmp_path / "bank")[0]["generate"]
    _, source = generate["prompts"]["sources"]
    assert f"harmful requests get {source['answer']}" in lines[1]
    answer = {"team": "none", "reply": "We cannot help with that."}
    assert (source["kind"], json.loads(source["answer"])) == ("decline", answer)
    assert generate["prompts"]["num_prompts"] == 12
    resolve(Choice(path=tmp_path / "bank" / "potstill.toml"), RunDirectory(tmp_path / "run"))


def test_nothing_binds_answers_that_are_neither_labels_nor_json(tmp_path):
    rows = [{"prompt": f"{n} + {n * 7919}", "answer": str(n * 7920)} for n in range(10)]
    make(wanted(tmp_path / "sums", jsonl(tmp_path / "logs.jsonl", rows)))
    content, _ = written(tmp_path / "sums")
    assert "structured" not in content["generate"]["sampling"]


def test_a_table_of_a_spreadsheet_makes_the_task_that_lines_make(tmp_path):
    rows = [(f"where is number {n}, please?", TEAMS[n % 3]) for n in range(30)]
    lines = jsonl(tmp_path / "labeled.jsonl", [{"prompt": a, "answer": b} for a, b in rows])
    table = tmp_path / "labeled.csv"
    table.write_text("Message;Team\n" + "".join(f'"{a}";{b}\n' for a, b in rows))
    directory = tmp_path / "task"
    assert make(wanted(directory, table)) == make(wanted(directory, lines, force=True))
    content, task = written(directory)
    assert set(content["task"]["metrics"][0]["labels"]) == set(TEAMS)
    assert len(task.examples) + len(task.references) == 30


def test_calls_become_tools(tmp_path):
    rows = [
        {"prompt": f"light {n * 7919}", "answer": {"name": "set", "arguments": {"percent": n}}}
        for n in range(10)
    ]
    make(wanted(tmp_path / "home", jsonl(tmp_path / "logs.jsonl", rows)))
    _, task = written(tmp_path / "home")
    assert json.loads(task.tools)[0]["function"]["name"] == "set"
    assert task.student_tools is None
    assert task.references[0].known.tool_calls[0].name == "set"


def test_free_text_has_no_references(tmp_path):
    rows = [
        {"prompt": f"question {n}", "answer": f"It depends on {n * 'very '}."} for n in range(9)
    ]
    make(wanted(tmp_path / "chat", jsonl(tmp_path / "logs.jsonl", rows)))
    _, task = written(tmp_path / "chat")
    assert (len(task.examples), task.references, task.metrics) == (9, (), ())


def test_numbers_get_instructions_that_ask_for_one(tmp_path):
    rows = [{"prompt": f"{n} plus 1?", "answer": n + 1} for n in range(9)]
    make(wanted(tmp_path / "sums", jsonl(tmp_path / "logs.jsonl", rows)))
    _, task = written(tmp_path / "sums")
    assert task.instructions.strip() == "Answer with one number and nothing else."


def test_answers_that_are_all_the_same_are_reported(tmp_path):
    rows = [{"prompt": f"question {n}", "answer": "cards"} for n in range(9)]
    lines = make(wanted(tmp_path / "bank", jsonl(tmp_path / "logs.jsonl", rows)))
    assert lines[:2] == [
        "all answers are the same: add examples with other answers",
        "9 examples, 0 references",
    ]


def test_prompts_with_different_answers_are_reported(tmp_path):
    rows = [{"prompt": f"question {n}", "answer": TEAMS[n % 3]} for n in range(9)]
    rows.append(rows[0] | {"answer": "cash"})
    lines = make(wanted(tmp_path / "bank", jsonl(tmp_path / "logs.jsonl", rows)))
    assert lines[1] == "1 prompt with different answers: keep one answer for each"


def test_answers_beyond_ascii_get_more_tokens(tmp_path):
    most = []
    for answer in ("card " * 8, "\N{CJK UNIFIED IDEOGRAPH-5361}" * 40):
        rows = [{"prompt": f"question {n}", "answer": f"{answer}{n}"} for n in range(9)]
        directory = tmp_path / str(len(most))
        make(wanted(directory, jsonl(tmp_path / "logs.jsonl", rows)))
        most.append(written(directory)[0]["generate"]["sampling"]["max_tokens"])
    assert most == [48, 96]


def test_queries_need_a_database_of_the_users(tmp_path):
    rows = [{"prompt": f"question {n}", "answer": f"SELECT {n}"} for n in range(9)]
    lines = make(wanted(tmp_path / "shop", jsonl(tmp_path / "logs.jsonl", rows)))
    database = tmp_path / "shop" / "database.sqlite"
    assert lines[-1] == f"put the database at {database}: answers are measured by their rows"


def test_existing_files_are_kept_unless_forced(tmp_path):
    (tmp_path / "examples.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="nothing was written") as caught:
        make(wanted(tmp_path, template="chat"))
    assert caught.value.found == "examples.jsonl"
    assert [path.name for path in tmp_path.iterdir()] == ["examples.jsonl"]
    make(wanted(tmp_path, template="chat", force=True))
    assert "hotel" in (tmp_path / "potstill.toml").read_text()


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="unknown template 'sentiment'"):
        make(wanted(tmp_path, template="sentiment"))
    path = jsonl(tmp_path / "logs.jsonl", [{"prompt": "a", "answer": "SELECT 1"}])
    with pytest.raises(ConfigError, match="not those of the template") as caught:
        make(wanted(tmp_path, path, "classify"))
    assert "SQL" in caught.value.found
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("num_words", "num_shots"), [(1, 50), (300, 3)])
def test_the_teacher_reads_as_many_examples_as_fit(tmp_path, num_words, num_shots):
    rows = [
        {"prompt": f"{number} " + "word " * num_words, "answer": TEAMS[number % 3]}
        for number in range(90)
    ]
    make(wanted(tmp_path / "task", like=jsonl(tmp_path / "rows.jsonl", rows)))
    content, _ = written(tmp_path / "task")
    assert content["task"]["num_shots"] == num_shots
    assert content["generate"]["sampling"]["structured"]  # The labels bind.


@pytest.mark.parametrize("name", template_names())
def test_the_users_job_begins_the_instructions(tmp_path, name):
    about = 'Sort "mails" of C:\\dir.'
    make(replace(wanted(tmp_path, template=name), about=about, teacher="smollm2-135m-instruct"))
    content, _ = written(tmp_path)
    assert content["task"]["instructions"].strip().startswith(about)
    assert content["generate"]["teacher"]["model"] == "smollm2-135m-instruct"


def test_examples_with_a_job_say_both(tmp_path):
    rows = [{"prompt": f"mail {n}", "answer": TEAMS[n % 3]} for n in range(30)]
    like = jsonl(tmp_path / "like.jsonl", rows)
    make(replace(wanted(tmp_path / "task", like), about="Sort mails by team."))
    content, _ = written(tmp_path / "task")
    job, form = content["task"]["instructions"].strip().splitlines()
    assert job == "Sort mails by team."
    assert form.startswith("Answer with one of these labels")
