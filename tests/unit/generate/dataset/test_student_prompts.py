"""A run with a task: known answers, the teacher's prompt, the student's prompt."""

import json
import re

import pyarrow.parquet as pq
import pytest

from generate.stage import run
from potstill.errors import ConfigError, ManifestMismatchError
from potstill.facts.conversations import ConversationsFacts
from potstill.task.answers import Answer
from potstill.task.config import TaskConfig
from potstill.task.stage import write_task

TOOLS = [{"type": "function", "function": {"name": "block_card", "parameters": {}}}]


@pytest.fixture
def write_json_lines(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def with_task(run_directory, write_json_lines):
    """Return a function that gives the run a task with two examples; keywords are its keys."""

    def make(**keys):
        examples = write_json_lines(
            "examples.jsonl",
            [
                {"prompt": "Who painted the Mona Lisa?", "answer": "art"},
                {"prompt": "Name three rivers of Asia.", "answer": {"label": "geography"}},
            ],
        )
        given = {
            "instructions": "Name the field.",
            "student_instructions": "Field?",
            "examples": examples,
            "num_shots": 1,
        }
        return write_task(TaskConfig.model_validate(given | keys), run_directory)

    return make


@pytest.fixture
def made(configured, run_directory, toys):
    """Return a function that runs all stages; keywords are tables."""
    assert not toys.loaded
    return lambda **tables: run(configured(**tables), run_directory)


def test_the_teacher_gets_instructions_and_examples_and_the_student_its_own_prompt(
    with_task, made, run_directory, stored, toys
):
    with_task()
    made()
    before = {row["conversation_id"]: row for row in stored.samples(run_directory).to_pylist()}
    after = stored.conversations(run_directory)
    assert len(after) == len(before) == 10
    tokenizer = toys.checkpoint.tokenizer
    for conversation in after:
        row = before[conversation.conversation_id]
        question = conversation.given[-1].content
        shot = "Who painted the Mona Lisa? -> art"
        if question == "Who painted the Mona Lisa?":
            shot = 'Name three rivers of Asia. -> {"label": "geography"}'
        answer = f"re {conversation.conversation_id} assistant 0"
        answer += "" if "x" in answer else "|"
        long = f"<system>Name the field.\n\nExamples:\n{shot}|<user>{question}|<assistant>"
        short = f"<system>Field?|<user>{question}|<assistant>"
        assert tokenizer.decode(row["token_ids"]) == long + answer
        assert tokenizer.decode(conversation.token_ids) == short + answer
        assert [one.start for one in conversation.turns] == [len(short)]
        assert [one["start"] for one in row["turns"]] == [len(long)]
        assert conversation.positions_T.tolist() == list(
            range(len(short), len(conversation.token_ids))
        )
    facts = run_directory.facts(ConversationsFacts)
    assert facts.prompt_distilled
    assert facts.teacher_prompt_tokens > facts.student_prompt_tokens > 0


def test_later_turns_follow_the_students_prompt_as_they_were_sampled(
    with_task, made, run_directory, stored, toys, write_questions, question_path
):
    roles = ("system", "user", "assistant", "user")
    write_questions(
        question_path,
        [
            {"messages": [{"role": role, "content": f"{text} {role}"} for role in roles]}
            for text in ("Why is the sky blue?", "How do I boil an egg?", "Explain gravity.")
        ],
    )
    toys.answer = lambda request: f"So{len(request.request_id)}.|"
    with_task(num_shots=0)
    made(turns={"kind": "replay"})
    for conversation in stored.conversations(run_directory):
        text = toys.checkpoint.tokenizer.decode(conversation.token_ids)
        system, question = (message.content for message in conversation.given)
        own = system.removeprefix("Field?\n\n")
        assert own.endswith(" system")
        assert own != system
        said = conversation.completion[0].content
        begin = f"<system>{system}|<user>{question}|<assistant>{said}|"
        assert text.startswith(begin + f"<user>{own.removesuffix('system')}user|<assistant>So")
        for turn in conversation.turns:
            ids = conversation.token_ids[turn.start : turn.start + turn.num_tokens]
            assert toys.checkpoint.tokenizer.decode(ids).startswith("So")


@pytest.mark.parametrize("kind", ["single", "score"])
def test_the_tasks_tools_are_the_teachers_and_not_the_students(
    with_task, made, run_directory, stored, write_json_lines, write_questions, question_path, kind
):
    write_questions(
        question_path,
        [
            {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]}
            for text in ("Why is the sky blue?", "How do I boil an egg?", "Explain gravity.")
        ],
    )
    path = write_json_lines("tools.json", [TOOLS])
    with_task(tools=path, student_sees_tools=False)
    made(turns={"kind": kind})
    for row in stored.samples(run_directory).to_pylist():
        assert json.loads(row["tools"]) == TOOLS
        assert row["prompt"][0]["content"].startswith("Name the field.")
    for conversation in stored.conversations(run_directory):
        assert conversation.prompt.tools is None
        assert conversation.given[0].content == "Field?"
        assert conversation.token_ids[0] == ord("<")


