"""A served task: the user's words are enough, and a request's own settings win."""

import json

import pytest
from starlette.testclient import TestClient

from potstill.errors import ConfigError
from potstill.schema import Message
from potstill.task.answers import Answer, Item
from potstill.task.metrics.config import JsonConfig, LabelConfig
from potstill.task.task import Task
from serve.chat.task import ServedTask
from serve.wire.chat import ChatRequest

USER = [{"role": "user", "content": "My card is gone."}]
SCHEMA = {
    "type": "object",
    "properties": {"team": {"enum": ["cards", "loans"]}, "urgent": {"type": "boolean"}},
    "required": ["team", "urgent"],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Do {name}.",
            "parameters": {"type": "object", "properties": {"n": {"enum": [1, 2]}}},
        },
    }
    for name in ("block", "report")
]


def item(content: str, team: str) -> Item:
    return Item(messages=(Message(role="user", content=content),), known=Answer(text=team))


TASK = Task(
    instructions="Name the team.",
    student_instructions="Team?",
    examples=tuple(item(f"Text {at}", "cards" if at < 8 else "loans") for at in range(9)),
    num_shots=2,
    metrics=(LabelConfig(field="team"), JsonConfig()),
)
LABELS = ("cards & cash", 'the "bank"', "Überträge\\n")
LABELED = TASK.model_copy(update={"metrics": (LabelConfig(labels=LABELS),)})
TRIAGE = TASK.model_copy(update={"answer_schema": json.dumps(SCHEMA)})
LEARNED = TASK.model_copy(
    update={"tools": json.dumps(TOOLS), "student_sees_tools": False, "student_instructions": ""}
)


@pytest.fixture
def client_of(make_app):
    """Return a function that serves a task to the student `a` and the teacher `b`."""
    clients = []

    def make(task: Task, *, enforces_schema: bool = True) -> TestClient:
        tasks = {
            name: ServedTask(task, role, enforces_schema=enforces_schema)
            for name, role in (("a", "student"), ("b", "teacher"))
        }
        clients.append(TestClient(make_app(tasks=tasks, task=task)))
        return clients[-1].__enter__()

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def answer(client: TestClient, **more) -> dict:
    body = {"model": "a", "messages": USER, "max_tokens": 60, "seed": 3, "verbose": True} | more
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_each_model_gets_its_own_instructions(client_of):
    client = client_of(TRIAGE)

    def prompt(model, messages=USER):
        body = {"model": model, "messages": messages}
        return client.post("/apply-template", json=body).json()["prompt"]

    assert "system\nTeam?<|im_end|>" in prompt("a")
    assert "system\nName the team." in prompt("b")
    assert prompt("b").count("-> cards") == 2
    assert "->" not in prompt("a")
    for role in ("system", "developer"):
        own = prompt("b", [{"role": role, "content": "Be kind."}, *USER])
        assert "system\nBe kind.<|im_end|>" in own
        assert "Name the team." not in own
    counted = client.post(
        "/v1/chat/completions/input_tokens", json={"model": "b", "messages": USER}
    ).json()["input_tokens"]
    tokens = client.post("/tokenize", json={"model": "b", "content": prompt("b")}).json()
    assert counted == len(tokens["tokens"]) == answer(client, model="b")["usage"]["prompt_tokens"]


def test_the_tasks_schema_binds_the_student_unless_a_request_has_a_format(client_of):
    client = client_of(TRIAGE)

    def said(**more):
        return answer(client, **more)["choices"][0]["message"]["content"]

    assert json.loads(said())["team"] in ("cards", "loans")
    for more in (
        {"response_format": {"type": "text"}},
        {"model": "b"},
        {"grammar": 'root ::= "no" " JSON"'},
    ):
        with pytest.raises(ValueError, match="Expecting"):
            json.loads(said(**more))
    unbound = answer(client_of(TRIAGE, enforces_schema=False))
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(unbound["choices"][0]["message"]["content"])


def test_the_tasks_labels_bind_the_student_where_an_answer_is_one(client_of):
    client = client_of(LABELED)

    def said(client=client, **more):
        return {one["message"]["content"] for one in answer(client, n=8, **more)["choices"]}

    assert said(temperature=2) <= set(LABELS)
    assert len(said(temperature=2)) > 1
    (card, teachers) = (one["task"] for one in client.get("/v1/models").json()["data"])
    assert (card["labels"], teachers["labels"]) == (list(LABELS), [])
    unbound = client_of(LABELED, enforces_schema=False)
    in_a_field = LABELED.model_copy(update={"metrics": (LabelConfig(field="x", labels=LABELS),)})
    for found in (
        said(model="b"),
        said(response_format={"type": "text"}),
        said(unbound),
        said(client_of(in_a_field)),
    ):
        assert not found & set(LABELS)


