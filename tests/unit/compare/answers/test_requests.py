import json

import pytest

from compare.answers.answers import AnswerBook, Sampling, Wanted
from compare.answers.cache import JsonCache
from compare.answers.client import Endpoint
from compare.answers.references import read_references
from compare.answers.requests import as_given, as_student, as_teacher, as_teacher_of_stored
from potstill.schema import Message
from potstill.task.answers import Answer, Item, ToolCall
from potstill.task.metrics.config import ExactConfig, LabelConfig, ToolCallsConfig
from potstill.task.task import Task

from ..conftest import ask_about

TOOLS = json.dumps([{"type": "function", "function": {"name": "balance", "parameters": {}}}])


def item(text, known="cards"):
    return Item(messages=(Message(role="user", content=text),), known=Answer(text=known))


TASK = Task(
    instructions="Name the team.",
    student_instructions="",
    tools=TOOLS,
    student_sees_tools=False,
    examples=(item("My card broke."), item("Where is my cash?", "cash")),
    references=tuple(item(f"prompt {n}", "cards" if n % 2 else "cash") for n in range(10)),
    num_shots=1,
    metrics=(LabelConfig(labels=("cards", "cash")),),
)


def test_student_and_teacher_are_asked_with_their_own_instructions_and_tools():
    (question,) = read_references(TASK, 1, seed=0)
    student, teacher = (
        as_student(TASK, bound=False)(question),
        as_teacher(TASK, bound=False)(question),
    )
    assert (student.messages, student.tools) == (question.messages, None)
    assert teacher.messages[0].content == "Name the team.\n\nExamples:\nMy card broke. -> cards"
    assert (teacher.messages[1:], teacher.tools) == (question.messages, TOOLS)


def test_answers_without_calls_are_bound_to_the_tasks_schema_where_that_is_wanted():
    (question,) = read_references(TASK, 1, seed=0)
    schema = {"type": "object"}
    given = TASK.model_copy(update={"answer_schema": json.dumps(schema)})
    without_tools = given.model_copy(update={"tools": None})
    for ask in (as_student, as_teacher):
        assert ask(given, bound=True)(question).schema is None
        assert ask(without_tools, bound=False)(question).schema is None
        assert ask(without_tools, bound=True)(question).wire_format == {
            "type": "json_schema",
            "json_schema": {"name": "task", "schema": schema},
        }


@pytest.mark.parametrize("reads_grammars", [True, False])
def test_a_label_alone_is_bound_by_servers_that_read_grammars(
    openai_server, tmp_path, reads_grammars
):
    server = openai_server(lambda _: "cash")
    (question,) = read_references(TASK, 1, seed=0)
    labeled = TASK.model_copy(update={"tools": None})
    assert as_teacher(labeled, bound=False)(question).grammar is None
    book = AnswerBook(
        JsonCache(tmp_path),
        [Wanted("student", question, 0)],
        Sampling(0.0, 8, 0),
        {"student": "m"},
        {"student": "m"},
        {"student": as_student(labeled, bound=True)},
    )
    endpoint = Endpoint(server.base_url, "m", "m", reads_grammars=reads_grammars)
    book.fill({"student": endpoint}, 1)
    found = server.requests[0].get("grammar")
    assert found == ('root ::= "cards" | "cash"' if reads_grammars else None)


@pytest.mark.parametrize(
    ("own", "source", "expected"),
    [
        ("", "a file", ["Name the team.", "How?"]),
        ("Be brief.", "a file", ["Name the team.\n\nBe brief.", "How?"]),
        ("", "general/chats", ["In short:", "How?"]),
    ],
)
def test_stored_prompts_are_asked_with_the_teachers_instructions(own, source, expected):
    """They are stored under the student's, which the teacher does not get."""
    task = TASK.model_copy(update={"student_instructions": "In short:", "num_shots": 0})
    prompt = (Message(role="user", content="How?"),)
    stored = task.student_messages(
        (*((Message(role="system", content=own),) if own else ()), *prompt)
    )
    question = ask_about(0, messages=stored, source=source)
    found = as_teacher_of_stored(task)(question)
    assert [one.content for one in found.messages] == expected
    assert found.tools == (None if source.startswith("general/") else TOOLS)