def test_prompts_that_are_not_of_the_task_are_asked_without_it(
    with_task, made, run_directory, stored, question_path, write_json_lines
):
    talk = write_json_lines("talk.jsonl", [{"prompt": "Tell me of your day."}])
    with_task()
    sources = [{"path": str(question_path)}, {"path": str(talk), "general": True}]
    made(prompts={"path": None, "sources": sources})
    general = [one for one in stored.conversations(run_directory) if one.prompt.is_general]
    assert [one.prompt.source for one in general] == ["general/talk.jsonl"]
    assert [message.role for message in general[0].given] == ["user"]
    assert stored.samples(run_directory).num_rows == 11


def test_answers_are_bound_by_the_schema_of_the_task(
    with_task, made, toys, run_directory, question_path, write_json_lines
):
    schema = {"type": "object"}
    talk = write_json_lines("talk.jsonl", [{"prompt": "Tell me of your day."}])
    sources = [{"path": str(question_path)}, {"path": str(talk), "general": True}]
    tables = {"prompts": {"path": None, "sources": sources}, "sampling": {"structured": True}}
    with_task()
    with pytest.raises(ConfigError, match="no schema to bind answers by"):
        made(**tables)
    with_task(answer_schema=write_json_lines("schema.json", [schema]))
    made(**tables)
    (teacher,) = toys.loaded
    bound = {request.schema for request in teacher.asked if "day" not in str(request.messages)}
    assert list(map(json.loads, bound)) == [schema]
    assert [one.schema for one in teacher.asked if "day" in str(one.messages)] == [None]
    facts = run_directory.facts(ConversationsFacts)
    assert facts.structured
    assert not facts.sampled_unchanged


def test_known_answers_travel_with_their_prompts(
    with_task, made, run_directory, stored, write_questions, question_path, write_json_lines
):
    call = {"name": "block_card", "arguments": {"number": 3}}
    write_questions(
        question_path,
        [
            {"prompt": "Why is the sky blue?", "answer": "physics"},
            {"prompt": "How do I boil an egg?", "answer": {"label": "cooking"}},
            {"prompt": "Block my third card, please!", "answer": call},
            "Who painted the Mona Lisa?",
            "Explain gravity.",
        ],
    )
    with_task(tools=write_json_lines("tools.json", [TOOLS]))
    made()
    expected = {
        "Why is the sky blue?": Answer(text="physics"),
        "How do I boil an egg?": Answer(text='{"label": "cooking"}'),
        "Block my third card, please!": Answer(
            tool_calls=({"name": "block_card", "arguments": '{"number": 3}'},)
        ),
        "Who painted the Mona Lisa?": Answer(text="art"),
        "Explain gravity.": None,
    }
    found = {
        one.given[-1].content: one.prompt.known and Answer.model_validate_json(one.prompt.known)
        for one in stored.conversations(run_directory)
    }
    assert found == expected


def test_prompts_like_a_reference_are_dropped_with_the_reason(
    with_task, made, run_directory, stored, write_json_lines
):
    rows = [{"prompt": "how do I boil an egg", "answer": "cooking"}]
    metrics = [{"kind": "label"}]
    with_task(references=write_json_lines("references.jsonl", rows), metrics=metrics)
    made()
    prompts = stored.prompts(run_directory)
    asked = [one.messages[0].content for one in prompts if not one.is_reference]
    assert "How do I boil an egg?" not in asked
    assert len(asked) == 9
    assert run_directory.facts(ConversationsFacts).dropped_prompts == {"reference": 1}


