"""Of several teachers' answers the best is kept, by the task's metric."""

from dataclasses import replace

from generate.dataset.best_teacher import worse_answers
from potstill.schema import Message
from potstill.tables import conversations_to_table, write_table
from potstill.task.answers import Answer
from potstill.task.metrics.config import ExactConfig
from potstill.task.task import Task

TEACHERS = ("teacher", "other", "third")
KNOWN = Answer(text="4").model_dump_json()


def test_the_best_answer_is_kept_and_of_equals_the_first_teachers(make_conversation, tmp_path):
    said = {
        "a": {"teacher": "5", "other": "4", "third": "4"},
        "b": {"teacher": "4", "other": "4"},
        "c": {"teacher": "5", "other": "6"},
        "general": {"teacher": "5", "other": "4"},
        "unknown": {"teacher": "5", "other": "4"},
        "alone": {None: "5"},
    }
    conversations = []
    for name, answers in said.items():
        for index, (teacher, text) in enumerate(answers.items()):
            completion = (Message(role="assistant", content=text),)
            one = make_conversation(
                (1, 2, 3), ((1, 2),), name=name, answer_index=index, completion=completion
            )
            changes = {"known": None if name == "unknown" else KNOWN}
            changes |= {"source": "general/talk"} if name == "general" else {}
            prompt = one.prompt.model_copy(update=changes)
            conversations.append(replace(one, prompt=prompt, teacher=teacher))
    paths = [tmp_path / "part-0.parquet", tmp_path / "part-1.parquet"]
    for path, part in zip(paths, (conversations[::2], conversations[1::2]), strict=True):
        write_table(path, conversations_to_table(part, 1000))
    (metric,) = Task(metrics=(ExactConfig(),)).make_metrics()
    worse = worse_answers(paths, metric, TEACHERS)
    assert worse.keys() == {"a-0", "a-2", "b-1", "c-1", "general-1", "unknown-1"}
    assert worse["a-0"].filter == "best_teacher"
    assert worse["a-0"].reason == f"{metric.name} 0.00, and 1.00 of other"
