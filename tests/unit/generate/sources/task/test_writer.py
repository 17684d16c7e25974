import json
import re
from collections import Counter

import pytest

from generate.sources.config import SourceConfig
from generate.sources.task.mentions import mentions
from generate.sources.task.writer import write_inputs
from potstill.errors import ConfigError, TeacherError
from potstill.schema import Message, SamplingParams
from potstill.task.answers import Answer, Item
from potstill.task.metrics.config import FieldsConfig
from potstill.task.task import Task

PLAIN = {"noise": {"none": 1.0}}
WORDS = ["amber", "birch", "copper", "dune", "ember", "fjord", "granite", "harbor", "ivory", "jade"]
INPUTS = [f"Why is the {one} {other} thing late?" for one in WORDS for other in WORDS] * 5


def write(teacher, task, tmp_path, count=8, seed=0, name="task.jsonl", **config):
    sampling = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=40, seed=seed)
    source = SourceConfig(kind="task", **(PLAIN | config))
    return write_inputs(teacher, source, task, count, sampling, tmp_path / name)


class Obeying:
    """Texts for `WritingTeacher` that say what a request wants, read from its last message."""

    def __init__(self, teacher) -> None:
        self.teacher = teacher

    def __getitem__(self, number: int) -> str:
        asked = next(one for one in self.teacher.asked if int(one.request_id) == number)
        request = self.teacher.tokenizer.decode(asked.prompt_token_ids).split("<user>")[-1]
        lines = request.partition("|")[0].splitlines()
        said = [
            line.partition("Say: ")[2].rstrip(".").replace("no details", "please")
            for line in lines
            if "Say: " in line
        ]
        if len(said) < 2:
            return f"{said[0]}, {WORDS[number % 10]}"
        return "\n".join(f"{place}. {one}" for place, one in enumerate(said, start=1))


class Repeating(Obeying):
    """Texts that repeat the words of a request; every third leaves its values out."""

    def __getitem__(self, number: int) -> str:
        asked = next(one for one in self.teacher.asked if int(one.request_id) == number)
        request = self.teacher.tokenizer.decode(asked.prompt_token_ids)
        words = request.rpartition("it asks for ")[2].partition(".")[0]
        return words if number % 3 else f"Give me {WORDS[number % 10]}"


@pytest.fixture
def obeying(writing):
    def make(**options):
        teacher = writing((), **options)
        teacher._texts = Obeying(teacher)
        return teacher

    return make


def test_inputs_are_balanced_over_labels_and_have_them_as_known_answers(writing, labels, tmp_path):
    written = write(writing(INPUTS), labels, tmp_path, name="x", license="MIT")
    known = Counter(prompt.known for prompt in written.prompts)
    expected = [Answer(text=json.dumps({"team": team})) for team in ("cards", "cash")]
    assert known == {one.model_dump_json(): 4 for one in expected}
    assert Counter(one.source for one in written.prompts) == {"task:cards": 4, "task:cash": 4}
    assert {prompt.license for prompt in written.prompts} == {"MIT"}


def test_the_teacher_continues_a_list_of_a_label(writing, labels, tmp_path):
    teacher = writing([f"Sure, the next one:\n\n3. {INPUTS[0]}\n4. And mine?", *INPUTS])
    written = write(
        teacher, labels, tmp_path, request="Customers write.", personas=["a pilot"], num_shots=2
    )
    for text in teacher.asked_texts():
        assert text.startswith("<user>Customers write. These messages of users are about ca")
        assert text.count("<assistant>") == 1
        (number,) = re.findall(r"write message (\d), by another user, a pilot, who", text)
        assert text.count("\n") == int(number) + 1
        assert re.search(r"something else about ca\w+[ ,].*, in about \d+ words. One line.", text)
    assert INPUTS[0] in [one.messages[0].content for one in written.prompts]
    lists = {text.partition("\n\n")[0] for text in teacher.asked_texts()}
    assert len(lists) > 2, "drawn anew"


def test_a_list_has_no_writers_that_nobody_named(writing, labels, tmp_path):
    teacher = writing(INPUTS)
    write(teacher, labels, tmp_path)
    assert all("by another user who asks" in text for text in teacher.asked_texts())


def test_the_instructions_stand_in_for_a_missing_request(writing, labels, tmp_path):
    teacher = writing(INPUTS)
    write(teacher, labels, tmp_path, lengths=["two words"], num_shots=0)
    for text in teacher.asked_texts():
        assert labels.instructions.strip() in text
        assert "Length: two words." in text