def test_the_test_split_is_the_references_answered_once_at_temperature_0(
    with_task, made, run_directory, stored, write_json_lines, toys
):
    rows = [
        {"prompt": "Why do cats purr?", "answer": "biology"},
        {"prompt": "How far is Mars?", "answer": "astronomy"},
    ]
    metrics = [{"kind": "label"}]
    with_task(references=write_json_lines("references.jsonl", rows), metrics=metrics)
    made(turns={"best_of": 2}, curation={"min_answer_tokens": 200, "conversation_filters": []})
    by_split = {
        split: [one for one in stored.prompts(run_directory) if one.split == split]
        for split in ("train", "validation", "test")
    }
    assert all(by_split.values())
    assert [one.is_reference for one in by_split["test"]] == [True, True]
    assert not any(one.is_reference for one in by_split["train"] + by_split["validation"])
    temperatures = {
        request.request_id.split("-")[0]: request.sampling.temperature
        for teacher in toys.loaded
        for request in teacher.asked
    }
    references = {one.prompt_id for one in by_split["test"]}
    assert {name for name, value in temperatures.items() if value == 0.0} == references
    tested = [one for one in stored.conversations(run_directory) if one.prompt.is_reference]
    assert [one.answer_index for one in tested] == [0, 0]
    assert {Answer.model_validate_json(one.prompt.known).text for one in tested} == {
        "biology",
        "astronomy",
    }


def test_known_answers_are_taken_without_asking_the_teacher(
    with_task, made, run_directory, stored, write_json_lines, write_questions, question_path, toys
):
    rows = [{"prompt": f"Where is lake {word}?", "answer": "geography"} for word in WORDS]
    write_questions(question_path, [*rows, {"prompt": "Who is there?"}])
    references = [{"prompt": "Why do cats purr?", "answer": "biology"}]
    metrics = [{"kind": "label", "field": "label"}]
    with_task(references=write_json_lines("references.jsonl", references), metrics=metrics)
    made(turns={"known_answers": True, "best_of": 2})
    asked = [one.request_id.split()[0] for teacher in toys.loaded for one in teacher.asked]
    conversations = {one.given[-1].content: one for one in stored.conversations(run_directory)}
    ids = {text: one.prompt.prompt_id for text, one in conversations.items()}
    other, reference = ids.pop("Who is there?"), ids.pop("Why do cats purr?")
    assert sorted(asked) == sorted([f"{other}-0", f"{other}-1", f"{reference}-0"])
    starts = {
        row["prompt_id"]: row["turns"][0]["start"]
        for row in stored.samples(run_directory).to_pylist()
    }
    mean = (starts[other] + starts[reference]) / 2
    assert run_directory.facts(ConversationsFacts).teacher_prompt_tokens == round(mean, 1)
    assert len(ids) == len(WORDS)
    for text in ids:
        conversation = conversations[text]
        assert conversation.completion[0].content == '{"label": "geography"}'
        (turn,) = conversation.turns
        answer = conversation.token_ids[turn.start : turn.start + turn.num_tokens]
        assert toys.checkpoint.tokenizer.decode(answer) == '{"label": "geography"}|'
        assert conversation.signal.top_token_ids_N.tolist() == answer.tolist()
        assert not conversation.signal.sampled_logprobs_T.any()
        assert not conversation.signal.tail_mass_T.any()


def test_only_what_decides_the_samples_makes_them_again(with_task, made, toys, run_directory):
    with_task(metrics=[{"kind": "label"}])
    made()
    with_task(metrics=[{"kind": "exact"}], student_instructions="")
    made()
    assert len(toys.loaded) == 1
    assert run_directory.facts(ConversationsFacts).prompt_distilled
    with_task(instructions="Name the field in one word.")
    with pytest.raises(ManifestMismatchError, match="samples") as caught:
        made()
    assert "samples.task.instructions" in caught.value.found


def test_a_task_that_gives_both_the_same_prompt_rewrites_nothing(
    with_task, made, run_directory, stored
):
    with_task(student_instructions=None, num_shots=0)
    made()
    samples = {row["conversation_id"]: row for row in stored.samples(run_directory).to_pylist()}
    for conversation in stored.conversations(run_directory):
        row = samples[conversation.conversation_id]
        assert conversation.token_ids.tolist() == row["token_ids"]
        assert conversation.given[0].content == "Name the field."
    facts = run_directory.facts(ConversationsFacts)
    assert not facts.prompt_distilled
    assert facts.teacher_prompt_tokens is None