@pytest.mark.parametrize(
    ("text", "calls", "rest"),
    [
        ('<tool_call>\n{"name": "balance", "arguments": {"account": "a"}}\n</tool_call>', 1, ""),
        ('{"name": "balance", "parameters": {"account": "a"}}', 1, ""),
        ('```json\n{"name": "balance", "arguments": {"account": "a"}}\n```', 1, ""),
        ("Hello!", 0, "Hello!"),
    ],
)
def test_calls_of_tools_that_the_student_has_learned_are_read(
    openai_server, tmp_path, text, calls, rest
):
    server = openai_server(lambda _: text)
    (question,) = read_references(TASK, 1, seed=0)
    names = {"student": "m"}
    book = AnswerBook(
        JsonCache(tmp_path),
        [Wanted("student", question, 0)],
        Sampling(0.0, 8, 0),
        names,
        names,
        {"student": as_student(TASK, bound=False)},
    )
    book.fill({"student": Endpoint(server.base_url, "m", "m", max_retries=0)}, 1)
    assert "tools" not in server.requests[0]
    (found,) = book.answers()
    assert (len(found.content.tool_calls), found.answer) == (calls, rest)
    for call in found.content.tool_calls:
        assert (call.name, json.loads(call.arguments)) == ("balance", {"account": "a"})


def test_references_are_questions_with_known_answers_labels_and_clusters():
    dialogue = (
        Message(role="user", content="prompt 0"),
        Message(role="assistant", content="Which one?"),
        Message(role="user", content="The blue one."),
    )
    twice = (*TASK.references, TASK.references[3], Item(messages=dialogue, known=Answer(text="x")))
    questions = read_references(TASK.model_copy(update={"references": twice}), 100, seed=0)
    assert [one.messages[-1].content for one in questions[:2]] == ["prompt 0", "prompt 1"]
    assert len(questions) == 11
    assert [one.slices.get("label") for one in questions[:2]] == ["cash", "cards"]
    assert (questions[-1].slices["turns"], "label" in questions[-1].slices) == ("several", False)
    assert questions[-1].cluster_id == questions[0].cluster_id != questions[1].cluster_id
    assert questions[1].known == Answer(text="cards")


def test_similar_references_are_one_cluster_with_all_that_begin_like_one_of_them():
    """Five wordings of each prompt, as five prompts, passed a student at the margin with 0.22."""
    names = [one.prompt_id for one in read_references(TASK, 100, seed=0)]
    similar = {names[1]: "group", names[4]: "group", names[5]: "other"}
    first, second, *others = read_references(TASK, 100, 0, similar)
    assert others[2].cluster_id == second.cluster_id == names[1]
    assert len({one.cluster_id for one in (first, second, *others)}) == len(names) - 1
    dialogue = (*TASK.references[4].messages, Message(role="assistant", content="Which?"))
    dialogue = (*dialogue, Message(role="user", content="That one."))
    longer = TASK.model_copy(
        update={"references": (*TASK.references, Item(messages=dialogue, known=Answer(text="x")))}
    )
    *_, last = read_references(longer, 100, 0, similar)
    assert last.cluster_id == names[1]


def test_of_many_references_a_sample_stays_the_same_and_in_order():
    all_ids = [one.prompt_id for one in read_references(TASK, 100, seed=0)]
    found = [one.prompt_id for one in read_references(TASK, 4, seed=1)]
    assert found == [one for one in all_ids if one in found]
    assert found == [one.prompt_id for one in read_references(TASK, 4, seed=1)]
    assert found != [one.prompt_id for one in read_references(TASK, 4, seed=2)]


def test_prompts_are_sliced_by_the_tools_that_should_be_called():
    calls = Answer(tool_calls=(ToolCall(name="balance"),))
    references = (Item(messages=item("How much?").messages, known=calls), item("Hello!"))
    task = Task(references=references, metrics=(ExactConfig(), ToolCallsConfig()))
    found = [one.slices["tool"] for one in read_references(task, 9, seed=0)]
    assert found == ["balance", "(no call)"]


def test_tools_are_sent_and_calls_are_stored(openai_server, tmp_path):
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "balance", "arguments": '{"account": "savings"}'},
    }

    def reply(_body):
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        return 200, {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }

    server = openai_server(reply)
    question = ask_about(0, tools=TOOLS)

    def book(**changes):
        names = {"student": "m"}
        wanted = [Wanted("student", question.model_copy(update=changes), 0)]
        return AnswerBook(JsonCache(tmp_path), wanted, Sampling(0.0, 8, 0), names, names)

    endpoint = Endpoint(server.base_url, "m", "m", max_retries=0)
    book().fill({"student": endpoint}, 1)
    (sent,) = server.requests
    assert sent["tools"] == json.loads(TOOLS)
    (found,) = book().answers()
    assert found.content.tool_calls == (
        ToolCall(name="balance", arguments='{"account": "savings"}'),
    )
    assert json.loads(found.tool_calls) == [call]
    assert found.shown == 'balance({"account": "savings"})'
    assert book(tools=None).missing(), "without tools it is another prompt"
    assert as_given(question).tools == TOOLS