def test_a_drawn_text_is_shown_with_its_words_and_its_values_are_required(writing, tmp_path):
    (tmp_path / "own.py").write_text(
        "def query(draw):\n    n = draw.randint(20, 99)\n"
        "    return f'SELECT {n}', f'the number {n}', {'number': str(n)}\n"
    )
    message = Message(role="user", content="What is three?")
    shown = Item(messages=(message,), known=Answer(text="SELECT 3"))
    teacher = writing(())
    teacher._texts = Repeating(teacher)
    written = write(
        teacher, Task(examples=(shown,)), tmp_path, 4, direction="answer",
        draw=f"{tmp_path}/own.py:query", lengths=["one line"],
    )  # fmt: skip
    *_, last = teacher.asked_texts()
    assert "The message is answered by: SELECT 3\nLength: about 3 words." in last
    number = re.search(r"SELECT (\d\d)\n", last)[1]
    asked = f"answered by: SELECT {number}\nIn words, it asks for the number {number}.\nLength: one"
    assert asked in last
    for prompt in written.prompts:
        (number,) = re.findall(r"\d+", prompt.messages[0].content)
        assert Answer.model_validate_json(prompt.known) == Answer(text=f"SELECT {number}")
    assert {one.filter for one in written.dropped} == {"missing_value"}


def test_calls_are_exact_and_their_values_are_in_the_input(obeying, calls, tmp_path):
    written = write(obeying(), calls, tmp_path, count=30, direction="answer")
    assert Counter(prompt.source.split(":")[1] for prompt in written.prompts)["transfer"] >= 10
    for prompt in written.prompts:
        (call,) = Answer.model_validate_json(prompt.known).tool_calls
        text = " ".join(one.content for one in prompt.messages if one.role == "user")
        assert all(str(value) in text for value in json.loads(call.arguments).values())
        assert prompt.messages[-1].role == "user"
    dialogues = [prompt for prompt in written.prompts if len(prompt.messages) > 1]
    assert dialogues
    for prompt in dialogues:
        assert [one.role for one in prompt.messages] == ["user", "assistant", "user"]
        assert prompt.messages[1].tool_calls


def test_what_cannot_be_used_is_dropped_with_its_reason(writing, labels, tmp_path):
    texts = [labels.examples[0].messages[0].content, "Tell the queue team", *INPUTS[:1] * 2,
             "Message: 'Where is it now?'", "42", "Help, [NAME]!", *INPUTS]  # fmt: skip
    written = write(writing(texts), labels, tmp_path)
    reasons = {one.prompt.messages[0].content: (one.filter, one.reason) for one in written.dropped}
    assert reasons[texts[0]] == ("repeated", "the same as an example")
    assert reasons[texts[2]][0] == "repeated"
    assert reasons["42"] == ("off_task", "no letters")
    assert reasons["Help, [NAME]!"] == ("placeholder", "has the placeholder: [NAME]")
    kept = {prompt.messages[0].content for prompt in written.prompts}
    assert "Where is it now?" in kept, "labels and quotation marks are taken off"


def test_an_interrupted_process_asks_for_the_same(obeying, calls, tmp_path):
    ask = {"task": calls, "tmp_path": tmp_path, "direction": "answer", "count": 12,
           "noise": {"none": 1.0, "typos": 1.0, "speech": 1.0}}  # fmt: skip
    whole = write(obeying(), name="whole", **ask)
    with pytest.raises(KeyboardInterrupt):
        write(obeying(lives=7), **ask)
    assert write(obeying(), **ask) == whole
    other = write(obeying(), name="other", seed=1, **ask)
    assert [one.known for one in other.prompts] != [one.known for one in whole.prompts]


def test_noise_is_put_into_the_text_or_asked_of_the_teacher(writing, labels, tmp_path):
    written = write(writing(INPUTS), labels, tmp_path, noise={"lowercase": 1.0})
    assert all(prompt.messages[0].content.islower() for prompt in written.prompts)
    teacher = writing(INPUTS)
    write(teacher, labels, tmp_path, name="x", noise={"in telegram style": 1.0})
    assert all("Style: in telegram style." in text for text in teacher.asked_texts())


def test_a_source_without_a_task_is_refused(writing, tmp_path):
    with pytest.raises(ConfigError, match="needs a task"):
        write(writing([]), None, tmp_path)


RECORDS = {
    "type": "object",
    "properties": {
        "item": {"enum": ["chairs", "tables", "lamps", "shelves"]},
        "order": {"type": "string", "pattern": "^[A-Z]{3}[0-9]{5}$"},
        "price": {"type": "integer", "minimum": 100, "maximum": 9000},
        "day": {"type": "string", "format": "date"},
    },
    "required": ["item", "order", "price", "day"],
}


def test_records_are_refilled_without_asking_the_teacher(obeying, tmp_path):
    task = Task(answer_schema=json.dumps(RECORDS), metrics=(FieldsConfig(),))
    teacher = obeying()
    written = write(teacher, task, tmp_path, count=18, direction="answer", refills=2)
    assert len(written.prompts) == 18
    assert len(teacher.asked) <= 6 * 1.3 + 1
    assert len({prompt.key for prompt in written.prompts}) == 18
    for prompt in written.prompts:
        record = json.loads(Answer.model_validate_json(prompt.known).text)
        assert all(mentions(prompt.messages[0].content, value) for value in record.values())
    assert write(obeying(), task, tmp_path, count=18, direction="answer", refills=2) == written