def test_the_student_reads_errors_that_the_teacher_did_not(
    with_task, made, run_directory, stored, toys
):
    with_task(num_shots=0, student_instructions=None)
    made(curation={"student_noise": {"none": 1, "capitals": 1}})
    before = {row["conversation_id"]: row for row in stored.samples(run_directory).to_pylist()}
    seen = set()
    for conversation in stored.conversations(run_directory):
        row = before[conversation.conversation_id]
        asked, read = row["prompt"][-1]["content"], conversation.given[-1].content
        seen.add((conversation.prompt.split == "train", read != asked))
        assert read in (asked, asked.upper())
        text = toys.checkpoint.tokenizer.decode(conversation.token_ids)
        assert text.startswith(f"<system>Name the field.|<user>{read}|<assistant>re ")
        assert len(conversation.token_ids) == len(row["token_ids"])
    assert seen == {(True, True), (True, False), (False, False)}
    facts = run_directory.facts(ConversationsFacts)
    assert set(facts.student_noise) == {"capitals"}
    assert not facts.prompt_distilled
    card = (run_directory.stage_dir("conversations") / "README.md").read_text()
    assert f"errors put into users' messages ({facts.student_noise['capitals']} capitals)" in card


def test_other_noise_needs_no_new_samples(with_task, made, toys, run_directory):
    with_task()
    made()
    made(curation={"student_noise": {"lowercase": 1}})
    assert len(toys.loaded) == 1
    assert run_directory.facts(ConversationsFacts).student_noise["lowercase"] > 0


def test_noise_without_a_task_is_refused(made):
    with pytest.raises(ConfigError, match="noise is for the messages of a task"):
        made(curation={"student_noise": {"typos": 1}})


TEAMS = {"kind": "label", "field": "team", "labels": ["cards", "cash"]}
WORDS = ("amber", "birch", "copper", "dune", "ember", "fjord", "granite", "harbor", "ivory")


def write_or_answer(request) -> str:
    """Write an input where one is asked for, some of no use; else answer that it is for cards."""
    asked = "".join(map(chr, request.prompt_token_ids))
    if "Continue the list" not in asked:
        return '{"team": "cards"}|'
    number = int(request.request_id)
    if number % 5 == 0:
        return "Hello [NAME]|"
    one, other = WORDS[number % 9], WORDS[number // 9 % 9]
    return f"Why does the {one} {other} thing {one * 2} not {other * 2}?|"


@pytest.fixture
def made_from_examples(with_task, made, write_json_lines, toys):
    """Return a function that makes conversations from two examples; keywords are the source's."""

    def make(**source):
        examples = [
            {"prompt": "Where is my card, please?", "answer": {"team": "cards"}},
            {"prompt": "How do I get cash abroad?", "answer": {"team": "cash"}},
        ]
        with_task(examples=write_json_lines("inputs.jsonl", examples), metrics=[TEAMS])
        toys.answer = write_or_answer
        prompts = {"path": None, "num_prompts": 20, "sources": [{"kind": "task", **source}]}
        return made(prompts=prompts)

    return make


def test_the_teacher_writes_inputs_with_known_labels(made_from_examples, run_directory, stored):
    made_from_examples()
    prompts = stored.prompts(run_directory)
    assert len(prompts) == 20
    for prompt in prompts:
        label = prompt.source.removeprefix("task:")
        assert Answer.model_validate_json(prompt.known) == Answer(text=f'{{"team": "{label}"}}')
    dropped = pq.read_table(run_directory.stage_dir("prompts") / "dropped.parquet").to_pylist()
    assert {row["reason"] for row in dropped if row["filter"] == "placeholder"} == {
        "has the placeholder: [NAME]"
    }


@pytest.mark.parametrize(
    ("known_labels", "sentence", "row"),
    [
        (True, "Each label has 0.5 to 2 times its target.", ("cash", "10", "50.0%", "1.00")),
        (False, "Outside 0.5 to 2 times its target: cash.", ("cash", "0", "0.0%", "0.00")),
    ],
)
def test_the_page_and_the_log_have_balance_and_variety(
    made_from_examples, run_directory, caplog, known_labels, sentence, row
):
    """Without known labels the teacher's answers count, which are always the same."""
    caplog.set_level("INFO")
    made_from_examples(known_labels=known_labels)
    page = (run_directory.stage_dir("conversations") / "summary.html").read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    name, count, share, ratio = row
    assert f"{name} {count} {share} 50.0% {ratio}" in text
    assert sentence in text
    assert sentence in caplog.text
    assert "Of 2 inputs," in text
    assert "of as many examples" in caplog.text


def test_other_examples_are_another_task(made_from_examples, with_task, made, write_json_lines):
    made_from_examples()
    other = [{"prompt": "Where is my money?", "answer": {"team": "cash"}}]
    with_task(examples=write_json_lines("other.jsonl", other), metrics=[TEAMS])
    prompts = {"path": None, "num_prompts": 20, "sources": [{"kind": "task"}]}
    with pytest.raises(ManifestMismatchError, match="prompts"):
        made(prompts=prompts)