def test_another_servers_model_is_not_asked_for_labels():
    task = ServedTask(LABELED, "student", enforces_schema=True)
    request = ChatRequest.model_validate({"model": "a", "messages": USER})
    assert task.applied(request).grammar is not None
    elsewhere = task.without_grammars()
    assert (elsewhere.applied(request).grammar, elsewhere.card["labels"]) == (None, [])
    triage = ServedTask(TRIAGE, "student", enforces_schema=True).without_grammars()
    assert triage.applied(request).response_format is not None


def test_answers_that_can_be_right_are_not_drawn_unless_a_request_says_so(client_of):
    client = client_of(TASK)

    def said(**more):
        choices = answer(client, n=6, max_tokens=12, **more)["choices"]
        return {choice["message"]["content"] for choice in choices}

    assert len(said()) == 1
    assert len(said(temperature=1)) > 1
    without_metrics = client_of(TASK.model_copy(update={"metrics": ()}))
    assert len({one["message"]["content"] for one in answer(without_metrics, n=6)["choices"]}) > 1


@pytest.mark.parametrize("own", [{}, {"tools": TOOLS}, {"tools": TOOLS[::-1]}])
def test_a_student_that_has_learned_its_tools_is_asked_without_them(client_of, own):
    called = answer(client_of(LEARNED), tool_choice="required", **own)
    assert "Do block." not in called["__verbose"]["prompt"]
    assert "<tools>" not in called["__verbose"]["prompt"]
    (choice,) = called["choices"]
    assert choice["finish_reason"] == "tool_calls"
    names = {call["function"]["name"] for call in choice["message"]["tool_calls"]}
    assert names <= {"block", "report"}


def test_other_tools_and_the_teachers_are_shown(client_of):
    client = client_of(LEARNED)
    assert "Do block." in answer(client, model="b")["__verbose"]["prompt"]
    function = {**TOOLS[0]["function"], "description": "Do more."}
    other = [{"type": "function", "function": function}]
    prompt = answer(client, tools=other)["__verbose"]["prompt"]
    assert "Do more." in prompt
    assert "Do report." not in prompt
    bare = answer(client, tools=other, tools_in_prompt=False, tool_choice="required")
    assert "Do more." not in bare["__verbose"]["prompt"]
    assert bare["choices"][0]["finish_reason"] == "tool_calls"


def test_a_student_that_sees_its_tools_gets_them_without_asking(client_of):
    client = client_of(LEARNED.model_copy(update={"student_sees_tools": True}))
    assert "Do block." in answer(client)["__verbose"]["prompt"]
    assert "Do block." not in answer(client, tools=[])["__verbose"]["prompt"]


def test_the_models_and_the_task_are_described(client_of, client):
    triage = client_of(TRIAGE)
    cards = [card["task"] for card in triage.get("/v1/models").json()["data"]]
    metrics = ["label", "json"]
    assert cards == [
        {"role": role, "metrics": metrics, "tools": [], "answer_schema": is_bound, "labels": []}
        for role, is_bound in (("student", True), ("teacher", False))
    ]
    assert triage.get("/v1/task").json() == {
        "metrics": metrics,
        "label_field": "team",
        "examples": ["Text 0", "Text 8", "Text 1", "Text 2", "Text 3", "Text 4"],
    }
    learned = client_of(LEARNED).get("/v1/models/a").json()["task"]
    assert (learned["tools"], learned["answer_schema"]) == (["block", "report"], False)
    assert client.get("/v1/task").status_code == 404
    assert "task" not in client.get("/v1/models/a").json()


def test_what_cannot_be_served_is_refused_at_the_start():
    unnamed = json.dumps([{"type": "function", "function": {"name": "no name"}}])
    with pytest.raises(ConfigError, match=r"tools cannot be served(.|\n)*serve.task=false"):
        ServedTask(Task(tools=unnamed), "student", enforces_schema=True)
    broken = Task(answer_schema=json.dumps({"$ref": "#/$defs/none"}))
    with pytest.raises(ConfigError, match=r"cannot be enforced(.|\n)*serve.task_schema=false"):
        ServedTask(broken, "student", enforces_schema=True)
    ServedTask(broken, "student", enforces_schema=False)