def test_refills_take_their_records_from_a_function_of_their_own(obeying, tmp_path):
    (tmp_path / "unseen.py").write_text(
        "def draw(random):\n"
        "    day = f'2031-01-{random.randint(10, 28)}'\n"
        "    return {'item': 'lamps', 'order': f'ZZZ{random.randint(10000, 99999)}',\n"
        "            'price': random.randint(100, 9000), 'day': day}\n"
    )
    task = Task(answer_schema=json.dumps(RECORDS), metrics=(FieldsConfig(),))
    drawn_by = {"refill_draw": f"{tmp_path / 'unseen.py'}:draw"}
    written = write(obeying(), task, tmp_path, count=18, direction="answer", refills=2, **drawn_by)
    orders = [json.loads(Answer.model_validate_json(one.known).text)["order"]
              for one in written.prompts]  # fmt: skip
    assert not [order for order in orders[:6] if order.startswith("ZZZ")]
    assert len([order for order in orders[6:] if order.startswith("ZZZ")]) == 12


PARTS = {"what": ("item", "order"), "when": ("price", "day")}


def test_inputs_are_made_of_passages_that_the_teacher_writes_for_parts(obeying, tmp_path):
    task = Task(answer_schema=json.dumps(RECORDS), metrics=(FieldsConfig(),))
    teacher = obeying()
    options = {"direction": "answer", "parts": PARTS, "num_passages": 5}
    written = write(teacher, task, tmp_path, count=40, **options)
    asked = [text.rpartition("Say: ")[2] for text in teacher.asked_texts()]
    assert len(asked) <= 10 * 1.3 + 1
    assert all(("price" in one) is ("item" not in one) for one in asked)
    assert len({prompt.key for prompt in written.prompts}) == 40
    for prompt in written.prompts:
        record = json.loads(Answer.model_validate_json(prompt.known).text)
        assert list(record) == ["item", "order", "price", "day"]
        assert all(mentions(prompt.messages[0].content, value) for value in record.values())
    assert write(obeying(), task, tmp_path, count=40, **options) == written


def test_compositions_that_the_own_check_refuses_are_dropped(obeying, tmp_path):
    (tmp_path / "own.py").write_text(
        "import json\n\ndef check(text, known):\n"
        "    record = json.loads(known)\n"
        "    is_whole = 'item' in record and 'price' in record\n"
        "    return 'too late' if is_whole and record['day'] > '2010' else None\n"
    )
    task = Task(answer_schema=json.dumps(RECORDS), metrics=(FieldsConfig(),))
    written = write(
        obeying(), task, tmp_path, count=40, direction="answer", parts=PARTS, num_passages=5,
        check=f"{tmp_path / 'own.py'}:check",
    )  # fmt: skip
    assert {one.reason for one in written.dropped} == {"too late"}
    for prompt in written.prompts:
        assert json.loads(Answer.model_validate_json(prompt.known).text)["day"] < "2011"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "input", "parts": PARTS}, "only drawn records have parts"),
        ({"direction": "answer", "parts": {"odd": ("color",)}}, "none of the fields"),
        ({"direction": "answer", "parts": {"a": ("item",), "b": ("item",)}}, "in two parts"),
    ],
)
def test_parts_that_cannot_be_drawn_are_refused(obeying, tmp_path, options, message):
    task = Task(answer_schema=json.dumps(RECORDS), metrics=(FieldsConfig(),))
    with pytest.raises(ConfigError, match=message):
        write(obeying(), task, tmp_path, **options)


class Forgetting(Obeying):
    """Texts that leave out the price."""

    def __getitem__(self, number: int) -> str:
        return re.sub(r",? ?price:? [\d.]+", "", super().__getitem__(number))


@pytest.fixture
def forgetting(writing):
    teacher = writing(())
    teacher._texts = Forgetting(teacher)
    return teacher


def test_what_an_input_may_leave_out_its_answer_leaves_out_too(forgetting, tmp_path):
    task = Task(answer_schema=json.dumps(RECORDS), metrics=(FieldsConfig(),))
    may_omit = ["price", "day"]
    written = write(forgetting, task, tmp_path, direction="answer", may_omit=may_omit)
    assert len(written.prompts) == 8
    assert not written.dropped
    for prompt in written.prompts:
        record = json.loads(Answer.model_validate_json(prompt.known).text)
        assert set(record) == {"item", "order", "day"}
        assert all(mentions(prompt.messages[0].content, value) for value in record.values())


def test_an_input_that_leaves_out_what_it_may_not_is_dropped(forgetting, tmp_path):
    task = Task(answer_schema=json.dumps(RECORDS), metrics=(FieldsConfig(),))
    with pytest.raises(TeacherError, match="not write enough"):
        write(forgetting, task, tmp_path, direction="answer", may_omit=["day"])
